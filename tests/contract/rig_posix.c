/* rig_posix.c - the plain peer and the descriptors, on POSIX systems. */
#include "rig.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SPARE_MAX = 512 };

static int spare[SPARE_MAX];
static int spare_count;
static struct rlimit limit_before;

static void set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    check(flags >= 0);
    check_eq(fcntl(fd, F_SETFL, flags | O_NONBLOCK), 0);
}

static socklen_t to_sockaddr(struct sockaddr_storage *to, const net_addr *addr)
{
    memset(to, 0, sizeof(*to));
    memcpy(to, addr->words, sizeof(addr->words));
    return (socklen_t)net_addr_bytes(addr);
}

io_socket peer_connect(const net_addr *addr)
{
    struct sockaddr_storage to;
    socklen_t len = to_sockaddr(&to, addr);
    int fd = socket(net_addr_family(addr), SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&to, len) != 0) fail("connect: %s", strerror(errno));
    set_nonblocking(fd);
    net_set_nodelay(fd, true);
    return fd;
}

io_socket peer_connect_begin(const net_addr *addr)
{
    struct sockaddr_storage to;
    socklen_t len = to_sockaddr(&to, addr);
    int fd = socket(net_addr_family(addr), SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("socket: %s", strerror(errno));
    set_nonblocking(fd);
    if (connect(fd, (struct sockaddr *)&to, len) != 0) check_eq(errno, EINPROGRESS);
    return fd;
}

io_socket peer_listen(net_addr *addr)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("socket: %s", strerror(errno));
    check_eq(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    check_eq(listen(fd, 0), 0);
    set_nonblocking(fd);
    check_eq(net_local(addr, fd), IO_OK);
    return fd;
}

io_socket peer_accept(io_socket listener)
{
    if (!peer_ready(listener, false, RIG_PATIENCE_NS)) fail("nobody connects");
    int fd = accept((int)listener, NULL, NULL);
    if (fd < 0) fail("accept: %s", strerror(errno));
    set_nonblocking(fd);
    net_set_nodelay(fd, true);
    return fd;
}

/* What a call said, as the peer's functions say it. */
static long outcome(ssize_t result)
{
    if (result >= 0) return (long)result;
    if (errno == EAGAIN || errno == EINTR) return PEER_AGAIN;
    if (errno != ECONNRESET && errno != EPIPE) fail("the peer's socket: %s", strerror(errno));
    return PEER_RESET;
}

long peer_send_now(io_socket socket, const void *bytes, size_t len)
{
    return outcome(send((int)socket, bytes, len, MSG_NOSIGNAL));
}

long peer_recv_now(io_socket socket, void *bytes, size_t len)
{
    return outcome(recv((int)socket, bytes, len, 0));
}

bool peer_ready(io_socket socket, bool to_send, int64_t timeout_ns)
{
    struct pollfd fd = {.fd = (int)socket, .events = to_send ? POLLOUT : POLLIN};
    int count = poll(&fd, 1, (int)(timeout_ns / 1000000));
    if (count < 0 && errno != EINTR) fail("poll: %s", strerror(errno));
    return count > 0;
}

void peer_small_buffers(io_socket socket)
{
    int bytes = 16384; /* much less and the window closes for 200 ms at a time */
    check_eq(setsockopt((int)socket, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)), 0);
}

long descriptors_count(void)
{
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL) return -1;
    long count = -3; /* ".", ".." and the directory itself */
    while (readdir(directory) != NULL) count++;
    closedir(directory);
    return count;
}

bool descriptors_exhaust(void)
{
    check_eq(getrlimit(RLIMIT_NOFILE, &limit_before), 0);
    struct rlimit limit = limit_before;
    if (limit.rlim_cur > SPARE_MAX) limit.rlim_cur = SPARE_MAX;
    check_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    spare_count = 0;
    while (spare_count < SPARE_MAX) {
        int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
        if (fd < 0) break;
        spare[spare_count++] = fd;
    }
    check_eq(errno, EMFILE);
    return true;
}

void descriptors_free_one(void)
{
    check(spare_count > 0);
    close(spare[--spare_count]);
}

void descriptors_restore(void)
{
    while (spare_count > 0) descriptors_free_one();
    check_eq(setrlimit(RLIMIT_NOFILE, &limit_before), 0);
}
