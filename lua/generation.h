/* generation.h - one loaded version of the script, common to all workers.
 *
 * Each worker runs a generation in a Lua state of its own (a host); what is said here is shared by them, and stays until the
 * last one that retains it lets go.
 *
 * thread  any, but for what is set before the generation is shared.
 */
#ifndef PORTICO_GENERATION_H
#define PORTICO_GENERATION_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef struct generation {
    uint64_t number; /* the first is 1 */
    char *source;    /* the script's text; bytecode is refused */
    size_t source_len;
    atomic_uint users; /* hosts, and the one who made it */
} generation;

/* The caller is its first user.
 * source  becomes the generation's.
 * result  NULL when out of memory; source is then still the caller's. */
generation *generation_open(uint64_t number, char *source, size_t source_len);
void generation_retain(generation *g);
/* The last one frees it. NULL is fine. */
void generation_release(generation *g);

#endif
