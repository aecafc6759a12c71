/* host_shared.c - portico.shared(name): dictionaries that all workers see and that outlive every generation. What a script
 * holds is a handle; the dictionary belongs to the process.
 *
 * No lock is held while Lua runs: a value is copied out first, into the seat's scratch buffer or, when it is larger, into
 * one of its size.
 */
#include "host_internal.h"

#include "lua_steps.h"
#include "shared.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { KEYS_DEFAULT = 1000 };

typedef struct handle {
    const void *tag; /* &handle_tag */
    shared_dict *dict;
} handle;

/* What only a handle begins with; and the registry's key of its metatable. */
static const char handle_tag;

static shared_dict *check(lua_State *L)
{
    const handle *d = lua_touserdata(L, 1);
    if (d == NULL || lua_rawlen(L, 1) != sizeof(*d) || d->tag != &handle_tag) luaL_typeerror(L, 1, "shared dictionary");
    return d->dict;
}

/* ---- Arguments ---- */

/* A key, or a name. raises */
static shared_key check_key(lua_State *L, int arg)
{
    shared_key key = {.bytes = ""};
    luaL_checktype(L, arg, LUA_TSTRING);
    key.bytes = lua_tolstring(L, arg, &key.len);
    luaL_argcheck(L, key.len <= SHARED_KEY_MAX, arg, "a string of at most 65535 bytes expected");
    return key;
}

/* Nil is SHARED_NONE, if that is allowed. raises */
static shared_value check_value(lua_State *L, int arg, bool or_nil)
{
    shared_value value = {.type = SHARED_NONE};
    switch (lua_type(L, arg)) {
    case LUA_TSTRING:
        value.type = SHARED_STRING;
        value.as.bytes = lua_tolstring(L, arg, &value.len);
        return value;
    case LUA_TNUMBER:
        value.type = lua_isinteger(L, arg) ? SHARED_INTEGER : SHARED_FLOAT;
        if (value.type == SHARED_INTEGER) value.as.integer = lua_tointeger(L, arg);
        else value.as.number = lua_tonumber(L, arg);
        return value;
    case LUA_TBOOLEAN:
        value.type = SHARED_BOOLEAN;
        value.as.boolean = lua_toboolean(L, arg);
        return value;
    default:
        if (!or_nil || !lua_isnoneornil(L, arg)) luaL_typeerror(L, arg, "string, number or boolean");
        return value;
    }
}

static shared_value check_number(lua_State *L, int arg, int64_t otherwise)
{
    if (lua_isnoneornil(L, arg)) return (shared_value){.type = SHARED_INTEGER, .as.integer = otherwise};
    luaL_checktype(L, arg, LUA_TNUMBER);
    return check_value(L, arg, false);
}

/* Seconds above 0, or nothing, which is 0. raises */
static int64_t check_ttl(lua_State *L, int arg)
{
    if (lua_isnoneornil(L, arg)) return 0;
    int64_t ttl_ns = host_check_seconds(L, arg);
    luaL_argcheck(L, ttl_ns > 0, arg, "seconds above 0, or nil for ever, expected");
    return ttl_ns;
}

static shared_side check_side(lua_State *L, int arg, const char *otherwise)
{
    static const char *const sides[] = {"left", "right", NULL};
    return luaL_checkoption(L, arg, otherwise, sides) == 0 ? SHARED_LEFT : SHARED_RIGHT;
}

/* ---- Results ---- */

/* What did not work. raises */
static int refuse(lua_State *L, const shared_dict *dict, shared_status status, const char *type_expected)
{
    switch (status) {
    case SHARED_FULL:
        lua_pushfstring(L, "full: all dictionaries together may have %I bytes (--shared-memory)",
                        (LUAI_UACINT)shared_bytes_max(shared_store(dict)));
        return host_push_failure(L, lua_tostring(L, -1), "limit");
    case SHARED_TYPE:
        return host_push_failure(L, type_expected, "type");
    case SHARED_RANGE:
        return host_push_failure(L, "the sum does not fit an integer", "range");
    case SHARED_ABSENT:
        return host_push_failure(L, "not found", "not_found");
    default:
        assert(status == SHARED_MEMORY);
        return host_push_failure(L, "out of memory", "limit");
    }
}

static int push_boolean(lua_State *L, bool value)
{
    lua_pushboolean(L, value);
    return 1;
}

/* raises */
static int push_value(lua_State *L, const shared_value *value)
{
    switch (value->type) {
    case SHARED_INTEGER:
        lua_pushinteger(L, value->as.integer);
        return 1;
    case SHARED_FLOAT:
        lua_pushnumber(L, value->as.number);
        return 1;
    case SHARED_BOOLEAN:
        return push_boolean(L, value->as.boolean);
    case SHARED_STRING:
        lua_pushlstring(L, value->as.bytes, value->len);
        return 1;
    case SHARED_NONE:
    case SHARED_LIST:
    default:
        assert(false && "not a value for scripts");
        return 0;
    }
}

