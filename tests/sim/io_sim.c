/* io_sim.c - io.h over the simulated kernel, in the manner of one of three real ones:
 *
 *                   IOCP                        io_uring                      epoll
 *   lent receive    zero bytes; drawn when the  bytes taken when they come,   tried when the packet is taken,
 *                   packet is taken, perhaps    while there are buffers       perhaps in vain
 *                   in vain
 *   send            pending until all is taken  the same, or less             what there is room for, at once; without
 *                                                                             room 0 bytes once there is some
 *   cancel          may come too late           may come too late             never too late
 *   accept          the descriptor is made by   … by the kernel               … by the kernel
 *                   the submit
 *   reset           drops what had arrived      leaves it                     leaves it
 *
 * In all of them: packets of different operations come in any order; a buffer that is lent is overwritten once the loan
 * is over; what a send names is looked at for as long as it is pending.
 */
#include "io_sim.h"

#include "fiber.h"
#include "io_backend.h"
#include "kernel.h"
#include "monitor.h"
#include "sim.h"

#include <stdlib.h>
#include <string.h>

enum { READY_MAX = 8192, POISON = 0xdd };

/* An operation that is pending. */
struct sim_op {
    uint64_t serial; /* changes with every use */
    sim_port *port;
    sim_socket *socket;
    io_op *op;
    sim_op *next;    /* accepts of one listener; free ones of the port */
    uint8_t *buffer; /* receive: the caller's, or NULL */
    size_t len;
    io_buf bufs[IO_BUFS_MAX]; /* send */
    uint32_t buf_count;
    uint8_t *snapshot; /* send: what the buffers held at the submit */
    size_t total;
    size_t moved;
    uint8_t *lent; /* SIM_RING, lent receive: a buffer of ours that holds the bytes; else NULL */
    io_status status;
    io_socket accepted;
    net_addr peer;
    net_addr target; /* connect */
    bool ready;      /* on the port's list of packets */
    bool attempt;    /* … but what it brings is found out when it is taken */
    bool canceled;   /* a cancel is on its way */
};

struct sim_port {
    io_port head;
    fiber *owner;
    sim_op *ready[READY_MAX];
    uint32_t ready_count;
    io_queue posts;
    sim_op *free;
    uint32_t round;  /* packets that this round may still give */
    uint32_t loaned; /* SIM_RING: completions that hold bytes */
    uint32_t pending;
    bool starving; /* SIM_RING: a receive waits for a buffer */
    uint32_t recv_bytes;
    uint8_t *scratch; /* what is lent */
    size_t scratch_len;
};

static uint64_t serials;
static uint32_t ports_open;
static uint32_t ops_pending;

uint32_t sim_ports_open(void)
{
    return ports_open;
}

uint32_t sim_ops_pending(void)
{
    return ops_pending;
}

static sim_port *to_port(io_port *port)
{
    return (sim_port *)(void *)port;
}

static void *must_alloc(size_t bytes)
{
    void *block = malloc(bytes);
    if (block == NULL) abort();
    return block;
}

/* ---- Operations ---- */

static sim_op *begin(sim_port *port, io_op *op, sim_socket *s)
{
    sim_check("contract", s->port == port, "an operation on socket %lld, which is not attached here",
              (long long)s->number);
    sim_op *o = port->free;
    if (o != NULL) port->free = o->next;
    else o = sim_alloc(sizeof(*o));
    *o = (sim_op){.serial = ++serials, .port = port, .socket = s, .op = op, .accepted = IO_SOCKET_NONE};
    op->native[0] = (uintptr_t)o;
    port->pending++;
    ops_pending++;
    sim_note("submit", op->kind, (uint64_t)s->number, 0);
    return o;
}

/* Its packet is ready, or a try is worth while. */
static void make_ready(sim_op *o, bool attempt)
{
    sim_port *port = o->port;
    if (o->ready) return;
    sim_check("sim", port->ready_count < READY_MAX, "more than %d packets wait", READY_MAX);
    o->ready = true;
    o->attempt = attempt;
    port->ready[port->ready_count++] = o;
    fiber_wake(port->owner);
}

