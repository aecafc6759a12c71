/* fiber.c - fibers by ucontext(3). The address sanitizer is told of each switch, as sanitizer/common_interface_defs.h
 * asks: it keeps a shadow of the stack. */
#include "fiber.h"

#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#if defined(__has_feature) /* clang's way to say it */
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

enum { FIBERS_MAX = 64, STACK_BYTES = 1 << 20 };

typedef enum fiber_state { FIBER_READY, FIBER_WAITING, FIBER_OVER } fiber_state;

struct fiber {
    ucontext_t context;
    void *stack; /* NULL: the first fiber's, which is the thread's own */
    void (*run)(void *argument);
    void *argument;
    fiber_state state;
    bool woken;
    int64_t until_ns;
    void *fake_stack; /* the sanitizer's */
    char name[16];
};

static fiber *fibers[FIBERS_MAX];
static size_t fiber_count;
static fiber *current;
static void *stacks[FIBERS_MAX]; /* unused, kept for the next seeds */
static size_t stack_count;
static const void *first_stack; /* the thread's own, as the sanitizer told */
static size_t first_stack_bytes;

/* ---- Switching ---- */

#if defined(__SANITIZE_ADDRESS__)
static void before_switch(fiber *from, const fiber *to)
{
    __sanitizer_start_switch_fiber(from->state == FIBER_OVER ? NULL : &from->fake_stack,
                                   to->stack != NULL ? to->stack : first_stack,
                                   to->stack != NULL ? STACK_BYTES : first_stack_bytes);
}
static void after_switch(void)
{
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(current->fake_stack, &bottom, &bytes);
    if (first_stack == NULL) { /* the first switch ever comes from the first fiber */
        first_stack = bottom;
        first_stack_bytes = bytes;
    }
}
#else
static void before_switch(fiber *from, const fiber *to)
{
    (void)from;
    (void)to;
}
static void after_switch(void)
{
}
#endif

static void switch_to(fiber *to)
{
    fiber *from = current;
    if (from == to) return;
    current = to;
    sim_note(to->name, 0, 0, 0);
    before_switch(from, to);
    if (swapcontext(&from->context, &to->context) != 0) abort();
    after_switch();
}

/* Readies those whose time has come; returns when the next one's will. */
static int64_t look_at_clock(void)
{
    int64_t next = SIM_FOREVER;
    for (size_t i = 0; i < fiber_count; i++) {
        fiber *f = fibers[i];
        if (f->state != FIBER_WAITING) continue;
        if (f->until_ns <= world.now_ns) f->state = FIBER_READY;
        else if (f->until_ns < next) next = f->until_ns;
    }
    return next;
}

static fiber *choose(void)
{
    for (;;) {
        int64_t next = look_at_clock();
        size_t ready = 0;
        for (size_t i = 0; i < fiber_count; i++) ready += fibers[i]->state == FIBER_READY;
        if (ready > 0) {
            size_t chosen = ready == 1 ? 0 : (size_t)sim_below(SIM_SCHEDULING, ready);
            for (size_t i = 0;; i++) {
                if (fibers[i]->state == FIBER_READY && chosen-- == 0) return fibers[i];
            }
        }
        if (sim_planned() < next) next = sim_planned();
        sim_check("liveness", next != SIM_FOREVER, "every thread waits, and nothing will wake one");
        sim_step();
        sim_advance(next);
    }
}

static void give_way(void)
{
    switch_to(choose());
}

/* ---- The verbs ---- */

void fibers_open(void)
{
    fiber *first = calloc(1, sizeof(*first));
    if (first == NULL) abort();
    (void)snprintf(first->name, sizeof(first->name), "main");
    fibers[0] = current = first;
    fiber_count = 1;
}

void fibers_close(void)
{
    for (size_t i = 0; i < fiber_count; i++) {
        fiber *f = fibers[i];
        sim_check("threads", f == current || f->state == FIBER_OVER, "the thread '%s' has not ended", f->name);
        if (f->stack != NULL) stacks[stack_count++] = f->stack;
        free(f);
    }
    fiber_count = 0;
    current = NULL;
}

static void begin(void)
{
    after_switch();
    current->run(current->argument);
    current->state = FIBER_OVER;
    give_way();
    abort();
}

fiber *fiber_start(const char *name, void (*run)(void *argument), void *argument)
{
    sim_check("threads", fiber_count < FIBERS_MAX, "more than %d threads", FIBERS_MAX);
    fiber *f = calloc(1, sizeof(*f));
    if (f == NULL) abort();
    f->stack = stack_count > 0 ? stacks[--stack_count] : malloc(STACK_BYTES);
    if (f->stack == NULL || getcontext(&f->context) != 0) abort();
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK_BYTES;
    f->run = run;
    f->argument = argument;
    (void)snprintf(f->name, sizeof(f->name), "%s", name);
    makecontext(&f->context, begin, 0);
    fibers[fiber_count++] = f;
    return f;
}

fiber *fiber_current(void)
{
    return current;
}

bool fiber_is_over(const fiber *f)
{
    return f->state == FIBER_OVER;
}

void fiber_wait(int64_t until_ns)
{
    if (!current->woken) {
        current->state = FIBER_WAITING;
        current->until_ns = until_ns;
        give_way();
    }
    current->woken = false;
}

void fiber_wake(fiber *f)
{
    if (f->state == FIBER_OVER) return;
    f->woken = true;
    f->state = FIBER_READY;
}

void fiber_yield(void)
{
    if (fiber_count > 1) give_way();
}

void fiber_sleep(int64_t ns)
{
    int64_t until = world.now_ns + ns;
    while (world.now_ns < until) {
        current->woken = false;
        fiber_wait(until);
    }
}
