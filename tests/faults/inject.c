/* inject.c - see inject.h. Each CALL below is a function that can fail; CMakeLists.txt reads the names from here. */
#define _GNU_SOURCE 1

#include "inject.h"

#include "base.h"
#include "contract/rig.h"
#include "io.h"
#include "os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <liburing.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

enum {
    CALLS_MAX = 3000, /* in one body: more is a body that does not end */
    SOCKETS_MAX = 4096,
    SPOILED_MAX = 1024
};

enum inject_mode { INJECT_NOTHING, INJECT_NTH, INJECT_NOT_NOW };

static struct {
    atomic_int mode;
    atomic_uint calls; /* so far */
    atomic_uint fired;
    uint32_t nth;
    uint32_t variant;
    uint32_t one_in;
    uint64_t state; /* of the random numbers; one thread */
    bool tells;     /* each failure is written down */
} inject;

static _Thread_local int paused;

/* By descriptor: it is on a port; and how epoll knows it. */
static struct {
    atomic_bool attached;
    int epoll;
    struct epoll_event event;
} sockets[SOCKETS_MAX];

static bool is_passing(int code)
{
    return code == EINTR || code == EAGAIN || code == ENOBUFS;
}

/* The error that this call has now, or 0. errors end with 0. */
static int fails_in(const char *name, const int *errors)
{
    if (inject.mode == INJECT_NOTHING || paused > 0) return 0;
    uint32_t count = 0;
    if (inject.mode == INJECT_NOT_NOW) {
        int passing[INJECT_VARIANTS];
        for (; *errors != 0; errors++) {
            if (is_passing(*errors)) passing[count++] = *errors;
        }
        if (count == 0 || check_random_below(&inject.state, inject.one_in) != 0) return 0;
        inject.fired++;
        return passing[check_random_below(&inject.state, count)];
    }
    if (++inject.calls != inject.nth) return 0;
    while (errors[count] != 0) count++;
    inject.fired++;
    int code = errors[inject.variant % count];
    if (inject.tells) printf("# call %u: %s: %d\n", (unsigned)inject.nth, name, code);
    return code;
}
#define fails(errors) fails_in(__func__, errors)

static bool is_attached(int fd)
{
    return fd >= 0 && fd < SOCKETS_MAX && sockets[fd].attached;
}

/* In the random mode only sockets of a port are touched. */
static int fails_on_in(const char *name, int fd, const int *errors)
{
    return inject.mode == INJECT_NOT_NOW && !is_attached(fd) ? 0 : fails_in(name, errors);
}
#define fails_on(fd, errors) fails_on_in(__func__, fd, errors)

/* ---- What fails by -1 or NULL and errno ---- */

#define ERRORS(...) \
    (const int[]) \
    { \
        __VA_ARGS__, 0 \
    }
#define CALL(type, name, parameters, arguments, failed, ...) \
    type __real_##name parameters; \
    type __wrap_##name parameters \
    { \
        int code = inject.mode == INJECT_NOT_NOW ? 0 : fails(ERRORS(__VA_ARGS__)); \
        if (code == 0) return __real_##name arguments; \
        errno = code; \
        return failed; \
    }

CALL(int, stat, (const char *path, struct stat *s), (path, s), -1, EACCES, ENOENT)
CALL(int, lstat, (const char *path, struct stat *s), (path, s), -1, EACCES, ENOENT)
CALL(int, rename, (const char *from, const char *to), (from, to), -1, ENOSPC, EACCES)
CALL(int, unlink, (const char *path), (path), -1, EACCES)
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), -1, EACCES, ENOSPC)
CALL(int, chmod, (const char *path, mode_t mode), (path, mode), -1, EPERM)
CALL(int, fchmod, (int fd, mode_t mode), (fd, mode), -1, EPERM)
CALL(int, flock, (int fd, int what), (fd, what), -1, EINTR, ENOLCK)
CALL(DIR *, opendir, (const char *path), (path), NULL, EMFILE, EACCES)
CALL(struct dirent *, readdir, (DIR * dir), (dir), NULL, EIO)
CALL(ssize_t, readlink, (const char *path, char *to, size_t room), (path, to, room), -1, EACCES)
CALL(int, inotify_init1, (int flags), (flags), -1, EMFILE)
CALL(int, inotify_add_watch, (int fd, const char *path, uint32_t mask), (fd, path, mask), -1, ENOSPC, ENOENT)
CALL(int, poll, (struct pollfd * list, nfds_t count, int ms), (list, count, ms), -1, EINTR)
CALL(int, ppoll, (struct pollfd * list, nfds_t count, const struct timespec *t, const sigset_t *mask),
     (list, count, t, mask), -1, EINTR)
