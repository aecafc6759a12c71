/* io_posix.c - posts between threads and kept errors, for io_epoll.c and io_uring.c. */
#define _GNU_SOURCE 1

#include "io_posix.h"

#include <assert.h>
#include <errno.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

io_status io_mailbox_open(io_mailbox *mailbox, int *native)
{
    *native = 0;
    mailbox->wake = -1;
    mailbox->lock = os_mutex_open();
    if (mailbox->lock == NULL) return IO_LIMIT;
    mailbox->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (mailbox->wake >= 0) return IO_OK;
    *native = errno;
    return net_map_error(errno);
}

void io_mailbox_close(io_mailbox *mailbox)
{
    assert(mailbox->posts.head == NULL);
    if (mailbox->lock == NULL) return;
    if (mailbox->wake >= 0) (void)close(mailbox->wake);
    os_mutex_close(mailbox->lock);
}

void io_mailbox_put(io_mailbox *mailbox, io_op *op)
{
    const uint64_t one = 1;
    os_mutex_lock(mailbox->lock);
    bool was_empty = mailbox->posts.head == NULL;
    io_queue_push(&mailbox->posts, op);
    /* Under the lock, so that the owner cannot take the post and close the port before the write. The counter is
     * full after 2^64 - 2 writes. */
    if (was_empty) {
        while (write(mailbox->wake, &one, sizeof one) < 0 && errno == EINTR) continue;
    }
    os_mutex_unlock(mailbox->lock);
}

void io_mailbox_take(io_mailbox *mailbox, io_queue *queue)
{
    os_mutex_lock(mailbox->lock);
    io_queue posts = mailbox->posts;
    mailbox->posts = (io_queue){NULL, NULL};
    os_mutex_unlock(mailbox->lock);
    if (posts.head == NULL) return;
    if (queue->tail != NULL) queue->tail->next = posts.head;
    else queue->head = posts.head;
    queue->tail = posts.tail;
}

int io_error_keep(int kept, int native)
{
    if (kept != 0 || native == 0 || native == EPIPE) return kept;
    switch (net_map_error(native)) {
    case IO_RESET:
    case IO_TIMEOUT:
    case IO_UNREACHABLE:
        return native;
    default:
        return 0;
    }
}

int io_error_peek(io_socket socket, int kept)
{
    char byte;
    ssize_t got;
    do {
        got = recv((int)socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got > 0) return 0;
    return got == 0 ? kept : errno;
}

int io_datagram_recv(io_port *port, io_datagram_op *op, io_packet *packet)
{
    socklen_t bytes = sizeof op->peer;
    ssize_t got;
    do {
        got = recvfrom((int)op->op.socket, port->datagram, IO_DATAGRAM_BYTES, MSG_DONTWAIT,
                       (struct sockaddr *)&op->peer, &bytes);
    } while (got < 0 && errno == EINTR);
    if (got < 0) return errno;
    packet->data = port->datagram;
    packet->bytes = (uint32_t)got;
    return 0;
}

int io_datagram_send(const io_datagram_op *op, const void *data, size_t len, io_packet *packet)
{
    socklen_t to_bytes = (socklen_t)net_addr_bytes(&op->peer);
    const struct sockaddr *to = to_bytes > 0 ? (const struct sockaddr *)&op->peer : NULL;
    ssize_t sent;
    do {
        sent = sendto((int)op->op.socket, data, len, MSG_NOSIGNAL | MSG_DONTWAIT, to, to_bytes);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) return errno;
    packet->bytes = (uint32_t)sent;
    return 0;
}
