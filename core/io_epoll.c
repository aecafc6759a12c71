/* io_epoll.c - completion packets from readiness, for Linux where io_uring is forbidden.
 *
 * Every socket is registered once, edge-triggered, for everything but room to send, which is added when it is waited for
 * first: few connections ever need it. A table by descriptor remembers what the last edge said, so that an operation is
 * attempted when it can succeed and waits otherwise:
 *
 *   send      is attempted by the submit itself; its packet waits in the queue. io_send_now() is the same without a packet
 *   receive   goes on the queue when the socket may have something, and is attempted by io_port_next(), which is
 *             where the one scratch buffer of the port is free. Lent receives that stand one behind the other are attempted
 *             together while what they bring is small, and their packets taken one by one
 *   otherwise the op waits in the table until an edge comes
 *
 * The queue holds finished ops and ops to attempt, first come, first served. A socket that always has more goes to
 * the back of it after each packet.
 */
#define _GNU_SOURCE 1

#include "io_epoll.h"

#include "base.h"
#include "mem.h"
#include "os.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NS_PER_MS = 1000000 };

#define WAKE_DATA UINT64_MAX

static uint64_t event_data(io_socket socket, const entry *e)
{
    return (uint64_t)e->generation << 32 | (uint32_t)socket;
}

/* ---- Accepts that wait for the same listener ---- */

static io_op *chain_next(const io_op *op)
{
    return (io_op *)op->native[WORD_CHAIN];
}

static void chain_push(entry *e, io_op *op)
{
    op->native[WORD_CHAIN] = 0;
    if (e->out != NULL) e->out->native[WORD_CHAIN] = (uintptr_t)op;
    else e->in = op;
    e->out = op;
}

static void chain_pop(entry *e)
{
    e->in = chain_next(e->in);
    if (e->in == NULL) e->out = NULL;
}

/* ---- Edges ---- */

static void wake_in(epoll_port *port, entry *e)
{
    io_op *op = e->in;
    if (op == NULL || op->flags != OP_WAITING) return;
    if (op->kind == IO_READABLE && !(e->flags & ENTRY_HUNG)) {
        e->in = NULL; /* Nobody can have taken the bytes since: a draw is not legal while this is pending. */
        queue_done(port, op, 0, 0);
        return;
    }
    queue_try(port, op);
}

static void wake_out(epoll_port *port, entry *e)
{
    io_op *op = e->out;
    if (op == NULL || e->flags & ENTRY_LISTENER || op->flags != OP_WAITING) return;
    if (op->kind == IO_CONNECT || op->kind == IO_SEND_TO) {
        queue_try(port, op);
        return;
    }
    /* The caller's buffer array is not kept: it submits again. */
    e->out = NULL;
    queue_done(port, op, 0, 0);
}

static void on_edge(epoll_port *port, uint64_t data, uint32_t events)
{
    entry *e = find_entry(port, (io_socket)(uint32_t)data);
    /* A closed socket can still send edges while a forked child holds a copy of it. */
    if (e == NULL || e->generation != (uint32_t)(data >> 32)) return;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) e->flags |= ENTRY_HUNG;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        e->flags |= ENTRY_READABLE;
        wake_in(port, e);
    }
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
        e->flags |= ENTRY_WRITABLE;
        wake_out(port, e);
    }
}

/* ---- Opening and closing ---- */

static void epoll_close(io_port *head)
{
    epoll_port *port = to_epoll(head);
    assert(port->queue.head == NULL && port->received.head == NULL);
    io_slots_close(&port->attached);
    io_mailbox_close(&port->mailbox);
    if (port->epoll >= 0) (void)close(port->epoll);
    mem_free(port->scratch);
    mem_free(port);
}

static io_status epoll_open(io_port **opened, const io_options *options)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = WAKE_DATA};
    epoll_port *port = mem_zalloc(sizeof *port);
    io_status status = IO_LIMIT;
    int native = 0;
    if (port == NULL) return IO_LIMIT;
    port->epoll = -1;
    port->recv_bytes = options->recv_bytes;
    port->scratch = mem_alloc((RECEIVED_MAX - 1) * RECEIVED_SMALL + port->recv_bytes);
    if (port->scratch == NULL) goto fail;
    status = io_mailbox_open(&port->mailbox, &native);
    if (status != IO_OK) goto fail;
    port->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (port->epoll < 0 || epoll_ctl(port->epoll, EPOLL_CTL_ADD, port->mailbox.wake, &event) != 0) {
        status = net_map_error(errno);
        goto fail;
    }
    *opened = &port->head;
    return IO_OK;
