/* host_api.c - the global `portico`: what a script can do that does not start from a connection. */
#include "host_internal.h"

#include "log.h"
#include "os.h"
#include "server.h"

static int api_now(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)os_realtime_ns() / 1e9);
    return 1;
}

static int api_monotonic(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)io_port_now(host_of(L)->worker->port) / 1e9);
    return 1;
}

void host_shut_down(const host *h, int code)
{
    if (code >= 0 && h->config->exit_code != NULL) atomic_store(h->config->exit_code, code);
    server_stop(h->worker->server);
}

static int api_shutdown(lua_State *L)
{
    enum { CODE_MAX = 255 }; /* what a parent process can see, on every system */
    host *h = host_of(L);
    lua_Integer code = -1;
    if (!lua_isnoneornil(L, 1)) {
        code = luaL_checkinteger(L, 1);
        luaL_argcheck(L, code >= 0 && code <= CODE_MAX, 1, "an exit code from 0 to 255 expected");
    }
    if (h->holds_back) {
        h->outbox.stop = true;
        h->outbox.code = (int)code;
    } else {
        host_shut_down(h, (int)code);
    }
    return 0;
}

/* Asks for it: what comes of it is in the log, and a good version takes over when this handler has returned. */
static int api_reload(lua_State *L)
{
    const host *h = host_of(L);
    if (h->task == NULL || h->loading) {
        return luaL_error(L, "portico.reload is for handlers: a script that reloads itself while it loads never ends");
    }
    if (h->config->reload_wanted == NULL) return host_push_failure(L, "there is nobody to reload the script", "denied");
    atomic_store(h->config->reload_wanted, true);
    os_news_post(OS_NEWS_WAKE);
    lua_pushboolean(L, true);
    return 1;
}

/* ---- conns() ---- */

/* The iterator: upvalue 1 the list, 2 how far it has come. */
static int next_conn(lua_State *L)
{
    lua_Integer i = lua_tointeger(L, lua_upvalueindex(2));
    for (;;) {
        i++;
        if (lua_rawgeti(L, lua_upvalueindex(1), i) == LUA_TNIL) return 1;
        const conn *c = host_conn_get(lua_touserdata(L, -1));
        if (c != NULL && c->state == CONN_OPEN) break; /* it may have ended since the list was made */
        lua_pop(L, 1);
    }
    lua_pushinteger(L, i);
    lua_replace(L, lua_upvalueindex(2));
    return 1;
}

/* Takes a list at once, so that the loop's body may close connections, or wait. */
static int api_conns(lua_State *L)
{
    const host *h = host_of(L);
    const conn_set *conns = &h->worker->conns;
    lua_Integer count = 0;
    lua_createtable(L, (int)conns->count, 0);
    for (conn *c = host_is_candidate(h) ? NULL : conns->live; c != NULL; c = c->live_next) {
        if (c->state != CONN_OPEN || !c->open_told || host_conn_is_pooled(c)) continue;
        host_conn_push(L, c);
        lua_rawseti(L, -2, ++count);
    }
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, next_conn, 2);
    return 1;
}

/* ---- log ---- */

static int log_call(lua_State *L)
{
    return host_log_values(L, LOG_INFO, 2, ' '); /* 1 is the table portico.log */
}

static int log_debug(lua_State *L)
{
    return host_log_values(L, LOG_DEBUG, 1, ' ');
}

static int log_info(lua_State *L)
{
    return host_log_values(L, LOG_INFO, 1, ' ');
}

static int log_warn(lua_State *L)
{
    return host_log_values(L, LOG_WARN, 1, ' ');
}

static int log_error(lua_State *L)
{
    return host_log_values(L, LOG_ERROR, 1, ' ');
}

static void push_log(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"debug", log_debug}, {"info", log_info}, {"warn", log_warn}, {"error", log_error}, {NULL, NULL}};
    luaL_newlib(L, functions);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, log_call);
    lua_setfield(L, -2, "__call");
    lua_setmetatable(L, -2);
}

/* ---- The module ---- */

static void push_args(lua_State *L, const host_config *config)
{
    lua_createtable(L, config->arg_count, 1);
    lua_pushstring(L, config->script);
    lua_rawseti(L, -2, 0);
    for (int i = 0; i < config->arg_count; i++) {
        lua_pushstring(L, config->args[i]);
        lua_rawseti(L, -2, i + 1);
    }
}

void host_api_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"now", api_now},
        {"monotonic", api_monotonic},
        {"sleep", host_api_sleep},
        {"after", host_api_after},
        {"every", host_api_every},
        {"connect", host_api_connect},
        {"udp", host_api_udp},
        {"listen", host_api_listen},
        {"conns", api_conns},
        {"reload", api_reload},
        {"shared", host_api_shared},
        {"shutdown", api_shutdown},
        {"spawn", host_api_spawn},
        {"timeout", host_api_timeout},
        {"channel", host_api_channel},
        {"semaphore", host_api_semaphore},
        {"conn", host_api_conn},
        {"broadcast", host_api_broadcast},
        {"publish", host_api_publish},
        {"subscribe", host_api_subscribe},
        {NULL, NULL},
    };
    static const luaL_Reg worker_functions[] = {
        {"serve", host_api_serve}, {"call", host_api_call}, {"each", host_api_each}, {NULL, NULL}};
    const host *h = host_of(L);
    luaL_newlib(L, functions); /* stack: portico */
    push_log(L);
    lua_setfield(L, -2, "log");
    host_files_open(L);
    lua_setfield(L, -2, "files");
    push_args(L, h->config);
    lua_pushvalue(L, -1);
    lua_setglobal(L, "arg"); /* as in the interpreter lua */
    lua_setfield(L, -2, "args");
    lua_pushstring(L, h->config->version);
    lua_setfield(L, -2, "version");
    lua_pushinteger(L, (lua_Integer)h->generation->number);
    lua_setfield(L, -2, "generation");
    lua_pushboolean(L, os_stderr_is_terminal());
    lua_setfield(L, -2, "terminal");
    luaL_newlib(L, worker_functions);
    lua_pushinteger(L, h->worker->id);
    lua_setfield(L, -2, "id");
    lua_pushinteger(L, h->worker->count);
    lua_setfield(L, -2, "count");
    lua_setfield(L, -2, "worker");
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE); /* for require "portico" */
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "portico");
    lua_pop(L, 1);
    lua_setglobal(L, "portico");
}
