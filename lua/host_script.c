/* host_script.c - loads the script, runs its top level, and reads what it defines: a table of handlers and settings, or
 * handlers as globals. Names and types are checked here, once, so that a misspelt handler is an error and not silence.
 */
#include "host_internal.h"

#include "log.h"
#include "server.h"

#include <lualib.h>
#include <stdio.h>
#include <string.h>

enum { LASTING_DEPTH_MAX = 8 }; /* of lists in lists */

static const char *const handler_names[] = {"on_connect", "on_message", "on_stream",   "on_readable", "on_eof",
                                            "on_drain",   "on_close",   "on_datagram", "on_error",    "on_load",
                                            "on_check",   "on_unload",  NULL};
static const char *const key_names[] = {"on_connect", "on_message", "on_stream",   "on_readable", "on_eof",
                                        "on_drain",   "on_close",   "on_datagram", "on_error",    "on_load",
                                        "on_check",   "on_unload",  "migrate",     "listen",      "limits",
                                        "version",    "frame",      "workers",     "lasting",     NULL};

/* ---- Errors ---- */

/* raises, with the script's name in front of the text on top */
static void fail(lua_State *L)
{
    lua_pushfstring(L, "%s: %s", host_of(L)->config->script, lua_tostring(L, -1));
    lua_error(L);
}

/* The same, with the place of the function at index, if it is one. */
static void fail_at(lua_State *L, int index)
{
    lua_Debug where;
    if (lua_type(L, index) != LUA_TFUNCTION || lua_iscfunction(L, index)) fail(L);
    lua_pushvalue(L, index);
    lua_getinfo(L, ">S", &where);
    lua_pushfstring(L, "%s:%d: %s", where.short_src, where.linedefined, lua_tostring(L, -1));
    lua_error(L);
}

/* ---- What the table says ---- */

/* The names at value, one or a list of names and of such lists, go into the set. */
static void add_lasting(lua_State *L, int set, int value, int depth)
{
    if (lua_type(L, value) == LUA_TSTRING) {
        lua_pushvalue(L, value);
        lua_pushboolean(L, true);
        lua_rawset(L, set);
        return;
    }
    bool is_list = lua_type(L, value) == LUA_TTABLE && depth > 0;
    int key = lua_gettop(L) + 1;
    for (lua_pushnil(L); is_list && lua_next(L, value); lua_settop(L, key)) {
        is_list = lua_type(L, key) == LUA_TNUMBER;
        if (is_list) add_lasting(L, set, key + 1, depth - 1);
    }
    if (!is_list) {
        lua_pushliteral(L, "lasting: name or list of names expected");
        fail(L);
    }
}

static void read_limits(lua_State *L, host *h, int index)
{
    if (lua_type(L, index) != LUA_TTABLE) {
        lua_pushfstring(L, "limits: table expected, got %s", luaL_typename(L, index));
        fail(L);
    }
    conn_limits limits = h->limits;
    uint32_t given = 0;
    int key = lua_gettop(L) + 1;
    for (lua_pushnil(L); lua_next(L, index); lua_settop(L, key)) {
        if (lua_type(L, key) != LUA_TSTRING) {
            lua_pushfstring(L, "limits: names like 'idle' expected, got a %s as one", luaL_typename(L, key));
            fail(L);
        }
        const char *name = lua_tostring(L, key);
        uint32_t bit = host_limit_set(L, &limits, name, key + 1);
        if (bit == 0) {
            host_push_hint(L, name, host_limit_names);
            lua_pushfstring(L, "unknown limit '%s'%s", name, lua_tostring(L, -1));
            fail(L);
        }
        if (bit == HOST_LIMIT_WRONG) {
            lua_pushfstring(L, "limits.%s: %s", name, lua_tostring(L, -1));
            fail(L);
        }
        given |= bit;
    }
    const char *wrong = host_limits_settle(&limits, given);
    if (wrong != NULL) {
        lua_pushfstring(L, "limits: %s", wrong);
        fail(L);
    }
    /* What the command line names wins. */
    if (h->config->limits_given & HOST_LIMIT_IDLE) limits.idle_ns = h->limits.idle_ns;
    if (h->config->limits_given & HOST_LIMIT_FIRST_BYTE) limits.first_byte_ns = h->limits.first_byte_ns;
    if (h->config->limits_given & HOST_LIMIT_WRITE) limits.write_ns = h->limits.write_ns;
    h->limits = limits;
}

