/* lua_steps.c - what is due; linked with Lua. */
#include "lua_steps.h"

_Atomic(void (*)(void)) lua_steps_due;

void lua_steps_act(void)
{
    void (*due)(void) = atomic_load_explicit(&lua_steps_due, memory_order_relaxed);
    if (due != NULL) due();
}
