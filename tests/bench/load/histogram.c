#include "histogram.h"

void histogram_merge(struct histogram *h, const struct histogram *other)
{
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) h->buckets[i] += other->buckets[i];
    h->count += other->count;
    if (other->max > h->max) h->max = other->max;
}

static uint64_t upper_edge(unsigned index)
{
    if (index < HISTOGRAM_PARTS) return index;
    unsigned e = index / HISTOGRAM_PARTS + 6;
    return (((uint64_t)(index % HISTOGRAM_PARTS) + HISTOGRAM_PARTS + 1) << (e - 7)) - 1;
}

uint64_t histogram_quantile(const struct histogram *h, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)h->count), seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen > wanted) {
            uint64_t value = upper_edge(i);
            return value > h->max ? h->max : value;
        }
    }
    return h->max;
}
