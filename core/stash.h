/* stash.h - bytes of one connection that have come and are not taken yet, in one block, so that they can be looked at
 * as one. A connection has one only while there are such bytes.
 *
 * thread  the connection's worker only.
 */
#ifndef PORTICO_STASH_H
#define PORTICO_STASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct stash {
    size_t start; /* of what is not taken */
    size_t end;   /* > start while the connection has it */
    size_t room;
    size_t seen; /* bytes from start on that the owner had before and could not take */
    size_t need; /* … and how many must be there before it wants to see them again; 0: any */
    uint8_t bytes[];
} stash;

static inline size_t stash_len(const stash *s)
{
    return s->end - s->start;
}

static inline const uint8_t *stash_data(const stash *s)
{
    return s->bytes + s->start;
}

/* Adds a copy of len bytes to *s, which is made at first (NULL) and may move. Its room grows by doubling, and never past
 * what is there and `need` because a peer says that more will come. False: out of memory, and nothing has changed. */
bool stash_add(stash **s, const uint8_t *data, size_t len);

/* Adds a copy of len bytes, > 0, in front. False: out of memory, and nothing has changed. */
bool stash_unshift(stash **s, const uint8_t *data, size_t len);

/* The first bytes are taken: frees it when none are left. */
void stash_take(stash **s, size_t len);

/* Leaves the last len bytes, > 0, and gives memory back when they fill a small part of it. */
void stash_trim(stash **s, size_t len);

#endif
