/* host_coroutine.c - the parts of Lua's coroutine library that have to know the host.
 *
 * A handler may make coroutines of its own, and a function that waits may be called inside one (a generator that sleeps
 * between two items). The wait then has to suspend the whole chain, out to the task's coroutine: the innermost yields
 * to our resume, which sees that its task waits, and yields as well. On waking, each of these continues by resuming the
 * next one further in. Towards the script nothing of this shows: resume returns when the inner coroutine yields for the
 * script.
 *
 * A coroutine that waits like this is, to other handlers, one that somebody has resumed: status "normal", not to be
 * resumed or closed. It is marked, see host_mark(). Our resume also keeps track of who runs, for the budget.
 */
#include "host_internal.h"

#include <assert.h>
#include <lualib.h>

static lua_State *check(lua_State *L)
{
    lua_State *co = lua_tothread(L, 1);
    luaL_argexpected(L, co != NULL, 1, "coroutine");
    return co;
}

/* lua_closethread(), seen by the budget. */
static int close_thread(lua_State *L, lua_State *co)
{
    host *h = host_of(L);
    host_set_running(h, co);
    int status = lua_closethread(co, L);
    host_set_running(h, L);
    host_budget_carry(h, L);
    return status;
}

host_outcome host_step(lua_State *L, lua_State *co, int arguments, int *results)
{
    host *h = host_of(L);
    bool blocked = h->blocked;
    h->blocked = blocked || !lua_isyieldable(L);
    host_set_running(h, co);
    int status = lua_resume(co, L, arguments, results);
    host_set_running(h, L);
    h->blocked = blocked;
    host_budget_carry(h, L);
    if (status == LUA_YIELD && h->task != NULL && h->task->waiting != HOST_RUNS) {
        assert(*results == 0 && !blocked && lua_isyieldable(L)); /* host_check_wait() saw to it */
        host_mark(co, true);
        return HOST_WAITS;
    }
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_xmove(co, L, 1);
        return HOST_RAISED;
    }
    if (h->hook_yielded) {
        h->hook_yielded = false;
        close_thread(L, co);
        lua_pushliteral(L, "callback budget exceeded"); /* hardly seen: L ends at its next instruction */
        return HOST_RAISED;
    }
    if (!lua_checkstack(L, *results + 1)) {
        lua_pop(co, *results);
        lua_pushliteral(L, "too many results to resume");
        return HOST_RAISED;
    }
    lua_xmove(co, L, *results);
    return HOST_RETURNED;
}

/* The arguments from first on are for co. False: they cannot be given, and why not is on the stack. */
static bool hand_over(lua_State *L, lua_State *co, int arguments)
{
    if (host_is_marked(co)) {
        lua_pushliteral(L, "cannot resume non-suspended coroutine");
        return false;
    }
    if (!lua_checkstack(co, arguments)) {
        lua_pushliteral(L, "too many arguments to resume");
        return false;
    }
    lua_xmove(L, co, arguments);
    return true;
}

/* ---- resume ---- */

static int resume_on(lua_State *L, lua_State *co, int arguments);

static int resume_woken(lua_State *L, int status, lua_KContext context)
{
    lua_State *co = lua_tothread(L, 1);
    (void)status;
    (void)context;
    host_mark(co, false);
    return resume_on(L, co, 0);
}

/* stack: co */
static int resume_on(lua_State *L, lua_State *co, int arguments)
{
    int results;
    switch (host_step(L, co, arguments, &results)) {
    case HOST_WAITS:
        return lua_yieldk(L, 0, 0, resume_woken);
    case HOST_RETURNED:
        lua_pushboolean(L, true);
        lua_insert(L, -(results + 1));
        return results + 1;
    case HOST_RAISED:
    default:
        /* Caught here, as by pcall. Out of wrap() and portico.timeout() the error goes on. */
        if (lua_status(co) == LUA_ERRMEM) host_memory_caught(host_of(L), L);
        lua_pushboolean(L, false);
        lua_insert(L, -2);
        return 2;
    }
}

static int co_resume(lua_State *L)
{
    lua_State *co = check(L);
    int arguments = lua_gettop(L) - 1;
    if (hand_over(L, co, arguments)) return resume_on(L, co, arguments);
    lua_pushboolean(L, false);
    lua_insert(L, -2);
    return 2;
}

/* ---- wrap ---- */

int host_close_failed(lua_State *L, lua_State *co)
{
    int status = lua_status(co);
    if (status == LUA_OK || status == LUA_YIELD) return status;
    status = close_thread(L, co);
    lua_pop(L, 1);
    lua_xmove(co, L, 1);
    return status;
}

