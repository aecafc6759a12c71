/* listener.h - one listening socket that keeps accepts posted and lends sockets to whoever deals them out.
 *
 * An accept is posted again when its socket has been taken. So when nobody takes them, peers wait in the kernel's queue. One
 * that is gone before it is accepted costs its own accept and nothing else. Out of descriptors accepting pauses, says so once,
 * and tries again every LISTENER_RETRY_NS, and when it is told that there may be some.
 *
 * thread  listener_open and listener_close: any. The rest: the worker whose port it was started on.
 */
#ifndef PORTICO_LISTENER_H
#define PORTICO_LISTENER_H

#include "io.h"
#include "net_uri.h"
#include "timer.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    LISTENER_ACCEPTS = 32, /* kept posted: on Windows that many connections can come in before the worker runs */
    LISTENER_NAME_MAX = NET_URI_TEXT_MAX
};
#define LISTENER_RETRY_NS INT64_C(100000000)

typedef struct listener listener;

/* Somebody has come. Lent by the listener until listener_take_back(). */
typedef struct arrival arrival;
struct arrival {
    listener *from;
    io_socket socket; /* IO_SOCKET_NONE exactly when it is not lent; the borrower's to keep or to close */
    const net_addr *peer;
    arrival *next;                     /* the borrower's */
    const _Atomic(const char *) *name; /* the borrower's */
};

typedef struct listener_events {
    void (*on_arrival)(void *context, arrival *a);
    /* The system has refused a socket; listener_retry() is welcome as soon as there may be one. */
    void (*on_short)(void *context);
    /* Nothing is pending any more, after listener_stop(). */
    void (*on_stopped)(void *context, listener *l);
} listener_events;

/* Binds and listens, over NET_TCP or NET_UNIX. native: the system's code on failure. IO_LIMIT when out of memory. */
io_status listener_open(listener **out, const net_uri *uri, const listener_events *events, void *context, int *native);
/* Not started, or stopped. The file of a Unix socket goes, too. NULL is fine. */
void listener_close(listener *l);
/* Only removes the file of a Unix socket, in whatever state the listener is: the process is about to end. */
void listener_remove_file(listener *l);

/* "tcp://127.0.0.1:7777", with the port that the system chose, or "unix:/run/x". Valid until listener_close(). */
const char *listener_name(const listener *l);

/* Gives the file of a Unix socket other permissions, or those that it has without any being named (NET_MODE_NONE). Nothing is done
 * when it has been given these before, or for NET_TCP.
 *
 * thread  any, one at a time.
 * native  the system's code on failure. */
io_status listener_set_mode(listener *l, int16_t mode, int *native);

/* Begins to accept on the caller's port. */
io_status listener_start(listener *l, io_port *port, timers *deadlines);
/* Its socket has found a place, or is closed: the next one is accepted. */
void listener_take_back(arrival *a);
/* A descriptor may be free: if that was the want, one accept tries. */
void listener_retry(listener *l);
/* Cancels the accepts, closes the socket; on_stopped follows, perhaps before this returns. No arrival is lent any more. */
void listener_stop(listener *l);

void listener_on_packet(const io_packet *packet);

#endif
