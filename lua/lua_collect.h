/* lua_collect.h - lets the buffers of Lua's libraries collect garbage before they give up. Compiled ahead of lauxlib.c (gcc
 * -include), whose source stays as it is.
 *
 * Everything else in Lua that is refused memory collects all garbage and asks again. A luaL_Buffer asks the allocator by itself,
 * once (resizebox() in lauxlib.c): near the memory cap string.rep would fail for the garbage of others.
 */
#ifndef PORTICO_LUA_COLLECT_H
#define PORTICO_LUA_COLLECT_H

#define LUA_LIB /* as lauxlib.c does before it includes anything */
#include "lprefix.h"

#include "lua.h"

/* A lua_Alloc; context is the lua_State. */
static void *lua_collect_and_allocate(void *context, void *block, size_t old_bytes, size_t bytes)
{
    lua_State *L = context;
    void *own_context;
    lua_Alloc allocate = lua_getallocf(L, &own_context);
    void *moved = allocate(own_context, block, old_bytes, bytes);
    if (moved != NULL || bytes == 0) return moved;
    lua_gc(L, LUA_GCCOLLECT);
    return allocate(own_context, block, old_bytes, bytes);
}

/* resizebox() is the only one in lauxlib.c to ask for it. */
#define lua_getallocf(L, context) (*(context) = (L), lua_collect_and_allocate)

#endif
