/* host_internal.h - what the files of the Lua host share. Nobody else includes it.
 *
 * Words
 *   host      one Lua state: one generation of the script on one worker.
 *   seat      what one worker has: the host that is in force, and what belongs to the worker rather than to a state.
 *   handler   a function of the script that the host calls: on_message and its kin, or what a timer was given.
 *   task      one call of a handler: a pooled coroutine and what belongs to it. A task whose handler waits (in
 *             portico.sleep, portico.connect) is suspended; its connection is held meanwhile.
 *   move      a connection goes over from one host to another, with its state.
 *   slice     the time a task runs between two waits. The budget is per slice.
 *
 * Rules
 *   - Whatever can raise is marked "raises" and runs in a protected call: a task's coroutine, or host_protect().
 *   - The registry anchors what C must find: a conn, a timer, a task's coroutine, by luaL_ref().
 *   - The extra space of every lua_State holds the host; its lowest bit is set while the thread may not be resumed or
 *     closed by the script: always in a task's coroutine, and in one of the script's own while it waits in the host.
 *
 * thread  everything here belongs to the worker's thread, but for what host_watch says.
 */
#ifndef PORTICO_HOST_INTERNAL_H
#define PORTICO_HOST_INTERNAL_H

#include "host.h"
#include "host_mail.h"
#include "host_wait.h"

#include "base.h"
#include "generation.h"
#include "mem.h"
#include "timer.h"

#include <lauxlib.h>
#include <lua.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HOST_POOL_MAX = 256,           /* idle coroutines that are kept */
    HOST_DRAW_MAX = 65536,         /* bytes of one conn:recv() */
    HOST_DRAW_DEFAULT = 16384,     /* … when the script names no number */
    HOST_TIMER_ARGS_MAX = 64,      /* extra arguments of portico.after(), portico.spawn() */
    HOST_SPAWN_MAX = 100000,       /* tasks of portico.spawn() at a time */
    HOST_LINE_ROUND = 256,         /* turns before packets come first again */
    HOST_SECONDS_MAX = 1000000000, /* 31 years: more is a mistake */
    HOST_DATAGRAMS_HIGH = 1000,    /* so many handlers of datagrams wait in one state: no more are received, … */
    HOST_DATAGRAMS_LOW = 750,      /* … until so few do. In between sleepers that wake up change nothing */
    HOST_RESERVE_BYTES = 256 << 10 /* above the cap, for reporting that the cap was reached */
};

typedef struct host host;
typedef struct host_seat host_seat;
typedef struct host_task host_task;
typedef struct host_conn host_conn;
typedef struct host_timer host_timer;
typedef struct host_pipe host_pipe;       /* of conn:pipe() */
typedef struct host_attempt host_attempt; /* of portico.connect() */
typedef struct host_idle host_idle;       /* a connection in the pool */
typedef struct host_udp host_udp;         /* a socket of portico.udp() */
typedef struct host_custom host_custom;   /* a frame that Lua decodes */
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
    HOST_ON_ERROR,
    HOST_ON_LOAD,
    HOST_ON_CHECK,
    HOST_ON_UNLOAD,
    HOST_DATAGRAM, /* on_message, for a datagram */
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

/* "on_message", "the function of portico.after", … */
const char *host_kind_name(host_kind kind);
/* The handler of that name, or HOST_NOTHING. */
host_kind host_kind_find(const char *name);

/* What the watchdog looks at. The worker writes sequence, kind, conn_id and budget_ns; the watchdog overdue. */
typedef struct host_watch {
    atomic_ullong sequence;  /* odd exactly while a slice runs */
    atomic_ullong overdue;   /* the slice that is to end, or an old one, or 0 */
    atomic_llong budget_ns;  /* 0: none */
    atomic_ullong conn_id;   /* of the connection whose handler runs; 0: none */
    atomic_uint kind;        /* a host_kind */
    bool registered;         /* the watchdog knows this host */
    bool told;               /* the watchdog's: the slice was logged as stuck */
    unsigned long long seen; /* the watchdog's: the slice it saw last … */
    int64_t since_ns;        /* … and since when, */
    int64_t cpu_ns;          /* … and what the worker's thread had used then … */
    int64_t away_seen_ns;    /* … of which this away */
    atomic_bool away;        /* in the middle of the slice the worker serves others: see host_set_hook() */
    atomic_llong away_ns;    /* processor time that it has used so */
    host *next;              /* the watchdog's list */
} host_watch;

