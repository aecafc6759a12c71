/* io_iocp_connect.c - connecting, by ConnectEx or, where that is missing, with an event and a thread of the system's pool. */
#include "io_iocp.h"

#include "mem.h"

#include <stdatomic.h>

/* A connect under way without ConnectEx: the thread pool waits for its event and posts the op to the port. */
struct iocp_connect_wait {
    iocp_connect_wait *next;
    iocp_port *port;
    io_op *op;
    HANDLE event; /* signalled when the connect is over */
    PTP_WAIT wait;
    atomic_bool posted; /* the op is in the system's port, or about to be */
};

static VOID CALLBACK on_connect_event(PTP_CALLBACK_INSTANCE instance, PVOID context, PTP_WAIT wait,
                                      TP_WAIT_RESULT result)
{
    iocp_connect_wait *w = context;
    (void)instance;
    (void)wait;
    (void)result;
    atomic_store(&w->posted, true);
    iocp_post_packet(w->port, IOCP_KEY_CONNECT, w->op);
}

/* Ends the waiting, so that the op is from now on either posted or never will be, and returns the native code of the
 * connect. */
static DWORD stop_waiting(iocp_connect_wait *w)
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

static void unlink_wait(iocp_port *port, iocp_connect_wait *w)
{
    iocp_connect_wait **link = &port->connects;
    while (*link != w) link = &(*link)->next;
    *link = w->next;
    mem_free(w);
}

/* The classic way, where ConnectEx is missing. */
static io_status connect_waiting(iocp_port *port, io_op *op, const net_addr *peer)
{
    SOCKET socket = (SOCKET)op->socket;
    iocp_connect_wait *w = mem_zalloc(sizeof *w);
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
    (void)iocp_prepare(op, NULL);
    int result = connect(socket, (const struct sockaddr *)peer, (int)net_addr_bytes(peer));
    DWORD code = result == 0 ? NO_ERROR : (DWORD)WSAGetLastError();
    if (code == WSAEWOULDBLOCK) {
        iocp_given_to_system(port, op);
        SetThreadpoolWait(w->wait, w->event, NULL);
        return IO_OK;
    }
    (void)stop_waiting(w);
    unlink_wait(port, w);
    iocp_make_ready(port, op, code, 0);
    return IO_OK;
fail_wait:
    CloseThreadpoolWait(w->wait);
fail_event:
    (void)CloseHandle(w->event);
fail:
    mem_free(w);
    return IO_LIMIT;
}

void iocp_cancel_waiting(iocp_port *port, io_socket socket)
{
    iocp_connect_wait *w = port->connects;
    while (w != NULL && w->op->socket != socket) w = w->next;
    if (w == NULL) return;
    SetThreadpoolWait(w->wait, NULL, NULL);
    WaitForThreadpoolWaitCallbacks(w->wait, TRUE);
    if (atomic_load(&w->posted)) return; /* it reached its result first */
    (void)stop_waiting(w);
    w->op->flags &= (uint8_t)~IOCP_SYSTEM;
    port->in_system--;
    iocp_make_ready(port, w->op, ERROR_OPERATION_ABORTED, 0);
    unlink_wait(port, w);
}

DWORD iocp_finish_waiting(iocp_port *port, const io_op *op)
{
    iocp_connect_wait *w = port->connects;
    while (w->op != op) w = w->next;
    DWORD code = stop_waiting(w);
    unlink_wait(port, w);
    return code;
}

io_status iocp_connect(io_port *common, io_op *op, io_socket socket, const net_addr *peer)
{
    iocp_port *port = iocp_of(common);
    DWORD bytes = 0;
    if (port->connect_ex == NULL) return connect_waiting(port, op, peer);
    OVERLAPPED *overlapped = iocp_prepare(op, NULL);
    bool success = port->connect_ex((SOCKET)socket, (const struct sockaddr *)peer, (int)net_addr_bytes(peer), NULL, 0,
                                    &bytes, overlapped);
    return iocp_submitted(port, op, success, bytes);
}

/* After ConnectEx a socket wants its context, too: see adopt() in io_iocp_accept.c. */
DWORD iocp_finish_connect(const iocp_port *port, const io_op *op, DWORD code)
{
    if (code != NO_ERROR || port->connect_ex == NULL) return code;
    if (setsockopt((SOCKET)op->socket, SOL_SOCKET, SO_UPDATE_CONNECT_CONTEXT, NULL, 0) == 0) return NO_ERROR;
    return (DWORD)WSAGetLastError();
}
