/* io_backend.h - what a kernel has to offer to stand behind io.h: one table of functions, and the head
 * that every port begins with. Included by io.c and the io_*.c files only.
 *
 * The functions mean what io.h says of the verb with the same name. io.c has already asserted the
 * arguments, set op->socket and op->kind, cleared op->next and op->flags, and counts pending ops: a backend
 * reports through io_port_next and a submit's result, nothing else. next() gets a cleared packet and fills in op
 * and whatever is not 0, NULL or IO_SOCKET_NONE; io.c sets packet->kind from op->kind and makes the op idle.
 * open() gets options without zeros.
 */
#ifndef PORTICO_IO_BACKEND_H
#define PORTICO_IO_BACKEND_H

#include "io.h"

struct io_backend {
    const char *name;
    bool sends_late; /* see io_port_sends_late() */
    /* Does it work here? why says what failed. */
    bool (*probe)(char *why, size_t why_size);
    /* The port is allocated by the backend and begins with struct io_port. */
    io_status (*open)(io_port **port, const io_options *options);
    void (*close)(io_port *port);
    int64_t (*now)(io_port *port);
    io_status (*attach)(io_port *port, io_socket socket, bool is_udp);
    io_status (*accept)(io_port *port, io_accept_op *op, io_socket listener);
    io_status (*connect)(io_port *port, io_op *op, io_socket socket, const net_addr *peer);
    io_status (*recv)(io_port *port, io_op *op, io_socket socket, void *buffer, size_t len); /* NULL: lent */
    io_status (*readable)(io_port *port, io_op *op, io_socket socket);
    io_status (*send)(io_port *port, io_op *op, io_socket socket, const io_buf *bufs, uint32_t count);
    io_status (*send_now)(io_port *port, io_socket socket, const io_buf *bufs, uint32_t count,
                          size_t *bytes);                                        /* or NULL */
    io_status (*recv_from)(io_port *port, io_datagram_op *op, io_socket socket); /* into port->datagram */
    io_status (*send_to)(io_port *port, io_datagram_op *op, io_socket socket, const void *data, size_t len);
    io_status (*draw)(io_port *port, io_socket socket, void *buffer, size_t len, size_t *bytes);
    void (*cancel)(io_port *port, io_socket socket);
    io_status (*shutdown)(io_port *port, io_socket socket);
    void (*close_socket)(io_port *port, io_socket socket, bool abort);
    void (*post)(io_port *port, io_op *op); /* any thread */
    io_status (*wait)(io_port *port, int64_t timeout_ns);
    bool (*next)(io_port *port, io_packet *packet);
};

/* What this system has, best first, ended by NULL: io_backends_posix.c or io_backends_win.c. */
extern const io_backend *const io_backends_all[];

extern const io_backend io_backend_iocp;
extern const io_backend io_backend_uring;
extern const io_backend io_backend_epoll;

struct io_port {
    const io_backend *backend;
    uint32_t pending;  /* submitted, packet not taken; kept by io.c; posts are not counted */
    uint8_t *datagram; /* IO_DATAGRAM_BYTES that are lent with datagrams; made by the first io_recv_from() */
};

/* A whole datagram always fits: over IPv6 one can have 20 bytes more than IO_DATAGRAM_MAX. */
enum { IO_DATAGRAM_BYTES = 65536 };

enum { IO_ROUND_MAX = 256 }; /* packets in one round of io_port_next(), so that timers get their turn */

/* Has the lines of memory fetched that an op's packet will need: the op, and what its owner keeps behind it. With more connections
 * than fit the caches the wait for them is most of what a message costs outside of the kernel. */
static inline void io_op_prefetch(const io_op *op)
{
    enum { LINES = 3, LINE_BYTES = 64 };
    for (int line = 0; line < LINES; line++) __builtin_prefetch((const char *)op + line * LINE_BYTES, 1);
}

/* A queue of ops through op->next, in order. */
typedef struct io_queue {
    io_op *head;
    io_op *tail;
} io_queue;

static inline void io_queue_push(io_queue *queue, io_op *op)
{
    op->next = NULL;
    if (queue->tail != NULL) queue->tail->next = op;
    else queue->head = op;
    queue->tail = op;
}

static inline io_op *io_queue_pop(io_queue *queue)
{
    io_op *op = queue->head;
    if (op == NULL) return NULL;
    queue->head = op->next;
    if (queue->head == NULL) queue->tail = NULL;
    op->next = NULL;
    return op;
}

#endif