static void finish(sim_op *o, io_status status)
{
    o->status = status;
    make_ready(o, false);
}

static void unlink_op(sim_op *o)
{
    sim_socket *s = o->socket;
    if (s->in == o) s->in = NULL;
    if (s->out == o) s->out = NULL;
    for (sim_op **link = &s->accepts; *link != NULL; link = &(*link)->next) {
        if (*link != o) continue;
        *link = o->next;
        break;
    }
}

/* ---- Receiving ---- */

static bool has_news(const sim_end *end)
{
    return sim_end_readable(end) > 0 || sim_end_at_fin(end) || sim_end_is_dead(end);
}

/* Takes what there is. False: nothing. */
static bool receive(sim_end *end, void *buffer, size_t len, size_t *moved, io_status *status)
{
    size_t there = sim_end_readable(end);
    *moved = 0;
    *status = IO_OK;
    if (there > 0) {
        *moved = there < len ? there : len;
        if (*moved > 1 && sim_fault_drawn(SIM_PARTIAL_RECEIVE)) *moved = 1 + sim_below(SIM_FAULTS, *moved);
        sim_end_read(end, buffer, *moved);
        return true;
    }
    if (sim_end_is_dead(end)) *status = IO_RESET;
    return sim_end_is_dead(end) || sim_end_at_fin(end);
}

/* The caller's buffer is the port's: nobody has written to it since the submit. */
static void check_untouched(const sim_op *o)
{
    for (size_t i = 0; i < o->len; i++) {
        sim_check("buffers", o->buffer[i] == POISON, "the buffer of a pending receive was written to, or freed");
    }
}

static void end_famine(void *context)
{
    sim_port *port = context;
    port->starving = false;
    sim_sockets_each(sim_socket_news);
    fiber_wake(port->owner);
}

/* SIM_RING: the bytes leave the socket now. */
static void take_now(sim_op *o, sim_end *end)
{
    sim_port *port = o->port;
    size_t len = o->buffer != NULL ? o->len : port->recv_bytes;
    bool lent = o->buffer == NULL;
    if (lent && (port->starving || port->loaned >= world.recv_buffers || sim_fault_drawn(SIM_STARVE))) {
        if (port->starving) return;
        port->starving = true;
        sim_plan(world.now_ns + sim_between(SIM_NETWORK, 1000, SIM_MS), end_famine, port);
        return;
    }
    if (lent) o->lent = must_alloc(len);
    else check_untouched(o);
    if (!receive(end, lent ? o->lent : o->buffer, len, &o->moved, &o->status)) sim_fail("sim", "news of nothing");
    if (lent) port->loaned++;
    make_ready(o, false);
}

static void try_in(sim_op *o)
{
    sim_end *end = o->socket->end;
    if (o->ready || end == NULL || !has_news(end)) return;
    bool captures = o->op->kind == IO_RECV && world.profile != SIM_EPOLL;
    if (captures && (world.profile == SIM_RING || o->buffer != NULL)) take_now(o, end);
    else make_ready(o, true);
}

/* When its packet is taken. False: it was in vain, and the operation is pending again. */
static bool attempt_in(sim_op *o)
{
    sim_port *port = o->port;
    sim_end *end = o->socket->end;
    if (o->canceled) {
        o->status = IO_CANCELED;
        return true;
    }
    if (!has_news(end) || (sim_end_readable(end) > 0 && sim_fault_drawn(SIM_SPURIOUS))) {
        o->ready = false;
        return false;
    }
    if (o->op->kind == IO_READABLE) {
        if (sim_end_is_dead(end)) o->status = IO_RESET;
        return true;
    }
    if (o->buffer != NULL) check_untouched(o);
    if (o->buffer != NULL) return receive(end, o->buffer, o->len, &o->moved, &o->status);
    port->scratch_len = port->recv_bytes;
    return receive(end, port->scratch, port->recv_bytes, &o->moved, &o->status);
}

/* ---- Sending ---- */

