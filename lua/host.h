/* host.h - the Lua host: one Lua state per worker that runs one script, as a worker_app.
 *
 * main.c fills in a host_config, and passes &host_app and it to server_open(). What the script wants to listen on it tells
 * config->listening. Everything else happens through worker_app's functions, on the workers' threads.
 */
#ifndef PORTICO_HOST_H
#define PORTICO_HOST_H

#include "conn.h"
#include "generation.h"
#include "worker.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What scripts may use: see host_sandbox.c. */
typedef enum host_sandbox { HOST_SANDBOX_OFF, HOST_SANDBOX_STD, HOST_SANDBOX_STRICT } host_sandbox;

/* Shared, read-only but for exit_code, by all workers; must outlive the server. */
typedef struct host_config {
    const char *chunk_name; /* "@scripts/chat.lua": as lua_load() takes it; errors then read file:line */
    const char *script;     /* arg[0]: the path as given, or "default.lua" */
    const char *script_dir; /* where require() looks first; NULL: nowhere (embedded script) */
    int arg_count;          /* the script's own arguments: arg[1] … and portico.args */
    char *const *args;
    struct shared *shared;       /* the dictionaries of portico.shared() */
    struct listening *listening; /* NULL: what scripts want to listen on does not count */
    size_t lua_memory;           /* cap of one Lua state, in bytes */
    int64_t callback_budget_ns;  /* of one handler between two waits; 0: none */
    int64_t load_budget_ns;      /* of the script's top level and on_load; 0: none */
    int64_t reload_deadline_ns;  /* how long an old generation may linger */
    host_sandbox sandbox;
    bool check;                 /* the script is only to be loaded: what it leaves to timers does not run */
    bool workers_given;         /* the command line says how many workers there are */
    conn_limits limits;         /* the command line's; the script's `limits` table changes a copy per state */
    uint32_t limits_given;      /* bits HOST_LIMIT_*: the command line named it, so the script may not change it */
    const char *version;        /* portico.version */
    generation *first;          /* what a worker begins with */
    atomic_bool *reload_wanted; /* portico.reload() was called; the main thread is woken. NULL: nobody asks for it */
    atomic_int *exit_code;      /* what a script gave to portico.shutdown(code); NULL: nobody asks for it */
} host_config;

enum { HOST_LIMIT_IDLE = 1, HOST_LIMIT_FIRST_BYTE = 2, HOST_LIMIT_WRITE = 4 };

extern const worker_app host_app;

/* Tries whether the script compiles; on the calling thread, without any host. Its modules are left to require: which it wants
 * only running it tells. False: it does not, and that has been logged and is in the generation. Thread: any. */
bool host_compiles(generation *g);

enum { HOST_SLICE_TEXT = 512 };
/* What runs on that worker: "chat.lua: on_message of conn 7"; "" for nothing, or where there are no budgets and nobody looks. Returns
 * text. Thread: any. */
char *host_running_text(const worker *w, char *text, size_t size);

/* ---- One generation after the other: the steps of lua/reload.c, each called on the worker's own thread ---- */

/* Loads a generation beside the one in force, which has its turns meanwhile, and tries it: on_load, on_check, migrate. False:
 * it cannot be used; why is in the generation and has been logged, once for all workers. */
bool host_prepare(worker *w, generation *g);
/* Forgets what host_prepare() has prepared; fine if nothing. */
void host_drop(worker *w);
/* Puts it into force. The one before can be gone back to, until the next of these. Returns how many connections are to move. */
uint32_t host_commit(worker *w);
/* It is in force on all workers: what it posted while it loaded is posted now, and so comes to itself. */
void host_announce(worker *w);
/* The one before will not be gone back to: it ends when nothing waits there any more. */
void host_confirm(worker *w);
/* Goes back. Returns how many connections are to move. */
uint32_t host_rollback(worker *w);

/* One generation on one worker, for the report. */
typedef struct host_row {
    uint64_t generation;
    char hash[GENERATION_HASH_TEXT];
    int64_t loaded_ns; /* os_realtime_ns() then */
    uint64_t errors;   /* of the generation, on all workers */
    const char *state; /* "current", "fallback", "lingering" */
    uint32_t connections;
    uint32_t waiting;  /* suspended handlers */
    uint32_t outbound; /* connections of portico.connect(), among connections, too */
    size_t memory_bytes;
} host_row;

/* "2 suspended handlers, 1 outbound connection": what holds it. Returns text. */
char *host_holder(char *text, size_t size, const host_row *row);

/* Fills rows, the one in force first; returns how many. */
size_t host_rows(const worker *w, host_row *rows, size_t max);

#endif
