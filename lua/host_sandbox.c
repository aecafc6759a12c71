/* host_sandbox.c - --sandbox: what of Lua a script may use. Lists say what is there; whatever they do not name is taken away, so
 * that nothing is there by accident.
 *
 *   off     all of Lua
 *   std     without what blocks the worker for long or ends the process, what reaches into the host, and finalisers, which no
 *           budget can end
 *   strict  also without files, the environment and other programs; modules come from the script's directory and from
 *           Portico, and dofile and loadfile stay in that directory (host_load.c)
 *
 * On Linux strict also means what core/sandbox.h does to the process.
 */
#include "host_internal.h"

#include <lualib.h>
#include <string.h>

typedef struct listed {
    const char *library; /* "_G": the globals */
    host_sandbox most;   /* the strictest level that has them */
    const char *names;   /* with a blank before and behind each */
} listed;

static const listed lists[] = {
    {"_G", HOST_SANDBOX_STRICT,
     " _G _VERSION arg assert collectgarbage coroutine dofile error getmetatable ipairs load loadfile math next os "
     "package "
     "pairs pcall portico print rawequal rawget rawlen rawset require select setmetatable string table tonumber "
     "tostring "
     "type utf8 warn xpcall "},
    {"_G", HOST_SANDBOX_STD, " debug io "},
    {"coroutine", HOST_SANDBOX_STRICT, " close create isyieldable resume running status wrap yield "},
    {"debug", HOST_SANDBOX_STD, " getinfo traceback "},
    {"io", HOST_SANDBOX_STD, " close flush lines open output stderr stdout tmpfile type write "},
    {"math", HOST_SANDBOX_STRICT,
     " abs acos asin atan ceil cos deg exp floor fmod huge log max maxinteger min mininteger modf pi rad random "
     "randomseed "
     "sin sqrt tan tointeger type ult "},
    {"os", HOST_SANDBOX_STRICT, " clock date difftime exit time "},
    {"os", HOST_SANDBOX_STD, " getenv remove rename "},
    {"package", HOST_SANDBOX_STRICT, " loaded preload "},
    {"package", HOST_SANDBOX_STD, " config cpath path searchers searchpath "},
    {"string", HOST_SANDBOX_STRICT,
     " byte char find format gmatch gsub len lower match pack packsize rep reverse sub unpack upper "},
    {"table", HOST_SANDBOX_STRICT, " concat insert move pack remove sort unpack "},
    {"utf8", HOST_SANDBOX_STRICT, " char charpattern codepoint codes len offset "},
};

static bool is_listed(host_sandbox level, const char *library, const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 0; i < array_count(lists); i++) {
        if (lists[i].most < level || strcmp(lists[i].library, library) != 0) continue;
        for (const char *at = strstr(lists[i].names, name); at != NULL; at = strstr(at + 1, name)) {
            if (at[-1] == ' ' && at[len] == ' ') return true;
        }
    }
    return false;
}

/* Takes what is not listed out of the table on top. raises */
static void trim(lua_State *L, host_sandbox level, const char *library)
{
    int table = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, table) != 0;) {
        lua_pop(L, 1); /* stack: table, key */
        if (lua_type(L, -1) == LUA_TSTRING && is_listed(level, library, lua_tostring(L, -1))) continue;
        lua_pushvalue(L, -1);
        lua_pushnil(L);
        lua_rawset(L, table); /* lua_next() allows for fields that are cleared */
    }
}

/* require keeps the true `package`, with its searchers; scripts see another one. raises */
static void copy_package(lua_State *L)
{
    lua_newtable(L);
    lua_getglobal(L, LUA_LOADLIBNAME);
    for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
        lua_pushvalue(L, -2);
        lua_pushvalue(L, -2);
        lua_rawset(L, -6);
    }
    lua_pop(L, 1);
    lua_setglobal(L, LUA_LOADLIBNAME);
}

static void trim_libraries(lua_State *L, host_sandbox level)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    for (size_t i = 0; i < array_count(lists); i++) {
        const char *library = lists[i].library;
        if (strcmp(library, "_G") == 0 || lua_getfield(L, -1, library) != LUA_TTABLE) {
            lua_settop(L, 1);
            continue;
        }
        trim(L, level, library);
        lua_settop(L, 1);
    }
    trim(L, level, "_G");
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE); /* stack: globals, loaded */
    for (lua_pushnil(L); lua_next(L, 2) != 0;) {
        lua_pop(L, 1);
        lua_pushvalue(L, -1);
        lua_rawget(L, 1); /* the global of that name, which may be another one by now */
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, 2); /* stack: globals, loaded, key */
    }
    lua_settop(L, 0);
}

