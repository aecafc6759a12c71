/* dealer.h - deals the sockets that listeners have accepted to workers, each to the one with the fewest connections.
 *
 * Who finds no room waits in one queue for all listeners, in the order of coming, and whoever comes later waits behind. Room
 * is used at once: a worker that has fewer connections tells, if anybody waits. What grows with time, the number that may come
 * in a second, is asked for every DEALER_RETRY_NS. A listener lends a bounded number of sockets; the rest waits in the kernel.
 *
 * thread  dealer_tell: any, of a worker that has not ended. The rest: worker 0's, but dealer_open.
 */
#ifndef PORTICO_DEALER_H
#define PORTICO_DEALER_H

#include "gate.h"
#include "listener.h"
#include "worker.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define DEALER_RETRY_NS INT64_C(10000000)

typedef struct dealer {
    worker *workers; /* as many as their count says; the first deals */
    gate *gate;
    uint32_t max_connections; /* 0: any number */
    arrival *first, *last;    /* who waits; last is valid while there is a first */
    uint32_t waiting;         /* how many these are */
    uint64_t refused;         /* by the gate, in all */
    bool paused;              /* somebody waits, and the log was asked to say so */
    bool said;                /* it did */
    timer retry;
    atomic_int news;        /* a dealer_news */
    worker_message message; /* news of room, to worker 0, which then calls dealer_on_news() */
} dealer;

/* The caller has set workers, gate and max_connections, the rest is zero. on_news: the message's run; it calls dealer_on_news(). */
void dealer_open(dealer *d, void (*on_news)(worker *w, worker_message *message));

/* Deals a socket, or lets it wait. name: the listener's; read when the socket is dealt. */
void dealer_add(dealer *d, arrival *a, const _Atomic(const char *) *name);
/* Closes the sockets of a listener that wait. Before listener_stop(). */
void dealer_forget(dealer *d, const listener *l);

/* Asks to be told of room, once. False: that was asked already, or the news is on its way. */
bool dealer_want_news(dealer *d);
/* A connection is gone: if anybody wants to know, the message is posted. */
void dealer_tell(dealer *d);
void dealer_on_news(dealer *d);

#endif
