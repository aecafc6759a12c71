/* rig_win.c - the plain peer and the descriptors, on Windows. */
#include "rig.h"

#include <winsock2.h>
#include <ws2tcpip.h>

static int to_sockaddr(struct sockaddr_storage *to, const net_addr *addr)
{
    memset(to, 0, sizeof(*to));
    memcpy(to, addr->words, sizeof(addr->words));
    return (int)net_addr_bytes(addr);
}

static void set_nonblocking(SOCKET handle)
{
    u_long on = 1;
    check_eq(ioctlsocket(handle, (long)FIONBIO, &on), 0);
}

static SOCKET open_stream(int family)
{
    SOCKET handle = WSASocketW(family, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
    if (handle == INVALID_SOCKET) fail("WSASocketW: %d", WSAGetLastError());
    return handle;
}

io_socket peer_connect(const net_addr *addr)
{
    struct sockaddr_storage to;
    int len = to_sockaddr(&to, addr);
    SOCKET handle = open_stream(net_addr_family(addr));
    if (connect(handle, (struct sockaddr *)&to, len) != 0) fail("connect: %d", WSAGetLastError());
    set_nonblocking(handle);
    net_set_nodelay((io_socket)handle, true);
    return (io_socket)handle;
}

io_socket peer_connect_begin(const net_addr *addr)
{
    struct sockaddr_storage to;
    int len = to_sockaddr(&to, addr);
    SOCKET handle = open_stream(net_addr_family(addr));
    set_nonblocking(handle);
    if (connect(handle, (struct sockaddr *)&to, len) != 0) check_eq(WSAGetLastError(), WSAEWOULDBLOCK);
    return (io_socket)handle;
}

io_socket peer_listen(net_addr *addr)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    SOCKET handle = open_stream(AF_INET);
    check_eq(bind(handle, (struct sockaddr *)&at, sizeof(at)), 0);
    check_eq(listen(handle, 0), 0);
    set_nonblocking(handle);
    check_eq(net_local(addr, (io_socket)handle), IO_OK);
    return (io_socket)handle;
}

io_socket peer_accept(io_socket listener)
{
    if (!peer_ready(listener, false, RIG_PATIENCE_NS)) fail("nobody connects");
    SOCKET handle = accept((SOCKET)listener, NULL, NULL);
    if (handle == INVALID_SOCKET) fail("accept: %d", WSAGetLastError());
    set_nonblocking(handle);
    net_set_nodelay((io_socket)handle, true);
    return (io_socket)handle;
}

/* What a call said, as the peer's functions say it. */
static long outcome(int result)
{
    if (result >= 0) return result;
    int code = WSAGetLastError();
    if (code == WSAEWOULDBLOCK) return PEER_AGAIN;
    if (code != WSAECONNRESET && code != WSAECONNABORTED) fail("the peer's socket: %d", code);
    return PEER_RESET;
}

long peer_send_now(io_socket socket, const void *bytes, size_t len)
{
    return outcome(send((SOCKET)socket, bytes, (int)len, 0));
}

long peer_recv_now(io_socket socket, void *bytes, size_t len)
{
    return outcome(recv((SOCKET)socket, bytes, (int)len, 0));
}

bool peer_ready(io_socket socket, bool to_send, int64_t timeout_ns)
{
    struct timeval timeout = {.tv_sec = (long)(timeout_ns / 1000000000),
                              .tv_usec = (long)(timeout_ns % 1000000000 / 1000)};
    fd_set set = {.fd_count = 1, .fd_array = {(SOCKET)socket}};
    int count = select(0, to_send ? NULL : &set, to_send ? &set : NULL, NULL, &timeout);
    if (count < 0) fail("select: %d", WSAGetLastError());
    return count > 0;
}

void peer_small_buffers(io_socket socket)
{
    int bytes = 16384; /* much less and the window closes for 200 ms at a time */
    check_eq(setsockopt((SOCKET)socket, SOL_SOCKET, SO_RCVBUF, (const char *)&bytes, sizeof(bytes)), 0);
}

long descriptors_count(void)
{
    return -1; /* the count of handles moves with what the system opens by itself */
}

bool descriptors_exhaust(void)
{
    return false;
}

void descriptors_free_one(void)
{
    fail("there is no limit on descriptors here");
}

void descriptors_restore(void)
{
    fail("there is no limit on descriptors here");
}
