/* kernel.c - sockets and links. */
#include "kernel.h"

#include "sim.h"

#include <stdlib.h>
#include <string.h>

enum { NUMBERS_MAX = 1024, NUMBER_FIRST = 3, REUSE_PERCENT = 80 };

static struct {
    sim_socket *by_number[NUMBERS_MAX];
    int freed[NUMBERS_MAX]; /* a stack: the number that was closed last is on top */
    int freed_count;
    int fresh; /* the lowest that was never given */
    uint32_t open;
    int64_t famine_ns; /* others have all descriptors until then */
    sim_socket *all;
} kernel;

void sim_kernel_open(void)
{
    memset(&kernel, 0, sizeof(kernel));
    kernel.fresh = NUMBER_FIRST;
}

void sim_kernel_close(void)
{
    sim_check("descriptors", kernel.open == 0, "%u sockets are still open", kernel.open);
}

/* ---- Sockets ---- */

sim_socket *sim_socket_open(bool is_first)
{
    if (is_first) kernel.famine_ns = 0;
    else if (sim_fault_drawn(SIM_SOCKET_LIMIT))
        kernel.famine_ns = world.now_ns + sim_between(SIM_FAULTS, 1, SIM_SECOND / 2);
    if (kernel.open >= world.descriptors || world.now_ns < kernel.famine_ns) return NULL;
    int number;
    bool again = kernel.freed_count > 0 && (kernel.fresh == NUMBERS_MAX || sim_percent(SIM_NETWORK, REUSE_PERCENT));
    if (again) number = kernel.freed[--kernel.freed_count];
    else number = kernel.fresh++;
    sim_check("descriptors", number < NUMBERS_MAX, "more than %d sockets", NUMBERS_MAX);
    sim_socket *s = sim_alloc(sizeof(*s));
    s->number = number;
    s->next = kernel.all;
    kernel.all = s;
    kernel.by_number[number] = s;
    kernel.open++;
    return s;
}

sim_socket *sim_socket_find(io_socket number)
{
    bool known = number >= 0 && number < NUMBERS_MAX && kernel.by_number[number] != NULL;
    sim_check("descriptors", known, "%lld is no open socket", (long long)number);
    return kernel.by_number[number];
}

void sim_socket_close(sim_socket *s, bool abort)
{
    sim_check("pending", s->in == NULL && s->out == NULL && s->accepts == NULL,
              "socket %lld is closed while an operation is pending", (long long)s->number);
    sim_note("close", (uint64_t)s->number, abort, 0);
    kernel.by_number[s->number] = NULL;
    kernel.freed[kernel.freed_count++] = (int)s->number;
    kernel.open--;
    s->closed = true;
    for (size_t i = 0; i < s->backlog_count; i++) sim_end_close(s->backlog[i], true);
    s->backlog_count = 0;
    if (s->end == NULL) return;
    s->end->socket = NULL;
    sim_end_close(s->end, abort);
}

void sim_sockets_each(void (*visit)(sim_socket *s))
{
    int first = (int)sim_below(SIM_NETWORK, (uint64_t)kernel.fresh);
    for (int i = 0; i < kernel.fresh; i++) {
        sim_socket *s = kernel.by_number[(first + i) % kernel.fresh];
        if (s != NULL) visit(s);
    }
}

net_addr sim_addr(const char *text)
{
    net_addr addr;
    char why[128];
    if (net_addr_parse(&addr, text, why, sizeof(why)) != IO_OK) sim_fail("sim", "%s: %s", text, why);
    return addr;
}

/* ---- Links ---- */

static void news(sim_end *end)
{
    if (end->peer != NULL) sim_peer_news(end->peer);
    else if (end->socket != NULL) sim_socket_news(end->socket);
}

static int64_t latency(void)
{
    return sim_between(SIM_NETWORK, world.latency_ns / 4 + 1, world.latency_ns * 2 + 1);
}

/* When something that is written now arrives, in order. */
static int64_t arrival(sim_flow *flow)
{
    int64_t at = world.now_ns + latency();
    if (sim_fault_drawn(SIM_CLOG)) at += sim_between(SIM_FAULTS, 100 * SIM_MS, 4 * SIM_SECOND);
    if (at <= flow->last_ns) at = flow->last_ns + 1;
    flow->last_ns = at;
    return at;
}

sim_end *sim_link_open(sim_peer *peer)
{
    sim_end *end = sim_alloc(sizeof(*end));
    sim_end *other = sim_alloc(sizeof(*other));
    end->other = other;
    other->other = end;
    other->peer = peer;
    return end;
}

