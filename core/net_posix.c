/* net_posix.c - what sockets are on Linux: sockaddr, options, and the table that maps errno. */
#include "net.h"
#include "net_system.h"

#include "base.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net_inet.h"

_Static_assert(sizeof(struct sockaddr_in6) <= sizeof(net_addr), "net_addr holds both address families");
_Static_assert(NET_HOST_TEXT_MAX >= INET6_ADDRSTRLEN, "inet_ntop has room");

/* Every code that a socket call, an io_uring completion or the opening of a port can give. */
static const struct {
    int native;
    io_status status;
} error_table[] = {
    {EAGAIN, IO_AGAIN},
    {EINPROGRESS, IO_AGAIN},
    {EALREADY, IO_AGAIN},
    {ECANCELED, IO_CANCELED},
    {ECONNRESET, IO_RESET},
    {ECONNABORTED, IO_RESET}, /* accept: the peer was gone before it was accepted */
    {EPIPE, IO_RESET},        /* send: after the peer's RST was already reported, or after our own shutdown */
    {ENOTCONN, IO_RESET},     /* shutdown, getpeername: the connection is already gone */
    {ENETRESET, IO_RESET},
    {EPROTO, IO_RESET}, /* accept: a protocol error of the new connection; accept(2) says to retry */
    {ECONNREFUSED, IO_REFUSED},
    {ETIMEDOUT, IO_TIMEOUT}, /* keep-alive, retransmission or connect gave up */
    {ETIME, IO_TIMEOUT},
    {ENETUNREACH, IO_UNREACHABLE},
    {EHOSTUNREACH, IO_UNREACHABLE},
    {ENETDOWN, IO_UNREACHABLE},
    {EHOSTDOWN, IO_UNREACHABLE},
    {ENONET, IO_UNREACHABLE},
    {EMFILE, IO_LIMIT},
    {ENFILE, IO_LIMIT},
    {ENOBUFS, IO_LIMIT},
    {ENOMEM, IO_LIMIT},
    {ENOSPC, IO_LIMIT}, /* epoll_ctl: fs.epoll.max_user_watches */
    {EADDRINUSE, IO_IN_USE},
    {EACCES, IO_DENIED},
    {EPERM, IO_DENIED}, /* also a firewall rule, on connect and send */
    {EADDRNOTAVAIL, IO_UNAVAILABLE},
    {EAFNOSUPPORT, IO_UNSUPPORTED},
    {EPFNOSUPPORT, IO_UNSUPPORTED},
    {EPROTONOSUPPORT, IO_UNSUPPORTED},
    {ENOPROTOOPT, IO_UNSUPPORTED},
    {EOPNOTSUPP, IO_UNSUPPORTED},
    {ENOSYS, IO_UNSUPPORTED},
    {EBADF, IO_CLOSED},
    {EINVAL, IO_INVALID},
    {EISCONN, IO_INVALID},
    {ENOTSOCK, IO_INVALID},
    {EDESTADDRREQ, IO_INVALID},
};

io_status net_map_error(int native)
{
    if (native == 0) return IO_OK;
    for (size_t i = 0; i < array_count(error_table); i++) {
        if (error_table[i].native == native) return error_table[i].status;
    }
    return IO_UNEXPECTED;
}

io_status net_start(void)
{
    /* Every send passes MSG_NOSIGNAL; this is for standard error, when its reader is gone. */
    return signal(SIGPIPE, SIG_IGN) != SIG_ERR ? IO_OK : IO_UNEXPECTED;
}

void net_stop(void)
{
    /* Nothing is held. */
}

/* ---- Addresses ---- */

void net_system_write_host(const net_endpoint *endpoint, char *text, size_t size)
{
    const char *written =
        inet_ntop(endpoint->version == 6 ? AF_INET6 : AF_INET, endpoint->bytes, text, (socklen_t)size);
    assert(written != NULL);
    (void)written;
}

