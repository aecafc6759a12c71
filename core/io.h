/* io.h - completion ports: submit an operation, later take its completion packet.
 *
 * One port per worker thread. io_iocp.c, io_uring.c and io_epoll.c implement this header over a
 * kernel; a test can put a simulated kernel behind it.
 *
 * The contract, the same on every backend (tests/contract runs one set of tests against all):
 *   1. A submit that returns IO_OK yields exactly one packet, from a later io_port_next() on the
 *      same port. A submit that returns anything else yields none. A submit never calls back.
 *   2. From submit to packet, the op and all bytes its buffers name belong to the port. (The array of
 *      io_buf itself is read during the submit and may be on the caller's stack.)
 *   3. Per socket at most one of io_recv, io_recv_into, io_readable, io_recv_from, io_connect and one of io_send,
 *      io_send_to are pending; a listener may have many accepts.
 *   4. io_cancel() frees nothing: every pending op still yields its packet, with IO_CANCELED or with
 *      the result it reached first. io_close() only when nothing is pending on the socket.
 *   5. io_port_post() may be called from any thread; everything else by the thread that opened the port.
 *   6. Packets are taken one at a time (io_port_wait(), then io_port_next() until it says false), so a
 *      handler may submit, cancel or close while others of the batch still wait. One round of
 *      io_port_next() ends after a bounded number of packets, whatever handlers submit meanwhile.
 *
 * A packet's status is IO_OK or an error of that op; bytes is what was moved, whatever the status.
 */
#ifndef PORTICO_IO_H
#define PORTICO_IO_H

#include "io_types.h"
#include "net.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    IO_BUFS_MAX = 16,        /* buffers in one io_send() */
    IO_DATAGRAM_MAX = 65507, /* bytes of one datagram: what UDP over IPv4 can carry */
#ifdef _WIN32
    IO_OP_NATIVE_WORDS = 4 /* an OVERLAPPED; the backend asserts its size */
#else
    IO_OP_NATIVE_WORDS = 2 /* a connection has two ops: each word is 16 bytes of it */
#endif
};

typedef enum io_kind {
    IO_IDLE, /* exactly when the op may be submitted */
    IO_ACCEPT,
    IO_CONNECT,
    IO_RECV,
    IO_READABLE,
    IO_SEND,
    IO_RECV_FROM,
    IO_SEND_TO,
    IO_POST
} io_kind;

typedef struct io_port io_port;
typedef struct io_backend io_backend;

typedef struct io_buf {
    const void *base;
    size_t len; /* bytes */
} io_buf;

/* One operation in flight. Embed it, zeroed, in its owner; container_of() leads back. Everything but
 * kind is the backend's. */
typedef struct io_op {
    uintptr_t native[IO_OP_NATIVE_WORDS]; /* OVERLAPPED; elsewhere whatever the backend keeps here */
    struct io_op *next;                   /* link for the backend's queues */
    io_socket socket;
    int32_t result; /* a completion that waits in a backend's queue: status or native code, … */
    uint32_t bytes; /* … and its byte count */
    uint8_t kind;   /* an io_kind */
    uint8_t flags;  /* backend's */
} io_op;

/* An accept also holds the socket made ahead (Windows), the two addresses that AcceptEx writes, and
 * on a good packet the peer's address. */
typedef struct io_accept_op {
    io_op op;
    io_socket listener;
    io_socket accepted;
    net_addr peer;
    uint32_t peer_bytes;
    unsigned char addresses[2 * (128 + 16)];
} io_accept_op;

/* One datagram under way. */
typedef struct io_datagram_op {
    io_op op;
    net_addr peer; /* who has sent it; to whom it is sent, none (all zero) on a connected socket */
} io_datagram_op;

typedef struct io_packet {
    io_op *op;    /* idle again: it may be resubmitted at once */
    io_kind kind; /* what completed */
    io_status status;
    int native;          /* the system's code when status is an error, for the log; else 0 */
    uint32_t bytes;      /* moved; 0 on a good IO_RECV: end of stream; 0 on a good IO_SEND: submit again */
    const uint8_t *data; /* IO_RECV: the bytes. From io_recv() lent by the port until the next
                            io_port_next() or io_port_wait(), also from io_recv_from(); from io_recv_into()
                            the caller's buffer */
    io_socket accepted;  /* IO_ACCEPT: the caller's from here on, not yet attached; else IO_SOCKET_NONE */
} io_packet;

typedef struct io_options {
    uint32_t recv_bytes;   /* size of one lent receive; 0 = IO_RECV_BYTES */
    uint32_t recv_buffers; /* io_uring: provided buffers, a power of two; 0 = IO_RECV_BUFFERS */
    uint32_t entries;      /* io_uring: submission queue; 0 = IO_ENTRIES */
    bool no_connectex;     /* IOCP: behave as if ConnectEx were missing, for the test of the fallback */
    bool no_skip;          /* IOCP: let a success that comes at once leave a packet too, for the test of that mode */
} io_options;

/* A receive of 16 KiB does not fill its buffer: one that does is followed by another call, to see whether that was all. */
enum { IO_RECV_BYTES = 16384 + 64, IO_RECV_BUFFERS = 256, IO_ENTRIES = 1024 };

