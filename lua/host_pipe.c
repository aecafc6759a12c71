/* host_pipe.c - conn:pipe: bytes go from one connection to another in C, one way or both, and the task waits for the end.
 */
#include "host_internal.h"

#include "pipe.h"

#include <string.h>

/* In a userdata on the stack of who called it. */
struct host_pipe {
    conn_pipe there;
    conn_pipe back;  /* if both */
    host_task *task; /* that waits */
    bool both;
};

enum { FROM_SLOT = 1, TO_SLOT, OPTIONS_SLOT, PIPE_SLOT };

/* ---- The end ---- */

static bool runs(const conn_pipe *p)
{
    return p->end == PIPE_RUNS;
}

static bool has_failed(const conn_pipe *p)
{
    return p->end != PIPE_RUNS && p->end != PIPE_DONE;
}

static bool has_ended(const host_pipe *hp)
{
    bool done = !runs(&hp->there) && !(hp->both && runs(&hp->back));
    return done || has_failed(&hp->there) || has_failed(&hp->back);
}

void host_pipe_abandon(host_pipe *hp)
{
    if (runs(&hp->there)) pipe_stop(&hp->there);
    if (hp->both && runs(&hp->back)) pipe_stop(&hp->back);
}

static void look(host_pipe *hp)
{
    if (!has_ended(hp)) return;
    host_pipe_abandon(hp); /* the other way, if one has failed */
    host_task_wake(hp->task);
}

static void there_is_over(conn_pipe *p)
{
    look(container_of(p, host_pipe, there));
}

static void back_is_over(conn_pipe *p)
{
    look(container_of(p, host_pipe, back));
}

/* Pushes nil, message, code and the connection that failed, which is in the slot. */
static void push_failure(lua_State *L, int slot, const conn *c, bool is_eof)
{
    if (is_eof) host_push_failure(L, "eof", "eof");
    else host_push_over(L, c);
    luaL_tolstring(L, slot, NULL);
    lua_pushfstring(L, "%s: %s", lua_tostring(L, -1), lua_tostring(L, -3));
    lua_replace(L, -4);
    lua_pop(L, 1);
    lua_pushvalue(L, slot);
}

static int push_end(lua_State *L, const host_pipe *hp)
{
    int results = 0;
    const conn_pipe *p = has_failed(&hp->there) ? &hp->there : &hp->back;
    if (has_failed(p)) {
        bool is_target = p->end == PIPE_TARGET;
        bool is_second = is_target == (p == &hp->there);
        push_failure(L, is_second ? TO_SLOT : FROM_SLOT, is_target ? p->target : p->source, p->end == PIPE_EOF);
        results = 4;
    }
    lua_pushinteger(L, (lua_Integer)hp->there.bytes);
    if (!hp->both) return results + 1;
    lua_pushinteger(L, (lua_Integer)hp->back.bytes);
    return results + 2;
}

static int ended(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    return push_end(L, (const host_pipe *)context);
}

/* ---- The beginning ---- */

typedef struct options {
    bool both;
    uint64_t count;
} options;

/* raises */
static options read_options(lua_State *L)
{
    static const char *const names[] = {"both", "count", NULL};
    options o = {.count = UINT64_MAX};
    if (lua_isnil(L, OPTIONS_SLOT)) return o;
    luaL_checktype(L, OPTIONS_SLOT, LUA_TTABLE);
    int key = OPTIONS_SLOT + 1, value = key + 1;
    for (lua_pushnil(L); lua_next(L, OPTIONS_SLOT); lua_settop(L, key)) {
        const char *name = host_option_name(L, OPTIONS_SLOT, key);
        const char *wrong = NULL;
        int whole = 0;
        lua_Integer count = lua_type(L, value) == LUA_TNUMBER ? lua_tointegerx(L, value, &whole) : 0;
        if (strcmp(name, "both") == 0) {
            if (!lua_isboolean(L, value)) wrong = "boolean expected";
            o.both = lua_toboolean(L, value);
        } else if (strcmp(name, "count") == 0) {
            if (!whole || count < 0) wrong = "bytes, a whole number from 0, expected";
            o.count = (uint64_t)count;
        } else {
            host_option_unknown(L, OPTIONS_SLOT, "", name, names);
        }
        if (wrong == NULL) continue;
        luaL_argerror(L, OPTIONS_SLOT, lua_pushfstring(L, "%s: %s, got %s", name, wrong, host_push_found(L, value)));
    }
    if (o.both && o.count != UINT64_MAX) luaL_argerror(L, OPTIONS_SLOT, "count is for one way, and both are asked for");
    return o;
}

/* What can be known before: nil, message, code, connection, 0. */
static int push_over_at_once(lua_State *L, int slot, const conn *c)
{
    push_failure(L, slot, c, false);
    lua_pushinteger(L, 0);
    return 5;
}

static int method_pipe(lua_State *L)
{
    conn *from = host_conn_check(L, FROM_SLOT), *to = host_conn_check(L, TO_SLOT);
    lua_settop(L, OPTIONS_SLOT);
    options o = read_options(L);
    luaL_argcheck(L, !o.both || from != to || from == NULL, TO_SLOT, "another connection expected");
    if (from == NULL || from->state != CONN_OPEN) return push_over_at_once(L, FROM_SLOT, from);
    if (to == NULL || to->state != CONN_OPEN) return push_over_at_once(L, TO_SLOT, to);
    if (conn_is_read(from) || (o.both && conn_is_read(to))) {
        return luaL_error(L, "conn:pipe: somebody else is reading this connection");
    }
    host_check_wait(L, "conn:pipe");
    host_task *t = host_of(L)->task;
    host_pipe *hp = lua_newuserdatauv(L, sizeof(*hp), 0); /* from here on nothing raises until it waits */
    memset(hp, 0, sizeof(*hp));
    hp->task = t;
    pipe_begin(&hp->there, from, to, o.count, there_is_over);
    if (o.both && !has_failed(&hp->there)) {
        hp->both = true;
        pipe_begin(&hp->back, to, from, UINT64_MAX, back_is_over);
    }
    if (has_ended(hp)) {
        host_pipe_abandon(hp);
        return push_end(L, hp);
    }
    t->pipe = hp;
    t->waiting = HOST_PIPES;
    return lua_yieldk(L, 0, (lua_KContext)hp, ended);
}

const luaL_Reg host_pipe_methods[] = {
    {"pipe", method_pipe},
    {NULL, NULL},
};
