/* io_uring_recv.c - receiving from streams: lent buffers, callers' buffers, readiness, drawing.
 *
 * A lent receive names no buffer: the kernel picks one from the port's buffer ring when bytes are there. It goes back at
 * the next io_port_next() or io_port_wait(). When none is left the kernel answers ENOBUFS, even when the news is end of stream
 * (Linux 6.18); the op then starves until io_port_wait(), when buffers have come back.
 *
 * The first lent receive of a socket is an entry of its own. Once it has brought bytes, the next is a multishot one,
 * which stays with the kernel and so saves a submission per message (a fifth of the processor time of a bare echo,
 * docs/performance.md); a connection that is closed after its first message does without. It belongs to the descriptor and
 * not to an op: its completions carry the descriptor's tag, and go to the op that waits in the slot. When none does, because the
 * owner has paused or is about to close, the bytes are copied into chunks on the slot's list, in order, and the receive is
 * asked to end. Whatever is submitted or drawn next finds them there. Copied, because connections that are not read
 * would else keep the port's buffers from all others.
 *
 * Before it hears of that, the kernel takes up to 32 buffers from a socket in one go (MULTISHOT_MAX_RETRY in its
 * io_uring/net.c): half a MiB for a peer that sends and never reads. So each multishot receive may bring STREAM_BUFS buffers
 * in all and is then submitted anew. Kernels before 6.17 do not know such a bound, and get receives one by one.
 *
 * It is never told to poll first: one that finds bytes and a reset when it begins to poll takes the bytes, and then waits for
 * news that has already come (Linux 6.18, io_poll_check_events(): "multiple refs and HUP, ensure we loop once more").
 *
 * It needs deferred task work, too: with it the kernel takes bytes from a socket only inside io_uring_enter(). Else it could
 * take some between our look at the completions and a recv() of our own, and order would be lost.
 */
#define _GNU_SOURCE 1

#include "io_uring.h"

#include "mem.h"
#include "net.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BUFFER_GROUP = 0, /* a ring has one buffer ring */
    STREAM_BUFS = 4   /* that a multishot receive fills, and so what a connection may have that wants none */
};

/* ---- Buffers ---- */

static uint8_t *buf_at(const uring_port *port, int index)
{
    return port->bufs + (size_t)index * port->buf_bytes;
}

static void give_buf(uring_port *port, int index)
{
    io_uring_buf_ring_add(port->buf_ring, buf_at(port, index), port->buf_bytes, (unsigned short)index,
                          io_uring_buf_ring_mask(port->buf_count), 0);
    io_uring_buf_ring_advance(port->buf_ring, 1);
}

void uring_take_back_loan(uring_port *port)
{
    if (port->lent >= 0) give_buf(port, port->lent);
    port->lent = -1;
    mem_free(port->loan);
    port->loan = NULL;
}

int uring_open_bufs(uring_port *port)
{
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    size_t ring_bytes = port->buf_count * sizeof(struct io_uring_buf);
    struct io_uring_buf_reg registration = {.ring_entries = port->buf_count, .bgid = BUFFER_GROUP};
    ring_bytes = (ring_bytes + page_bytes - 1) / page_bytes * page_bytes;
    port->mapping_bytes = ring_bytes + (size_t)port->buf_count * port->buf_bytes;
    /* A mapping of its own, because the kernel wants the ring at the start of a page. */
    void *mapping = mmap(NULL, port->mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) return errno;
    port->buf_ring = mapping;
    port->bufs = (uint8_t *)mapping + ring_bytes;
    registration.ring_addr = (uintptr_t)mapping;
    int result = io_uring_register_buf_ring(&port->ring, &registration, 0);
    if (result < 0) return -result;
    io_uring_buf_ring_init(port->buf_ring);
    for (uint32_t i = 0; i < port->buf_count; i++) give_buf(port, (int)i);
    return 0;
}

void uring_close_bufs(uring_port *port)
{
    if (port->buf_ring != NULL) (void)munmap(port->buf_ring, port->mapping_bytes);
}

/* ---- Bytes that nobody has asked for yet ---- */

static bool is_holding(const uring_slot *s)
{
    return s->flags & URING_HOLDING;
}

