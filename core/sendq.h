/* sendq.h - bytes waiting to go out on one connection, in chunks, with a view for gather sends.
 *
 * Small pieces are gathered in chunks of SENDQ_CHUNK_BYTES from the worker's cache; a large one gets a chunk of
 * its own size. Bytes that were handed to io_send() stay in place until sendq_consume().
 */
#ifndef PORTICO_SENDQ_H
#define PORTICO_SENDQ_H

#include "io.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SENDQ_CHUNK_BYTES = 4096 - 32, /* payload of an ordinary chunk: with its head one 4 KiB block */
    SENDQ_CACHE_MAX = 256,         /* free chunks that a worker keeps */
    SENDQ_VIEW_BYTES = 256 * 1024  /* in one view: IOCP and io_uring say nothing of a send until all of it is taken, and
                                      a slow peer must be seen to take some */
};

typedef struct sendq_chunk sendq_chunk;

/* Free chunks of one worker. */
typedef struct sendq_cache {
    sendq_chunk *free;
    uint32_t count;
} sendq_cache;

typedef struct sendq {
    size_t bytes; /* waiting, those in flight included */
    sendq_chunk *head;
    sendq_chunk *tail;
} sendq;

void sendq_cache_close(sendq_cache *cache);

/* Copies len bytes to the end. False: out of memory, and nothing was queued. */
bool sendq_push(sendq *queue, sendq_cache *cache, const void *data, size_t len);

/* Describes the front of the queue, at most IO_BUFS_MAX buffers and SENDQ_VIEW_BYTES. Returns how many buffers; 0 when empty. */
uint32_t sendq_view(const sendq *queue, io_buf *bufs);

/* The first bytes of the queue have left. bytes <= queue->bytes. */
void sendq_consume(sendq *queue, sendq_cache *cache, size_t bytes);

/* Drops everything; nothing of it may be in flight. */
void sendq_clear(sendq *queue, sendq_cache *cache);

#endif
