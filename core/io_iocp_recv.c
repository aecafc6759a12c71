/* io_iocp_recv.c - receiving from streams.
 *
 * A lent receive is a zero-byte WSARecv, which pins no memory, and then a non-blocking recv() into the port's one
 * scratch buffer when its packet is taken. While a peer is faster than we are, the zero-byte read only says each time
 * what was to be expected: then it is left out, and the recv() tried in the op's turn, after those of the others. An
 * attempt that finds nothing goes back to the zero-byte read.
 */
#include "io_iocp.h"

static io_status submit_recv(iocp_port *port, io_op *op, void *buffer, size_t len)
{
    WSABUF place = {.buf = buffer, .len = (ULONG)len};
    DWORD bytes = 0;
    DWORD flags = 0;
    OVERLAPPED *overlapped = iocp_prepare(op, buffer);
    bool success = WSARecv((SOCKET)op->socket, &place, 1, &bytes, &flags, overlapped, NULL) == 0;
    return iocp_submitted(port, op, success, bytes);
}

io_status iocp_recv(io_port *common, io_op *op, io_socket socket, void *buffer, size_t len)
{
    iocp_port *port = iocp_of(common);
    (void)socket;
    if (buffer != NULL) return submit_recv(port, op, buffer, len);
    op->flags |= IOCP_LENT;
    if (op->result != IOCP_MORE_LIKELY) return submit_recv(port, op, NULL, 0);
    /* As if the zero-byte read had been done. */
    (void)iocp_prepare(op, NULL);
    iocp_make_ready(port, op, NO_ERROR, 0);
    return IO_OK;
}

io_status iocp_readable(io_port *common, io_op *op, io_socket socket)
{
    (void)socket;
    return submit_recv(iocp_of(common), op, NULL, 0);
}

io_status iocp_draw(io_port *common, io_socket socket, void *buffer, size_t len, size_t *bytes)
{
    (void)common;
    int count = recv((SOCKET)socket, buffer, len < INT32_MAX ? (int)len : INT32_MAX, 0);
    if (count < 0) return net_map_error(WSAGetLastError());
    *bytes = (size_t)count;
    return IO_OK;
}

bool iocp_lend(iocp_port *port, io_op *op, io_packet *packet, DWORD *code)
{
    int count = recv((SOCKET)op->socket, (char *)port->scratch, (int)port->scratch_bytes, 0);
    if (count >= 0) {
        packet->bytes = (uint32_t)count;
        packet->data = port->scratch;
        if ((uint32_t)count == port->scratch_bytes) op->result = IOCP_MORE_LIKELY;
        return true;
    }
    *code = (DWORD)WSAGetLastError();
    if (*code != WSAEWOULDBLOCK) return true;
    op->result = 0;
    /* Nobody would cancel the new read. */
    if ((op->flags & IOCP_CANCELED) != 0) {
        *code = ERROR_OPERATION_ABORTED;
        return true;
    }
    if (submit_recv(port, op, NULL, 0) == IO_OK) return false;
    *code = ERROR_NO_SYSTEM_RESOURCES;
    return true;
}