fail:
    epoll_close(&port->head);
    return status;
}

static bool epoll_probe(char *why, size_t why_size)
{
    struct epoll_event event;
    const char *step = "epoll_create1";
    int result = -1;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll >= 0) {
        step = "epoll_wait";
        result = epoll_wait(epoll, &event, 1, 0);
    }
    if (result < 0) (void)snprintf(why, why_size, "%s: %s", step, strerror(errno));
    if (epoll >= 0) (void)close(epoll);
    return result == 0;
}

static int64_t epoll_now(io_port *head)
{
    (void)head;
    return os_monotonic_ns();
}

/* ---- Sockets ---- */

static io_status epoll_attach(io_port *head, io_socket socket, bool is_udp)
{
    (void)is_udp;
    epoll_port *port = to_epoll(head);
    assert(find_entry(port, socket) == NULL);
    entry *e = io_slots_add(&port->attached, socket, sizeof *e);
    if (e == NULL) return IO_LIMIT;
    e->generation = ++port->attached.generations;
    e->flags = ENTRY_WRITABLE; /* what is there already comes with a first edge */
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u64 = event_data(socket, e)};
    if (epoll_ctl(port->epoll, EPOLL_CTL_ADD, (int)socket, &event) == 0) return IO_OK;
    io_status status = net_map_error(errno);
    io_slots_remove(&port->attached, socket, sizeof *e);
    return status;
}

static void epoll_close_socket(io_port *head, io_socket socket, bool abort)
{
    epoll_port *port = to_epoll(head);
    entry *e = find_entry(port, socket);
    /* The kernel gives the number to the next socket, which may belong to another port. */
    if (e != NULL) {
        assert(e->in == NULL && e->out == NULL);
        io_slots_remove(&port->attached, socket, sizeof *e);
    }
    if (abort) (void)net_set_abort(socket);
    net_close(socket);
}

static io_status epoll_shutdown(io_port *head, io_socket socket)
{
    (void)head;
    return net_shutdown_send(socket);
}

static void epoll_cancel(io_port *head, io_socket socket)
{
    epoll_port *port = to_epoll(head);
    entry *e = attached_entry(port, socket);
    if (e->flags & ENTRY_LISTENER) {
        while (e->in != NULL) {
            io_op *op = e->in;
            chain_pop(e);
            queue_done(port, op, ECANCELED, 0);
        }
        return;
    }
    io_op *in = e->in;
    io_op *out = e->out;
    e->in = NULL;
    e->out = NULL;
    if (in != NULL) queue_done(port, in, ECANCELED, 0);
    if (out != NULL) queue_done(port, out, ECANCELED, 0);
}

/* ---- Submits ---- */

static io_status epoll_accept(io_port *head, io_accept_op *op, io_socket listener)
{
    epoll_port *port = to_epoll(head);
    entry *e = attached_entry(port, listener);
    assert(e->flags & ENTRY_LISTENER || (e->in == NULL && e->out == NULL));
    e->flags |= ENTRY_LISTENER;
    chain_push(e, &op->op);
    if (e->in == &op->op && e->flags & ENTRY_READABLE) queue_try(port, &op->op);
    return IO_OK;
}

void epoll_wait_out(epoll_port *port, entry *e, io_op *op)
{
    if (!(e->flags & ENTRY_WATCHED)) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                    .data.u64 = event_data(op->socket, e)};
        if (epoll_ctl(port->epoll, EPOLL_CTL_MOD, (int)op->socket, &event) != 0) {
            e->out = NULL;
            queue_done(port, op, errno, 0);
            return;
        }
        e->flags |= ENTRY_WATCHED;
    }
    e->out = op;
}