/* ---- Functions that do less ---- */

/* setmetatable(table, metatable) */
static int set_metatable(lua_State *L)
{
    int type = lua_type(L, 2);
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_argexpected(L, type == LUA_TNIL || type == LUA_TTABLE, 2, "nil or table");
    if (luaL_getmetafield(L, 1, "__metatable") != LUA_TNIL) {
        return luaL_error(L, "cannot change a protected metatable");
    }
    lua_settop(L, 2);
    if (type == LUA_TTABLE) {
        lua_pushliteral(L, "__gc");
        if (lua_rawget(L, 2) != LUA_TNIL) {
            return luaL_error(L,
                              "__gc is not there with --sandbox std and strict, since no budget can end a finaliser: "
                              "use __close, or on_close");
        }
        lua_settop(L, 2);
    }
    lua_setmetatable(L, 1);
    return 1;
}

/* collectgarbage(what): not what would change how the host has set the collector. */
static int collect_garbage(lua_State *L)
{
    static const char *const names[] = {"collect", "count", "step", "isrunning", NULL};
    const char *what = luaL_optstring(L, 1, "collect");
    lua_Integer argument = luaL_optinteger(L, 2, 0);
    int result;
    switch (luaL_checkoption(L, 1, "collect", names)) {
    case 0:
        lua_pushinteger(L, lua_gc(L, LUA_GCCOLLECT));
        return 1;
    case 1:
        lua_pushnumber(L, (lua_Number)lua_gc(L, LUA_GCCOUNT) + (lua_Number)lua_gc(L, LUA_GCCOUNTB) / 1024);
        return 1;
    case 2:
        result = lua_gc(L, LUA_GCSTEP, argument < 0 || argument > 1000 ? 1000 : (int)argument);
        break;
    default:
        result = lua_gc(L, LUA_GCISRUNNING);
        break;
    }
    if (result < 0) return luaL_error(L, "collectgarbage(\"%s\") is not for finalisers", what);
    lua_pushboolean(L, result);
    return 1;
}

/* io.lines(name, …): without a name, standard input would be read, which may never bring anything. */
static int lines(lua_State *L)
{
    luaL_checkstring(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

/* Lua's own. Who sets the collector with it keeps what he has set. */
static int collect_garbage_freely(lua_State *L)
{
    enum { SETTING = 4 }; /* from here on */
    static const char *const names[] = {"collect",  "count",      "step",         "isrunning",   "stop", "restart",
                                        "setpause", "setstepmul", "generational", "incremental", NULL};
    bool sets = luaL_checkoption(L, 1, "collect", names) >= SETTING;
    int count = lua_gettop(L);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, count, LUA_MULTRET);
    if (sets) host_of(L)->own_collector = true;
    return lua_gettop(L);
}

void host_sandbox_apply(lua_State *L)
{
    host_sandbox level = host_of(L)->config->sandbox;
    if (level == HOST_SANDBOX_OFF) {
        lua_getglobal(L, "collectgarbage");
        lua_pushcclosure(L, collect_garbage_freely, 1);
        lua_setglobal(L, "collectgarbage");
        return;
    }
    lua_pushcfunction(L, set_metatable);
    lua_setglobal(L, "setmetatable");
    lua_pushcfunction(L, collect_garbage);
    lua_setglobal(L, "collectgarbage");
    lua_getglobal(L, LUA_IOLIBNAME);
    lua_getfield(L, -1, "lines");
    lua_pushcclosure(L, lines, 1);
    lua_setfield(L, -2, "lines");
    luaL_getmetatable(L, LUA_FILEHANDLE); /* its __gc is called for each open file */
    lua_pushliteral(L, LUA_FILEHANDLE);
    lua_setfield(L, -2, "__metatable");
    lua_settop(L, 0);
    if (level == HOST_SANDBOX_STRICT) {
        copy_package(L);
        lua_getglobal(L, "portico");
        lua_pushnil(L);
        lua_setfield(L, -2, "files");
        lua_settop(L, 0);
    }
    trim_libraries(L, level);
}
