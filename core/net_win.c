/* net_win.c - what sockets are on Windows: sockaddr, options, and the table that maps Winsock and Win32 codes. */
#include "net.h"
#include "net_system.h"

#include "base.h"

#include <winsock2.h>
#include <ws2tcpip.h>
#include <mstcpip.h>
#include <windows.h>

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "net_inet.h"

/* MinGW's headers lack these two. listen() on Windows takes a plain number as at most 200; a larger queue is asked
 * for as a negative one. */
#ifndef SOMAXCONN_HINT
#define SOMAXCONN_HINT(connections) (-(connections))
#endif
#ifndef ERROR_HANDLES_CLOSED
#define ERROR_HANDLES_CLOSED 676
#endif

_Static_assert(sizeof(struct sockaddr_in6) <= sizeof(net_addr), "net_addr holds both address families");
_Static_assert(sizeof(SOCKET) == sizeof(io_socket), "a SOCKET is an io_socket");
_Static_assert(INVALID_SOCKET == (SOCKET)IO_SOCKET_NONE, "there is one way to say none");

/* One event has up to three codes: a Winsock call reports 10054, a completion packet says STATUS_CONNECTION_RESET,
 * and that is 64 as a Win32 code. All of them are here, by the kind of number. "Wine" marks what only Wine gives
 * (8.0 was tried). */
static const struct {
    int native;
    io_status status;
} error_table[] = {
    {WSAEWOULDBLOCK, IO_AGAIN},
    {WSAEINPROGRESS, IO_AGAIN},
    {WSAEALREADY, IO_AGAIN},
    {WSAECONNRESET, IO_RESET},
    {WSAECONNABORTED, IO_RESET}, /* retransmission gave up, or the adapter went away */
    {WSAENETRESET, IO_RESET},    /* keep-alive gave up */
    {WSAENOTCONN, IO_RESET},     /* SO_UPDATE_ACCEPT_CONTEXT, shutdown: the connection is already gone */
    {WSAEDISCON, IO_RESET},
    {WSAECONNREFUSED, IO_REFUSED},
    {WSAETIMEDOUT, IO_TIMEOUT},
    {WSAENETDOWN, IO_UNREACHABLE},
    {WSAENETUNREACH, IO_UNREACHABLE},
    {WSAEHOSTDOWN, IO_UNREACHABLE},
    {WSAEHOSTUNREACH, IO_UNREACHABLE},
    {WSAEMFILE, IO_LIMIT},
    {WSAENOBUFS, IO_LIMIT}, /* the non-paged pool, or the ephemeral ports, are used up */
    {WSAEPROCLIM, IO_LIMIT},
    {WSAEADDRINUSE, IO_IN_USE},
    {WSAEACCES, IO_DENIED}, /* bind: also a port range that the system keeps for itself (netsh excludedportrange) */
    {WSAEADDRNOTAVAIL, IO_UNAVAILABLE},
    {WSAENOPROTOOPT, IO_UNSUPPORTED},
    {WSAEPROTONOSUPPORT, IO_UNSUPPORTED},
    {WSAESOCKTNOSUPPORT, IO_UNSUPPORTED},
    {WSAEOPNOTSUPP, IO_UNSUPPORTED},
    {WSAEPFNOSUPPORT, IO_UNSUPPORTED},
    {WSAEAFNOSUPPORT, IO_UNSUPPORTED},
    {WSASYSNOTREADY, IO_UNSUPPORTED},
    {WSAVERNOTSUPPORTED, IO_UNSUPPORTED},
    {WSAESHUTDOWN, IO_CLOSED}, /* a send after our own FIN */
    {WSAEINVAL, IO_INVALID},
    {WSAEFAULT, IO_INVALID},
    {WSAENOTSOCK, IO_INVALID},
    {WSAEDESTADDRREQ, IO_INVALID},
    {WSAEMSGSIZE, IO_INVALID},
    {WSAEISCONN, IO_INVALID},
    {WSAHOST_NOT_FOUND, IO_NOT_FOUND},
    {WSATRY_AGAIN, IO_NOT_FOUND},
    {WSANO_RECOVERY, IO_NOT_FOUND},
    {WSANO_DATA, IO_NOT_FOUND},

    /* CancelIoEx() makes it 995, whatever the op was. As io_close() comes only when nothing is pending, every other
     * end of an op is the doing of the peer or the network, also where Windows uses the same code for a socket that
     * was closed under its op (64, 1236); so no op needs to remember that it was canceled. The next two mean such a
     * closed socket and nothing else. */
    {ERROR_OPERATION_ABORTED, IO_CANCELED},
    {ERROR_HANDLES_CLOSED, IO_CANCELED}, /* Wine, a receive */
    {ERROR_INVALID_HANDLE, IO_CANCELED}, /* Wine, a send */

    {ERROR_NETNAME_DELETED, IO_RESET}, /* STATUS_CONNECTION_RESET, STATUS_LOCAL_DISCONNECT, STATUS_REMOTE_DISCONNECT */
    {ERROR_UNEXP_NET_ERR, IO_RESET},   /* Wine, AcceptEx: the peer was gone before it was accepted; Windows: 64 */
    {ERROR_CONNECTION_ABORTED, IO_RESET},
    {ERROR_CONNECTION_INVALID, IO_RESET},
    {ERROR_GRACEFUL_DISCONNECT, IO_RESET}, /* a send to a peer that has closed both ways */
    {ERROR_CONNECTION_REFUSED, IO_REFUSED},
    {ERROR_PORT_UNREACHABLE, IO_REFUSED}, /* ICMP: nobody has that port */
    {ERROR_SEM_TIMEOUT, IO_TIMEOUT},      /* STATUS_IO_TIMEOUT: connect or retransmission gave up */
    {ERROR_TIMEOUT, IO_TIMEOUT},
    {WAIT_TIMEOUT, IO_TIMEOUT},
    {ERROR_NETWORK_UNREACHABLE, IO_UNREACHABLE},
    {ERROR_HOST_UNREACHABLE, IO_UNREACHABLE},
    {ERROR_PROTOCOL_UNREACHABLE, IO_UNREACHABLE},
    {ERROR_HOST_DOWN, IO_UNREACHABLE},
    {ERROR_NETWORK_NOT_AVAILABLE, IO_UNREACHABLE},
    {ERROR_BAD_NETPATH, IO_UNREACHABLE}, /* STATUS_BAD_NETWORK_PATH */
    {ERROR_TOO_MANY_OPEN_FILES, IO_LIMIT},
    {ERROR_NOT_ENOUGH_MEMORY, IO_LIMIT},
    {ERROR_OUTOFMEMORY, IO_LIMIT},
    {ERROR_TOO_MANY_NAMES, IO_LIMIT}, /* STATUS_TOO_MANY_ADDRESSES */
    {ERROR_NO_SYSTEM_RESOURCES, IO_LIMIT},
    {ERROR_WORKING_SET_QUOTA, IO_LIMIT}, /* the pages of a buffer cannot be locked */
    {ERROR_COMMITMENT_LIMIT, IO_LIMIT},
    {ERROR_NOT_ENOUGH_QUOTA, IO_LIMIT},
    {ERROR_DUP_NAME, IO_IN_USE}, /* STATUS_ADDRESS_ALREADY_EXISTS: an outbound connection with the same four numbers */
    {ERROR_ADDRESS_ALREADY_ASSOCIATED, IO_IN_USE},
    {ERROR_ACCESS_DENIED, IO_DENIED},
    {ERROR_NETWORK_ACCESS_DENIED, IO_DENIED},
    {ERROR_NOT_SUPPORTED, IO_UNSUPPORTED},
    {ERROR_INVALID_FUNCTION, IO_UNSUPPORTED},
    {ERROR_INVALID_PARAMETER, IO_INVALID}, /* CreateIoCompletionPort: the socket has a port already */
    {ERROR_NOACCESS, IO_INVALID},          /* a buffer that is not ours */
    {ERROR_MORE_DATA, IO_INVALID},
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
    WSADATA data;
    return net_map_error(WSAStartup(MAKEWORD(2, 2), &data));
}

