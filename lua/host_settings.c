/* host_settings.c - values that scripts give: limits, seconds, names that may be misspelt. */
#include "host_internal.h"

#include "guess.h"

#include <math.h>
#include <string.h>

/* ---- Misspelt names ---- */

const char *host_nearest(const char *name, const char *const *names)
{
    guess g;
    guess_begin(&g, name, strlen(name));
    for (; *names != NULL; names++) guess_consider(&g, *names, strlen(*names));
    /* A name that is hardly begun may be another word: who writes on_data does not mean on_datagram. */
    bool begins = g.best != NULL && strncmp(g.best, name, g.given_len) == 0;
    return begins && g.best_len > g.given_len + 2 ? NULL : g.best;
}

void host_push_hint(lua_State *L, const char *name, const char *const *names)
{
    const char *nearest = host_nearest(name, names);
    luaL_Buffer text;
    if (nearest != NULL) {
        lua_pushfstring(L, ": did you mean '%s'?", nearest);
        return;
    }
    luaL_buffinit(L, &text);
    for (size_t i = 0; names[i] != NULL; i++) {
        luaL_addstring(&text, i == 0 ? ": there are " : ", ");
        luaL_addstring(&text, names[i]);
    }
    luaL_pushresult(&text);
}

/* ---- Options ---- */

const char *host_push_nameless(lua_State *L, int key)
{
    const char *text = luaL_tolstring(L, key, NULL);
    return lua_pushfstring(L, "the key %s is no name: name = value expected", text);
}

const char *host_option_name(lua_State *L, int arg, int key)
{
    if (lua_type(L, key) != LUA_TSTRING) luaL_argerror(L, arg, host_push_nameless(L, key));
    return lua_tostring(L, key);
}

void host_option_unknown(lua_State *L, int arg, const char *prefix, const char *name, const char *const *names)
{
    host_push_hint(L, name, names);
    luaL_argerror(L, arg, lua_pushfstring(L, "unknown option '%s%s'%s", prefix, name, lua_tostring(L, -1)));
}

const char *host_push_found(lua_State *L, int index)
{
    return lua_type(L, index) == LUA_TNUMBER ? luaL_tolstring(L, index, NULL)
                                             : lua_pushstring(L, luaL_typename(L, index));
}

/* ---- Seconds ---- */

/* False for NaN, too. */
static bool seconds_fit(lua_Number seconds)
{
    return seconds >= 0 && seconds <= (lua_Number)HOST_SECONDS_MAX;
}

int64_t host_check_seconds(lua_State *L, int arg)
{
    lua_Number seconds = luaL_checknumber(L, arg);
    if (!seconds_fit(seconds)) {
        luaL_argerror(L, arg, lua_pushfstring(L, "seconds from 0 to %d expected, got %f", HOST_SECONDS_MAX, seconds));
    }
    return (int64_t)(seconds * 1e9);
}

int64_t host_option_seconds(lua_State *L, int arg, const char *name, int index)
{
    lua_Number seconds = lua_type(L, index) == LUA_TNUMBER ? lua_tonumber(L, index) : -1;
    if (!seconds_fit(seconds)) {
        const char *found = host_push_found(L, index);
        luaL_argerror(L, arg,
                      lua_pushfstring(L, "%s: seconds from 0 to %d expected, got %s", name, HOST_SECONDS_MAX, found));
    }
    return (int64_t)(seconds * 1e9);
}

/* ---- Limits ---- */

enum { BYTES_MAX = 1 << 30 };

typedef struct limit {
    const char *name;
    size_t offset; /* in conn_limits */
    uint32_t bit;
    uint32_t least; /* bytes; of seconds it is always 0 */
    bool is_seconds;
} limit;

static const limit limits_known[] = {
    {"idle", offsetof(conn_limits, idle_ns), HOST_LIMIT_IDLE, 0, true},
    {"first_byte", offsetof(conn_limits, first_byte_ns), HOST_LIMIT_FIRST_BYTE, 0, true},
    {"write", offsetof(conn_limits, write_ns), HOST_LIMIT_WRITE, 0, true},
    {"send_high", offsetof(conn_limits, send_high), HOST_LIMIT_SEND_HIGH, 1, false},
    {"send_low", offsetof(conn_limits, send_low), HOST_LIMIT_SEND_LOW, 0, false},
    {"send_max", offsetof(conn_limits, send_max), HOST_LIMIT_SEND_MAX, 0, false},
    {"message", offsetof(conn_limits, message_max), HOST_LIMIT_MESSAGE, 1, false},
};

