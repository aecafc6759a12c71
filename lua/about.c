/* about.c - see about.h. */
#include "about.h"

#include "base.h"
#include "file.h"
#include "io.h"
#include "lua.h"
#include "mem.h"
#include "options.h"
#include "os.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* The commit that was built, where the build knows it. */
#ifndef PORTICO_COMMIT
#define PORTICO_COMMIT ""
#endif

/* Which sanitizer watches this build: tests give it more time. gcc defines a macro, clang answers a question. */
#if !defined(__has_feature)
#define __has_feature(feature) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define SANITIZER "thread"
#elif defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define SANITIZER "address"
#else
#define SANITIZER ""
#endif

#ifdef NDEBUG
#define ASSERTIONS "off"
#else
#define ASSERTIONS "on"
#endif

enum { WHY_BYTES = 512 };

/* Put together piece by piece. */
typedef struct text {
    char bytes[16384];
    size_t len; /* below the size: what does not fit is cut */
} text;

static void text_add(text *t, const char *format, ...) PRINTF_LIKE(2, 3);

static void text_add(text *t, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(t->bytes + t->len, sizeof t->bytes - t->len, format, arguments);
    va_end(arguments);
    if (wanted < 0) return;
    size_t room = sizeof t->bytes - 1 - t->len;
    t->len += (size_t)wanted < room ? (size_t)wanted : room;
}

static bool print(const char *bytes, size_t len)
{
    if (file_write_stdout(bytes, len)) return true;
    fputs("portico: cannot write to standard output\n", stderr);
    return false;
}

bool about_help(void)
{
    char help[OPTIONS_HELP_BYTES];
    options_help(help, sizeof help, io_backend_names());
    return print(help, strlen(help));
}

/* Each backend that is compiled in is tried. */
static void add_backends(text *t)
{
    char why[WHY_BYTES];
    const char *rest = io_backend_names();
    while (*rest != '\0') {
        char name[32];
        size_t len = strcspn(rest, " ");
        snprintf(name, sizeof name, "%.*s", (int)len, rest);
        rest += len;
        rest += strspn(rest, " ");
        const io_backend *backend = io_backend_find(name, why, sizeof why);
        text_add(t, "backend    %s: %s", name, backend != NULL ? "works here" : "does not work here");
        text_add(t, backend != NULL ? "\n" : " (%s)\n", why);
    }
    const io_backend *best = io_backend_find(NULL, why, sizeof why);
    text_add(t, "chosen     %s (%s)\n", best != NULL ? io_backend_name(best) : "none", why);
}

bool about_version(bool verbose)
{
    static text t;
    char system[128];
    text_add(&t, "portico %s\n", PORTICO_VERSION);
    if (verbose) {
        if (PORTICO_COMMIT[0] != '\0') text_add(&t, "commit     %s\n", PORTICO_COMMIT);
        text_add(&t, "system     %s\n", os_describe(system, sizeof system));
        text_add(&t, "Lua        %s\n", LUA_RELEASE);
        text_add(&t, "allocator  %s\n", mem_describe());
        text_add(&t, "features   tcp udp ipv4 ipv6 half-close connect lent ready posted\n");
        text_add(&t, "assertions %s\n", ASSERTIONS);
        if (SANITIZER[0] != '\0') text_add(&t, "sanitizer  %s\n", SANITIZER);
        add_backends(&t);
    }
    return print(t.bytes, t.len);
}
