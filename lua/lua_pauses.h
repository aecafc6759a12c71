/* lua_pauses.h - tells when Lua collects garbage: a step can take long, and is no doing of the function that happens to run. Compiled
 * ahead of lgc.c (gcc -include), whose source stays as it is: what it exports gets other names there, and lua_pauses.c has
 * functions with the old ones around them.
 */
#ifndef PORTICO_LUA_PAUSES_H
#define PORTICO_LUA_PAUSES_H

#include <stdatomic.h>
#include <stdbool.h>

/* Called where a step of the collector, or a whole collection, begins and where it ends, on the thread that does it; never one inside
 * the other. context: that of the state's allocator. Must not raise. NULL: nobody is told. */
extern _Atomic(void (*)(void *context, bool begins)) lua_pauses_watch;

#ifdef LUA_PAUSES_COLLECTOR
#define LUA_CORE /* as lgc.c does before it includes anything */
#include "lprefix.h"

#include "lgc.h"
#define luaC_step lua_pauses_step
#define luaC_fullgc lua_pauses_full
#endif

#endif