/* ---- Single values ---- */

static int method_get(lua_State *L)
{
    shared_dict *dict = check(L);
    shared_key key = check_key(L, 2);
    shared_value value;
    void *buffer = host_of(L)->seat->scratch;
    size_t room = HOST_DRAW_MAX;
    shared_status status;
    while ((status = shared_get(dict, key, &value, buffer, room)) == SHARED_ROOM) {
        lua_settop(L, 2);
        room = value.len;
        buffer = lua_newuserdatauv(L, room, 0);
    }
    if (status == SHARED_OK) return push_value(L, &value);
    if (status != SHARED_ABSENT) return refuse(L, dict, status, "the value is a list: range and pop read it");
    lua_pushnil(L);
    return 1;
}

static int put(lua_State *L, shared_mode mode)
{
    shared_dict *dict = check(L);
    shared_key key = check_key(L, 2);
    shared_value value = check_value(L, 3, false);
    shared_status status = shared_set(dict, key, &value, check_ttl(L, 4), mode);
    if (status == SHARED_OK || status == SHARED_PRESENT) return push_boolean(L, status == SHARED_OK);
    return refuse(L, dict, status, "");
}

static int method_set(lua_State *L)
{
    return put(L, SHARED_SET);
}

static int method_add(lua_State *L)
{
    return put(L, SHARED_ADD);
}

static int method_incr(lua_State *L)
{
    shared_dict *dict = check(L);
    shared_key key = check_key(L, 2);
    shared_value value = check_number(L, 3, 1), init = check_number(L, 4, 0);
    shared_status status = shared_incr(dict, key, &value, &init, check_ttl(L, 5));
    return status == SHARED_OK ? push_value(L, &value) : refuse(L, dict, status, "the value is not a number");
}

static int method_cas(lua_State *L)
{
    shared_dict *dict = check(L);
    shared_key key = check_key(L, 2);
    shared_value expected = check_value(L, 3, true), wanted = check_value(L, 4, true);
    shared_status status = shared_cas(dict, key, &expected, &wanted);
    if (status == SHARED_OK || status == SHARED_DIFFERS) return push_boolean(L, status == SHARED_OK);
    return refuse(L, dict, status, "");
}

static int method_delete(lua_State *L)
{
    shared_dict *dict = check(L);
    return push_boolean(L, shared_delete(dict, check_key(L, 2)) == SHARED_OK);
}

static int method_ttl(lua_State *L)
{
    shared_dict *dict = check(L);
    int64_t ttl_ns;
    shared_status status = shared_ttl(dict, check_key(L, 2), &ttl_ns);
    if (status != SHARED_OK) return refuse(L, dict, status, "");
    lua_pushnumber(L, ttl_ns == 0 ? (lua_Number)HUGE_VAL : (lua_Number)ttl_ns / 1e9);
    return 1;
}

static int method_expire(lua_State *L)
{
    shared_dict *dict = check(L);
    shared_key key = check_key(L, 2);
    return push_boolean(L, shared_expire(dict, key, check_ttl(L, 3)) == SHARED_OK);
}

/* ---- Lists ---- */

static int method_push(lua_State *L)
{
    shared_dict *dict = check(L);
    shared_key key = check_key(L, 2);
    shared_value value = check_value(L, 3, false);
    size_t count;
    shared_status status = shared_push(dict, key, &value, check_side(L, 4, "right"), &count);
    if (status != SHARED_OK) return refuse(L, dict, status, "the value is not a list");
    lua_pushinteger(L, (lua_Integer)count);
    return 1;
}

/* Protected: the argument is a value. */
static int push_popped(lua_State *L)
{
    return push_value(L, lua_touserdata(L, 1));
}

static int method_pop(lua_State *L)
{
    shared_dict *dict = check(L);
    shared_key key = check_key(L, 2);
    shared_side side = check_side(L, 3, "left");
    shared_value value;
    void *buffer = host_of(L)->seat->scratch;
    size_t room = HOST_DRAW_MAX, count;
    shared_status status;
    while ((status = shared_pop(dict, key, side, &value, buffer, room)) == SHARED_ROOM) {
        lua_settop(L, 3);
        room = value.len;
        buffer = lua_newuserdatauv(L, room, 0);
    }
    if (status == SHARED_ABSENT) {
        lua_pushnil(L);
        return 1;
    }
    if (status != SHARED_OK) return refuse(L, dict, status, "the value is not a list");
    lua_pushcfunction(L, push_popped);
    lua_pushlightuserdata(L, &value);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK) return 1;
    (void)shared_push(dict, key, &value, side, &count); /* Lua has no memory for it: it goes back */
    return lua_error(L);
}