/* A worker's app_state. */
struct host_seat {
    worker *worker;
    const host_config *config;
    host *current;         /* serves what happens from now on */
    host *fallback;        /* during probation: what can be gone back to; else NULL */
    host *candidate;       /* is being prepared, or is prepared; else NULL */
    host *lingering;       /* those that were in force and are not done yet, oldest first */
    uint64_t committed_id; /* connections with a greater id came after the last commit */
    uint64_t undone;       /* the generation that the last commit put into force, once it was gone back from; else 0 */
    timer sweep;           /* moves connections in the background, and ends lingering hosts */
    bool sweeping;         /* the walk over the connections is under way */
    bool ending;           /* a host is being closed, and others have their turns */
    bool frozen;           /* a move has failed: no more until the controller has gone back */
    uint8_t *scratch;      /* HOST_DRAW_MAX bytes */
    struct id_map *calls;  /* of portico.worker.call() that wait, by number; NULL: there has been none */
    uint64_t call_numbers; /* the last that was given */
};

struct host {
    lua_State *L;                 /* the main thread; its stack holds the dispatcher in slot 1, else nothing at rest */
    _Atomic(lua_State *) running; /* while a slice runs, the coroutine that runs now; never dangling meanwhile */
    host_task *task;              /* whose slice runs; NULL: none */
    host_task *idle;              /* the pool, through next */
    host_task *waiting;           /* suspended tasks, through next and prev */
    host_seat *seat;
    worker *worker; /* the seat's, and so is config */
    const host_config *config;
    generation *generation;
    conn_events events;    /* of the connections that this host serves: they lead back to it, see host_of_conn() */
    uint32_t conns;        /* so many: accepted ones from on_open on */
    host_idle *idle_conns; /* the pool, through next and prev, the last first */
    host_timer *timers;    /* all that run or are to run, through next and prev */
    host_line line;
    host_topics *topics; /* NULL: nobody has subscribed yet */
    uint32_t spawned;    /* tasks of portico.spawn() that are not over */
    bool in_force;       /* timers run: the state has loaded, and is the seat's current one */
    bool loading;        /* top level, on_load or on_check run: what goes wrong refuses the generation */
    bool gives_way;      /* … or it is being closed: the host in force has its turns meanwhile */
    bool told;           /* lingering: what holds it has been logged */
    uint32_t calls;      /* of its allocator meanwhile */
    int64_t turn_due_ns; /* when to give way again */
    int64_t retired_ns;  /* when it began to linger */
    host *next;          /* lingering */
    lua_Integer version; /* of the layout of conn.state; 0 when the script does not say */
    int migrate_ref;     /* the script's migrate(), or LUA_NOREF */
    int conn_meta_ref;   /* where the metatables are */
    int timer_meta_ref;
    int frame_ref;     /* of limits.frame, if Lua decodes it: a host_custom */
    uint32_t handlers; /* HOST_BIT() of those that the script has */
    uint32_t idle_count;
    uint32_t datagrams;   /* handlers of datagrams that wait */
    uint32_t busy;        /* waiting tasks that belong to a connection or a datagram */
    bool blocked;         /* waiting is impossible: between the task and here somebody cannot yield */
    bool cut;             /* the drain was cut off: nothing may wait any more */
    bool closing;         /* the state is being closed */
    bool half_open;       /* the script has on_eof */
    bool is_client;       /* its `listen` is empty */
    conn_receive receive; /* mode of accepted connections */
    conn_limits limits;   /* of accepted and outbound connections */
    mem_heap *heap;
    size_t heap_bytes; /* allocated by Lua now */
    size_t heap_peak;
    size_t heap_cap;  /* what Lua may have now: the configured cap, with the reserve while reporting */
    size_t heap_soft; /* above this a full collection comes before the next slice */
    host_watch watch;
    unsigned long long memory_caught; /* the last slice that caught a lack of memory, */
    unsigned long long memory_ended;  /* … and that was ended for the second */
    unsigned long long overrun_slice; /* the last slice in which the budget's hook acted */
    bool hook_yielded;                /* it has just ended a coroutine by yielding out of it */
    uint64_t slices;
    uint64_t errors;   /* handlers that raised */
    uint64_t overruns; /* … because their budget was over */
    char warning[512]; /* a warning of Lua's that is still being put together */
    size_t warning_len;
};

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
    const void *data; /* HOST_ON_MESSAGE, HOST_DATAGRAM: until the first wait */
    size_t len;
    host_attempt *attempt;   /* HOST_CONNECTS */
    host_datagram datagram;  /* HOST_DATAGRAM */
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