CALL(int, socket, (int family, int type, int protocol), (family, type, protocol), -1, EMFILE, ENOBUFS)
CALL(int, bind, (int fd, const struct sockaddr *to, socklen_t bytes), (fd, to, bytes), -1, EADDRINUSE, EACCES)
CALL(int, listen, (int fd, int backlog), (fd, backlog), -1, EADDRINUSE)
CALL(int, getsockname, (int fd, struct sockaddr *to, socklen_t *bytes), (fd, to, bytes), -1, ENOBUFS)
CALL(int, setsockopt, (int fd, int level, int name, const void *value, socklen_t bytes),
     (fd, level, name, value, bytes), -1, ENOBUFS, ENOMEM)
CALL(int, getsockopt, (int fd, int level, int name, void *value, socklen_t *bytes), (fd, level, name, value, bytes), -1,
     ENOBUFS)
CALL(int, shutdown, (int fd, int how), (fd, how), -1, ENOTCONN)
CALL(int, eventfd, (unsigned count, int flags), (count, flags), -1, EMFILE, ENOMEM)
CALL(int, pipe2, (int *fds, int flags), (fds, flags), -1, EMFILE)
CALL(int, epoll_create1, (int flags), (flags), -1, EMFILE, ENOMEM)
CALL(int, epoll_wait, (int epoll, struct epoll_event *events, int most, int ms), (epoll, events, most, ms), -1, EINTR)
CALL(ssize_t, getrandom, (void *bytes, size_t len, unsigned flags), (bytes, len, flags), -1, EINTR)
CALL(int, uname, (struct utsname * name), (name), -1, EFAULT)
CALL(int, sched_getaffinity, (pid_t pid, size_t bytes, cpu_set_t *set), (pid, bytes, set), -1, EINVAL, EPERM)
CALL(int, getrlimit, (__rlimit_resource_t what, struct rlimit *limit), (what, limit), -1, EINVAL)
CALL(int, setrlimit, (__rlimit_resource_t what, const struct rlimit *limit), (what, limit), -1, EPERM)
CALL(void *, mmap, (void *at, size_t bytes, int access, int flags, int fd, off_t offset),
     (at, bytes, access, flags, fd, offset), MAP_FAILED, ENOMEM)
CALL(int, prctl, (int what, ...), (what, 1L, 0L, 0L, 0L), -1, EINVAL)
CALL(int, setgroups, (size_t count, const gid_t *groups), (count, groups), -1, EPERM)
CALL(int, setresgid, (gid_t real, gid_t effective, gid_t saved), (real, effective, saved), -1, EPERM)
CALL(int, setresuid, (uid_t real, uid_t effective, uid_t saved), (real, effective, saved), -1, EAGAIN)

/* Memory. */
CALL(void *, mem_alloc, (size_t bytes), (bytes), NULL, ENOMEM)
CALL(void *, mem_zalloc, (size_t bytes), (bytes), NULL, ENOMEM)
CALL(void *, mem_realloc, (void *block, size_t bytes), (block, bytes), NULL, ENOMEM)
CALL(char *, mem_strdup, (const char *text), (text), NULL, ENOMEM)

/* These return their error. */
CALL(int, pthread_mutex_init, (pthread_mutex_t * mutex, const pthread_mutexattr_t *a), (mutex, a), code, ENOMEM)
CALL(int, pthread_cond_init, (pthread_cond_t * cond, const pthread_condattr_t *a), (cond, a), code, ENOMEM)
CALL(int, pthread_condattr_init, (pthread_condattr_t * a), (a), code, ENOMEM)
CALL(int, pthread_condattr_setclock, (pthread_condattr_t * a, clockid_t clock), (a, clock), code, EINVAL)
CALL(int, pthread_attr_init, (pthread_attr_t * a), (a), code, ENOMEM)
CALL(int, pthread_attr_setstacksize, (pthread_attr_t * a, size_t bytes), (a, bytes), code, EINVAL)
CALL(int, pthread_create, (pthread_t * id, const pthread_attr_t *a, void *(*run)(void *), void *argument),
     (id, a, run, argument), code, EAGAIN)
