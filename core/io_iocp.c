/* io_iocp.c - io.h over the completion ports of Windows.
 *
 * An op begins with its OVERLAPPED, so the system's pointer is the op's. Packets come from two places: from the
 * system's port, a batch at a time, and from a queue of our own for what completed while it was submitted
 * (FILE_SKIP_COMPLETION_PORT_ON_SUCCESS spares the system the packet for those). io_port_next() takes from the batch
 * first, then from the queue in laps: a lap is what is ready when it begins, so in a round no connection gets more
 * turns than there are laps, however fast its peer is. Without that bound one connection can hold the loop.
 *
 * A lent receive is a zero-byte WSARecv, which pins no memory, and then a non-blocking recv() into the port's one
 * scratch buffer when its packet is taken.
 *
 * A datagram is waited for by a zero-byte read that only peeks, which completes with "more data", a warning. Whether
 * a warning that comes at once leaves a packet in a port that skips successes is written nowhere; so on UDP sockets
 * nothing is skipped, and both leave one.
 *
 * Closing a socket while an op is pending means something else on every system and version, so nothing here does; see
 * the contract in io.h.
 */
#include "io.h"

#include "base.h"
#include "io_backend.h"
#include "log.h"
#include "mem.h"
#include "os.h"

#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>

#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(OVERLAPPED) == sizeof(((io_op *)0)->native), "native is exactly an OVERLAPPED");
_Static_assert(offsetof(io_op, native) == 0, "an OVERLAPPED's address is its op's");
_Static_assert(_Alignof(OVERLAPPED) <= _Alignof(io_op), "an OVERLAPPED may be where native is");
_Static_assert(sizeof(io_op) == 64, "one cache line");

enum {
    BATCH = 64,          /* packets taken from the system in one call */
    LAPS = 8,            /* turns of one connection in one round, for ops that complete at once */
    CANCELED_MAX = 64,   /* names of canceled sockets kept, see was_canceled() */
    ADDRESS_BYTES = 144, /* what AcceptEx wants for one address: 16 more than the largest */
    BUFFER_WORD = 3,     /* of op->native, for completed ops: where the bytes of io_recv_into() are */
    POST_TRIES = 5000,   /* a post that the system cannot take is tried again, a millisecond apart */
    NS_PER_MS = 1000000
};

_Static_assert(sizeof(((io_accept_op *)0)->addresses) == 2 * ADDRESS_BYTES, "room for AcceptEx");
_Static_assert(ADDRESS_BYTES >= sizeof(SOCKADDR_STORAGE) + 16, "AcceptEx: 16 bytes more than the address");

/* op->flags */
enum {
    OP_SYSTEM = 1,  /* exactly while the system has it: from submit or post until its packet is taken */
    OP_LENT = 2,    /* io_recv(), not io_recv_into() */
    OP_CANCELED = 4 /* io_cancel() came when the zero-byte read was already over; see lend() */
};

/* op->result while the op is idle: the last lent receive filled the buffer, so more is likely to be there. */
enum { RESULT_FILLED = 1 };

/* Whose packet it is: the completion key. */
enum { KEY_SOCKET = 1, KEY_POST, KEY_CONNECT };

typedef struct iocp_port iocp_port;

/* A connect under way without ConnectEx: the thread pool waits for its event and posts the op to the port. */
typedef struct connect_wait {
    struct connect_wait *next;
    iocp_port *port;
    io_op *op;
    HANDLE event; /* signalled when the connect is over */
    PTP_WAIT wait;
    atomic_bool posted; /* the op is in the system's port, or about to be */
} connect_wait;

struct iocp_port {
    io_port common;
    HANDLE handle;
    bool skips; /* a success that comes at once leaves no packet, on every socket of this port */
    LPFN_ACCEPTEX accept_ex;
    LPFN_GETACCEPTEXSOCKADDRS accept_ex_addresses;
    LPFN_CONNECTEX connect_ex;                     /* NULL: not to be had */
    ULONG(WINAPI *error_of_status)(LONG ntstatus); /* RtlNtStatusToDosError */
    uint32_t in_system;                            /* submitted ops with OP_SYSTEM; posts are not counted */
    uint32_t ready_count;
    io_queue ready; /* completed while submitted; result and bytes are set */
    uint32_t lap_left;
    uint32_t laps_left;
    uint32_t round_left;
    ULONG entry_next; /* entries before it have been taken */
    ULONG entry_count;
    OVERLAPPED_ENTRY entries[BATCH];
    connect_wait *connects;
    uint32_t canceled_count; /* above CANCELED_MAX: there were more than we have names of */
    io_socket canceled[CANCELED_MAX];
    uint32_t scratch_bytes;
    uint8_t scratch[]; /* what lent receives lend */
};

static iocp_port *port_of(io_port *port)
{
    return container_of(port, iocp_port, common);
}