/* The backend of that name ("iocp", "io_uring", "epoll"), or with NULL or "auto" the best that works
 * here. It is tried for real: opened, used, closed.
 * why     of why_size bytes: why this one ("io_uring refused: Operation not permitted; using epoll"), or
 *         on NULL why there is none.
 * thread  any, but not while ports are open. */
const io_backend *io_backend_find(const char *name, char *why, size_t why_size);
const char *io_backend_name(const io_backend *backend);
/* The names compiled in, best first, separated by blanks. */
const char *io_backend_names(void);

/* options may be NULL. The calling thread becomes the port's owner. */
io_status io_port_open(io_port **port, const io_backend *backend, const io_options *options);
void io_port_close(io_port *port); /* asserts io_port_pending() == 0; NULL is fine */
/* Operations submitted whose packets have not been taken. Posts count from the moment they are taken
 * by the owner, so the owner must know of posts by other means before it closes the port. */
uint32_t io_port_pending(const io_port *port);
const char *io_port_backend(const io_port *port);
/* Whether the answers of a round are better sent one after the other at its end. Not on IOCP: there a receive whose peer is quick is tried
 * again in the same round, which is in vain before the peer has its answer. */
bool io_port_sends_late(const io_port *port);
/* The port's clock: monotonic nanoseconds. A simulated port has a simulated clock. */
int64_t io_port_now(io_port *port);

/* Ties a socket to this port for good. Once per socket, before its first op, listeners included. */
io_status io_attach(io_port *port, io_socket socket);
/* The same for a socket of net_udp.h. */
io_status io_attach_udp(io_port *port, io_socket socket);

/* Submits. Errors that concern the socket come with the packet; what a submit itself returns is
 * IO_OK or IO_LIMIT (no room or memory: nothing was submitted), for io_accept on Windows also what
 * making the socket said. */
io_status io_accept(io_port *port, io_accept_op *op, io_socket listener);
/* peer must stay valid until the packet. */
io_status io_connect(io_port *port, io_op *op, io_socket socket, const net_addr *peer);
/* Receives into a buffer that the port lends with the packet: an idle socket pins no memory. */
io_status io_recv(io_port *port, io_op *op, io_socket socket);
/* Receives into the caller's buffer, of len > 0 bytes, which is the port's until the packet. */
io_status io_recv_into(io_port *port, io_op *op, io_socket socket, void *buffer, size_t len);
/* The zero-byte read: completes when bytes, FIN or an error are there to be read, and takes nothing.
 * Level-triggered: with unread bytes it completes at once. */
io_status io_readable(io_port *port, io_op *op, io_socket socket);
/* Sends 1 to IO_BUFS_MAX non-empty buffers as one gather. May move fewer bytes than asked, even 0
 * with IO_OK: the caller submits the rest. */
io_status io_send(io_port *port, io_op *op, io_socket socket, const io_buf *bufs, uint32_t count);

/* Sends what the system takes at once, without an op and so without a packet; legal while no send is pending on the socket.
 * Not every port can, and not always: where io_send() is as good or better it says IO_AGAIN.
 * bufs    as for io_send(); the bytes are the caller's again on return.
 * bytes   moved, perhaps fewer than asked.
 * result  IO_OK; IO_AGAIN: nothing was moved, io_send() is the way; IO_RESET, … */
io_status io_send_now(io_port *port, io_socket socket, const io_buf *bufs, uint32_t count, size_t *bytes);

/* Receives one datagram, whole: no size is too large. An idle socket pins no memory. A packet of 0 bytes is an empty
 * datagram. An error (IO_REFUSED: an earlier datagram met nobody, on connected sockets only) is news about the network,
 * and no end: submit again. */
io_status io_recv_from(io_port *port, io_datagram_op *op, io_socket socket);
/* Sends one datagram of len bytes, 0 to IO_DATAGRAM_MAX, to op->peer: all of it, or none and an error. IO_OK says that the
 * system has taken it. data belongs to the port until the packet. */
io_status io_send_to(io_port *port, io_datagram_op *op, io_socket socket, const void *data, size_t len);

/* Draws what has arrived, now, without waiting and without an op; legal while no receive of any kind is
 * pending on the socket.
 * bytes   moved; 0 with IO_OK: end of stream.
 * result  IO_OK, IO_AGAIN, IO_RESET, … */
io_status io_draw(io_port *port, io_socket socket, void *buffer, size_t len, size_t *bytes);

/* Asks for every op pending on the socket to end soon. */
void io_cancel(io_port *port, io_socket socket);
/* FIN, after what was sent. Receiving goes on. */
io_status io_shutdown(io_port *port, io_socket socket);
/* Closes. Nothing is pending on the socket; abort: with RST, dropping what the kernel still holds. */
void io_close(io_port *port, io_socket socket, bool abort);

/* Sends an IO_POST packet to a port, in order, from any thread: hand-over, wake-up, stop. Cannot fail:
 * what it needs is inside the op. */
void io_port_post(io_port *port, io_op *op);

/* Submits what is queued and sleeps until a packet is ready or timeout_ns has passed; negative: for
 * ever; 0: not at all. May return early and with nothing. */
io_status io_port_wait(io_port *port, int64_t timeout_ns);
/* The next packet of this round, or false. */
bool io_port_next(io_port *port, io_packet *packet);

#endif
