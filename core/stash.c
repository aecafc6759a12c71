/* stash.c - see stash.h. */
#include "stash.h"

#include "mem.h"

#include <assert.h>
#include <string.h>

enum { STASH_SPARE = 4 /* a block of which less than this part is used is exchanged for a smaller one */ };

static stash *open(size_t room)
{
    stash *s = mem_alloc(sizeof(*s) + room);
    if (s == NULL) return NULL;
    *s = (stash){.room = room};
    return s;
}

/* Moves the bytes to the front of a block with that much room. False: out of memory. */
static bool move(stash **s, size_t room)
{
    stash *old = *s, *s2 = open(room);
    if (s2 == NULL) return false;
    s2->end = stash_len(old);
    s2->seen = old->seen;
    s2->need = old->need;
    memcpy(s2->bytes, stash_data(old), s2->end);
    mem_free(old);
    *s = s2;
    return true;
}

bool stash_add(stash **s, const uint8_t *data, size_t len)
{
    assert(len > 0);
    if (*s == NULL) {
        *s = open(len);
        if (*s == NULL) return false;
    }
    size_t have = stash_len(*s), total = have + len;
    if ((*s)->room - (*s)->end < len) {
        size_t room = total < have * 2 ? have * 2 : total;
        if (room > (*s)->need && total <= (*s)->need) room = (*s)->need;
        if (!move(s, room)) return false;
    }
    memcpy((*s)->bytes + (*s)->end, data, len);
    (*s)->end += len;
    return true;
}

bool stash_unshift(stash **s, const uint8_t *data, size_t len)
{
    assert(len > 0);
    size_t have = *s == NULL ? 0 : stash_len(*s);
    if (*s == NULL || (*s)->start < len) {
        stash *old = *s, *s2 = open(len + have);
        if (s2 == NULL) return false;
        s2->start = len;
        s2->end = len + have;
        if (old != NULL) memcpy(s2->bytes + len, stash_data(old), have);
        mem_free(old);
        *s = s2;
    }
    (*s)->start -= len;
    memcpy((*s)->bytes + (*s)->start, data, len);
    (*s)->seen = (*s)->need = 0; /* they were for another first byte */
    return true;
}

void stash_take(stash **s, size_t len)
{
    assert(len <= stash_len(*s));
    (*s)->start += len;
    (*s)->seen = (*s)->need = 0; /* they were for another first byte */
    if (stash_len(*s) > 0) return;
    mem_free(*s);
    *s = NULL;
}

void stash_trim(stash **s, size_t len)
{
    assert(len > 0 && len <= stash_len(*s));
    (*s)->start = (*s)->end - len;
    (*s)->seen = (*s)->need = 0;
    if (len < (*s)->room / STASH_SPARE) (void)move(s, len); /* without memory for it, the large one serves */
}
