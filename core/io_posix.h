/* io_posix.h - what the two Linux backends share: the mailbox for posts, and errors that the kernel tells only once.
 * Included by io_epoll.c and io_uring.c only.
 */
#ifndef PORTICO_IO_POSIX_H
#define PORTICO_IO_POSIX_H

#include "io_backend.h"
#include "os.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where posts of other threads wait until the owner takes them. */
typedef struct io_mailbox {
    os_mutex *lock;
    io_queue posts; /* under lock */
    int wake;       /* an eventfd; each put into an empty mailbox is an edge on it. Its counter is never read. */
} io_mailbox;

/* The mailbox must be zeroed. On failure native says why (0: out of memory), and io_mailbox_close() is still due. */
io_status io_mailbox_open(io_mailbox *mailbox, int *native);
void io_mailbox_close(io_mailbox *mailbox);
/* Any thread. */
void io_mailbox_put(io_mailbox *mailbox, io_op *op);
/* Appends all that waits, in order. Owner only. */
void io_mailbox_take(io_mailbox *mailbox, io_queue *queue);

/* The kernel tells a connection's error to one call and clears it; a receive after that reads end of stream. So a
 * backend keeps the error with the socket. This is what it then keeps: kept, or native if that is such an error.
 * EPIPE is none: it says nothing about the receiving side. */
int io_error_keep(int kept, int native);

/* What a receive would find, taking nothing.
 * kept    the socket's kept error, or 0.
 * result  0: bytes or end of stream; EAGAIN: nothing; else the error. */
int io_error_peek(io_socket socket, int kept);

/* Receives the datagram that is there into port->datagram: sets the op's peer, and the packet's data and bytes. Returns 0,
 * EAGAIN or another errno, which is the end of nothing. */
int io_datagram_recv(io_port *port, io_datagram_op *op, io_packet *packet);
/* Sends one, if there is room for it now: sets the packet's bytes. Returns 0, EAGAIN or another errno. */
int io_datagram_send(const io_datagram_op *op, const void *data, size_t len, io_packet *packet);

/* Bytes that the buffers name together. */
static inline size_t io_bufs_bytes(const io_buf *bufs, uint32_t count)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) bytes += bufs[i].len;
    return bytes;
}

#endif
