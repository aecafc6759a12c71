/* os_posix.c - os.h on Linux: pthreads, the clocks, and signals turned into news by a pipe. */
#define _GNU_SOURCE 1

#include "os.h"

#include "base.h"
#include "mem.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

enum {
    NS_PER_SECOND = 1000000000,
    STACK_BYTES = 8 << 20,      /* of a thread: what the main thread usually has; only what is touched costs memory */
    CPU_SET_CPUS_MAX = 1 << 20, /* where os_cpu_count() stops to ask for a larger set */
    STDERR_PATIENCE_MS = 1000,  /* for a terminal that somebody made non-blocking */
    INTERRUPT_POLL_NS = 100000  /* between two looks whether an earlier interrupt has run */
};

/* Seconds that a deadline may lie ahead; more is for ever, and time_t additions stay far from overflow. */
#define WAIT_SECONDS_MAX ((int64_t)1 << 32)

/* ---- Clocks and the machine ---- */

static int64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    int result = clock_gettime(clock, &now);
    assert(result == 0);
    (void)result;
    return (int64_t)now.tv_sec * NS_PER_SECOND + now.tv_nsec;
}

int64_t os_monotonic_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

int64_t os_realtime_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

unsigned os_cpu_count(void)
{
    /* The kernel answers EINVAL while the set is smaller than its own (sched_setaffinity(2)). */
    for (size_t cpus = CPU_SETSIZE; cpus <= CPU_SET_CPUS_MAX; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC(cpus);
        size_t bytes = CPU_ALLOC_SIZE(cpus);
        if (set == NULL) return 1;
        int result = sched_getaffinity(0, bytes, set);
        int code = errno;
        int count = result == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (result == 0) return count > 0 ? (unsigned)count : 1;
        if (code != EINVAL) return 1;
    }
    return 1;
}

unsigned long os_pid(void)
{
    return (unsigned long)getpid();
}

void os_random(void *bytes, size_t len)
{
    unsigned char *next = bytes;
    while (len > 0) {
        ssize_t got = getrandom(next, len, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) abort(); /* Linux has it since 3.17; weak randomness would be worse than no server. */
        next += got;
        len -= (size_t)got;
    }
}

bool os_is_wine(void)
{
    return false;
}

char *os_describe(char *text, size_t size)
{
    struct utsname name;
    if (uname(&name) == 0) (void)snprintf(text, size, "%s %s", name.sysname, name.release);
    else (void)snprintf(text, size, "POSIX");
    return text;
}

