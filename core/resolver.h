/* resolver.h - names to addresses, off the workers' threads: the system's resolver may block for seconds.
 *
 * A query is asked from a worker and answered there, by a message. Up to RESOLVER_THREADS names are looked up at once; the
 * others wait in a queue.
 */
#ifndef PORTICO_RESOLVER_H
#define PORTICO_RESOLVER_H

#include "net.h"
#include "worker.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

enum {
    RESOLVER_THREADS = 4,
    RESOLVER_QUEUE_MAX = 1024, /* queries that wait for a thread */
    RESOLVER_ADDRS_MAX = 16,   /* addresses of one name; the rest is ignored */
    RESOLVER_URI_MAX = 300     /* "tcp://", a DNS name, a port */
};

typedef struct resolver resolver;
typedef struct resolver_query resolver_query;

/* Who asks owns it, but from resolver_ask() to the answer it is the resolver's. answer is called exactly once if
 * resolver_ask() was IO_OK; only for a look-up that outlasts the end of the server it is not, and that query is never
 * touched or freed again. */
struct resolver_query {
    char uri[RESOLVER_URI_MAX]; /* what to look up, as net_addr_resolve() takes it */
    void (*answer)(worker *w, resolver_query *query);
    void *user;
    /* The answer. */
    net_addr addrs[RESOLVER_ADDRS_MAX];
    size_t count;
    io_status status; /* IO_OK with at least one address */
    char error[256];
    /* The resolver's. */
    atomic_bool forgotten;
    worker_message message;
    worker *worker;
    resolver_query *next;
};

/* NULL when out of memory. Threads are started when they are needed. */
resolver *resolver_open(void);
/* What still waits for a thread is answered with IO_CANCELED; look-ups that are under way are waited for, at most a second.
 * What cannot be interrupted is left behind, to end with the process. No answers come after this. The workers' ports are
 * still open. */
void resolver_close(resolver *r);
/* True once a resolver_close() had to leave threads behind: they, and the blocks of memory they use, end with the process. */
bool resolver_left_behind(void);

/* thread  the worker's.
 * result  IO_OK: answer will be called there. IO_LIMIT: too many queries, or no thread to be had; the query is still the
 *         caller's. */
io_status resolver_ask(resolver *r, worker *w, resolver_query *query);

/* Nobody waits for it any more: unless it is under way already, it is not looked up but answered with IO_CANCELED. From the
 * worker's thread, at any time before the answer. */
void resolver_forget(resolver_query *query);

#endif
