/* inject.h - system calls that fail when a test wants them to. The linker leads the calls of the whole executable through
 * inject.c (--wrap); what the C library and liburing call themselves is not reached. Linux only.
 *
 * One after the other:
 *
 *     inject_sweep(body);   runs body() again and again: the n-th call in it fails, for every n that there is, with each
 *                           of the errors that it can have
 *
 * or at random, only with what means "not now" (EINTR, EAGAIN, no buffer):
 *
 *     inject_not_now(8, seed);   one call in eight
 *     inject_nothing();
 *
 * An EAGAIN stands for a kernel that changes its mind a moment later: epoll tells of an edge after it. On a ring an entry
 * that is to fail is replaced by one that does nothing, and its result by the error.
 */
#ifndef PORTICO_TESTS_INJECT_H
#define PORTICO_TESTS_INJECT_H

#include <stdbool.h>
#include <stdint.h>

/* Returns how many calls failed. Checks that each run leaves no memory and no descriptor behind. With INJECT_TELLS in the
 * environment each failure is written down. */
uint32_t inject_sweep(void (*body)(void));

/* The n-th call fails, with one of its errors: INJECT_VARIANTS of them, from 0, are all that there are. */
void inject_nth(uint32_t nth, uint32_t variant);
enum { INJECT_VARIANTS = 4 };
/* Only calls on sockets that are attached to a port. */
void inject_not_now(uint32_t one_in, uint64_t seed);
void inject_nothing(void);
/* Calls that have failed since inject_not_now() or inject_nth(), or in the running body of a sweep. */
uint32_t inject_count(void);

/* What this thread calls in between is the test's own affair. */
void inject_pause(void);
void inject_resume(void);

#endif
