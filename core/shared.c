/* shared.c - the store, its dictionaries and their locks. A dictionary is many tables, so that workers seldom want the same
 * lock; a key's hash says which.
 */
#include "shared_table.h"

#include "mem.h"
#include "os.h"
#include "siphash.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum {
    SHARDS = 16,      /* tables of a dictionary; a power of two */
    SHARD_SHIFT = 60, /* the hash's highest bits choose the shard, its lowest ones the bucket */
    SWEEP_AT_ONCE = 2 /* buckets that each change looks at for what has expired */
};

typedef struct shard {
    os_mutex *lock;
    shared_table table;
} shard;

struct shared_dict {
    shared *store;
    shared_dict *next;
    size_t name_len;
    shard shards[SHARDS];
    char name[];
};

struct shared {
    shared_account account;
    int64_t (*clock_ns)(void);
    uint64_t hash_key[2];
    os_mutex *lock; /* guards the list */
    shared_dict *dicts;
    size_t dict_count;
};

/* ---- Store and dictionaries ---- */

shared *shared_open(size_t bytes_max, int64_t (*clock_ns)(void))
{
    shared *store = mem_zalloc(sizeof(*store));
    if (store == NULL) return NULL;
    store->account.max = bytes_max;
    store->clock_ns = clock_ns;
    store->lock = os_mutex_open();
    os_random(store->hash_key, sizeof(store->hash_key));
    if (store->lock != NULL) return store;
    mem_free(store);
    return NULL;
}

static void close_dict(shared_dict *dict)
{
    shared_account *account = &dict->store->account;
    for (size_t i = 0; i < SHARDS; i++) {
        shared_table_clear(&dict->shards[i].table);
        if (dict->shards[i].lock != NULL) os_mutex_close(dict->shards[i].lock);
    }
    shared_block_close(account, dict, sizeof(*dict) + dict->name_len);
}

void shared_close(shared *store)
{
    if (store == NULL) return;
    while (store->dicts != NULL) {
        shared_dict *dict = store->dicts;
        store->dicts = dict->next;
        close_dict(dict);
    }
    assert(shared_bytes(store) == 0);
    os_mutex_close(store->lock);
    mem_free(store);
}

size_t shared_bytes(const shared *store)
{
    return atomic_load_explicit(&store->account.used, memory_order_relaxed);
}

size_t shared_bytes_max(const shared *store)
{
    return store->account.max;
}

shared *shared_store(const shared_dict *dict)
{
    return dict->store;
}

/* ---- Room ---- */

/* A look through the whole store for what has expired. */
typedef struct sweep {
    size_t bytes; /* that are to fit; 0: it has not begun */
    shared_dict *dict;
    size_t shard;
    bool is_over;
} sweep;

/* Something was FULL for so many bytes: goes on with the look until they fit, and says whether to try again. Who fails has
 * looked at everything once. The caller holds no lock: here one shard's at a time is taken. */
static bool make_room(sweep *s, shared *store, size_t refused, int64_t now_ns)
{
    if (s->is_over || refused > store->account.max) return false;
    if (s->bytes == 0) {
        os_mutex_lock(store->lock);
        s->dict = store->dicts; /* what comes after it stays as it is */
        os_mutex_unlock(store->lock);
    }
    /* Refused again: more than the one block is wanted, or others were faster. */
    s->bytes = refused > s->bytes * 2 ? refused : s->bytes * 2;
    for (; s->dict != NULL; s->dict = s->dict->next, s->shard = 0) {
        for (; s->shard < SHARDS; s->shard++) {
            shard *at = &s->dict->shards[s->shard];
            os_mutex_lock(at->lock);
            shared_table_sweep(&at->table, SIZE_MAX, s->bytes, now_ns);
            os_mutex_unlock(at->lock);
            if (shared_account_fits(&store->account, s->bytes)) return true; /* of this one there may be more */
        }
    }
    s->is_over = true;
    return true;
}

/* ---- Finding dictionaries ---- */

