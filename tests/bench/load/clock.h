/* clock.h - time, in nanoseconds or in the processor's own ticks, which cost less to read. */
#ifndef LOAD_CLOCK_H
#define LOAD_CLOCK_H

#include <stdint.h>
#include <time.h>
#if defined(__x86_64__) || defined(__i386__)
#include <x86intrin.h>
#define CLOCK_HAS_TSC 1
#endif

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Seconds since then. */
static inline double seconds_since(uint64_t then_ns)
{
    return (double)(now_ns() - then_ns) / 1e9;
}

static inline uint64_t ticks(void)
{
#ifdef CLOCK_HAS_TSC
    return __rdtsc();
#else
    return now_ns();
#endif
}

extern double tick_ns; /* nanoseconds in a tick */

/* Takes 5 ms to measure tick_ns to a few millionths; before any thread starts. */
void clock_calibrate(void);

/* Lets time pass: the span that is measured, or the rest of it. */
void clock_pass(double seconds);

#endif
