/* io_sim.c - io.h over the simulated kernel, in the manner of one of three real ones:
 *
 *                   IOCP                        io_uring                      epoll
 *   lent receive    zero bytes; drawn when the  bytes taken when they come,   tried when the packet is taken,
 *                   packet is taken, perhaps    while there are buffers       perhaps in vain
 *                   in vain
 *   send            pending until all is taken  the same, or less             what there is room for, at once; without
 *                                                                             room 0 bytes once there is some
 *   send now        never                       perhaps                       what there is room for
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
#include "ops.h"
#include "sim.h"

#include <string.h>

static uint32_t ports_open;

uint32_t sim_ports_open(void)
{
    return ports_open;
}

static sim_port *to_port(io_port *port)
{
    return (sim_port *)(void *)port;
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
        made = sim_socket_open(false);
        if (made == NULL) return IO_LIMIT;
    }
    sim_op *o = sim_op_begin(to_port(head), &accept->op, s);
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
    sim_op *o = sim_op_begin(to_port(head), op, s);
    o->target = *peer;
    s->out = o;
    sim_op_connect(o);
    return IO_OK;
}

static io_status submit_in(io_port *head, io_op *op, io_socket number, void *buffer, size_t len)
{
    sim_socket *s = sim_socket_find(number);
    sim_check("contract", s->end != NULL, "a receive on socket %lld, which is not connected", (long long)number);
    sim_check("pending", s->in == NULL, "two receives at once on socket %lld", (long long)number);
    if (sim_fault_drawn(SIM_SUBMIT_LIMIT)) return IO_LIMIT;
    sim_op *o = sim_op_begin(to_port(head), op, s);
    o->buffer = buffer;
    o->len = len;
    if (buffer != NULL) memset(buffer, SIM_POISON, len);
    s->in = o;
    sim_op_try_in(o);
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

/* A send is legal now on that socket. */
static sim_socket *find_sender(io_socket number)
{
    sim_socket *s = sim_socket_find(number);
    sim_check("contract", s->end != NULL, "a send on socket %lld, which is not connected", (long long)number);
    sim_check("pending", s->out == NULL, "two sends at once on socket %lld", (long long)number);
    sim_check("order", !s->end->out.fin_written, "a send after FIN on socket %lld", (long long)number);
    return s;
}

static io_status sim_send_now(io_port *head, io_socket number, const io_buf *bufs, uint32_t count, size_t *bytes)
{
    sim_end *end = find_sender(number)->end;
    (void)head;
    if (world.profile == SIM_IOCP || (world.profile == SIM_RING && sim_below(SIM_FAULTS, 2) == 0)) return IO_AGAIN;
    if (end->broken) return IO_RESET;
    for (uint32_t i = 0; i < count; i++) {
        size_t room = sim_end_room(end), len = bufs[i].len < room ? bufs[i].len : room;
        if (sim_fault_drawn(SIM_PARTIAL_SEND)) len = sim_below(SIM_FAULTS, len + 1);
        if (len > 0) sim_end_write(end, bufs[i].base, len);
        *bytes += len;
        if (len < bufs[i].len) break;
    }
    return *bytes > 0 ? IO_OK : IO_AGAIN;
}

static io_status sim_send(io_port *head, io_op *op, io_socket number, const io_buf *bufs, uint32_t count)
{
    sim_socket *s = find_sender(number);
    if (sim_fault_drawn(SIM_SUBMIT_LIMIT)) return IO_LIMIT;
    sim_op *o = sim_op_begin(to_port(head), op, s);
    o->buf_count = count;
    for (uint32_t i = 0; i < count; i++) o->total += bufs[i].len;
    o->snapshot = sim_op_alloc(o->total);
    for (uint32_t i = 0, at = 0; i < count; i++) {
        o->bufs[i] = bufs[i];
        memcpy(o->snapshot + at, bufs[i].base, bufs[i].len);
        at += (uint32_t)bufs[i].len;
    }
    s->out = o;
    if (s->end->broken) {
        sim_op_finish(o, IO_RESET);
    } else if (world.profile != SIM_EPOLL) {
        sim_op_try_out(o);
    } else {
        sim_op_push(o);
        if (o->moved > 0) sim_op_finish(o, IO_OK);
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
    return sim_op_receive(s->end, buffer, len, bytes, &status) ? status : IO_AGAIN;
}

static void sim_cancel(io_port *head, io_socket number)
{
    sim_socket *s = sim_socket_find(number);
    (void)head;
    sim_note("cancel", (uint64_t)number, 0, 0);
    if (s->in != NULL) sim_op_cancel(s->in);
    if (s->out != NULL) sim_op_cancel(s->out);
    for (sim_op *o = s->accepts; o != NULL; o = o->next) sim_op_cancel(o);
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
    memset(port->scratch, SIM_POISON, port->scratch_len);
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
    int64_t pause = 1000;
    if (world.now_ns >= port->slow_again_ns && sim_fault_drawn(SIM_SLOW)) { /* rarely enough for deadlines to be kept */
        pause = sim_between(SIM_FAULTS, SIM_MS, 300 * SIM_MS);
        port->slow_again_ns = world.now_ns + SIM_SECOND;
    }
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
        sim_op_check_snapshot(o);
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
        if (o->attempt && !sim_op_attempt(o)) {
            sim_socket_news(o->socket);
            continue;
        }
        fill(port, o, packet);
        sim_note("packet", o->op->kind, (uint64_t)o->socket->number,
                 (uint64_t)o->moved << 8 | (uint8_t) - (int)o->status);
        sim_op_end(o);
        return true;
    }
    return false;
}

const io_backend io_backend_sim = {
    .name = "sim",
    .sends_late = true,
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
    .send_now = sim_send_now,
    .draw = sim_draw,
    .cancel = sim_cancel,
    .shutdown = sim_shutdown,
    .close_socket = sim_close_socket,
    .post = sim_post,
    .wait = sim_wait,
    .next = sim_next,
};