/* The first generation's wish, as worker 0 reads it, counts, unless the command line has one. */
static void read_workers(lua_State *L, host *h, int value)
{
    worker *w = h->worker;
    int whole = 0;
    lua_Integer wish = lua_type(L, value) == LUA_TNUMBER ? lua_tointegerx(L, value, &whole) : 0;
    if (!whole || wish < 1 || wish > WORKER_MAX) {
        lua_pushfstring(L, "workers: a whole number from 1 to %d expected", WORKER_MAX);
        fail(L);
    }
    if (w->id != 0 || h->config->workers_given || wish == (lua_Integer)w->count) return;
    if (h->generation->number > 1) {
        log_write(LOG_WARN, "%s: workers = %d is for the next start: there are %u", h->config->script, (int)wish,
                  (unsigned)w->count);
        return;
    }
    if (!server_set_workers(w->server, (uint32_t)wish)) luaL_error(L, "out of memory");
    lua_getglobal(L, "portico"); /* what the top level may have read of it was the machine's number */
    if (lua_istable(L, -1) && lua_getfield(L, -1, "worker") == LUA_TTABLE) {
        lua_pushinteger(L, wish);
        lua_setfield(L, -2, "count");
    }
}

static void read_setting(lua_State *L, host *h, const char *name, int value)
{
    if (strcmp(name, "listen") == 0) {
        if (host_listen_read(L, value) != NULL) fail(L);
    } else if (strcmp(name, "limits") == 0) {
        read_limits(L, h, value);
    } else if (strcmp(name, "version") == 0) {
        if (!lua_isinteger(L, value)) {
            lua_pushfstring(L, "version: integer expected, got %s", luaL_typename(L, value));
            fail(L);
        }
        h->version = lua_tointeger(L, value);
    } else if (strcmp(name, "workers") == 0) {
        read_workers(L, h, value);
    } else if (strcmp(name, "migrate") == 0) {
        if (lua_type(L, value) != LUA_TFUNCTION) {
            lua_pushfstring(L, "migrate: function expected, got %s", luaL_typename(L, value));
            fail(L);
        }
        lua_pushvalue(L, value);
        h->migrate_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    } else if (strcmp(name, "lasting") == 0) {
        lua_newtable(L);
        add_lasting(L, lua_gettop(L), value, LASTING_DEPTH_MAX);
        h->lasting_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    } else {
        if (host_frame_read(L, &h->limits.frame, value) != NULL) fail(L);
        h->frame_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
}

/* True when names has it. */
static bool is_among(const char *name, const char *const *names)
{
    while (*names != NULL && strcmp(*names, name) != 0) names++;
    return *names != NULL;
}

/* A handler goes to its place among the slots from first on. */
static void take_handler(lua_State *L, host *h, const char *name, int value, int first)
{
    host_kind kind = host_kind_find(name);
    if (lua_type(L, value) != LUA_TFUNCTION) {
        lua_pushfstring(L, "%s: function expected, got %s", name, luaL_typename(L, value));
        fail(L);
    }
    lua_pushvalue(L, value);
    lua_replace(L, first + (int)kind - 1);
    h->handlers |= HOST_BIT(kind);
}

static void refuse_name(lua_State *L, const char *what, const char *name, const char *const *names, int value)
{
    host_push_hint(L, name, names);
    lua_pushfstring(L, "unknown %s '%s'%s", what, name, lua_tostring(L, -1));
    fail_at(L, value);
}

static void read_table(lua_State *L, host *h, int table, int first)
{
    int key = lua_gettop(L) + 1, value = key + 1;
    for (lua_pushnil(L); lua_next(L, table); lua_settop(L, key)) {
        if (lua_type(L, key) != LUA_TSTRING) {
            lua_pushfstring(L, "the table that the script returns has a key that is no name: a %s",
                            luaL_typename(L, key));
            fail(L);
        }
        const char *name = lua_tostring(L, key);
        bool is_handler = strncmp(name, "on_", 3) == 0;
        if (is_among(name, handler_names)) take_handler(L, h, name, value, first);
        else if (is_among(name, key_names)) read_setting(L, h, name, value);
        else refuse_name(L, is_handler ? "handler" : "key", name, is_handler ? handler_names : key_names, value);
    }
}

/* A global may be called like a setting for reasons of its own, so it is not refused. */
static void warn_of_global(const host *h, const char *name)
{
    if (h->worker->id != 0) return;
    log_write(LOG_WARN,
              "%s: '%s' is a global, where no setting is looked for: settings go into a table that the script returns",
              h->config->script, name);
}

static void read_globals(lua_State *L, host *h, bool has_table, int first)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    int globals = lua_gettop(L), key = globals + 1, value = key + 1;
    for (lua_pushnil(L); lua_next(L, globals); lua_settop(L, key)) {
        if (lua_type(L, key) != LUA_TSTRING) continue;
        const char *name = lua_tostring(L, key);
        if (strncmp(name, "on_", 3) != 0) {
            if (!has_table && is_among(name, key_names)) warn_of_global(h, name);
            continue;
        }
        bool is_known = is_among(name, handler_names);
        if (has_table && is_known) {
            lua_pushfstring(L, "'%s' is a global, but the script returns a table: handlers go there", name);
            fail_at(L, value);
        }
        if (has_table) continue; /* the script's own business */
        if (!is_known) refuse_name(L, "handler", name, handler_names, value);
        take_handler(L, h, name, value, first);
    }
}

