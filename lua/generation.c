/* generation.c - files are few, so they are a list; a hash of 64 bits tells contents apart, none of which is hostile. */
#include "generation.h"

#include "file.h"
#include "log.h"
#include "mem.h"
#include "os.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { READINGS_MAX = 10 }; /* of a file that keeps changing; whoever writes it will cause the next reload */

/* FNV-1a. */
static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t len)
{
    const uint64_t prime = UINT64_C(0x100000001b3);
    const unsigned char *byte = bytes;
    for (size_t i = 0; i < len; i++) hash = (hash ^ byte[i]) * prime;
    return hash;
}

static uint64_t hash_text(const char *text, size_t len)
{
    return hash_bytes(UINT64_C(0xcbf29ce484222325), text, len);
}

static void free_file(generation_file *file)
{
    mem_free(file->text);
    mem_free(file->why);
    mem_free(file);
}

/* Adds a file. text may be NULL: then why may say what is wrong with it. The text is freed when there is no memory. The mutex is
 * held, or nobody else knows g. */
static generation_file *add(generation *g, const char *path, char *text, size_t len, const char *why)
{
    size_t size = strlen(path) + 1;
    generation_file *file = mem_alloc(sizeof(*file) + size);
    if (file == NULL) {
        mem_free(text);
        return NULL;
    }
    *file = (generation_file){.next = g->files, .text = text, .len = len};
    if (text == NULL && why == NULL) g->missing++;
    if (text != NULL) {
        file->hash = hash_text(text, len);
    } else if (why != NULL) {
        file->hash = hash_text(why, strlen(why)); /* that it can be read now, or is gone, is a change */
        file->why = mem_strdup(why);
        if (file->why == NULL) {
            free_file(file);
            return NULL;
        }
    }
    memcpy(file->path, path, size);
    g->files = file;
    return file;
}

static generation_file *find(const generation *g, const char *path)
{
    generation_file *file = g->files;
    while (file != NULL && strcmp(file->path, path) != 0) file = file->next;
    return file;
}

generation *generation_open(uint64_t number, const char *path, char *text, size_t len)
{
    generation *g = mem_zalloc(sizeof(*g));
    if (g == NULL) {
        mem_free(text);
        return NULL;
    }
    g->number = number;
    atomic_init(&g->users, 1);
    atomic_init(&g->error_limit, UINT64_MAX);
    g->mutex = os_mutex_open();
    g->script = add(g, path, text, len, NULL);
    if (g->mutex != NULL && g->script != NULL) return g;
    generation_release(g);
    return NULL;
}

void generation_retain(generation *g)
{
    atomic_fetch_add_explicit(&g->users, 1, memory_order_relaxed);
}

void generation_release(generation *g)
{
    if (g == NULL || atomic_fetch_sub_explicit(&g->users, 1, memory_order_acq_rel) > 1) return;
    while (g->files != NULL) {
        generation_file *file = g->files;
        g->files = file->next;
        free_file(file);
    }
    if (g->mutex != NULL) os_mutex_close(g->mutex);
    mem_free(g);
}

/* ---- Reading ---- */

/* Reads until two readings agree, so that one that is being written is not taken half. */
static bool read_whole(char **text, size_t *len, const char *path, bool *missing, char *error, size_t error_size)
{
    char *before = NULL;
    size_t before_len = 0;
    for (int reading = 0; reading < READINGS_MAX; reading++) {
        if (!file_read_ordinary(text, len, path, missing, error, error_size)) break;
        bool agrees = before != NULL && before_len == *len && memcmp(before, *text, *len) == 0;
        mem_free(before);
        if (agrees) return true;
        before = *text;
        before_len = *len;
        snprintf(error, error_size, "it changes while it is read");
    }
    mem_free(before);
    return false;
}

/* Reads a file into g. missing_max: when so many are not there, one more is not noted. NULL: that, or out of memory. The mutex is
 * held, or nobody else knows g. */