void net_stop(void)
{
    (void)WSACleanup();
}

/* ---- Addresses ---- */

void net_system_write_host(const net_endpoint *endpoint, char *text, size_t size)
{
    char host[INET6_ADDRSTRLEN]; /* longer here than elsewhere, and the call may insist on it */
    const char *written = inet_ntop(endpoint->version == 6 ? AF_INET6 : AF_INET, endpoint->bytes, host, sizeof host);
    assert(written != NULL);
    assert(size >= NET_HOST_TEXT_MAX);
    (void)written;
    (void)snprintf(text, size, "%s", host);
}

/* Not gai_strerror(): it is not safe for threads, and speaks in the system's language and code page. */
static void describe_failure(char *why, size_t why_size, int code)
{
    switch (code) {
    case WSAHOST_NOT_FOUND:
        (void)snprintf(why, why_size, "no such host");
        break;
    case WSANO_DATA:
        (void)snprintf(why, why_size, "the name has no address");
        break;
    case WSATRY_AGAIN:
        (void)snprintf(why, why_size, "no name server answered");
        break;
    default:
        (void)snprintf(why, why_size, "the resolver failed (system code %d)", code);
        break;
    }
}

io_status net_system_resolve(net_endpoint *endpoints, size_t *count, const char *host, char *why, size_t why_size)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *list = NULL;
    int code = getaddrinfo(host, NULL, &hints, &list);
    if (code != 0) {
        describe_failure(why, why_size, code);
        return net_map_error(code) == IO_LIMIT ? IO_LIMIT : IO_NOT_FOUND;
    }
    return net_inet_take(endpoints, count, list, why, why_size);
}

