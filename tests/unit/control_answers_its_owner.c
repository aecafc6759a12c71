/* Goal: what a client asks reaches the owner of the channel, and the owner's answer reaches that client; who says too much,
 * nothing, or goes away harms nobody else.
 * Method: a channel at a name of this process, with clients on this thread and on others. */
#include "check.h"
#include "control.h"
#include "control_system.h"
#include "os.h"

#include <inttypes.h>

#define SECOND INT64_C(1000000000)

/* The owner: answers what is asked, on a thread of its own. */
static struct {
    control *channel;
    os_mutex *mutex;
    os_cond *cond;
    os_thread *thread;
    bool over;
    bool deaf; /* takes nothing while this is so */
    int asked;
} owner;

static char where[CONTROL_WHERE_MAX];

static void on_asked(void *context)
{
    check(context == &owner);
    os_mutex_lock(owner.mutex);
    owner.asked++;
    os_cond_broadcast(owner.cond);
    os_mutex_unlock(owner.mutex);
}

static void answer(control_request *request)
{
    static char large[CONTROL_TEXT_MAX + 100];
    const char *line = control_line(request);
    if (strcmp(line, "refuse") == 0) {
        control_reply(request, false, "no: it is refused\nfor a reason");
    } else if (strcmp(line, "large") == 0) {
        memset(large, 'x', sizeof(large) - 1);
        control_reply(request, true, large);
    } else if (strcmp(line, "nothing") == 0) {
        control_reply(request, true, NULL);
    } else {
        control_reply(request, true, line);
    }
}

static void serve(void *argument)
{
    (void)argument;
    os_mutex_lock(owner.mutex);
    while (!owner.over) {
        control_request *request = owner.deaf ? NULL : control_take(owner.channel);
        if (request != NULL) {
            os_mutex_unlock(owner.mutex);
            answer(request);
            os_mutex_lock(owner.mutex);
        } else {
            (void)os_cond_wait(owner.cond, owner.mutex, SECOND / 10);
        }
    }
    os_mutex_unlock(owner.mutex);
}

static void set_flag(bool *flag, bool value)
{
    os_mutex_lock(owner.mutex);
    *flag = value;
    os_cond_broadcast(owner.cond);
    os_mutex_unlock(owner.mutex);
}

static void begin(void)
{
    char error[512];
    snprintf(where, sizeof(where), "control_test_%lu", os_pid());
    owner.mutex = os_mutex_open();
    owner.cond = os_cond_open();
    owner.over = false;
    owner.deaf = false;
    owner.asked = 0;
    owner.channel = control_open(where, on_asked, &owner, error, sizeof(error));
    if (owner.channel == NULL) fail("%s", error);
    owner.thread = os_thread_start("owner", serve, NULL);
    check(owner.thread != NULL);
}

static void end_owner(void)
{
    set_flag(&owner.over, true);
    os_thread_join(owner.thread);
}

static void end(void)
{
    end_owner();
    control_close(owner.channel);
    os_mutex_close(owner.mutex);
    os_cond_close(owner.cond);
}

static void check_answer(const char *line, control_result wanted, const char *text)
{
    char *answered = NULL;
    control_result result = control_ask(&answered, control_where(owner.channel), line, 20 * SECOND);
    if (result != wanted) fail("%.64s: result %d: %.64s", line, (int)result, answered);
    check_str(answered, text);
    mem_free(answered);
}

static void a_line_is_answered(void)
{
    begin();
    check_answer("hello world", CONTROL_DONE, "hello world");
    check_answer("", CONTROL_DONE, "");
    check_answer("nothing", CONTROL_DONE, "");
    check_answer("refuse", CONTROL_FAILED, "no: it is refused\nfor a reason");
    end();
}

static void a_long_answer_is_cut(void)
{
    char *answered = NULL;
    begin();
    check_eq(control_ask(&answered, where, "large", 20 * SECOND), CONTROL_DONE);
    check(answered != NULL);
    check_eq(strlen(answered), CONTROL_TEXT_MAX);
    check_eq(strspn(answered, "x"), CONTROL_TEXT_MAX);
    mem_free(answered);
    end();
}

static control_link *dial(void)
{
    char error[512];
    control_link *l = control_link_open(where, os_monotonic_ns() + 20 * SECOND, error, sizeof(error));
    if (l == NULL) fail("%s", error);
    return l;
}

static void hear(control_link *l, const char *wanted)
{
    static char heard[CONTROL_LINE_MAX];
    size_t len = 0;
    int got;
    int64_t deadline_ns = os_monotonic_ns() + 20 * SECOND;
    while ((got = control_link_read(l, heard + len, strlen(wanted) - len, deadline_ns)) > 0) {
        len += (size_t)got;
        if (len == strlen(wanted)) break;
    }
    heard[len] = '\0';
    check_str(heard, wanted);
}

static void say(control_link *l, const char *bytes, size_t len)
{
    check(control_link_write(l, bytes, len, os_monotonic_ns() + 20 * SECOND));
}

static void the_line_may_come_in_pieces(void)
{
    begin();
    control_link *l = dial();
    say(l, "he", 2);
    check_answer("another", CONTROL_DONE, "another");
    say(l, "llo\r\n", 5);
    hear(l, "ok 5\nhello");
    control_link_close(l);
    end();
}