static io_status epoll_connect(io_port *head, io_op *op, io_socket socket, const net_addr *peer)
{
    epoll_port *port = to_epoll(head);
    entry *e = attached_entry(port, socket);
    assert(e->out == NULL);
    /* A socket that is not connected yet says that it hung up: forget it. */
    e->flags &= ENTRY_WATCHED;
    if (connect((int)socket, (const struct sockaddr *)peer, (socklen_t)net_addr_bytes(peer)) == 0) {
        e->flags |= ENTRY_WRITABLE;
        queue_done(port, op, 0, 0);
    } else if (errno == EINPROGRESS || errno == EINTR) {
        epoll_wait_out(port, e, op); /* An interrupted connect goes on as well: connect(2). */
    } else {
        queue_done(port, op, errno, 0);
    }
    return IO_OK;
}

/* Datagrams are attempted when their turn comes: several sockets of one port then take turns. */

static io_status epoll_recv_from(io_port *head, io_datagram_op *op, io_socket socket)
{
    epoll_port *port = to_epoll(head);
    entry *e = attached_entry(port, socket);
    assert(e->in == NULL);
    e->in = &op->op;
    if (e->flags & ENTRY_READABLE) queue_try(port, &op->op);
    return IO_OK;
}

static io_status epoll_send_to(io_port *head, io_datagram_op *op, io_socket socket, const void *data, size_t len)
{
    epoll_port *port = to_epoll(head);
    entry *e = attached_entry(port, socket);
    assert(e->out == NULL);
    op->op.native[WORD_BUFFER] = (uintptr_t)data;
    op->op.native[WORD_LEN] = len;
    if (e->flags & ENTRY_WRITABLE) {
        e->out = &op->op;
        queue_try(port, &op->op);
    } else {
        epoll_wait_out(port, e, &op->op);
    }
    return IO_OK;
}

static void epoll_post(io_port *head, io_op *op)
{
    op->flags = OP_DONE;
    op->result = 0;
    op->bytes = 0;
    io_mailbox_put(&to_epoll(head)->mailbox, op);
}

/* ---- Packets ---- */

/* Rounded up: a wait must not end before its time and be repeated. */
static int to_milliseconds(int64_t timeout_ns)
{
    if (timeout_ns < 0) return -1;
    if (timeout_ns >= (int64_t)INT_MAX * NS_PER_MS) return INT_MAX;
    return (int)((timeout_ns + NS_PER_MS - 1) / NS_PER_MS);
}

static io_status epoll_wait_port(io_port *head, int64_t timeout_ns)
{
    epoll_port *port = to_epoll(head);
    bool more = port->queue.head != NULL || port->received.head != NULL;
    int timeout_ms = more ? 0 : to_milliseconds(timeout_ns);
    port->taken = 0;
    int count = epoll_wait(port->epoll, port->events, EVENTS_MAX, timeout_ms);
    if (count < 0) return errno == EINTR ? IO_OK : net_map_error(errno);
    for (int i = 0; i < count; i++) {
        if (port->events[i].data.u64 == WAKE_DATA) io_mailbox_take(&port->mailbox, &port->queue);
        else on_edge(port, port->events[i].data.u64, port->events[i].events);
    }
    return IO_OK;
}

/* The attempts below end in true with a packet, or in false with the op waiting again. */

