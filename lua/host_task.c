/* host_task.c - one call of a handler, from its coroutine's first slice to its end: taken from the pool, run, suspended while it waits, woken
 * or ended, and given back. Beside it, the protected calls that need no task.
 */
#include "host_internal.h"

#include "server.h"

#include <assert.h>

/* ---- Protected calls of the host's own ---- */

int host_protect(host *h, lua_CFunction function, void *argument, int results)
{
    lua_State *L = h->L;
    lua_pushcfunction(L, function);
    lua_pushlightuserdata(L, argument);
    host_slice_begin(h, HOST_CLEANUP, 0, L); /* a collection may run finalisers */
    int status = lua_pcall(L, 1, results, 0);
    host_slice_end(h, L);
    return status;
}

int host_call(host *h, host_kind kind, lua_CFunction function, void *argument, lua_State **used)
{
    enum { SLOTS = 3 };
    bool inside = host_slice(h) % 2 != 0;
    lua_State *L = inside ? atomic_load_explicit(&h->running, memory_order_relaxed) : h->L;
    *used = NULL;
    if (inside && !lua_checkstack(L, SLOTS)) return LUA_ERRMEM;
    *used = L;
    lua_pushcfunction(L, host_add_traceback);
    lua_pushcfunction(L, function);
    lua_pushlightuserdata(L, argument);
    if (!inside) host_slice_begin(h, kind, 0, L);
    int status = lua_pcall(L, 1, 0, -3);
    if (!inside) host_slice_end(h, L);
    lua_remove(L, status == LUA_OK ? -1 : -2);
    return status;
}

/* ---- Tasks ---- */

/* Protected: makes one, and leaves it in *argument. */
static int task_open(lua_State *L)
{
    host_task **made = lua_touserdata(L, 1);
    host_task *t = lua_newuserdatauv(L, sizeof(*t), 1);
    lua_State *co = lua_newthread(L);
    host_mark(co, true);
    host_set_hook(host_of(L), co); /* one may be inherited from a main thread that was overdue */
    lua_setiuservalue(L, -2, 1);
    *t = (host_task){.host = host_of(L), .co = co, .ref = luaL_ref(L, LUA_REGISTRYINDEX)};
    *made = t;
    return 0;
}

/* Puts the dispatcher into slot 1, the only thing there. */
static void task_reset(host_task *t)
{
    lua_settop(t->co, 0);
    lua_pushvalue(t->host->L, 1);
    lua_xmove(t->host->L, t->co, 1);
}

host_task *host_task_take(host *h, host_kind kind, conn *c)
{
    host_task *t = h->idle;
    if (t != NULL) {
        h->idle = t->next;
        h->idle_count--;
    } else {
        if (host_protect(h, task_open, &t, 0) != LUA_OK) {
            lua_pop(h->L, 1);
            host_count_error(h);
            host_report_memory(h, kind, c);
            return NULL;
        }
        task_reset(t);
    }
    t->kind = (uint8_t)kind;
    t->c = c;
    t->errand = NULL;
    t->failed = LUA_OK;
    t->quiet = false;
    return t;
}

static void task_give(host *h, host_task *t)
{
    assert(lua_gettop(t->co) == 1 && t->waiting == HOST_RUNS && !t->held);
    if (h->idle_count == HOST_POOL_MAX) {
        luaL_unref(h->L, LUA_REGISTRYINDEX, t->ref);
        return;
    }
    t->next = h->idle;
    h->idle = t;
    h->idle_count++;
}

static void suspend(host *h, host_task *t)
{
    t->prev = NULL;
    t->next = h->waiting;
    if (t->next != NULL) t->next->prev = t;
    h->waiting = t;
    if (host_kind_has_datagram(t->kind)) h->datagrams++;
    if (t->c != NULL || host_kind_has_datagram(t->kind)) h->busy++;
    if (t->c == NULL) return;
    if (!t->held && t->kind != HOST_ON_CLOSE) { /* after on_close comes nothing that would have to be held */
        t->held = true;
        conn_hold(t->c);
    }
}

static void unsuspend(host *h, host_task *t)
{
    if (t->prev != NULL) t->prev->next = t->next;
    else h->waiting = t->next;
    if (t->next != NULL) t->next->prev = t->prev;
    if (t->c != NULL || host_kind_has_datagram(t->kind)) h->busy--;
    if (host_kind_has_datagram(t->kind) && --h->datagrams == HOST_DATAGRAMS_LOW) host_udp_resume(h);
    t->waiting = HOST_RUNS;
    if (h->waiting == NULL) host_loosen(h);
}

void host_end_conn(host *h, conn *c)
{
    host_conn_detach(h, c);
    h->conns--;
    conn_release(c);
    host_loosen(h);
}

static void errand_over(host *h, host_task *t)
{
    const host_errand *errand = t->errand;
    t->errand = NULL;
    errand->over(h, t,
                 t->failed == LUA_OK      ? HOST_ERRAND_DONE
                 : t->failed == LUA_YIELD ? HOST_ERRAND_CANCELED
                                          : HOST_ERRAND_FAILED);
}

