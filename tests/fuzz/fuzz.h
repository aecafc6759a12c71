/* fuzz.h - what every fuzz target in C is written with. A target is one file with LLVMFuzzerTestOneInput(): libFuzzer calls
 * it with bytes that it invents, and what is not as it should be ends the process, by the sanitizers or by fuzz_check().
 * See docs/testing.md for how targets are run, and lua_target.c for those in Lua.
 */
#ifndef PORTICO_TESTS_FUZZ_H
#define PORTICO_TESTS_FUZZ_H

#include "base.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The same bytes do the same in every process. Returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Says what is wrong; libFuzzer keeps the input. */
static inline _Noreturn void fuzz_fail_at(const char *file, int line, const char *format, ...) PRINTF_LIKE(3, 4);
static inline _Noreturn void fuzz_fail_at(const char *file, int line, const char *format, ...)
{
    va_list arguments;
    fprintf(stderr, "FAIL %s:%d: ", file, line);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    abort();
}
#define fuzz_fail(...) fuzz_fail_at(__FILE__, __LINE__, __VA_ARGS__)
#define fuzz_check(condition, ...) \
    do { \
        if (!(condition)) fuzz_fail(__VA_ARGS__); \
    } while (0)

/* A block of just that size with those bytes, so that a byte read behind its end is seen. The caller frees it. */
static inline uint8_t *fuzz_copy(const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len > 0 ? len : 1);
    if (copy == NULL) abort();
    if (len > 0) memcpy(copy, bytes, len);
    return copy;
}

/* The same with a NUL behind them. */
static inline char *fuzz_text(const uint8_t *bytes, size_t len)
{
    char *copy = malloc(len + 1);
    if (copy == NULL) abort();
    if (len > 0) memcpy(copy, bytes, len);
    copy[len] = '\0';
    return copy;
}

/* ---- Decisions from the front of an input ---- */

typedef struct fuzz_input {
    const uint8_t *next;
    size_t left;
} fuzz_input;

/* 0 when there are none left. */
static inline uint8_t fuzz_byte(fuzz_input *in)
{
    if (in->left == 0) return 0;
    in->left--;
    return *in->next++;
}

/* From 0 to bound - 1, of one byte; bound is 256 at most. */
static inline uint8_t fuzz_below(fuzz_input *in, unsigned bound)
{
    return (uint8_t)(fuzz_byte(in) % bound);
}

/* Least significant byte first. */
static inline uint32_t fuzz_u32(fuzz_input *in)
{
    uint32_t value = 0;
    for (unsigned shift = 0; shift < 32; shift += 8) value |= (uint32_t)fuzz_byte(in) << shift;
    return value;
}

/* ---- What is better not left to the input: where it is cut into pieces ---- */

/* FNV-1a: a seed of its own for each input, and the same each time. */
static inline uint64_t fuzz_hash(const uint8_t *bytes, size_t len)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < len; i++) hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return hash;
}

#endif
