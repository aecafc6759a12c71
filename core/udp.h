/* udp.h - a UDP socket of one worker: a receive that is kept pending, and a bounded queue of datagrams to send.
 *
 * Datagrams are delivered one by one, each on its own: there is no connection. What does not fit the queue is dropped, as
 * the network would drop it, and counted. Errors are news ("nobody has that port") and no end.
 *
 * After udp_close() no event is called any more, and the udp is gone: it sends what is queued and frees itself when nothing
 * is pending.
 *
 * thread  everything here: the worker that owns the socket.
 */
#ifndef PORTICO_UDP_H
#define PORTICO_UDP_H

#include "io.h"
#include "timer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    UDP_QUEUE_BYTES = 1 << 20, /* that wait to be sent on one socket, with UDP_QUEUE_COST for each datagram */
    UDP_QUEUE_COST = 128       /* about what a datagram takes beside its bytes */
};

typedef struct udp udp;

typedef struct udp_events {
    /* A datagram has come. data, of 0 bytes or more, is valid until this returns. */
    void (*on_datagram)(udp *u, const net_addr *peer, const uint8_t *data, size_t len);
    /* A receive or a send failed; the socket goes on. */
    void (*on_error)(udp *u, io_status status);
} udp_events;

/* The UDP sockets of one worker. */
typedef struct udp_set {
    io_port *port;
    timers *timers;
    udp *live;
    uint32_t count;
    uint64_t ids;      /* the last one given */
    uint64_t received; /* datagrams, since start */
    uint64_t sent;
    uint64_t dropped; /* that the queue had no room for */
} udp_set;

void udp_set_open(udp_set *set, io_port *port, timers *deadlines);
void udp_set_close(udp_set *set); /* all are gone */
/* Listeners take no more datagrams; sending goes on. */
void udp_set_drain(udp_set *set);
/* Closes all. cut: what is queued is dropped. Returns how many sockets had something queued. */
uint32_t udp_set_finish(udp_set *set, bool cut);

/* Takes over a socket of net_udp.h, attaches it and begins to receive.
 * listener  its name, which outlives it, or NULL: it is none.
 * paused    do not receive yet.
 * result    NULL when out of memory; the socket is then closed. */
udp *udp_open(udp_set *set, io_socket socket, const udp_events *events, void *user, const char *listener, bool paused);
void udp_close(udp *u);

/* Queues a copy.
 * to      NULL on a connected socket.
 * len     at most IO_DATAGRAM_MAX.
 * result  IO_OK; IO_LIMIT: the queue is full or there is no memory, and the datagram is dropped; IO_CLOSED. */
io_status udp_send(udp *u, const net_addr *to, const void *data, size_t len);

/* Stops and restarts receiving: meanwhile the system's own buffer takes what comes. The one datagram that was on its way is
 * still delivered. */
void udp_pause(udp *u);
void udp_resume(udp *u);

/* The next in the set's list, which begins at set->live. */
udp *udp_next(const udp *u);
/* Never reused in its set. */
uint64_t udp_id(const udp *u);
/* True when u, which may be gone, is still the open socket of that id. */
bool udp_is_open(const udp_set *set, const udp *u, uint64_t id);
void *udp_user(const udp *u);
const char *udp_listener_of(const udp *u); /* NULL: it is no listener's */
io_socket udp_socket(const udp *u);
size_t udp_queued(const udp *u); /* bytes */

void udp_on_packet(const io_packet *packet);

#endif
