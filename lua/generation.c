#include "generation.h"

#include "mem.h"

generation *generation_open(uint64_t number, char *source, size_t source_len)
{
    generation *g = mem_zalloc(sizeof(*g));
    if (g == NULL) return NULL;
    g->number = number;
    g->source = source;
    g->source_len = source_len;
    atomic_init(&g->users, 1);
    return g;
}

void generation_retain(generation *g)
{
    atomic_fetch_add_explicit(&g->users, 1, memory_order_relaxed);
}

void generation_release(generation *g)
{
    if (g == NULL || atomic_fetch_sub_explicit(&g->users, 1, memory_order_acq_rel) > 1) return;
    mem_free(g->source);
    mem_free(g);
}
