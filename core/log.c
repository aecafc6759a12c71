#include "log.h"

#include "mem.h"
#include "os.h"

#include <assert.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLOSE_PATIENCE_NS INT64_C(3000000000)

static const char CUT[] = "\xe2\x80\xa6 [cut]"; /* an ellipsis, and what happened */

static const char *const NAMES[] = {"debug", "info", "warn", "error", "none"};
/* SGR colours of a terminal: grey, green, yellow, red. */
static const char *const COLOURS[] = {"90", "32", "33", "31"};

/* Set by log_open() and read by all. */
static atomic_int least_level = LOG_INFO;
static atomic_bool in_json;
static atomic_bool in_colour;
static atomic_ullong dropped;

/* The queue: a ring of bytes that holds whole lines. */
static struct {
    os_mutex *mutex; /* NULL exactly while lines are written directly; guards all that follows */
    os_cond *filled; /* to the writer: there is something to do */
    os_cond *ended;  /* from the writer: it has stopped */
    os_thread *writer;
    char *bytes;         /* LOG_QUEUE_BYTES */
    size_t head;         /* of the next byte to write */
    size_t count;        /* bytes waiting, those being written included */
    uint64_t unreported; /* lines dropped since the last notice */
    log_cause *causes;   /* those that came lately */
    bool stopping;       /* log_close() has been called */
    bool finished;       /* the writer is about to return */
} queue;

/* True once log_close() had to leave a writer behind that hangs in a write: nobody reads standard error, and whoever
 * wrote to it directly would hang as well. */
static atomic_bool abandoned;

/* ---- From an event to a line ---- */

typedef struct line {
    size_t len;
    bool full; /* something did not fit */
    char bytes[LOG_LINE_MAX];
} line;

enum { LINE_TAIL = 16 }; /* room that is kept for the mark of a cut and the end of the line */
_Static_assert(sizeof(CUT) - 1 + sizeof("\"}\n") - 1 <= LINE_TAIL, "the end fits behind any line");

static void line_put(line *l, const char *bytes, size_t len)
{
    if (l->full || len > sizeof(l->bytes) - LINE_TAIL - l->len) {
        l->full = true;
        return;
    }
    memcpy(l->bytes + l->len, bytes, len);
    l->len += len;
}

static void line_put_text(line *l, const char *text)
{
    line_put(l, text, strlen(text));
}

static void line_end(line *l, const char *end)
{
    if (l->full) {
        memcpy(l->bytes + l->len, CUT, sizeof(CUT) - 1);
        l->len += sizeof(CUT) - 1;
    }
    memcpy(l->bytes + l->len, end, strlen(end));
    l->len += strlen(end);
}

/* "2026-11-22T05:30:20.123Z". The calendar by days since 0000-03-01, in which a leap day is the last of its year:
 * no gmtime(), whose reentrant form has another name on each system. */
char *log_time(int64_t now_ns, char *text)
{
    int64_t ms = now_ns / 1000000;
    int64_t days = ms / 86400000 + 719468;
    int64_t in_day = ms % 86400000;
    int64_t era = days / 146097;
    int64_t day_of_era = days % 146097;
    int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t march_month = (5 * day_of_year + 2) / 153;
    int64_t day = day_of_year - (153 * march_month + 2) / 5 + 1;
    int64_t month = march_month < 10 ? march_month + 3 : march_month - 9;
    int64_t year = year_of_era + era * 400 + (month <= 2 ? 1 : 0);
    snprintf(text, LOG_TIME_BYTES, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", (int)year, (int)month, (int)day,
             (int)(in_day / 3600000), (int)(in_day / 60000 % 60), (int)(in_day / 1000 % 60), (int)(in_day % 1000));
    return text;
}

static void line_put_time(line *l, int64_t now_ns)
{
    char text[LOG_TIME_BYTES];
    line_put_text(l, log_time(now_ns, text));
}

/* The length of the UTF-8 character at the front of text: 1 to 4, or, negated, that of the longest piece that is not
 * one. source: The Unicode Standard 15, table 3-7 and "U+FFFD Substitution of Maximal Subparts". */