CALL(int, getaddrinfo, (const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **list),
     (host, service, hints, list), code, EAI_MEMORY, EAI_SYSTEM, EAI_AGAIN)
CALL(int, io_uring_queue_init_params, (unsigned entries, struct io_uring *ring, struct io_uring_params *p),
     (entries, ring, p), -code, ENOMEM, EMFILE, EINVAL, EPERM)
CALL(int, io_uring_register_buf_ring, (struct io_uring * ring, struct io_uring_buf_reg *reg, unsigned flags),
     (ring, reg, flags), -code, ENOMEM, EINVAL)
CALL(int, io_uring_register_ring_fd, (struct io_uring * ring), (ring), -code, EINVAL)

#undef CALL
/* The rest has a body of its own. */
#define CALL(type, name, parameters) \
    type __real_##name parameters; \
    type __wrap_##name parameters

CALL(int, open, (const char *path, int flags, ...))
{
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list arguments;
        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
    }
    int code = inject.mode == INJECT_NOT_NOW ? 0 : fails(ERRORS(EMFILE, EACCES, EINTR));
    if (code == 0) return __real_open(path, flags, mode);
    errno = code;
    return -1;
}

/* Closes all the same. */
CALL(int, close, (int fd))
{
    int code = inject.mode == INJECT_NOT_NOW ? 0 : fails(ERRORS(EIO, EINTR));
    int result = __real_close(fd);
    if (code == 0) return result;
    errno = code;
    return -1;
}

/* What is neither a file nor a terminal (an event, a pipe of ours) is never full and never fails. */
static bool is_ours(int fd)
{
    struct stat status;
    return fstat(fd, &status) != 0 || S_ISFIFO(status.st_mode) || (status.st_mode & S_IFMT) == 0;
}

CALL(ssize_t, write, (int fd, const void *bytes, size_t len))
{
    int code = fails(is_ours(fd) ? ERRORS(EINTR) : ERRORS(EIO, ENOSPC, EINTR));
    if (code == 0) return __real_write(fd, bytes, len);
    errno = code;
    return -1;
}

CALL(ssize_t, read, (int fd, void *bytes, size_t len))
{
    int code = inject.mode == INJECT_NOT_NOW ? 0 : fails(is_ours(fd) ? ERRORS(EINTR) : ERRORS(EIO, EINTR));
    if (code == 0) return __real_read(fd, bytes, len);
    errno = code;
    return -1;
}

/* ---- Sockets: "not now" is followed by an edge ---- */

CALL(int, epoll_ctl, (int epoll, int what, int fd, struct epoll_event *event))
{
    int code = inject.mode == INJECT_NOT_NOW ? 0 : fails(ERRORS(ENOMEM, ENOSPC));
    if (code != 0) {
        errno = code;
        return -1;
    }
    if (fd < SOCKETS_MAX && what != EPOLL_CTL_DEL) {
        sockets[fd].epoll = epoll;
        sockets[fd].event = *event;
    }
    return __real_epoll_ctl(epoll, what, fd, event);
}

CALL(io_status, io_attach, (io_port * port, io_socket socket))
{
    io_status status = __real_io_attach(port, socket);
    if (status == IO_OK && socket < SOCKETS_MAX) sockets[socket].attached = true;
    return status;
}

CALL(io_status, io_attach_udp, (io_port * port, io_socket socket))
{
    io_status status = __real_io_attach_udp(port, socket);
    if (status == IO_OK && socket < SOCKETS_MAX) sockets[socket].attached = true;
    return status;
}

CALL(void, io_close, (io_port * port, io_socket socket, bool abort))
{
    if (socket < SOCKETS_MAX) {
        sockets[socket].attached = false;
        sockets[socket].epoll = 0;
    }
    __real_io_close(port, socket, abort);
}

/* True: it fails so. */
static bool spoil_in(const char *name, int fd, const int *errors)
{
    int code = fails_on_in(name, fd, errors);
    if (code == 0) return false;
    if (code == EAGAIN && fd >= 0 && fd < SOCKETS_MAX && sockets[fd].epoll > 0) {
        (void)__real_epoll_ctl(sockets[fd].epoll, EPOLL_CTL_MOD, fd, &sockets[fd].event);
    }
    errno = code;
    return true;
}

#define spoil(fd, errors) spoil_in(__func__, fd, errors)

#define TRANSFER_ERRORS ERRORS(ECONNRESET, EAGAIN, EINTR, ENOMEM)

