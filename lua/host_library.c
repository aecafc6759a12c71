/* host_library.c - the standard libraries, and what of them does not fit a server.
 *
 *   load, loadfile, dofile  see host_load.c
 *   require                 looks for what is part of the program (portico.*) first, then in the script's directory, and not
 *                           for C modules: Lua is linked in; text only
 *   os.exit                 would end the server
 *   print, warn             go to the log, line by line
 *   pcall                   a second lack of memory in one slice ends it
 *   xpcall                  the same; and without its handler once the budget is over, since no hook runs in handlers
 *   debug.sethook           the budget's
 *   coroutine               see host_coroutine.c
 *
 * What --sandbox takes away on top of that: host_sandbox.c.
 */
#include "host_internal.h"

#include "embedded.h"
#include "log.h"

#include <lualib.h>
#include <string.h>

/* ---- require ---- */

/* Modules in C; those in Lua are embedded files. */
static const luaL_Reg modules[] = {{"portico.codec", host_codec_open}};

static const embedded_file *find_embedded(const char *name)
{
    for (size_t i = 0; i < embedded_count; i++) {
        if (strcmp(embedded_files[i].name, name) == 0) return &embedded_files[i];
    }
    return NULL;
}

/* A searcher for the modules that are part of the program. It comes first: a file of the script's that happens to have
 * the same name does not take their place. */
static int search_embedded(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    if (strncmp(name, "portico.", 8) != 0) {
        if (find_embedded(lua_pushfstring(L, "portico/%s.lua", name)) == NULL) return 0;
        lua_pushfstring(L, "the one that is part of the program is called 'portico.%s'", name);
        return 1;
    }
    for (size_t i = 0; i < array_count(modules); i++) {
        if (strcmp(modules[i].name, name) != 0) continue;
        lua_pushcfunction(L, modules[i].func);
        return 1;
    }
    const char *file = lua_pushfstring(L, "%s.lua", luaL_gsub(L, name, ".", "/"));
    const embedded_file *found = find_embedded(file);
    if (found == NULL) {
        lua_pushfstring(L, "no embedded file '%s'", file);
        return 1;
    }
    lua_pushfstring(L, "@%s", file);
    if (host_load_text(L, found->data, found->size, lua_tostring(L, -1)) != LUA_OK) return lua_error(L);
    lua_pushstring(L, file);
    return 2; /* loader, file */
}

/* A module that is required while its own file is being run would be so for ever. raises if that is the case */
static void check_cycle(lua_State *L, const char *name, const char *path)
{
    lua_Debug frame, from = {.currentline = 0};
    for (int level = 1; lua_getstack(L, level, &frame); level++) {
        lua_getinfo(L, "Sl", &frame);
        if (from.currentline <= 0) from = frame; /* the innermost of the script's: who requires it */
        if (frame.what[0] != 'm' || frame.source[0] != '@' || strcmp(frame.source + 1, path) != 0) continue;
        luaL_error(L, "%s:%d: module '%s' is required while it is being loaded: %s requires itself in a circle",
                   from.short_src, from.currentline, name, path);
    }
}

/* What is wrong is on top of the stack, and says where: it goes first, since of a reason only the first line is kept. raises */
static int fail_to_load(lua_State *L, const char *name)
{
    lua_pushfstring(L, "%s (in module '%s')", lua_tostring(L, -1), name);
    return lua_error(L);
}

/* The module in the script's own directory, which belongs to the generation: 2 results, or 0 when it has none. raises */
static int search_own(lua_State *L, const char *name)
{
    static const char *const places[] = {".lua", LUA_DIRSEP "init.lua"};
    const host *h = host_of(L);
    if (h->config->script_dir == NULL) return 0;
    const char *path = luaL_gsub(L, name, ".", LUA_DIRSEP);
    for (size_t i = 0; i < array_count(places); i++) {
        lua_pushfstring(L, "%s%s%s%s", h->config->script_dir, LUA_DIRSEP, path, places[i]);
        const generation_file *file = generation_module(h->generation, lua_tostring(L, -1));
        if (file == NULL) continue;
        if (file->text == NULL) {
            lua_pushfstring(L, "cannot read %s: %s", file->path, file->why);
            return fail_to_load(L, name);
        }
        check_cycle(L, name, file->path);
        lua_pushfstring(L, "@%s", file->path);
        if (host_compile(L, file, lua_tostring(L, -1)) != LUA_OK) {
            return fail_to_load(L, name);
        }
        lua_pushstring(L, file->path);
        return 2; /* loader, file */
    }
    return 0;
}

/* A searcher: the upvalue is `package`. */
static int search_text(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    lua_settop(L, 1);
    if (search_own(L, name) == 2) return 2;
    lua_settop(L, 1);
    if (host_of(L)->config->sandbox == HOST_SANDBOX_STRICT) {
        lua_pushliteral(L, "no such file in the script's directory (--sandbox strict looks nowhere else)");
        return 1;
    }
    lua_getfield(L, lua_upvalueindex(1), "searchpath");
    lua_pushvalue(L, 1);
    lua_getfield(L, lua_upvalueindex(1), "path");
    if (!lua_isstring(L, -1)) return luaL_error(L, "package.path is not a string");
    lua_call(L, 2, 2); /* stack: name, file or nil, error */
    if (lua_isnil(L, 2)) return 1;
    const char *file = lua_tostring(L, 2);
    if (host_load_file(L, file) != LUA_OK) {
        return fail_to_load(L, name);
    }
    lua_pushvalue(L, 2);
    return 2; /* loader, file */
}

