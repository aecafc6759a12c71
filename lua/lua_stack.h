/* lua_stack.h - how deep Lua's stacks may be, and how deep tracebacks look. Compiled ahead of everything that includes lua.h (gcc
 * -include), since the numbers of its pseudo-indices depend on it.
 *
 * Lua walks the list of a coroutine's calls to set a hook, to grow and shrink the stack, to find a pcall, and for each line of a
 * traceback behind the tenth, and none of that can be interrupted. Where the list is scattered over the heap, as it is when the
 * coroutine has been deep before, each walk waits for memory at every call: 25 ms for 200,000 calls, measured. Lua's own million
 * slots hold 780,000. So the stack's limit is also one on how long a handler takes to be ended.
 */
#ifndef PORTICO_LUA_STACK_H
#define PORTICO_LUA_STACK_H

#define LUA_CORE /* for luaconf.h: what Lua's own files need of it */
#include "luaconf.h"
#undef LUA_CORE

#undef LUAI_MAXSTACK
/* Slots of a coroutine: each byte of a message of 64 KiB can be an argument, and there is room beside. A call takes as many as
 * the caller has in use, at least one. LuaJIT has 65,500. */
#define LUAI_MAXSTACK 70000

#define LUA_STACK_TRACED 1000 /* levels that a traceback looks at, the innermost ones */

/* lauxlib.c: luaL_traceback() is what asks for more levels than a few. */
#ifdef LUA_STACK_AUXLIB
#define LUA_LIB /* as lauxlib.c does before it includes anything */
#include "lprefix.h"

#include "lua.h"

static int lua_stack_get_traced(lua_State *L, int level, lua_Debug *frame)
{
    return level < LUA_STACK_TRACED && lua_getstack(L, level, frame);
}
#define lua_getstack lua_stack_get_traced
#endif

#endif
