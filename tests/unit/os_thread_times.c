/* os_thread_times.c - the processor time of another thread grows while it works, and not while it sleeps. */
#include "check.h"
#include "os.h"

#include <stdatomic.h>

static atomic_bool work, stop;

static void run(void *argument)
{
    os_mutex *mutex = argument;
    os_cond *never = os_cond_open();
    check(never != NULL);
    while (!stop) {
        if (work) continue;
        os_mutex_lock(mutex);
        os_cond_wait(never, mutex, 5000000);
        os_mutex_unlock(mutex);
    }
    os_cond_close(never);
}

/* The processor time of the thread that passes until it is above least, or for as long as the deadline. */
static int64_t used_ns(os_thread *thread, int64_t least, int64_t patience_ns)
{
    int64_t start = os_thread_cpu_ns(thread);
    int64_t deadline = os_monotonic_ns() + patience_ns;
    while (os_thread_cpu_ns(thread) - start <= least && os_monotonic_ns() < deadline) {
    }
    return os_thread_cpu_ns(thread) - start;
}

static void work_is_counted_and_sleep_is_not(void)
{
    os_mutex *mutex = os_mutex_open();
    check(mutex != NULL);
    os_thread *thread = os_thread_start("worker", run, mutex);
    check(thread != NULL);
    check(used_ns(thread, 100000000, 300000000) < 100000000); /* it sleeps */
    work = true;
    check(used_ns(thread, 100000000, 20000000000) > 100000000);
    work = false;
    stop = true;
    os_thread_join(thread);
    os_mutex_close(mutex);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(work_is_counted_and_sleep_is_not);
    return check_end();
}
