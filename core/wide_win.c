/* wide_win.c - from UTF-8 to UTF-16. */
#include "wide_win.h"

#include "mem.h"

#include <windows.h>

wchar_t *wide_from(const char *text, const wchar_t *behind)
{
    int units = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, NULL, 0);
    if (units <= 0) return NULL;
    wchar_t *wide = mem_alloc(((size_t)units + wcslen(behind)) * sizeof *wide);
    if (wide == NULL) return NULL;
    MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, wide, units);
    wcscpy(wide + units - 1, behind);
    return wide;
}
