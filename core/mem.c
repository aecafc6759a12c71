#include "mem.h"

#include "base.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

/* ---- The count of live blocks ---- */

/* One counter would be written by every thread at every allocation. mimalloc gives each thread pages of 64 KiB of
 * its own, so counters chosen by the page of the block are hardly ever shared, and need no thread-local storage. */
enum { COUNTERS = 16, COUNTER_PAGE_BITS = 16, CACHE_LINE_BYTES = 64 };

typedef struct counter {
    _Alignas(CACHE_LINE_BYTES) atomic_llong live;
} counter;

static counter counters[COUNTERS];

static void count(uintptr_t block, long long change)
{
    counter *c = &counters[(block >> COUNTER_PAGE_BITS) % COUNTERS];
    atomic_fetch_add_explicit(&c->live, change, memory_order_relaxed);
}

int64_t mem_live(void)
{
    int64_t live = 0;
    for (size_t i = 0; i < COUNTERS; i++) live += atomic_load_explicit(&counters[i].live, memory_order_relaxed);
    return live;
}

#if PORTICO_MIMALLOC

/* ---- mimalloc ---- */

#include <mimalloc.h>

#define raw_alloc mi_malloc
#define raw_zalloc mi_zalloc
#define raw_realloc mi_realloc
#define raw_free mi_free

static mi_heap_t *raw_heap(mem_heap *heap)
{
    return (mi_heap_t *)(void *)heap;
}

mem_heap *mem_heap_open(void)
{
    mem_heap *heap = (mem_heap *)(void *)mi_heap_new();
    if (heap != NULL) count((uintptr_t)heap, +1);
    return heap;
}

void mem_heap_close(mem_heap *heap)
{
    if (heap == NULL) return;
    count((uintptr_t)heap, -1);
    mi_heap_destroy(raw_heap(heap));
}

void *mem_heap_alloc(mem_heap *heap, size_t bytes)
{
    assert(bytes > 0);
    return mi_heap_malloc(raw_heap(heap), bytes);
}

void *mem_heap_realloc(mem_heap *heap, void *block, size_t old_bytes, size_t bytes)
{
    (void)old_bytes;
    assert(bytes > 0);
    return mi_heap_realloc(raw_heap(heap), block, bytes);
}

void mem_heap_free(mem_heap *heap, void *block, size_t bytes)
{
    (void)heap;
    (void)bytes;
    mi_free(block);
}

/* MI_MALLOC_VERSION is 209 for 2.0.9. */
const char *mem_describe(void)
{
    static const char text[] = {'m', 'i',
                                'm', 'a',
                                'l', 'l',
                                'o', 'c',
                                ' ', '0' + MI_MALLOC_VERSION / 100,
                                '.', '0' + MI_MALLOC_VERSION / 10 % 10,
                                '.', '0' + MI_MALLOC_VERSION % 10,
                                '\0'};
    return text;
}

#else

/* ---- The C library ---- */

#include <stdlib.h>

#define raw_alloc malloc
#define raw_realloc realloc
#define raw_free free

static void *raw_zalloc(size_t bytes)
{
    return calloc(1, bytes);
}

/* In front of each block of a heap: the ring of all its blocks, so that closing it can free them. */
typedef struct heap_block {
    _Alignas(max_align_t) struct heap_block *next;
    struct heap_block *prev;
} heap_block;

struct mem_heap {
    heap_block ring; /* linked to itself when the heap is empty */
};

static void heap_link(heap_block *block, heap_block *next)
{
    block->next = next;
    block->prev = next->prev;
    block->prev->next = block;
    next->prev = block;
}

static void heap_unlink(heap_block *block)
{
    block->prev->next = block->next;
    block->next->prev = block->prev;
}

mem_heap *mem_heap_open(void)
{
    mem_heap *heap = malloc(sizeof(*heap));
    if (heap == NULL) return NULL;
    heap->ring.next = &heap->ring;
    heap->ring.prev = &heap->ring;
    count((uintptr_t)heap, +1);
    return heap;
}

void mem_heap_close(mem_heap *heap)
{
    if (heap == NULL) return;
    count((uintptr_t)heap, -1);
    while (heap->ring.next != &heap->ring) {
        heap_block *block = heap->ring.next;
        heap_unlink(block);
        free(block);
    }
    free(heap);
}

void *mem_heap_realloc(mem_heap *heap, void *block, size_t old_bytes, size_t bytes)
{
    (void)old_bytes;
    assert(bytes > 0);
    if (bytes > SIZE_MAX - sizeof(heap_block)) return NULL;
    heap_block *old = block == NULL ? NULL : (heap_block *)block - 1;
    heap_block *next = &heap->ring;
    if (old != NULL) {
        /* realloc() may move it, so that the neighbours' links must be made anew, in either case. */
        next = old->next;
        heap_unlink(old);
    }
    heap_block *made = realloc(old, sizeof(heap_block) + bytes);
    if (made == NULL) {
        if (old != NULL) heap_link(old, next);
        return NULL;
    }
    heap_link(made, next);
    return made + 1;
}

void *mem_heap_alloc(mem_heap *heap, size_t bytes)
{
    return mem_heap_realloc(heap, NULL, 0, bytes);
}

void mem_heap_free(mem_heap *heap, void *block, size_t bytes)
{
    (void)heap;
    (void)bytes;
    if (block == NULL) return;
    heap_block *old = (heap_block *)block - 1;
    heap_unlink(old);
    free(old);
}

const char *mem_describe(void)
{
    return "C library";
}

#endif

/* ---- What both have in common ---- */

static void *counted(void *block)
{
    if (block != NULL) count((uintptr_t)block, +1);
    return block;
}

void *mem_alloc(size_t bytes)
{
    assert(bytes > 0);
    return counted(raw_alloc(bytes));
}

void *mem_zalloc(size_t bytes)
{
    assert(bytes > 0);
    return counted(raw_zalloc(bytes));
}

void *mem_realloc(void *block, size_t bytes)
{
    assert(bytes > 0);
    uintptr_t old = (uintptr_t)block;
    void *made = raw_realloc(block, bytes);
    if (made == NULL || (uintptr_t)made == old) return made;
    if (old != 0) count(old, -1);
    return counted(made);
}

void mem_free(void *block)
{
    if (block == NULL) return;
    count((uintptr_t)block, -1);
    raw_free(block);
}

char *mem_strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = mem_alloc(size);
    if (copy != NULL) memcpy(copy, text, size);
    return copy;
}
