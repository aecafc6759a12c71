/* kernel.h - the simulated network: sockets, and links between two ends. An end is a socket of the program's or a peer.
 *
 * A link has a flow in each direction. What an end writes takes up room in the flow's window until the other end has
 * read it and the news of that has come back; bytes, FIN and RST take time to arrive, bytes and FIN in order. A flow
 * keeps all bytes that were ever written, for the oracles.
 */
#ifndef PORTICO_TESTS_SIM_KERNEL_H
#define PORTICO_TESTS_SIM_KERNEL_H

#include "io.h"
#include "net.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sim_end sim_end;
typedef struct sim_socket sim_socket;
typedef struct sim_op sim_op;
typedef struct sim_peer sim_peer;
typedef struct sim_port sim_port;
typedef struct sim_record sim_record;

/* What one end has written. */
typedef struct sim_flow {
    uint8_t *bytes;
    size_t room;
    size_t written;
    size_t arrived;    /* of these */
    size_t read;       /* of these */
    size_t known_read; /* of these, as far as the writer knows */
    bool fin_written;
    bool fin_arrived;
    int64_t last_ns; /* when what was written last arrives; nothing written later does so before */
} sim_flow;

struct sim_end {
    sim_flow out;
    sim_end *other;
    sim_socket *socket; /* of the program's; NULL once it is closed, before it is accepted, and for peers */
    sim_peer *peer;     /* NULL: the program's end */
    sim_record *record; /* what the monitor knows of the program's end; else NULL */
    bool closed;        /* by its owner */
    bool aborted;       /* … with RST */
    bool broken;        /* its owner can see that the link is */
    bool accepted;      /* the program's, at a listening socket */
};

struct sim_socket {
    io_socket number;
    sim_socket *next; /* of all that were ever opened */
    sim_port *port;   /* attached to */
    sim_end *end;     /* streams; NULL before they are connected */
    sim_op *in;       /* pending receive or readable */
    sim_op *out;      /* pending send or connect */
    bool listening;
    bool closed;
    bool connecting;
    net_addr addr;     /* of this end */
    sim_op *accepts;   /* pending, in order */
    sim_end **backlog; /* listening: ends that arrived and were not accepted */
    size_t backlog_count;
    size_t backlog_room;
    sim_record *record;
};

/* ---- Sockets ---- */

/* NULL: no descriptors left, or none for a while. A number that was just closed is likely to be given again. is_first: one that
 * the server starts with, and there is one. */
sim_socket *sim_socket_open(bool is_first);
/* The open socket of that number; anything else is a failure of the oracle. */
sim_socket *sim_socket_find(io_socket number);
void sim_socket_close(sim_socket *s, bool abort);
void sim_sockets_each(void (*visit)(sim_socket *s)); /* the open ones, beginning with any */
/* An address of ours or of a peer: "10.0.0.7:1234". */
net_addr sim_addr(const char *text);

/* ---- Links ---- */

/* A link between the program's end, which is returned, and the peer's. peer NULL: both are the program's. */
sim_end *sim_link_open(sim_peer *peer);
/* An end arrives at the listening socket of that port. False: nobody listens there. */
bool sim_link_arrive(sim_end *end, uint16_t port);

/* Bytes that can be written now. */
size_t sim_end_room(const sim_end *end);
void sim_end_write(sim_end *end, const void *bytes, size_t len);
/* Bytes that can be read now. */
size_t sim_end_readable(const sim_end *end);
/* At most that. */
void sim_end_read(sim_end *end, void *bytes, size_t len);
/* Nothing will come any more, and everything was read. */
bool sim_end_at_fin(const sim_end *end);
/* Broken, and the bytes that had arrived before are read, where a break leaves them. */
bool sim_end_is_dead(const sim_end *end);
void sim_end_fin(sim_end *end);
/* The owner is done with it. */
void sim_end_close(sim_end *end, bool abort);
/* Both ends will see a reset. */
void sim_link_break(sim_end *end);

/* Frees numbers: at the end of a run. */
void sim_kernel_close(void);
void sim_kernel_open(void);

/* ---- What others implement ---- */

/* io_sim.c: something about the socket may have changed. */
void sim_socket_news(sim_socket *s);
/* peer.c: the same for a peer. */
void sim_peer_news(sim_peer *p);
/* peer.c: somebody connects to a peer's port. IO_OK: *end is the program's; IO_AGAIN: no answer, ever; IO_REFUSED, …;
 * IO_NOT_FOUND: that port is no peer's. */
io_status sim_peer_serve(uint16_t port, sim_end **end);
/* monitor.c: the program's end gives bytes to the kernel, which they are to be; or a FIN after them. */
void sim_monitor_taken(sim_record *r, size_t from, const uint8_t *bytes, size_t len);
void sim_monitor_fin(sim_record *r, size_t written);

#endif
