/* io_iocp.c - io.h over the completion ports of Windows.
 *
 * An op begins with its OVERLAPPED, so the system's pointer is the op's. Packets come from two places: from the
 * system's port, a batch at a time, and from a queue of our own for what completed while it was submitted
 * (FILE_SKIP_COMPLETION_PORT_ON_SUCCESS spares the system the packet for those). io_port_next() takes from the batch
 * first, then from the queue in laps: a lap is what is ready when it begins, so in a round no connection gets more
 * turns than there are laps, however fast its peer is. Without that bound one connection can hold the loop.
 *
 * Closing a socket while an op is pending means something else on every system and version, so nothing here does; see
 * the contract in io.h. Each kind of op has a file of its own, io_iocp_*.c.
 */
#include "io_iocp.h"

#include "mem.h"
#include "os.h"

#include <string.h>

enum {
    LAPS = 8, /* turns of one connection in one round, for ops that complete at once */
    NS_PER_MS = 1000000
};

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
    OVERLAPPED *overlapped = iocp_prepare(op, NULL);
    bool success = WSASend((SOCKET)socket, gather, count, &bytes, 0, overlapped, NULL) == 0;
    return iocp_submitted(iocp_of(common), op, success, bytes);
}

/* ---- Canceling and closing ---- */

/* A socket that was canceled when a packet of it may already have been in the system's port, out of our sight. The
 * port forgets when it has seen the system's queue empty, and then knows which ops it concerns. With more sockets
 * than names it takes all for canceled: a healthy connection would suffer only if, at that moment, its bytes were
 * announced and then not there. */
static bool was_canceled(const iocp_port *port, io_socket socket)
{
    if (port->canceled_count > IOCP_CANCELED_MAX) return true;
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
    iocp_port *port = iocp_of(common);
    iocp_cancel_waiting(port, socket);
    (void)CancelIoEx((HANDLE)socket, NULL); /* ERROR_NOT_FOUND: the system has none of its ops */
    for (ULONG i = port->entry_next; i < port->entry_count; i++) {
        io_op *op = entry_op(&port->entries[i]);
        if (op->socket == socket) op->flags |= IOCP_CANCELED;
    }
    for (io_op *op = port->ready.head; op != NULL; op = op->next) {
        if (op->socket == socket) op->flags |= IOCP_CANCELED;
    }
    if (port->canceled_count < IOCP_CANCELED_MAX) port->canceled[port->canceled_count] = socket;
    if (port->canceled_count <= IOCP_CANCELED_MAX) port->canceled_count++;
}

/* After a batch was taken. */
static void mark_canceled(iocp_port *port)
{
    if (port->canceled_count == 0) return;
    for (ULONG i = port->entry_next; i < port->entry_count; i++) {
        io_op *op = entry_op(&port->entries[i]);
        if ((op->kind == IO_RECV || op->kind == IO_RECV_FROM) && was_canceled(port, op->socket))
            op->flags |= IOCP_CANCELED;
    }
    if (port->entry_count < IOCP_BATCH) port->canceled_count = 0; /* the system had no more */
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

/* Makes the packet of an op that is over. False: there is none after all. */
static bool complete(iocp_port *port, io_packet *packet, io_op *op, DWORD code, DWORD bytes, void *buffer)
{
    switch ((io_kind)op->kind) {
    case IO_ACCEPT:
        code = iocp_finish_accept(port, container_of(op, io_accept_op, op), packet, code);
        break;
    case IO_CONNECT:
        code = iocp_finish_connect(port, op, code);
        break;
    case IO_RECV:
        if ((op->flags & IOCP_LENT) == 0) {
            packet->data = buffer;
            packet->bytes = bytes;
        } else if (code == NO_ERROR && !iocp_lend(port, op, packet, &code)) {
            return false;
        }
        break;
    case IO_SEND:
        packet->bytes = bytes; /* a canceled send tells how much had left */
        break;
    case IO_RECV_FROM:
        if (code == ERROR_MORE_DATA || code == WSAEMSGSIZE) code = NO_ERROR;
        if (code == NO_ERROR && !iocp_lend_datagram(port, container_of(op, io_datagram_op, op), packet, &code))
            return false;
        code = iocp_datagram_error(code);
        break;
    case IO_SEND_TO:
        packet->bytes = bytes;
        code = iocp_datagram_error(code);
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
    assert((op->flags & IOCP_SYSTEM) != 0); /* else it is a packet too many, or of a freed op */
    op->flags &= (uint8_t)~IOCP_SYSTEM;
    op->next = NULL;
    op->result = 0;
    if (entry->lpCompletionKey != IOCP_KEY_POST) {
        assert(port->in_system > 0);
        port->in_system--;
    }
    if (entry->lpCompletionKey == IOCP_KEY_CONNECT) code = iocp_finish_waiting(port, op);
    /* Internal is an NTSTATUS, of which the negative ones are warnings and errors. */
    if (entry->lpCompletionKey == IOCP_KEY_SOCKET && (LONG)entry->Internal < 0) {
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
    void *buffer = (void *)op->native[IOCP_BUFFER_WORD];
    DWORD code = (DWORD)op->result;
    op->result = IOCP_MORE_LIKELY;
    return complete(port, packet, op, code, op->bytes, buffer);
}

static bool iocp_next(io_port *common, io_packet *packet)
{
    iocp_port *port = iocp_of(common);
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
    iocp_port *port = iocp_of(common);
    port->round_left = IO_ROUND_MAX;
    port->laps_left = LAPS;
    port->lap_left = 0;
    if (port->entry_next < port->entry_count) return IO_OK; /* the last round was left early */
    port->entry_next = 0;
    port->entry_count = 0;
    DWORD timeout_ms = port->ready_count > 0 ? 0 : wait_ms(timeout_ns);
    ULONG count = 0;
    if (GetQueuedCompletionStatusEx(port->handle, port->entries, IOCP_BATCH, &count, timeout_ms, FALSE)) {
        port->entry_count = count;
    } else if (GetLastError() != WAIT_TIMEOUT) {
        return net_map_error((int)GetLastError());
    }
    mark_canceled(port);
    return IO_OK;
}

static void iocp_post(io_port *common, io_op *op)
{
    (void)iocp_prepare(op, NULL);
    op->flags = IOCP_SYSTEM;
    iocp_post_packet(iocp_of(common), IOCP_KEY_POST, op);
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
    iocp_port *port = iocp_of(common);
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
    iocp_port *port = iocp_of(common);
    if (CreateIoCompletionPort((HANDLE)socket, port->handle, IOCP_KEY_SOCKET, 0) == NULL ||
        (port->skips && !is_udp && !skip_successes(socket))) {
        return net_map_error((int)GetLastError());
    }
    return IO_OK;
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