/* The caller's bytes are those of the submit. */
static void check_snapshot(const sim_op *o)
{
    size_t at = 0;
    for (uint32_t i = 0; i < o->buf_count; i++) {
        sim_check("buffers", memcmp(o->bufs[i].base, o->snapshot + at, o->bufs[i].len) == 0,
                  "the bytes of a pending send were changed, or freed");
        at += o->bufs[i].len;
    }
}

/* Writes what there is room for, or less. */
static void push_out(sim_op *o, sim_end *end)
{
    size_t len = sim_end_room(end);
    if (len > o->total - o->moved) len = o->total - o->moved;
    if (len > 1 && sim_fault_drawn(SIM_PARTIAL_SEND)) len = 1 + sim_below(SIM_FAULTS, len);
    if (len == 0) return;
    check_snapshot(o);
    sim_end_write(end, o->snapshot + o->moved, len);
    o->moved += len;
}

static void try_out(sim_op *o)
{
    sim_end *end = o->socket->end;
    if (o->ready || o->op->kind != IO_SEND) return;
    if (end->broken) {
        finish(o, IO_RESET);
    } else if (world.profile == SIM_EPOLL) { /* it had no room before: the caller is to try again */
        if (sim_end_room(end) > 0) finish(o, IO_OK);
    } else {
        push_out(o, end);
        bool enough = o->moved > 0 && world.profile == SIM_RING && sim_fault_drawn(SIM_PARTIAL_SEND);
        if (o->moved == o->total || enough) finish(o, IO_OK);
    }
}

/* ---- Accepting and connecting ---- */

static void try_accepts(sim_socket *s)
{
    for (sim_op *o = s->accepts; o != NULL && s->backlog_count > 0; o = o->next) {
        if (o->ready) continue;
        if (sim_fault_drawn(SIM_ACCEPT_GONE)) {
            sim_end_close(s->backlog[--s->backlog_count], true);
            finish(o, IO_RESET);
            continue;
        }
        sim_socket *made = NULL;
        if (o->accepted != IO_SOCKET_NONE) made = sim_socket_find(o->accepted);
        else if (!sim_fault_drawn(SIM_SOCKET_LIMIT)) made = sim_socket_open();
        if (made == NULL) {
            finish(o, IO_LIMIT);
            continue;
        }
        sim_end *end = s->backlog[0];
        memmove(s->backlog, s->backlog + 1, --s->backlog_count * sizeof(s->backlog[0]));
        made->end = end;
        made->addr = s->addr;
        end->socket = made;
        end->accepted = true;
        o->accepted = made->number;
        o->peer = sim_addr("10.1.0.1:5000");
        finish(o, IO_OK);
    }
}

/* The answer to a connect that came with that serial number. */
typedef struct answer {
    sim_op *o;
    uint64_t serial;
} answer;

static void connected(void *context)
{
    answer *a = context;
    sim_op *o = a->o;
    if (o->serial != a->serial || o->ready) return;
    sim_end *end = NULL;
    uint16_t port = net_addr_port(&o->target);
    io_status status = sim_peer_serve(port, &end);
    if (status == IO_NOT_FOUND) { /* none of the peers' ports: a listener of the program's own */
        end = sim_link_open(NULL);
        status = sim_link_arrive(end->other, port) ? IO_OK : IO_REFUSED;
    }
    if (status == IO_AGAIN) return; /* it will never answer */
    if (status == IO_OK) {
        o->socket->end = end;
        end->socket = o->socket;
        end->record = o->socket->record;
    }
    finish(o, status);
}

/* ---- News ---- */

void sim_socket_news(sim_socket *s)
{
    if (s->listening) try_accepts(s);
    if (s->in != NULL) try_in(s->in);
    if (s->out != NULL) try_out(s->out);
}

/* A cancel reaches its operation. */
static void canceled(void *context)
{
    answer *a = context;
    sim_op *o = a->o;
    if (o->serial != a->serial || o->ready) return;
    if (sim_fault_drawn(SIM_RACE)) {
        if (o->op->kind == IO_CONNECT) connected(a);
        else sim_socket_news(o->socket);
        if (o->ready) return;
    }
    finish(o, IO_CANCELED);
}

