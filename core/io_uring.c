/* io_uring.c - completion packets from an io_uring, through liburing.
 *
 * One ring per port. An op is one submission entry whose user data is its address; its completion entry becomes its
 * packet. Entries gather in the ring until io_port_wait(), or until the ring is full.
 *
 *   streams        see io_uring_recv.c and io_uring_send.c.
 *   datagrams      are attempted when all completions have been taken: the port's one buffer is then free, and a peer
 *                  that floods a socket has to wait for everybody else. A receive that finds nothing polls; a send
 *                  that finds no room goes to the ring, and waits there.
 *   cancel         by descriptor; its own completion is swallowed.
 */
#define _GNU_SOURCE 1

#include "io_uring.h"

#include "base.h"
#include "mem.h"
#include "os.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

enum { CQ_FACTOR = 4 }; /* completion entries per submission entry; beyond that the kernel keeps a list */

/* ---- Submission entries ---- */

void uring_submit_all(uring_port *port)
{
    /* What fails here stays in the ring and is submitted by the next wait. */
    (void)io_uring_submit(&port->ring);
    if (io_uring_sq_ready(&port->ring) == 0) port->arena_used = 0;
}

/* NULL: the ring is full and the kernel takes nothing now. */
struct io_uring_sqe *uring_entry(uring_port *port)
{
    struct io_uring_sqe *entry = io_uring_get_sqe(&port->ring);
    if (entry != NULL) return entry;
    uring_submit_all(port);
    return io_uring_get_sqe(&port->ring);
}

static bool prepare_accept(uring_port *port, io_op *op)
{
    io_accept_op *accept_op = container_of(op, io_accept_op, op);
    struct io_uring_sqe *entry = uring_entry(port);
    if (entry == NULL) return false;
    accept_op->peer = (net_addr){{0}};
    accept_op->peer_bytes = sizeof accept_op->peer;
    io_uring_prep_accept(entry, (int)op->socket, (struct sockaddr *)&accept_op->peer, &accept_op->peer_bytes,
                         SOCK_NONBLOCK | SOCK_CLOEXEC);
    io_uring_sqe_set_data(entry, op);
    return true;
}

/* For the ops that may have to be submitted twice. */
static bool prepare_again(uring_port *port, io_op *op)
{
    switch (op->kind) {
    case IO_ACCEPT:
        return prepare_accept(port, op);
    case IO_RECV:
        return uring_prepare_recv(port, op);
    case IO_SEND_TO:
        return uring_prepare_send_to(port, op);
    default:
        assert(op->kind == IO_READABLE || op->kind == IO_RECV_FROM);
        return uring_prepare_readable(port, op);
    }
}

static void arm_wake(uring_port *port)
{
    struct io_uring_sqe *entry = uring_entry(port);
    if (entry == NULL) return; /* The next wait tries again. */
    io_uring_prep_poll_multishot(entry, port->mailbox.wake, POLLIN);
    io_uring_sqe_set_data64(entry, URING_WAKE);
    port->wake_armed = true;
}

/* ---- Opening and closing ---- */

/* Best first. An old kernel refuses what it does not know with EINVAL; nobody asks for versions. */
static const unsigned setup_flags[] = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN,
    IORING_SETUP_COOP_TASKRUN,
    0,
};

