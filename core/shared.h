/* shared.h - named dictionaries that all workers see, and that outlive every generation of the script.
 *
 * Keys are strings; values are strings, integers, floats, booleans, and lists of these. Each operation is atomic. A value
 * may have a time to live; what has expired is not there any more for anybody, and its memory is given back when it is come
 * upon: by an operation on its key, by the few places of the table that each change looks at, or because room is needed.
 *
 * The store has a cap for all dictionaries together. Its count is of the blocks that it has asked for, to the byte, tables and
 * all. What does not fit is refused, and nothing that is there goes for its sake but what has expired.
 *
 * thread  any, for everything but opening and closing.
 */
#ifndef PORTICO_SHARED_H
#define PORTICO_SHARED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SHARED_KEY_MAX = 65535, /* bytes of a key, and of a dictionary's name */
    SHARED_DICTS_MAX = 1024 /* in a store */
};

typedef struct shared shared;
typedef struct shared_dict shared_dict;

typedef enum shared_status {
    SHARED_OK,
    SHARED_ABSENT,  /* there is no such key */
    SHARED_PRESENT, /* there is one already */
    SHARED_DIFFERS, /* the value is another one than expected */
    SHARED_TYPE,    /* the value is not of a type for this */
    SHARED_RANGE,   /* the sum is no integer */
    SHARED_ROOM,    /* the caller's buffer is too small: value->len is needed. Nothing has changed */
    SHARED_FULL,    /* it would go over the cap */
    SHARED_MEMORY   /* the system has none */
} shared_status;

typedef enum shared_type {
    SHARED_NONE, /* no value: for shared_cas() */
    SHARED_INTEGER,
    SHARED_FLOAT,
    SHARED_BOOLEAN,
    SHARED_STRING,
    SHARED_LIST /* never in a shared_value that is given; len is how many */
} shared_type;

typedef struct shared_value {
    shared_type type;
    union {
        int64_t integer;
        double number;
        bool boolean;
        const void *bytes; /* STRING */
    } as;
    size_t len; /* STRING: bytes */
} shared_value;

typedef enum shared_side { SHARED_LEFT, SHARED_RIGHT } shared_side;

/* bytes_max  the cap; > 0.
 * clock_ns   the time that runs while values live: os_monotonic_ns, but for tests.
 * result     NULL: out of memory. */
shared *shared_open(size_t bytes_max, int64_t (*clock_ns)(void));
/* Nobody uses it any more. NULL is fine. */
void shared_close(shared *store);
size_t shared_bytes(const shared *store);
size_t shared_bytes_max(const shared *store);

/* The dictionary of that name, which is made when there is none. It lives as long as the store.
 * result  OK, FULL (also when there are SHARED_DICTS_MAX), MEMORY. */
shared_status shared_find(shared_dict **dict, shared *store, const char *name, size_t len);
shared *shared_store(const shared_dict *dict);

/* A key. */
typedef struct shared_key {
    const char *bytes;
    size_t len; /* to SHARED_KEY_MAX */
} shared_key;

/* Copies a value out.
 *
 * buffer  of room bytes, for a string.
 * result  OK, ABSENT, ROOM; TYPE for a list, whose len is in value. */
shared_status shared_get(shared_dict *dict, shared_key key, shared_value *value, void *buffer, size_t room);

typedef enum shared_mode { SHARED_SET, SHARED_ADD } shared_mode;

/* Stores a value: SHARED_SET whatever was there, SHARED_ADD if there is none.
 *
 * ttl_ns  how long it lives; 0: for ever. What was there had its own, which does not count.
 * result  OK, PRESENT (ADD), FULL, MEMORY. */
shared_status shared_set(shared_dict *dict, shared_key key, const shared_value *value, int64_t ttl_ns,
                         shared_mode mode);

/* Adds a number; when there is no such key, to init, and the sum lives for ttl_ns (0: for ever).
 *
 * value   in: what to add, INTEGER or FLOAT; out: the sum. Integers stay integers.
 * result  OK, TYPE, RANGE, FULL, MEMORY. */
shared_status shared_incr(shared_dict *dict, shared_key key, shared_value *value, const shared_value *init,
                          int64_t ttl_ns);

/* Stores `wanted` if what is there equals `expected`, numbers by their value. NONE expected: nothing is there; NONE wanted: it is
 * deleted. Of a value that is replaced the time to live stays.
 * result  OK, DIFFERS, FULL, MEMORY. */
shared_status shared_cas(shared_dict *dict, shared_key key, const shared_value *expected, const shared_value *wanted);

/* OK, ABSENT. */
shared_status shared_delete(shared_dict *dict, shared_key key);

/* A new time to live; 0: for ever. OK, ABSENT. */
shared_status shared_expire(shared_dict *dict, shared_key key, int64_t ttl_ns);
/* What is left of it; 0: for ever. OK, ABSENT. */
shared_status shared_ttl(shared_dict *dict, shared_key key, int64_t *ttl_ns);

/* Puts a value at one end of a list, which is made when there is no such key.
 * count   how many it has then.
 * result  OK, TYPE, FULL, MEMORY. */
shared_status shared_push(shared_dict *dict, shared_key key, const shared_value *value, shared_side side,
                          size_t *count);
/* Takes one from an end. With its last value the list goes. As for shared_get(); TYPE: it is no list. */
shared_status shared_pop(shared_dict *dict, shared_key key, shared_side side, shared_value *value, void *buffer,
                         size_t room);

/* Values of a list, with the bytes of those that are strings. */
typedef struct shared_values {
    shared_value *at; /* mem_free() */
    size_t count;
} shared_values;

/* Copies out what stands from first to last in a list, both included: from 1 on counted from the left, from -1 on from
 * the right. What is outside of the list is left out. Costs also what lies between it and the nearer end.
 * result  OK; ABSENT, TYPE, MEMORY, and then values is empty. */
shared_status shared_range(shared_dict *dict, shared_key key, int64_t first, int64_t last, shared_values *values);

/* How many keys there are; what has expired goes on the way. */
size_t shared_count(shared_dict *dict);
/* Deletes all. */
void shared_flush(shared_dict *dict);

/* Keys one behind the other: each its length as a uint32_t, then its bytes. */
typedef struct shared_keys {
    uint8_t *bytes; /* mem_free() */
    size_t len;
    size_t count;
} shared_keys;

/* Lists at most `limit` keys that begin with prefix, in no order. Not a moment's view: others may change what has been looked at.
 * result  OK; MEMORY, and then keys is empty. */
shared_status shared_list(shared_dict *dict, shared_key prefix, size_t limit, shared_keys *keys);

#endif
