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
/* Writes what is queued, for at most three seconds, and stops the thread. False: nobody reads standard error, so the thread and its
 * queue had to be left behind, and whoever writes there directly hangs as well. */
bool log_close(void);

/* Cheap enough to guard the formatting of debug lines. */
bool log_wants(log_level level);

/* One event. Line breaks inside (tracebacks) stay in text form and are escaped in JSON. Any thread. */
void log_write(log_level level, const char *format, ...) PRINTF_LIKE(2, 3);
/* The same for a text that is not a format and may hold any bytes. */
void log_text(log_level level, const char *text, size_t len);

/* What may happen as often as a stranger likes. The first lines of a cause are written, the others of LOG_RARELY_NS
 * only counted, and then one line says how many were left out: so on while they come. Static and zero, one for each. */
typedef struct log_cause {
    const char *name;       /* in that line; like all the rest the log's */
    uint32_t written;       /* lines since it began */
    uint64_t left_out;      /* since until_ns was set */
    int64_t until_ns;       /* 0: none has come lately */
    log_level level;        /* of the last */
    struct log_cause *next; /* the log's list of those with an until_ns */
} log_cause;
#define LOG_RARELY_NS INT64_C(10000000000)

/* One more of that cause: true when its line is to be written now, false when it was counted or nobody wants that level. Before
 * log_open() all are to be written. Any thread.
 *
 * name   a literal: what "4999 more in 10 s: ..." calls them.
 * burst  lines that are written before counting begins; at least 1. */
bool log_due(log_cause *cause, log_level level, const char *name, uint32_t burst);
/* log_write(), when it is due, with a burst of 1; and whether it was. */
bool log_rarely(log_cause *cause, log_level level, const char *name, const char *format, ...) PRINTF_LIKE(4, 5);

/* Writes os_realtime_ns() as the log does, "2026-11-22T05:30:20.123Z". Returns text, of LOG_TIME_BYTES. */
char *log_time(int64_t now_ns, char *text);

/* Reads "debug", "info", "warn", "error", "none". False: no such level. */
bool log_level_parse(log_level *level, const char *name);
/* Lines dropped since log_open(). */
uint64_t log_dropped(void);

#endif
