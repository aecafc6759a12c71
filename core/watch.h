/* watch.h - tells when files may have changed, so that a script can be loaded again when it is saved.
 *
 * A thread of the watch's own waits for the system's notifications (inotify, ReadDirectoryChangesW) about the directories
 * in which the files and the links that lead to them lie, because most editors replace a file and do not write into it.
 * Besides it looks at the files themselves from time to time: rarely, for what notifications do not tell (network file
 * systems, another name of the same file), and often where there are none (no more of them to be had, WATCH_POLL).
 *
 * A file may be missing, and its directory, too: that it comes is a change. What is told is only that something may have
 * changed: whoever is told reads the files and compares.
 *
 * Windows: a directory that is watched is open, so a directory above it cannot be renamed; WATCH_POLL opens none.
 */
#ifndef PORTICO_WATCH_H
#define PORTICO_WATCH_H

#include <stdbool.h>
#include <stddef.h>

enum {
    WATCH_SETTLE_MS = 50,   /* without another change, before it is told */
    WATCH_STREAM_MS = 500,  /* but no later than this when changes do not end */
    WATCH_WRITER_MS = 3000, /* or than this when a file stays open for writing: what is half written is worth nothing */
    WATCH_POLL_MS = 250,    /* between two looks at the files where notifications are not to be had */
    WATCH_LOOK_MS = 2000,   /* and where they are */
    WATCH_GRAIN_MS = 2100,  /* a change seen by looking is told once more after so long: see watch.c */
    WATCH_FILES_MAX = 10000 /* of one set */
};

typedef enum watch_mode { WATCH_NOTIFIED, WATCH_POLL } watch_mode;

typedef struct watch watch;

/* Starts the thread, which watches nothing yet. Where notifications are not to be had, that is logged and the watch
 * polls.
 *
 * changed  called on the watch's thread; must not call watch_set() or watch_close().
 * result   NULL: no memory or no thread. */
watch *watch_open(watch_mode mode, void (*changed)(void *context), void *context);

/* Replaces the set of files. Paths in UTF-8, copied; relative ones are relative to the working directory at each look.
 * changed() is called once for the new set: what has changed between being read and being watched is not lost.
 *
 * thread  any, one at a time.
 * result  false: out of memory, or more than WATCH_FILES_MAX; the old set stays. */
bool watch_set(watch *w, const char *const *paths, size_t count);

/* Ends the thread. changed() is not called any more once this has returned. NULL is fine. */
void watch_close(watch *w);

#endif
