/* io_epoll_stream.c - a stream's bytes over epoll: receiving them, waiting for them, drawing, sending. */
#define _GNU_SOURCE 1

#include "io_epoll.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* recv() and send() of the C library are points where a thread can be cancelled, which costs either in a program with
 * threads two locked instructions and some forty others (glibc 2.36: nptl/cancellation.c). Nobody cancels threads here. */
static ssize_t recv_now(int fd, void *buffer, size_t len)
{
    return syscall(SYS_recvfrom, fd, buffer, len, MSG_DONTWAIT, NULL, NULL);
}

static ssize_t send_now(int fd, const void *data, size_t len)
{
    return syscall(SYS_sendto, fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT, NULL, 0);
}

/* ---- Receiving ---- */

/* Receives what is there. Bytes first; then what is known of the end.
 * native  EAGAIN: nothing; 0 with 0 bytes: end of stream. */
static size_t receive(entry *e, int fd, void *buffer, size_t len, int *native)
{
    ssize_t got;
    do {
        got = recv_now(fd, buffer, len);
    } while (got < 0 && errno == EINTR);
    *native = got < 0 ? errno : 0;
    if (got > 0) {
        /* A short count means that the socket is empty (epoll(7), questions and answers, number 9), unless it has
         * reached its end, of which no further edge would tell. */
        if ((size_t)got < len && !(e->flags & ENTRY_HUNG)) e->flags &= (uint8_t)~ENTRY_READABLE;
        return (size_t)got;
    }
    if (*native == EAGAIN) {
        e->flags &= (uint8_t) ~(ENTRY_READABLE | ENTRY_HUNG);
        return 0;
    }
    if (*native != 0) note_error(e, *native);
    else if (e->error != 0) *native = e->error;
    e->flags |= ENTRY_READABLE | ENTRY_HUNG;
    return 0;
}

io_status epoll_recv(io_port *head, io_op *op, io_socket socket, void *buffer, size_t len)
{
    epoll_port *port = to_epoll(head);
    entry *e = attached_entry(port, socket);
    assert(e->in == NULL);
    op->native[WORD_BUFFER] = (uintptr_t)buffer;
    op->native[WORD_LEN] = len;
    e->in = op;
    if (e->flags & ENTRY_READABLE) queue_try(port, op);
    return IO_OK;
}

io_status epoll_readable(io_port *head, io_op *op, io_socket socket)
{
    epoll_port *port = to_epoll(head);
    entry *e = attached_entry(port, socket);
    assert(e->in == NULL);
    e->in = op;
    if (e->flags & ENTRY_READABLE) queue_try(port, op);
    return IO_OK;
}

io_status epoll_draw(io_port *head, io_socket socket, void *buffer, size_t len, size_t *bytes)
{
    entry *e = attached_entry(to_epoll(head), socket);
    int native;
    assert(e->in == NULL);
    *bytes = receive(e, (int)socket, buffer, len, &native);
    return net_map_error(native);
}

bool epoll_try_recv(entry *e, io_op *op, io_packet *packet)
{
    uint8_t *buffer = (uint8_t *)op->native[WORD_BUFFER];
    packet->bytes = (uint32_t)receive(e, (int)op->socket, buffer, op->native[WORD_LEN], &packet->native);
    if (packet->native == EAGAIN) {
        packet->native = 0;
        op->flags = OP_WAITING;
        return false;
    }
    packet->data = buffer;
    e->in = NULL;
    return true;
}

static bool is_lent_recv(const io_op *op)
{
    return op != NULL && op->flags == OP_TRY && op->kind == IO_RECV && op->native[WORD_BUFFER] == 0;
}

void epoll_recv_round(epoll_port *port)
{
    uint8_t *to = port->scratch;
    for (int count = 0; count < RECEIVED_MAX && is_lent_recv(port->queue.head);) {
        io_op *op = io_queue_pop(&port->queue);
        __builtin_prefetch(port->queue.head, 1);
        entry *e = attached_entry(port, op->socket);
        int native;
        size_t bytes = receive(e, (int)op->socket, to, port->recv_bytes, &native);
        if (native == EAGAIN) {
            op->flags = OP_WAITING;
            continue;
        }
        e->in = NULL;
        op->flags = OP_DONE;
        op->result = native;
        op->bytes = (uint32_t)bytes;
        op->native[WORD_BUFFER] = (uintptr_t)to;
        io_queue_push(&port->received, op);
        count++;
        if (bytes > RECEIVED_SMALL) return;
        to += (bytes + RECEIVED_ALIGN - 1) / RECEIVED_ALIGN * RECEIVED_ALIGN;
    }
}

bool epoll_try_readable(entry *e, io_op *op, io_packet *packet)
{
    packet->native = io_error_peek(op->socket, e->error);
    if (packet->native == EAGAIN) {
        e->flags &= (uint8_t) ~(ENTRY_READABLE | ENTRY_HUNG);
        packet->native = 0;
        op->flags = OP_WAITING;
        return false;
    }
    note_error(e, packet->native);
    e->in = NULL;
    return true;
}

/* ---- Sending ---- */

static ssize_t send_bufs(int fd, const io_buf *bufs, uint32_t count)
{
    if (count == 1) return send_now(fd, bufs[0].base, bufs[0].len);
    struct iovec vectors[IO_BUFS_MAX];
    struct msghdr message = {.msg_iov = vectors, .msg_iovlen = count};
    for (uint32_t i = 0; i < count; i++) {
        vectors[i] = (struct iovec){.iov_base = (void *)(uintptr_t)bufs[i].base, .iov_len = bufs[i].len};
    }
    return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Sends what there is room for. Returns an errno, or 0; EAGAIN: no room, and an edge will tell. */
static int send_some(entry *e, int fd, const io_buf *bufs, uint32_t count, size_t *bytes)
{
    ssize_t sent;
    assert(e->out == NULL);
    *bytes = 0;
    if (!(e->flags & ENTRY_WRITABLE)) return EAGAIN;
    do {
        sent = send_bufs(fd, bufs, count);
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0) {
        if ((size_t)sent < io_bufs_bytes(bufs, count)) e->flags &= (uint8_t)~ENTRY_WRITABLE;
        *bytes = (size_t)sent;
        return 0;
    }
    int native = errno;
    if (native == EAGAIN) e->flags &= (uint8_t)~ENTRY_WRITABLE;
    else note_error(e, native);
    return native;
}

io_status epoll_send(io_port *head, io_op *op, io_socket socket, const io_buf *bufs, uint32_t count)
{
    epoll_port *port = to_epoll(head);
    entry *e = attached_entry(port, socket);
    size_t sent;
    int native = send_some(e, (int)socket, bufs, count, &sent);
    if (native == EAGAIN) epoll_wait_out(port, e, op);
    else queue_done(port, op, native, (uint32_t)sent);
    return IO_OK;
}

io_status epoll_send_now(io_port *head, io_socket socket, const io_buf *bufs, uint32_t count, size_t *bytes)
{
    int native = send_some(attached_entry(to_epoll(head), socket), (int)socket, bufs, count, bytes);
    return native == 0 ? IO_OK : net_map_error(native);
}
