/* host_task.h - what runs in a host: handlers, and the tasks that call them. Part of host_internal.h, which says what the words
 * mean.
 */
#ifndef PORTICO_HOST_TASK_H
#define PORTICO_HOST_TASK_H

#include "host_wait.h"

#include "conn.h"
#include "frame.h"
#include "timer.h"
#include "udp.h"

#include <lua.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct host host;
typedef struct host_task host_task;
typedef struct host_pipe host_pipe;       /* of conn:pipe() */
typedef struct host_attempt host_attempt; /* of portico.connect() */
typedef struct host_question host_question;

/* What runs. Those up to HOST_ON_UNLOAD are the script's handlers and index the upvalues of the dispatcher. */
typedef enum host_kind {
    HOST_NOTHING,
    HOST_ON_CONNECT,
    HOST_ON_MESSAGE,
    HOST_ON_READABLE,
    HOST_ON_STREAM,
    HOST_ON_EOF,
    HOST_ON_DRAIN,
    HOST_ON_CLOSE,
    HOST_ON_DATAGRAM,
    HOST_ON_ERROR,
    HOST_ON_LOAD,
    HOST_ON_CHECK,
    HOST_ON_UNLOAD,
    HOST_DATAGRAM, /* on_message, for a datagram: there is no on_datagram, or it is a socket's of portico.udp() */
    HOST_AFTER,    /* the function of portico.after() */
    HOST_EVERY,    /* … of portico.every() */
    HOST_SPAWN,    /* … of portico.spawn() */
    HOST_TOPIC,    /* … of portico.subscribe() */
    HOST_SERVED,   /* … of portico.worker.serve() */
    HOST_FRAME,    /* a function that decodes a frame */
    HOST_TOP,      /* the script's top level */
    HOST_MIGRATE,  /* the script's migrate() */
    HOST_CLEANUP,  /* collecting garbage, closing variables */
    HOST_KINDS
} host_kind;

#define HOST_BIT(kind) (UINT32_C(1) << (kind))
/* Those that take what peers send. */
#define HOST_READERS (HOST_BIT(HOST_ON_MESSAGE) | HOST_BIT(HOST_ON_STREAM) | HOST_BIT(HOST_ON_READABLE))

/* True for what runs for a datagram: then t->datagram says whose. */
static inline bool host_kind_has_datagram(host_kind kind)
{
    return kind == HOST_ON_DATAGRAM || kind == HOST_DATAGRAM;
}

/* "on_message", "the function of portico.after", … */
const char *host_kind_name(host_kind kind);
/* The handler of that name, or HOST_NOTHING. */
host_kind host_kind_find(const char *name);

typedef enum host_waiting {
    HOST_RUNS,
    HOST_SLEEPS,
    HOST_CONNECTS,
    HOST_STREAMS, /* for t->wish */
    HOST_PIPES,   /* for t->pipe */
    HOST_QUEUES,  /* in t->queue */
    HOST_READY    /* woken from there, and in line */
} host_waiting;

/* What a task wants of a connection. */
typedef enum host_wish_kind {
    HOST_WISH_COUNT, /* so many bytes */
    HOST_WISH_SOME,  /* what is there, at least one byte and at most so many */
    HOST_WISH_ALL,   /* up to the end */
    HOST_WISH_LINE,
    HOST_WISH_MESSAGE /* of the connection's frame */
} host_wish_kind;

typedef struct host_wish {
    conn_wait wait;
    conn *c;
    const char *function; /* "conn:read", for messages */
    frame_rule rule;      /* LINE; max is for ALL, too */
    size_t count;         /* COUNT, SOME */
    int64_t deadline_ns;  /* INT64_MAX: none */
    size_t seen;          /* bytes that were looked at in vain */
    size_t need;          /* MESSAGE: with fewer it is in vain again */
    size_t start;         /* of what was found, */
    size_t len;           /* … its length, */
    size_t used;          /* … and how many bytes it takes */
    uint8_t kind;         /* a host_wish_kind */
    uint8_t fault;        /* a frame_fault */
    uint8_t finding;      /* what came of the last look, by host_stream.c's enum */
    bool peeks;           /* the bytes stay */
    bool iterates;
    bool is_late; /* the deadline has come */
    bool holds;   /* conn_hold(c) is in force for the wait */
} host_wish;

/* Where a datagram came from. */
typedef struct host_datagram {
    udp *udp; /* may be gone: udp_is_open() knows */
    uint64_t udp_id;
    int handler_ref; /* of the socket of portico.udp() whose on_message it is; LUA_NOREF: the script's */
    net_addr peer;
} host_datagram;

