/* host_report.c - what is said about an error in a handler: one event in the log, and the table that on_error gets. */
#include "host_internal.h"

#include "log.h"
#include "net.h"
#include "siphash.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    PLACE_MAX = 192,
    ERROR_CAUSES = 64, /* places in a script whose errors are counted apart */
    ERROR_BURST = 20
};

/* The error object at 1 may say itself what it is. False, and nothing is pushed: it does not. */
static bool push_own_text(lua_State *L)
{
    if (!luaL_getmetafield(L, 1, "__tostring")) return false;
    lua_pushvalue(L, 1);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK && lua_type(L, -1) == LUA_TSTRING) return true;
    lua_pop(L, 1);
    return false;
}

int host_add_traceback(lua_State *L)
{
    if (!push_own_text(L)) host_push_error_text(L, 1);
    if (host_push_overrun(L, host_slice(host_of(L)))) lua_remove(L, 2);
    else host_push_traceback(L, L, 1);
    /* stack: error, message, traceback */
    lua_pushliteral(L, "\n");
    lua_insert(L, -2);
    lua_concat(L, 3);
    return 1;
}

void host_count_error(host *h)
{
    h->errors++;
    generation_count_error(h->generation);
}

void host_refuse(host *h, const char *text, size_t len)
{
    if (generation_refuse(h->generation, text, len)) log_text(LOG_ERROR, text, len);
}

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

void host_push_error_text(lua_State *L, int index)
{
    size_t len;
    switch (lua_type(L, index)) {
    case LUA_TSTRING: {
        const char *text = lua_tolstring(L, index, &len);
        lua_pushlstring(L, text, len);
        break;
    }
    case LUA_TNUMBER:
        if (lua_isinteger(L, index)) lua_pushfstring(L, "%I", (LUAI_UACINT)lua_tointeger(L, index));
        else lua_pushfstring(L, "%f", lua_tonumber(L, index));
        break;
    default:
        lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, index));
    }
}

void host_push_traceback(lua_State *L, lua_State *of, int level)
{
    static const char frame[] = "\n\t[C]: in ?";
    lua_Debug beyond;
    size_t len;
    luaL_traceback(L, of, NULL, level);
    if (lua_getstack(of, LUA_STACK_TRACED, &beyond)) {
        lua_pushfstring(L, "\n\t...\t(more than %d levels)", LUA_STACK_TRACED);
        lua_concat(L, 2);
    }
    const char *text = lua_tolstring(L, -1, &len);
    while (len >= sizeof(frame) - 1 && memcmp(text + len - (sizeof(frame) - 1), frame, sizeof(frame) - 1) == 0) {
        len -= sizeof(frame) - 1; /* the dispatcher, or what loads the script */
    }
    lua_pushlstring(L, text, len);
    lua_remove(L, -2);
}

/* stack: …, message, traceback. Replaces them by the table that on_error gets. raises */
static void make_table(lua_State *L, const host_task *t)
{
    lua_createtable(L, 0, 4);
    lua_insert(L, -3);
    lua_setfield(L, -3, "traceback");
    lua_setfield(L, -2, "message");
    lua_pushstring(L, host_kind_name((host_kind)t->kind));
    lua_setfield(L, -2, "callback");
    if (t->c == NULL) return;
    lua_pushinteger(L, (lua_Integer)t->c->id);
    lua_setfield(L, -2, "conn");
}

/* A message handler: runs where the error was raised, while the stack is still there. */
int host_make_error(lua_State *L)
{
    host *h = host_of(L);
    if (!push_own_text(L)) lua_pushnil(L); /* the script's: without the reserve, and it may be what takes too long */
    host_reserve(h, true);
    if (!host_push_overrun(L, host_slice(h))) {
        if (lua_isnil(L, 2)) host_push_error_text(L, 1);
        else lua_pushvalue(L, 2);
        host_push_traceback(L, L, 1);
    }
    make_table(L, h->task);
    host_reserve(h, false);
    return 1;
}

void host_push_overrun_error(lua_State *L, const host_task *t)
{
    host *h = host_of(L);
    host_reserve(h, true);
    if (!host_push_overrun(L, host_slice(h) - 2)) {
        lua_pushliteral(L, "callback budget exceeded");
        host_push_traceback(L, t->co, 0);
    }
    make_table(L, t);
    host_reserve(h, false);
}