static void cancel(sim_op *o)
{
    if (o->ready) {
        if (world.profile == SIM_EPOLL && o->attempt) o->attempt = false, o->status = IO_CANCELED;
        o->canceled = true;
        return;
    }
    o->canceled = true;
    answer *a = sim_alloc(sizeof(*a));
    *a = (answer){.o = o, .serial = o->serial};
    if (world.profile == SIM_EPOLL) finish(o, IO_CANCELED);
    else sim_plan(world.now_ns + sim_between(SIM_NETWORK, 1, SIM_MS), canceled, a);
}

/* ---- The verbs ---- */

static bool sim_probe(char *why, size_t why_size)
{
    (void)why;
    (void)why_size;
    return true;
}

static io_status sim_port_open(io_port **opened, const io_options *options)
{
    sim_port *port = sim_alloc(sizeof(*port));
    port->owner = fiber_current();
    port->recv_bytes = options->recv_bytes;
    port->scratch = sim_alloc(options->recv_bytes);
    ports_open++;
    *opened = &port->head;
    return IO_OK;
}

static void sim_port_close(io_port *head)
{
    sim_port *port = to_port(head);
    sim_check("pending", port->pending == 0, "a port is closed with %u operations pending", port->pending);
    sim_check("pending", port->posts.head == NULL, "a port is closed with a post that nobody took");
    ports_open--;
}

static int64_t sim_now(io_port *port)
{
    (void)port;
    return world.now_ns;
}

static io_status sim_attach(io_port *head, io_socket number, bool is_udp)
{
    sim_check("sim", !is_udp, "datagrams are not simulated");
    sim_socket *s = sim_socket_find(number);
    sim_check("contract", s->port == NULL, "socket %lld is attached twice", (long long)number);
    if (!s->listening && sim_fault_drawn(SIM_ATTACH_LIMIT)) return IO_LIMIT; /* a listener's is the end of the server */
    s->port = to_port(head);
    return IO_OK;
}

static io_status sim_accept(io_port *head, io_accept_op *accept, io_socket listener)
{
    sim_socket *s = sim_socket_find(listener);
    sim_socket *made = NULL;
    if (sim_fault_drawn(SIM_SUBMIT_LIMIT)) return IO_LIMIT;
    if (world.profile == SIM_IOCP) {
        made = sim_fault_drawn(SIM_SOCKET_LIMIT) ? NULL : sim_socket_open();
        if (made == NULL) return IO_LIMIT;
    }
    sim_op *o = begin(to_port(head), &accept->op, s);
    if (made != NULL) o->accepted = made->number;
    sim_op **last = &s->accepts;
    while (*last != NULL) last = &(*last)->next;
    *last = o;
    sim_socket_news(s);
    return IO_OK;
}

static io_status sim_connect(io_port *head, io_op *op, io_socket number, const net_addr *peer)
{
    sim_socket *s = sim_socket_find(number);
    if (sim_fault_drawn(SIM_SUBMIT_LIMIT)) return IO_LIMIT;
    sim_check("contract", s->end == NULL && s->out == NULL, "a connect on a socket that is connected, or connects");
    sim_op *o = begin(to_port(head), op, s);
    o->target = *peer;
    s->out = o;
    answer *a = sim_alloc(sizeof(*a));
    *a = (answer){.o = o, .serial = o->serial};
    sim_plan(world.now_ns + sim_between(SIM_NETWORK, world.latency_ns, world.latency_ns * 4), connected, a);
    return IO_OK;
}

static io_status submit_in(io_port *head, io_op *op, io_socket number, void *buffer, size_t len)
{
    sim_socket *s = sim_socket_find(number);
    sim_check("contract", s->end != NULL, "a receive on socket %lld, which is not connected", (long long)number);
    sim_check("pending", s->in == NULL, "two receives at once on socket %lld", (long long)number);
    if (sim_fault_drawn(SIM_SUBMIT_LIMIT)) return IO_LIMIT;
    sim_op *o = begin(to_port(head), op, s);
    o->buffer = buffer;
    o->len = len;
    if (buffer != NULL) memset(buffer, POISON, len);
    s->in = o;
    try_in(o);
    return IO_OK;
}