/* The handler has returned, or has been ended: what is to follow. */
static void task_over(host *h, host_task *t)
{
    conn *c = t->c;
    host_kind kind = (host_kind)(t->kind == HOST_ON_ERROR ? t->origin : t->kind);
    /* A stream that has failed is over. */
    bool keeps = t->keep && kind != HOST_ON_STREAM;
    if (t->kind == HOST_ON_ERROR && c != NULL && !keeps) conn_abort(c, CONN_ERROR, IO_OK);
    bool has_returned = t->failed != LUA_YIELD;
    if (kind == HOST_ON_STREAM && has_returned && c->state == CONN_OPEN) {
        conn_close(c, c->eof_seen ? CONN_EOF : c->shutdown_due ? CONN_SHUTDOWN : CONN_LOCAL);
    }
    if (t->held) conn_unhold(c);
    t->held = false;
    if (t->errand != NULL) errand_over(h, t);
    else if (t->kind == HOST_ON_CLOSE || (t->kind == HOST_ON_ERROR && t->origin == HOST_ON_CLOSE)) host_end_conn(h, c);
    else if (c != NULL && h != h->seat->current && host_is_movable(c)) host_move(c);
    task_give(h, t);
}

static bool run(host *h, host_task *t, int arguments);

/* The coroutine has ended with an error: what surrounds the handler ran out of memory. */
static void revive(host *h, host_task *t, int status)
{
    host_count_error(h);
    t->failed = (uint8_t)status;
    host_reserve(h, false);
    host_report_memory(h, (host_kind)t->kind, t->c);
    lua_closethread(t->co, h->L); /* nothing is to be closed there */
    task_reset(t);
}

/* Protected: logs, and returns the table for on_error. */
static int report_overrun(lua_State *L)
{
    host_task *t = lua_touserdata(L, 1);
    host_push_overrun_error(L, t);
    if (t->errand != NULL && t->errand->keep_error != NULL) t->errand->keep_error(L, t);
    host_report(L, t);
    return 1;
}

/* Closes the coroutine of a handler that was ended, with a budget of its own for what a __close may do: a tenth, since others have
 * waited for a whole one. */
static void close_in_budget(host *h, host_task *t)
{
    enum { SHARE = 10 };
    long long budget_ns = atomic_load_explicit(&h->watch.budget_ns, memory_order_relaxed);
    atomic_store_explicit(&h->watch.budget_ns, (budget_ns + SHARE - 1) / SHARE, memory_order_relaxed);
    host_slice_begin(h, HOST_CLEANUP, 0, t->co);
    lua_closethread(t->co, h->L);
    host_slice_end(h, t->co);
    atomic_store_explicit(&h->watch.budget_ns, budget_ns, memory_order_relaxed);
}

/* The budget's hook has yielded out of the handler: closes the coroutine, and leaves the table for on_error in slot 2. */
static void close_overrun(host *h, host_task *t)
{
    host_count_error(h);
    int reported = host_protect(h, report_overrun, t, 1); /* main stack: …, table or error */
    if (reported != LUA_OK) {
        host_reserve(h, false);
        host_report_memory(h, (host_kind)t->kind, t->c);
    }
    close_in_budget(h, t);
    task_reset(t);
    t->failed = reported == LUA_OK ? LUA_ERRRUN : LUA_ERRMEM;
    if (reported == LUA_OK && host_wants_on_error(h, t)) lua_xmove(h->L, t->co, 1);
    else lua_pop(h->L, 1);
}

/* The handler has raised, which has been logged; the error's table is in slot 2, if on_error is to have it. */
static void task_failed(host *h, host_task *t)
{
    if (t->failed == LUA_ERRMEM) host_collect_all(h);
    if (!host_wants_on_error(h, t)) {
        if (t->c != NULL) conn_abort(t->c, CONN_ERROR, IO_OK);
        lua_settop(t->co, 1);
        task_over(h, t);
        return;
    }
    /* The same task goes on as on_error, in a slice of its own. A timer, and who joins, do not wait for that. */
    if (t->errand != NULL) errand_over(h, t);
    t->origin = t->kind;
    t->kind = HOST_ON_ERROR;
    t->failed = LUA_OK;
    t->keep = false;
    int arguments = lua_gettop(t->co) - 1;
    lua_pushvalue(t->co, 1);
    lua_insert(t->co, 2);
    run(h, t, arguments);
}

/* The slice has ended, but neither in a wait nor as handlers usually do. False: the handler has raised. */
static bool stopped(host *h, host_task *t, int status)
{
    if (h->hook_yielded) {
        h->hook_yielded = false;
        close_overrun(h, t);
    } else if (status != LUA_OK) {
        revive(h, t, status);
    }
    if (t->failed != LUA_OK) {
        task_failed(h, t);
        return false;
    }
    task_over(h, t);
    return true;
}

