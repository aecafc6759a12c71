/* worker.h - one thread with one port, one set of connections, one set of timers and, through the app, one Lua state.
 *
 * The loop: wait for packets until the next deadline; hand each to its owner and settle; fire timers and settle.
 * The switch in worker.c over a packet's kind is the place where the data path can be read.
 */
#ifndef PORTICO_WORKER_H
#define PORTICO_WORKER_H

#include "conn.h"
#include "io.h"
#include "mail.h"
#include "os.h"
#include "timer.h"
#include "udp.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct worker worker;
typedef struct server server;

enum { WORKER_MAX = 256 };

/* What is due at once may be much, and each of it long: after so long packets have their turn before the next. */
#define WORKER_ROUND_NS INT64_C(5000000)

/* What runs in a worker: the Lua host, or in tests and benches plain C. All on the worker's thread. */
typedef struct worker_app {
    /* Makes the worker's state (loads the script). False: it failed, and has logged why. */
    bool (*open)(worker *w, void *context);
    /* The server is stopping: connections are about to be closed. May be NULL. */
    void (*stop)(worker *w);
    /* Work of the app that is still under way and should be waited for within the drain time. May be NULL: none. */
    uint32_t (*busy)(worker *w);
    /* The drain's deadline has passed, or a second stop came; every connection has been aborted. End what still waits
     * (handlers in the middle of a sleep), so that their connections can be released; nothing may wait from here on.
     * May be NULL: nothing ever waits. */
    void (*cut)(worker *w);
    /* All connections are gone. Called once for every open that was true. */
    void (*close)(worker *w);
    /* Takes a socket that a listener of that name has accepted: conn_open() with the app's events. */
    void (*accept)(worker *w, io_socket socket, const net_addr *peer, const char *listener);
    /* Takes this worker's socket of a UDP listener of that name: udp_open() with the app's events. Once, after start. NULL:
     * the app takes no datagrams, and server_listen() refuses such an address. */
    void (*take_udp)(worker *w, io_socket socket, const char *listener);
} worker_app;

struct worker {
    uint32_t id; /* 0 to count - 1 */
    uint32_t count;
    server *server;
    const worker_app *app;
    void *app_context;
    void *app_state; /* the app's, set by its open: the Lua host */
    io_port *port;
    timers timers;
    conn_set conns;
    udp_set udps;
    struct gate *entrance; /* the server's; NULL: none */
    mail_box box;          /* the server's, which opens and closes it */
    os_thread *thread;     /* set before the app is opened */
    os_mutex *gate;        /* held by the starter until thread is set */
    const io_backend *backend;
    const io_options *io_options;
    const struct worker_events *events;
    timer drain_deadline;
    worker_message start_message; /* the server's, one of each to every worker */
    worker_message drain_message;
    worker_message cut_message;
    worker_message exit_message;
    atomic_uint load;   /* connections here, as of the last settling, and sockets on their way here; for dealing */
    uint32_t published; /* of the load, what stands for connections here */
    bool begun;         /* worker_begin() has run */
    bool draining;      /* worker_drain() has run */
    bool cut_done;
    bool cut_off;       /* bytes were queued, or handlers waited, when the drain was cut */
    atomic_bool opened; /* the server's, like the next one: what its events have told */
    atomic_bool closed;
    atomic_bool idle; /* drained, and said so to the server */
    bool exiting;     /* the loop ends */
    uint64_t packets;
};

/* Called by a worker, on its thread: when it has opened (or failed to), when it has drained, and when its port has failed. The server
 * sets these. */
typedef struct worker_events {
    void (*on_opened)(worker *w, bool port_ok, bool app_ok);
    void (*on_idle)(worker *w);
    void (*on_failed)(worker *w, io_status status);
    void (*on_fewer)(worker *w);  /* its load has fallen */
    void (*on_closed)(worker *w); /* after that nothing follows but the thread's end; also when it has not opened */
} worker_events;

/* Starts the thread. on_opened follows. False: the system has no thread to give. The caller has zeroed w and set id, count,
 * server, app and app_context. */
bool worker_start(worker *w, const io_backend *backend, const io_options *options, const worker_events *events);
/* options and events outlive the worker. */
/* Ends the thread of a worker that is idle, or that never began to accept; waits for it. Main thread. */
void worker_join(worker *w);
/* From here on timers fire and mail is delivered; before it nothing runs but the app's open. Own thread. */
void worker_begin(worker *w);
/* Closes connections, each as soon as what is queued for it is sent; on_idle follows when all are gone. After drain_ns what
 * is left is cut off. Own thread. */
void worker_drain(worker *w, int64_t drain_ns);
/* Cuts off what is left, now. Own thread, after worker_drain(). */
void worker_cut(worker *w);

/* Takes an accepted socket. Own thread. */
void worker_take(worker *w, io_socket socket, const net_addr *peer, const char *listener);
/* Hands an accepted socket to another worker. Any thread. Out of memory: the socket is closed and a line logged. */
void worker_give(worker *w, io_socket socket, const net_addr *peer, const char *listener);
/* Connections here and on their way here. Any thread. */
uint32_t worker_load(worker *w);

/* Any thread, while the server is up. */
void worker_post(worker *w, worker_message *message);

/* One turn of the loop that does not wait: packets, timers, settling. For a message's run or a timer's function that takes
 * long; whatever the loop serves, other messages and timers included, may run meanwhile. Not from an event of a connection. Own
 * thread. */
void worker_turn(worker *w);

/* Begins an outbound connection on this worker. See conn_connect(). Own thread; IO_CLOSED while draining. */
conn *worker_connect(worker *w, const net_uri *target, const conn_config *config, io_status *status);

#endif
