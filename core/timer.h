/* timer.h - deadlines of one worker: a heap of intrusive timers on the port's monotonic clock.
 *
 * A timer is embedded in its owner, fires once, and is then stopped; its function may start it again, or free it.
 * thread  one set of timers belongs to one worker.
 */
#ifndef PORTICO_TIMER_H
#define PORTICO_TIMER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct timer timer;

/* now_ns: the clock reading that made it due. */
typedef void timer_fire(timer *t, int64_t now_ns);

struct timer {
    int64_t deadline_ns;
    timer_fire *fire;
    uint32_t index; /* place in the heap plus 1; 0 exactly while stopped */
};

typedef struct timers {
    timer **heap; /* 4-ary, earliest first */
    uint32_t count;
    uint32_t room;
    int64_t floor_ns; /* while timers_run() is at work: what it fires at most; else INT64_MIN */
    uint64_t fired;
} timers;

void timers_open(timers *set);
/* Stops all without firing and frees the heap. */
void timers_close(timers *set);

/* Starts, or moves, a timer; moving cannot fail. False: out of memory, and the timer is as it was. */
bool timer_start(timers *set, timer *t, int64_t deadline_ns);
void timer_stop(timers *set, timer *t); /* a stopped one is fine */
static inline bool timer_running(const timer *t)
{
    return t->index != 0;
}

/* The earliest deadline, or INT64_MAX. */
int64_t timers_next(const timers *set);

/* Fires what is due at now_ns, in order of deadline, but not more than max; timers started meanwhile wait for a call with a
 * later time, so this ends. May be called from inside a function that it has fired. Returns how many fired. */
uint32_t timers_run(timers *set, int64_t now_ns, uint32_t max);

#endif
