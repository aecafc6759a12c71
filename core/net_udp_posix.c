/* net_udp_posix.c - UDP sockets on Linux. */
#define _GNU_SOURCE 1

#include "net_udp.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static bool set_option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof value) == 0;
}

static bool open_socket(int *fd, int family)
{
    *fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (*fd < 0) return false;
    (void)set_option(*fd, SOL_SOCKET, SO_BROADCAST, 1);
    return family != AF_INET6 || set_option(*fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
}

static bool bind_to(int fd, const net_addr *addr)
{
    return bind(fd, (const struct sockaddr *)addr, (socklen_t)net_addr_bytes(addr)) == 0;
}

static bool is_multicast(const net_addr *addr)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    memcpy(&v4, addr, sizeof v4);
    memcpy(&v6, addr, sizeof v6);
    if (net_addr_family(addr) == AF_INET) return IN_MULTICAST(ntohl(v4.sin_addr.s_addr));
    return net_addr_family(addr) == AF_INET6 && IN6_IS_ADDR_MULTICAST(&v6.sin6_addr);
}

static bool join(int fd, const net_addr *addr)
{
    if (net_addr_family(addr) == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, addr, sizeof v4);
        const struct ip_mreqn group = {.imr_multiaddr = v4.sin_addr};
        return setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group) == 0;
    }
    struct sockaddr_in6 v6;
    memcpy(&v6, addr, sizeof v6);
    const struct ipv6_mreq group = {.ipv6mr_multiaddr = v6.sin6_addr};
    return setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &group, sizeof group) == 0;
}

/* Bound to the group's own address, the socket gets nothing that is sent elsewhere. */
static bool bind_and_join(int fd, const net_addr *addr)
{
    return set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1) && bind_to(fd, addr) && join(fd, addr);
}

/* After a failed step. */
static io_status fail(int fd, int *native)
{
    *native = errno;
    if (fd >= 0) (void)close(fd);
    return net_map_error(*native);
}

io_status net_udp_open(io_socket *opened, const net_addr *addr, int *native)
{
    int fd;
    *opened = IO_SOCKET_NONE;
    *native = 0;
    if (!open_socket(&fd, net_addr_family(addr))) return fail(fd, native);
    if (!(is_multicast(addr) ? bind_and_join(fd, addr) : bind_to(fd, addr))) return fail(fd, native);
    *opened = fd;
    return IO_OK;
}

bool net_udp_deals(void)
{
    return true;
}

/* The first binds without SO_REUSEPORT, so that it fails where somebody else has the port, even one who would share it
 * (another server of the same user). It gets the option afterwards, which lets the others join it: Linux 4.5,
 * udp_reuseport_add_sock(). */
io_status net_udp_open_group(io_socket *opened, uint32_t count, const net_addr *addr, int *native)
{
    net_addr bound;
    uint32_t made = 1;
    assert(count > 0);
    io_status status = net_udp_open(&opened[0], addr, native);
    if (status != IO_OK || count == 1) return status;
    bool done = set_option((int)opened[0], SOL_SOCKET, SO_REUSEPORT, 1) && net_local(&bound, opened[0]) == IO_OK;
    for (; done && made < count; made++) {
        int fd;
        done = open_socket(&fd, net_addr_family(addr)) && set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1) &&
               bind_to(fd, &bound);
        opened[made] = fd;
    }
    if (done) return IO_OK;
    status = fail(-1, native);
    for (uint32_t i = 0; i < made; i++) {
        if (opened[i] >= 0) (void)close((int)opened[i]);
    }
    return status;
}

io_status net_udp_connect(io_socket *opened, const net_addr *addr, const net_addr *peer, int *native)
{
    int fd;
    *opened = IO_SOCKET_NONE;
    *native = 0;
    if (!open_socket(&fd, net_addr_family(peer))) return fail(fd, native);
    if (addr != NULL && !bind_to(fd, addr)) return fail(fd, native);
    if (connect(fd, (const struct sockaddr *)peer, (socklen_t)net_addr_bytes(peer)) != 0) return fail(fd, native);
    *opened = fd;
    return IO_OK;
}