/* Appends to the slot's list. It is short: the receive is asked to end with its first entry. No op waits. */
static void hold(uring_slot *s, io_socket socket, const uint8_t *bytes, size_t len)
{
    uring_chunk *chunk = mem_alloc(sizeof *chunk + len);
    if (chunk == NULL) { /* the stream would have a gap: it ends here */
        s->error = ENOMEM;
        (void)shutdown((int)socket, SHUT_RDWR);
        return;
    }
    chunk->next = NULL;
    chunk->start = 0;
    chunk->end = len;
    memcpy(chunk->bytes, bytes, len);
    if (!is_holding(s)) s->held = NULL;
    s->flags |= URING_HOLDING;
    uring_chunk **link = &s->held;
    while (*link != NULL) link = &(*link)->next;
    *link = chunk;
}

/* Takes the first chunk off the list. */
static uring_chunk *unhold(uring_slot *s)
{
    uring_chunk *chunk = s->held;
    s->held = chunk->next;
    if (s->held != NULL) return chunk;
    s->flags &= (uint8_t)~URING_HOLDING;
    s->waiting = NULL;
    return chunk;
}

/* Moves held bytes, of one chunk at most. */
static size_t take_held(uring_slot *s, void *buffer, size_t len)
{
    uring_chunk *first = s->held;
    if (len > first->end - first->start) len = first->end - first->start;
    memcpy(buffer, first->bytes + first->start, len);
    first->start += len;
    if (first->start == first->end) mem_free(unhold(s));
    return len;
}

void uring_serve(uring_port *port, io_op *op, io_packet *packet)
{
    uring_slot *s = uring_slot_of(port, op->socket);
    assert(is_holding(s));
    if (op->kind == IO_READABLE) return;
    if (op->native[URING_BUFFER] != 0) {
        packet->data = (uint8_t *)op->native[URING_BUFFER];
        packet->bytes = (uint32_t)take_held(s, (void *)op->native[URING_BUFFER], op->native[URING_LEN]);
        return;
    }
    assert(port->loan == NULL);
    port->loan = unhold(s);
    packet->data = port->loan->bytes + port->loan->start;
    packet->bytes = (uint32_t)(port->loan->end - port->loan->start);
}

/* Asks the multishot receive to end. Where there is no room to ask now, its next bytes are the occasion. */
static void stop_stream(uring_port *port, io_socket socket)
{
    uring_slot *s = uring_slot_of(port, socket);
    if (!(s->flags & URING_ARMED) || (s->flags & URING_STOPPING)) return;
    struct io_uring_sqe *entry = uring_entry(port);
    if (entry == NULL) return;
    io_uring_prep_cancel64(entry, uring_tag(URING_STREAM, socket, s), 0);
    io_uring_sqe_set_data64(entry, URING_IGNORED);
    s->flags |= URING_STOPPING;
}

void uring_end_stream(uring_port *port, io_socket socket)
{
    uring_slot *s = uring_slot_of(port, socket);
    assert(is_holding(s) || s->waiting == NULL);
    stop_stream(port, socket);
    /* The kernel holds on to the socket until the receive has ended: without that the peer would see no FIN. */
    if ((s->flags & (URING_ARMED | URING_STOPPING)) == URING_ARMED) (void)shutdown((int)socket, SHUT_RDWR);
    while (is_holding(s)) mem_free(unhold(s));
    s->flags = 0;
}

/* ---- Submits ---- */

static void prepare_stream(const uring_port *port, struct io_uring_sqe *entry, int socket)
{
    io_uring_prep_recv_multishot(entry, socket, NULL, 0, 0);
    entry->flags |= IOSQE_BUFFER_SELECT;
    entry->buf_group = BUFFER_GROUP;
    entry->file_index = STREAM_BUFS * port->buf_bytes; /* "optlen" in newer headers, a field of the same union */
}

bool uring_knows_streams(uring_port *port)
{
    struct io_uring_cqe *completion;
    if (!(port->ring.flags & IORING_SETUP_DEFER_TASKRUN)) return false;
    struct io_uring_sqe *entry = uring_entry(port);
    if (entry == NULL) return false;
    prepare_stream(port, entry, -1); /* who knows the bound minds the descriptor; who does not refuses it first */
    io_uring_sqe_set_data64(entry, URING_IGNORED);
    if (io_uring_submit_and_wait(&port->ring, 1) < 0 || io_uring_peek_cqe(&port->ring, &completion) != 0) return false;
    return completion->res == -EBADF;
}