/* The userdata that scripts see as conn. It is valid while the slot that it points to has its id: slots are not freed
 * before the worker's last state is closed, so that a stale one needs no clearing. User value 1 is conn.state; an outbound one has 2, its handlers by kind, and
 * 3, the address it was given. */
struct host_conn {
    const void *tag;       /* tells it from other userdata */
    conn *c;               /* see host_conn_get(); NULL: not yet, or no more */
    host_attempt *attempt; /* that waits for it to be connected; else NULL */
    uint64_t id;
    host_conn *before;          /* what its connection had in the host that it was moved from, as long as … */
    uint64_t before_generation; /* … that is the seat's fallback, and of this generation */
    uint32_t handlers;          /* outbound: its own */
    int ref;                    /* LUA_NOREF: not anchored */
    bool carried;               /* moved here from a host that cannot be gone back to */
    int frame_ref;              /* conn->own_frame: the host_custom, if Lua decodes it */
};

/* The connection of a userdata, or NULL when it is over, for scripts at least. */
static inline conn *host_conn_get(const host_conn *hc)
{
    return hc->c != NULL && hc->c->id == hc->id ? hc->c : NULL;
}

/* The host that serves a connection. */
static inline host *host_of_conn(const conn *c)
{
    return container_of(c->events, host, events);
}

/* ---- Threads ---- */

static inline host *host_of(lua_State *L)
{
    return (host *)(*(uintptr_t *)lua_getextraspace(L) & ~(uintptr_t)1);
}
static inline bool host_is_marked(lua_State *L)
{
    return (*(uintptr_t *)lua_getextraspace(L) & 1) != 0;
}
static inline void host_mark(lua_State *L, bool on)
{
    uintptr_t *extra = lua_getextraspace(L);
    *extra = on ? *extra | 1 : *extra & ~(uintptr_t)1;
}
static inline void host_set_running(host *h, lua_State *L)
{
    atomic_store_explicit(&h->running, L, memory_order_release);
}

/* ---- host_alloc.c ---- */
/* A lua_Alloc; context is the host. */
void *host_allocate(void *context, void *block, size_t old_bytes, size_t bytes);
/* The same, and calls host_give_way() now and then. */
void *host_allocate_giving_way(void *context, void *block, size_t old_bytes, size_t bytes);
/* Sets heap_soft, given what Lua has after a full collection. */
void host_set_soft_cap(host *h);
/* Lets Lua go over its cap by HOST_RESERVE_BYTES, or not. */
void host_reserve(host *h, bool on);
/* "64 MiB". Returns text. */
char *host_cap_text(const host *h, char *text, size_t size);

/* ---- host_budget.c ---- */
/* Registers the host with the process's watchdog, which is started for the first one. False: out of memory or threads.
 * */