CALL(ssize_t, recv, (int fd, void *bytes, size_t len, int flags))
{
    return spoil(fd, TRANSFER_ERRORS) ? -1 : __real_recv(fd, bytes, len, flags);
}

CALL(ssize_t, send, (int fd, const void *bytes, size_t len, int flags))
{
    return spoil(fd, TRANSFER_ERRORS) ? -1 : __real_send(fd, bytes, len, flags);
}

CALL(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags))
{
    return spoil(fd, TRANSFER_ERRORS) ? -1 : __real_sendmsg(fd, message, flags);
}

CALL(ssize_t, recvfrom, (int fd, void *bytes, size_t len, int flags, struct sockaddr *from, socklen_t *from_bytes))
{
    return spoil(fd, ERRORS(ECONNREFUSED, EAGAIN, EINTR, ENOMEM))
               ? -1
               : __real_recvfrom(fd, bytes, len, flags, from, from_bytes);
}

CALL(ssize_t, sendto, (int fd, const void *bytes, size_t len, int flags, const struct sockaddr *to, socklen_t to_bytes))
{
    return spoil(fd, ERRORS(EPERM, EAGAIN, EINTR, ENOMEM)) ? -1 : __real_sendto(fd, bytes, len, flags, to, to_bytes);
}

CALL(int, accept4, (int fd, struct sockaddr *from, socklen_t *bytes, int flags))
{
    return spoil(fd, ERRORS(EMFILE, EAGAIN, EINTR, ECONNABORTED)) ? -1 : __real_accept4(fd, from, bytes, flags);
}

/* An interrupted connect goes on. */
CALL(int, connect, (int fd, const struct sockaddr *to, socklen_t bytes))
{
    int code = fails_on(fd, ERRORS(ECONNREFUSED, EADDRNOTAVAIL, EINTR));
    if (code == 0 || code == EINTR) {
        int result = __real_connect(fd, to, bytes);
        if (code == 0 || (result != 0 && errno != EINPROGRESS)) return result;
    }
    errno = code;
    return -1;
}

