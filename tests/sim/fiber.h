/* fiber.h - threads of the simulated world: one runs at a time, and gives way only where it waits or says so. Which goes
 * on is drawn. When none can, the clock moves to what happens next.
 */
#ifndef PORTICO_TESTS_SIM_FIBER_H
#define PORTICO_TESTS_SIM_FIBER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct fiber fiber;

/* The caller becomes the first fiber. */
void fibers_open(void);
/* All others have ended. */
void fibers_close(void);

fiber *fiber_start(const char *name, void (*run)(void *argument), void *argument);
fiber *fiber_current(void);
bool fiber_is_over(const fiber *f);

/* The current fiber stops until fiber_wake(), or the time has come; SIM_FOREVER: only the former. Both may have happened. */
void fiber_wait(int64_t until_ns);
/* One that does not wait: it will not stop the next time. */
void fiber_wake(fiber *f);
/* Others may go first. */
void fiber_yield(void);
/* The current fiber lets so much time pass. */
void fiber_sleep(int64_t ns);

#endif