static shared_status open_dict(shared_dict **made, shared *store, const char *name, size_t len)
{
    void *block;
    if (store->dict_count == SHARED_DICTS_MAX) return SHARED_FULL;
    shared_status status = shared_block_open(&block, &store->account, sizeof(shared_dict) + len);
    if (status != SHARED_OK) return status;
    shared_dict *dict = block;
    memset(dict, 0, sizeof(*dict));
    dict->store = store;
    dict->name_len = len;
    if (len > 0) memcpy(dict->name, name, len);
    for (size_t i = 0; i < SHARDS; i++) {
        dict->shards[i].table.account = &store->account;
        dict->shards[i].lock = os_mutex_open();
        if (dict->shards[i].lock == NULL) {
            close_dict(dict);
            return SHARED_MEMORY;
        }
    }
    dict->next = store->dicts;
    store->dicts = dict;
    store->dict_count++;
    *made = dict;
    return SHARED_OK;
}

shared_status shared_find(shared_dict **dict, shared *store, const char *name, size_t len)
{
    shared_status status;
    sweep room = {0};
    bool is_room; /* or the number is what is full */
    do {
        status = SHARED_OK;
        os_mutex_lock(store->lock);
        shared_dict *known = store->dicts;
        while (known != NULL && (known->name_len != len || memcmp(known->name, name, len) != 0)) known = known->next;
        if (known != NULL) *dict = known;
        else status = open_dict(dict, store, name, len);
        is_room = status == SHARED_FULL && store->dict_count < SHARED_DICTS_MAX;
        os_mutex_unlock(store->lock);
    } while (is_room && make_room(&room, store, sizeof(shared_dict) + len, store->clock_ns()));
    return status;
}

/* ---- One operation: a key's shard, locked ---- */

typedef struct access {
    shared_dict *dict;
    shared_table *table;
    os_mutex *lock;
    shared_key key;
    uint64_t hash;
    int64_t now_ns;
    shared_entry **place; /* of the entry, or NULL */
    sweep room;
} access;

static access begin(shared_dict *dict, shared_key key)
{
    assert(key.len <= SHARED_KEY_MAX);
    uint64_t hash = siphash(dict->store->hash_key, key.bytes, key.len);
    shard *s = &dict->shards[hash >> SHARD_SHIFT];
    access a = {.dict = dict, .table = &s->table, .lock = s->lock, .key = key, .hash = hash};
    a.now_ns = dict->store->clock_ns();
    os_mutex_lock(a.lock);
    a.place = shared_table_find(a.table, hash, key, a.now_ns);
    return a;
}

static shared_status end(const access *a, shared_status status)
{
    os_mutex_unlock(a->lock);
    return status;
}

/* Whether to try again. The lock is given up meanwhile, so that what was known of the entry is found again. */
static bool again(access *a, shared_status status)
{
    if (status != SHARED_FULL) return false;
    size_t refused = a->table->refused;
    os_mutex_unlock(a->lock);
    bool is_room = make_room(&a->room, a->dict->store, refused, a->now_ns);
    os_mutex_lock(a->lock);
    a->place = shared_table_find(a->table, a->hash, a->key, a->now_ns);
    return is_room;
}

static int64_t expiry(const access *a, int64_t ttl_ns)
{
    return ttl_ns == 0 || ttl_ns > INT64_MAX - a->now_ns ? INT64_MAX : a->now_ns + ttl_ns;
}

/* A change has been made: some of what has expired goes, too. */
static shared_status end_change(const access *a, shared_status status)
{
    shared_table_sweep(a->table, SWEEP_AT_ONCE, SIZE_MAX, a->now_ns);
    return end(a, status);
}

/* ---- Values ---- */

/* Copies a value out, if there is room. */
static shared_status give(shared_value *value, const shared_value *from, void *buffer, size_t room)
{
    *value = *from;
    if (from->type == SHARED_LIST) return SHARED_TYPE;
    if (from->type != SHARED_STRING) return SHARED_OK;
    if (from->len > room) return SHARED_ROOM;
    if (from->len > 0) memcpy(buffer, from->as.bytes, from->len);
    value->as.bytes = buffer;
    return SHARED_OK;
}

