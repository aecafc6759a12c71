/* base.h - the few macros that every file may use. No declarations, no system headers. */
#ifndef PORTICO_BASE_H
#define PORTICO_BASE_H

#include <stddef.h>

/* The struct of TYPE whose MEMBER is at POINTER. This is how the owner of an op or timer is found. */
#define container_of(pointer, type, member) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

#define array_count(array) (sizeof(array) / sizeof((array)[0]))

/* Lets the compiler check format strings. MinGW's printf follows the C standard's formats only when
 * __USE_MINGW_ANSI_STDIO is set, which the build does, and then the attribute is gnu_printf. */
#if defined(__MINGW32__) && !defined(__clang__)
#define PRINTF_LIKE(text, first) __attribute__((format(gnu_printf, text, first)))
#elif defined(__GNUC__)
#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))
#else
#define PRINTF_LIKE(text, first)
#endif

#endif
