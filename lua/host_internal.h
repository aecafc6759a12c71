/* host_internal.h - what the files of the Lua host share. Nobody else includes it. It brings its parts along: host_task.h,
 * host_conn.h, host_script.h, host_wait.h, host_mail.h.
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
#include "host_conn.h"
#include "host_mail.h"
#include "host_script.h"
#include "host_task.h"
#include "host_wait.h"

#include "base.h"
#include "generation.h"
#include "log.h"
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
typedef struct host_timer host_timer;
typedef struct host_idle host_idle;     /* a connection in the pool */
typedef struct host_udp host_udp;       /* a socket of portico.udp() */
typedef struct host_custom host_custom; /* a frame that Lua decodes */

/* The coroutine that got the budget's hook last, and when it may get it anew. */
typedef struct host_armed {
    unsigned long long slice;
    const lua_State *L;
    int64_t again_ns;
} host_armed;

/* What the watchdog looks at. The worker writes sequence, kind, conn_id and budget_ns; the watchdog overdue. */
typedef struct host_watch {
    atomic_ullong sequence;  /* odd exactly while a slice runs */
    atomic_ullong overdue;   /* the slice that is to end, or an old one, or 0 */
    atomic_llong budget_ns;  /* 0: none */
    atomic_ullong conn_id;   /* of the connection whose handler runs; 0: none */
    atomic_uint kind;        /* a host_kind */
    bool registered;         /* the watchdog knows this host */
    host_armed armed;        /* whoever stops the worker has it: its own signal handler, or the watchdog */
    bool told;               /* the watchdog's: the slice was logged as stuck */
    unsigned long long seen; /* the watchdog's: the slice it saw last … */
    int64_t since_ns;        /* … and since when, */
    int64_t cpu_ns;          /* … and what the worker's thread had used then … */
    int64_t away_seen_ns;    /* … of which this away */
    atomic_bool away;        /* in the middle of the slice the worker serves others: see host_set_hook() */
    atomic_llong away_ns;    /* processor time that it has used so, and that is not the handler's for another reason */
    atomic_llong collect_from_ns;     /* while the collector works: what the thread had used when that began; else 0 */
    atomic_llong collect_longest_ns;  /* what it has used for that at once, at most, … */
    unsigned long long collect_slice; /* … in this slice; the worker's */
    host *next;                       /* the watchdog's list */
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
    host_task *doomed;            /* through next: to be ended by the outermost host_kill() */
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
    host_outbox outbox;  /* what waits until the state is in force everywhere */
    uint32_t spawned;    /* tasks of portico.spawn() that are not over */
    bool in_force;       /* timers run: the state has loaded, and is the seat's current one */
    bool holds_back;     /* a candidate, until it is in force on all workers: mail and shutdown wait until then */
    bool loading;        /* top level, on_load or on_check run: what goes wrong refuses the generation */
    bool gives_way;      /* … or it is being closed: the host in force has its turns meanwhile */
    bool told;           /* lingering: what holds it has been logged */
    uint32_t calls;      /* of its allocator meanwhile */
    int64_t turn_due_ns; /* when to give way again */
    int64_t retired_ns;  /* when it began to linger */
    host *next;          /* lingering */
    lua_Integer version; /* of the layout of conn.state; 0 when the script does not say */
    int migrate_ref;     /* the script's migrate(), or LUA_NOREF */
    int lasting_ref;     /* a set of names of conn.state, or LUA_NOREF */
    int conn_meta_ref;   /* where the metatables are */
    int timer_meta_ref;
    int frame_ref;     /* of limits.frame, if Lua decodes it: a host_custom */
    uint32_t handlers; /* HOST_BIT() of those that the script has */
    uint32_t idle_count;
    uint32_t datagrams;   /* handlers of datagrams that wait */
    uint32_t kills;       /* host_kill()s that run, one inside the other */
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
    size_t heap_cap;    /* what Lua may have now: the configured cap, with the reserve while reporting */
    size_t heap_soft;   /* above this a full collection comes before the next slice */
    size_t heap_low;    /* the range for which the collector is set, see host_collect.c: from here on … */
    size_t heap_span;   /* … so far */
    bool incremental;   /* that is how it collects; else by generations */
    bool own_collector; /* the script has set it, which --sandbox off lets it */
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

/* The host that serves a connection. */
static inline host *host_of_conn(const conn *c)
{
    return container_of(c->events, host, events);
}

/* It loads, or is tried, beside the one in force: connections are none of its business yet. */
static inline bool host_is_candidate(const host *h)
{
    return h == h->seat->candidate;
}

/* It was in force and will not be again: what of it still runs may go on, and nothing new begins. */
static inline bool host_is_retired(const host *h)
{
    return h != h->seat->current && h != h->seat->fallback && h != h->seat->candidate;
}

/* on_unload runs, or the state is being closed: nothing that begins now would ever run. */
static inline bool host_is_ending(const host *h)
{
    return h->closing || (h->task != NULL && h->task->kind == HOST_ON_UNLOAD);
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

/* Its error is for on_error, too. */
static inline bool host_wants_on_error(const host *h, const host_task *t)
{
    return (h->handlers & HOST_BIT(HOST_ON_ERROR)) && t->kind != HOST_ON_ERROR && !h->loading &&
           t->kind != HOST_ON_UNLOAD && !t->quiet;
}

/* ---- host_alloc.c ---- */
/* A lua_Alloc; context is the host. */
void *host_allocate(void *context, void *block, size_t old_bytes, size_t bytes);
/* The same, and calls host_give_way() now and then. */
void *host_allocate_giving_way(void *context, void *block, size_t old_bytes, size_t bytes);
/* Lets Lua go over its cap by HOST_RESERVE_BYTES, or not. */
void host_reserve(host *h, bool on);
/* "64 MiB". Returns text. */
char *host_cap_text(const host *h, char *text, size_t size);

/* ---- host_collect.c ---- */
/* For a new state, before it has loaded anything. */
void host_collect_begin(host *h);
/* The heap has changed so much that the collector is to be set anew. */
static inline bool host_collect_is_due(const host *h)
{
    return h->heap_bytes - h->heap_low > h->heap_span;
}
/* Sets it, and the range of sizes for which that holds. Anywhere outside of a collection. */
void host_collect_choose(host *h);
/* The same, and collects everything when the cap is near. Between slices. */
void host_collect_tend(host *h);
/* Collects everything. Between slices. */
void host_collect_all(host *h);

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
/* Pushes the table for a task that waits and is about to be ended. raises */
void host_push_cut_error(lua_State *L, const host_task *t);
/* Logs that there was no memory. */
void host_report_memory(host *h, host_kind kind, const conn *c);
/* Logs the error on top of the stack of a coroutine of a task's that was closed. */
void host_report_close(host *h, const host_task *t, lua_State *co);
/* Pushes an error value as text, without calling metamethods. raises */
void host_push_error_text(lua_State *L, int index);
/* Pushes the traceback of a thread, without the host's own frames at its end. raises */
void host_push_traceback(lua_State *L, lua_State *of, int level);

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
/* After HOST_RAISED: runs what of co's is to be closed, which may replace the error on top of L. Returns the status that co had
 * after that; LUA_OK or LUA_YIELD: it did not fail itself, and is as it was. */
int host_close_failed(lua_State *L, lua_State *co);
/* Closes co, and before it those that it waits in, innermost first. Returns the status of co; an error is on its stack;
 * errors of the others are logged, as the task's. */
int host_close_thread(lua_State *L, lua_State *co, const host_task *t);
/* Opens the standard libraries, and changes what does not fit a server. raises */
void host_library_open(lua_State *L);
/* Logs the arguments from first on, as text with a character between. Returns 0. raises */
int host_log_values(lua_State *L, log_level level, int first, char between);
/* Stops the server. code: what the process is to exit with; -1: the script does not say. */
void host_shut_down(const host *h, int code);
/* Makes the global `portico`. raises */
void host_api_open(lua_State *L);
/* Opens portico.codec: a lua_CFunction for require. */
int host_codec_open(lua_State *L);
/* Pushes portico.files. raises */
void host_files_open(lua_State *L);

#endif