/* As Lua compares numbers: by value, and exactly. source  Lua 5.4 manual, section 3.4.4 */
static bool equal_mixed(int64_t integer, double number)
{
    if (!(number >= -0x1p63 && number < 0x1p63) || floor(number) != number) return false;
    return (int64_t)number == integer;
}

static bool equal(const shared_value *a, const shared_value *b)
{
    if (a->type == SHARED_INTEGER && b->type == SHARED_FLOAT) return equal_mixed(a->as.integer, b->as.number);
    if (a->type == SHARED_FLOAT && b->type == SHARED_INTEGER) return equal_mixed(b->as.integer, a->as.number);
    if (a->type != b->type) return false;
    switch (a->type) {
    case SHARED_INTEGER:
        return a->as.integer == b->as.integer;
    case SHARED_FLOAT:
        return a->as.number <= b->as.number && a->as.number >= b->as.number; /* NaN equals nothing */
    case SHARED_BOOLEAN:
        return a->as.boolean == b->as.boolean;
    case SHARED_STRING:
        return a->len == b->len && (a->len == 0 || memcmp(a->as.bytes, b->as.bytes, a->len) == 0);
    case SHARED_NONE:
    case SHARED_LIST:
        break;
    }
    return false;
}

static bool is_number(const shared_value *value)
{
    return value->type == SHARED_INTEGER || value->type == SHARED_FLOAT;
}

static double as_float(const shared_value *value)
{
    return value->type == SHARED_INTEGER ? (double)value->as.integer : value->as.number;
}

/* sum += value. False: it is no 64-bit integer. */
static bool add(shared_value *sum, const shared_value *value)
{
    if (sum->type == SHARED_FLOAT || value->type == SHARED_FLOAT) {
        *sum = (shared_value){.type = SHARED_FLOAT, .as.number = as_float(sum) + as_float(value)};
        return true;
    }
    int64_t a = sum->as.integer, b = value->as.integer;
    if (b > 0 ? a > INT64_MAX - b : a < INT64_MIN - b) return false;
    sum->as.integer = a + b;
    return true;
}

/* ---- Operations ---- */

shared_status shared_get(shared_dict *dict, shared_key key, shared_value *value, void *buffer, size_t room)
{
    access a = begin(dict, key);
    if (a.place == NULL) return end(&a, SHARED_ABSENT);
    return end(&a, give(value, &(*a.place)->value, buffer, room));
}

/* Stores a value where the key is or is to be. ttl_ns < 0: that of what was there stays. */
static shared_status store(const access *a, const shared_value *value, int64_t ttl_ns)
{
    if (a->place == NULL)
        return shared_table_add(a->table, a->hash, a->key, value, expiry(a, ttl_ns > 0 ? ttl_ns : 0), NULL);
    shared_status status = shared_table_replace(a->table, a->place, value);
    if (status == SHARED_OK && ttl_ns >= 0) shared_table_expire(a->table, *a->place, expiry(a, ttl_ns));
    return status;
}

shared_status shared_set(shared_dict *dict, shared_key key, const shared_value *value, int64_t ttl_ns, shared_mode mode)
{
    access a = begin(dict, key);
    shared_status status;
    do {
        status = mode == SHARED_ADD && a.place != NULL ? SHARED_PRESENT : store(&a, value, ttl_ns);
    } while (again(&a, status));
    return end_change(&a, status);
}

shared_status shared_incr(shared_dict *dict, shared_key key, shared_value *value, const shared_value *init,
                          int64_t ttl_ns)
{
    access a = begin(dict, key);
    shared_status status;
    shared_value sum;
    do {
        sum = a.place != NULL ? (*a.place)->value : *init;
        if (!is_number(&sum)) status = SHARED_TYPE;
        else if (!add(&sum, value)) status = SHARED_RANGE;
        else status = store(&a, &sum, a.place != NULL ? -1 : ttl_ns);
    } while (again(&a, status));
    if (status == SHARED_OK) *value = sum;
    return end_change(&a, status);
}

