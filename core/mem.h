/* mem.h - all memory of the engine and of the Lua states. mimalloc behind it, by name and not by replacing
 * malloc; with PORTICO_MIMALLOC off (sanitizer builds) the C library.
 *
 * Nothing here aborts: NULL means out of memory and the caller copes.
 */
#ifndef PORTICO_MEM_H
#define PORTICO_MEM_H

#include <stddef.h>
#include <stdint.h>

void *mem_alloc(size_t bytes);                /* bytes > 0; uninitialised */
void *mem_zalloc(size_t bytes);               /* zeroed */
void *mem_realloc(void *block, size_t bytes); /* NULL block: alloc; on NULL the old block is untouched */
void mem_free(void *block);                   /* any thread; NULL is fine */
char *mem_strdup(const char *text);           /* NULL when out of memory */

/* Blocks handed out by mem_alloc and friends and not yet freed, and heaps not yet closed. Zero at exit, or we leak.
 * Any thread. */
int64_t mem_live(void);

/* A heap of its own, for one Lua state: allocated from only by the thread that opened it, destroyed whole. */
typedef struct mem_heap mem_heap;
mem_heap *mem_heap_open(void);                      /* NULL when out of memory */
void mem_heap_close(mem_heap *heap);                /* and every block still in it; NULL is fine */
void *mem_heap_alloc(mem_heap *heap, size_t bytes); /* bytes > 0; uninitialised */
void *mem_heap_realloc(mem_heap *heap, void *block, size_t old_bytes, size_t bytes); /* the same */
void mem_heap_free(mem_heap *heap, void *block, size_t bytes);

/* "mimalloc 2.0.9" or "C library". */
const char *mem_describe(void);

#endif