/* Returns 0 or an errno. */
static int open_ring(struct io_uring *ring, uint32_t entries)
{
    int result = -EINVAL;
    for (size_t i = 0; i < array_count(setup_flags) && result == -EINVAL; i++) {
        struct io_uring_params params = {
            .flags = setup_flags[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL,
            .cq_entries = entries * CQ_FACTOR,
        };
        result = io_uring_queue_init_params(entries, ring, &params);
    }
    return -result;
}

void uring_close(io_port *head)
{
    uring_port *port = uring_of(head);
    assert(port->ready.head == NULL && port->served.head == NULL && port->starved.head == NULL &&
           port->attempts.head == NULL);
    uring_take_back_loan(port);
    if (port->ring.ring_fd >= 0) io_uring_queue_exit(&port->ring);
    uring_close_bufs(port);
    io_mailbox_close(&port->mailbox);
    io_slots_close(&port->attached);
    mem_free(port);
}

/* step: what failed, for people; native: its errno, 0 when memory ran out. */
uring_port *uring_open_port(const io_options *options, const char **step, int *native)
{
    uring_port *port = mem_zalloc(sizeof *port);
    *step = "memory";
    *native = ENOMEM;
    if (port == NULL) return NULL;
    port->ring.ring_fd = -1;
    port->lent = -1;
    port->buf_bytes = options->recv_bytes;
    port->buf_count = options->recv_buffers;
    *step = "io_uring_setup";
    *native = open_ring(&port->ring, options->entries);
    if (*native != 0) {
        port->ring.ring_fd = -1;
        goto fail;
    }
    *step = "features";
    *native = ENOSYS;
    if (!(port->ring.features & IORING_FEAT_SUBMIT_STABLE)) goto fail;
    if (!(port->ring.features & IORING_FEAT_NODROP)) goto fail;
    if (!(port->ring.features & IORING_FEAT_EXT_ARG)) goto fail;
    *step = "buffer ring";
    *native = uring_open_bufs(port);
    if (*native != 0) goto fail;
    port->multishot = uring_knows_streams(port);
    *step = "eventfd";
    if (io_mailbox_open(&port->mailbox, native) != IO_OK) goto fail;
    arm_wake(port);
    /* Saves the kernel a look-up per call; where it is refused, nothing is lost. */
    (void)io_uring_register_ring_fd(&port->ring);
    return port;
fail:
    uring_close(&port->head);
    return NULL;
}

static io_status uring_open(io_port **opened, const io_options *options)
{
    const char *step;
    int native;
    uring_port *port = uring_open_port(options, &step, &native);
    if (port == NULL) return native != 0 ? net_map_error(native) : IO_LIMIT;
    *opened = &port->head;
    return IO_OK;
}

static int64_t uring_now(io_port *head)
{
    (void)head;
    return os_monotonic_ns();
}

/* ---- Sockets ---- */

io_status uring_attach(io_port *head, io_socket socket, bool is_udp)
{
    uring_port *port = uring_of(head);
    (void)is_udp;
    uring_slot *s = io_slots_add(&port->attached, socket, sizeof *s);
    if (s == NULL) return IO_LIMIT;
    s->generation = ++port->attached.generations;
    return IO_OK;
}

static void uring_close_socket(io_port *head, io_socket socket, bool abort)
{
    uring_port *port = uring_of(head);
    if (uring_slot_find(port, socket) != NULL) {
        uring_end_stream(port, socket);
        io_slots_remove(&port->attached, socket, sizeof(uring_slot));
    }
    if (abort) (void)net_set_abort(socket);
    net_close(socket);
}

static io_status uring_shutdown(io_port *head, io_socket socket)
{
    (void)head;
    return net_shutdown_send(socket);
}

static void complete(uring_port *port, io_op *op, int native)
{
    op->result = native;
    io_queue_push(&port->ready, op);
}

/* What waits in a queue of ours is not with the kernel: no cancel finds it there. */
static void cancel_queued(uring_port *port, io_queue *queue, io_socket socket)
{
    io_queue all = *queue;
    *queue = (io_queue){NULL, NULL};
    for (io_op *op = io_queue_pop(&all); op != NULL; op = io_queue_pop(&all)) {
        if (op->socket == socket) complete(port, op, ECANCELED);
        else io_queue_push(queue, op);
    }
}

void uring_cancel(io_port *head, io_socket socket)
{
    uring_port *port = uring_of(head);
    uring_slot *s = uring_slot_of(port, socket);
    struct io_uring_sqe *entry = uring_entry(port);
    cancel_queued(port, &port->starved, socket);
    cancel_queued(port, &port->attempts, socket);
    if (entry == NULL || s->cancels == UINT8_MAX) {
        /* The kernel takes no entries. Whoever cancels wants the operations to end, and this ends them as well. */
        (void)shutdown((int)socket, SHUT_RDWR);
        return;
    }
    io_uring_prep_cancel_fd(entry, (int)socket, IORING_ASYNC_CANCEL_ALL);
    io_uring_sqe_set_data64(entry, uring_tag(URING_CANCEL, socket, s));
    s->cancels++;
    if (!(s->flags & URING_HOLDING) && s->waiting != NULL) s->flags |= URING_CANCELED;
}

static void on_cancel_done(uring_port *port, uint64_t data)
{
    uring_slot *s = uring_slot_tagged(port, data);
    if (s == NULL) return;
    assert(s->cancels > 0);
    s->cancels--;
}

/* ---- Submits ---- */

static io_status uring_accept(io_port *head, io_accept_op *op, io_socket listener)
{
    (void)listener;
    return prepare_accept(uring_of(head), &op->op) ? IO_OK : IO_LIMIT;
}

static io_status uring_connect(io_port *head, io_op *op, io_socket socket, const net_addr *peer)
{
    struct io_uring_sqe *entry = uring_entry(uring_of(head));
    if (entry == NULL) return IO_LIMIT;
    io_uring_prep_connect(entry, (int)socket, (const struct sockaddr *)peer, (socklen_t)net_addr_bytes(peer));
    io_uring_sqe_set_data(entry, op);
    return IO_OK;
}

static io_status uring_recv_from(io_port *head, io_datagram_op *op, io_socket socket)
{
    (void)socket;
    io_queue_push(&uring_of(head)->attempts, &op->op);
    return IO_OK;
}

static io_status uring_send_to(io_port *head, io_datagram_op *op, io_socket socket, const void *data, size_t len)
{
    (void)socket;
    op->op.native[URING_BUFFER] = (uintptr_t)data;
    op->op.native[URING_LEN] = len;
    io_queue_push(&uring_of(head)->attempts, &op->op);
    return IO_OK;
}

static void uring_post(io_port *head, io_op *op)
{
    op->result = 0;
    io_mailbox_put(&uring_of(head)->mailbox, op);
}

/* ---- Packets ---- */

/* As many as there are buffers: more would only starve again. */
static void feed_starved(uring_port *port)
{
    for (uint32_t i = 0; i < port->buf_count && port->starved.head != NULL; i++) {
        io_op *op = io_queue_pop(&port->starved);
        /* Without data it shall wait for data first, and not for a buffer. */
        if (op->kind == IO_RECV) uring_slot_of(port, op->socket)->flags |= URING_EMPTY;
        if (!prepare_again(port, op)) {
            io_queue_push(&port->starved, op);
            return;
        }
    }
}

static int enter(uring_port *port, int64_t timeout_ns)
{
    struct io_uring_cqe *completion;
    struct __kernel_timespec timeout;
    bool more = port->ready.head != NULL || port->served.head != NULL || port->starved.head != NULL ||
                port->attempts.head != NULL || io_uring_cq_ready(&port->ring) > 0;
    /* With deferred task work the kernel completes nothing unless it is asked for events. */
    if (timeout_ns == 0 || more) return io_uring_submit_and_get_events(&port->ring);
    if (timeout_ns < 0) return io_uring_submit_and_wait(&port->ring, 1);
    timeout.tv_sec = timeout_ns / 1000000000;
    timeout.tv_nsec = timeout_ns % 1000000000;
    return io_uring_submit_and_wait_timeout(&port->ring, &completion, 1, &timeout, NULL);
}

/* The kernel takes nothing now; a moment later it may. What completes ends the rest. */
static void rest(uring_port *port)
{
    enum { REST_MS = 1 };
    struct pollfd ring = {.fd = port->ring.ring_fd, .events = POLLIN};
    if (io_uring_cq_ready(&port->ring) == 0) (void)poll(&ring, 1, REST_MS);
}

io_status uring_wait(io_port *head, int64_t timeout_ns)
{
    uring_port *port = uring_of(head);
    port->taken = 0;
    uring_take_back_loan(port);
    feed_starved(port);
    if (!port->wake_armed) arm_wake(port);
    int result = enter(port, timeout_ns);
    if (io_uring_sq_ready(&port->ring) == 0) port->arena_used = 0;
    switch (result < 0 ? -result : 0) {
    case 0:
    case ETIME:
    case EINTR:
        return IO_OK;
    case EAGAIN: /* No memory for requests just now; the entries stay in the ring. */
    case EBUSY:  /* The list of overflown completions has to be taken first. */
        rest(port);
        return IO_OK;
    default:
        return net_map_error(-result);
    }
}

static bool on_accept(uring_port *port, io_op *op, int result, io_packet *packet)
{
    io_accept_op *accept_op = container_of(op, io_accept_op, op);
    if (result == -EAGAIN || result == -EINTR) {
        if (uring_slot_of(port, op->socket)->cancels == 0) {
            io_queue_push(&port->starved, op);
            return false;
        }
        result = -ECANCELED;
    }
    accept_op->accepted = result >= 0 ? result : IO_SOCKET_NONE;
    packet->accepted = accept_op->accepted;
    packet->native = result >= 0 ? 0 : -result;
    return true;
}

/* Not now: the op is submitted again by the next wait, unless it has been canceled meanwhile. False: there is no packet. */
static bool starve(uring_port *port, io_op *op, io_packet *packet)
{
    if (uring_slot_of(port, op->socket)->cancels == 0) {
        io_queue_push(&port->starved, op);
        return false;
    }
    packet->native = ECANCELED; /* The cancel came too late to find it. */
    return true;
}

/* False: nothing is there. */
static bool try_recv_from(uring_port *port, io_op *op, io_packet *packet)
{
    packet->native = io_datagram_recv(&port->head, container_of(op, io_datagram_op, op), packet);
    if (packet->native != EAGAIN) return true;
    packet->native = 0;
    return false;
}

/* False: there is no room. */
static bool try_send_to(io_op *op, io_packet *packet)
{
    const void *data = (const void *)op->native[URING_BUFFER];
    packet->native = io_datagram_send(container_of(op, io_datagram_op, op), data, op->native[URING_LEN], packet);
    if (packet->native != EAGAIN) return true;
    packet->native = 0;
    return false;
}

/* An attempt is due. Had it been canceled, it would not be here any more; so a cancel that is still under way was for an
 * op before it. */
static bool attempt(uring_port *port, io_op *op, io_packet *packet)
{
    packet->op = op;
    if (op->kind == IO_RECV_FROM ? try_recv_from(port, op, packet) : try_send_to(op, packet)) return true;
    io_queue_push(&port->starved, op);
    return false;
}

/* The poll is over. */
static bool on_recv_from(uring_port *port, io_op *op, int result, io_packet *packet)
{
    if (result < 0) packet->native = -result;
    return result < 0 || try_recv_from(port, op, packet) || starve(port, op, packet);
}

static bool on_send_to(uring_port *port, io_op *op, int result, io_packet *packet)
{
    if (result == -EAGAIN || result == -EINTR) return starve(port, op, packet);
    if (result >= 0) packet->bytes = (uint32_t)result;
    else packet->native = -result;
    return true;
}

/* False: nothing that the owner needs to know. */
static bool on_completion(uring_port *port, const struct io_uring_cqe *completion, io_packet *packet)
{
    if (completion->user_data == URING_WAKE) {
        if (!(completion->flags & IORING_CQE_F_MORE)) port->wake_armed = false;
        io_mailbox_take(&port->mailbox, &port->ready);
        return false;
    }
    switch (completion->user_data & URING_TAG_MASK) {
    case URING_STREAM:
        return uring_on_stream(port, completion->user_data, completion->res, completion->flags, packet);
    case URING_CANCEL:
        on_cancel_done(port, completion->user_data);
        return false;
    case URING_IGNORED:
        return false;
    default:
        break;
    }
    io_op *op = (io_op *)(uintptr_t)completion->user_data;
    packet->op = op;
    switch (op->kind) {
    case IO_ACCEPT:
        return on_accept(port, op, completion->res, packet);
    case IO_RECV:
        return uring_on_recv(port, op, completion->res, completion->flags, packet);
    case IO_READABLE:
        return uring_on_readable(port, op, completion->res, packet);
    case IO_SEND:
        return uring_on_send(port, op, completion->res, packet);
    case IO_RECV_FROM:
        return on_recv_from(port, op, completion->res, packet);
    case IO_SEND_TO:
        return on_send_to(port, op, completion->res, packet);
    default:
        assert(op->kind == IO_CONNECT);
        packet->native = completion->res < 0 ? -completion->res : 0;
        return true;
    }
}

/* The next completion entry, copied out of the ring; false: none. */
static bool take_completion(uring_port *port, struct io_uring_cqe *completion)
{
    struct io_uring_cqe *next;
    if (io_uring_peek_batch_cqe(&port->ring, &next, 1) == 0) return false;
    *completion = *next;
    io_uring_cq_advance(&port->ring, 1);
    return true;
}

bool uring_next(io_port *head, io_packet *packet)
{
    uring_port *port = uring_of(head);
    struct io_uring_cqe completion;
    uring_take_back_loan(port);
    if (port->taken >= IO_ROUND_MAX) return false;
    for (;;) {
        packet->op = io_queue_pop(&port->ready);
        if (packet->op != NULL) {
            packet->native = packet->op->result;
            break;
        }
        packet->op = io_queue_pop(&port->served);
        if (packet->op != NULL) {
            uring_serve(port, packet->op, packet);
            break;
        }
        if (take_completion(port, &completion)) {
            if (on_completion(port, &completion, packet)) break;
            continue;
        }
        io_op *op = io_queue_pop(&port->attempts);
        if (op == NULL) return false;
        if (attempt(port, op, packet)) break;
    }
    if (packet->native != 0) packet->status = net_map_error(packet->native);
    port->taken++;
    return true;
}

const io_backend io_backend_uring = {
    .name = "io_uring",
    .sends_late = true,
    .probe = uring_probe,
    .open = uring_open,
    .close = uring_close,
    .now = uring_now,
    .attach = uring_attach,
    .accept = uring_accept,
    .connect = uring_connect,
    .recv = uring_recv,
    .readable = uring_readable,
    .send = uring_send,
    .send_now = uring_send_now,
    .recv_from = uring_recv_from,
    .send_to = uring_send_to,
    .draw = uring_draw,
    .cancel = uring_cancel,
    .shutdown = uring_shutdown,
    .close_socket = uring_close_socket,
    .post = uring_post,
    .wait = uring_wait,
    .next = uring_next,
};