shared_status shared_cas(shared_dict *dict, shared_key key, const shared_value *expected, const shared_value *wanted)
{
    access a = begin(dict, key);
    shared_status status;
    do {
        bool is_equal = a.place != NULL ? equal(&(*a.place)->value, expected) : expected->type == SHARED_NONE;
        if (!is_equal) {
            status = SHARED_DIFFERS;
        } else if (wanted->type != SHARED_NONE) {
            status = store(&a, wanted, -1);
        } else {
            status = SHARED_OK;
            if (a.place != NULL) shared_table_remove(a.table, a.place);
        }
    } while (again(&a, status));
    return end_change(&a, status);
}

shared_status shared_delete(shared_dict *dict, shared_key key)
{
    access a = begin(dict, key);
    if (a.place == NULL) return end_change(&a, SHARED_ABSENT);
    shared_table_remove(a.table, a.place);
    return end_change(&a, SHARED_OK);
}

shared_status shared_expire(shared_dict *dict, shared_key key, int64_t ttl_ns)
{
    access a = begin(dict, key);
    if (a.place == NULL) return end(&a, SHARED_ABSENT);
    shared_table_expire(a.table, *a.place, expiry(&a, ttl_ns));
    return end(&a, SHARED_OK);
}

shared_status shared_ttl(shared_dict *dict, shared_key key, int64_t *ttl_ns)
{
    access a = begin(dict, key);
    if (a.place == NULL) return end(&a, SHARED_ABSENT);
    int64_t expires_ns = (*a.place)->expires_ns;
    *ttl_ns = expires_ns == INT64_MAX ? 0 : expires_ns - a.now_ns;
    return end(&a, SHARED_OK);
}

/* ---- Lists ---- */

static shared_status push(const access *a, const shared_value *value, shared_side side, size_t *count)
{
    static const shared_value list = {.type = SHARED_LIST};
    if (a->place != NULL) {
        if ((*a->place)->value.type != SHARED_LIST) return SHARED_TYPE;
        shared_status status = shared_entry_push(a->table, *a->place, value, side);
        *count = (*a->place)->value.len;
        return status;
    }
    shared_entry *made;
    shared_status status = shared_table_add(a->table, a->hash, a->key, &list, INT64_MAX, &made);
    if (status != SHARED_OK) return status;
    status = shared_entry_push(a->table, made, value, side);
    *count = 1;
    if (status == SHARED_OK) return SHARED_OK;
    shared_table_remove(a->table, shared_table_find(a->table, a->hash, a->key, a->now_ns)); /* no list is empty */
    return status;
}

shared_status shared_push(shared_dict *dict, shared_key key, const shared_value *value, shared_side side, size_t *count)
{
    access a = begin(dict, key);
    shared_status status;
    do {
        status = push(&a, value, side, count);
    } while (again(&a, status));
    return end_change(&a, status);
}

shared_status shared_pop(shared_dict *dict, shared_key key, shared_side side, shared_value *value, void *buffer,
                         size_t room)
{
    access a = begin(dict, key);
    if (a.place == NULL) return end(&a, SHARED_ABSENT);
    shared_entry *entry = *a.place;
    if (entry->value.type != SHARED_LIST) return end(&a, SHARED_TYPE);
    shared_status status = give(value, &entry->end[side]->value, buffer, room);
    if (status != SHARED_OK) return end(&a, status);
    shared_entry_drop(a.table, entry, side);
    if (entry->value.len == 0) shared_table_remove(a.table, a.place);
    return end_change(&a, SHARED_OK);
}

/* A list's value number index, from 0. */
static const shared_node *node_at(const shared_entry *list, size_t index)
{
    bool from_left = index < list->value.len / 2;
    const shared_node *node = list->end[from_left ? SHARED_LEFT : SHARED_RIGHT];
    for (size_t steps = from_left ? index : list->value.len - 1 - index; steps > 0; steps--) {
        node = node->link[from_left ? SHARED_RIGHT : SHARED_LEFT];
    }
    return node;
}