/* One slice. The function and arguments are on the coroutine's stack, or it is suspended. False: it raised. */
static bool run(host *h, host_task *t, int arguments)
{
    int results;
    assert(h->task == NULL);
    if (host_collect_is_due(h)) host_collect_tend(h);
    h->task = t;
    h->blocked = false;
    h->slices++;
    host_slice_begin(h, (host_kind)t->kind, t->c != NULL ? t->c->id : 0, t->co);
    int status = lua_resume(t->co, h->L, arguments, &results);
    host_slice_end(h, t->co);
    h->task = NULL;
    if (status == LUA_YIELD && !h->hook_yielded) {
        assert(t->waiting != HOST_RUNS); /* scripts cannot yield out of a task: coroutine.yield is replaced */
        lua_pop(t->co, results);
        suspend(h, t);
        return true;
    }
    if (status != LUA_OK || t->failed != LUA_OK || t->kind != HOST_ON_MESSAGE || t->held || h != h->seat->current) {
        return stopped(h, t, status);
    }
    task_give(h, t); /* nothing follows on most messages */
    return true;
}

bool host_task_start(host *h, host_task *t)
{
    lua_pushvalue(t->co, 1);
    return run(h, t, 0);
}

/* ---- Waiting ---- */

const char *host_why_over(const host *h)
{
    return server_stopping(h->worker->server) ? "the server is stopping"
                                              : "this version of the script has been replaced";
}

/* NULL: it can. */
static const char *why_not_wait(lua_State *L)
{
    const host *h = host_of(L);
    const char *why = NULL;
    if (h->task == NULL) {
        why = "no handler runs; at load time leave it to portico.after(0, function() ... end)";
    } else if (h->cut) {
        why = host_why_over(h);
    } else if (h->loading) {
        why = "on_load and on_check end before the server starts; leave it to portico.after(0, function() ... end)";
    } else if (h->task->kind == HOST_ON_UNLOAD) {
        why = "on_unload is the end";
    } else if (h->task->kind == HOST_FRAME) {
        why = "the frame's function answers at once";
    } else if (h->blocked || !lua_isyieldable(L)) {
        why =
            "it was called through a C function that cannot wait (table.sort, string.gsub, tostring, require, __gc, …)";
    }
    return why;
}

void host_check_wait(lua_State *L, const char *function)
{
    const char *why = why_not_wait(L);
    if (why != NULL) luaL_error(L, "%s cannot wait here: %s", function, why);
}

bool host_can_wait(lua_State *L)
{
    return why_not_wait(L) == NULL;
}

void host_task_wake(host_task *t)
{
    unsuspend(t->host, t);
    run(t->host, t, 0);
}

/* Protected: returns the table for on_error. */
static int make_cut_error(lua_State *L)
{
    host_push_cut_error(L, lua_touserdata(L, 1));
    return 1;
}

/* A version at its end ends a handler, whose peer may wait for an answer that nobody else knows of. A stream begins anew in the
 * version in force, and of connections that go with their version on_close tells. */
static bool is_for_on_error(const host *h, const host_task *t)
{
    const conn *c = t->c;
    return h->cut && host_wants_on_error(h, t) && t->kind != HOST_ON_STREAM && c != NULL && c->state == CONN_OPEN &&
           !c->outbound && !server_stopping(h->worker->server);
}

/* It waits no more. */
static void end_killed(host *h, host_task *t)
{
    bool is_own = h->task == NULL && h->kills == 1; /* else this is part of somebody's slice */
    bool tells = is_own && is_for_on_error(h, t);
    if (tells && host_protect(h, make_cut_error, t, 1) != LUA_OK) { /* main stack: …, table or error */
        lua_pop(h->L, 1);
        tells = false;
    }
    if (is_own) host_slice_begin(h, HOST_CLEANUP, 0, h->L);
    lua_State *from = is_own ? h->L : atomic_load_explicit(&h->running, memory_order_relaxed);
    int status = host_close_thread(from, t->co, t); /* runs pending __close */
    if (is_own) host_slice_end(h, h->L);
    if (status != LUA_OK) host_report_close(h, t, t->co);
    task_reset(t);
    t->keep = false;
    if (tells) {
        lua_xmove(h->L, t->co, 1);
        t->failed = LUA_ERRRUN;
        task_failed(h, t);
        return;
    }
    t->failed = LUA_YIELD; /* it has not come to its end */
    task_over(h, t);
}

void host_kill(host_task *t)
{
    enum { NESTED_MAX = 32 }; /* each takes some of the 200 calls that Lua lets C nest (LUAI_MAXCCALLS) */
    host *h = t->host;
    host_wait_end(t);
    unsuspend(h, t);
    if (h->kills == NESTED_MAX) { /* what a task closes cancels the next task, and so on: left to the outermost */
        t->next = h->doomed;
        h->doomed = t;
        return;
    }
    h->kills++;
    end_killed(h, t);
    while (h->kills == 1 && h->doomed != NULL) {
        t = h->doomed;
        h->doomed = t->next;
        end_killed(h, t);
    }
    h->kills--;
}

void host_kill_waiting(host *h)
{
    while (h->waiting != NULL) host_kill(h->waiting);
}
