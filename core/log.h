/* log.h - one line per event, from any thread, never interleaved, never blocking a worker.
 *
 * Lines are queued, up to LOG_QUEUE_BYTES, and written to standard error by a thread of the log's own. When the
 * terminal or pipe is so slow that the queue is full, lines are dropped, counted, and the count is logged.
 * Before log_open() and after log_close() lines are written directly.
 */
#ifndef PORTICO_LOG_H
#define PORTICO_LOG_H

#include "base.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_NONE } log_level;

enum {
    LOG_LINE_MAX = 16384,      /* bytes of one event; more is cut, and the cut is marked */
    LOG_QUEUE_BYTES = 1 << 20, /* waiting for a slow reader */
    LOG_TIME_BYTES = 64
};

/* json: {"time":…,"level":…,"message":…} per line instead of text. */
void log_open(log_level least, bool json);
/* Writes what is queued, for at most three seconds, and stops the thread. */
void log_close(void);

/* Cheap enough to guard the formatting of debug lines. */
bool log_wants(log_level level);

/* One event. Line breaks inside (tracebacks) stay in text form and are escaped in JSON. Any thread. */
void log_write(log_level level, const char *format, ...) PRINTF_LIKE(2, 3);
/* The same for a text that is not a format and may hold any bytes. */
void log_text(log_level level, const char *text, size_t len);

/* Writes os_realtime_ns() as the log does, "2026-11-22T05:30:20.123Z". Returns text, of LOG_TIME_BYTES. */
char *log_time(int64_t now_ns, char *text);

/* Reads "debug", "info", "warn", "error", "none". False: no such level. */
bool log_level_parse(log_level *level, const char *name);
/* Lines dropped since log_open(). */
uint64_t log_dropped(void);

#endif