static bool try_accept(epoll_port *port, entry *e, io_op *op, io_packet *packet)
{
    io_accept_op *accept_op = container_of(op, io_accept_op, op);
    socklen_t bytes = sizeof accept_op->peer;
    int fd;
    accept_op->peer = (net_addr){{0}};
    do {
        fd = accept4((int)op->socket, (struct sockaddr *)&accept_op->peer, &bytes, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0 && errno == EAGAIN) {
        e->flags &= (uint8_t) ~(ENTRY_READABLE | ENTRY_HUNG);
        op->flags = OP_WAITING;
        return false;
    }
    if (fd < 0) packet->native = errno;
    accept_op->peer_bytes = fd < 0 ? 0 : bytes;
    accept_op->accepted = fd < 0 ? IO_SOCKET_NONE : fd;
    packet->accepted = accept_op->accepted;
    chain_pop(e);
    if (e->in != NULL && e->in->flags == OP_WAITING) queue_try(port, e->in);
    return true;
}

static bool try_connect(entry *e, io_op *op, io_packet *packet)
{
    socklen_t len = sizeof packet->native;
    if (getsockopt((int)op->socket, SOL_SOCKET, SO_ERROR, &packet->native, &len) != 0) packet->native = errno;
    e->out = NULL;
    return true;
}

static bool try_recv_from(epoll_port *port, entry *e, io_op *op, io_packet *packet)
{
    packet->native = io_datagram_recv(&port->head, container_of(op, io_datagram_op, op), packet);
    if (packet->native == EAGAIN) {
        e->flags &= (uint8_t) ~(ENTRY_READABLE | ENTRY_HUNG);
        packet->native = 0;
        op->flags = OP_WAITING;
        return false;
    }
    e->in = NULL;
    return true;
}

static bool try_send_to(epoll_port *port, entry *e, io_op *op, io_packet *packet)
{
    const void *data = (const void *)op->native[WORD_BUFFER];
    packet->native = io_datagram_send(container_of(op, io_datagram_op, op), data, op->native[WORD_LEN], packet);
    if (packet->native == EAGAIN) {
        e->flags &= (uint8_t)~ENTRY_WRITABLE;
        packet->native = 0;
        op->flags = OP_WAITING;
        epoll_wait_out(port, e, op);
        return false;
    }
    e->out = NULL;
    return true;
}

static bool attempt(epoll_port *port, io_op *op, io_packet *packet)
{
    entry *e = attached_entry(port, op->socket);
    switch (op->kind) {
    case IO_ACCEPT:
        return try_accept(port, e, op, packet);
    case IO_CONNECT:
        return try_connect(e, op, packet);
    case IO_RECV:
        return epoll_try_recv(e, op, packet);
    case IO_RECV_FROM:
        return try_recv_from(port, e, op, packet);
    case IO_SEND_TO:
        return try_send_to(port, e, op, packet);
    default:
        assert(op->kind == IO_READABLE);
        return epoll_try_readable(e, op, packet);
    }
}

/* What a lent receive has brought. */
static io_op *take_received(epoll_port *port, io_packet *packet)
{
    io_op *op = io_queue_pop(&port->received);
    if (port->received.head != NULL) io_op_prefetch(port->received.head); /* it comes next */
    packet->data = (const uint8_t *)op->native[WORD_BUFFER];
    packet->bytes = op->bytes;
    packet->native = op->result;
    return op;
}

/* The next of the queue that has come to an end. */
static io_op *take_queued(epoll_port *port, io_packet *packet)
{
    io_op *op = io_queue_pop(&port->queue);
    if (op == NULL) return NULL;
    if (op->flags == OP_DONE) {
        packet->native = op->result;
        packet->bytes = op->bytes;
        return op;
    }
    return attempt(port, op, packet) ? op : NULL;
}

static bool epoll_next(io_port *head, io_packet *packet)
{
    epoll_port *port = to_epoll(head);
    if (port->taken >= IO_ROUND_MAX) return false;
    do {
        if (port->received.head == NULL) epoll_recv_round(port);
        packet->op = port->received.head != NULL ? take_received(port, packet) : take_queued(port, packet);
    } while (packet->op == NULL && port->queue.head != NULL);
    if (packet->op == NULL) return false;
    if (packet->native != 0) packet->status = net_map_error(packet->native);
    port->taken++;
    return true;
}

const io_backend io_backend_epoll = {
    .name = "epoll",
    .sends_late = true,
    .probe = epoll_probe,
    .open = epoll_open,
    .close = epoll_close,
    .now = epoll_now,
    .attach = epoll_attach,
    .accept = epoll_accept,
    .connect = epoll_connect,
    .recv = epoll_recv,
    .readable = epoll_readable,
    .send = epoll_send,
    .send_now = epoll_send_now,
    .recv_from = epoll_recv_from,
    .send_to = epoll_send_to,
    .draw = epoll_draw,
    .cancel = epoll_cancel,
    .shutdown = epoll_shutdown,
    .close_socket = epoll_close_socket,
    .post = epoll_post,
    .wait = epoll_wait_port,
    .next = epoll_next,
};