/* Copies values from that node on to the right into one block: first the values, then the bytes of strings. */
static shared_status copy_values(const shared_node *from, size_t count, shared_values *values)
{
    const shared_node *node = from;
    size_t bytes = count * sizeof(shared_value);
    for (size_t i = 0; i < count; i++, node = node->link[SHARED_RIGHT]) {
        if (node->value.type == SHARED_STRING) bytes += node->value.len;
    }
    shared_value *at = mem_alloc(bytes);
    if (at == NULL) return SHARED_MEMORY;
    uint8_t *strings = (uint8_t *)(at + count);
    *values = (shared_values){.at = at, .count = count};
    for (node = from; count > 0; at++, count--, node = node->link[SHARED_RIGHT]) {
        *at = node->value;
        if (at->type != SHARED_STRING) continue;
        if (at->len > 0) memcpy(strings, node->bytes, at->len);
        at->as.bytes = strings;
        strings += at->len;
    }
    return SHARED_OK;
}

shared_status shared_range(shared_dict *dict, shared_key key, int64_t first, int64_t last, shared_values *values)
{
    access a = begin(dict, key);
    *values = (shared_values){0};
    if (a.place == NULL) return end(&a, SHARED_ABSENT);
    const shared_entry *list = *a.place;
    if (list->value.type != SHARED_LIST) return end(&a, SHARED_TYPE);
    int64_t len = (int64_t)list->value.len;
    if (first < 0) first += len + 1;
    if (last < 0) last += len + 1;
    if (first < 1) first = 1;
    if (last > len) last = len;
    if (first > last) return end(&a, SHARED_OK);
    return end(&a, copy_values(node_at(list, (size_t)(first - 1)), (size_t)(last - first + 1), values));
}

/* ---- All keys ---- */

size_t shared_count(shared_dict *dict)
{
    size_t count = 0;
    for (size_t i = 0; i < SHARDS; i++) {
        shard *s = &dict->shards[i];
        os_mutex_lock(s->lock);
        shared_table_sweep(&s->table, SIZE_MAX, SIZE_MAX, dict->store->clock_ns());
        count += s->table.count;
        os_mutex_unlock(s->lock);
    }
    return count;
}

void shared_flush(shared_dict *dict)
{
    for (size_t i = 0; i < SHARDS; i++) {
        shard *s = &dict->shards[i];
        os_mutex_lock(s->lock);
        shared_table_clear(&s->table);
        os_mutex_unlock(s->lock);
    }
}

/* False: out of memory. */
static bool list_key(shared_keys *keys, size_t *room, const shared_entry *entry)
{
    uint32_t len = (uint32_t)entry->key_len;
    size_t bytes = sizeof(len) + len;
    if (*room - keys->len < bytes) {
        size_t wanted = *room * 2 + bytes;
        uint8_t *block = mem_realloc(keys->bytes, wanted);
        if (block == NULL) return false;
        keys->bytes = block;
        *room = wanted;
    }
    memcpy(keys->bytes + keys->len, &len, sizeof(len));
    memcpy(keys->bytes + keys->len + sizeof(len), entry->key, len);
    keys->len += bytes;
    keys->count++;
    return true;
}

static bool list_shard(shared_keys *keys, size_t *room, const shared_table *table, shared_key prefix, size_t limit,
                       int64_t now_ns)
{
    for (size_t i = 0; i < table->bucket_count; i++) {
        for (const shared_entry *entry = table->buckets[i]; entry != NULL; entry = entry->next) {
            if (keys->count == limit) return true;
            if (entry->expires_ns <= now_ns || entry->key_len < prefix.len) continue;
            if (prefix.len > 0 && memcmp(entry->key, prefix.bytes, prefix.len) != 0) continue;
            if (!list_key(keys, room, entry)) return false;
        }
    }
    return true;
}

shared_status shared_list(shared_dict *dict, shared_key prefix, size_t limit, shared_keys *keys)
{
    size_t room = 0;
    bool ok = true;
    *keys = (shared_keys){0};
    for (size_t i = 0; i < SHARDS && ok; i++) {
        shard *s = &dict->shards[i];
        os_mutex_lock(s->lock);
        ok = list_shard(keys, &room, &s->table, prefix, limit, dict->store->clock_ns());
        os_mutex_unlock(s->lock);
    }
    if (ok) return SHARED_OK;
    mem_free(keys->bytes);
    *keys = (shared_keys){0};
    return SHARED_MEMORY;
}