static void change_package(lua_State *L, const char *dir)
{
    lua_getglobal(L, LUA_LOADLIBNAME); /* stack: package */
    lua_getfield(L, -1, "searchers");
    lua_pushvalue(L, -2);
    lua_pushcclosure(L, search_text, 1);
    lua_rawseti(L, -2, 3);
    lua_pushcfunction(L, search_embedded);
    lua_rawseti(L, -2, 2);
    lua_pushnil(L);
    lua_rawseti(L, -2, 4); /* the first is that of package.preload */
    lua_pop(L, 1);
    lua_pushnil(L);
    lua_setfield(L, -2, "loadlib");
    lua_pushliteral(L, "");
    lua_setfield(L, -2, "cpath");
    if (dir != NULL) {
        lua_getfield(L, -1, "path");
        lua_pushfstring(L, "%s%s?.lua;%s%s?%sinit.lua;%s", dir, LUA_DIRSEP, dir, LUA_DIRSEP, LUA_DIRSEP,
                        lua_tostring(L, -1));
        lua_setfield(L, -3, "path");
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* ---- pcall, xpcall ---- */

/* The message handler: the upvalue is the script's. */
static int handle_error(lua_State *L)
{
    lua_settop(L, 1);
    if (host_is_overdue(host_of(L))) return 1;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

/* context: how many slots lie below `true`, which lies below results or error */
static int call_over(lua_State *L, int status, lua_KContext context)
{
    if (status == LUA_OK || status == LUA_YIELD) return lua_gettop(L) - (int)context;
    if (status == LUA_ERRMEM) host_memory_caught(host_of(L), L);
    lua_pushboolean(L, false);
    lua_insert(L, -2);
    return 2;
}

static int pcall_watched(lua_State *L)
{
    luaL_checkany(L, 1);
    lua_pushboolean(L, true);
    lua_insert(L, 1); /* stack: true, function, arguments */
    int status = lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, 0, call_over);
    return call_over(L, status, 0);
}

static int xpcall_watched(lua_State *L)
{
    int arguments = lua_gettop(L) - 2;
    luaL_checktype(L, 2, LUA_TFUNCTION); /* stack: function, script's handler, arguments */
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, handle_error, 1);
    lua_pushvalue(L, 1);
    lua_replace(L, 2);
    lua_replace(L, 1); /* stack: handler, function, arguments */
    lua_pushboolean(L, true);
    lua_insert(L, 2);
    int status = lua_pcallk(L, arguments, LUA_MULTRET, 1, 1, call_over);
    return call_over(L, status, 1);
}

/* ---- Output ---- */

int host_log_values(lua_State *L, log_level level, int first, char between)
{
    int top = lua_gettop(L);
    luaL_Buffer text;
    if (!log_wants(level)) return 0;
    luaL_buffinit(L, &text);
    for (int i = first; i <= top; i++) {
        if (i > first) luaL_addchar(&text, between);
        luaL_tolstring(L, i, NULL);
        luaL_addvalue(&text);
    }
    luaL_pushresult(&text);
    size_t len;
    const char *line = lua_tolstring(L, -1, &len);
    log_text(level, line, len);
    return 0;
}

static int print_line(lua_State *L)
{
    return host_log_values(L, LOG_INFO, 1, '\t');
}

/* A lua_WarnFunction: gathers the pieces of one warning. Must not raise. */
static void warn(void *context, const char *piece, int more)
{
    host *h = context;
    if (h->warning_len == 0 && !more && piece[0] == '@') return; /* a control message: warnings are always on */
    size_t len = strlen(piece), room = sizeof(h->warning) - h->warning_len;
    if (len > room) len = room;
    memcpy(h->warning + h->warning_len, piece, len);
    h->warning_len += len;
    if (more) return;
    log_text(LOG_WARN, h->warning, h->warning_len);
    h->warning_len = 0;
}

static int refuse_exit(lua_State *L)
{
    return luaL_error(L, "os.exit would end the server at once: use portico.shutdown()");
}

static void set_global(lua_State *L, const char *name, lua_CFunction function)
{
    lua_pushcfunction(L, function);
    lua_setglobal(L, name);
}

void host_library_open(lua_State *L)
{
    host *h = host_of(L);
    luaL_openlibs(L);
    host_load_library(L);
    set_global(L, "pcall", pcall_watched);
    set_global(L, "xpcall", xpcall_watched);
    set_global(L, "print", print_line);
    lua_setwarnf(L, warn, h);
    change_package(L, h->config->script_dir);
    lua_getglobal(L, LUA_OSLIBNAME);
    lua_pushcfunction(L, refuse_exit);
    lua_setfield(L, -2, "exit");
    lua_pop(L, 1);
    lua_getglobal(L, LUA_DBLIBNAME);
    lua_pushnil(L);
    lua_setfield(L, -2, "sethook");
    lua_pop(L, 1);
    host_coroutine_library(L);
}
