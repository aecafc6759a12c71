/* io_iocp.h - what the files of the IOCP backend share: the port, and an op's way from submit to packet. Included by
 * io_iocp*.c only.
 */
#ifndef PORTICO_IO_IOCP_H
#define PORTICO_IO_IOCP_H

#include "base.h"
#include "io_backend.h"

#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    IOCP_BATCH = 64,        /* packets taken from the system in one call */
    IOCP_CANCELED_MAX = 64, /* names of canceled sockets kept, see was_canceled() */
    IOCP_BUFFER_WORD = 3    /* of op->native, for completed ops: where the bytes of io_recv_into() are */
};

/* op->flags */
enum {
    IOCP_SYSTEM = 1,  /* exactly while the system has it: from submit or post until its packet is taken */
    IOCP_LENT = 2,    /* io_recv(), not io_recv_into() */
    IOCP_CANCELED = 4 /* io_cancel() came when the zero-byte read was already over; see iocp_lend() */
};

/* op->result while the op is idle: what it was submitted for was there at once, or filled the buffer. */
enum { IOCP_MORE_LIKELY = 1 };

/* Whose packet it is: the completion key. */
enum { IOCP_KEY_SOCKET = 1, IOCP_KEY_POST, IOCP_KEY_CONNECT };

typedef struct iocp_connect_wait iocp_connect_wait;

typedef struct iocp_port {
    io_port common;
    HANDLE handle;
    bool skips; /* a success that comes at once leaves no packet, on every socket of this port */
    LPFN_ACCEPTEX accept_ex;
    LPFN_GETACCEPTEXSOCKADDRS accept_ex_addresses;
    LPFN_CONNECTEX connect_ex;                     /* NULL: not to be had */
    ULONG(WINAPI *error_of_status)(LONG ntstatus); /* RtlNtStatusToDosError */
    uint32_t in_system;                            /* submitted ops with IOCP_SYSTEM; posts are not counted */
    uint32_t ready_count;
    io_queue ready; /* completed while submitted; result and bytes are set */
    uint32_t lap_left;
    uint32_t laps_left;
    uint32_t round_left;
    ULONG entry_next; /* entries before it have been taken */
    ULONG entry_count;
    OVERLAPPED_ENTRY entries[IOCP_BATCH];
    iocp_connect_wait *connects;
    uint32_t canceled_count; /* above IOCP_CANCELED_MAX: there were more than we have names of */
    io_socket canceled[IOCP_CANCELED_MAX];
    uint32_t scratch_bytes;
    uint8_t scratch[]; /* what lent receives lend */
} iocp_port;

static inline iocp_port *iocp_of(io_port *port)
{
    return container_of(port, iocp_port, common);
}

static inline OVERLAPPED *iocp_overlapped(io_op *op)
{
    return (OVERLAPPED *)(void *)op->native;
}

/* ---- io_iocp_op.c: from submit to packet ---- */
/* Clears the OVERLAPPED, which also means: no event. buffer is for io_recv_into(). It waits in op->next, which is
 * free while the system has the op, because Windows keeps all of an OVERLAPPED to itself. */
OVERLAPPED *iocp_prepare(io_op *op, void *buffer);
void iocp_given_to_system(iocp_port *port, io_op *op);
/* The op is over, and its packet will come from our own queue. */
void iocp_make_ready(iocp_port *port, io_op *op, DWORD code, DWORD bytes);
/* What became of an overlapped call. bytes matters for a success.
 * result  as the submit's: IO_LIMIT when the system had no room for the op. */
io_status iocp_submitted(iocp_port *port, io_op *op, bool success, DWORD bytes);
/* Gives the op to its port from any thread. Fails only while the system's non-paged pool is used up. */
void iocp_post_packet(iocp_port *port, ULONG_PTR key, io_op *op);

/* ---- io_iocp_recv.c: bytes of streams ---- */
io_status iocp_recv(io_port *common, io_op *op, io_socket socket, void *buffer, size_t len);
io_status iocp_readable(io_port *common, io_op *op, io_socket socket);
io_status iocp_draw(io_port *common, io_socket socket, void *buffer, size_t len, size_t *bytes);
/* Bytes, FIN or an error are there to be had. Returns false when they are not after all: then the zero-byte read is
 * waiting again. Otherwise sets the native code. */
bool iocp_lend(iocp_port *port, io_op *op, io_packet *packet, DWORD *code);

/* ---- io_iocp_datagram.c ---- */
io_status iocp_recv_from(io_port *common, io_datagram_op *op, io_socket socket);
io_status iocp_send_to(io_port *common, io_datagram_op *op, io_socket socket, const void *data, size_t len);
/* iocp_lend() for the datagram that a peek has seen. */
bool iocp_lend_datagram(iocp_port *port, io_datagram_op *op, io_packet *packet, DWORD *code);
/* What resets a stream says of a datagram that its port is unreachable: Winsock reports that as 10054. */
DWORD iocp_datagram_error(DWORD code);

/* ---- io_iocp_accept.c ---- */
io_status iocp_accept(io_port *common, io_accept_op *op, io_socket listener);
/* An accept is over, with this native code. Returns the packet's. */
DWORD iocp_finish_accept(iocp_port *port, io_accept_op *op, io_packet *packet, DWORD code);

/* ---- io_iocp_connect.c ---- */
io_status iocp_connect(io_port *common, io_op *op, io_socket socket, const net_addr *peer);
/* A connect is over, with this native code. Returns the packet's. */
DWORD iocp_finish_connect(const iocp_port *port, const io_op *op, DWORD code);
/* The packet of one without ConnectEx has come. Returns its native code. */
DWORD iocp_finish_waiting(iocp_port *port, const io_op *op);
/* Cancels those without ConnectEx, of which CancelIoEx knows nothing. */
void iocp_cancel_waiting(iocp_port *port, io_socket socket);

/* ---- io_iocp_probe.c ---- */
bool iocp_probe(char *why, size_t why_size);

#endif
