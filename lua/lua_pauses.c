/* lua_pauses.c - the collector's steps, and telling of them; linked with Lua. */
#include "lua_pauses.h"

#define LUA_CORE
#include "lprefix.h"

#include "lgc.h"
#include "lstate.h"

_Atomic(void (*)(void *context, bool begins)) lua_pauses_watch;

/* lgc.c's, see lua_pauses.h. */
void lua_pauses_step(lua_State *L);
void lua_pauses_full(lua_State *L, int is_emergency);

static void tell(const lua_State *L, bool begins)
{
    void (*watch)(void *, bool) = atomic_load_explicit(&lua_pauses_watch, memory_order_relaxed);
    if (watch != NULL) watch(G(L)->ud, begins);
}

void luaC_step(lua_State *L)
{
    tell(L, true);
    lua_pauses_step(L);
    tell(L, false);
}

void luaC_fullgc(lua_State *L, int is_emergency)
{
    tell(L, true);
    lua_pauses_full(L, is_emergency);
    tell(L, false);
}
