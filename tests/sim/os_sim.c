/* os_sim.c - threads, locks, clocks and randomness of os.h: fibers, and the world's clock. A thread may be held up
 * wherever it locks, which is where other threads can come in between. */
#include "fiber.h"
#include "sim.h"
#include "wraps.h"

#include <stdlib.h>
#include <string.h>

enum { PREEMPT_PERCENT = 10, WAITERS_MAX = 16 };

static int open_count;
static fiber *news_reader;

static void maybe_preempt(void)
{
    if (sim_percent(SIM_SCHEDULING, PREEMPT_PERCENT)) fiber_yield();
}

/* ---- Clocks and the machine ---- */

/* Who asks is at work: some time may have passed. */
int64_t __wrap_os_monotonic_ns(void)
{
    if (sim_percent(SIM_SCHEDULING, PREEMPT_PERCENT)) {
        sim_advance(world.now_ns + (int64_t)sim_below(SIM_SCHEDULING, 3 * SIM_MS));
    }
    return world.now_ns;
}

int64_t __wrap_os_realtime_ns(void)
{
    return INT64_C(1700000000) * SIM_SECOND + world.now_ns;
}

void __wrap_os_random(void *bytes, size_t len)
{
    unsigned char *next = bytes;
    for (size_t i = 0; i < len; i++) next[i] = (unsigned char)sim_random(SIM_SCHEDULING);
}

bool __wrap_os_write_stderr(const char *bytes, size_t len)
{
    static const char mark[] = "ORACLE ";
    sim_note_text(bytes, len);
    for (size_t i = 0; i + sizeof(mark) - 1 <= len; i++) { /* raised by a script's own oracle */
        if (memcmp(bytes + i, mark, sizeof(mark) - 1) == 0) sim_fail("script", "%.*s", (int)(len - i), bytes + i);
    }
    return true;
}

bool __wrap_os_stderr_is_terminal(void)
{
    return false;
}

void __wrap_os_news_post(os_news news)
{
    sim_note("news", (uint64_t)news, 0, 0);
    fiber_wake(news_reader);
}

void sim_news_open(void)
{
    news_reader = fiber_current();
}

/* ---- Threads ---- */

struct os_thread {
    fiber *fiber;
};

os_thread *__wrap_os_thread_start(const char *name, void (*run)(void *argument), void *argument)
{
    os_thread *thread = sim_alloc(sizeof(*thread));
    open_count++;
    thread->fiber = fiber_start(name, run, argument);
    maybe_preempt();
    return thread;
}

void __wrap_os_thread_join(os_thread *thread)
{
    while (!fiber_is_over(thread->fiber)) fiber_wait(world.now_ns + SIM_MS);
    open_count--;
}

/* Nothing in the simulation takes time while it runs, so no handler is ever overdue. */
void __wrap_os_thread_interrupt(os_thread *thread, void (*interrupt)(void *argument), void *argument)
{
    (void)thread;
    (void)interrupt;
    (void)argument;
    sim_fail("threads", "a handler is interrupted where none can be overdue");
}

int64_t __wrap_os_thread_cpu_ns(os_thread *thread)
{
    (void)thread;
    return 1;
}

/* ---- Locks ---- */

struct os_mutex {
    fiber *owner;
};

struct os_cond {
    uint64_t signals;
    fiber *waiters[WAITERS_MAX];
    size_t waiter_count;
};

os_mutex *__wrap_os_mutex_open(void)
{
    open_count++;
    return sim_alloc(sizeof(os_mutex));
}

void __wrap_os_mutex_close(os_mutex *mutex)
{
    sim_check("threads", mutex->owner == NULL, "a mutex is closed while it is locked");
    open_count--;
}

void __wrap_os_mutex_lock(os_mutex *mutex)
{
    maybe_preempt();
    sim_check("threads", mutex->owner != fiber_current(), "a mutex is locked twice by one thread");
    while (mutex->owner != NULL) fiber_yield();
    mutex->owner = fiber_current();
}

void __wrap_os_mutex_unlock(os_mutex *mutex)
{
    sim_check("threads", mutex->owner == fiber_current(), "a mutex is unlocked by a thread that has not locked it");
    mutex->owner = NULL;
    maybe_preempt();
}

os_cond *__wrap_os_cond_open(void)
{
    open_count++;
    return sim_alloc(sizeof(os_cond));
}

void __wrap_os_cond_close(os_cond *cond)
{
    (void)cond;
    open_count--;
}

bool __wrap_os_cond_wait(os_cond *cond, os_mutex *mutex, int64_t timeout_ns)
{
    uint64_t before = cond->signals;
    int64_t until = timeout_ns < 0 ? SIM_FOREVER : world.now_ns + timeout_ns;
    sim_check("threads", cond->waiter_count < WAITERS_MAX, "more than %d threads wait for one thing", WAITERS_MAX);
    cond->waiters[cond->waiter_count++] = fiber_current();
    __wrap_os_mutex_unlock(mutex);
    while (cond->signals == before && world.now_ns < until) fiber_wait(until);
    for (size_t i = 0; i < cond->waiter_count; i++) {
        if (cond->waiters[i] == fiber_current()) cond->waiters[i] = cond->waiters[--cond->waiter_count];
    }
    bool signalled = cond->signals != before;
    __wrap_os_mutex_lock(mutex);
    return signalled;
}

/* Wakes all: who waits may return for no reason. */
void __wrap_os_cond_signal(os_cond *cond)
{
    cond->signals++;
    for (size_t i = 0; i < cond->waiter_count; i++) fiber_wake(cond->waiters[i]);
}

void __wrap_os_cond_broadcast(os_cond *cond)
{
    __wrap_os_cond_signal(cond);
}

int sim_os_open(void)
{
    return open_count;
}