/* The engine's own receiving and sending, and what the sandbox asks for. All six, because nobody knows how many there are. */
CALL(long, syscall, (long number, ...))
{
    long a[6];
    va_list arguments;
    va_start(arguments, number);
    for (size_t i = 0; i < array_count(a); i++) a[i] = va_arg(arguments, long);
    va_end(arguments);
    bool failed = number == SYS_recvfrom ? spoil((int)a[0], TRANSFER_ERRORS)
                  : number == SYS_sendto ? spoil((int)a[0], TRANSFER_ERRORS)
                                         : inject.mode == INJECT_NTH && spoil(-1, ERRORS(ENOSYS, EPERM, EINVAL));
    return failed ? -1 : __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* ---- Rings ---- */

/* Entries that have become one that does nothing, in order, and what their results are to be. */
static _Thread_local struct {
    uint64_t data[SPOILED_MAX];
    int result[SPOILED_MAX];
    uint32_t count;
} spoiled;

static const int *errors_of(const struct io_uring_sqe *entry)
{
    static const int accepting[] = {EMFILE, EAGAIN, EINTR, ECONNABORTED, 0};
    static const int receiving[] = {ECONNRESET, EAGAIN, EINTR, ENOMEM, 0};
    static const int choosing[] = {ECONNRESET, EAGAIN, EINTR, ENOBUFS, 0};
    static const int connecting[] = {ECONNREFUSED, EADDRNOTAVAIL, 0};
    static const int polling[] = {ENOMEM, 0};
    switch (entry->opcode) {
    case IORING_OP_ACCEPT:
        return accepting;
    case IORING_OP_RECV:
        return entry->flags & IOSQE_BUFFER_SELECT ? choosing : receiving;
    case IORING_OP_SEND:
    case IORING_OP_SENDMSG:
        return receiving;
    case IORING_OP_CONNECT:
        return connecting;
    case IORING_OP_POLL_ADD:
        return polling;
    default:
        return NULL; /* a cancel does not fail */
    }
}

static void spoil_entries(struct io_uring *ring)
{
    for (unsigned at = ring->sq.sqe_head; at != ring->sq.sqe_tail; at++) {
        struct io_uring_sqe *entry = &ring->sq.sqes[at & ring->sq.ring_mask];
        const int *errors = errors_of(entry);
        int code = errors == NULL || spoiled.count == SPOILED_MAX ? 0 : fails_on(entry->fd, errors);
        if (code == 0) continue;
        uint64_t data = entry->user_data;
        io_uring_prep_nop(entry);
        entry->user_data = data;
        spoiled.data[spoiled.count] = data;
        spoiled.result[spoiled.count++] = -code;
    }
}

/* Puts the results in the place of those of the entries that did nothing. */
static void spoil_results(struct io_uring *ring)
{
    struct io_uring_cqe *completion;
    unsigned head;
    io_uring_for_each_cqe(ring, head, completion)
    {
        uint32_t i = 0;
        while (i < spoiled.count && (spoiled.data[i] != completion->user_data || completion->res != 0)) i++;
        if (i == spoiled.count) continue;
        completion->res = spoiled.result[i];
        spoiled.count--;
        memmove(&spoiled.data[i], &spoiled.data[i + 1], (spoiled.count - i) * sizeof spoiled.data[0]);
        memmove(&spoiled.result[i], &spoiled.result[i + 1], (spoiled.count - i) * sizeof spoiled.result[0]);
    }
}

/* The call itself may fail, too. */
#define SUBMIT(name, parameters, arguments, ...) \
    CALL(int, name, parameters) \
    { \
        int code = fails(ERRORS(__VA_ARGS__)); \
        if (code != 0) return -code; \
        spoil_entries(ring); \
        int result = __real_##name arguments; \
        spoil_results(ring); \
        return result; \
    }

/* Without EAGAIN: in the random mode there is always room for a submit. */
SUBMIT(io_uring_submit, (struct io_uring * ring), (ring), EBUSY, ENOMEM)
SUBMIT(io_uring_submit_and_get_events, (struct io_uring * ring), (ring), EAGAIN, EINTR, EBUSY)
SUBMIT(io_uring_submit_and_wait, (struct io_uring * ring, unsigned count), (ring, count), EAGAIN, EINTR, EBUSY)
SUBMIT(io_uring_submit_and_wait_timeout,
       (struct io_uring * ring, struct io_uring_cqe **completion, unsigned count, struct __kernel_timespec *timeout,
        sigset_t *mask),
       (ring, completion, count, timeout, mask), EAGAIN, EINTR, EBUSY)

/* ---- For tests ---- */

void inject_not_now(uint32_t one_in, uint64_t seed)
{
    inject.one_in = one_in;
    inject.state = seed;
    inject.fired = 0;
    inject.mode = INJECT_NOT_NOW;
}

void inject_nth(uint32_t nth, uint32_t variant)
{
    inject.tells = getenv("INJECT_TELLS") != NULL;
    inject.nth = nth;
    inject.variant = variant;
    inject.calls = 0;
    inject.fired = 0;
    inject.mode = INJECT_NTH;
}

void inject_nothing(void)
{
    inject.mode = INJECT_NOTHING;
}

uint32_t inject_count(void)
{
    return inject.fired;
}

void inject_pause(void)
{
    paused++;
}

void inject_resume(void)
{
    paused--;
}

/* Another thread may just be letting go of something. */
static bool is_back(int64_t live, long descriptors)
{
    const int64_t look_ns = 1000000;
    int64_t deadline_ns = os_monotonic_ns() + RIG_PATIENCE_NS / 4;
    while (mem_live() != live || descriptors_count() != descriptors) {
        if (os_monotonic_ns() > deadline_ns) return false;
        rig_delay(look_ns);
    }
    return true;
}

uint32_t inject_sweep(void (*body)(void))
{
    uint32_t failed = 0;
    long descriptors = descriptors_count(); /* once: later another thread may just be taking hold of something */
    int64_t live = mem_live();
    for (uint32_t variant = 0; variant < INJECT_VARIANTS; variant++) {
        bool more = true;
        for (uint32_t nth = 1; more; nth++) {
            check(nth < CALLS_MAX);
            inject_nth(nth, variant);
            body();
            inject_nothing();
            more = inject.fired > 0;
            failed += inject.fired;
            if (is_back(live, descriptors)) continue;
            fail("call %u, error %u: %lld blocks and %ld descriptors are left behind", (unsigned)nth, (unsigned)variant,
                 (long long)(mem_live() - live), descriptors_count() - descriptors);
        }
    }
    printf("# %u calls have failed\n", (unsigned)failed);
    check(failed > 0);
    return failed;
}