static io_status sim_recv(io_port *head, io_op *op, io_socket number, void *buffer, size_t len)
{
    return submit_in(head, op, number, buffer, len);
}

static io_status sim_readable(io_port *head, io_op *op, io_socket number)
{
    return submit_in(head, op, number, NULL, 0);
}

static io_status sim_send(io_port *head, io_op *op, io_socket number, const io_buf *bufs, uint32_t count)
{
    sim_socket *s = sim_socket_find(number);
    sim_check("contract", s->end != NULL, "a send on socket %lld, which is not connected", (long long)number);
    sim_check("pending", s->out == NULL, "two sends at once on socket %lld", (long long)number);
    sim_check("order", !s->end->out.fin_written, "a send after FIN on socket %lld", (long long)number);
    if (sim_fault_drawn(SIM_SUBMIT_LIMIT)) return IO_LIMIT;
    sim_op *o = begin(to_port(head), op, s);
    o->buf_count = count;
    for (uint32_t i = 0; i < count; i++) o->total += bufs[i].len;
    o->snapshot = must_alloc(o->total);
    for (uint32_t i = 0, at = 0; i < count; i++) {
        o->bufs[i] = bufs[i];
        memcpy(o->snapshot + at, bufs[i].base, bufs[i].len);
        at += (uint32_t)bufs[i].len;
    }
    s->out = o;
    if (s->end->broken) {
        finish(o, IO_RESET);
    } else if (world.profile != SIM_EPOLL) {
        try_out(o);
    } else {
        push_out(o, s->end);
        if (o->moved > 0) finish(o, IO_OK);
    }
    return IO_OK;
}

static io_status sim_draw(io_port *head, io_socket number, void *buffer, size_t len, size_t *bytes)
{
    sim_socket *s = sim_socket_find(number);
    io_status status;
    (void)head;
    sim_check("contract", s->in == NULL, "a draw on socket %lld while a receive is pending", (long long)number);
    sim_check("contract", s->end != NULL, "a draw on socket %lld, which is not connected", (long long)number);
    return receive(s->end, buffer, len, bytes, &status) ? status : IO_AGAIN;
}

static void sim_cancel(io_port *head, io_socket number)
{
    sim_socket *s = sim_socket_find(number);
    (void)head;
    sim_note("cancel", (uint64_t)number, 0, 0);
    if (s->in != NULL) cancel(s->in);
    if (s->out != NULL) cancel(s->out);
    for (sim_op *o = s->accepts; o != NULL; o = o->next) cancel(o);
}

static io_status sim_shutdown(io_port *head, io_socket number)
{
    sim_socket *s = sim_socket_find(number);
    (void)head;
    sim_check("contract", s->end != NULL, "a shutdown of socket %lld, which is not connected", (long long)number);
    if (s->end->broken) return IO_RESET;
    sim_note("fin", (uint64_t)number, s->end->out.written, 0);
    sim_end_fin(s->end);
    return IO_OK;
}

static void sim_close_socket(io_port *head, io_socket number, bool abort)
{
    (void)head;
    sim_socket_close(sim_socket_find(number), abort);
}

static void sim_post(io_port *head, io_op *op)
{
    sim_port *port = to_port(head);
    io_queue_push(&port->posts, op);
    fiber_wake(port->owner);
    if (port->owner != fiber_current() && sim_percent(SIM_SCHEDULING, 20)) fiber_yield();
}

/* ---- Packets ---- */

/* The loan of the last packet is over, and what followed from it has been done. */
static void end_step(sim_port *port)
{
    memset(port->scratch, POISON, port->scratch_len);
    port->scratch_len = 0;
    sim_step();
}