/* ---- Loading ---- */

/* True when the first line of an error has a place in it, like "script.lua:3: ". */
static bool has_place(const char *text)
{
    for (; *text != '\0' && *text != '\n'; text++) {
        size_t digits = *text == ':' ? strspn(text + 1, "0123456789") : 0;
        if (digits > 0 && text[1 + digits] == ':') return true;
    }
    return false;
}

/* The last line of code of the function on top, which is popped. raises */
static lua_Integer last_line(lua_State *L)
{
    lua_Debug where;
    lua_Integer last = 0;
    lua_getinfo(L, ">L", &where); /* stack: …, lines */
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        if (lua_tointeger(L, -2) > last) last = lua_tointeger(L, -2);
    }
    lua_pop(L, 1);
    return last;
}

/* Raises what running the script has raised, on top. With `return http1.server { … }`, the script's frame is gone when
 * what it calls complains: then the statement that ends there is named. chunk: the index of its function. raises */
static void fail_running(lua_State *L, int chunk)
{
    lua_Debug where;
    const char *text = lua_tostring(L, -1);
    bool is_tail = text != NULL && strstr(text, "(...tail calls...)") != NULL && strstr(text, "in main chunk") == NULL;
    if (!is_tail || has_place(text)) lua_error(L);
    lua_pushvalue(L, chunk);
    lua_getinfo(L, ">S", &where);
    lua_pushvalue(L, chunk);
    lua_pushfstring(L, "%s:%I: %s", where.short_src, (LUAI_UACINT)last_line(L), text);
    lua_error(L);
}

/* Nothing is wrong with such a script, but hardly anybody wants it. */
static void warn_of_silence(const host *h, bool has_table)
{
    if (h->is_client || (h->handlers & (HOST_READERS | HOST_BIT(HOST_ON_DATAGRAM))) != 0) return;
    log_write(
        LOG_WARN, "%s: %s", h->config->script,
        has_table || h->handlers != 0
            ? "neither on_message nor on_stream nor on_readable is there: what clients send is dropped"
            : "it returns no table and defines no handlers (is a `return` missing?): what clients send is dropped");
}

