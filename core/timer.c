/* timer.c - a 4-ary heap: shallower than a binary one, and the four children share a cache line. */
#include "timer.h"

#include "mem.h"

#include <assert.h>
#include <stddef.h>

enum { ARITY = 4, FIRST_ROOM = 64 };

static void place(timers *set, uint32_t at, timer *t)
{
    set->heap[at] = t;
    t->index = at + 1;
}

static void sift_up(timers *set, uint32_t at, timer *t)
{
    while (at > 0) {
        uint32_t parent = (at - 1) / ARITY;
        if (set->heap[parent]->deadline_ns <= t->deadline_ns) break;
        place(set, at, set->heap[parent]);
        at = parent;
    }
    place(set, at, t);
}

static void sift_down(timers *set, uint32_t at, timer *t)
{
    for (;;) {
        uint32_t first = at * ARITY + 1;
        if (first >= set->count) break;
        uint32_t last = first + ARITY < set->count ? first + ARITY : set->count;
        uint32_t least = first;
        for (uint32_t child = first + 1; child < last; child++) {
            if (set->heap[child]->deadline_ns < set->heap[least]->deadline_ns) least = child;
        }
        if (set->heap[least]->deadline_ns >= t->deadline_ns) break;
        place(set, at, set->heap[least]);
        at = least;
    }
    place(set, at, t);
}

/* Puts t where it belongs, starting at a place that is free or its own. */
static void settle(timers *set, uint32_t at, timer *t)
{
    if (at > 0 && set->heap[(at - 1) / ARITY]->deadline_ns > t->deadline_ns) sift_up(set, at, t);
    else sift_down(set, at, t);
}

void timers_open(timers *set)
{
    *set = (timers){.floor_ns = INT64_MIN};
}

void timers_close(timers *set)
{
    for (uint32_t i = 0; i < set->count; i++) set->heap[i]->index = 0;
    mem_free(set->heap);
    *set = (timers){0};
}

/* Room for count timers in all. */
static bool reserve(timers *set, uint32_t count)
{
    if (count <= set->room) return true;
    uint32_t room = set->room == 0 ? FIRST_ROOM : set->room;
    while (room < count) room *= 2;
    timer **heap = mem_realloc(set->heap, (size_t)room * sizeof(*heap));
    if (heap == NULL) return false;
    set->heap = heap;
    set->room = room;
    return true;
}

bool timer_start(timers *set, timer *t, int64_t deadline_ns)
{
    assert(t->fire != NULL);
    /* One that is started while others fire, and is due already, waits for the next round: sleep(0) in a loop must
     * not keep the worker from its packets. */
    if (deadline_ns <= set->floor_ns) deadline_ns = set->floor_ns + 1;
    if (t->index != 0) {
        t->deadline_ns = deadline_ns;
        settle(set, t->index - 1, t);
        return true;
    }
    if (!reserve(set, set->count + 1)) return false;
    t->deadline_ns = deadline_ns;
    sift_up(set, set->count++, t);
    return true;
}

void timer_stop(timers *set, timer *t)
{
    if (t->index == 0) return;
    uint32_t at = t->index - 1;
    assert(set->heap[at] == t);
    t->index = 0;
    timer *last = set->heap[--set->count];
    if (last != t) settle(set, at, last);
}

int64_t timers_next(const timers *set)
{
    return set->count == 0 ? INT64_MAX : set->heap[0]->deadline_ns;
}

uint32_t timers_run(timers *set, int64_t now_ns, uint32_t max)
{
    uint32_t fired = 0;
    int64_t floor_ns = set->floor_ns; /* of the run in the middle of which we are, if any */
    set->floor_ns = now_ns;
    while (fired < max && set->count > 0 && set->heap[0]->deadline_ns <= now_ns) {
        timer *t = set->heap[0];
        timer_stop(set, t);
        fired++;
        t->fire(t, now_ns);
    }
    set->floor_ns = floor_ns;
    set->fired += fired;
    return fired;
}