int net_addr_family(const net_addr *addr)
{
    ADDRESS_FAMILY family;
    memcpy(&family, addr, sizeof family); /* sa_family is the first member on Windows */
    return family == AF_INET || family == AF_INET6 || family == AF_UNIX ? family : 0;
}

/* ---- Sockets ---- */

static io_status result_of(bool done)
{
    return done ? IO_OK : net_map_error(WSAGetLastError());
}

static bool set_option(io_socket socket, int level, int name, int value)
{
    return setsockopt((SOCKET)socket, level, name, (const char *)&value, sizeof value) == 0;
}

/* An overlapped, non-blocking stream socket that no child process inherits. */
static bool open_socket(io_socket *opened, int family)
{
    u_long on = 1;
    SOCKET s = WSASocketW(family, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    *opened = (io_socket)s;
    if (s == INVALID_SOCKET || ioctlsocket(s, (long)FIONBIO, &on) != 0) return false;
    (void)net_set_nodelay(*opened, true);
    return true;
}

static bool bind_to(io_socket socket, const net_addr *addr)
{
    return bind((SOCKET)socket, (const struct sockaddr *)addr, (int)net_addr_bytes(addr)) == 0;
}

/* ConnectEx wants a bound socket: the wildcard address, any port. */
static bool open_bound(io_socket *opened, const net_addr *peer)
{
    net_addr any = {{0}};
    ADDRESS_FAMILY family = (ADDRESS_FAMILY)net_addr_family(peer);
    memcpy(&any, &family, sizeof family);
    return open_socket(opened, family) && bind_to(*opened, &any);
}

static bool open_listening(io_socket *opened, const net_addr *addr)
{
    int family = net_addr_family(addr);
    if (!open_socket(opened, family)) return false;
    if (!set_option(*opened, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1)) return false;
    if (family == AF_INET6 && !set_option(*opened, IPPROTO_IPV6, IPV6_V6ONLY, 1)) return false;
    return bind_to(*opened, addr) && listen((SOCKET)*opened, SOMAXCONN_HINT(NET_BACKLOG)) == 0;
}

/* After a failed step: the code, and nothing left open. */
static io_status fail(io_socket *opened, int *native)
{
    *native = WSAGetLastError();
    if (*opened != IO_SOCKET_NONE) net_close(*opened);
    *opened = IO_SOCKET_NONE;
    return net_map_error(*native);
}

io_status net_open_stream(io_socket *opened, const net_addr *peer, int *native)
{
    *native = 0;
    return open_bound(opened, peer) ? IO_OK : fail(opened, native);
}

io_status net_listen(io_socket *opened, const net_addr *addr, int *native)
{
    *native = 0;
    return open_listening(opened, addr) ? IO_OK : fail(opened, native);
}

io_status net_local(net_addr *addr, io_socket socket)
{
    int bytes = sizeof *addr;
    *addr = (net_addr){{0}};
    if (getsockname((SOCKET)socket, (struct sockaddr *)addr, &bytes) != 0) {
        int error = WSAGetLastError();
        *addr = (net_addr){{0}};
        return net_map_error(error);
    }
    if (net_addr_family(addr) != 0) return IO_OK;
    *addr = (net_addr){{0}};
    return IO_UNEXPECTED;
}

io_status net_set_nodelay(io_socket socket, bool on)
{
    return result_of(set_option(socket, IPPROTO_TCP, TCP_NODELAY, on));
}

enum {
    KEEPALIVE_INTERVAL_MAX_MS = 37500, /* between probes: Windows sends ten, net_posix.c five at twice the distance */
    KEEPALIVE_SECONDS_MAX = 32767      /* as on Linux */
};

io_status net_set_keepalive(io_socket socket, unsigned seconds)
{
    ULONG idle_ms = (seconds < KEEPALIVE_SECONDS_MAX ? seconds : KEEPALIVE_SECONDS_MAX) * 1000;
    ULONG interval_ms = idle_ms / 2 < KEEPALIVE_INTERVAL_MAX_MS ? idle_ms / 2 : KEEPALIVE_INTERVAL_MAX_MS;
    struct tcp_keepalive values = {.onoff = seconds > 0, .keepalivetime = idle_ms, .keepaliveinterval = interval_ms};
    DWORD written = 0;
    return result_of(
        WSAIoctl((SOCKET)socket, SIO_KEEPALIVE_VALS, &values, sizeof values, NULL, 0, &written, NULL, NULL) == 0);
}

io_status net_set_abort(io_socket socket)
{
    const struct linger linger = {.l_onoff = 1, .l_linger = 0};
    return result_of(setsockopt((SOCKET)socket, SOL_SOCKET, SO_LINGER, (const char *)&linger, sizeof linger) == 0);
}

io_status net_shutdown_send(io_socket socket)
{
    return result_of(shutdown((SOCKET)socket, SD_SEND) == 0);
}

void net_close(io_socket socket)
{
    assert(socket != IO_SOCKET_NONE);
    (void)closesocket((SOCKET)socket);
}
