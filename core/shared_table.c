/* shared_table.c - see shared_table.h. Chained buckets, as many as there are entries, more or less. */
#include "shared_table.h"

#include "mem.h"

#include <assert.h>
#include <string.h>

enum {
    BUCKETS_MIN = 8,
    SPARSE = 8, /* with fewer entries than this part of the buckets the table shrinks */
    WASTE = 64  /* bytes of an entry's room that may lie idle, and as many as are used */
};

/* ---- Blocks ---- */

bool shared_account_fits(const shared_account *account, size_t bytes)
{
    return bytes <= account->max && atomic_load_explicit(&account->used, memory_order_relaxed) <= account->max - bytes;
}

static void give_back(shared_account *account, size_t bytes)
{
    atomic_fetch_sub_explicit(&account->used, bytes, memory_order_relaxed);
}

/* OK, FULL. */
static shared_status take(shared_account *account, size_t bytes)
{
    size_t before = atomic_fetch_add_explicit(&account->used, bytes, memory_order_relaxed);
    if (bytes <= account->max && before <= account->max - bytes) return SHARED_OK;
    give_back(account, bytes);
    return SHARED_FULL;
}

shared_status shared_block_open(void **block, shared_account *account, size_t bytes)
{
    shared_status status = take(account, bytes);
    if (status != SHARED_OK) return status;
    *block = mem_alloc(bytes);
    if (*block != NULL) return SHARED_OK;
    give_back(account, bytes);
    return SHARED_MEMORY;
}

void shared_block_close(shared_account *account, void *block, size_t bytes)
{
    give_back(account, bytes);
    mem_free(block);
}

/* Keeps in mind how much there was no room for. */
static shared_status note(shared_table *table, size_t bytes, shared_status status)
{
    if (status == SHARED_FULL) table->refused = bytes;
    return status;
}

static shared_status open_block(void **block, shared_table *table, size_t bytes)
{
    return note(table, bytes, shared_block_open(block, table->account, bytes));
}

/* ---- Lists ---- */

static size_t text_bytes(const shared_value *value)
{
    return value->type == SHARED_STRING ? value->len : 0;
}

static size_t node_bytes(const shared_node *node)
{
    return sizeof(*node) + text_bytes(&node->value);
}

shared_status shared_entry_push(shared_table *table, shared_entry *entry, const shared_value *value, shared_side side)
{
    void *block;
    size_t bytes = text_bytes(value);
    shared_status status = open_block(&block, table, sizeof(shared_node) + bytes);
    if (status != SHARED_OK) return status;
    shared_node *node = block;
    node->value = *value;
    if (value->type == SHARED_STRING) {
        if (bytes > 0) memcpy(node->bytes, value->as.bytes, bytes);
        node->value.as.bytes = node->bytes;
    }
    shared_node *beside = entry->end[side];
    node->link[side] = NULL;
    node->link[!side] = beside;
    if (beside != NULL) beside->link[side] = node;
    else entry->end[!side] = node;
    entry->end[side] = node;
    entry->value.len++;
    return SHARED_OK;
}

void shared_entry_drop(shared_table *table, shared_entry *entry, shared_side side)
{
    shared_node *node = entry->end[side], *beside = node->link[!side];
    entry->end[side] = beside;
    if (beside != NULL) beside->link[side] = NULL;
    else entry->end[!side] = NULL;
    entry->value.len--;
    shared_block_close(table->account, node, node_bytes(node));
}

/* ---- Entries ---- */

/* With its list. */
static size_t entry_bytes(const shared_entry *entry)
{
    size_t bytes = sizeof(*entry) + entry->key_len + entry->room;
    for (const shared_node *node = entry->end[SHARED_LEFT]; node != NULL; node = node->link[SHARED_RIGHT]) {
        bytes += node_bytes(node);
    }
    return bytes;
}

/* What it was in bytes is still to be given back. */
static size_t free_entry(shared_entry *entry)
{
    size_t bytes = sizeof(*entry) + entry->key_len + entry->room;
    for (shared_node *node = entry->end[SHARED_LEFT], *next; node != NULL; node = next) {
        next = node->link[SHARED_RIGHT];
        bytes += node_bytes(node);
        mem_free(node);
    }
    mem_free(entry);
    return bytes;
}

/* The string of a value goes behind the key. */
static void put_value(shared_entry *entry, const shared_value *value)
{
    entry->value = *value;
    entry->end[SHARED_LEFT] = entry->end[SHARED_RIGHT] = NULL;
    if (value->type == SHARED_LIST) entry->value.len = 0;
    if (value->type != SHARED_STRING) return;
    char *text = entry->key + entry->key_len;
    if (value->len > 0) memmove(text, value->as.bytes, value->len); /* it may be its own */
    entry->value.as.bytes = text;
}

/* In a block of that size. */
static shared_entry *make_entry(void *block, uint64_t hash, shared_key key, const shared_value *value)
{
    shared_entry *entry = block;
    *entry = (shared_entry){.hash = hash, .expires_ns = INT64_MAX, .room = text_bytes(value), .key_len = key.len};
    if (key.len > 0) memcpy(entry->key, key.bytes, key.len);
    put_value(entry, value);
    return entry;
}

/* ---- The table ---- */

static shared_entry **bucket_of(const shared_table *table, uint64_t hash)
{
    return &table->buckets[hash & (table->bucket_count - 1)];
}

