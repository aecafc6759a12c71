/* sendq.c - a list of chunks; bytes enter at the tail's end and leave at the head's start. */
#include "sendq.h"

#include "mem.h"

#include <assert.h>
#include <string.h>

struct sendq_chunk {
    sendq_chunk *next;
    uint32_t start; /* first byte still waiting */
    uint32_t end;   /* after the last */
    uint32_t room;  /* of bytes[] */
    uint8_t bytes[];
};

static_assert(sizeof(sendq_chunk) + SENDQ_CHUNK_BYTES <= 4096, "an ordinary chunk fits in one 4 KiB block");

static sendq_chunk *chunk_open(sendq_cache *cache, size_t len)
{
    sendq_chunk *chunk = cache->free;
    if (len <= SENDQ_CHUNK_BYTES && chunk != NULL) {
        cache->free = chunk->next;
        cache->count--;
    } else {
        size_t room = len > SENDQ_CHUNK_BYTES ? len : SENDQ_CHUNK_BYTES;
        if (room > UINT32_MAX) return NULL;
        chunk = mem_alloc(sizeof(*chunk) + room);
        if (chunk == NULL) return NULL;
        chunk->room = (uint32_t)room;
    }
    chunk->next = NULL;
    chunk->start = chunk->end = 0;
    return chunk;
}

static void chunk_close(sendq_chunk *chunk, sendq_cache *cache)
{
    if (chunk->room == SENDQ_CHUNK_BYTES && cache->count < SENDQ_CACHE_MAX) {
        chunk->next = cache->free;
        cache->free = chunk;
        cache->count++;
    } else {
        mem_free(chunk);
    }
}

void sendq_cache_close(sendq_cache *cache)
{
    while (cache->free != NULL) {
        sendq_chunk *chunk = cache->free;
        cache->free = chunk->next;
        mem_free(chunk);
    }
    cache->count = 0;
}

bool sendq_push(sendq *queue, sendq_cache *cache, const void *data, size_t len)
{
    const uint8_t *from = data;
    sendq_chunk *tail = queue->tail;
    size_t fits = tail == NULL ? 0 : tail->room - tail->end;
    if (fits > len) fits = len;
    size_t rest = len - fits;
    if (rest > 0) { /* first what can fail, so that all is queued or nothing */
        sendq_chunk *chunk = chunk_open(cache, rest);
        if (chunk == NULL) return false;
        memcpy(chunk->bytes, from + fits, rest);
        chunk->end = (uint32_t)rest;
        if (tail == NULL) queue->head = chunk;
        else tail->next = chunk;
        queue->tail = chunk;
    }
    if (fits > 0) {
        memcpy(tail->bytes + tail->end, from, fits);
        tail->end += (uint32_t)fits;
    }
    queue->bytes += len;
    return true;
}

uint32_t sendq_view(const sendq *queue, io_buf *bufs)
{
    uint32_t count = 0;
    size_t left = SENDQ_VIEW_BYTES;
    for (const sendq_chunk *chunk = queue->head; chunk != NULL && count < IO_BUFS_MAX && left > 0;
         chunk = chunk->next) {
        assert(chunk->end > chunk->start);
        size_t here = chunk->end - chunk->start;
        bufs[count].base = chunk->bytes + chunk->start;
        bufs[count].len = here < left ? here : left;
        left -= bufs[count].len;
        count++;
    }
    return count;
}

void sendq_consume(sendq *queue, sendq_cache *cache, size_t bytes)
{
    assert(bytes <= queue->bytes);
    if (bytes == queue->bytes && queue->head == queue->tail && bytes > 0) { /* most times */
        chunk_close(queue->head, cache);
        *queue = (sendq){0};
        return;
    }
    queue->bytes -= bytes;
    while (bytes > 0) {
        sendq_chunk *chunk = queue->head;
        size_t here = chunk->end - chunk->start;
        if (bytes < here) {
            chunk->start += (uint32_t)bytes;
            return;
        }
        bytes -= here;
        queue->head = chunk->next;
        if (queue->head == NULL) queue->tail = NULL;
        chunk_close(chunk, cache);
    }
}

void sendq_clear(sendq *queue, sendq_cache *cache)
{
    sendq_consume(queue, cache, queue->bytes);
    assert(queue->head == NULL && queue->tail == NULL);
}
