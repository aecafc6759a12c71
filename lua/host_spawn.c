/* host_spawn.c - portico.spawn: a function that runs beside its caller, and the handle by which it is joined or
 * canceled.
 */
#include "host_internal.h"

#include <string.h>

typedef enum progress {
    LINED_UP, /* its turn to start has not come */
    STARTED,
    DONE,
    FAILED,
    CANCELED
} progress;

/* User value 1 is the function, and when it is over what is to be said about it: a table of results, or the message of
 * an error. The others are its arguments. Anchored in the registry until it is over. */
typedef struct host_spawn {
    const void *tag; /* &spawn_tag */
    host *host;
    host_task *task; /* STARTED, but for what on_error does about it */
    host_turn start;
    host_queue joiners;
    int ref;
    int arguments;
    int results; /* DONE: so many */
    uint8_t progress;
} host_spawn;

/* What only a handle begins with; and the registry's key of its metatable. */
static const char spawn_tag;

static host_spawn *check(lua_State *L)
{
    host_spawn *s = lua_touserdata(L, 1);
    if (s == NULL || lua_rawlen(L, 1) != sizeof(*s) || s->tag != &spawn_tag) luaL_typeerror(L, 1, "task");
    return s;
}

static bool is_over(const host_spawn *s)
{
    return s->progress >= DONE;
}

/* ---- Life ---- */

static void end(host *h, host_spawn *s, progress how)
{
    s->progress = (uint8_t)how;
    s->task = NULL;
    h->spawned--;
    while (host_queue_wake(&s->joiners)) {
    }
    luaL_unref(h->L, LUA_REGISTRYINDEX, s->ref); /* from here on it may be collected */
    host_loosen(h);
}

static int push(lua_State *L, host_task *t)
{
    host_spawn *s = t->subject;
    luaL_checkstack(L, s->arguments + 3, "too many arguments of a task"); /* the handle, the function, and nil */
    s->progress = STARTED;
    s->task = t;
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->ref);
    int place = lua_gettop(L);
    for (int value = 1; value <= 1 + s->arguments; value++) {
        lua_getiuservalue(L, place, value);
        lua_pushnil(L);
        lua_setiuservalue(L, place, value);
    }
    lua_remove(L, place);
    return s->arguments;
}

/* Sets user value 1 to the value on top, and takes that off. raises */
static void set_outcome(lua_State *L, host_spawn *s)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->ref);
    lua_insert(L, -2);
    lua_setiuservalue(L, -2, 1);
    lua_pop(L, 1);
}

static void keep(lua_State *L, host_task *t, int first)
{
    host_spawn *s = t->subject;
    int count = lua_gettop(L) - first + 1;
    if (count == 0) return;
    luaL_checkstack(L, 3, "too many results of a task");
    lua_createtable(L, count, 0);
    lua_insert(L, first);
    for (int i = count; i >= 1; i--) lua_rawseti(L, first, i);
    set_outcome(L, s);
    s->results = count;
}

/* Who waits to join gets it. */
static bool keep_error(lua_State *L, host_task *t)
{
    host_spawn *s = t->subject;
    if (lua_type(L, -1) == LUA_TTABLE) lua_getfield(L, -1, "message");
    else host_push_error_text(L, -1);
    set_outcome(L, s);
    return s->joiners.count > 0;
}

static void over(host *h, host_task *t, host_errand_end how)
{
    end(h, t->subject, how == HOST_ERRAND_DONE ? DONE : how == HOST_ERRAND_FAILED ? FAILED : CANCELED);
}

static void start(host *h, host_turn *turn)
{
    static const host_errand errand = {push, keep, keep_error, over};
    host_spawn *s = container_of(turn, host_spawn, start);
    if (h->cut) end(h, s, CANCELED);
    else if (!host_call_errand(h, HOST_SPAWN, &errand, s)) end(h, s, FAILED);
}