const char *const host_limit_names[] = {"idle",     "first_byte", "write",   "send_high",
                                        "send_low", "send_max",   "message", NULL};

uint32_t host_limit_set(lua_State *L, conn_limits *limits, const char *name, int index)
{
    const limit *known = NULL;
    for (size_t i = 0; i < array_count(limits_known); i++) {
        if (strcmp(name, limits_known[i].name) == 0) known = &limits_known[i];
    }
    if (known == NULL) return 0;
    void *field = (char *)limits + known->offset;
    if (known->is_seconds) {
        if (lua_type(L, index) == LUA_TNUMBER && seconds_fit(lua_tonumber(L, index))) {
            *(int64_t *)field = (int64_t)ceil(lua_tonumber(L, index) * 1e9); /* 0 is no limit */
            return known->bit;
        }
        lua_pushfstring(L, "seconds from 0 (no limit) to %d expected", HOST_SECONDS_MAX);
    } else {
        int whole = 0;
        lua_Integer bytes = lua_type(L, index) == LUA_TNUMBER ? lua_tointegerx(L, index, &whole) : 0;
        if (whole && bytes >= (lua_Integer)known->least && bytes <= BYTES_MAX) {
            *(uint32_t *)field = (uint32_t)bytes;
            return known->bit;
        }
        lua_pushfstring(L, "bytes, a whole number from %d to %d, expected", (int)known->least, BYTES_MAX);
    }
    const char *expected = lua_tostring(L, -1);
    lua_pushfstring(L, "%s, got %s", expected, host_push_found(L, index));
    return HOST_LIMIT_WRONG;
}

const char *host_limits_settle(conn_limits *limits, uint32_t given)
{
    if (limits->send_max > 0 && limits->send_max < limits->send_high) {
        if ((given & HOST_LIMIT_SEND_MAX) && (given & HOST_LIMIT_SEND_HIGH)) return "send_max is below send_high";
        if (given & HOST_LIMIT_SEND_MAX) limits->send_high = limits->send_max;
        else limits->send_max = limits->send_high;
    }
    if (limits->send_low >= limits->send_high) {
        if (given & HOST_LIMIT_SEND_LOW) return "send_low is not below send_high";
        limits->send_low = limits->send_high / 4;
    }
    return NULL;
}

/* ---- Metatables ---- */

void host_metatable(lua_State *L, const char *name, const void *key, const luaL_Reg *methods,
                    const luaL_Reg *metamethods)
{
    lua_newtable(L); /* stack: metatable */
    luaL_setfuncs(L, metamethods, 0);
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    lua_setfield(L, -2, "__index");
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__name");
    lua_pushstring(L, name); /* what getmetatable() says */
    lua_setfield(L, -2, "__metatable");
    lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}

void host_metatable_reads(lua_State *L, const void *key, lua_CFunction read)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, key);
    lua_getfield(L, -1, "__index");
    lua_pushcclosure(L, read, 1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}

/* ---- Handlers ---- */

const char *host_handlers_wrong(uint32_t handlers)
{
    static const struct {
        host_kind a, b;
        const char *text;
    } never_both[] = {
        {HOST_ON_MESSAGE, HOST_ON_READABLE,
         "on_message and on_readable are both there: either the engine draws the bytes or the script"},
        {HOST_ON_STREAM, HOST_ON_MESSAGE, "on_stream and on_message are both there: a stream reads for itself"},
        {HOST_ON_STREAM, HOST_ON_READABLE, "on_stream and on_readable are both there: a stream reads for itself"},
        {HOST_ON_STREAM, HOST_ON_EOF, "on_stream and on_eof are both there: a stream hears of it from conn:read"},
        {HOST_ON_STREAM, HOST_ON_DRAIN, "on_stream and on_drain are both there: in a stream conn:send waits"},
    };
    for (size_t i = 0; i < array_count(never_both); i++) {
        uint32_t both = HOST_BIT(never_both[i].a) | HOST_BIT(never_both[i].b);
        if ((handlers & both) == both) return never_both[i].text;
    }
    return NULL;
}

/* ---- Addresses ---- */

const char *host_uri_wrong(lua_State *L, int index)
{
    size_t len;
    const char *text = lua_tolstring(L, index, &len);
    return strlen(text) == len ? NULL : "the address holds a zero byte";
}

/* ---- Results ---- */

int host_push_failure(lua_State *L, const char *message, const char *code)
{
    lua_pushnil(L);
    lua_pushstring(L, message);
    lua_pushstring(L, code);
    return 3;
}
