/* net_udp_win.c - UDP sockets on Windows. */
#include "net_udp.h"

#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>

#include <assert.h>
#include <string.h>

/* Missing in some headers: whether "port unreachable" fails a receive. */
#ifndef SIO_UDP_CONNRESET
#define SIO_UDP_CONNRESET _WSAIOW(IOC_VENDOR, 12)
#endif

static bool set_option(SOCKET s, int level, int name, int value)
{
    return setsockopt(s, level, name, (const char *)&value, sizeof value) == 0;
}

static bool open_socket(SOCKET *s, int family)
{
    u_long on = 1;
    *s = WSASocketW(family, SOCK_DGRAM, IPPROTO_UDP, NULL, 0, WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (*s == INVALID_SOCKET || ioctlsocket(*s, (long)FIONBIO, &on) != 0) return false;
    (void)set_option(*s, SOL_SOCKET, SO_BROADCAST, 1);
    return family != AF_INET6 || set_option(*s, IPPROTO_IPV6, IPV6_V6ONLY, 1);
}

static bool bind_to(SOCKET s, const net_addr *addr)
{
    return bind(s, (const struct sockaddr *)addr, (int)net_addr_bytes(addr)) == 0;
}

/* Nobody else can take the port: without this option another program's SO_REUSEADDR could. */
static bool bind_alone(SOCKET s, const net_addr *addr)
{
    return set_option(s, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1) && bind_to(s, addr);
}

static bool is_multicast(const net_addr *addr)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    memcpy(&v4, addr, sizeof v4);
    memcpy(&v6, addr, sizeof v6);
    if (net_addr_family(addr) == AF_INET) return v4.sin_addr.S_un.S_un_b.s_b1 >> 4 == 14;
    return net_addr_family(addr) == AF_INET6 && IN6_IS_ADDR_MULTICAST(&v6.sin6_addr);
}

/* Windows binds to no group address: the wildcard and the group's port have to do. */
static bool bind_and_join(SOCKET s, const net_addr *addr)
{
    if (!set_option(s, SOL_SOCKET, SO_REUSEADDR, 1)) return false;
    if (net_addr_family(addr) == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, addr, sizeof v4);
        const struct ip_mreq group = {.imr_multiaddr = v4.sin_addr};
        v4.sin_addr.s_addr = htonl(INADDR_ANY);
        return bind(s, (const struct sockaddr *)&v4, sizeof v4) == 0 &&
               setsockopt(s, IPPROTO_IP, IP_ADD_MEMBERSHIP, (const char *)&group, sizeof group) == 0;
    }
    struct sockaddr_in6 v6;
    memcpy(&v6, addr, sizeof v6);
    const struct ipv6_mreq group = {.ipv6mr_multiaddr = v6.sin6_addr};
    v6.sin6_addr = in6addr_any;
    return bind(s, (const struct sockaddr *)&v6, sizeof v6) == 0 &&
           setsockopt(s, IPPROTO_IPV6, IPV6_JOIN_GROUP, (const char *)&group, sizeof group) == 0;
}

static io_status fail(SOCKET s, int *native)
{
    *native = WSAGetLastError();
    if (s != INVALID_SOCKET) (void)closesocket(s);
    return net_map_error(*native);
}

io_status net_udp_open(io_socket *opened, const net_addr *addr, int *native)
{
    SOCKET s;
    BOOL off = FALSE;
    DWORD written = 0;
    *opened = IO_SOCKET_NONE;
    *native = 0;
    if (!open_socket(&s, net_addr_family(addr))) return fail(s, native);
    if (!(is_multicast(addr) ? bind_and_join(s, addr) : bind_alone(s, addr))) return fail(s, native);
    /* Elsewhere a socket that speaks to many is not told of one that is gone. Wine 8 ignores the call. */
    (void)WSAIoctl(s, SIO_UDP_CONNRESET, &off, sizeof off, NULL, 0, &written, NULL, NULL);
    *opened = (io_socket)s;
    return IO_OK;
}

bool net_udp_deals(void)
{
    return false;
}

io_status net_udp_open_group(io_socket *opened, uint32_t count, const net_addr *addr, int *native)
{
    assert(count > 0);
    *native = 0;
    return count == 1 ? net_udp_open(opened, addr, native) : IO_UNSUPPORTED;
}

io_status net_udp_connect(io_socket *opened, const net_addr *addr, const net_addr *peer, int *native)
{
    SOCKET s;
    *opened = IO_SOCKET_NONE;
    *native = 0;
    if (!open_socket(&s, net_addr_family(peer))) return fail(s, native);
    if (addr != NULL && !bind_alone(s, addr)) return fail(s, native);
    if (connect(s, (const struct sockaddr *)peer, (int)net_addr_bytes(peer)) != 0) return fail(s, native);
    *opened = (io_socket)s;
    return IO_OK;
}