static generation_file *read_file(generation *g, const char *path, uint32_t missing_max)
{
    char why[128];
    char *text = NULL;
    size_t len = 0;
    bool missing = false;
    if (read_whole(&text, &len, path, &missing, why, sizeof(why))) return add(g, path, text, len, NULL);
    if (!missing) return add(g, path, NULL, 0, why);
    if (g->missing < missing_max) return add(g, path, NULL, 0, NULL);
    static log_cause cause;
    log_rarely(&cause, LOG_WARN, "a module is not there, and not watched for",
               "%s is not there, like %" PRIu32 " other files of modules: it will not be noticed when it comes", path,
               g->missing);
    return NULL;
}

/* What old knows by path and g does not is read into g. False: out of memory. */
static bool read_known(generation *g, const generation *old)
{
    bool ok = true;
    if (old == NULL) return true;
    os_mutex_lock(old->mutex);
    for (const generation_file *file = old->files; ok && file != NULL; file = file->next) {
        if (find(g, file->path) == NULL) ok = read_file(g, file->path, UINT32_MAX) != NULL;
    }
    os_mutex_unlock(old->mutex);
    return ok;
}

generation *generation_read_again(uint64_t number, const generation *like, const generation *and_like, char *error,
                                  size_t error_size)
{
    char *text;
    size_t len;
    bool missing;
    if (!read_whole(&text, &len, like->script->path, &missing, error, error_size)) return NULL;
    generation *g = generation_open(number, like->script->path, text, len);
    if (g != NULL && read_known(g, like) && read_known(g, and_like)) return g;
    generation_release(g);
    snprintf(error, error_size, "out of memory");
    return NULL;
}

const generation_file *generation_module(generation *g, const char *path)
{
    os_mutex_lock(g->mutex);
    generation_file *file = find(g, path);
    if (file == NULL) { /* what was missing once stays so: all have the same files, and its coming is a change */
        file = read_file(g, path, GENERATION_MISSING_MAX);
        if (file != NULL && !atomic_exchange(&g->found, true)) os_news_post(OS_NEWS_WAKE);
    }
    os_mutex_unlock(g->mutex);
    return file == NULL || (file->text == NULL && file->why == NULL) ? NULL : file;
}

/* ---- Comparing ---- */

bool generation_contains(const generation *g, const generation *old)
{
    bool same = true;
    os_mutex_lock(old->mutex);
    for (const generation_file *file = old->files; same && file != NULL; file = file->next) {
        const generation_file *now = find(g, file->path);
        same = now != NULL && (now->text == NULL) == (file->text == NULL) && now->len == file->len &&
               now->hash == file->hash;
    }
    os_mutex_unlock(old->mutex);
    return same;
}

void generation_paths(const generation *g, void (*visit)(void *context, const char *path), void *context)
{
    os_mutex_lock(g->mutex);
    for (const generation_file *file = g->files; file != NULL; file = file->next) {
        if (file->path[0] != '\0') visit(context, file->path);
    }
    os_mutex_unlock(g->mutex);
}

bool generation_found(generation *g)
{
    return atomic_exchange(&g->found, false);
}

char *generation_hash(const generation *g, char *text)
{
    uint64_t hash = 0; /* a sum: the order in which modules were found does not matter */
    os_mutex_lock(g->mutex);
    for (const generation_file *file = g->files; file != NULL; file = file->next) {
        if (file->text != NULL) hash += hash_bytes(hash_text(file->path, strlen(file->path)), &file->hash, 8);
    }
    os_mutex_unlock(g->mutex);
    snprintf(text, GENERATION_HASH_TEXT, "%012" PRIx64, hash >> 16);
    return text;
}

/* ---- What is counted ---- */

bool generation_refuse(generation *g, const char *reason, size_t len)
{
    if (atomic_exchange(&g->refused, true)) return false;
    const char *end = memchr(reason, '\n', len);
    if (end != NULL) len = (size_t)(end - reason);
    if (len > sizeof(g->reason) - 1) len = sizeof(g->reason) - 1;
    memcpy(g->reason, reason, len);
    g->reason[len] = '\0';
    return true;
}

void generation_count_error(generation *g)
{
    uint64_t errors = atomic_fetch_add_explicit(&g->errors, 1, memory_order_relaxed) + 1;
    uint64_t limit = atomic_load_explicit(&g->error_limit, memory_order_relaxed);
    if (limit != UINT64_MAX && errors == limit + 1) os_news_post(OS_NEWS_WAKE);
}
