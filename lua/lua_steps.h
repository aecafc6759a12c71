/* lua_steps.h - lets long calls of Lua's libraries be ended: string.find with a hostile pattern, table.move over 2^60 elements.
 *
 * No hook runs inside a C function. So the sources of the libraries, unmodified, are compiled with this header ahead of them
 * (gcc -include): the keywords of their loops become macros that ask, at each turn, whether something is due. That costs a load
 * and a branch. When nothing is due it is all that happens. The headers that a source includes come first here, and stay as they
 * are.
 *
 *   LUA_STEPS_LOOPS    for, while, switch: every loop of lbaselib, loslib, lstrlib, ltablib and lutf8lib. match() in lstrlib.c also
 *                      goes round by goto, past a switch
 *   LUA_STEPS_OBJECT   the digits and blanks of a number's text (lobject.c); its other loops are in what reports errors
 *   LUA_STEPS_AUXLIB   strstr, in luaL_gsub (lauxlib.c): require of a name with many dots
 *   LUA_STEPS_VM       strcoll, which is called anew behind each zero byte of a string that is compared (lvm.c)
 *   LUA_STEPS_IO       fread; not getc, at which the file is locked (liolib.c)
 *
 * What is left is linear in its string, and so bounded by the memory cap: see docs/SECURITY.md.
 */
#ifndef PORTICO_LUA_STEPS_H
#define PORTICO_LUA_STEPS_H

#if defined LUA_STEPS_LOOPS || defined LUA_STEPS_OBJECT || defined LUA_STEPS_AUXLIB || defined LUA_STEPS_VM || \
    defined LUA_STEPS_IO
#include "lprefix.h"

#include <ctype.h>
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
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

#ifdef LUA_STEPS_LOOPS
#define LUA_LIB /* as these sources do before they include anything */
#include "lua.h"

#include "lauxlib.h"
#include "lualib.h"
/* clang-format off */
#define for(...) for (__VA_ARGS__) if (LUA_STEP(), 0) {} else
#define while(...) while (LUA_STEP(), (__VA_ARGS__))
#define switch(...) switch (LUA_STEP(), (__VA_ARGS__))
/* clang-format on */
#endif

#ifdef LUA_STEPS_OBJECT
#define LUA_CORE
#include "lctype.h"
#define LUA_STEPS_HAS(c, bit) (LUA_STEP(), testprop(c, MASK(bit)))
#undef lisdigit
#undef lisspace
#undef lisxdigit
#define lisdigit(c) LUA_STEPS_HAS(c, DIGITBIT)
#define lisspace(c) LUA_STEPS_HAS(c, SPACEBIT)
#define lisxdigit(c) LUA_STEPS_HAS(c, XDIGITBIT)
#endif

#ifdef LUA_STEPS_AUXLIB
#undef strstr
#define strstr(s, part) (LUA_STEP(), strstr(s, part))
#endif

#ifdef LUA_STEPS_VM
#undef strcoll
#define strcoll(a, b) (LUA_STEP(), strcoll(a, b))
#endif

#ifdef LUA_STEPS_IO
#define fread(to, size, n, file) (LUA_STEP(), fread(to, size, n, file))
#endif

#endif
