/* watch_system.h - what differs between systems in watching files: watch_posix.c and watch_win.c. Private to watch.
 *
 * A round of looking is watch_system_begin(), watch_system_look() for each file, watch_system_end(). What the round has
 * met is what notifications are about from then on.
 *
 * thread  the watch's, but for open, close and wake.
 */
#ifndef PORTICO_WATCH_SYSTEM_H
#define PORTICO_WATCH_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct watch_system watch_system;

typedef enum watch_news {
    WATCH_TIME_OVER,
    WATCH_WOKEN,  /* by watch_system_wake() */
    WATCH_TOUCHED /* something happened to what was met in the last round */
} watch_news;

/* poll: no notifications are wanted. Where they are and cannot be had, that is logged. NULL: out of memory, descriptors,
 * handles. */
watch_system *watch_system_open(bool poll);
void watch_system_close(watch_system *s);

/* timeout_ns: not negative. */
watch_news watch_system_wait(watch_system *s, int64_t timeout_ns);
/* Somebody has begun to write one of the files and not closed it yet, as far as notifications tell. */
bool watch_system_writing(const watch_system *s);
/* Any thread. */
void watch_system_wake(watch_system *s);

void watch_system_begin(watch_system *s);
/* A number that differs, as good as certainly, when another file is there or its content was written; it has no meaning
 * beyond that. A missing file has one, too. */
uint64_t watch_system_look(watch_system *s, const char *path);
/* True when notifications cover all that was met. */
bool watch_system_end(watch_system *s);

/* Mixes bytes into a stamp (FNV-1a, which is small and good enough among a few dozen values). */
static inline uint64_t watch_stamp_mix(uint64_t stamp, const void *bytes, size_t len)
{
    const unsigned char *next = bytes;
    for (size_t i = 0; i < len; i++) stamp = (stamp ^ next[i]) * UINT64_C(0x100000001b3);
    return stamp;
}

#define WATCH_STAMP_FIRST UINT64_C(0xcbf29ce484222325)

#endif