static OVERLAPPED *overlapped_of(io_op *op)
{
    return (OVERLAPPED *)(void *)op->native;
}

/* ---- From submit to packet ---- */

/* Clears the OVERLAPPED, which also means: no event. buffer is for io_recv_into(). It waits in op->next, which is
 * free while the system has the op, because Windows keeps all of an OVERLAPPED to itself. */
static OVERLAPPED *prepare(io_op *op, void *buffer)
{
    memset(op->native, 0, sizeof op->native);
    op->next = buffer;
    return overlapped_of(op);
}

static void given_to_system(iocp_port *port, io_op *op)
{
    op->flags |= OP_SYSTEM;
    port->in_system++;
}

/* The op is over, and its packet will come from our own queue. */
static void make_ready(iocp_port *port, io_op *op, DWORD code, DWORD bytes)
{
    op->native[BUFFER_WORD] = (uintptr_t)op->next;
    op->result = (int32_t)code;
    op->bytes = bytes;
    io_queue_push(&port->ready, op);
    port->ready_count++;
}

/* What became of an overlapped call. bytes matters for a success.
 * result  as the submit's: IO_LIMIT when the system had no room for the op. */
static io_status submitted(iocp_port *port, io_op *op, bool success, DWORD bytes)
{
    DWORD code = success ? NO_ERROR : (DWORD)WSAGetLastError();
    if (code == WSA_IO_PENDING || (success && !port->skips)) {
        given_to_system(port, op);
        return IO_OK;
    }
    /* WSAEWOULDBLOCK: of overlapped operations there are too many (WSASend's documentation). */
    if (code == WSAEWOULDBLOCK || net_map_error((int)code) == IO_LIMIT) return IO_LIMIT;
    make_ready(port, op, code, bytes);
    return IO_OK;
}

/* The same for UDP sockets. */
static io_status submitted_udp(iocp_port *port, io_op *op, bool success)
{
    DWORD code = success ? NO_ERROR : (DWORD)WSAGetLastError();
    if (success || code == WSA_IO_PENDING || code == WSAEMSGSIZE) {
        given_to_system(port, op);
        return IO_OK;
    }
    if (code == WSAEWOULDBLOCK || net_map_error((int)code) == IO_LIMIT) return IO_LIMIT;
    make_ready(port, op, code, 0);
    return IO_OK;
}

static io_status submit_peek(iocp_port *port, io_op *op)
{
    WSABUF nothing = {.buf = NULL, .len = 0};
    DWORD bytes = 0;
    DWORD flags = MSG_PEEK;
    OVERLAPPED *overlapped = prepare(op, NULL);
    bool success = WSARecv((SOCKET)op->socket, &nothing, 1, &bytes, &flags, overlapped, NULL) == 0;
    return submitted_udp(port, op, success);
}

static io_status iocp_recv_from(io_port *common, io_datagram_op *op, io_socket socket)
{
    (void)socket;
    return submit_peek(port_of(common), &op->op);
}

static io_status iocp_send_to(io_port *common, io_datagram_op *op, io_socket socket, const void *data, size_t len)
{
    union {
        const void *base;
        char *buf;
    } unconst = {data};
    WSABUF datagram = {.buf = unconst.buf, .len = (ULONG)len};
    DWORD bytes = 0;
    int to_bytes = (int)net_addr_bytes(&op->peer);
    const struct sockaddr *to = to_bytes > 0 ? (const struct sockaddr *)&op->peer : NULL;
    OVERLAPPED *overlapped = prepare(&op->op, NULL);
    bool success = WSASendTo((SOCKET)socket, &datagram, 1, &bytes, 0, to, to_bytes, overlapped, NULL) == 0;
    return submitted_udp(port_of(common), &op->op, success);
}

static io_status submit_recv(iocp_port *port, io_op *op, void *buffer, size_t len)
{
    WSABUF place = {.buf = buffer, .len = (ULONG)len};
    DWORD bytes = 0;
    DWORD flags = 0;
    OVERLAPPED *overlapped = prepare(op, buffer);
    bool success = WSARecv((SOCKET)op->socket, &place, 1, &bytes, &flags, overlapped, NULL) == 0;
    return submitted(port, op, success, bytes);
}

static io_status iocp_recv(io_port *common, io_op *op, io_socket socket, void *buffer, size_t len)
{
    iocp_port *port = port_of(common);
    (void)socket;
    if (buffer != NULL) return submit_recv(port, op, buffer, len);
    op->flags |= OP_LENT;
    if (op->result != RESULT_FILLED) return submit_recv(port, op, NULL, 0);
    (void)prepare(op, NULL);
    make_ready(port, op, NO_ERROR, 0); /* as if the zero-byte read had been done; lend() copes if nothing is there */
    return IO_OK;
}

static io_status iocp_readable(io_port *common, io_op *op, io_socket socket)
{
    (void)socket;
    return submit_recv(port_of(common), op, NULL, 0);
}