/* Lives in a userdata whose user value is the coroutine. */
struct host_task {
    host *host;
    lua_State *co; /* at rest: the dispatcher in slot 1, nothing else */
    host_task *next;
    host_task *prev;
    timer wake;
    conn *c;          /* the connection whose handler this is, or NULL; it stays until the task is over */
    const void *data; /* of a message or datagram: until the first wait */
    size_t len;
    host_attempt *attempt;   /* HOST_CONNECTS */
    host_datagram datagram;  /* where host_kind_has_datagram() */
    host_question *question; /* HOST_FRAME */
    const host_errand
        *errand;       /* what it runs when that is none of the script's handlers, until it is over; else NULL */
    void *subject;     /* … and for whom */
    host_queue *queue; /* HOST_QUEUES, HOST_READY; else NULL */
    host_task *queue_next;
    host_task *queue_prev;
    host_turn turn;
    host_wish wish;  /* HOST_STREAMS */
    host_pipe *pipe; /* HOST_PIPES */
    int ref;
    io_status status; /* HOST_ON_CLOSE: what broke it */
    uint8_t reason;   /* HOST_ON_CLOSE: a conn_reason */
    uint8_t kind;     /* a host_kind */
    uint8_t origin;   /* HOST_ON_ERROR: the kind that failed */
    uint8_t failed;   /* what lua_pcallk() said of the handler: LUA_OK, LUA_ERRRUN, … */
    uint8_t waiting;  /* a host_waiting */
    bool held;        /* conn_hold(c) is in force */
    bool keep;        /* HOST_ON_ERROR: the handler said "keep" */
    bool woken;       /* how the last wait in a queue ended: it was woken; else its deadline came */
    bool quiet;       /* its error is for who waits to join it, and for nobody else */
};

/* ---- host_dispatch.c ---- */
/* Makes the dispatcher of the functions and nils on top of L's stack, HOST_ON_UNLOAD of them, and replaces them by it.
 * raises */
void host_dispatcher_push(lua_State *L);
/* What a host does with the events of connections. */
extern const conn_events host_events;
/* on_message, with those bytes. */
void host_call_message(host *h, conn *c, const uint8_t *data, size_t len);
/* Asks a FRAME_CUSTOM for the message at the front of the bytes. When its function has raised, which has been logged, the
 * connection is not open any more, and the answer FRAME_MORE. */
frame_status host_call_frame(host *h, conn *c, frame_found *found, const uint8_t *data, size_t len);
/* False: it raised, which has been logged. kind: HOST_ON_LOAD, HOST_ON_CHECK. */
bool host_call_load(host *h, host_kind kind);
void host_call_unload(host *h);
/* Runs on_message, before this returns at least until it waits. data is not needed after that. */
void host_call_datagram(host *h, const host_datagram *d, const void *data, size_t len);
/* Runs an errand. False: there was no memory for it, which has been logged, and its functions are not called. */
bool host_call_errand(host *h, host_kind kind, const host_errand *errand, void *subject);

/* ---- host_task.c ---- */
/* Calls function(L) with the light userdata argument, protected and watched, on the main thread. Its results, as many
 * as asked for, or on an error its message, are left on the stack. */
int host_protect(host *h, lua_CFunction function, void *argument, int results);
/* The same for kind, also from inside of a slice of the host's; without results. *used: where an error's message is on top,
 * when the result is not LUA_OK. */
int host_call(host *h, host_kind kind, lua_CFunction function, void *argument, lua_State **used);
/* A task from the pool, or a new one; NULL when there is no memory for it, which has been logged. */
host_task *host_task_take(host *h, host_kind kind, conn *c);
/* Runs it at least until it waits; it is the pool's again once it is over. False: the handler has raised at once. */
bool host_task_start(host *h, host_task *t);
/* on_close has run, or there is none. */
void host_end_conn(host *h, conn *c);
/* Why a host that is cut, or being closed, begins nothing any more. */
const char *host_why_over(const host *h);
/* A function that waits calls this first. raises unless the task can be suspended from here. */
void host_check_wait(lua_State *L, const char *function);
bool host_can_wait(lua_State *L);
/* Then it sets the task's waiting, and yields. This goes on with it. */
void host_task_wake(host_task *t);
/* Ends all suspended tasks. */
void host_kill_waiting(host *h);
/* Ends one: runs what its coroutines have to close, in the slice that runs, or else in one of its own. */
void host_kill(host_task *t);

#endif
