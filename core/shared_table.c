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

shared_status shared_block_open(void **block, shared_account *account, size_t bytes)
{
    size_t before = atomic_fetch_add_explicit(&account->used, bytes, memory_order_relaxed);
    shared_status status = SHARED_OK;
    if (bytes > account->max || before > account->max - bytes) status = SHARED_FULL;
    else if ((*block = mem_alloc(bytes)) == NULL) status = SHARED_MEMORY;
    if (status != SHARED_OK) atomic_fetch_sub_explicit(&account->used, bytes, memory_order_relaxed);
    return status;
}

void shared_block_close(shared_account *account, void *block, size_t bytes)
{
    atomic_fetch_sub_explicit(&account->used, bytes, memory_order_relaxed);
    mem_free(block);
}

/* ---- Lists ---- */

static size_t text_bytes(const shared_value *value)
{
    return value->type == SHARED_STRING ? value->len : 0;
}

static void close_node(shared_account *account, shared_node *node)
{
    shared_block_close(account, node, sizeof(*node) + text_bytes(&node->value));
}

shared_status shared_entry_push(shared_table *table, shared_entry *entry, const shared_value *value, shared_side side)
{
    void *block;
    size_t bytes = text_bytes(value);
    shared_status status = shared_block_open(&block, table->account, sizeof(shared_node) + bytes);
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
    close_node(table->account, node);
}

/* ---- Entries ---- */

static size_t entry_bytes(const shared_entry *entry)
{
    return sizeof(*entry) + entry->key_len + entry->room;
}

static void close_entry(shared_table *table, shared_entry *entry)
{
    while (entry->value.type == SHARED_LIST && entry->value.len > 0) shared_entry_drop(table, entry, SHARED_LEFT);
    shared_block_close(table->account, entry, entry_bytes(entry));
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

static shared_status open_entry(shared_entry **made, shared_table *table, uint64_t hash, shared_key key,
                                const shared_value *value)
{
    void *block;
    size_t room = text_bytes(value);
    shared_status status = shared_block_open(&block, table->account, sizeof(shared_entry) + key.len + room);
    if (status != SHARED_OK) return status;
    shared_entry *entry = block;
    *entry = (shared_entry){.hash = hash, .expires_ns = INT64_MAX, .room = room, .key_len = key.len};
    if (key.len > 0) memcpy(entry->key, key.bytes, key.len);
    put_value(entry, value);
    *made = entry;
    return SHARED_OK;
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
    shared_status status = shared_block_open(&block, table->account, bucket_count * sizeof(*table->buckets));
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
    shared_entry *entry;
    shared_status status = open_entry(&entry, table, hash, key, value);
    if (status != SHARED_OK) return status;
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
    shared_entry *entry = *place, *made;
    size_t bytes = text_bytes(value);
    assert(value->type != SHARED_LIST);
    if (entry->value.type != SHARED_LIST && bytes <= entry->room && entry->room - bytes <= bytes + WASTE) {
        put_value(entry, value);
        return SHARED_OK;
    }
    shared_key key = {entry->key, entry->key_len};
    shared_status status = open_entry(&made, table, entry->hash, key, value);
    if (status != SHARED_OK) return status;
    made->next = entry->next;
    made->expires_ns = entry->expires_ns;
    *place = made;
    close_entry(table, entry);
    return SHARED_OK;
}

/* Takes it out, without a look at the table's size. */
static void unlink_entry(shared_table *table, shared_entry **place)
{
    shared_entry *entry = *place;
    *place = entry->next;
    table->count--;
    if (entry->expires_ns != INT64_MAX) table->mortal--;
    close_entry(table, entry);
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
    if (expires_ns != INT64_MAX) table->mortal++;
}

void shared_table_sweep(shared_table *table, size_t buckets, int64_t now_ns)
{
    if (table->mortal == 0) return;
    if (buckets > table->bucket_count) buckets = table->bucket_count;
    for (; buckets > 0 && table->mortal > 0; buckets--) {
        shared_entry **place = &table->buckets[table->hand++ & (table->bucket_count - 1)];
        while (*place != NULL) {
            if ((*place)->expires_ns <= now_ns) unlink_entry(table, place);
            else place = &(*place)->next;
        }
    }
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
