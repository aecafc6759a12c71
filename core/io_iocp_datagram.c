/* io_iocp_datagram.c - receiving and sending datagrams.
 *
 * A datagram is waited for by a zero-byte read that only peeks, which completes with "more data", a warning. Whether
 * a warning that comes at once leaves a packet in a port that skips successes is written nowhere; so on UDP sockets
 * nothing is skipped, and both leave one.
 */
#include "io_iocp.h"

/* iocp_submitted() for UDP sockets. */
static io_status submitted_udp(iocp_port *port, io_op *op, bool success)
{
    DWORD code = success ? NO_ERROR : (DWORD)WSAGetLastError();
    if (success || code == WSA_IO_PENDING || code == WSAEMSGSIZE) {
        iocp_given_to_system(port, op);
        return IO_OK;
    }
    if (code == WSAEWOULDBLOCK || net_map_error((int)code) == IO_LIMIT) return IO_LIMIT;
    iocp_make_ready(port, op, code, 0);
    return IO_OK;
}

static io_status submit_peek(iocp_port *port, io_op *op)
{
    WSABUF nothing = {.buf = NULL, .len = 0};
    DWORD bytes = 0;
    DWORD flags = MSG_PEEK;
    OVERLAPPED *overlapped = iocp_prepare(op, NULL);
    bool success = WSARecv((SOCKET)op->socket, &nothing, 1, &bytes, &flags, overlapped, NULL) == 0;
    return submitted_udp(port, op, success);
}

io_status iocp_recv_from(io_port *common, io_datagram_op *op, io_socket socket)
{
    (void)socket;
    return submit_peek(iocp_of(common), &op->op);
}

io_status iocp_send_to(io_port *common, io_datagram_op *op, io_socket socket, const void *data, size_t len)
{
    union {
        const void *base;
        char *buf;
    } unconst = {data};
    WSABUF datagram = {.buf = unconst.buf, .len = (ULONG)len};
    DWORD bytes = 0;
    int to_bytes = (int)net_addr_bytes(&op->peer);
    const struct sockaddr *to = to_bytes > 0 ? (const struct sockaddr *)&op->peer : NULL;
    OVERLAPPED *overlapped = iocp_prepare(&op->op, NULL);
    bool success = WSASendTo((SOCKET)socket, &datagram, 1, &bytes, 0, to, to_bytes, overlapped, NULL) == 0;
    return submitted_udp(iocp_of(common), &op->op, success);
}

bool iocp_lend_datagram(iocp_port *port, io_datagram_op *op, io_packet *packet, DWORD *code)
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
    if ((op->op.flags & IOCP_CANCELED) != 0) *code = ERROR_OPERATION_ABORTED;
    else if (submit_peek(port, &op->op) == IO_OK) return false;
    else *code = ERROR_NO_SYSTEM_RESOURCES;
    return true;
}

DWORD iocp_datagram_error(DWORD code)
{
    return net_map_error((int)code) == IO_RESET ? (DWORD)WSAECONNREFUSED : code;
}