bool host_budget_open(host *h);
void host_budget_close(host *h);
/* The number of the slice that runs; even when none does. */
static inline unsigned long long host_slice(const host *h)
{
    return atomic_load_explicit(&h->watch.sequence, memory_order_relaxed);
}
/* The slice that runs has been told to end. */
static inline bool host_is_overdue(const host *h)
{
    return atomic_load_explicit(&h->watch.overdue, memory_order_relaxed) == host_slice(h);
}
/* A slice of the host's runs, and is not away. */
static inline bool host_is_running(const host *h)
{
    return host_slice(h) % 2 != 0 && !atomic_load_explicit(&h->watch.away, memory_order_relaxed);
}
/* This thread is that seat's worker; NULL: none any more. */
void host_budget_enter(const host_seat *seat);
/* Something of the script's, on L, has caught a lack of memory. The second time in a slice ends it. */
void host_memory_caught(host *h, lua_State *L);
/* Makes L end at its next instruction, when the slice is overdue: for coroutines whose inner one has come back. */
void host_budget_carry(host *h, lua_State *L);
/* Leaving a slice that was, or had just become, overdue: takes the hook off L. */
void host_budget_clear(host *h, lua_State *L);
/* Pushes what the first error of that slice said, and its traceback. False, and nothing: the hook has not raised in
 * this slice, or there was no memory to note it. raises */
bool host_push_overrun(lua_State *L, unsigned long long slice);

/* True while the watchdog sleeps because no slice has run for a while: the next one rouses it. */
extern atomic_bool host_watchdog_sleeps;
/* A host is registered. */
void host_budget_rouse(void);

static inline void host_slice_begin(host *h, host_kind kind, uint64_t conn_id, lua_State *L)
{
    host_watch *watch = &h->watch;
    atomic_store_explicit(&watch->kind, (unsigned)kind, memory_order_relaxed);
    atomic_store_explicit(&watch->conn_id, conn_id, memory_order_relaxed);
    atomic_store_explicit(&h->running, L, memory_order_relaxed);
    unsigned long long sequence = atomic_load_explicit(&watch->sequence, memory_order_relaxed);
    atomic_store_explicit(&watch->sequence, sequence + 1, memory_order_release);
    if (atomic_load_explicit(&host_watchdog_sleeps, memory_order_relaxed)) host_budget_rouse();
}
static inline void host_slice_end(host *h, lua_State *L)
{
    host_watch *watch = &h->watch;
    unsigned long long sequence = atomic_load_explicit(&watch->sequence, memory_order_relaxed);
    atomic_store_explicit(&watch->sequence, sequence + 1, memory_order_release);
    if (atomic_load_explicit(&watch->overdue, memory_order_relaxed) != 0) host_budget_clear(h, L);
}

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
/* Its error is for on_error, too. */
static inline bool host_wants_on_error(const host *h, const host_task *t)
{
    return (h->handlers & HOST_BIT(HOST_ON_ERROR)) && t->kind != HOST_ON_ERROR && !h->loading &&
           t->kind != HOST_ON_UNLOAD && !t->quiet;
}
/* on_close has run, or there is none. */
void host_end_conn(host *h, conn *c);
/* A function that waits calls this first. raises unless the task can be suspended from here. */
void host_check_wait(lua_State *L, const char *function);
/* Then it sets the task's waiting, and yields. This goes on with it. */
void host_task_wake(host_task *t);
/* Ends all suspended tasks. */
void host_kill_waiting(host *h);
/* Ends one: runs what its coroutines have to close, in the slice that runs, or else in one of its own. */
void host_kill(host_task *t);

/* ---- host.c ---- */
/* A state for that generation, which is retained; the script is not loaded yet. NULL: it has been logged why not. */
host *host_open(host_seat *seat, generation *g);
/* Runs the script's top level and on_load, in the load budget. False: it has been logged what failed. */
bool host_load(host *h);
/* Ends what waits, calls on_unload, closes and frees. */
void host_close(host *h);
/* Closes and frees one that never came into force. */
void host_discard(host *h);

/* ---- host_swap.c, host_move.c: one generation after the other ---- */
/* Serves what is due on the worker, when that has not been done for a millisecond; the host is in the middle of something that
 * takes long. */
void host_give_way(host *h);
/* Gives a coroutine of a host that loads the hook with which it gives way to the one in force; else takes any hook off. */
void host_set_hook(const host *h, lua_State *L);
/* Moves a connection to the host in force. Returns the host that serves it from here on: the old one when that
 * cannot be, or not now. No handler runs but migrate(). */
