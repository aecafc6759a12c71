/* shared_table.h - what stands behind shared.h's locks: a hash table of entries, whose blocks are counted. Only shared*.c
 * include it.
 *
 * thread  the holder of the lock that guards the table; an account is for any thread.
 */
#ifndef PORTICO_SHARED_TABLE_H
#define PORTICO_SHARED_TABLE_H

#include "shared.h"

#include <stdatomic.h>

/* Bytes that may be asked for, and those that have been. */
typedef struct shared_account {
    atomic_size_t used;
    size_t max;
} shared_account;

/* Whether so many bytes may still be asked for. */
bool shared_account_fits(const shared_account *account, size_t bytes);
/* FULL, MEMORY, or OK and a block. */
shared_status shared_block_open(void **block, shared_account *account, size_t bytes);
void shared_block_close(shared_account *account, void *block, size_t bytes);

/* One value of a list. */
typedef struct shared_node shared_node;
struct shared_node {
    shared_node *link[2]; /* to its left, to its right */
    shared_value value;   /* a string's bytes are those below */
    uint8_t bytes[];
};

typedef struct shared_entry {
    struct shared_entry *next; /* of the same bucket */
    uint64_t hash;
    int64_t expires_ns; /* INT64_MAX: never */
    size_t room;        /* bytes behind the key, for a string */
    size_t key_len;
    shared_value value;  /* a string's bytes stand behind the key; of a list len is how many */
    shared_node *end[2]; /* LIST: leftmost, rightmost */
    char key[];
} shared_entry;

typedef struct shared_table {
    shared_account *account;
    shared_entry **buckets; /* NULL while nothing has been stored */
    size_t bucket_count;    /* a power of two, or 0 */
    size_t count;           /* of entries, those that have expired included */
    size_t mortal;          /* of entries that can expire */
    size_t hand;            /* where shared_table_sweep() goes on */
    size_t refused;         /* bytes that there was no room for when something was FULL last */
    int64_t soonest_ns;     /* before then nothing expires, if anything can */
} shared_table;

/* The place that points to the entry of that key, or NULL. An entry that has expired goes, as if it were not there. */
shared_entry **shared_table_find(shared_table *table, uint64_t hash, shared_key key, int64_t now_ns);
/* Puts an entry in, with the value, but for a list's: that is empty. OK, FULL, MEMORY. */
shared_status shared_table_add(shared_table *table, uint64_t hash, shared_key key, const shared_value *value,
                               int64_t expires_ns, shared_entry **made);
/* Gives an entry another value, a string in its place if it fits well enough; else the entry is exchanged for another one
 * in its place. Not a list's. FULL: for what it would grow by. OK, FULL, MEMORY. */
shared_status shared_table_replace(shared_table *table, shared_entry **place, const shared_value *value);
void shared_table_remove(shared_table *table, shared_entry **place);
void shared_table_expire(shared_table *table, shared_entry *entry, int64_t expires_ns);
/* Looks at so many buckets for what has expired, or at fewer: until so many bytes fit, SIZE_MAX: never. */
void shared_table_sweep(shared_table *table, size_t buckets, size_t bytes, int64_t now_ns);
void shared_table_clear(shared_table *table);

/* OK, FULL, MEMORY. */
shared_status shared_entry_push(shared_table *table, shared_entry *entry, const shared_value *value, shared_side side);
/* The list is not empty. */
void shared_entry_drop(shared_table *table, shared_entry *entry, shared_side side);

#endif
