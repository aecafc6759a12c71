/* wide_win.h - names for the wide calls of Windows. Included by *_win.c only. */
#ifndef PORTICO_WIDE_WIN_H
#define PORTICO_WIDE_WIN_H

#include <wchar.h>

/* A text in UTF-8 as UTF-16 with something behind it, from mem_alloc(). NULL: out of memory, or no UTF-8. Any thread. */
wchar_t *wide_from(const char *text, const wchar_t *behind);

#endif