host *host_move(conn *c);
/* True when a connection may be moved, whoever serves it now. */
static inline bool host_is_movable(const conn *c)
{
    return c->holds == 0 && !c->outbound && !c->close_told;
}
/* Tries what host_move() would do, on copies, with some connections of the host in force. False: it has been refused. */
bool host_try_states(host *to);
/* Pushes a copy of the state of a connection that another host serves, or nil. raises */
void host_push_state_copy(lua_State *L, const conn *c);
/* Something that holds a host is gone: if that was the last, and it lingers, it ends soon. */
void host_loosen(host *h);

/* ---- host_report.c ---- */
/* A message handler that adds the traceback to the text. raises */
int host_add_traceback(lua_State *L);
/* Says why a generation that loads cannot be used: logged once, whichever worker finds out. */
void host_refuse(host *h, const char *text, size_t len);
/* Counts a handler that raised. */
void host_count_error(host *h);
/* Logs the traceback of each task that waits, since it is about to be ended. */
void host_report_waiting(host *h);
/* The message handler of tasks: replaces an error by the table that on_error gets. raises */
int host_make_error(lua_State *L);
/* Pushes the table for an error that no message handler saw, for want of memory. raises */
void host_push_memory_error(lua_State *L);
/* Logs the error of the task's that is on top of the stack, once. raises */
void host_report(lua_State *L, const host_task *t);
/* Pushes the table of the error for which the budget's hook has ended the task, in the slice before this one. raises */
void host_push_overrun_error(lua_State *L, const host_task *t);
/* Logs that there was no memory. */
void host_report_memory(host *h, host_kind kind, const conn *c);
/* Logs the error on top of the stack of a coroutine of a task's that was closed. */
void host_report_close(host *h, const host_task *t, lua_State *co);
/* Pushes an error value as text, without calling metamethods. From and to may be the same. raises */
void host_push_error_text(lua_State *to, lua_State *from, int index);
/* Pushes the traceback of a thread, without the host's own frames at its end. raises */
void host_push_traceback(lua_State *L, lua_State *of, int level);

/* ---- host_conn.c ---- */
/* The conn at index, or NULL when it is something else. */
const host_conn *host_conn_test(lua_State *L, int index);
/* Makes the metatable. raises */
void host_conn_library(lua_State *L);
/* Pushes a new userdata that belongs to no connection yet and is anchored. raises */
host_conn *host_conn_new(lua_State *L, int user_values);
/* Pushes the connection's userdata, which is made at its first use. One that another host serves is moved here first; where
 * that cannot be, the userdata is a visitor's: it can do all, but has a copy of conn.state. raises */
void host_conn_push(lua_State *L, conn *c);
/* Takes the anchor off: from here on the script alone keeps it. */
void host_conn_unanchor(host *h, host_conn *hc);
/* The userdata of a connection that is over, for scripts: from here on it is stale. Without one, nothing. */
void host_conn_detach(host *h, conn *c);
/* The same for one that never belonged to a connection. */
void host_conn_drop(host *h, host_conn *hc);

/* ---- host_frame.c: frames as scripts declare them ---- */
/* Keeps what it needs of the library `string`. raises */
void host_frame_library(lua_State *L);
/* Reads the frame declared by the value at index.
 * result  NULL: the rule is set, and on top of the stack is a host_custom for FRAME_CUSTOM, else nil.
 *         Otherwise what is wrong, as a string on the stack: "frame.size: 1, 2, 3, 4 or 8 expected, got 5". raises */
const char *host_frame_read(lua_State *L, frame_rule *rule, int index);
/* frame_decode() for a connection with FRAME_CUSTOM. raises what the script's function does */
frame_status host_frame_decode(lua_State *L, const conn *c, frame_found *found, const uint8_t *data, size_t len);
/* Pushes what on_message gets behind a message: the values of its header, which stands before data. Returns how many. raises */
int host_frame_push_fields(lua_State *L, const conn *c, const uint8_t *data);
/* With FRAME_CUSTOM: makes of the values from index message to the top a string to be sent, on top. raises */
void host_frame_encode(lua_State *L, const conn *c, int message);

