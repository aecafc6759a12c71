/* host_alloc.c - the allocator of a Lua state: its own heap, with a cap. */
#include "host_internal.h"

#include <stdio.h>

static bool may_grow(const host *h, size_t growth)
{
    return h->heap_bytes <= h->heap_cap && growth <= h->heap_cap - h->heap_bytes;
}

static void note_bytes(host *h, size_t bytes)
{
    h->heap_bytes = bytes;
    if (bytes > h->heap_peak) h->heap_peak = bytes;
}

/* Each message's string comes from here. */
static void *allocate_new(host *h, size_t bytes)
{
    if (bytes == 0 || !may_grow(h, bytes)) return NULL;
    void *made = mem_heap_alloc(h->heap, bytes);
    if (made != NULL) note_bytes(h, h->heap_bytes + bytes);
    return made;
}

static void *resize(host *h, void *block, size_t old_bytes, size_t bytes)
{
    if (bytes > old_bytes && !may_grow(h, bytes - old_bytes)) return NULL;
    void *moved = mem_heap_realloc(h->heap, block, old_bytes, bytes);
    /* Lua relies on shrinking to succeed; the larger block will do. */
    if (moved == NULL && bytes <= old_bytes) moved = block;
    if (moved != NULL) note_bytes(h, h->heap_bytes - old_bytes + bytes);
    return moved;
}

void *host_allocate(void *context, void *block, size_t old_bytes, size_t bytes)
{
    host *h = context;
    if (block == NULL) return allocate_new(h, bytes); /* old_bytes is a type then (Lua manual, lua_Alloc) */
    if (bytes > 0) return resize(h, block, old_bytes, bytes);
    h->heap_bytes -= old_bytes;
    mem_heap_free(h->heap, block, old_bytes);
    return NULL;
}

/* A state that loads or is closed beside the one in force may be anywhere in its own affairs when it asks for memory, but
 * never in those of others. */
void *host_allocate_giving_way(void *context, void *block, size_t old_bytes, size_t bytes)
{
    enum { CALLS_PER_LOOK = 128, BYTES_LARGE = 32 << 10 };
    host *h = context;
    if (++h->calls % CALLS_PER_LOOK == 0 || bytes >= BYTES_LARGE) host_give_way(h);
    return host_allocate(context, block, old_bytes, bytes);
}

void host_reserve(host *h, bool on)
{
    h->heap_cap = h->config->lua_memory + (on ? HOST_RESERVE_BYTES : 0);
}

char *host_cap_text(const host *h, char *text, size_t size)
{
    size_t cap = h->config->lua_memory;
    if (cap % (1 << 20) == 0) snprintf(text, size, "%zu MiB", cap >> 20);
    else if (cap % (1 << 10) == 0) snprintf(text, size, "%zu KiB", cap >> 10);
    else snprintf(text, size, "%zu bytes", cap);
    return text;
}
