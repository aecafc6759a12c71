/* host_timeout.c - portico.timeout: runs a function that may wait, for so long and no longer.
 *
 * The function runs in a coroutine of its own. When the time is over it is waiting somewhere inside, however deep: that
 * wait is taken from it, the task goes on, and the way back in ends here, where the coroutine is closed. So no pcall of
 * the function's sees it, and its variables to be closed are.
 */
#include "host_internal.h"

#include <assert.h>

/* Slot 1 of the call holds the coroutine (see inner_of() in host_coroutine.c), slot 2 this, to be closed. A coroutine of the
 * script's that dies of an error closes nothing, so this may live until it is collected: the clock runs only while the call
 * waits, when its task is surely there, and rests at INT64_MAX otherwise. */
typedef struct scope {
    timer clock;
    int64_t deadline_ns;
    host_task *task;
    bool is_over;
} scope;

/* The registry's key of the metatable. */
static const char scope_key;

static void fire(timer *clock, int64_t now_ns)
{
    scope *s = container_of(clock, scope, clock);
    (void)now_ns;
    if (s->task->waiting ==
        HOST_READY) { /* what it waited for has come, and who gave it has been told: the next wait ends */
        bool started =
            timer_start(&s->task->host->worker->timers, clock, INT64_MAX); /* in the place that it has just left */
        assert(started);
        (void)started;
        return;
    }
    s->is_over = true;
    host_wait_end(s->task);
    host_task_wake(s->task);
}

/* A timer that is started already can be moved without fail. */
static void set_clock(lua_State *L, scope *s, int64_t deadline_ns)
{
    bool moved = timer_start(&host_of(L)->worker->timers, &s->clock, deadline_ns);
    assert(moved);
    (void)moved;
}

/* However the call ends, and when what has not ended is collected. */
static int close_scope(lua_State *L)
{
    scope *s = lua_touserdata(L, 1);
    timer_stop(&host_of(L)->worker->timers, &s->clock);
    return 0;
}

static int go(lua_State *L, lua_State *co, int arguments);

static int woken(lua_State *L, int status, lua_KContext context)
{
    lua_State *co = lua_tothread(L, 1);
    scope *s = lua_touserdata(L, 2);
    (void)status;
    (void)context;
    if (!s->is_over) {
        set_clock(L, s, INT64_MAX);
        return go(L, co, 0);
    }
    if (host_close_thread(L, co, s->task) == LUA_OK) return host_push_failure(L, "timeout", "timeout");
    lua_xmove(co, L, 1); /* a __close has raised */
    return lua_error(L);
}

static int go(lua_State *L, lua_State *co, int arguments)
{
    int results = 0;
    switch (host_step(L, co, arguments, &results)) {
    case HOST_WAITS: {
        scope *s = lua_touserdata(L, 2);
        set_clock(L, s, s->deadline_ns);
        return lua_yieldk(L, 0, 0, woken);
    }
    case HOST_RETURNED:
        return results;
    case HOST_RAISED:
    default:
        host_close_failed(L, co);
        return lua_error(L);
    }
}

int host_api_timeout(lua_State *L)
{
    host *h = host_of(L);
    int64_t timeout_ns = host_check_seconds(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    host_check_wait(L, "portico.timeout");
    int arguments = lua_gettop(L) - 2;
    scope *s = lua_newuserdatauv(L, sizeof(*s), 0);
    *s = (scope){.clock = {.fire = fire}, .deadline_ns = io_port_now(h->worker->port) + timeout_ns, .task = h->task};
    lua_rawgetp(L, LUA_REGISTRYINDEX, &scope_key);
    lua_setmetatable(L, -2);
    lua_replace(L, 1);
    lua_State *co = lua_newthread(L);
    lua_insert(L, 1); /* stack: coroutine, scope, function, arguments */
    host_mark(co, true);
    if (!lua_checkstack(co, arguments + 1)) return luaL_error(L, "portico.timeout: too many arguments");
    lua_xmove(L, co, arguments + 1);
    lua_toclose(L, 2);
    if (!timer_start(&h->worker->timers, &s->clock, INT64_MAX)) {
        return luaL_error(L, "portico.timeout: out of memory");
    }
    return go(L, co, arguments);
}

void host_timeout_library(lua_State *L)
{
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, close_scope);
    lua_setfield(L, -2, "__close");
    lua_pushcfunction(L, close_scope);
    lua_setfield(L, -2, "__gc");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &scope_key);
}
