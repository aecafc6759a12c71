/* io_epoll.h - what the files of the epoll backend share: the port, and its table of sockets. Included by io_epoll*.c only. Not the
 * kernel's header of that name, which is <sys/epoll.h>.
 *
 *   io_epoll.c         edges, packets, and all that is not a stream's bytes
 *   io_epoll_stream.c  receiving and sending these
 */
#ifndef PORTICO_IO_EPOLL_H
#define PORTICO_IO_EPOLL_H

#include "io_backend.h"
#include "io_posix.h"
#include "io_slots.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

enum {
    EVENTS_MAX = 256,      /* edges taken with one epoll_wait() */
    RECEIVED_MAX = 16,     /* receives one after the other */
    RECEIVED_SMALL = 1024, /* bytes; … as long as they are no more than that */
    RECEIVED_ALIGN = 64
};

/* What op->flags says of a pending op. */
enum op_state {
    OP_WAITING, /* in the table, for an edge */
    OP_TRY,     /* in the table and on the queue: to be attempted */
    OP_DONE     /* on the queue, no longer in the table: op->result and op->bytes are final */
};

/* Words of op->native. */
enum {
    WORD_BUFFER,             /* receive: the caller's buffer, 0 for the scratch buffer; datagram: its bytes */
    WORD_LEN,                /* the size of that */
    WORD_CHAIN = WORD_BUFFER /* accept: the next accept pending on the same listener */
};

enum entry_flag {
    ENTRY_LISTENER = 1, /* in and out are head and tail of a chain of accepts, the head alone is attempted */
    ENTRY_READABLE = 2, /* receiving or accepting may succeed; cleared by finding nothing */
    ENTRY_WRITABLE = 4, /* sending may succeed */
    ENTRY_HUNG = 8,     /* FIN or an error is there, behind whatever bytes remain: stays readable for good */
    ENTRY_WATCHED = 16  /* edges tell of room to send, too */
};

/* What the port knows of a socket that is attached to it. */
typedef struct entry {
    io_op *in;           /* the pending accept, recv or readable */
    io_op *out;          /* the pending send or connect */
    uint32_t generation; /* of this port only: tells a late edge from those of the descriptor's next owner */
    uint16_t error;      /* an errno that the kernel has told once and will not tell again */
    uint8_t flags;
} entry;

_Static_assert(sizeof(entry) <= 24, "an idle connection costs one of these, and its descriptor's number");

typedef struct epoll_port {
    io_port head;
    int epoll;
    io_queue queue;
    io_queue received; /* of lent receives that have been done: what they brought lies in scratch */
    io_slots attached; /* of entries */
    uint32_t taken;    /* packets of this round */
    uint8_t *scratch;
    size_t recv_bytes; /* of one receive; scratch has room for RECEIVED_SMALL of each receive before the last */
    io_mailbox mailbox;
    struct epoll_event events[EVENTS_MAX];
} epoll_port;

static inline epoll_port *to_epoll(io_port *port)
{
    return (epoll_port *)(void *)port;
}

/* NULL: it is not attached to this port. */
static inline entry *find_entry(const epoll_port *port, io_socket socket)
{
    return io_slots_find(&port->attached, socket, sizeof(entry));
}

static inline entry *attached_entry(const epoll_port *port, io_socket socket)
{
    return io_slots_of(&port->attached, socket, sizeof(entry));
}

static inline void queue_try(epoll_port *port, io_op *op)
{
    assert(op->flags == OP_WAITING);
    op->flags = OP_TRY;
    io_queue_push(&port->queue, op);
}

/* The op has left the table. It may be on the queue already, in the state OP_TRY. */
static inline void queue_done(epoll_port *port, io_op *op, int native, uint32_t bytes)
{
    bool queued = op->flags == OP_TRY;
    op->flags = OP_DONE;
    op->result = native;
    op->bytes = bytes;
    if (!queued) io_queue_push(&port->queue, op);
}

static inline void note_error(entry *e, int native)
{
    e->error = (uint16_t)io_error_keep(e->error, native);
}

/* ---- io_epoll.c ---- */
/* The op waits for room to send, or for the end of a connect. What is there already comes with a first edge. */
void epoll_wait_out(epoll_port *port, entry *e, io_op *op);

/* ---- io_epoll_stream.c: what io_backend's functions of these names are ---- */
io_status epoll_recv(io_port *head, io_op *op, io_socket socket, void *buffer, size_t len);
io_status epoll_readable(io_port *head, io_op *op, io_socket socket);
io_status epoll_send(io_port *head, io_op *op, io_socket socket, const io_buf *bufs, uint32_t count);
io_status epoll_send_now(io_port *head, io_socket socket, const io_buf *bufs, uint32_t count, size_t *bytes);
io_status epoll_draw(io_port *head, io_socket socket, void *buffer, size_t len, size_t *bytes);
/* Attempts the lent receives at the head of the queue, and puts those that brought something on the list of what is received, which is
 * empty. */
void epoll_recv_round(epoll_port *port);
/* Attempts of what is pending. True: a packet. False: the op waits again. */
bool epoll_try_recv(entry *e, io_op *op, io_packet *packet);
bool epoll_try_readable(entry *e, io_op *op, io_packet *packet);

#endif
