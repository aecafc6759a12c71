/* generation.h - one loaded version of the script: its number, its files, and what is counted about it.
 *
 * Each worker runs a generation in a Lua state of its own (a host). What is here they share, and it stays until the last who
 * retains it lets go. The files are a snapshot: whichever worker asks first for a module reads it, and all others get
 * the same text, whatever happens to the file meanwhile.
 *
 * thread  any, but for what is set before the generation is shared.
 */
#ifndef PORTICO_GENERATION_H
#define PORTICO_GENERATION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    GENERATION_HASH_TEXT = 13, /* bytes of "3f2a91c0d4e7" with its end */
    GENERATION_REASON_BYTES = 512,
    GENERATION_MISSING_MAX = 1000 /* files that were looked for in vain: more are not remembered */
};

/* Kept as long as the generation. */
typedef struct generation_file generation_file;
struct generation_file {
    generation_file *next;
    char *text; /* a NUL that is not counted follows; NULL: there was no such file, or it could not be read, … */
    char *why;  /* … and why not; else NULL */
    size_t len;
    uint64_t hash;
    char path[];
};

typedef struct generation {
    uint64_t number;               /* the first is 1 */
    const generation_file *script; /* its path is "" when it was no file: embedded, standard input, a pipe */
    generation_file *files;        /* the script and what it required so far; guarded by mutex */
    uint32_t missing;              /* of them, so many are not there; guarded by mutex */
    struct os_mutex *mutex;
    atomic_uint users;         /* hosts, and the one who made it */
    atomic_ullong errors;      /* handlers that raised */
    atomic_ullong error_limit; /* one more error than this, and the main thread is told; UINT64_MAX: none */
    atomic_bool move_failed;   /* a connection could not be moved to it; the main thread has been told */
    atomic_bool found;   /* a module was looked for since somebody last asked: its file belongs to the files now */
    atomic_bool refused; /* it did not load: the reason is below, and has been logged */
    char reason
        [GENERATION_REASON_BYTES]; /* its first line; written by the one who set refused, read after all have answered */
    int64_t loaded_ns;             /* os_realtime_ns() when it came into force; 0: not yet */
} generation;

/* The caller is its first user.
 * path    of the script, or "".
 * text    mem_alloc()ed; becomes the generation's.
 * result  NULL when out of memory; the text is freed. */
generation *generation_open(uint64_t number, const char *path, char *text, size_t len);
void generation_retain(generation *g);
/* The last one frees it. NULL is fine. */
void generation_release(generation *g);

/* Reads the script's file again, and each module that one of the others knew; others may be NULL. A file that changes
 * while it is read is read again.
 * result  NULL: the script cannot be read, and why is in error, of error_size bytes. */
generation *generation_read_again(uint64_t number, const generation *like, const generation *and_like, char *error,
                                  size_t error_size);

/* The module in the file of that path: as it is known, else it is read now, and the main thread is woken, which has one file
 * more to watch; but of peers may come the names, so there is an end to remembering what is not there. NULL: there is no such file. Its text, or why it has none, stays. */
const generation_file *generation_module(generation *g, const char *path);

/* True when every file that old knew is in g with the same content. */
bool generation_contains(const generation *g, const generation *old);

/* Calls visit for the path of each file that is or was looked for. They become more when a handler requires a module:
 * generation_found() is true once after that. */
void generation_paths(const generation *g, void (*visit)(void *context, const char *path), void *context);
bool generation_found(generation *g);

/* The first hex digits of a hash over all files. Returns text, of at least GENERATION_HASH_TEXT bytes. */
char *generation_hash(const generation *g, char *text);

/* Says why it cannot come into force: true for the first who does, and only that one logs it. len: of the reason, of which
 * the first line is kept. */
bool generation_refuse(generation *g, const char *reason, size_t len);

/* A handler has raised. */
void generation_count_error(generation *g);

#endif
