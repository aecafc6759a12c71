/* host_report.c - what is said about an error in a handler: one event in the log, and the table that on_error gets. */
#include "host_internal.h"

#include "log.h"
#include "net.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { PLACE_MAX = 192 };

/* Where it happened: "in on_message of conn 12 (127.0.0.1:5555)". Returns text. */
static char *describe(char *text, size_t size, host_kind kind, const conn *c)
{
    char peer[NET_ADDR_TEXT_MAX];
    if (c == NULL) {
        snprintf(text, size, "in %s", host_kind_name(kind));
    } else {
        net_addr_format(&c->peer, peer, sizeof(peer));
        snprintf(text, size, "in %s of conn %" PRIu64 " (%s)", host_kind_name(kind), c->id, peer);
    }
    return text;
}

void host_push_error_text(lua_State *to, lua_State *from, int index)
{
    switch (lua_type(from, index)) {
    case LUA_TSTRING: {
        size_t len;
        const char *text = lua_tolstring(from, index, &len);
        lua_pushlstring(to, text, len);
        break;
    }
    case LUA_TNUMBER:
        if (lua_isinteger(from, index)) lua_pushfstring(to, "%I", (LUAI_UACINT)lua_tointeger(from, index));
        else lua_pushfstring(to, "%f", lua_tonumber(from, index));
        break;
    default:
        lua_pushfstring(to, "(error object is a %s value)", luaL_typename(from, index));
    }
}

void host_push_traceback(lua_State *L, lua_State *of, int level)
{
    static const char frame[] = "\n\t[C]: in ?";
    size_t len;
    luaL_traceback(L, of, NULL, level);
    const char *text = lua_tolstring(L, -1, &len);
    while (len >= sizeof(frame) - 1 && memcmp(text + len - (sizeof(frame) - 1), frame, sizeof(frame) - 1) == 0) {
        len -= sizeof(frame) - 1; /* the dispatcher, or what loads the script */
    }
    lua_pushlstring(L, text, len);
    lua_remove(L, -2);
}

typedef struct failure {
    host_task *task;
    int status;     /* what lua_resume() said */
    bool overrun;   /* it was the budget */
    bool wants_table;
} failure;

/* Protected. Returns the table for on_error, when wanted. */
static int report(lua_State *L)
{
    const failure *f = lua_touserdata(L, 1);
    host_task *t = f->task;
    host *h = t->host;
    char place[PLACE_MAX], cap[32];
    if (f->overrun && host_budget_overrun(L)) { /* stack: failure, message, traceback */
    } else {
        if (f->status == LUA_ERRMEM) lua_pushfstring(L, "not enough memory (cap %s)", host_cap_text(h, cap, sizeof(cap)));
        else host_push_error_text(L, t->co, -1);
        host_push_traceback(L, t->co, 0);
    }
    lua_pushfstring(L, "%s\n  %s\n%s", lua_tostring(L, 2), describe(place, sizeof(place), (host_kind)t->kind, t->c),
                    lua_tostring(L, 3));
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    log_text(LOG_ERROR, text, len);
    if (!f->wants_table) return 0;
    lua_createtable(L, 0, 4);
    lua_pushvalue(L, 2);
    lua_setfield(L, -2, "message");
    lua_pushvalue(L, 3);
    lua_setfield(L, -2, "traceback");
    lua_pushstring(L, host_kind_name((host_kind)t->kind));
    lua_setfield(L, -2, "callback");
    if (t->c != NULL) {
        lua_pushinteger(L, (lua_Integer)t->c->id);
        lua_setfield(L, -2, "conn");
    }
    return 1;
}

bool host_report(host *h, host_task *t, int status)
{
    h->errors++;
    failure f = {
        .task = t,
        .status = status,
        .overrun = host_has_overrun(h),
        .wants_table = (h->handlers & HOST_BIT(HOST_ON_ERROR)) && t->kind != HOST_ON_ERROR && t->kind != HOST_ON_LOAD &&
                       t->kind != HOST_ON_UNLOAD,
    };
    host_reserve(h, true);
    int result = host_protect(h, report, &f, f.wants_table ? 1 : 0);
    host_reserve(h, false);
    if (result == LUA_OK) return f.wants_table;
    lua_pop(h->L, 1);
    host_report_memory(h, (host_kind)t->kind, t->c);
    return false;
}

void host_report_memory(host *h, host_kind kind, const conn *c)
{
    char place[PLACE_MAX], cap[32];
    log_write(LOG_ERROR, "not enough memory (cap %s)\n  %s", host_cap_text(h, cap, sizeof(cap)),
              describe(place, sizeof(place), kind, c));
}