static void a_line_of_the_greatest_length_is_taken(void)
{
    static char line[CONTROL_LINE_MAX + 1];
    begin();
    memset(line, 'y', sizeof(line) - 1);
    line[CONTROL_LINE_MAX - 1] = '\0';
    check_answer(line, CONTROL_DONE, line);
    line[CONTROL_LINE_MAX - 1] = 'y';
    check_answer(line, CONTROL_FAILED, "the line is too long");
    control_link *l = dial();
    say(l, line, CONTROL_LINE_MAX);
    hear(l, "failed 20\nthe line is too long");
    control_link_close(l);
    end();
}

static void a_nul_is_refused(void)
{
    begin();
    control_link *l = dial();
    say(l, "a\0b\n", 4);
    hear(l, "failed 24\nthe line has a NUL in it");
    control_link_close(l);
    check_eq(owner.asked, 0);
    end();
}

static void who_goes_away_is_forgotten(void)
{
    begin();
    for (int i = 0; i < 3 * CONTROL_CLIENTS_MAX; i++) {
        control_link *l = dial();
        if (i % 3 == 1) say(l, "half a line", 11);
        if (i % 3 == 2) say(l, "large\n", 6);
        control_link_close(l);
    }
    check_answer("still there", CONTROL_DONE, "still there");
    end();
}

static void who_says_nothing_is_cut_off(void)
{
    control_link *silent[CONTROL_CLIENTS_MAX];
    char byte;
    begin();
    int64_t start_ns = os_monotonic_ns();
    for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) silent[i] = dial();
    check_answer("now me", CONTROL_DONE, "now me"); /* when the first of them are gone */
    check(os_monotonic_ns() - start_ns > SECOND);
    for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        check(control_link_read(silent[i], &byte, 1, os_monotonic_ns() + 20 * SECOND) <= 0);
        control_link_close(silent[i]);
    }
    end();
}

static void ask_many(void *argument)
{
    char line[64];
    for (int i = 0; i < 20; i++) {
        snprintf(line, sizeof(line), "%d of %s", i, (const char *)argument);
        check_answer(line, CONTROL_DONE, line);
    }
}

static void many_are_answered_each(void)
{
    static char names[20][32];
    os_thread *threads[20];
    begin();
    for (int i = 0; i < 20; i++) {
        snprintf(names[i], sizeof(names[i]), "client %d", i);
        threads[i] = os_thread_start("client", ask_many, names[i]);
        check(threads[i] != NULL);
    }
    for (int i = 0; i < 20; i++) os_thread_join(threads[i]);
    end();
}

static void wait_until_asked(int count)
{
    int64_t deadline_ns = os_monotonic_ns() + 20 * SECOND;
    os_mutex_lock(owner.mutex);
    while (owner.asked < count && os_monotonic_ns() < deadline_ns) os_cond_wait(owner.cond, owner.mutex, SECOND / 10);
    check(owner.asked >= count);
    os_mutex_unlock(owner.mutex);
}

static void hear_the_end(void *argument)
{
    control_link *l = argument;
    hear(l, "failed 20\nthe server is ending");
    control_link_close(l);
}

static void closing_refuses_what_was_not_taken(void)
{
    begin();
    control_link *lingering = dial(); /* has its answer, and stays */
    say(lingering, "first\n", 6);
    hear(lingering, "ok 5\nfirst");
    control_link *silent = dial();
    set_flag(&owner.deaf, true);
    control_link *second = dial();
    say(second, "second\n", 7);
    wait_until_asked(2);
    os_thread *thread = os_thread_start("client", hear_the_end, second);
    check(thread != NULL);
    int64_t start_ns = os_monotonic_ns();
    end();
    check(os_monotonic_ns() - start_ns < 10 * SECOND);
    os_thread_join(thread);
    control_link_close(lingering);
    control_link_close(silent);
    char *text = NULL;
    check_eq(control_ask(&text, where, "third", SECOND), CONTROL_UNREACHABLE);
    check(strstr(text, "no portico there") != NULL);
    mem_free(text);
}

static void a_reply_to_a_client_that_has_gone_is_dropped(void)
{
    begin();
    set_flag(&owner.deaf, true);
    control_link *l = dial();
    say(l, "gone\n", 5);
    wait_until_asked(1);
    control_link_close(l);
    set_flag(&owner.deaf, false);
    check_answer("next", CONTROL_DONE, "next");
    end();
}

static bool is_found(unsigned long pid, const char *place)
{
    static control_instance list[CONTROL_INSTANCES_MAX];
    size_t count = control_find(list, CONTROL_INSTANCES_MAX);
    for (size_t i = 0; i < count; i++) {
        if (list[i].pid == pid && strcmp(list[i].where, place) == 0) return true;
    }
    return false;
}

static void ignore(void *context)
{
    (void)context;
}

static void it_is_found_at_the_usual_place(void)
{
    char error[512];
    char place[CONTROL_WHERE_MAX];
    control *c = control_open(NULL, ignore, NULL, error, sizeof(error));
    if (c == NULL) fail("%s", error);
    snprintf(place, sizeof(place), "%s", control_where(c));
    check(is_found(os_pid(), place));
    control_close(c);
    check(!is_found(os_pid(), place));
    control_close(NULL);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(a_line_is_answered);
    check_run(a_long_answer_is_cut);
    check_run(the_line_may_come_in_pieces);
    check_run(a_line_of_the_greatest_length_is_taken);
    check_run(a_nul_is_refused);
    check_run(who_goes_away_is_forgotten);
    check_run(who_says_nothing_is_cut_off);
    check_run(many_are_answered_each);
    check_run(closing_refuses_what_was_not_taken);
    check_run(a_reply_to_a_client_that_has_gone_is_dropped);
    check_run(it_is_found_at_the_usual_place);
    return check_end();
}
