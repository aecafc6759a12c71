/* histogram.h - how often each latency came: 128 parts per power of two, an error below 0.8 %, and every message in it. */
#ifndef LOAD_HISTOGRAM_H
#define LOAD_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_PARTS = 128, HISTOGRAM_BUCKETS = 64 * HISTOGRAM_PARTS };

struct histogram {
    uint64_t count, max, buckets[HISTOGRAM_BUCKETS];
};

static inline unsigned histogram_index(uint64_t value)
{
    if (value < HISTOGRAM_PARTS) return (unsigned)value;
    unsigned e = 63u - (unsigned)__builtin_clzll(value); /* >= 7 */
    return (e - 6) * HISTOGRAM_PARTS + (unsigned)((value >> (e - 7)) & (HISTOGRAM_PARTS - 1));
}

static inline void histogram_add(struct histogram *h, uint64_t value)
{
    h->buckets[histogram_index(value)]++;
    h->count++;
    if (value > h->max) h->max = value;
}

void histogram_merge(struct histogram *h, const struct histogram *other);

/* The value that this share of all does not exceed, share below 1; 0 when there is none. */
uint64_t histogram_quantile(const struct histogram *h, double share);

#endif