void host_push_cut_error(lua_State *L, const host_task *t)
{
    host *h = host_of(L);
    host_reserve(h, true);
    lua_pushfstring(L, "ended while it waited: %s", host_why_over(h));
    host_push_traceback(L, t->co, 0);
    make_table(L, t);
    host_reserve(h, false);
}

void host_push_memory_error(lua_State *L)
{
    host *h = host_of(L);
    char cap[32];
    lua_pushfstring(L, "not enough memory (cap %s)", host_cap_text(h, cap, sizeof(cap)));
    lua_pushliteral(L, "");
    make_table(L, h->task);
    lua_pushstring(L, host_kind_name((host_kind)h->task->origin)); /* the task is on_error's by now */
    lua_setfield(L, -2, "callback");
}

/* Logs an error of a handler, which a peer may be able to bring about as often as it likes: those of one place in the script,
 * and of those that happen to share its number, are written ERROR_BURST times, then counted. */
static void log_error(const char *text, size_t len)
{
    static log_cause causes[ERROR_CAUSES];
    static const uint64_t key[2];
    const char *end = memchr(text, '\n', len);
    size_t place = end != NULL ? (size_t)(end - text) : len;
    for (size_t i = 0; i + 1 < place; i++) {
        if (text[i] == ':' && text[i + 1] == ' ') place = i;
    }
    log_cause *cause = &causes[siphash(key, text, place) % ERROR_CAUSES];
    if (log_due(cause, LOG_ERROR, "errors of handlers", ERROR_BURST)) log_text(LOG_ERROR, text, len);
}

void host_report(lua_State *L, const host_task *t)
{
    host *h = host_of(L);
    char place[PLACE_MAX];
    luaL_Buffer text;
    size_t len;
    int error = lua_gettop(L);
    bool is_table = lua_type(L, error) == LUA_TTABLE;
    host_reserve(h, true);
    luaL_buffinit(L, &text);
    if (is_table) lua_getfield(L, error, "message");
    else host_push_error_text(L, error); /* an error while the error was handled */
    luaL_addvalue(&text);
    luaL_addchar(&text, '\n');
    luaL_addstring(&text, describe(place, sizeof(place), (host_kind)t->kind, t->c));
    if (is_table) {
        luaL_addchar(&text, '\n');
        lua_getfield(L, error, "traceback");
        luaL_addvalue(&text);
    }
    luaL_pushresult(&text);
    host_reserve(h, false);
    const char *bytes = lua_tolstring(L, -1, &len);
    if (h->loading) host_refuse(h, bytes, len);
    else log_error(bytes, len);
    lua_settop(L, error);
}

void host_report_memory(host *h, host_kind kind, const conn *c)
{
    char place[PLACE_MAX], cap[32];
    char text[PLACE_MAX + 64];
    int len = snprintf(text, sizeof(text), "not enough memory (cap %s)\n%s", host_cap_text(h, cap, sizeof(cap)),
                       describe(place, sizeof(place), kind, c));
    if (h->loading) host_refuse(h, text, (size_t)len);
    else log_error(text, (size_t)len);
}

/* Protected. */
static int push_waiting(lua_State *L)
{
    const host_task *t = lua_touserdata(L, 1);
    host_push_traceback(L, t->co, 0);
    return 1;
}

void host_report_waiting(host *h)
{
    char place[PLACE_MAX];
    for (const host_task *t = h->waiting; t != NULL; t = t->next) {
        bool ok = host_protect(h, push_waiting, (void *)(uintptr_t)t, 1) == LUA_OK;
        log_write(LOG_WARN, "generation %" PRIu64 " is at its end: a handler that still waits is ended, %s\n%s",
                  h->generation->number, describe(place, sizeof(place), (host_kind)t->kind, t->c),
                  ok ? lua_tostring(h->L, -1) : "");
        lua_pop(h->L, 1);
    }
}

void host_report_close(host *h, const host_task *t, lua_State *co)
{
    char place[PLACE_MAX];
    const char *text = lua_type(co, -1) == LUA_TSTRING ? lua_tostring(co, -1) : "(error object is not a string)";
    host_count_error(h);
    log_write(LOG_ERROR, "%s\nin a __close, %s, which was ended while it waited", text,
              describe(place, sizeof(place), (host_kind)t->kind, t->c));
}
