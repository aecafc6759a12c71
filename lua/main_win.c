/* main_win.c - the entry on Windows, linked with -municode: main() would get arguments in the ANSI code page, which
 * has no place for most letters.
 */
#include "main.h"

#include "mem.h"

#include <stdio.h>
#include <windows.h>

/* The C runtime is not to put names of files in place of a word with an asterisk, such as the address "*:7777". */
int _dowildcard = 0;

int wmain(int argc, wchar_t **argv);

static char *narrow(const wchar_t *wide)
{
    int bytes = WideCharToMultiByte(CP_UTF8, 0, wide, -1, NULL, 0, NULL, NULL);
    char *text = bytes > 0 ? mem_alloc((size_t)bytes) : NULL;
    if (text != NULL) WideCharToMultiByte(CP_UTF8, 0, wide, -1, text, bytes, NULL, NULL);
    return text;
}

int wmain(int argc, wchar_t **argv)
{
    int code = 1;
    int count = 0;
    char **texts = mem_zalloc(((size_t)argc + 1) * sizeof *texts);
    if (texts == NULL) goto out_of_memory;
    for (; count < argc; count++) {
        texts[count] = narrow(argv[count]);
        if (texts[count] == NULL) goto out_of_memory;
    }
    code = portico_main(argc, texts);
    goto done;
out_of_memory:
    fputs("portico: out of memory\n", stderr);
done:
    for (int i = 0; i < count; i++) mem_free(texts[i]);
    mem_free(texts);
    return code;
}
