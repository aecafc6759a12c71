/* io_iocp_op.c - an op's way from submit to the system's port, or to our own queue. */
#include "io_iocp.h"

#include "log.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(OVERLAPPED) == sizeof(((io_op *)0)->native), "native is exactly an OVERLAPPED");
_Static_assert(offsetof(io_op, native) == 0, "an OVERLAPPED's address is its op's");
_Static_assert(_Alignof(OVERLAPPED) <= _Alignof(io_op), "an OVERLAPPED may be where native is");
_Static_assert(sizeof(io_op) == 64, "one cache line");

enum { POST_TRIES = 5000 }; /* a post that the system cannot take is tried again, a millisecond apart */

OVERLAPPED *iocp_prepare(io_op *op, void *buffer)
{
    memset(op->native, 0, sizeof op->native);
    op->next = buffer;
    return iocp_overlapped(op);
}

void iocp_given_to_system(iocp_port *port, io_op *op)
{
    op->flags |= IOCP_SYSTEM;
    port->in_system++;
}

void iocp_make_ready(iocp_port *port, io_op *op, DWORD code, DWORD bytes)
{
    op->native[IOCP_BUFFER_WORD] = (uintptr_t)op->next;
    op->result = (int32_t)code;
    op->bytes = bytes;
    io_queue_push(&port->ready, op);
    port->ready_count++;
}

io_status iocp_submitted(iocp_port *port, io_op *op, bool success, DWORD bytes)
{
    DWORD code = success ? NO_ERROR : (DWORD)WSAGetLastError();
    if (code == WSA_IO_PENDING || (success && !port->skips)) {
        iocp_given_to_system(port, op);
        return IO_OK;
    }
    /* WSAEWOULDBLOCK: of overlapped operations there are too many (WSASend's documentation). */
    if (code == WSAEWOULDBLOCK || net_map_error((int)code) == IO_LIMIT) return IO_LIMIT;
    iocp_make_ready(port, op, code, bytes);
    return IO_OK;
}

void iocp_post_packet(iocp_port *port, ULONG_PTR key, io_op *op)
{
    for (int i = 0; i < POST_TRIES; i++) {
        if (PostQueuedCompletionStatus(port->handle, 0, key, iocp_overlapped(op))) return;
        assert(GetLastError() != ERROR_INVALID_HANDLE);
        Sleep(1);
    }
    /* Going on without it would lose a connection or the order to stop, without a trace. */
    log_write(LOG_ERROR, "PostQueuedCompletionStatus keeps failing (system code %lu)", GetLastError());
    abort();
}
