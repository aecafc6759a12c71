/* host_semaphore.c - portico.semaphore: so many tasks of one worker at a time, and no more. Who has a place holds a
 * guard, and gives the place back by it.
 */
#include "host_internal.h"

enum { PLACES_MAX = 1 << 30 };

typedef struct semaphore {
    const void *tag;  /* &semaphore_tag */
    lua_Integer free; /* places; those left for who has been woken included */
    lua_Integer places;
    host_queue waiters;
} semaphore;

/* User value 1 is the semaphore. */
typedef struct guard {
    const void *tag; /* &guard_tag */
    bool holds;
} guard;

/* What only these begin with; and the registry's keys of their metatables. */
static const char semaphore_tag, guard_tag;

static semaphore *check(lua_State *L)
{
    semaphore *s = lua_touserdata(L, 1);
    if (s == NULL || lua_rawlen(L, 1) != sizeof(*s) || s->tag != &semaphore_tag) luaL_typeerror(L, 1, "semaphore");
    return s;
}

static guard *check_guard(lua_State *L)
{
    guard *g = lua_touserdata(L, 1);
    if (g == NULL || lua_rawlen(L, 1) != sizeof(*g) || g->tag != &guard_tag) luaL_typeerror(L, 1, "guard");
    return g;
}

/* A free place that is nobody's goes to who waits. */
static void pass_on(semaphore *s)
{
    if (s->free > (lua_Integer)s->waiters.woken) host_queue_wake(&s->waiters);
}

static void left(host_queue *q, host_task *t)
{
    (void)t;
    pass_on(container_of(q, semaphore, waiters));
}

/* stack: semaphore, guard */
static int hold(lua_State *L, semaphore *s)
{
    ((guard *)lua_touserdata(L, 2))->holds = true;
    s->free--;
    return 1;
}

static int acquired(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    if (host_of(L)->task->woken) return hold(L, (semaphore *)context);
    return host_push_failure(L, "timeout", "timeout");
}

static int method_acquire(lua_State *L)
{
    semaphore *s = check(L);
    int64_t timeout_ns = host_check_timeout(L, 2);
    lua_settop(L, 1);
    guard *g = lua_newuserdatauv(L, sizeof(*g), 1); /* before the place is taken: this may raise */
    *g = (guard){.tag = &guard_tag};
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, 2, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &guard_tag);
    lua_setmetatable(L, 2);
    if (s->free > (lua_Integer)s->waiters.woken) return hold(L, s);
    if (timeout_ns == 0) return host_push_failure(L, "timeout", "timeout");
    host_check_wait(L, "semaphore:acquire");
    return host_wait_in(L, &s->waiters, timeout_ns, (lua_KContext)s, acquired);
}

static int method_free(lua_State *L)
{
    const semaphore *s = check(L);
    lua_pushinteger(L, s->free - (lua_Integer)s->waiters.woken);
    return 1;
}

static int to_string(lua_State *L)
{
    const semaphore *s = check(L);
    lua_pushfstring(L, "semaphore (%I of %I free)", (LUAI_UACINT)(s->free - (lua_Integer)s->waiters.woken),
                    (LUAI_UACINT)s->places);
    return 1;
}

static int guard_release(lua_State *L)
{
    guard *g = check_guard(L);
    bool held = g->holds;
    if (held) {
        lua_getiuservalue(L, 1, 1);
        semaphore *s = lua_touserdata(L, -1);
        g->holds = false;
        s->free++;
        pass_on(s);
    }
    lua_pushboolean(L, held);
    return 1;
}

static int guard_to_string(lua_State *L)
{
    lua_pushfstring(L, "guard (%s)", check_guard(L)->holds ? "holds" : "released");
    return 1;
}

int host_api_semaphore(lua_State *L)
{
    lua_Integer places = luaL_checkinteger(L, 1);
    luaL_argcheck(L, places > 0 && places <= PLACES_MAX, 1, "a number of places from 1 to 1073741824 expected");
    semaphore *s = lua_newuserdatauv(L, sizeof(*s), 0);
    *s = (semaphore){.tag = &semaphore_tag, .free = places, .places = places, .waiters = {.left = left}};
    lua_rawgetp(L, LUA_REGISTRYINDEX, &semaphore_tag);
    lua_setmetatable(L, -2);
    return 1;
}

void host_semaphore_library(lua_State *L)
{
    static const luaL_Reg methods[] = {{"acquire", method_acquire}, {"free", method_free}, {NULL, NULL}};
    static const luaL_Reg metamethods[] = {{"__tostring", to_string}, {NULL, NULL}};
    static const luaL_Reg guard_methods[] = {{"release", guard_release}, {NULL, NULL}};
    static const luaL_Reg guard_metamethods[] = {
        {"__close", guard_release}, {"__tostring", guard_to_string}, {NULL, NULL}};
    host_metatable(L, "semaphore", &semaphore_tag, methods, metamethods);
    host_metatable(L, "guard", &guard_tag, guard_methods, guard_metamethods);
}