static io_status iocp_send(io_port *common, io_op *op, io_socket socket, const io_buf *bufs, uint32_t count)
{
    WSABUF gather[IO_BUFS_MAX];
    DWORD bytes = 0;
    ULONG room = INT32_MAX; /* in all, so that the count of moved bytes fits; the caller submits the rest */
    for (uint32_t i = 0; i < count; i++) {
        ULONG len = bufs[i].len < room ? (ULONG)bufs[i].len : room;
        union {
            const void *base;
            char *buf;
        } unconst = {bufs[i].base};
        gather[i] = (WSABUF){.buf = unconst.buf, .len = len};
        room -= len;
    }
    OVERLAPPED *overlapped = prepare(op, NULL);
    bool success = WSASend((SOCKET)socket, gather, count, &bytes, 0, overlapped, NULL) == 0;
    return submitted(port_of(common), op, success, bytes);
}

/* ---- Accepting ---- */

static void drop_accepted(io_accept_op *op)
{
    net_close(op->accepted);
    op->accepted = IO_SOCKET_NONE;
}

/* Never with room for data: then the accept would wait for the peer's first bytes, and silent peers could hold all
 * accepts of a listener. */
static io_status iocp_accept(io_port *common, io_accept_op *op, io_socket listener)
{
    iocp_port *port = port_of(common);
    net_addr local;
    DWORD bytes = 0;
    io_status status = net_local(&local, listener);
    if (status != IO_OK) return status;
    SOCKET socket = WSASocketW(net_addr_family(&local), SOCK_STREAM, IPPROTO_TCP, NULL, 0,
                               WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (socket == INVALID_SOCKET) return net_map_error(WSAGetLastError());
    op->accepted = (io_socket)socket;
    OVERLAPPED *overlapped = prepare(&op->op, NULL);
    bool success =
        port->accept_ex((SOCKET)listener, socket, op->addresses, 0, ADDRESS_BYTES, ADDRESS_BYTES, &bytes, overlapped);
    status = submitted(port, &op->op, success, bytes);
    if (status != IO_OK) drop_accepted(op);
    return status;
}

/* Gives the accepted socket the listener's context, without which shutdown() and getpeername() fail on it (Wine 8
 * does without, so only Windows notices when this is forgotten). Fails when the peer has already gone; that is this
 * connection's affair and not the listener's. Returns a native code. */
static DWORD adopt(const io_accept_op *op)
{
    u_long on = 1;
    SOCKET socket = (SOCKET)op->accepted;
    SOCKET listener = (SOCKET)op->listener;
    if (setsockopt(socket, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, (const char *)&listener, sizeof listener) != 0 ||
        ioctlsocket(socket, (long)FIONBIO, &on) != 0) {
        return (DWORD)WSAGetLastError();
    }
    (void)net_set_nodelay(op->accepted, true);
    return NO_ERROR;
}

static DWORD finish_accept(iocp_port *port, io_accept_op *op, io_packet *packet, DWORD code)
{
    struct sockaddr *local = NULL;
    struct sockaddr *peer = NULL;
    int local_bytes = 0;
    int peer_bytes = 0;
    op->peer = (net_addr){{0}};
    op->peer_bytes = 0;
    if (code == NO_ERROR) code = adopt(op);
    if (code != NO_ERROR) {
        drop_accepted(op);
        return code;
    }
    port->accept_ex_addresses(op->addresses, 0, ADDRESS_BYTES, ADDRESS_BYTES, &local, &local_bytes, &peer, &peer_bytes);
    if (peer != NULL && peer_bytes > 0 && (size_t)peer_bytes <= sizeof op->peer) {
        memcpy(&op->peer, peer, (size_t)peer_bytes);
        op->peer_bytes = (uint32_t)peer_bytes;
    }
    packet->accepted = op->accepted;
    op->accepted = IO_SOCKET_NONE;
    return NO_ERROR;
}

/* ---- Connecting ---- */

/* Gives the op to its port from any thread. Fails only while the system's non-paged pool is used up. */
static void post(iocp_port *port, ULONG_PTR key, io_op *op)
{
    for (int i = 0; i < POST_TRIES; i++) {
        if (PostQueuedCompletionStatus(port->handle, 0, key, overlapped_of(op))) return;
        assert(GetLastError() != ERROR_INVALID_HANDLE);
        Sleep(1);
    }
    /* Going on without it would lose a connection or the order to stop, without a trace. */
    log_write(LOG_ERROR, "PostQueuedCompletionStatus keeps failing (system code %lu)", GetLastError());
    abort();
}

static VOID CALLBACK on_connect_event(PTP_CALLBACK_INSTANCE instance, PVOID context, PTP_WAIT wait,
                                      TP_WAIT_RESULT result)
{
    connect_wait *w = context;
    (void)instance;
    (void)wait;
    (void)result;
    atomic_store(&w->posted, true);
    post(w->port, KEY_CONNECT, w->op);
}

/* Ends the waiting, so that the op is from now on either posted or never will be, and returns the native code of the
 * connect. */
static DWORD stop_waiting(connect_wait *w)
{
    WSANETWORKEVENTS events = {0};
    SetThreadpoolWait(w->wait, NULL, NULL);
    WaitForThreadpoolWaitCallbacks(w->wait, TRUE);
    CloseThreadpoolWait(w->wait);
    int result = WSAEnumNetworkEvents((SOCKET)w->op->socket, NULL, &events);
    DWORD code = result != 0 ? (DWORD)WSAGetLastError() : (DWORD)events.iErrorCode[FD_CONNECT_BIT];
    (void)WSAEventSelect((SOCKET)w->op->socket, NULL, 0);
    (void)CloseHandle(w->event);
    return code;
}

static void unlink_wait(iocp_port *port, connect_wait *w)
{
    connect_wait **link = &port->connects;
    while (*link != w) link = &(*link)->next;
    *link = w->next;
    mem_free(w);
}

/* The classic way, where ConnectEx is missing. */
static io_status connect_waiting(iocp_port *port, io_op *op, const net_addr *peer)
{
    SOCKET socket = (SOCKET)op->socket;
    connect_wait *w = mem_zalloc(sizeof *w);
    if (w == NULL) return IO_LIMIT;
    w->port = port;
    w->op = op;
    w->event = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (w->event == NULL) goto fail;
    w->wait = CreateThreadpoolWait(on_connect_event, w, NULL);
    if (w->wait == NULL) goto fail_event;
    if (WSAEventSelect(socket, w->event, FD_CONNECT) != 0) goto fail_wait;
    w->next = port->connects;
    port->connects = w;
    (void)prepare(op, NULL);
    int result = connect(socket, (const struct sockaddr *)peer, (int)net_addr_bytes(peer));
    DWORD code = result == 0 ? NO_ERROR : (DWORD)WSAGetLastError();
    if (code == WSAEWOULDBLOCK) {
        given_to_system(port, op);
        SetThreadpoolWait(w->wait, w->event, NULL);
        return IO_OK;
    }
    (void)stop_waiting(w);
    unlink_wait(port, w);
    make_ready(port, op, code, 0);
    return IO_OK;
fail_wait:
    CloseThreadpoolWait(w->wait);
fail_event:
    (void)CloseHandle(w->event);
fail:
    mem_free(w);
    return IO_LIMIT;
}

/* CancelIoEx knows nothing of these. */
static void cancel_waiting(iocp_port *port, io_socket socket)
{
    connect_wait *w = port->connects;
    while (w != NULL && w->op->socket != socket) w = w->next;
    if (w == NULL) return;
    SetThreadpoolWait(w->wait, NULL, NULL);
    WaitForThreadpoolWaitCallbacks(w->wait, TRUE);
    if (atomic_load(&w->posted)) return; /* it reached its result first */
    (void)stop_waiting(w);
    w->op->flags &= (uint8_t)~OP_SYSTEM;
    port->in_system--;
    make_ready(port, w->op, ERROR_OPERATION_ABORTED, 0);
    unlink_wait(port, w);
}

static DWORD finish_waiting(iocp_port *port, const io_op *op)
{
    connect_wait *w = port->connects;
    while (w->op != op) w = w->next;
    DWORD code = stop_waiting(w);
    unlink_wait(port, w);
    return code;
}

static io_status iocp_connect(io_port *common, io_op *op, io_socket socket, const net_addr *peer)
{
    iocp_port *port = port_of(common);
    DWORD bytes = 0;
    if (port->connect_ex == NULL) return connect_waiting(port, op, peer);
    OVERLAPPED *overlapped = prepare(op, NULL);
    bool success = port->connect_ex((SOCKET)socket, (const struct sockaddr *)peer, (int)net_addr_bytes(peer), NULL, 0,
                                    &bytes, overlapped);
    return submitted(port, op, success, bytes);
}

/* As adopt(), for the other end, after ConnectEx. */
static DWORD finish_connect(const iocp_port *port, const io_op *op, DWORD code)
{
    if (code != NO_ERROR || port->connect_ex == NULL) return code;
    if (setsockopt((SOCKET)op->socket, SOL_SOCKET, SO_UPDATE_CONNECT_CONTEXT, NULL, 0) == 0) return NO_ERROR;
    return (DWORD)WSAGetLastError();
}

/* ---- Canceling and closing ---- */

/* A socket that was canceled when a packet of it may already have been in the system's port, out of our sight. The
 * port forgets when it has seen the system's queue empty, and then knows which ops it concerns. With more sockets
 * than names it takes all for canceled: a healthy connection would suffer only if, at that moment, its bytes were
 * announced and then not there. */
static bool was_canceled(const iocp_port *port, io_socket socket)
{
    if (port->canceled_count > CANCELED_MAX) return true;
    for (uint32_t i = 0; i < port->canceled_count; i++) {
        if (port->canceled[i] == socket) return true;
    }
    return false;
}

static io_op *entry_op(const OVERLAPPED_ENTRY *entry)
{
    return (io_op *)(void *)entry->lpOverlapped;
}

static void iocp_cancel(io_port *common, io_socket socket)
{
    iocp_port *port = port_of(common);
    cancel_waiting(port, socket);
    (void)CancelIoEx((HANDLE)socket, NULL); /* ERROR_NOT_FOUND: the system has none of its ops */
    for (ULONG i = port->entry_next; i < port->entry_count; i++) {
        io_op *op = entry_op(&port->entries[i]);
        if (op->socket == socket) op->flags |= OP_CANCELED;
    }
    for (io_op *op = port->ready.head; op != NULL; op = op->next) {
        if (op->socket == socket) op->flags |= OP_CANCELED;
    }
    if (port->canceled_count < CANCELED_MAX) port->canceled[port->canceled_count] = socket;
    if (port->canceled_count <= CANCELED_MAX) port->canceled_count++;
}

/* After a batch was taken. */
static void mark_canceled(iocp_port *port)
{
    if (port->canceled_count == 0) return;
    for (ULONG i = port->entry_next; i < port->entry_count; i++) {
        io_op *op = entry_op(&port->entries[i]);
        if ((op->kind == IO_RECV || op->kind == IO_RECV_FROM) && was_canceled(port, op->socket))
            op->flags |= OP_CANCELED;
    }
    if (port->entry_count < BATCH) port->canceled_count = 0; /* the system had no more */
}

static io_status iocp_shutdown(io_port *common, io_socket socket)
{
    (void)common;
    return net_shutdown_send(socket);
}

static void iocp_close_socket(io_port *common, io_socket socket, bool abort)
{
    (void)common;
    if (abort) (void)net_set_abort(socket);
    net_close(socket);
}

/* ---- Packets ---- */

static io_status iocp_draw(io_port *common, io_socket socket, void *buffer, size_t len, size_t *bytes)
{
    (void)common;
    int count = recv((SOCKET)socket, buffer, len < INT32_MAX ? (int)len : INT32_MAX, 0);
    if (count < 0) return net_map_error(WSAGetLastError());
    *bytes = (size_t)count;
    return IO_OK;
}

/* Bytes, FIN or an error are there to be had. Returns false when they are not after all: then the zero-byte read is
 * waiting again. Otherwise sets the native code. */
static bool lend(iocp_port *port, io_op *op, io_packet *packet, DWORD *code)
{
    int count = recv((SOCKET)op->socket, (char *)port->scratch, (int)port->scratch_bytes, 0);
    if (count >= 0) {
        packet->bytes = (uint32_t)count;
        packet->data = port->scratch;
        if ((uint32_t)count == port->scratch_bytes) op->result = RESULT_FILLED;
        return true;
    }
    *code = (DWORD)WSAGetLastError();
    if (*code != WSAEWOULDBLOCK) return true;
    /* Nobody would cancel the new read. */
    if ((op->flags & OP_CANCELED) != 0) {
        *code = ERROR_OPERATION_ABORTED;
        return true;
    }
    if (submit_recv(port, op, NULL, 0) == IO_OK) return false;
    *code = ERROR_NO_SYSTEM_RESOURCES;
    return true;
}

/* The same for the datagram that a peek has seen. */
static bool lend_datagram(iocp_port *port, io_datagram_op *op, io_packet *packet, DWORD *code)
{
    int peer_bytes = sizeof op->peer;
    int count = recvfrom((SOCKET)op->op.socket, (char *)port->common.datagram, IO_DATAGRAM_BYTES, 0,
                         (struct sockaddr *)&op->peer, &peer_bytes);
    *code = count >= 0 ? NO_ERROR : (DWORD)WSAGetLastError();
    if (count >= 0) {
        packet->bytes = (uint32_t)count;
        packet->data = port->common.datagram;
    }
    if (*code != WSAEWOULDBLOCK) return true;
    if ((op->op.flags & OP_CANCELED) != 0) *code = ERROR_OPERATION_ABORTED;
    else if (submit_peek(port, &op->op) == IO_OK) return false;
    else *code = ERROR_NO_SYSTEM_RESOURCES;
    return true;
}

/* What resets a stream says of a datagram that its port is unreachable: Winsock reports that as 10054. */
static DWORD datagram_error(DWORD code)
{
    return net_map_error((int)code) == IO_RESET ? (DWORD)WSAECONNREFUSED : code;
}

/* Makes the packet of an op that is over. False: there is none after all. */
static bool complete(iocp_port *port, io_packet *packet, io_op *op, DWORD code, DWORD bytes, void *buffer)
{
    op->result = 0;
    switch ((io_kind)op->kind) {
    case IO_ACCEPT:
        code = finish_accept(port, container_of(op, io_accept_op, op), packet, code);
        break;
    case IO_CONNECT:
        code = finish_connect(port, op, code);
        break;
    case IO_RECV:
        if ((op->flags & OP_LENT) == 0) {
            packet->data = buffer;
            packet->bytes = bytes;
        } else if (code == NO_ERROR && !lend(port, op, packet, &code)) {
            return false;
        }
        break;
    case IO_SEND:
        packet->bytes = bytes; /* a canceled send tells how much had left */
        break;
    case IO_RECV_FROM:
        if (code == ERROR_MORE_DATA || code == WSAEMSGSIZE) code = NO_ERROR;
        if (code == NO_ERROR && !lend_datagram(port, container_of(op, io_datagram_op, op), packet, &code)) return false;
        code = datagram_error(code);
        break;
    case IO_SEND_TO:
        packet->bytes = bytes;
        code = datagram_error(code);
        break;
    case IO_READABLE:
    case IO_POST:
        break;
    case IO_IDLE:
        assert(false);
        break;
    }
    packet->op = op;
    if (code != NO_ERROR) {
        packet->status = net_map_error((int)code);
        packet->native = (int)code;
    }
    return true;
}

/* The packet after a system's one. */
static bool complete_entry(iocp_port *port, io_packet *packet, const OVERLAPPED_ENTRY *entry)
{
    io_op *op = entry_op(entry);
    DWORD code = NO_ERROR;
    void *buffer = op->next;
    assert((op->flags & OP_SYSTEM) != 0); /* else it is a packet too many, or of a freed op */
    op->flags &= (uint8_t)~OP_SYSTEM;
    op->next = NULL;
    if (entry->lpCompletionKey != KEY_POST) {
        assert(port->in_system > 0);
        port->in_system--;
    }
    if (entry->lpCompletionKey == KEY_CONNECT) code = finish_waiting(port, op);
    /* Internal is an NTSTATUS, of which the negative ones are warnings and errors. */
    if (entry->lpCompletionKey == KEY_SOCKET && (LONG)entry->Internal < 0) {
        code = port->error_of_status((LONG)entry->Internal);
    }
    return complete(port, packet, op, code, entry->dwNumberOfBytesTransferred, buffer);
}

/* The next of those that completed while submitted, or NULL when this round has no more. */
static io_op *take_ready(iocp_port *port)
{
    if (port->lap_left == 0) {
        if (port->laps_left == 0) return NULL;
        port->laps_left--;
        port->lap_left = port->ready_count;
    }
    io_op *op = io_queue_pop(&port->ready);
    if (op == NULL) return NULL;
    port->ready_count--;
    port->lap_left--;
    return op;
}

static bool complete_ready(iocp_port *port, io_packet *packet, io_op *op)
{
    void *buffer = (void *)op->native[BUFFER_WORD];
    return complete(port, packet, op, (DWORD)op->result, op->bytes, buffer);
}

static bool iocp_next(io_port *common, io_packet *packet)
{
    iocp_port *port = port_of(common);
    while (port->round_left > 0) {
        port->round_left--;
        if (port->entry_next < port->entry_count) {
            if (complete_entry(port, packet, &port->entries[port->entry_next++])) return true;
        } else {
            io_op *op = take_ready(port);
            if (op == NULL) return false;
            if (complete_ready(port, packet, op)) return true;
        }
    }
    return false;
}

/* Milliseconds, rounded up, so that a deadline is not waited for in many short sleeps. */
static DWORD wait_ms(int64_t timeout_ns)
{
    if (timeout_ns < 0) return INFINITE;
    int64_t ms = timeout_ns / NS_PER_MS + (timeout_ns % NS_PER_MS != 0);
    return ms < INFINITE ? (DWORD)ms : INFINITE - 1;
}

static io_status iocp_wait(io_port *common, int64_t timeout_ns)
{
    iocp_port *port = port_of(common);
    port->round_left = IO_ROUND_MAX;
    port->laps_left = LAPS;
    port->lap_left = 0;
    if (port->entry_next < port->entry_count) return IO_OK; /* the last round was left early */
    port->entry_next = 0;
    port->entry_count = 0;
    DWORD timeout_ms = port->ready_count > 0 ? 0 : wait_ms(timeout_ns);
    ULONG count = 0;
    if (GetQueuedCompletionStatusEx(port->handle, port->entries, BATCH, &count, timeout_ms, FALSE)) {
        port->entry_count = count;
    } else if (GetLastError() != WAIT_TIMEOUT) {
        return net_map_error((int)GetLastError());
    }
    mark_canceled(port);
    return IO_OK;
}

static void iocp_post(io_port *common, io_op *op)
{
    (void)prepare(op, NULL);
    op->flags = OP_SYSTEM;
    post(port_of(common), KEY_POST, op);
}

/* ---- Ports and sockets ---- */

static bool find_function(SOCKET socket, GUID id, void *function, DWORD bytes)
{
    DWORD written = 0;
    return WSAIoctl(socket, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof id, function, bytes, &written, NULL,
                    NULL) == 0 &&
           written == bytes;
}

/* Some layered service providers wrap sockets in handles of their own, and lose packets when told to skip those of
 * successes (Microsoft, KB 2568167). */
static bool is_real_handle(SOCKET socket)
{
    WSAPROTOCOL_INFOW info;
    int bytes = sizeof info;
    return getsockopt(socket, SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info, &bytes) == 0 &&
           (info.dwServiceFlags1 & XP1_IFS_HANDLES) != 0;
}

static bool skip_successes(io_socket socket)
{
    return SetFileCompletionNotificationModes((HANDLE)socket,
                                              FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE);
}

/* Finds on a socket of its own what this system's sockets can do. */
static io_status learn(iocp_port *port, const io_options *options)
{
    static const GUID accept_ex = WSAID_ACCEPTEX;
    static const GUID accept_ex_addresses = WSAID_GETACCEPTEXSOCKADDRS;
    static const GUID connect_ex = WSAID_CONNECTEX;
    SOCKET socket = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
    if (socket == INVALID_SOCKET) {
        socket = WSASocketW(AF_INET6, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
    }
    if (socket == INVALID_SOCKET) return net_map_error(WSAGetLastError());
    bool can_accept =
        find_function(socket, accept_ex, &port->accept_ex, sizeof port->accept_ex) &&
        find_function(socket, accept_ex_addresses, &port->accept_ex_addresses, sizeof port->accept_ex_addresses);
    if (options->no_connectex || !find_function(socket, connect_ex, &port->connect_ex, sizeof port->connect_ex)) {
        port->connect_ex = NULL;
    }
    port->skips = !options->no_skip && is_real_handle(socket) && skip_successes((io_socket)socket);
    (void)closesocket(socket);
    return can_accept ? IO_OK : IO_UNSUPPORTED;
}

/* The table that turns an NTSTATUS into a Win32 code is in the system. */
static bool find_status_table(iocp_port *port)
{
    HMODULE ntdll = GetModuleHandleW(L"ntdll.dll");
    FARPROC found = ntdll != NULL ? GetProcAddress(ntdll, "RtlNtStatusToDosError") : NULL;
    if (found == NULL) return false;
    memcpy(&port->error_of_status, &found, sizeof found);
    return true;
}

static void iocp_close(io_port *common)
{
    iocp_port *port = port_of(common);
    assert(port->in_system == 0);
    assert(port->ready_count == 0);
    assert(port->connects == NULL);
    (void)CloseHandle(port->handle);
    mem_free(port);
}

static io_status iocp_open(io_port **out, const io_options *options)
{
    iocp_port *port = mem_zalloc(sizeof *port + options->recv_bytes);
    if (port == NULL) return IO_LIMIT;
    port->scratch_bytes = options->recv_bytes;
    port->handle = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1);
    if (port->handle == NULL) {
        io_status status = net_map_error((int)GetLastError());
        mem_free(port);
        return status;
    }
    io_status status = find_status_table(port) ? learn(port, options) : IO_UNSUPPORTED;
    if (status != IO_OK) {
        iocp_close(&port->common);
        return status;
    }
    *out = &port->common;
    return IO_OK;
}

static int64_t iocp_now(io_port *port)
{
    (void)port;
    return os_monotonic_ns();
}

static io_status iocp_attach(io_port *common, io_socket socket, bool is_udp)
{
    iocp_port *port = port_of(common);
    if (CreateIoCompletionPort((HANDLE)socket, port->handle, KEY_SOCKET, 0) == NULL ||
        (port->skips && !is_udp && !skip_successes(socket))) {
        return net_map_error((int)GetLastError());
    }
    return IO_OK;
}

/* ---- Does it work here? ---- */

enum { TRIAL_MS = 5000 };

/* One connection to ourselves: accept, connect, the zero-byte read, cancel. */
typedef struct trial {
    io_port *port;
    io_socket listener;
    io_socket client;
    io_socket server;
    io_accept_op accept;
    io_op connect;
    io_op readable;
    int64_t until_ns;
    const char *step; /* what is being tried */
    io_status status;
    int native;
} trial;

static bool trial_ok(trial *t, const char *step, io_status status)
{
    t->step = step;
    t->status = status;
    return status == IO_OK;
}

/* Takes packets until the op is idle again. False: it went wrong or took too long. */
static bool trial_await(trial *t, const io_op *op, const char *step, io_status wanted)
{
    io_packet packet;
    t->step = step;
    while (op->kind != IO_IDLE) {
        int64_t left_ns = t->until_ns - os_monotonic_ns();
        t->status = left_ns > 0 ? io_port_wait(t->port, left_ns) : IO_TIMEOUT;
        if (t->status != IO_OK) return false;
        while (io_port_next(t->port, &packet)) {
            if (packet.kind == IO_ACCEPT) t->server = packet.accepted;
            t->native = packet.native;
            t->status = packet.status;
            if (packet.status != (packet.op == op ? wanted : IO_OK)) return false;
        }
    }
    return true;
}

static io_status listen_on_loopback(trial *t, net_addr *addr)
{
    static const char *const loopbacks[] = {"127.0.0.1:0", "[::1]:0"};
    io_status status = IO_UNSUPPORTED;
    char words[80];
    for (size_t i = 0; i < array_count(loopbacks) && status != IO_OK; i++) {
        status = net_addr_parse(addr, loopbacks[i], words, sizeof words);
        if (status == IO_OK) status = net_listen(&t->listener, addr, &t->native);
    }
    return status == IO_OK ? net_local(addr, t->listener) : status;
}

static bool trial_run(trial *t)
{
    net_addr addr;
    if (!trial_ok(t, "completion port", io_port_open(&t->port, &io_backend_iocp, NULL))) return false;
    if (!trial_ok(t, "listen", listen_on_loopback(t, &addr))) return false;
    if (!trial_ok(t, "socket", net_open_stream(&t->client, &addr, &t->native))) return false;
    if (!trial_ok(t, "attach", io_attach(t->port, t->listener))) return false;
    if (!trial_ok(t, "attach", io_attach(t->port, t->client))) return false;
    if (!trial_ok(t, "accept", io_accept(t->port, &t->accept, t->listener))) return false;
    if (!trial_ok(t, "connect", io_connect(t->port, &t->connect, t->client, &addr))) return false;
    if (!trial_await(t, &t->connect, "connect", IO_OK)) return false;
    if (!trial_await(t, &t->accept.op, "accept", IO_OK)) return false;
    if (!trial_ok(t, "attach", io_attach(t->port, t->server))) return false;
    if (!trial_ok(t, "zero-byte read", io_readable(t->port, &t->readable, t->server))) return false;
    io_cancel(t->port, t->server);
    return trial_await(t, &t->readable, "cancel", IO_CANCELED);
}

/* False: an op is still out, so nothing of the trial may be freed. */
static bool trial_end(trial *t)
{
    io_packet packet;
    io_socket *sockets[] = {&t->listener, &t->client, &t->server};
    int64_t until_ns = os_monotonic_ns() + (int64_t)TRIAL_MS * NS_PER_MS;
    for (size_t i = 0; i < array_count(sockets); i++) {
        if (*sockets[i] != IO_SOCKET_NONE) io_cancel(t->port, *sockets[i]);
    }
    while (t->port != NULL && io_port_pending(t->port) > 0) {
        int64_t left_ns = until_ns - os_monotonic_ns();
        if (left_ns <= 0 || io_port_wait(t->port, left_ns) != IO_OK) return false;
        while (io_port_next(t->port, &packet)) {
            if (packet.kind == IO_ACCEPT) t->server = packet.accepted;
        }
    }
    for (size_t i = 0; i < array_count(sockets); i++) {
        if (*sockets[i] != IO_SOCKET_NONE) net_close(*sockets[i]);
    }
    io_port_close(t->port);
    return true;
}

static bool iocp_probe(char *why, size_t why_size)
{
    io_status status = net_start();
    trial *t = mem_zalloc(sizeof *t);
    if (t == NULL || status != IO_OK) {
        (void)snprintf(why, why_size, "sockets: %s", io_status_text(t == NULL ? IO_LIMIT : status));
        mem_free(t);
        return false;
    }
    t->listener = t->client = t->server = IO_SOCKET_NONE;
    t->until_ns = os_monotonic_ns() + (int64_t)TRIAL_MS * NS_PER_MS;
    bool works = trial_run(t);
    if (!works) {
        (void)snprintf(why, why_size, "%s: %s (system code %d)", t->step, io_status_text(t->status), t->native);
    }
    if (!trial_end(t)) return false; /* and leave what the system still has */
    mem_free(t);
    net_stop();
    return works;
}

const io_backend io_backend_iocp = {
    .name = "iocp",
    .probe = iocp_probe,
    .open = iocp_open,
    .close = iocp_close,
    .now = iocp_now,
    .attach = iocp_attach,
    .accept = iocp_accept,
    .connect = iocp_connect,
    .recv = iocp_recv,
    .readable = iocp_readable,
    .send = iocp_send,
    .recv_from = iocp_recv_from,
    .send_to = iocp_send_to,
    .draw = iocp_draw,
    .cancel = iocp_cancel,
    .shutdown = iocp_shutdown,
    .close_socket = iocp_close_socket,
    .post = iocp_post,
    .wait = iocp_wait,
    .next = iocp_next,
};
