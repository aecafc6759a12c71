/* server.h - the whole of it: workers, listeners, starting, draining, stopping.
 *
 *   server_open()    starts the worker threads; each opens its port and its app (worker 0 first: if the script does not
 *                    load there, the others do not try)
 *   server_listen()  binds and listens; ports chosen by the system are known from here on
 *   server_start()   begins to accept; the workers' timers fire and their mail arrives from here on
 *   server_stop()    stops accepting and drains; again: at once. Any thread
 *   server_wait()    until all workers have ended
 *   server_close()
 *
 * thread  the main thread, but for what says otherwise.
 */
#ifndef PORTICO_SERVER_H
#define PORTICO_SERVER_H

#include "conn.h"
#include "gate.h"
#include "io.h"
#include "net_uri.h"
#include "resolver.h"
#include "worker.h"

#include <stdbool.h>
#include <stdint.h>

enum { SERVER_LISTENERS_MAX = 64 };

typedef struct server_options {
    const io_backend *backend;
    uint32_t workers;         /* 1 to WORKER_MAX */
    bool workers_fixed;       /* the app may not change that */
    uint32_t max_connections; /* in all; 0: no limit but the descriptors */
    gate_limits gate;
    int64_t drain_ns; /* from server_stop() to cutting off */
    io_options io;
    /* Called on the main thread again and again while it waits for a worker to open or to close: sleeps until there are news of any
     * kind, and may end the process. NULL: nobody wants to see the news meanwhile. */
    void (*wait)(void *context);
    void *wait_context;
} server_options;

typedef enum server_end {
    SERVER_CLEAN,
    SERVER_FAILED, /* a worker could not go on */
    SERVER_CUT_OFF /* the drain's deadline came while bytes were still queued or handlers still waited */
} server_end;

/* On failure, NULL, and what is wrong has been logged. *app_failed: it was the app's open. */
server *server_open(const server_options *options, const worker_app *app, void *app_context, bool *app_failed);
/* ---- Listeners, by numbers below SERVER_LISTENERS_MAX. Any thread, but one at a time, and not after server_wait() ---- */

/* Binds an address. What is bound before server_start() is accepted on from then on, what is bound later from
 * server_accept() on; NET_UDP can only be bound before (IO_UNSUPPORTED).
 * number  of the listener; NULL: nobody wants it.
 * native  the system's code on failure. */
io_status server_listen(server *s, const net_uri *uri, uint32_t *number, int *native);
/* Begins to accept on what was bound since server_start(). Returns how many these are. */
uint32_t server_accept(server *s);
/* Stops listening there; connections stay. Its number may be given to another one. Not for NET_UDP, which is let be. */
void server_unlisten(server *s, uint32_t number);
/* "tcp://127.0.0.1:7777", "unix:/run/x": with the real port. NULL: none has that number. */
const char *server_listener_address(const server *s, uint32_t number);
/* What connections are told that come from now on; to begin with its address. A socket for datagrams that a worker has taken keeps
 * the name that it had. False: out of memory. */
bool server_name_listener(server *s, uint32_t number, const char *text);
/* The permissions of a Unix socket's file, or NET_MODE_NONE, see listener_set_mode(). IO_OK for all other listeners. */
io_status server_set_mode(server *s, uint32_t number, int16_t mode, int *native);
void server_start(server *s);
/* Any thread, before server_wait(). */
void server_stop(server *s);
/* True once server_stop() was called. Any thread. */
bool server_stopping(const server *s);
/* True once all workers are done, or one has failed, so that server_wait() returns at once. A piece of OS_NEWS_WAKE is
 * posted when this or server_stopping() becomes true. Any thread. */
bool server_ended(const server *s);
/* Connections of all workers, those on their way to one included. Any thread. */
uint32_t server_connections(const server *s);
/* Peers that wait for room, and how many were refused because their address has too many. Worker 0's thread. */
void server_arrivals(const server *s, uint32_t *waiting, uint64_t *refused);
/* For a stop in which a worker hangs, so that server_wait() would not return: removes the files of Unix sockets. Only the end of
 * the process may follow. Returns that worker, or NULL when they have all ended at last. */
worker *server_abandon(server *s);
server_end server_wait(server *s);
void server_close(server *s); /* after server_wait() */

/* How many workers there are to be. Only while the app of worker 0 opens, on its thread, when the number is not fixed: the
 * others have not been started then. False: out of memory, and nothing has changed. */
bool server_set_workers(server *s, uint32_t workers);
worker *server_worker(server *s, uint32_t index);
resolver *server_resolver(server *s);
const server_options *server_get_options(const server *s);

#endif