static io_status sim_wait(io_port *head, int64_t timeout_ns)
{
    sim_port *port = to_port(head);
    sim_check("threads", port->owner == fiber_current(), "a port is waited for by a thread that does not own it");
    end_step(port);
    sim_monitor_rest(head, timeout_ns != 0);
    int64_t until = timeout_ns < 0 ? SIM_FOREVER : world.now_ns + timeout_ns;
    if (sim_fault_drawn(SIM_SPURIOUS)) until = world.now_ns;
    while (port->ready_count == 0 && port->posts.head == NULL && world.now_ns < until) fiber_wait(until);
    int64_t pause = sim_fault_drawn(SIM_SLOW) ? sim_between(SIM_FAULTS, SIM_MS, 300 * SIM_MS) : 1000;
    sim_advance(world.now_ns + pause);
    port->round = 1 + (uint32_t)sim_below(SIM_SCHEDULING, port->ready_count + 2);
    return IO_OK;
}

static sim_op *take_ready(sim_port *port, uint32_t at)
{
    sim_op *o = port->ready[at];
    port->ready[at] = port->ready[--port->ready_count];
    return o;
}

static void fill(sim_port *port, sim_op *o, io_packet *packet)
{
    if (o->op->kind == IO_RECV) {
        packet->data = o->buffer != NULL ? o->buffer : port->scratch;
        if (o->lent != NULL) {
            memcpy(port->scratch, o->lent, o->moved);
            port->scratch_len = o->moved;
            port->loaned--;
        }
    } else if (o->op->kind == IO_SEND) {
        check_snapshot(o);
    } else if (o->op->kind == IO_ACCEPT) {
        io_accept_op *accept = container_of(o->op, io_accept_op, op);
        accept->peer = o->peer;
        if (o->status == IO_OK) packet->accepted = o->accepted;
        else if (o->accepted != IO_SOCKET_NONE) sim_socket_close(sim_socket_find(o->accepted), true);
    }
    packet->op = o->op;
    packet->status = o->status;
    packet->native = o->status == IO_OK ? 0 : -(int)o->status;
    packet->bytes = (uint32_t)o->moved;
}

static void end(sim_port *port, sim_op *o)
{
    unlink_op(o);
    free(o->snapshot);
    free(o->lent);
    o->serial = 0;
    o->next = port->free;
    port->free = o;
    port->pending--;
    ops_pending--;
}

static bool sim_next(io_port *head, io_packet *packet)
{
    sim_port *port = to_port(head);
    end_step(port);
    sim_monitor_step(head);
    sim_advance(world.now_ns + (int64_t)sim_below(SIM_SCHEDULING, 50000));
    while (port->round > 0) {
        uint32_t choices = port->ready_count + (port->posts.head != NULL);
        if (choices == 0) return false;
        uint32_t at = choices == 1 ? 0 : (uint32_t)sim_below(SIM_SCHEDULING, choices);
        port->round--;
        if (at == port->ready_count) {
            packet->op = io_queue_pop(&port->posts);
            sim_note("packet", IO_POST, 0, 0);
            return true;
        }
        sim_op *o = take_ready(port, at);
        if (o->attempt && !attempt_in(o)) {
            sim_socket_news(o->socket);
            continue;
        }
        fill(port, o, packet);
        sim_note("packet", o->op->kind, (uint64_t)o->socket->number,
                 (uint64_t)o->moved << 8 | (uint8_t) - (int)o->status);
        end(port, o);
        return true;
    }
    return false;
}

const io_backend io_backend_sim = {
    .name = "sim",
    .probe = sim_probe,
    .open = sim_port_open,
    .close = sim_port_close,
    .now = sim_now,
    .attach = sim_attach,
    .accept = sim_accept,
    .connect = sim_connect,
    .recv = sim_recv,
    .readable = sim_readable,
    .send = sim_send,
    .draw = sim_draw,
    .cancel = sim_cancel,
    .shutdown = sim_shutdown,
    .close_socket = sim_close_socket,
    .post = sim_post,
    .wait = sim_wait,
    .next = sim_next,
};
