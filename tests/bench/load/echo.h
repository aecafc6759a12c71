/* echo.h - the connections and threads of MODE_ECHO, and what its engines have in common.
 *
 * A connection has a slot per message in flight, which lie behind each other in memory: what has been made and not been sent is
 * one piece, or two where it passes the end. */
#ifndef LOAD_ECHO_H
#define LOAD_ECHO_H

#include "clock.h"
#include "histogram.h"
#include "message.h"
#include "run.h"

#include <pthread.h>

struct conn {
    int fd;
    bool sending; /* has to wait for the kernel before it may send */
    bool dead;
    uint32_t id;
    size_t seen;          /* bytes of the current answer */
    uint64_t made;        /* messages */
    uint64_t sent_bytes;  /* given to the kernel */
    uint64_t answered;    /* messages */
    char *messages;       /* options.depth slots of options.size bytes */
    uint64_t *made_ticks; /* when, per slot */
};

struct echo_worker {
    pthread_t thread;
    int count; /* of conns */
    struct conn *conns;
    struct histogram latencies;
    uint64_t messages; /* answered while measuring */
    uint64_t errors, mismatches;
    uint64_t progress; /* pieces received; the main thread looks at it and at alive, which need not be exact */
    int alive;         /* connections */
    struct trouble trouble;

    /* With a rate: connections that have room, in turn, and when the next message is due. */
    uint32_t *ready;
    unsigned ready_head, ready_tail;
    uint64_t due_ticks, step_ticks, missed;
};

enum { READY_SLOTS = 1 << 20 };

typedef void echo_send(void *engine, struct conn *c);

void echo_by_epoll(struct echo_worker *w);
void echo_by_uring(struct echo_worker *w);

/* The connection ends, and its thread has an error. */
void conn_fail(struct echo_worker *w, struct conn *c, const char *what, int code);

/* Compares what has come with what is expected, and makes the messages that go out for it. */
void conn_take(struct echo_worker *w, struct conn *c, const char *data, size_t len);

/* Makes and sends the messages that are due. Returns for how many nanoseconds there is nothing to do. */
int64_t echo_due(struct echo_worker *w, echo_send *send, void *engine);

static inline void conn_make(struct conn *c, uint64_t now_ticks)
{
    size_t slot = (size_t)(c->made % (unsigned)options.depth);
    message_number(c->messages + slot * options.size, c->id, c->made);
    c->made_ticks[slot] = now_ticks;
    c->made++;
}

/* What may be sent now, in one piece: its length, 0 when there is nothing. */
static inline size_t conn_unsent(struct conn *c, char **data)
{
    uint64_t have = c->made * options.size - c->sent_bytes;
    size_t all = (size_t)options.depth * options.size, at = (size_t)(c->sent_bytes % all);
    *data = c->messages + at;
    return have < all - at ? (size_t)have : all - at;
}

#endif
