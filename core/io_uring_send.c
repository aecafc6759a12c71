/* io_uring_send.c - sending, and what of it datagrams share.
 *
 *   gather send    the kernel copies message and vectors while it takes the entry (IORING_FEAT_SUBMIT_STABLE), so
 *                  they live in an arena that is empty again after each submission.
 *   send now       large messages only.
 */
#define _GNU_SOURCE 1

#include "io_uring.h"

#include "base.h"

#include <errno.h>
#include <sys/socket.h>

enum { LARGE_BYTES = 16384 }; /* where sending at once pays, by measurement */

/* ---- Submission entries ---- */

/* Room in the ring and in the arena together: making room for one would otherwise submit, and so spoil, the other. */
static bool reserve_send(uring_port *port, uint32_t arena_bytes)
{
    if (io_uring_sq_space_left(&port->ring) > 0 && arena_bytes <= URING_ARENA_BYTES - port->arena_used) return true;
    uring_submit_all(port);
    return io_uring_sq_space_left(&port->ring) > 0 && arena_bytes <= URING_ARENA_BYTES - port->arena_used;
}

/* What a message with so many buffers takes. */
static uint32_t message_bytes(uint32_t count)
{
    size_t bytes = sizeof(struct msghdr) + count * sizeof(struct iovec);
    return (uint32_t)((bytes + URING_ARENA_ALIGN - 1) / URING_ARENA_ALIGN * URING_ARENA_ALIGN);
}

/* Takes reserved bytes of the arena. */
static struct msghdr *make_message(uring_port *port, const io_buf *bufs, uint32_t count)
{
    struct msghdr *message = (struct msghdr *)(void *)(port->arena + port->arena_used);
    struct iovec *vectors = (struct iovec *)(void *)(message + 1);
    port->arena_used += message_bytes(count);
    *message = (struct msghdr){.msg_iov = vectors, .msg_iovlen = count};
    for (uint32_t i = 0; i < count; i++) {
        vectors[i] = (struct iovec){.iov_base = (void *)(uintptr_t)bufs[i].base, .iov_len = bufs[i].len};
    }
    return message;
}

bool uring_prepare_send_to(uring_port *port, io_op *op)
{
    io_datagram_op *datagram = container_of(op, io_datagram_op, op);
    const io_buf buf = {(const void *)op->native[URING_BUFFER], op->native[URING_LEN]};
    if (!reserve_send(port, message_bytes(1))) return false;
    struct io_uring_sqe *entry = io_uring_get_sqe(&port->ring);
    struct msghdr *message = make_message(port, &buf, 1);
    message->msg_namelen = (socklen_t)net_addr_bytes(&datagram->peer);
    if (message->msg_namelen > 0) message->msg_name = &datagram->peer;
    io_uring_prep_sendmsg(entry, (int)op->socket, message, MSG_NOSIGNAL);
    io_uring_sqe_set_data(entry, op);
    return true;
}

/* ---- Streams ---- */

/* MSG_WAITALL: the kernel goes on after a short count, without the caller's round trip. */
enum { SEND_FLAGS = MSG_NOSIGNAL | MSG_WAITALL };

io_status uring_send(io_port *head, io_op *op, io_socket socket, const io_buf *bufs, uint32_t count)
{
    uring_port *port = uring_of(head);
    if (!reserve_send(port, count > 1 ? message_bytes(count) : 0)) return IO_LIMIT;
    struct io_uring_sqe *entry = io_uring_get_sqe(&port->ring);
    op->native[URING_LEN] = io_bufs_bytes(bufs, count);
    if (count == 1) {
        size_t len = bufs[0].len < INT32_MAX ? bufs[0].len : INT32_MAX;
        io_uring_prep_send(entry, (int)socket, bufs[0].base, len, SEND_FLAGS);
    } else {
        io_uring_prep_sendmsg(entry, (int)socket, make_message(port, bufs, count), SEND_FLAGS);
    }
    io_uring_sqe_set_data(entry, op);
    return IO_OK;
}

/* A call of its own costs more than an entry of the ring, unless it saves the copy of a large message. Where more is to be
 * received, more may be to be answered, and one send of the ring takes all of it (docs/performance.md, ring features). */
io_status uring_send_now(io_port *head, io_socket socket, const io_buf *bufs, uint32_t count, size_t *bytes)
{
    if (count > 1 || bufs[0].len < LARGE_BYTES) return IO_AGAIN;
    uring_slot *s = uring_slot_of(uring_of(head), socket);
    if (!(s->flags & URING_EMPTY)) return IO_AGAIN;
    ssize_t sent;
    do {
        sent = send((int)socket, bufs[0].base, bufs[0].len, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0) {
        *bytes = (size_t)sent;
        return IO_OK;
    }
    int native = errno;
    if (native != EAGAIN) uring_note_error(s, native);
    return net_map_error(native);
}

/* ---- Completions ---- */

/* After MSG_WAITALL a short count means a cancel, or an error that the kernel took from the socket, did not tell, and
 * will not tell again (io_uring/net.c, io_send(): "if (sr->done_io) ret = sr->done_io"): a receive would see a clean
 * end of stream. An empty send moves nothing and fails on a broken connection. */
static void note_swallowed_error(uring_port *port, io_socket socket)
{
    if (send((int)socket, "", 0, MSG_NOSIGNAL | MSG_DONTWAIT) == 0 || errno != EPIPE) return;
    uring_note_error(uring_slot_of(port, socket), ECONNRESET);
}

bool uring_on_send(uring_port *port, io_op *op, int result, io_packet *packet)
{
    if (result >= 0) {
        packet->bytes = (uint32_t)result;
        if ((size_t)result < op->native[URING_LEN]) note_swallowed_error(port, op->socket);
    } else if (result != -EAGAIN && result != -EINTR) { /* These are 0 bytes: the caller submits again. */
        packet->native = -result;
        uring_note_error(uring_slot_of(port, op->socket), packet->native);
    }
    return true;
}
