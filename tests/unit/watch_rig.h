/* watch_rig.h - what the tests of watch share: files in a directory of their own, and somebody who is told. */
#ifndef PORTICO_WATCH_RIG_H
#define PORTICO_WATCH_RIG_H

#include "check.h"
#include "os.h"
#include "watch.h"
#include "watch_system.h"

#include <stdio.h>

enum { PATIENCE_S = 20 };
#define SECOND INT64_C(1000000000)

/* ---- Files ---- */

/* Each content is longer than the one before, so that a look sees it however coarse the clock of the file system is. */
static size_t content_len;

static void write_content(const char *path)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL) fail("cannot write %s", path);
    content_len++;
    for (size_t i = 0; i < content_len; i++) check(fputc('x', file) != EOF);
    check_eq(fclose(file), 0);
}

/* ---- Who is told ---- */

static struct {
    os_mutex *mutex;
    os_cond *cond;
    int count;
} told;

static void tell(void *context)
{
    check(context == &told);
    os_mutex_lock(told.mutex);
    told.count++;
    os_cond_broadcast(told.cond);
    os_mutex_unlock(told.mutex);
}

static watch *open_watch(watch_mode mode, const char *path)
{
    told.mutex = os_mutex_open();
    told.cond = os_cond_open();
    told.count = 0;
    watch *w = watch_open(mode, tell, &told);
    check(w != NULL);
    check(watch_set(w, &path, 1));
    return w;
}

/* Waits until it has been told, and forgets it. False: not in that time. */
static bool was_told(int64_t timeout_ns)
{
    int64_t deadline_ns = os_monotonic_ns() + timeout_ns;
    os_mutex_lock(told.mutex);
    while (told.count == 0 && os_monotonic_ns() < deadline_ns) {
        (void)os_cond_wait(told.cond, told.mutex, deadline_ns - os_monotonic_ns());
    }
    bool yes = told.count > 0;
    told.count = 0;
    os_mutex_unlock(told.mutex);
    return yes;
}

static void close_watch(watch *w)
{
    watch_close(w);
    os_mutex_close(told.mutex);
    os_cond_close(told.cond);
}

/* ---- One way of changing things, before all eyes ---- */

typedef struct way {
    const char *name;
    void (*prepare)(const char *path); /* before it is watched */
    void (*change)(const char *path);
} way;

static uint64_t look_at(watch_system *s, const char *path)
{
    watch_system_begin(s);
    uint64_t stamp = watch_system_look(s, path);
    check(watch_system_end(s));
    return stamp;
}

/* The change is notified, and it is seen by looking; and when everything has been heard, there is silence. */
static void check_system_sees(const char *path, const way *w)
{
    watch_system *s = watch_system_open(false);
    check(s != NULL);
    w->prepare(path);
    uint64_t before = look_at(s, path);
    w->change(path);
    if (watch_system_wait(s, PATIENCE_S * SECOND) != WATCH_TOUCHED) fail("%s: no notification", w->name);
    while (watch_system_wait(s, SECOND / 10) == WATCH_TOUCHED) look_at(s, path);
    uint64_t after = look_at(s, path);
    if (after == before) fail("%s: looks as before", w->name);
    check(look_at(s, path) == after);
    check_eq(watch_system_wait(s, SECOND / 5), WATCH_TIME_OVER);
    watch_system_close(s);
}

static void check_told(const char *path, const way *w, watch_mode mode)
{
    w->prepare(path);
    watch *open = open_watch(mode, path);
    if (!was_told(PATIENCE_S * SECOND)) fail("%s: not told of the new set", w->name);
    w->change(path);
    if (!was_told(PATIENCE_S * SECOND)) fail("%s: not told", w->name);
    close_watch(open);
}

/* Each way is seen and notified. Of polling, whose looks are two seconds apart, one way is enough: that looking sees each of
 * them is known by then. */
static void check_ways(const char *path, const way *ways, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        printf("# %s\n", ways[i].name);
        check_system_sees(path, &ways[i]);
        check_told(path, &ways[i], WATCH_NOTIFIED);
    }
    check_told(path, &ways[count / 2], WATCH_POLL);
}

#endif
