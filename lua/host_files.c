/* host_files.c - portico.files: what Lua's io library has no word for. */
#include "host_internal.h"

#include "dir.h"

#include <string.h>

typedef struct name_list {
    const char *bytes; /* names, each with a NUL behind it */
    size_t len;
} name_list;

/* Protected: the names as a table. */
static int push_names(lua_State *L)
{
    const name_list *list = lua_touserdata(L, 1);
    lua_Integer count = 0;
    lua_newtable(L);
    for (size_t at = 0; at < list->len; at += strlen(list->bytes + at) + 1) {
        lua_pushstring(L, list->bytes + at);
        lua_rawseti(L, -2, ++count);
    }
    return 1;
}

/* The path at 1; NULL when C would not see all of it, with what the caller then returns pushed. */
static const char *check_path(lua_State *L)
{
    size_t len;
    const char *path = luaL_checklstring(L, 1, &len);
    if (strlen(path) == len) return path;
    host_push_failure(L, "the path holds a zero byte", "file");
    return NULL;
}

/* files.list(path) */
static int files_list(lua_State *L)
{
    char error[128], *names;
    name_list list;
    const char *path = check_path(L);
    if (path == NULL) return 3;
    lua_pushcfunction(L, push_names); /* before there is anything to lose */
    if (!dir_list(&names, &list.len, path, error, sizeof(error))) return host_push_failure(L, error, "file");
    list.bytes = names;
    lua_pushlightuserdata(L, &list);
    int status = lua_pcall(L, 1, 1, 0);
    mem_free(names);
    if (status != LUA_OK) return lua_error(L);
    return 1;
}

/* files.stat(path) */
static int files_stat(lua_State *L)
{
    static const char *const kinds[] = {[DIR_FILE] = "file", [DIR_DIRECTORY] = "directory", [DIR_OTHER] = "other"};
    char error[128];
    dir_entry entry;
    const char *path = check_path(L);
    if (path == NULL) return 3;
    if (!dir_look(&entry, path, error, sizeof(error))) return host_push_failure(L, error, "file");
    lua_createtable(L, 0, 3);
    lua_pushstring(L, kinds[entry.kind]);
    lua_setfield(L, -2, "type");
    lua_pushinteger(L, (lua_Integer)entry.bytes);
    lua_setfield(L, -2, "size");
    lua_pushnumber(L, entry.modified);
    lua_setfield(L, -2, "modified");
    return 1;
}

void host_files_open(lua_State *L)
{
    static const luaL_Reg functions[] = {{"list", files_list}, {"stat", files_stat}, {NULL, NULL}};
    luaL_newlib(L, functions);
}
