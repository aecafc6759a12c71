#include "clock.h"

double tick_ns = 1;

void clock_calibrate(void)
{
    uint64_t begin_ns = now_ns(), begin = ticks(), end_ns;
    do end_ns = now_ns();
    while (end_ns - begin_ns < 5000000);
    tick_ns = (double)(end_ns - begin_ns) / (double)(ticks() - begin);
}

void clock_pass(double seconds)
{
    struct timespec t = {.tv_sec = (time_t)seconds};
    t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
    clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}