bool uring_prepare_recv(uring_port *port, io_op *op)
{
    uring_slot *s = uring_slot_of(port, op->socket);
    struct io_uring_sqe *entry = uring_entry(port);
    if (entry == NULL) return false;
    if (op->native[URING_BUFFER] != 0) {
        io_uring_prep_recv(entry, (int)op->socket, (void *)op->native[URING_BUFFER], op->native[URING_LEN], 0);
        io_uring_sqe_set_data(entry, op);
    } else if (port->multishot && (s->flags & URING_WARM)) {
        prepare_stream(port, entry, (int)op->socket);
        io_uring_sqe_set_data64(entry, uring_tag(URING_STREAM, op->socket, s));
        s->flags |= URING_ARMED;
        s->waiting = op;
    } else {
        io_uring_prep_recv(entry, (int)op->socket, NULL, port->buf_bytes, 0);
        entry->flags |= IOSQE_BUFFER_SELECT;
        entry->buf_group = BUFFER_GROUP;
        io_uring_sqe_set_data(entry, op);
    }
    if ((s->flags & (URING_EMPTY | URING_ARMED)) == URING_EMPTY) entry->ioprio |= IORING_RECVSEND_POLL_FIRST;
    return true;
}

bool uring_prepare_readable(uring_port *port, io_op *op)
{
    struct io_uring_sqe *entry = uring_entry(port);
    if (entry == NULL) return false;
    io_uring_prep_poll_add(entry, (int)op->socket, POLLIN | POLLRDHUP);
    io_uring_sqe_set_data(entry, op);
    return true;
}

/* True: what the multishot receive has brought, or will bring, is for this op. */
static bool join_stream(uring_port *port, io_op *op)
{
    uring_slot *s = uring_slot_of(port, op->socket);
    if (is_holding(s)) {
        io_queue_push(&port->served, op);
        return true;
    }
    assert(s->waiting == NULL);
    if (!(s->flags & URING_ARMED)) return false;
    s->waiting = op;
    return true;
}

io_status uring_recv(io_port *head, io_op *op, io_socket socket, void *buffer, size_t len)
{
    uring_port *port = uring_of(head);
    op->native[URING_BUFFER] = (uintptr_t)buffer;
    op->native[URING_LEN] = len;
    if (join_stream(port, op)) {
        if (buffer != NULL) stop_stream(port, socket);
        return IO_OK;
    }
    return uring_prepare_recv(port, op) ? IO_OK : IO_LIMIT;
}

io_status uring_readable(io_port *head, io_op *op, io_socket socket)
{
    uring_port *port = uring_of(head);
    if (join_stream(port, op)) {
        stop_stream(port, socket);
        return IO_OK;
    }
    return uring_prepare_readable(port, op) ? IO_OK : IO_LIMIT;
}

/* ---- Completions ---- */

bool uring_on_recv(uring_port *port, io_op *op, int result, unsigned flags, io_packet *packet)
{
    uring_slot *s = uring_slot_of(port, op->socket);
    bool lending = op->native[URING_BUFFER] == 0;
    if (flags & IORING_CQE_F_BUFFER) {
        assert(port->lent < 0);
        port->lent = (int)(flags >> IORING_CQE_BUFFER_SHIFT);
    }
    if (result > 0) {
        uring_note_rest(s, flags);
        packet->bytes = (uint32_t)result;
        packet->data = lending ? buf_at(port, port->lent) : (uint8_t *)op->native[URING_BUFFER];
        if (lending) s->flags |= URING_WARM;
        return true;
    }
    if (uring_is_passing(result) && (lending || result != -ENOBUFS)) {
        if (s->cancels == 0) {
            uring_take_back_loan(port);
            io_queue_push(&port->starved, op);
            return false;
        }
        result = -ECANCELED; /* The cancel came too late to find it. */
    }
    uring_note_error(s, -result);
    packet->native = result == 0 ? s->error : -result;
    return true;
}

bool uring_on_readable(uring_port *port, io_op *op, int result, io_packet *packet)
{
    uring_slot *s = uring_slot_of(port, op->socket);
    packet->native = result >= 0 ? 0 : -result;
    if (result < 0 || (!(result & POLLERR) && s->error == 0)) return true;
    /* Bytes that came before the error are still there to be read. */
    packet->native = io_error_peek(op->socket, s->error);
    if (packet->native == EAGAIN) packet->native = 0;
    uring_note_error(s, packet->native);
    return true;
}