/* Protected: the argument is what shared_range() has copied. Returns a table of it. */
static int push_values(lua_State *L)
{
    const shared_values *values = lua_touserdata(L, 1);
    lua_createtable(L, (int)values->count, 0);
    for (size_t i = 0; i < values->count; i++) {
        push_value(L, &values->at[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int method_range(lua_State *L)
{
    shared_dict *dict = check(L);
    shared_key key = check_key(L, 2);
    lua_Integer first = luaL_optinteger(L, 3, 1), last = luaL_optinteger(L, 4, -1);
    shared_values values;
    lua_pushcfunction(L, push_values);
    lua_pushlightuserdata(L, &values);
    shared_status status = shared_range(dict, key, first, last, &values); /* from here on nothing may raise … */
    if (status != SHARED_OK && status != SHARED_ABSENT) return refuse(L, dict, status, "the value is not a list");
    int failed = lua_pcall(L, 1, 1, 0);
    mem_free(values.at); /* … to here */
    return failed == LUA_OK ? 1 : lua_error(L);
}

static int method_len(lua_State *L)
{
    shared_dict *dict = check(L);
    shared_value value = {.type = SHARED_NONE};
    shared_status status = shared_get(dict, check_key(L, 2), &value, NULL, 0);
    if (status != SHARED_TYPE && status != SHARED_ABSENT)
        return refuse(L, dict, SHARED_TYPE, "the value is not a list");
    lua_pushinteger(L, (lua_Integer)value.len);
    return 1;
}

/* ---- All keys ---- */

/* Protected: the argument is what shared_list() has listed. Returns a table of it. */
static int push_keys(lua_State *L)
{
    const shared_keys *keys = lua_touserdata(L, 1);
    const uint8_t *at = keys->bytes;
    lua_createtable(L, (int)keys->count, 0);
    for (size_t i = 1; i <= keys->count; i++) {
        uint32_t len;
        LUA_STEP();
        memcpy(&len, at, sizeof(len));
        lua_pushlstring(L, (const char *)at + sizeof(len), len);
        lua_rawseti(L, -2, (lua_Integer)i);
        at += sizeof(len) + len;
    }
    return 1;
}

static int method_keys(lua_State *L)
{
    shared_dict *dict = check(L);
    shared_key prefix = {.bytes = ""};
    shared_keys keys;
    if (!lua_isnoneornil(L, 2)) prefix = check_key(L, 2);
    lua_Integer limit = luaL_optinteger(L, 3, KEYS_DEFAULT);
    luaL_argcheck(L, limit >= 1 && limit <= INT32_MAX, 3, "a number of keys from 1 on expected");
    lua_pushcfunction(L, push_keys);
    lua_pushlightuserdata(L, &keys);
    shared_status status = shared_list(dict, prefix, (size_t)limit, &keys); /* from here on nothing may raise … */
    if (status != SHARED_OK) return refuse(L, dict, status, "");
    int failed = lua_pcall(L, 1, 1, 0);
    mem_free(keys.bytes); /* … to here */
    return failed == LUA_OK ? 1 : lua_error(L);
}

static int method_count(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)shared_count(check(L)));
    return 1;
}

static int method_flush(lua_State *L)
{
    shared_flush(check(L));
    return push_boolean(L, true);
}

/* ---- portico.shared ---- */

int host_api_shared(lua_State *L)
{
    shared *store = host_of(L)->config->shared;
    shared_key name = check_key(L, 1);
    handle *d = lua_newuserdatauv(L, sizeof(*d), 0);
    *d = (handle){.tag = &handle_tag};
    shared_status status = shared_find(&d->dict, store, name.bytes, name.len);
    if (status == SHARED_FULL) return host_push_failure(L, "full: there is no room for another dictionary", "limit");
    if (status != SHARED_OK) return host_push_failure(L, "out of memory", "limit");
    lua_rawgetp(L, LUA_REGISTRYINDEX, &handle_tag);
    lua_setmetatable(L, -2);
    return 1;
}

void host_shared_library(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"get", method_get},   {"set", method_set},       {"add", method_add},     {"incr", method_incr},
        {"cas", method_cas},   {"delete", method_delete}, {"ttl", method_ttl},     {"expire", method_expire},
        {"push", method_push}, {"pop", method_pop},       {"len", method_len},     {"range", method_range},
        {"keys", method_keys}, {"count", method_count},   {"flush", method_flush}, {NULL, NULL},
    };
    static const luaL_Reg metamethods[] = {{NULL, NULL}};
    host_metatable(L, "shared dictionary", &handle_tag, methods, metamethods);
}
