/* os.h - threads, clocks, signals: what differs between systems and is not a socket. os_posix.c and
 * os_win.c implement it.
 */
#ifndef PORTICO_OS_H
#define PORTICO_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Monotonic nanoseconds from an arbitrary start. Any thread. */
int64_t os_monotonic_ns(void);
/* Nanoseconds since 1970-01-01 UTC. Any thread. */
int64_t os_realtime_ns(void);
/* Processors this process may use, at least 1. */
unsigned os_cpu_count(void);
unsigned long os_pid(void);
/* Fills len bytes with randomness from the system. Any thread. */
void os_random(void *bytes, size_t len);
/* True under Wine; for the log and for tests, never to change what the engine does. */
bool os_is_wine(void);
/* A short name of the system: "Linux 6.18.0", "Windows 10.0.18362". Returns text. */
char *os_describe(char *text, size_t size);

/* Raises the limit on open descriptors as far as allowed. Returns the limit now in force, or 0 where
 * there is none worth naming (Windows). */
uint64_t os_raise_descriptor_limit(void);

/* Writes all bytes to standard error, in one call where the system takes them. False if it will not. */
bool os_write_stderr(const char *bytes, size_t len);
bool os_stderr_is_terminal(void);

/* Ends the process at once, whatever its threads are doing: nothing is flushed, nothing that was registered for the end runs. */
_Noreturn void os_end_now(int code);

/* ---- Threads ---- */
typedef struct os_thread os_thread;
typedef struct os_mutex os_mutex;
typedef struct os_cond os_cond;

/* name: at most 15 characters, shown by debuggers. NULL when the system has no thread to give. */
os_thread *os_thread_start(const char *name, void (*run)(void *argument), void *argument);
void os_thread_join(os_thread *thread); /* and frees it */

/* Runs interrupt(argument) while the thread is stopped at some instruction of its own: on POSIX in a signal
 * handler of that thread, on Windows from the caller while the thread is suspended. interrupt must neither
 * allocate, lock nor print. Returns when it has been asked for (POSIX) or done (Windows).
 * source  lua_sethook() may be called from a signal handler: Lua 5.4 manual, section 4.7, and lua.c. */
void os_thread_interrupt(os_thread *thread, void (*interrupt)(void *argument), void *argument);

/* Processor time that the thread has used, in nanoseconds; 0 where the system does not tell. Grain: nanoseconds on Linux, up to
 * 16 ms on Windows. Any thread. */
int64_t os_thread_cpu_ns(os_thread *thread);

os_mutex *os_mutex_open(void); /* NULL when out of memory */
void os_mutex_close(os_mutex *mutex);
void os_mutex_lock(os_mutex *mutex);
void os_mutex_unlock(os_mutex *mutex);

os_cond *os_cond_open(void);
void os_cond_close(os_cond *cond);
/* Sleeps until signalled or, when timeout_ns is not negative, until it has passed. Returns false on time-out. May
 * also return for no reason. */
bool os_cond_wait(os_cond *cond, os_mutex *mutex, int64_t timeout_ns);
void os_cond_signal(os_cond *cond);
void os_cond_broadcast(os_cond *cond);

/* ---- News from outside for the main thread: signals, console events, and what we post ourselves ---- */
typedef enum os_news {
    OS_NEWS_STOP = 1, /* INT, TERM; Ctrl+C, Ctrl+Break, console close, logoff, shutdown */
    OS_NEWS_RELOAD,   /* HUP */
    OS_NEWS_DUMP,     /* USR2 */
    OS_NEWS_WAKE      /* os_news_post() */
} os_news;

/* Installs the handlers. Call before other threads start, and before anything slow: under Wine an INT that
 * comes before the handler is there kills the process with exit code 0. False: it could not. */
bool os_news_open(void);
/* The next piece of news, in order; OS_NEWS_WAKE also when timeout_ns (negative: for ever) has passed. */
os_news os_news_wait(int64_t timeout_ns);
/* Any thread. */
void os_news_post(os_news news);

#endif
