/* check.h - what every C test of the project is written with. Active in release builds too: this is not assert().
 *
 * A test executable is a few behaviours, each a function named as a sentence:
 *
 *     static void fin_is_zero_bytes(void) { ... check_eq(packet.bytes, 0); ... }
 *
 *     int main(int argc, char **argv)
 *     {
 *         check_begin(argc, argv);
 *         check_run(fin_is_zero_bytes);
 *         return check_end();
 *     }
 *
 * Each behaviour prints "run NAME" and then "ok NAME" or "skip NAME: REASON". The first failure prints file, line
 * and values and ends the executable with exit code 1. The exit code is 77 when all behaviours were skipped. After
 * each behaviour the blocks of mem.h must be back to what they were before it.
 *
 * CHECK_ONLY=TEXT in the environment runs only the behaviours whose names contain TEXT.
 */
#ifndef PORTICO_CHECK_H
#define PORTICO_CHECK_H

#include "base.h"
#include "mem.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHECK_PASS = 0, CHECK_FAIL = 1, CHECK_SKIP = 77 };

/* Where the executable stands. One per file that includes this; only the one of the file with main() counts. */
static struct check_progress {
    const char *running; /* the behaviour that runs now, or NULL */
    bool skipping;       /* it called check_skip() */
    unsigned passed;
    unsigned skipped;
} check_progress;

/* Says what is wrong and ends the executable. _Exit and not exit: leak checkers have nothing to add here. */
static inline void check_fail_at(const char *file, int line, const char *format, ...) PRINTF_LIKE(3, 4);
static inline void check_fail_at(const char *file, int line, const char *format, ...)
{
    printf("FAIL %s:%d: ", file, line);
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
    _Exit(CHECK_FAIL);
}

static inline void check_eq_at(const char *file, int line, const char *a_text, const char *b_text, long long a,
                               long long b)
{
    if (a != b) check_fail_at(file, line, "%s == %s: %lld is not %lld", a_text, b_text, a, b);
}

static inline void check_str_at(const char *file, int line, const char *a_text, const char *b_text, const char *a,
                                const char *b)
{
    if (a == NULL || b == NULL || strcmp(a, b) != 0) {
        check_fail_at(file, line, "%s == %s: \"%s\" is not \"%s\"", a_text, b_text, a != NULL ? a : "(null)",
                      b != NULL ? b : "(null)");
    }
}

static inline void check_mem_at(const char *file, int line, const char *a_text, const char *b_text, const void *a,
                                const void *b, size_t len)
{
    const unsigned char *x = a;
    const unsigned char *y = b;
    for (size_t i = 0; i < len; i++) {
        if (x[i] != y[i]) {
            check_fail_at(file, line, "%s == %s: byte %llu of %llu is 0x%02x and not 0x%02x", a_text, b_text,
                          (unsigned long long)i, (unsigned long long)len, x[i], y[i]);
        }
    }
}

/* The expression holds. */
#define check(expression) \
    do { \
        if (!(expression)) check_fail_at(__FILE__, __LINE__, "%s", #expression); \
    } while (0)

/* Two integers or enumerators are equal; prints both if not. Each argument is evaluated once. */
#define check_eq(a, b) check_eq_at(__FILE__, __LINE__, #a, #b, (long long)(a), (long long)(b))
/* Two strings are equal. */
#define check_str(a, b) check_str_at(__FILE__, __LINE__, #a, #b, (a), (b))
/* Two stretches of memory are equal. */
#define check_mem(a, b, len) check_mem_at(__FILE__, __LINE__, #a, #b, (a), (b), (len))
/* This line must not be reached; the format says why. */
#define fail(...) check_fail_at(__FILE__, __LINE__, __VA_ARGS__)

/* The running behaviour cannot be tried here. Only in the file with main(), and followed by a return. */
static inline void check_skip(const char *format, ...) PRINTF_LIKE(1, 2);
static inline void check_skip(const char *format, ...)
{
    printf("skip %s: ", check_progress.running != NULL ? check_progress.running : "all");
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    check_progress.skipping = true;
}

static inline void check_run_named(const char *name, void (*behaviour)(void))
{
    const char *only = getenv("CHECK_ONLY");
    if (only != NULL && strstr(name, only) == NULL) return;
    printf("run %s\n", name);
    check_progress.running = name;
    check_progress.skipping = false;
    int64_t live = mem_live();
    behaviour();
    check_progress.running = NULL;
    if (check_progress.skipping) {
        check_progress.skipped++;
        return;
    }
    if (mem_live() != live) {
        check_fail_at(__FILE__, __LINE__, "%s left %lld blocks allocated", name, (long long)(mem_live() - live));
    }
    check_progress.passed++;
    printf("ok %s\n", name);
}

/* Runs one behaviour and looks for what it left behind. */
#define check_run(behaviour) check_run_named(#behaviour, behaviour)

/* First in main(). The arguments are those of main(); they are printed, so that a log says how to repeat the run. */
static inline void check_begin(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IONBF, 0); /* a hung test still shows where */
    printf("#");
    for (int i = 0; i < argc; i++) printf(" %s", argv[i]);
    printf("\n");
}

/* Last in main(): the exit code. */
static inline int check_end(void)
{
    printf("# %u passed, %u skipped\n", check_progress.passed, check_progress.skipped);
    return check_progress.passed == 0 && check_progress.skipped > 0 ? CHECK_SKIP : CHECK_PASS;
}

/* ---- Random tests ---- */

/* The seed of this run: argv[index] if given, else the one of the caller's choice. Printed either way. */
static inline uint64_t check_seed(int argc, char **argv, int index, uint64_t otherwise)
{
    uint64_t seed = index < argc ? strtoull(argv[index], NULL, 0) : otherwise;
    printf("# seed %llu\n", (unsigned long long)seed);
    return seed;
}

/* The next number of the sequence in *state (splitmix64). */
static inline uint64_t check_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* A number from 0 to bound - 1. */
static inline uint64_t check_random_below(uint64_t *state, uint64_t bound)
{
    return check_random(state) % bound;
}

#endif
