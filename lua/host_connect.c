/* host_connect.c - portico.connect: a connection to somebody else, with handlers of its own or none. */
#include "host_internal.h"

#include "net.h"

#include <string.h>

enum { ERROR_BYTES = 256, OPTIONS_SLOT = 2, CONN_SLOT = 3 };

typedef struct wishes {
    uint32_t handlers;
    int64_t timeout_ns; /* -1: not named */
} wishes;

static const char *const option_names[] = {"timeout",     "on_connect", "on_message", "on_close",
                                           "on_readable", "on_eof",     "on_drain",   NULL};

/* Reads the options, and leaves the table of handlers, by kind, on the stack. raises */
static void read_options(lua_State *L, wishes *w)
{
    lua_newtable(L);
    int handlers = lua_gettop(L);
    if (lua_isnil(L, OPTIONS_SLOT)) return;
    for (lua_pushnil(L); lua_next(L, OPTIONS_SLOT); lua_settop(L, handlers + 1)) {
        const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2);
        host_kind kind = host_kind_find(name);
        if (strcmp(name, "timeout") == 0) {
            lua_Number seconds = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : -1;
            if (!(seconds > 0 && seconds <= (lua_Number)HOST_SECONDS_MAX)) {
                luaL_argerror(L, OPTIONS_SLOT, "timeout: a number of seconds above 0 expected");
            }
            w->timeout_ns = (int64_t)(seconds * 1e9);
        } else if (kind >= HOST_ON_CONNECT && kind <= HOST_ON_CLOSE) {
            if (lua_type(L, -1) != LUA_TFUNCTION) {
                luaL_argerror(L, OPTIONS_SLOT,
                              lua_pushfstring(L, "%s: function expected, got %s", name, luaL_typename(L, -1)));
            }
            lua_rawseti(L, handlers, (lua_Integer)kind);
            w->handlers |= HOST_BIT(kind);
        } else {
            host_push_hint(L, name, option_names);
            luaL_argerror(L, OPTIONS_SLOT, lua_pushfstring(L, "unknown option '%s'%s", name, lua_tostring(L, -1)));
        }
    }
    uint32_t both = HOST_BIT(HOST_ON_MESSAGE) | HOST_BIT(HOST_ON_READABLE);
    if ((w->handlers & both) == both) luaL_argerror(L, OPTIONS_SLOT, "either on_message or on_readable, not both");
}

/* The connection is open, or it is known why not. */
static int connected(lua_State *L, int yielded, lua_KContext context)
{
    io_status status = host_of(L)->task->status;
    (void)yielded;
    (void)context;
    lua_settop(L, CONN_SLOT);
    if (status == IO_OK) return 1;
    return host_push_failure(L, io_status_text(status), io_status_name(status));
}

int host_api_connect(lua_State *L)
{
    host *h = host_of(L);
    const char *uri = luaL_checkstring(L, 1);
    lua_settop(L, OPTIONS_SLOT);
    if (!lua_isnil(L, OPTIONS_SLOT)) luaL_checktype(L, OPTIONS_SLOT, LUA_TTABLE);
    wishes w = {.timeout_ns = -1};
    read_options(L, &w); /* stack: uri, options, handlers */
    host_check_wait(L, "portico.connect");
    net_addr addr;
    char error[ERROR_BYTES];
    io_status status = net_addr_parse(&addr, uri, error, sizeof(error));
    if (status != IO_OK) return host_push_failure(L, error, io_status_name(status));
    host_conn *hc = host_conn_new(L, 3);
    lua_insert(L, CONN_SLOT); /* stack: uri, options, conn, handlers */
    lua_setiuservalue(L, CONN_SLOT, 2);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, CONN_SLOT, 3); /* c->listener points at its bytes, which do not move */
    hc->handlers = w.handlers;
    conn_config config = {
        .events = &host_events,
        .limits = &h->limits,
        .listener = uri,
        .user = hc,
        .receive = (w.handlers & HOST_BIT(HOST_ON_READABLE)) ? CONN_READY : CONN_LENT,
        .half_open = (w.handlers & HOST_BIT(HOST_ON_EOF)) != 0,
    };
    conn *c = worker_connect(h->worker, &addr, &config, &status);
    if (c == NULL) {
        host_conn_drop(h, hc);
        return host_push_failure(L, io_status_text(status), io_status_name(status));
    }
    hc->c = c;
    hc->id = c->id;
    if (!(w.handlers & (HOST_BIT(HOST_ON_MESSAGE) | HOST_BIT(HOST_ON_READABLE)))) conn_pause(c); /* for conn:recv */
    if (w.timeout_ns >= 0) {
        conn_limits *own = conn_own_limits(c);
        if (own != NULL) own->connect_ns = w.timeout_ns;
        else conn_abort(c, CONN_LIMIT, IO_LIMIT);
        conn_limits_changed(c);
    }
    hc->waiter = h->task;
    h->task->connecting = hc;
    h->task->waiting = HOST_CONNECTS;
    return lua_yieldk(L, 0, 0, connected);
}

void host_connect_opened(host *h, conn *c, io_status status)
{
    host_conn *hc = c->user;
    host_task *waiter = hc->waiter;
    hc->waiter = NULL;
    if (status != IO_OK) host_conn_detach(h, c); /* the slot is free when this event is over */
    if (waiter == NULL) return;
    waiter->status = status;
    host_task_wake(waiter);
}