bool sim_link_arrive(sim_end *end, uint16_t port)
{
    for (sim_socket *s = kernel.all; s != NULL; s = s->next) {
        if (!s->listening || s->closed || net_addr_port(&s->addr) != port) continue;
        if (s->backlog_count == s->backlog_room) {
            s->backlog_room = s->backlog_room == 0 ? 16 : s->backlog_room * 2;
            s->backlog = sim_grow(s->backlog, s->backlog_room * sizeof(sim_end *));
        }
        s->backlog[s->backlog_count++] = end;
        sim_socket_news(s);
        return true;
    }
    return false;
}

size_t sim_end_room(const sim_end *end)
{
    size_t under_way = end->out.written - end->out.known_read;
    if (end->broken) return world.window; /* it goes nowhere */
    return under_way < world.window ? world.window - under_way : 0;
}

/* What arrives: so many bytes of the flow, or its FIN. */
typedef struct delivery {
    sim_end *from;
    size_t upto;
    bool fin;
} delivery;

static void learn_reset(void *context)
{
    sim_end *end = context;
    if (end->broken || end->closed) return;
    end->broken = true;
    sim_note("reset", end->out.written, end->other->out.read, 0);
    news(end);
}

/* RST from one end to the other, which may be overtaken by nothing. */
static void send_reset(sim_end *from)
{
    sim_plan(world.now_ns + latency(), learn_reset, from->other);
}

static void deliver(void *context)
{
    delivery *d = context;
    sim_end *to = d->from->other;
    if (to->broken) return;
    if (to->closed) { /* nobody is there any more */
        if (!d->fin) send_reset(to);
        return;
    }
    d->from->out.arrived = d->upto;
    if (d->fin) d->from->out.fin_arrived = true;
    sim_note("arrive", d->upto, d->fin, 0);
    if (sim_fault_drawn(SIM_RESET)) sim_link_break(to);
    else news(to);
}

static void send_delivery(sim_end *end, bool fin)
{
    delivery *d = sim_alloc(sizeof(*d));
    *d = (delivery){.from = end, .upto = end->out.written, .fin = fin};
    sim_plan(arrival(&end->out), deliver, d);
}

void sim_end_write(sim_end *end, const void *bytes, size_t len)
{
    sim_flow *flow = &end->out;
    sim_check("order", !flow->fin_written, "bytes are sent after FIN");
    if (flow->written + len > flow->room) {
        flow->room = (flow->written + len) * 2;
        flow->bytes = sim_grow(flow->bytes, flow->room);
    }
    memcpy(flow->bytes + flow->written, bytes, len);
    if (end->record != NULL) sim_monitor_taken(end->record, flow->written, bytes, len);
    flow->written += len;
    if (!end->broken) send_delivery(end, false);
}

size_t sim_end_readable(const sim_end *end)
{
    const sim_flow *flow = &end->other->out;
    if (end->broken && world.reset_drops) return 0;
    return flow->arrived - flow->read;
}

/* The writer learns how much was read. */
typedef struct window_update {
    sim_end *writer;
    size_t read;
} window_update;

static void update_window(void *context)
{
    window_update *u = context;
    if (u->read <= u->writer->out.known_read) return;
    u->writer->out.known_read = u->read;
    if (!u->writer->closed) news(u->writer);
}

void sim_end_read(sim_end *end, void *bytes, size_t len)
{
    sim_flow *flow = &end->other->out;
    sim_check("sim", len <= flow->arrived - flow->read, "%zu bytes are read where fewer are", len);
    memcpy(bytes, flow->bytes + flow->read, len);
    flow->read += len;
    window_update *u = sim_alloc(sizeof(*u));
    *u = (window_update){.writer = end->other, .read = flow->read};
    sim_plan(world.now_ns + latency(), update_window, u);
}

bool sim_end_at_fin(const sim_end *end)
{
    const sim_flow *flow = &end->other->out;
    return flow->fin_arrived && flow->read == flow->written;
}

bool sim_end_is_dead(const sim_end *end)
{
    return end->broken && sim_end_readable(end) == 0;
}

void sim_end_fin(sim_end *end)
{
    if (end->out.fin_written) return;
    end->out.fin_written = true;
    if (end->record != NULL) sim_monitor_fin(end->record, end->out.written);
    if (!end->broken) send_delivery(end, true);
}

void sim_end_close(sim_end *end, bool abort)
{
    if (end->closed) return;
    const sim_flow *in = &end->other->out;
    bool unread = in->read < in->arrived; /* tcp(7): then RST, and not FIN, is sent */
    end->closed = true;
    end->aborted = abort;
    if (end->broken) return;
    if (abort || unread) send_reset(end);
    else sim_end_fin(end);
}

void sim_link_break(sim_end *end)
{
    learn_reset(end);
    send_reset(end);
}