uint64_t os_raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
    if (limit.rlim_cur < limit.rlim_max) {
        struct rlimit raised = {.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
        if (setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
    }
    return limit.rlim_cur;
}

bool os_write_stderr(const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t written = write(STDERR_FILENO, bytes, len);
        if (written >= 0) {
            bytes += written;
            len -= (size_t)written;
        } else if (errno == EAGAIN) {
            struct pollfd wanted = {.fd = STDERR_FILENO, .events = POLLOUT};
            if (poll(&wanted, 1, STDERR_PATIENCE_MS) == 0) return false;
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

bool os_stderr_is_terminal(void)
{
    return isatty(STDERR_FILENO) == 1;
}

_Noreturn void os_end_now(int code)
{
    _exit(code);
}

/* ---- Threads ---- */

struct os_thread {
    pthread_t id;
    char name[16]; /* the kernel's limit, NUL included: pthread_setname_np(3) */
    void (*run)(void *argument);
    void *argument;
    pthread_mutex_t interrupters; /* one at a time */
    void (*interrupt)(void *argument);
    void *interrupt_argument;
    atomic_bool interrupt_due; /* true from the request until the handler has picked it up */
    atomic_bool ended;         /* run has returned: no interrupt is wanted any more */
};

/* The thread that runs, or NULL in one that os_thread_start() did not make. */
static _Thread_local os_thread *current_thread;

/* SIGURG, as Go's runtime argues (src/runtime/signal_unix.go, sigPreempt): it is ignored by default, so a stray one
 * kills nothing; debuggers pass it through; libc does not use it; and without F_SETOWN no socket sends it. A
 * real-time signal would queue, and could fail when the user's queue is full; one that is merely pending is enough
 * here. */
enum { INTERRUPT_SIGNAL = SIGURG };

static void on_interrupt_signal(int number)
{
    int saved = errno;
    os_thread *thread = current_thread;
    bool due = true;
    (void)number;
    if (thread != NULL && atomic_load_explicit(&thread->interrupt_due, memory_order_acquire)) {
        void (*interrupt)(void *argument) = thread->interrupt;
        void *argument = thread->interrupt_argument;
        /* Once only: thread_main() calls this as well, and may itself be interrupted here. */
        if (atomic_compare_exchange_strong(&thread->interrupt_due, &due, false)) interrupt(argument);
    }
    errno = saved;
}

static void install_interrupt_handler(void)
{
    struct sigaction action = {.sa_handler = on_interrupt_signal, .sa_flags = SA_RESTART};
    sigfillset(&action.sa_mask);
    int result = sigaction(INTERRUPT_SIGNAL, &action, NULL);
    assert(result == 0);
    (void)result;
}

static void *thread_main(void *argument)
{
    os_thread *thread = argument;
    current_thread = thread;
    on_interrupt_signal(INTERRUPT_SIGNAL); /* one that came before the line above found no thread */
    (void)pthread_setname_np(pthread_self(), thread->name);
    thread->run(thread->argument);
    atomic_store(&thread->ended, true);
    current_thread = NULL;
    return NULL;
}

/* Signals are the main thread's business, all but the one that interrupts. The mask is set before the thread
 * exists, so that there is no moment in which it could take one. */
static int create_masked(os_thread *thread, const pthread_attr_t *attributes)
{
    static const int blocked[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
    sigset_t mask;
    sigset_t saved;
    (void)pthread_sigmask(SIG_SETMASK, NULL, &saved);
    mask = saved;
    for (size_t i = 0; i < array_count(blocked); i++) sigaddset(&mask, blocked[i]);
    sigdelset(&mask, INTERRUPT_SIGNAL);
    (void)pthread_sigmask(SIG_SETMASK, &mask, NULL);
    int code = pthread_create(&thread->id, attributes, thread_main, thread);
    (void)pthread_sigmask(SIG_SETMASK, &saved, NULL);
    return code;
}

os_thread *os_thread_start(const char *name, void (*run)(void *argument), void *argument)
{
    pthread_attr_t attributes;
    os_thread *thread = mem_zalloc(sizeof *thread);
    if (thread == NULL) return NULL;
    assert(strlen(name) < sizeof thread->name);
    (void)snprintf(thread->name, sizeof thread->name, "%s", name);
    thread->run = run;
    thread->argument = argument;
    if (pthread_mutex_init(&thread->interrupters, NULL) != 0) goto fail;
    if (pthread_attr_init(&attributes) != 0) goto fail_mutex;
    if (pthread_attr_setstacksize(&attributes, STACK_BYTES) != 0) goto fail_attributes;
    if (create_masked(thread, &attributes) != 0) goto fail_attributes;
    (void)pthread_attr_destroy(&attributes);
    return thread;
fail_attributes:
    (void)pthread_attr_destroy(&attributes);
fail_mutex:
    (void)pthread_mutex_destroy(&thread->interrupters);
fail:
    mem_free(thread);
    return NULL;
}

void os_thread_join(os_thread *thread)
{
    int code = pthread_join(thread->id, NULL);
    assert(code == 0);
    (void)code;
    (void)pthread_mutex_destroy(&thread->interrupters);
    mem_free(thread);
}

void os_thread_interrupt(os_thread *thread, void (*interrupt)(void *argument), void *argument)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static const struct timespec pause = {.tv_sec = 0, .tv_nsec = INTERRUPT_POLL_NS};
    (void)pthread_once(&once, install_interrupt_handler);
    (void)pthread_mutex_lock(&thread->interrupters);
    /* An earlier request that has not been picked up keeps the slot: the thread may have been asked and not yet
     * scheduled. */
    while (atomic_load_explicit(&thread->interrupt_due, memory_order_acquire) && !atomic_load(&thread->ended)) {
        (void)nanosleep(&pause, NULL);
    }
    if (!atomic_load(&thread->ended)) {
        thread->interrupt = interrupt;
        thread->interrupt_argument = argument;
        atomic_store_explicit(&thread->interrupt_due, true, memory_order_release);
        (void)pthread_kill(thread->id, INTERRUPT_SIGNAL);
    }
    (void)pthread_mutex_unlock(&thread->interrupters);
}

int64_t os_thread_cpu_ns(os_thread *thread)
{
    clockid_t clock;
    struct timespec time;
    if (pthread_getcpuclockid(thread->id, &clock) != 0 || clock_gettime(clock, &time) != 0) return 0;
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* ---- Locks ---- */

struct os_mutex {
    pthread_mutex_t native;
};

struct os_cond {
    pthread_cond_t native;
};

os_mutex *os_mutex_open(void)
{
    os_mutex *mutex = mem_alloc(sizeof *mutex);
    if (mutex == NULL) return NULL;
    if (pthread_mutex_init(&mutex->native, NULL) == 0) return mutex;
    mem_free(mutex);
    return NULL;
}

void os_mutex_close(os_mutex *mutex)
{
    int code = pthread_mutex_destroy(&mutex->native);
    assert(code == 0);
    (void)code;
    mem_free(mutex);
}

void os_mutex_lock(os_mutex *mutex)
{
    int code = pthread_mutex_lock(&mutex->native);
    assert(code == 0);
    (void)code;
}

void os_mutex_unlock(os_mutex *mutex)
{
    int code = pthread_mutex_unlock(&mutex->native);
    assert(code == 0);
    (void)code;
}

os_cond *os_cond_open(void)
{
    pthread_condattr_t attributes;
    os_cond *cond = mem_alloc(sizeof *cond);
    if (cond == NULL) return NULL;
    if (pthread_condattr_init(&attributes) != 0) goto fail;
    int code = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (code == 0) code = pthread_cond_init(&cond->native, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    if (code == 0) return cond;
fail:
    mem_free(cond);
    return NULL;
}

void os_cond_close(os_cond *cond)
{
    int code = pthread_cond_destroy(&cond->native);
    assert(code == 0);
    (void)code;
    mem_free(cond);
}

bool os_cond_wait(os_cond *cond, os_mutex *mutex, int64_t timeout_ns)
{
    int code;
    if (timeout_ns < 0 || timeout_ns / NS_PER_SECOND > WAIT_SECONDS_MAX) {
        code = pthread_cond_wait(&cond->native, &mutex->native);
    } else {
        int64_t until_ns = os_monotonic_ns() + timeout_ns;
        struct timespec until = {.tv_sec = until_ns / NS_PER_SECOND, .tv_nsec = until_ns % NS_PER_SECOND};
        code = pthread_cond_timedwait(&cond->native, &mutex->native, &until);
    }
    assert(code == 0 || code == ETIMEDOUT);
    return code == 0;
}

void os_cond_signal(os_cond *cond)
{
    int code = pthread_cond_signal(&cond->native);
    assert(code == 0);
    (void)code;
}

void os_cond_broadcast(os_cond *cond)
{
    int code = pthread_cond_broadcast(&cond->native);
    assert(code == 0);
    (void)code;
}

/* ---- News: one byte each through a pipe, so that order is kept and a signal handler can write it ---- */

static const struct {
    int number;
    os_news news;
} news_signals[] = {
    {SIGINT, OS_NEWS_STOP},
    {SIGTERM, OS_NEWS_STOP},
    {SIGHUP, OS_NEWS_RELOAD},
    {SIGUSR2, OS_NEWS_DUMP},
};

static int news_pipe[2] = {-1, -1};

void os_news_post(os_news news)
{
    unsigned char byte = (unsigned char)news;
    /* When the pipe is full, 65,536 pieces of news are unread and one more changes nothing. */
    while (write(news_pipe[1], &byte, 1) < 0 && errno == EINTR) continue;
}

static void on_news_signal(int number)
{
    int saved = errno;
    for (size_t i = 0; i < array_count(news_signals); i++) {
        if (news_signals[i].number == number) os_news_post(news_signals[i].news);
    }
    errno = saved;
}

bool os_news_open(void)
{
    struct sigaction action = {.sa_handler = on_news_signal, .sa_flags = SA_RESTART};
    sigset_t unblocked;
    assert(news_pipe[0] == -1);
    if (pipe2(news_pipe, O_CLOEXEC | O_NONBLOCK) != 0) return false;
    sigfillset(&action.sa_mask);
    sigemptyset(&unblocked);
    /* Also where the parent left a signal ignored or blocked, as a shell does with INT for its background jobs:
     * this is how a server is stopped. */
    for (size_t i = 0; i < array_count(news_signals); i++) {
        if (sigaction(news_signals[i].number, &action, NULL) != 0) return false;
        sigaddset(&unblocked, news_signals[i].number);
    }
    return pthread_sigmask(SIG_UNBLOCK, &unblocked, NULL) == 0;
}

/* False when the time has passed. */
static bool wait_for_news(int64_t deadline_ns)
{
    struct pollfd wanted = {.fd = news_pipe[0], .events = POLLIN};
    for (;;) {
        struct timespec timeout;
        struct timespec *limit = NULL;
        if (deadline_ns != INT64_MAX) {
            int64_t left_ns = deadline_ns - os_monotonic_ns();
            if (left_ns < 0) left_ns = 0;
            timeout = (struct timespec){.tv_sec = left_ns / NS_PER_SECOND, .tv_nsec = left_ns % NS_PER_SECOND};
            limit = &timeout;
        }
        int count = ppoll(&wanted, 1, limit, NULL);
        if (count > 0) return true;
        if (count == 0) return false;
        assert(errno == EINTR);
    }
}

os_news os_news_wait(int64_t timeout_ns)
{
    unsigned char byte;
    bool forever = timeout_ns < 0 || timeout_ns / NS_PER_SECOND > WAIT_SECONDS_MAX;
    int64_t deadline_ns = forever ? INT64_MAX : os_monotonic_ns() + timeout_ns;
    assert(news_pipe[0] != -1);
    for (;;) {
        ssize_t got = read(news_pipe[0], &byte, 1);
        if (got == 1) return (os_news)byte;
        if (got < 0 && errno == EINTR) continue;
        if (!wait_for_news(deadline_ns)) return OS_NEWS_WAKE;
    }
}
