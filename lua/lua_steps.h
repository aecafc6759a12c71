/* lua_steps.h - lets long calls of Lua's libraries be ended: string.find with a hostile pattern, table.move over 2^60 elements.
 *
 * No hook runs inside a C function. So the sources of the libraries, unmodified, are compiled with this header ahead of them
 * (gcc -include), with LUA_STEPS_LIBRARY defined: names that stand in each of their long loops become macros that ask, on the
 * way, whether something is due. That costs a load and a branch. When nothing is due it is all that happens.
 *
 *   match()                       luai_unlikely, which luaconf.h leaves to be defined; match() tests its depth with it at each step
 *   find with a plain string      memchr, memcmp
 *   rep, buffers                  memcpy, luaL_prepbuffsize
 *   lower, upper                  tolower, toupper
 *   insert, remove, move, concat, sort  lua_geti
 *   os.date                       strftime
 *   io.read                       fread; not getc, at which the file is locked
 *   comparing strings (lvm.c)     strcoll, which is called anew behind each zero byte
 *
 * What has no such name is linear in its string, and so bounded by the memory cap: reverse, utf8.len, utf8.offset.
 */
#ifndef PORTICO_LUA_STEPS_H
#define PORTICO_LUA_STEPS_H

#ifdef LUA_STEPS_LIBRARY
#include "lprefix.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#endif

#include <stdatomic.h>
#include <stddef.h>

/* What is called at the next step of any thread; NULL: nothing is due. It may raise an error of Lua's. thread: any */
extern _Atomic(void (*)(void)) lua_steps_due;

/* Calls it. */
void lua_steps_act(void);

#define LUA_STEP() \
    ((void)(__builtin_expect(atomic_load_explicit(&lua_steps_due, memory_order_relaxed) != NULL, 0) && \
            (lua_steps_act(), 0)))

#ifdef LUA_STEPS_LIBRARY

#define luai_likely(x) (LUA_STEP(), __builtin_expect(((x) != 0), 1))
#define luai_unlikely(x) (LUA_STEP(), __builtin_expect(((x) != 0), 0))

#undef memchr
#undef memcmp
#undef memcpy
#undef strcoll
#undef strftime
#undef tolower
#undef toupper
#define memchr(s, c, n) (LUA_STEP(), memchr(s, c, n))
#define memcmp(a, b, n) (LUA_STEP(), memcmp(a, b, n))
#define memcpy(to, from, n) (LUA_STEP(), memcpy(to, from, n))
#define strftime(to, size, format, tm) (LUA_STEP(), strftime(to, size, format, tm))
#define tolower(c) (LUA_STEP(), tolower(c))
#define toupper(c) (LUA_STEP(), toupper(c))
#define fread(to, size, n, file) (LUA_STEP(), fread(to, size, n, file))
/* Lua's headers declare these with their names in parentheses. */
#define lua_geti(L, index, i) (LUA_STEP(), lua_geti(L, index, i))
#define luaL_prepbuffsize(B, size) (LUA_STEP(), luaL_prepbuffsize(B, size))

#endif

#ifdef LUA_STEPS_VM
#include <string.h>
#undef strcoll
#define strcoll(a, b) (LUA_STEP(), strcoll(a, b))
#endif

#endif