/* With so many buckets. When there is no room for them it stays as it is, which is slower and not wrong. */
static shared_status resize(shared_table *table, size_t bucket_count)
{
    void *block;
    shared_table old = *table;
    shared_status status = open_block(&block, table, bucket_count * sizeof(*table->buckets));
    if (status != SHARED_OK) return status;
    table->buckets = block;
    table->bucket_count = bucket_count;
    table->hand = 0;
    for (size_t i = 0; i < bucket_count; i++) table->buckets[i] = NULL;
    for (size_t i = 0; i < old.bucket_count; i++) {
        for (shared_entry *entry = old.buckets[i], *next; entry != NULL; entry = next) {
            next = entry->next;
            shared_entry **bucket = bucket_of(table, entry->hash);
            entry->next = *bucket;
            *bucket = entry;
        }
    }
    if (old.buckets != NULL) shared_block_close(table->account, old.buckets, old.bucket_count * sizeof(*old.buckets));
    return SHARED_OK;
}

shared_entry **shared_table_find(shared_table *table, uint64_t hash, shared_key key, int64_t now_ns)
{
    if (table->buckets == NULL) return NULL;
    for (shared_entry **place = bucket_of(table, hash); *place != NULL; place = &(*place)->next) {
        const shared_entry *entry = *place;
        if (entry->hash != hash || entry->key_len != key.len || memcmp(entry->key, key.bytes, key.len) != 0) continue;
        if (entry->expires_ns > now_ns) return place;
        shared_table_remove(table, place);
        return NULL;
    }
    return NULL;
}

shared_status shared_table_add(shared_table *table, uint64_t hash, shared_key key, const shared_value *value,
                               int64_t expires_ns, shared_entry **made)
{
    if (table->count >= table->bucket_count) {
        shared_status status = resize(table, table->bucket_count > 0 ? table->bucket_count * 2 : BUCKETS_MIN);
        if (status != SHARED_OK && table->buckets == NULL) return status;
    }
    void *block;
    shared_status status = open_block(&block, table, sizeof(shared_entry) + key.len + text_bytes(value));
    if (status != SHARED_OK) return status;
    shared_entry *entry = make_entry(block, hash, key, value);
    shared_entry **bucket = bucket_of(table, hash);
    entry->next = *bucket;
    *bucket = entry;
    table->count++;
    shared_table_expire(table, entry, expires_ns);
    if (made != NULL) *made = entry;
    return SHARED_OK;
}

shared_status shared_table_replace(shared_table *table, shared_entry **place, const shared_value *value)
{
    shared_entry *entry = *place;
    size_t bytes = text_bytes(value);
    assert(value->type != SHARED_LIST);
    if (entry->value.type != SHARED_LIST && bytes <= entry->room && entry->room - bytes <= bytes + WASTE) {
        put_value(entry, value);
        return SHARED_OK;
    }
    /* Only what it grows by has to fit: beside each other the two are but for a moment. */
    size_t held = entry_bytes(entry), wanted = sizeof(*entry) + entry->key_len + bytes;
    size_t more = wanted > held ? wanted - held : 0;
    shared_status status = more > 0 ? note(table, more, take(table->account, more)) : SHARED_OK;
    if (status != SHARED_OK) return status;
    void *block = mem_alloc(wanted);
    if (block == NULL) {
        give_back(table->account, more);
        return SHARED_MEMORY;
    }
    shared_entry *made = make_entry(block, entry->hash, (shared_key){entry->key, entry->key_len}, value);
    made->next = entry->next;
    made->expires_ns = entry->expires_ns;
    *place = made;
    free_entry(entry);
    if (held > wanted) give_back(table->account, held - wanted);
    return SHARED_OK;
}

/* Takes it out, without a look at the table's size. */
static void unlink_entry(shared_table *table, shared_entry **place)
{
    shared_entry *entry = *place;
    *place = entry->next;
    table->count--;
    if (entry->expires_ns != INT64_MAX) table->mortal--;
    give_back(table->account, free_entry(entry));
}

static void shrink(shared_table *table)
{
    if (table->count == 0) shared_table_clear(table);
    else if (table->bucket_count > BUCKETS_MIN && table->count < table->bucket_count / SPARSE)
        (void)resize(table, table->bucket_count / 2); /* without memory for it, later */
}

void shared_table_remove(shared_table *table, shared_entry **place)
{
    unlink_entry(table, place);
    shrink(table);
}

void shared_table_expire(shared_table *table, shared_entry *entry, int64_t expires_ns)
{
    if (entry->expires_ns != INT64_MAX) table->mortal--;
    entry->expires_ns = expires_ns;
    if (expires_ns == INT64_MAX) return;
    if (table->mortal++ == 0 || expires_ns < table->soonest_ns) table->soonest_ns = expires_ns;
}

void shared_table_sweep(shared_table *table, size_t buckets, size_t bytes, int64_t now_ns)
{
    if (table->mortal == 0 || table->soonest_ns > now_ns) return;
    bool is_whole = buckets >= table->bucket_count;
    int64_t soonest_ns = INT64_MAX;
    if (is_whole) buckets = table->bucket_count;
    for (; buckets > 0 && table->mortal > 0 && !shared_account_fits(table->account, bytes); buckets--) {
        shared_entry **place = &table->buckets[table->hand++ & (table->bucket_count - 1)];
        while (*place != NULL) {
            int64_t expires_ns = (*place)->expires_ns;
            if (expires_ns <= now_ns) {
                unlink_entry(table, place);
                continue;
            }
            if (expires_ns < soonest_ns) soonest_ns = expires_ns;
            place = &(*place)->next;
        }
    }
    if (is_whole && buckets == 0) table->soonest_ns = soonest_ns;
    shrink(table);
}

void shared_table_clear(shared_table *table)
{
    for (size_t i = 0; i < table->bucket_count; i++) {
        while (table->buckets[i] != NULL) unlink_entry(table, &table->buckets[i]);
    }
    if (table->buckets != NULL) {
        shared_block_close(table->account, table->buckets, table->bucket_count * sizeof(*table->buckets));
    }
    table->buckets = NULL;
    table->bucket_count = table->hand = 0;
}