/* Its function is to run in the next turn, and its arguments with it. */
int host_api_spawn(lua_State *L)
{
    host *h = host_of(L);
    luaL_checktype(L, 1, LUA_TFUNCTION);
    int arguments = lua_gettop(L) - 1;
    luaL_argcheck(L, arguments <= HOST_TIMER_ARGS_MAX, 2 + HOST_TIMER_ARGS_MAX, "too many arguments");
    if (h->cut || host_is_ending(h)) return host_push_failure(L, host_why_over(h), "closed");
    if (h->spawned == HOST_SPAWN_MAX) {
        lua_pushfstring(L, "too many tasks at a time: %d", HOST_SPAWN_MAX);
        return host_push_failure(L, lua_tostring(L, -1), "limit");
    }
    host_spawn *s = lua_newuserdatauv(L, sizeof(*s), 1 + arguments);
    *s = (host_spawn){.tag = &spawn_tag, .host = h, .start = {.run = start}, .arguments = arguments};
    lua_rawgetp(L, LUA_REGISTRYINDEX, &spawn_tag);
    lua_setmetatable(L, -2);
    for (int value = 1; value <= 1 + arguments; value++) {
        lua_pushvalue(L, value);
        lua_setiuservalue(L, -2, value);
    }
    lua_pushvalue(L, -1);
    s->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    h->spawned++;
    host_line_up(h, &s->start);
    return 1;
}

/* ---- Methods ---- */

static int push_outcome(lua_State *L, const host_spawn *s)
{
    if (s->progress == CANCELED) return host_push_failure(L, "canceled", "canceled");
    lua_getiuservalue(L, 1, 1);
    if (s->progress == FAILED) {
        const char *message = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "not enough memory";
        return host_push_failure(L, message, "error");
    }
    int table = lua_gettop(L);
    luaL_checkstack(L, s->results + 1, "too many results of a task");
    lua_pushboolean(L, true);
    for (int i = 1; i <= s->results; i++) lua_rawgeti(L, table, i);
    return 1 + s->results;
}

static int joined(lua_State *L, int status, lua_KContext context)
{
    const host_spawn *s = (const host_spawn *)context;
    (void)status;
    return is_over(s) ? push_outcome(L, s) : host_push_failure(L, "timeout", "timeout");
}

static int method_join(lua_State *L)
{
    host_spawn *s = check(L);
    int64_t timeout_ns = host_check_timeout(L, 2);
    lua_settop(L, 1);
    if (is_over(s)) return push_outcome(L, s);
    if (timeout_ns == 0) return host_push_failure(L, "timeout", "timeout");
    host_check_wait(L, "task:join");
    if (s->task == host_of(L)->task) return luaL_error(L, "task:join: a task cannot wait for its own end");
    return host_wait_in(L, &s->joiners, timeout_ns, (lua_KContext)s, joined);
}

static int method_cancel(lua_State *L)
{
    host_spawn *s = check(L);
    host *h = s->host;
    if (s->progress == LINED_UP) {
        host_line_leave(h, &s->start);
        end(h, s, CANCELED);
    } else if (s->progress == STARTED && s->task != NULL) {
        host_task *t = s->task;
        if (t == h->task) return luaL_error(L, "a task cannot cancel itself: let its function return");
        s->task = NULL; /* what it has to close may come back here */
        host_kill(t);
    } else {
        lua_pushboolean(L, false);
        return 1;
    }
    lua_pushboolean(L, true);
    return 1;
}

static int method_close(lua_State *L)
{
    const host_spawn *s = check(L);
    return !is_over(s) && s->task != s->host->task ? method_cancel(L) : 0;
}

static const char *status_of(const host_spawn *s)
{
    switch ((progress)s->progress) {
    case LINED_UP:
        return "ready";
    case STARTED:
        return s->task != NULL && s->task == s->host->task ? "running" : "waiting";
    case DONE:
        return "done";
    case FAILED:
        return "failed";
    case CANCELED:
    default:
        return "canceled";
    }
}

static int method_status(lua_State *L)
{
    lua_pushstring(L, status_of(check(L)));
    return 1;
}

static int to_string(lua_State *L)
{
    lua_pushfstring(L, "task (%s)", status_of(check(L)));
    return 1;
}

void host_spawn_library(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"join", method_join}, {"cancel", method_cancel}, {"status", method_status}, {NULL, NULL}};
    static const luaL_Reg metamethods[] = {{"__close", method_close}, {"__tostring", to_string}, {NULL, NULL}};
    host_metatable(L, "task", &spawn_tag, methods, metamethods);
}
