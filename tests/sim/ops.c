/* ops.c - what becomes of an operation: it waits for news of its socket, for a cancel, or for its packet to be taken. The
 * differences between the profiles are told in io_sim.c. */
#include "ops.h"

#include "sim.h"

#include <stdlib.h>
#include <string.h>

static uint64_t serials;
static uint32_t ops_pending;

uint32_t sim_ops_pending(void)
{
    return ops_pending;
}

void *sim_op_alloc(size_t bytes)
{
    void *block = malloc(bytes);
    if (block == NULL) abort();
    return block;
}

/* ---- Operations ---- */

sim_op *sim_op_begin(sim_port *port, io_op *op, sim_socket *s)
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
    sim_check("sim", port->ready_count < SIM_READY_MAX, "more than %d packets wait", SIM_READY_MAX);
    o->ready = true;
    o->attempt = attempt;
    port->ready[port->ready_count++] = o;
    fiber_wake(port->owner);
}

void sim_op_finish(sim_op *o, io_status status)
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

void sim_op_end(sim_op *o)
{
    sim_port *port = o->port;
    unlink_op(o);
    free(o->snapshot);
    free(o->lent);
    o->serial = 0;
    o->next = port->free;
    port->free = o;
    port->pending--;
    ops_pending--;
}

/* ---- Receiving ---- */

static bool has_news(const sim_end *end)
{
    return sim_end_readable(end) > 0 || sim_end_at_fin(end) || sim_end_is_dead(end);
}

/* Takes what there is. False: nothing. */
bool sim_op_receive(sim_end *end, void *buffer, size_t len, size_t *moved, io_status *status)
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
        sim_check("buffers", o->buffer[i] == SIM_POISON, "the buffer of a pending receive was written to, or freed");
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
    if (lent) o->lent = sim_op_alloc(len);
    else check_untouched(o);
    if (!sim_op_receive(end, lent ? o->lent : o->buffer, len, &o->moved, &o->status))
        sim_fail("sim", "news of nothing");
    if (lent) port->loaned++;
    make_ready(o, false);
}

void sim_op_try_in(sim_op *o)
{
    sim_end *end = o->socket->end;
    if (o->ready || end == NULL || !has_news(end)) return;
    bool captures = o->op->kind == IO_RECV && world.profile != SIM_EPOLL;
    if (captures && (world.profile == SIM_RING || o->buffer != NULL)) take_now(o, end);
    else make_ready(o, true);
}

/* When its packet is taken. False: it was in vain, and the operation is pending again. */
bool sim_op_attempt(sim_op *o)
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
    if (o->buffer != NULL) return sim_op_receive(end, o->buffer, o->len, &o->moved, &o->status);
    port->scratch_len = port->recv_bytes;
    return sim_op_receive(end, port->scratch, port->recv_bytes, &o->moved, &o->status);
}

/* ---- Sending ---- */

/* The caller's bytes are those of the submit. */
void sim_op_check_snapshot(const sim_op *o)
{
    size_t at = 0;
    for (uint32_t i = 0; i < o->buf_count; i++) {
        sim_check("buffers", memcmp(o->bufs[i].base, o->snapshot + at, o->bufs[i].len) == 0,
                  "the bytes of a pending send were changed, or freed");
        at += o->bufs[i].len;
    }
}

/* Writes what there is room for, or less. */
void sim_op_push(sim_op *o)
{
    sim_end *end = o->socket->end;
    size_t len = sim_end_room(end);
    if (len > o->total - o->moved) len = o->total - o->moved;
    if (len > 1 && sim_fault_drawn(SIM_PARTIAL_SEND)) len = 1 + sim_below(SIM_FAULTS, len);
    if (len == 0) return;
    sim_op_check_snapshot(o);
    sim_end_write(end, o->snapshot + o->moved, len);
    o->moved += len;
}

void sim_op_try_out(sim_op *o)
{
    sim_end *end = o->socket->end;
    if (o->ready || o->op->kind != IO_SEND) return;
    if (end->broken) {
        sim_op_finish(o, IO_RESET);
    } else if (world.profile == SIM_EPOLL) { /* it had no room before: the caller is to try again */
        if (sim_end_room(end) > 0) sim_op_finish(o, IO_OK);
    } else {
        sim_op_push(o);
        bool enough = o->moved > 0 && world.profile == SIM_RING && sim_fault_drawn(SIM_PARTIAL_SEND);
        if (o->moved == o->total || enough) sim_op_finish(o, IO_OK);
    }
}

/* ---- Accepting and connecting ---- */

static void try_accepts(sim_socket *s)
{
    for (sim_op *o = s->accepts; o != NULL && s->backlog_count > 0; o = o->next) {
        if (o->ready) continue;
        if (sim_fault_drawn(SIM_ACCEPT_GONE)) {
            sim_end_close(s->backlog[--s->backlog_count], true);
            sim_op_finish(o, IO_RESET);
            continue;
        }
        sim_socket *made = NULL;
        if (o->accepted != IO_SOCKET_NONE) made = sim_socket_find(o->accepted);
        else made = sim_socket_open(false);
        if (made == NULL) {
            sim_op_finish(o, IO_LIMIT);
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
        sim_op_finish(o, IO_OK);
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
    sim_op_finish(o, status);
}

/* ---- News ---- */

void sim_socket_news(sim_socket *s)
{
    if (s->listening) try_accepts(s);
    if (s->in != NULL) sim_op_try_in(s->in);
    if (s->out != NULL) sim_op_try_out(s->out);
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
    sim_op_finish(o, IO_CANCELED);
}

void sim_op_cancel(sim_op *o)
{
    if (o->ready) {
        if (world.profile == SIM_EPOLL && o->attempt) o->attempt = false, o->status = IO_CANCELED;
        o->canceled = true;
        return;
    }
    o->canceled = true;
    answer *a = sim_alloc(sizeof(*a));
    *a = (answer){.o = o, .serial = o->serial};
    if (world.profile == SIM_EPOLL) sim_op_finish(o, IO_CANCELED);
    else sim_plan(world.now_ns + sim_between(SIM_NETWORK, 1, SIM_MS), canceled, a);
}

void sim_op_connect(sim_op *o)
{
    answer *a = sim_alloc(sizeof(*a));
    *a = (answer){.o = o, .serial = o->serial};
    sim_plan(world.now_ns + sim_between(SIM_NETWORK, world.latency_ns, world.latency_ns * 4), connected, a);
}