/* An error that came out of a wrapped coroutine goes on as an error of the caller's. */
static int raise_wrapped(lua_State *L, lua_State *co)
{
    int status = host_close_failed(L, co);
    if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

static int wrap_on(lua_State *L, lua_State *co, int arguments);

static int wrap_woken(lua_State *L, int status, lua_KContext context)
{
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    (void)status;
    (void)context;
    host_mark(co, false);
    return wrap_on(L, co, 0);
}

static int wrap_on(lua_State *L, lua_State *co, int arguments)
{
    int results;
    switch (host_step(L, co, arguments, &results)) {
    case HOST_WAITS:
        return lua_yieldk(L, 0, 0, wrap_woken);
    case HOST_RETURNED:
        return results;
    case HOST_RAISED:
    default:
        return raise_wrapped(L, co);
    }
}

static int wrapped(lua_State *L)
{
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    int arguments = lua_gettop(L);
    if (hand_over(L, co, arguments)) return wrap_on(L, co, arguments);
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
    return lua_error(L);
}

static int co_wrap(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_State *co = lua_newthread(L);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    lua_pushcclosure(L, wrapped, 1);
    return 1;
}

/* ---- Closing what waits ---- */

/* The coroutine in which co waits, or NULL when it waits by itself. */
static lua_State *inner_of(lua_State *co)
{
    lua_Debug frame;
    if (lua_status(co) != LUA_YIELD || !lua_checkstack(co, 2) || !lua_getstack(co, 0, &frame)) return NULL;
    int top = lua_gettop(co);
    lua_getinfo(co, "f", &frame);
    lua_CFunction function = lua_tocfunction(co, -1);
    lua_State *inner = NULL;
    bool has_inner = function == wrapped                                     ? lua_getupvalue(co, -1, 1) != NULL
                     : function == co_resume || function == host_api_timeout ? lua_getlocal(co, &frame, 1) != NULL
                                                                             : false;
    if (has_inner) inner = lua_tothread(co, -1);
    lua_settop(co, top);
    return inner != NULL && host_is_marked(inner) ? inner : NULL;
}

/* As deep as resumes can be nested in C, which is 200 (LUAI_MAXCCALLS). */
int host_close_thread(lua_State *L, lua_State *co, const host_task *t)
{
    lua_State *inner = inner_of(co);
    if (inner != NULL) {
        if (host_close_thread(L, inner, t) != LUA_OK) host_report_close(host_of(L), t, inner);
        lua_settop(inner, 0);
        host_mark(inner, false);
    }
    return close_thread(L, co);
}

/* ---- The others ---- */

static const char *status_of(lua_State *L, lua_State *co)
{
    lua_Debug frame;
    if (L == co) return "running";
    if (host_is_marked(co)) return "normal";
    switch (lua_status(co)) {
    case LUA_YIELD:
        return "suspended";
    case LUA_OK:
        if (lua_getstack(co, 0, &frame)) return "normal";
        return lua_gettop(co) == 0 ? "dead" : "suspended"; /* a function on the stack is to be started */
    default:
        return "dead";
    }
}

static int co_status(lua_State *L)
{
    lua_State *co = check(L);
    lua_pushstring(L, status_of(L, co));
    return 1;
}

static int co_close(lua_State *L)
{
    lua_State *co = check(L);
    const char *state = status_of(L, co);
    if (state[0] == 'r' || state[0] == 'n') return luaL_error(L, "cannot close a %s coroutine", state);
    int status = close_thread(L, co);
    lua_pushboolean(L, status == LUA_OK);
    if (status == LUA_OK) return 1;
    lua_xmove(co, L, 1);
    return 2;
}

static int co_yield (lua_State *L)
{
    if (host_is_marked(L)) {
        return luaL_error(L, "attempt to yield from outside a coroutine: a handler may wait in portico.sleep, or yield "
                             "inside a coroutine that it has made");
    }
    return lua_yield(L, lua_gettop(L));
}

static int co_isyieldable(lua_State *L)
{
    lua_State *co = lua_isnone(L, 1) ? L : check(L);
    lua_pushboolean(L, lua_isyieldable(co) && !host_is_marked(co));
    return 1;
}

void host_coroutine_library(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"resume", co_resume}, {"wrap", co_wrap},    {"status", co_status},
        {"close", co_close},   {"yield", co_yield }, {"isyieldable", co_isyieldable},
        {NULL, NULL},
    };
    lua_getglobal(L, LUA_COLIBNAME);
    luaL_setfuncs(L, functions, 0);
    lua_pop(L, 1);
}