/* Protected: libraries, script, handlers; leaves the dispatcher. */
static int load(lua_State *L)
{
    host *h = lua_touserdata(L, 1);
    const host_config *config = h->config;
    lua_settop(L, 0);
    lua_gc(L, LUA_GCSTOP);
    host_library_open(L);
    host_conn_library(L);
    host_timer_library(L);
    host_udp_library(L);
    host_listen_library(L);
    host_spawn_library(L);
    host_timeout_library(L);
    host_channel_library(L);
    host_semaphore_library(L);
    host_remote_library(L);
    host_topics_library(L);
    host_calls_library(L);
    host_frame_library(L);
    host_shared_library(L);
    host_api_open(L);
    host_sandbox_apply(L);
    lua_gc(L, LUA_GCRESTART);
    lua_gc(L, LUA_GCGEN, 0, 0); /* as host_collect.c has it for a small heap */

    lua_pushcfunction(L, host_add_traceback);
    if (host_compile(L, h->generation->script, config->chunk_name) != LUA_OK) lua_error(L);
    lua_pushvalue(L, -1);
    lua_insert(L, 1); /* stack: chunk, add_traceback, chunk */
    luaL_checkstack(L, config->arg_count + 32, "too many arguments for the script");
    for (int i = 0; i < config->arg_count; i++) lua_pushstring(L, config->args[i]);
    if (lua_pcall(L, config->arg_count, 1, 2) != LUA_OK) fail_running(L, 1);
    lua_remove(L, 1); /* stack: add_traceback, result */
    if (!lua_isnoneornil(L, 2) && !lua_istable(L, 2)) {
        lua_pushfstring(L, "the script returned a %s: a table of handlers expected, or nothing", luaL_typename(L, 2));
        fail(L);
    }
    lua_settop(L, 2 + HOST_ON_UNLOAD); /* stack: add_traceback, result, a slot per handler */
    bool has_table = lua_istable(L, 2);
    if (has_table) read_table(L, h, 2, 3);
    read_globals(L, h, has_table, 3);
    if (h->worker->id == 0) warn_of_silence(h, has_table);
    lua_settop(L, 2 + HOST_ON_UNLOAD);
    host_dispatcher_push(L);
    return 1;
}

/* Protected: compiles the file at 1. */
static int try_compile(lua_State *L)
{
    const generation_file *file = lua_touserdata(L, 1);
    lua_pushfstring(L, "@%s", file->path);
    if (host_compile(L, file, lua_tostring(L, -1)) != LUA_OK) return lua_error(L);
    return 0;
}

bool host_compiles(generation *g)
{
    static const char no_memory[] = "not enough memory to compile the script";
    lua_State *L = luaL_newstate();
    const char *reason = no_memory;
    const char *text = g->script->text;
    char line[512];
    bool ok = false;
    if (L != NULL) {
        lua_pushcfunction(L, try_compile);
        lua_pushlightuserdata(L, (void *)g->script);
        int status = lua_pcall(L, 1, 0, 0);
        ok = status == LUA_OK;
        if (status != LUA_ERRMEM && !ok && lua_type(L, -1) == LUA_TSTRING) reason = lua_tostring(L, -1);
    }
    if (ok && text[strspn(text, " \t\r\n")] == '\0') { /* hardly what anybody wants: it is about to be written */
        snprintf(line, sizeof(line), "%s:1: the file is empty", g->script->path);
        reason = line;
        ok = false;
    }
    if (!ok && generation_refuse(g, reason, strlen(reason))) log_text(LOG_ERROR, reason, strlen(reason));
    if (L != NULL) lua_close(L);
    return ok;
}

/* Refuses, with the script's name in front. */
static void say_refused(host *h, const char *text)
{
    char line[512];
    int len = snprintf(line, sizeof(line), "%s: %s", h->config->script, text);
    host_refuse(h, line, (size_t)len < sizeof(line) ? (size_t)len : sizeof(line) - 1);
}

/* Says once what is wrong with the script. */
static void log_failure(host *h, int status)
{
    char cap[32], text[64];
    if (status == LUA_ERRMEM) {
        snprintf(text, sizeof(text), "not enough memory (cap %s)", host_cap_text(h, cap, sizeof(cap)));
        say_refused(h, text);
    } else {
        size_t len;
        const char *message = lua_tolstring(h->L, -1, &len); /* always a string: errors are raised as text */
        host_refuse(h, message, len);
    }
}

bool host_script_load(host *h)
{
    lua_State *L = h->L;
    lua_pushcfunction(L, load);
    lua_pushlightuserdata(L, h);
    host_slice_begin(h, HOST_TOP, 0, L);
    int status = lua_pcall(L, 1, 1, 0);
    host_slice_end(h, L);
    if (status != LUA_OK) {
        log_failure(h, status);
        return false;
    }
    const char *wrong = host_handlers_wrong(h->handlers);
    if (wrong != NULL) {
        say_refused(h, wrong);
        return false;
    }
    h->receive = (h->handlers & HOST_BIT(HOST_ON_READABLE)) ? CONN_READY : CONN_LENT;
    h->half_open = (h->handlers & HOST_BIT(HOST_ON_EOF)) != 0;
    return true;
}