static int utf8_length(const unsigned char *text, size_t len)
{
    unsigned char first = text[0];
    if (first < 0x80) return 1;
    if (first < 0xc2 || first > 0xf4) return -1;
    int length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    for (int i = 1; i < length; i++) {
        if ((size_t)i == len || text[i] < low || text[i] > high) return -i;
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

static void put_hex(line *l, const char *prefix, unsigned char byte)
{
    char text[8];
    snprintf(text, sizeof(text), "%s%02x", prefix, byte);
    line_put_text(l, text);
}

/* Text may come from a peer: it must neither end the line, nor talk to the terminal, nor be anything but UTF-8. Real
 * line breaks are followed by blanks, so that no line of the event looks like the first of another. */
static void put_plain(line *l, const unsigned char *text, size_t len)
{
    for (size_t i = 0; i < len && !l->full;) {
        int length = utf8_length(text + i, len - i);
        unsigned char c = text[i];
        bool control = (c < 0x20 && c != '\t') || c == 0x7f;
        bool c1_control = length == 2 && c == 0xc2 && text[i + 1] < 0xa0; /* 0x9b is ESC [ to some terminals */
        if (c == '\n') {
            line_put_text(l, "\n  ");
        } else if (length < 0 || control || c1_control) {
            length = length < 0 ? -length : length;
            for (int k = 0; k < length; k++) put_hex(l, "\\x", text[i + (size_t)k]);
        } else {
            line_put(l, (const char *)text + i, (size_t)length);
        }
        i += (size_t)(length < 0 ? -length : length);
    }
}

static void put_json(line *l, const unsigned char *text, size_t len)
{
    for (size_t i = 0; i < len && !l->full;) {
        int length = utf8_length(text + i, len - i);
        unsigned char c = text[i];
        if (length < 0) {
            line_put_text(l, "\xef\xbf\xbd"); /* U+FFFD */
        } else if (c == '"' || c == '\\') {
            char escaped[2] = {'\\', (char)c};
            line_put(l, escaped, 2);
        } else if (c == '\n') {
            line_put_text(l, "\\n");
        } else if (c == '\t') {
            line_put_text(l, "\\t");
        } else if (c < 0x20 || c == 0x7f) {
            put_hex(l, "\\u00", c);
        } else {
            line_put(l, (const char *)text + i, (size_t)length);
        }
        i += (size_t)(length < 0 ? -length : length);
    }
}

static void line_make(line *l, log_level level, const char *text, size_t len)
{
    l->len = 0;
    l->full = false;
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r')) len--;
    if (atomic_load_explicit(&in_json, memory_order_relaxed)) {
        line_put_text(l, "{\"time\":\"");
        line_put_time(l, os_realtime_ns());
        line_put_text(l, "\",\"level\":\"");
        line_put_text(l, NAMES[level]);
        line_put_text(l, "\",\"message\":\"");
        put_json(l, (const unsigned char *)text, len);
        line_end(l, "\"}\n");
        return;
    }
    char name[32];
    if (atomic_load_explicit(&in_colour, memory_order_relaxed)) {
        snprintf(name, sizeof(name), " \x1b[%sm%-5s\x1b[0m ", COLOURS[level], NAMES[level]);
    } else {
        snprintf(name, sizeof(name), " %-5s ", NAMES[level]);
    }
    line_put_time(l, os_realtime_ns());
    line_put_text(l, name);
    put_plain(l, (const unsigned char *)text, len);
    line_end(l, "\n");
}

/* ---- The queue ---- */

static bool queue_push(const line *l)
{
    if (l->len > LOG_QUEUE_BYTES - queue.count) return false;
    size_t at = (queue.head + queue.count) % LOG_QUEUE_BYTES;
    size_t first = LOG_QUEUE_BYTES - at < l->len ? LOG_QUEUE_BYTES - at : l->len;
    memcpy(queue.bytes + at, l->bytes, first);
    memcpy(queue.bytes, l->bytes + first, l->len - first);
    queue.count += l->len;
    return true;
}

/* Says, in the place where they are missing, how many lines were dropped. False: there is no room to say so. */
static bool queue_report(void)
{
    if (queue.unreported == 0) return true;
    char text[96];
    int len = snprintf(text, sizeof(text), "%llu log lines were dropped here: standard error is too slow",
                       (unsigned long long)queue.unreported);
    line notice;
    line_make(&notice, LOG_WARN, text, (size_t)len);
    if (!queue_push(&notice)) return false;
    queue.unreported = 0;
    return true;
}

static void queue_drop(void)
{
    queue.unreported++;
    atomic_fetch_add_explicit(&dropped, 1, memory_order_relaxed);
}

static void queue_line(const line *l)
{
    os_mutex_lock(queue.mutex);
    bool was_empty = queue.count == 0;
    if (!queue_report() || !queue_push(l)) {
        queue_drop();
    }
    if (was_empty) os_cond_signal(queue.filled);
    os_mutex_unlock(queue.mutex);
}

/* The system would not take the next len bytes of the ring. The notice has to wait for the next line: made at once
 * it would fail as well, again and again. */
static void queue_lost(size_t len)
{
    uint64_t lines = 0;
    for (size_t i = 0; i < len; i++) {
        if (queue.bytes[queue.head + i] == '\n') lines++;
    }
    queue.unreported += lines;
    atomic_fetch_add_explicit(&dropped, lines, memory_order_relaxed);
}

/* Says what of the causes was left out, when it is time, or of all. */
static void causes_report(int64_t now_ns, bool all)
{
    for (log_cause **at = &queue.causes; *at != NULL;) {
        log_cause *cause = *at;
        if (!all && cause->until_ns > now_ns) {
            at = &cause->next;
            continue;
        }
        if (cause->left_out > 0) {
            char text[256];
            line l;
            int len = snprintf(text, sizeof(text), "%llu more in %d s: %s", (unsigned long long)cause->left_out,
                               (int)(LOG_RARELY_NS / 1000000000), cause->name);
            line_make(&l, cause->level, text, (size_t)len < sizeof(text) ? (size_t)len : sizeof(text) - 1);
            if (!queue_report() || !queue_push(&l)) queue_drop();
        }
        /* Where lines were left out they are expected to go on: only counted, too. */
        bool goes_on = cause->left_out > 0 && !all;
        cause->left_out = 0;
        cause->until_ns = goes_on ? now_ns + LOG_RARELY_NS : 0;
        if (goes_on) {
            at = &cause->next;
        } else {
            cause->written = 0;
            *at = cause->next;
        }
    }
}

/* When there is something to say about causes; negative: never. */
static int64_t causes_wait_ns(int64_t now_ns)
{
    int64_t until_ns = INT64_MAX;
    for (const log_cause *cause = queue.causes; cause != NULL; cause = cause->next) {
        if (cause->left_out > 0 && cause->until_ns < until_ns) until_ns = cause->until_ns;
    }
    return until_ns == INT64_MAX ? -1 : until_ns > now_ns ? until_ns - now_ns : 0;
}

/* The writer's thread. It writes without the lock, so that nobody waits for a slow terminal. */
static void queue_write(void *argument)
{
    (void)argument;
    bool written = true;
    os_mutex_lock(queue.mutex);
    for (;;) {
        causes_report(os_monotonic_ns(), queue.stopping);
        if (queue.count == 0 && written) (void)queue_report();
        if (queue.count > 0) {
            size_t len = LOG_QUEUE_BYTES - queue.head < queue.count ? LOG_QUEUE_BYTES - queue.head : queue.count;
            os_mutex_unlock(queue.mutex);
            written = os_write_stderr(queue.bytes + queue.head, len);
            os_mutex_lock(queue.mutex);
            if (!written) queue_lost(len);
            queue.head = (queue.head + len) % LOG_QUEUE_BYTES;
            queue.count -= len;
        } else if (queue.stopping) {
            break;
        } else {
            os_cond_wait(queue.filled, queue.mutex, causes_wait_ns(os_monotonic_ns()));
        }
    }
    queue.finished = true;
    os_cond_signal(queue.ended);
    os_mutex_unlock(queue.mutex);
}

static void queue_free(void)
{
    mem_free(queue.bytes);
    if (queue.filled != NULL) os_cond_close(queue.filled);
    if (queue.ended != NULL) os_cond_close(queue.ended);
    if (queue.mutex != NULL) os_mutex_close(queue.mutex);
    memset(&queue, 0, sizeof(queue));
}

/* ---- The verbs ---- */

void log_open(log_level least, bool json)
{
    assert(queue.mutex == NULL || atomic_load(&abandoned));
    const char *no_color = getenv("NO_COLOR"); /* https://no-color.org: any value but the empty one */
    atomic_store(&least_level, (int)least);
    atomic_store(&in_json, json);
    atomic_store(&in_colour, !json && os_stderr_is_terminal() && (no_color == NULL || no_color[0] == '\0'));
    atomic_store(&dropped, 0);
    if (atomic_load(&abandoned)) return;

    queue.mutex = os_mutex_open();
    queue.filled = os_cond_open();
    queue.ended = os_cond_open();
    queue.bytes = mem_alloc(LOG_QUEUE_BYTES);
    if (queue.mutex != NULL && queue.filled != NULL && queue.ended != NULL && queue.bytes != NULL) {
        queue.writer = os_thread_start("log", queue_write, NULL);
    }
    if (queue.writer == NULL) queue_free(); /* lines are written directly, then */
}

bool log_close(void)
{
    if (atomic_load(&abandoned)) return false;
    if (queue.mutex == NULL) return true;
    int64_t deadline_ns = os_monotonic_ns() + CLOSE_PATIENCE_NS;
    os_mutex_lock(queue.mutex);
    queue.stopping = true;
    os_cond_signal(queue.filled);
    while (!queue.finished) {
        int64_t left_ns = deadline_ns - os_monotonic_ns();
        if (left_ns <= 0) break;
        os_cond_wait(queue.ended, queue.mutex, left_ns);
    }
    bool finished = queue.finished;
    os_mutex_unlock(queue.mutex);
    if (finished) {
        os_thread_join(queue.writer);
        queue_free();
    } else {
        atomic_store(&abandoned, true); /* what it still uses stays */
    }
    return finished;
}

bool log_wants(log_level level)
{
    return level < LOG_NONE && (int)level >= atomic_load_explicit(&least_level, memory_order_relaxed);
}

static void log_event(log_level level, const char *text, size_t len)
{
    if (atomic_load_explicit(&abandoned, memory_order_relaxed)) {
        atomic_fetch_add_explicit(&dropped, 1, memory_order_relaxed);
        return;
    }
    line l;
    line_make(&l, level, text, len);
    if (queue.mutex != NULL) queue_line(&l);
    else (void)os_write_stderr(l.bytes, l.len);
}

void log_text(log_level level, const char *text, size_t len)
{
    if (log_wants(level)) log_event(level, text, len);
}

static void log_arguments(log_level level, const char *format, va_list arguments) PRINTF_LIKE(2, 0);

static void log_arguments(log_level level, const char *format, va_list arguments)
{
    char text[LOG_LINE_MAX]; /* what does not fit here does not fit in the line either, which marks the cut */
    int needed = vsnprintf(text, sizeof(text), format, arguments);
    if (needed < 0) log_event(level, format, strlen(format)); /* the C library cannot format it: better than nothing */
    else log_event(level, text, (size_t)needed < sizeof(text) ? (size_t)needed : sizeof(text) - 1);
}

void log_write(log_level level, const char *format, ...)
{
    if (!log_wants(level)) return;
    va_list arguments;
    va_start(arguments, format);
    log_arguments(level, format, arguments);
    va_end(arguments);
}

bool log_due(log_cause *cause, log_level level, const char *name, uint32_t burst)
{
    if (!log_wants(level)) return false;
    if (queue.mutex == NULL || atomic_load_explicit(&abandoned, memory_order_relaxed)) return true;
    os_mutex_lock(queue.mutex);
    int64_t now_ns = os_monotonic_ns();
    if (cause->until_ns != 0 && cause->until_ns <= now_ns && cause->left_out == 0) { /* that was long ago */
        cause->written = 0;
        cause->until_ns = now_ns + LOG_RARELY_NS;
    }
    if (cause->until_ns == 0) {
        cause->next = queue.causes;
        queue.causes = cause;
        cause->until_ns = now_ns + LOG_RARELY_NS;
    }
    cause->level = level;
    cause->name = name;
    bool wanted = cause->written < burst;
    if (wanted) cause->written++;
    else if (cause->left_out++ == 0) os_cond_signal(queue.filled);
    os_mutex_unlock(queue.mutex);
    return wanted;
}

bool log_rarely(log_cause *cause, log_level level, const char *name, const char *format, ...)
{
    if (!log_due(cause, level, name, 1)) return false;
    va_list arguments;
    va_start(arguments, format);
    log_arguments(level, format, arguments);
    va_end(arguments);
    return true;
}

bool log_level_parse(log_level *level, const char *name)
{
    for (size_t i = 0; i < array_count(NAMES); i++) {
        if (strcmp(name, NAMES[i]) != 0) continue;
        *level = (log_level)i;
        return true;
    }
    return false;
}

uint64_t log_dropped(void)
{
    return atomic_load_explicit(&dropped, memory_order_relaxed);
}