/* The op that waits for the multishot receive; it waits no more. */
static io_op *take_waiting(uring_slot *s)
{
    if (is_holding(s)) return NULL;
    io_op *op = s->waiting;
    s->waiting = NULL;
    s->flags &= (uint8_t)~URING_CANCELED;
    return op;
}

/* The multishot receive has ended and brought nothing with that. */
static bool on_stream_end(uring_port *port, uring_slot *s, int result, io_packet *packet)
{
    bool canceled = s->flags & URING_CANCELED;
    io_op *op = take_waiting(s);
    bool no_news = result == -ECANCELED || uring_is_passing(result);
    if (op == NULL) {
        if (result < 0 && !no_news) uring_note_error(s, -result);
        return false; /* end of stream will be told again */
    }
    if (no_news && !canceled) { /* we have asked it to end, or no buffer was left */
        io_queue_push(&port->starved, op);
        return false;
    }
    packet->op = op;
    if (!no_news) uring_note_error(s, -result);
    packet->native = no_news ? ECANCELED : result < 0 ? -result : s->error;
    return true;
}

/* Gives what a buffer holds to an op. */
static void deliver(uring_port *port, uring_slot *s, io_op *op, uint16_t buf, size_t len, io_packet *packet)
{
    packet->op = op;
    if (op->kind == IO_RECV && op->native[URING_BUFFER] == 0) {
        assert(port->lent < 0);
        port->lent = buf;
        packet->data = buf_at(port, buf);
        packet->bytes = (uint32_t)len;
        return;
    }
    hold(s, op->socket, buf_at(port, buf), len);
    give_buf(port, buf);
    if (is_holding(s)) uring_serve(port, op, packet);
    else packet->native = ENOMEM;
}

bool uring_on_stream(uring_port *port, uint64_t data, int result, unsigned flags, io_packet *packet)
{
    uring_slot *s = uring_slot_tagged(port, data);
    io_socket socket = (io_socket)(uint32_t)(data >> 3);
    uint16_t buf = (uint16_t)(flags >> IORING_CQE_BUFFER_SHIFT);
    if ((flags & IORING_CQE_F_BUFFER) && (s == NULL || result <= 0)) give_buf(port, buf);
    if (s == NULL) return false;
    if (!(flags & IORING_CQE_F_MORE)) s->flags &= (uint8_t) ~(URING_ARMED | URING_STOPPING);
    if (result <= 0) return on_stream_end(port, s, result, packet);
    io_op *op = take_waiting(s);
    if (op != NULL) {
        uring_note_rest(s, flags);
        deliver(port, s, op, buf, (size_t)result, packet);
        return true;
    }
    hold(s, socket, buf_at(port, buf), (size_t)result);
    give_buf(port, buf);
    stop_stream(port, socket);
    return false;
}

/* ---- Drawing ---- */

/* Holds what the completions that have not been taken yet say of this stream: it comes before what is still in the socket. */
static void hold_completed(uring_port *port, io_socket socket)
{
    uring_slot *s = uring_slot_of(port, socket);
    uint64_t tag = uring_tag(URING_STREAM, socket, s);
    io_packet none = {.accepted = IO_SOCKET_NONE};
    struct io_uring_cqe *completion;
    unsigned head;
    io_uring_for_each_cqe(&port->ring, head, completion)
    {
        if (completion->user_data != tag) continue;
        (void)uring_on_stream(port, tag, completion->res, completion->flags, &none);
        completion->user_data = URING_IGNORED;
    }
}

io_status uring_draw(io_port *head, io_socket socket, void *buffer, size_t len, size_t *bytes)
{
    uring_port *port = uring_of(head);
    uring_slot *s = uring_slot_of(port, socket);
    if (!is_holding(s) && (s->flags & URING_ARMED)) {
        hold_completed(port, socket);
        /* More may be on the kernel's own list, where nobody can look. */
        if (!is_holding(s) && io_uring_cq_has_overflow(&port->ring)) return IO_AGAIN;
    }
    if (is_holding(s)) {
        *bytes = take_held(s, buffer, len);
        return IO_OK;
    }
    ssize_t got;
    int native = 0;
    do {
        got = recv((int)socket, buffer, len, MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got > 0) {
        *bytes = (size_t)got;
        return IO_OK;
    }
    if (got == 0) return net_map_error(s->error);
    native = errno;
    uring_note_error(s, native);
    return net_map_error(native);
}
