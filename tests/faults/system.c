/* Goal: whatever the system refuses (threads, locks, what it tells of itself), it is told or something sensible is assumed.
 * Method: each call fails, one after the other, with each of its errors. */
#include "inject.h"

#include "check.h"
#include "os.h"
#include "privileges.h"
#include "sandbox.h"

#include <sys/wait.h>
#include <unistd.h>

static void ask(void)
{
    char text[128];
    check(os_cpu_count() >= 1);
    check(os_describe(text, sizeof(text))[0] != '\0');
    (void)os_raise_descriptor_limit();
    uint64_t random[2] = {0, 0};
    os_random(random, sizeof(random));
    check(random[0] != random[1]); /* once in 2^64 */
}

static void the_system_is_asked_and_need_not_answer(void)
{
    inject_sweep(ask);
}

static void run_thread(void *argument)
{
    *(bool *)argument = true;
}

static void take_threads_and_locks(void)
{
    bool ran = false;
    os_mutex *mutex = os_mutex_open();
    os_cond *cond = os_cond_open();
    os_thread *thread = os_thread_start("test", run_thread, &ran);
    if (thread != NULL) os_thread_join(thread);
    check(ran == (thread != NULL));
    if (mutex != NULL && cond != NULL) {
        os_mutex_lock(mutex);
        check(!os_cond_wait(cond, mutex, 0));
        os_mutex_unlock(mutex);
    }
    if (cond != NULL) os_cond_close(cond);
    if (mutex != NULL) os_mutex_close(mutex);
}

static void a_thread_runs_or_is_not_there(void)
{
    inject_sweep(take_threads_and_locks);
}

/* News that a signal interrupts comes all the same. */
static void tell_and_hear(void)
{
    os_news_post(OS_NEWS_RELOAD);
    check_eq(os_news_wait(INT64_C(20000000000)), OS_NEWS_RELOAD);
    check_eq(os_news_wait(1000000), OS_NEWS_WAKE);
}

static void news_comes_through_interruptions(void)
{
    check(os_news_open());
    inject_sweep(tell_and_hear);
}

static void complain(void)
{
    (void)os_write_stderr("# a line\n", 9);
    (void)os_stderr_is_terminal();
}

static void what_cannot_be_written_ends_nothing(void)
{
    inject_sweep(complain);
}

/* ---- For good, so in a child each time ---- */

static void in_a_child(void (*body)(void))
{
    int status = -1;
    fflush(stdout);
    pid_t child = fork();
    check(child >= 0);
    if (child == 0) {
        body();
        _exit(0); /* the leak checker cannot work in what has been confined */
    }
    check(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail("the child ended with status %d", status);
}

static void become_nobody(void)
{
    privileges p;
    char error[256] = "";
    inject_pause();
    bool found = privileges_find(&p, "nobody", NULL, error, sizeof(error));
    inject_resume();
    check(found);
    bool dropped = privileges_drop(&p, error, sizeof(error));
    inject_pause();
    check(dropped ? geteuid() != 0 : error[0] != '\0');
    inject_resume();
}

/* Either may fail by itself: what a process has given up it does not have again. */
static void sweep_in_children(void (*body)(void), uint32_t calls)
{
    for (uint32_t nth = 1; nth <= calls; nth++) {
        inject_nth(nth, 0);
        in_a_child(body);
        inject_nothing();
    }
}

static void privileges_are_given_up_or_it_is_told(void)
{
    if (geteuid() != 0) check_skip("only root can give them up");
    else sweep_in_children(become_nobody, 4);
}

static void confine(void)
{
    char told[SANDBOX_TOLD_BYTES] = "";
    const sandbox_path paths[] = {{"./x", SANDBOX_READ}, {"/tmp/x", SANDBOX_SOCKETS}, {"x", SANDBOX_REPLACE}};
    bool whole = sandbox_confine(paths, array_count(paths), told);
    check(told[0] != '\0');
    if (inject_count() > 0) check(!whole || strstr(told, "Landlock") != NULL);
}

static void a_sandbox_that_is_not_whole_is_told(void)
{
    sweep_in_children(confine, 40);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(the_system_is_asked_and_need_not_answer);
    check_run(a_thread_runs_or_is_not_there);
    check_run(news_comes_through_interruptions);
    check_run(what_cannot_be_written_ends_nothing);
    check_run(privileges_are_given_up_or_it_is_told);
    check_run(a_sandbox_that_is_not_whole_is_told);
    return check_end();
}