/* ---- host_message.c: messages of connections that have a frame ---- */
/* on_data for them: calls on_message for each whole one. */
void host_messages(host *h, conn *c, const uint8_t *data, size_t len);
/* Sends one, in a frame that is not FRAME_CUSTOM. Returns NULL, and conn_send()'s result; or what is wrong with it. */
const char *host_message_send(io_status *status, conn *c, const void *data, size_t len);
/* Sends the values from index message to the top as one message, in any frame but FRAME_RAW. raises what is wrong with it */
io_status host_message_send_any(lua_State *L, conn *c, int message);
/* Logs that the stream ended inside a message. */
void host_note_truncated(const conn *c);
/* The connection of the conn at arg, or NULL when it is over. raises */
conn *host_conn_check(lua_State *L, int arg);

/* ---- host_stream.c: conn:read and its kin ---- */
extern const luaL_Reg host_stream_methods[];
/* Pushes nil, message, code for a connection that is over, or not OPEN; returns 3. c may be NULL. raises */
int host_push_over(lua_State *L, const conn *c);
/* conn:send on that connection waits while its queue is above the high mark: the stream that runs is its own. */
bool host_stream_sends_wait(lua_State *L, const conn *c);
/* Then it ends with this. raises */
int host_stream_send_waits(lua_State *L, conn *c);
/* The task that waits is being ended, or does not wait for it any longer. */
void host_stream_abandon(host_task *t);

/* ---- host_pipe.c: conn:pipe ---- */
extern const luaL_Reg host_pipe_methods[];
/* The task that waits is being ended. */
void host_pipe_abandon(host_pipe *hp);

/* ---- host_connect.c: portico.connect ---- */
int host_api_connect(lua_State *L);
/* An outbound connection is open, or it is known why not. */
void host_connect_opened(host *h, conn *c, io_status status);
/* An outbound connection is open, and it is the first: the others of its attempt are given up. Before any handler. */
void host_connect_won(conn *c);
/* The task that waits is being ended. */
void host_connect_abandon(host_attempt *a);

/* ---- host_pool.c: connections that wait to be used again ---- */
typedef struct host_pool_options {
    uint32_t size; /* idle ones to one URI; 0: no pool */
    int64_t idle_ns;
} host_pool_options;
/* Reads the option `pool` of the function's argument arg from the value at index. raises */
void host_pool_read(lua_State *L, host_pool_options *options, int arg, int index);
/* Notes it in the table of a conn's handlers, for conn:release(). raises */
void host_pool_note(lua_State *L, const host_pool_options *options, int handlers);
/* Takes one out; its limits are those of a new one, and it is paused. NULL: there is none. */
conn *host_pool_take(host *h, const char *uri);
/* Closes all. */
void host_pool_close(host *h);
int host_conn_release(lua_State *L);

/* ---- host_udp.c: datagrams, portico.udp ---- */
void host_udp_library(lua_State *L); /* raises */
int host_api_udp(lua_State *L);
/* Takes this worker's socket of a UDP listener: see worker_app. */
void host_udp_take(worker *w, io_socket socket, const char *listener);
/* Pushes the peer of a datagram. raises */
void host_udp_push_peer(lua_State *L, const host_datagram *d);
/* Sends what the handler of the task's datagram has returned. */
void host_udp_reply(const host_task *t, const char *data, size_t len);
/* Few enough handlers of datagrams wait again. */
void host_udp_resume(host *h);

/* ---- host_listen.c: what is listened on ---- */
void host_listen_library(lua_State *L); /* raises */
int host_api_listen(lua_State *L);
/* Reads the script's `listen`, at index. NULL, or what is wrong, as a string on the stack. raises */
const char *host_listen_read(lua_State *L, int index);

/* ---- host_shared.c ---- */
void host_shared_library(lua_State *L); /* raises */
int host_api_shared(lua_State *L);

/* ---- host_timer.c ---- */
void host_timer_library(lua_State *L); /* raises */
int host_api_after(lua_State *L);
int host_api_every(lua_State *L);
int host_api_sleep(lua_State *L);
/* Starts all timers of a host that comes into force, and its line. */
void host_timers_start(host *h);
/* Stops them all, and keeps in mind what is left. */
void host_timers_stop(host *h);
/* Those with a name keep step with the timer of that name in the host before. Before host_timers_start(). */
void host_timers_take_over(host *h, const host *before);