io_status net_system_resolve(net_endpoint *endpoints, size_t *count, const char *host, char *why, size_t why_size)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *list = NULL;
    int code = getaddrinfo(host, NULL, &hints, &list);
    int error = errno;
    if (code != 0) {
        bool is_limit = code == EAI_MEMORY || (code == EAI_SYSTEM && net_map_error(error) == IO_LIMIT);
        (void)snprintf(why, why_size, "%s", code == EAI_SYSTEM ? strerror(error) : gai_strerror(code));
        return is_limit ? IO_LIMIT : IO_NOT_FOUND;
    }
    return net_inet_take(endpoints, count, list, why, why_size);
}

int net_addr_family(const net_addr *addr)
{
    sa_family_t family;
    memcpy(&family, (const char *)addr + offsetof(struct sockaddr, sa_family), sizeof family);
    return family == AF_INET || family == AF_INET6 || family == AF_UNIX ? family : 0;
}

/* ---- Sockets ---- */

static io_status fail(int *native)
{
    *native = errno;
    return net_map_error(errno);
}

static bool set_option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof value) == 0;
}

io_status net_open_stream(io_socket *opened, const net_addr *peer, int *native)
{
    int fd = socket(net_addr_family(peer), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    *native = 0;
    *opened = IO_SOCKET_NONE;
    if (fd < 0) return fail(native);
    *opened = fd;
    (void)net_set_nodelay(fd, true); /* accepted sockets inherit it from their listener */
    return IO_OK;
}

static bool bind_and_listen(int fd, const net_addr *addr)
{
    if (!set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1)) return false;
    if (net_addr_family(addr) == AF_INET6 && !set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1)) return false;
    if (bind(fd, (const struct sockaddr *)addr, (socklen_t)net_addr_bytes(addr)) != 0) return false;
    return listen(fd, NET_BACKLOG) == 0;
}

io_status net_listen(io_socket *opened, const net_addr *addr, int *native)
{
    io_status status = net_open_stream(opened, addr, native);
    if (status != IO_OK) return status;
    if (bind_and_listen((int)*opened, addr)) return IO_OK;
    status = fail(native);
    net_close(*opened);
    *opened = IO_SOCKET_NONE;
    return status;
}

io_status net_local(net_addr *addr, io_socket socket)
{
    socklen_t bytes = sizeof *addr;
    *addr = (net_addr){{0}};
    if (getsockname((int)socket, (struct sockaddr *)addr, &bytes) != 0) {
        int error = errno;
        *addr = (net_addr){{0}};
        return net_map_error(error);
    }
    if (net_addr_family(addr) != 0) return IO_OK;
    *addr = (net_addr){{0}};
    return IO_UNEXPECTED;
}

static io_status result_of(bool done)
{
    return done ? IO_OK : net_map_error(errno);
}

io_status net_set_nodelay(io_socket socket, bool on)
{
    return result_of(set_option((int)socket, IPPROTO_TCP, TCP_NODELAY, on));
}

enum {
    KEEPALIVE_PROBES = 5,         /* unanswered ones that break the connection */
    KEEPALIVE_INTERVAL_MAX = 75,  /* seconds between probes: the kernel's own default */
    KEEPALIVE_SECONDS_MAX = 32767 /* MAX_TCP_KEEPIDLE, Linux include/net/tcp.h */
};

io_status net_set_keepalive(io_socket socket, unsigned seconds)
{
    int fd = (int)socket;
    if (seconds == 0) return result_of(set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 0));
    int idle = seconds < KEEPALIVE_SECONDS_MAX ? (int)seconds : KEEPALIVE_SECONDS_MAX;
    int interval = idle < KEEPALIVE_INTERVAL_MAX ? idle : KEEPALIVE_INTERVAL_MAX;
    return result_of(
        set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle) && set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval) &&
        set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES) && set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1));
}

io_status net_set_abort(io_socket socket)
{
    const struct linger linger = {.l_onoff = 1, .l_linger = 0};
    return result_of(setsockopt((int)socket, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
}

io_status net_shutdown_send(io_socket socket)
{
    return result_of(shutdown((int)socket, SHUT_WR) == 0);
}

void net_close(io_socket socket)
{
    assert(socket != IO_SOCKET_NONE);
    /* Not retried on EINTR: Linux has closed the descriptor by then (close(2)). */
    (void)close((int)socket);
}