/* ---- host_coroutine.c, host_library.c, host_api.c ---- */
void host_coroutine_library(lua_State *L); /* raises */
typedef enum host_outcome { HOST_RETURNED, HOST_RAISED, HOST_WAITS } host_outcome;
/* Resumes co with so many arguments, which are on its stack. HOST_RETURNED: *results values are on L; HOST_RAISED: the
 * error is; HOST_WAITS: L has to wait as well: to yield, with a continuation that calls this again. raises */
host_outcome host_step(lua_State *L, lua_State *co, int arguments, int *results);
/* Closes co, and before it those that it waits in, innermost first. Returns the status of co; an error is on its stack;
 * errors of the others are logged, as the task's. */
int host_close_thread(lua_State *L, lua_State *co, const host_task *t);
/* Opens the standard libraries, and changes what does not fit a server. raises */
void host_library_open(lua_State *L);
/* Makes the global `portico`. raises */
void host_api_open(lua_State *L);
/* Opens portico.codec: a lua_CFunction for require. */
int host_codec_open(lua_State *L);
/* Pushes portico.files. raises */
void host_files_open(lua_State *L);

/* ---- host_script.c ---- */
/* Loads and runs the script, checks what it defines, and makes the dispatcher. False: it has been logged why not. */
bool host_script_load(host *h);

/* ---- host_load.c: from text to functions ---- */
/* Replaces load, loadfile and dofile. raises */
void host_load_library(lua_State *L);
/* Compiles a text; bytecode is refused. Leaves the function, or an error's message when the result is not LUA_OK. */
int host_load_text(lua_State *L, const char *text, size_t len, const char *chunk_name);
/* The same for a file of a generation's, leaving out a byte order mark and a first line that begins with '#'. raises */
int host_compile(lua_State *L, const generation_file *file, const char *chunk_name);
/* The same for a file that is read now. raises */
int host_load_file(lua_State *L, const char *path);

/* ---- host_sandbox.c: --sandbox ---- */
/* Takes away what the level does not have, when all else is there. raises */
void host_sandbox_apply(lua_State *L);

/* ---- host_settings.c: values that scripts give ---- */
/* The nearest of names (NULL-terminated) to a misspelt one, or NULL when none is near. */
const char *host_nearest(const char *name, const char *const *names);
/* Pushes " (did you mean 'x'?)", or "" when there is nothing near. raises */
void host_push_hint(lua_State *L, const char *name, const char *const *names);
/* Seconds in a number, as ns. raises luaL_argerror for NaN, negative or huge ones. */
int64_t host_check_seconds(lua_State *L, int arg);
/* The same for an option: its value is at index, in the table that is argument arg. raises luaL_argerror, which names it */
int64_t host_option_seconds(lua_State *L, int arg, const char *name, int index);
/* Names of what host_limit_set() knows. */
extern const char *const host_limit_names[];
/* Sets the limit of that name from the value at index. Returns its bit; 0: there is no limit of that name; when the
 * value is wrong, it pushes what is expected, and returns HOST_LIMIT_WRONG. raises */
enum {
    HOST_LIMIT_SEND_HIGH = 8,
    HOST_LIMIT_SEND_LOW = 16,
    HOST_LIMIT_SEND_MAX = 32,
    HOST_LIMIT_WRONG = 64,
    HOST_LIMIT_MESSAGE = 128
};
uint32_t host_limit_set(lua_State *L, conn_limits *limits, const char *name, int index);
/* Makes the queue's marks fit each other: those that were not given follow the ones that were. NULL, or what is wrong.
 * */
const char *host_limits_settle(conn_limits *limits, uint32_t given);
/* Makes the metatable of a kind of userdata, of that name, and puts it under the key into the registry. raises */
void host_metatable(lua_State *L, const char *name, const void *key, const luaL_Reg *methods,
                    const luaL_Reg *metamethods);
/* What is wrong with handlers that are there together, or NULL. */
const char *host_handlers_wrong(uint32_t handlers);
/* Pushes nil, message, code, as scripts get it; returns 3. raises */
int host_push_failure(lua_State *L, const char *message, const char *code);

#endif
