/* monitor.c - the oracles: bytes, order of events, bounds, and that nobody is forgotten. */
#include "monitor.h"

#include "kernel.h"
#include "sim.h"
#include "stash.h"
#include "wraps.h"

#include <string.h>

enum { WORKERS_MAX = 8, TABLE_SIZE = 4096 };

/* How long something that has a deadline may outlive it: threads are late, and deadlines are looked at once a round. */
#define LATE_NS (2 * SIM_SECOND)
/* What a look may come later than what it sees. */
#define LOOK_NS (500 * SIM_MS)
/* From a cancel to the end of the connection. */
#define CLOSING_NS (2 * SIM_SECOND)

struct sim_record {
    sim_record *next;
    conn *c;
    uint64_t id;
    sim_end *end;  /* NULL until it is connected */
    uint8_t *sent; /* what conn_send() took */
    size_t sent_len;
    size_t sent_room;
    size_t delivered;
    uint64_t moved;      /* received and sent when it was last looked at, … */
    int64_t moved_ns;    /* … and when that was last seen to change */
    int64_t closing_ns;  /* seen in CLOSING first; 0: not seen */
    uint32_t high_datas; /* on_data since its queue is above the high mark */
    bool high;           /* the queue was above its high mark, and on_drain has not come since */
    bool idle_seen;      /* closed for want of bytes, which was looked at */
    bool outbound;
    bool lenient; /* it came while memory was short */
    bool opened;  /* on_open was called, with good news */
    bool in_data; /* on_data runs: what it was given counts as delivered */
    bool mixed;   /* the script has put bytes of its own in front: what comes is no longer what the peer sent */
    bool eof;
    bool closed; /* on_close was called, or on_open with bad news */
};

static struct {
    sim_expect expect;
    uint32_t max_connections; /* 0: any */
    bool is_short;
    worker *workers[WORKERS_MAX];
    bool inside[WORKERS_MAX]; /* an event of that worker's connections is being told */
    sim_record *records;
    conn *keys[TABLE_SIZE]; /* records by their conn: slots are used again, and the newest counts */
    sim_record *values[TABLE_SIZE];
    uint64_t opened;
    uint64_t delivered;
} monitor;

/* ---- Records ---- */

static size_t slot_of(const conn *c)
{
    size_t at = ((uintptr_t)c / sizeof(conn)) % TABLE_SIZE;
    while (monitor.keys[at] != NULL && monitor.keys[at] != c) at = (at + 1) % TABLE_SIZE;
    return at;
}

static sim_record *record_of(const conn *c)
{
    sim_record *r = monitor.values[slot_of(c)];
    sim_check("events", r != NULL && !r->closed, "something is done with a connection that is over");
    return r;
}

static sim_record *record_open(conn *c, bool outbound)
{
    sim_record *r = sim_alloc(sizeof(*r));
    *r = (sim_record){.next = monitor.records,
                      .c = c,
                      .id = c->id,
                      .outbound = outbound,
                      .lenient = monitor.is_short,
                      .moved_ns = world.now_ns};
    monitor.records = r;
    size_t at = slot_of(c);
    monitor.keys[at] = c;
    monitor.values[at] = r;
    return r;
}

static size_t index_of(const conn_set *set)
{
    for (size_t i = 0; i < WORKERS_MAX; i++) {
        if (monitor.workers[i] != NULL && &monitor.workers[i]->conns == set) return i;
    }
    sim_fail("sim", "a set of connections that belongs to no worker");
}

/* ---- Events on their way to the host ---- */

static sim_record *enter(conn *c)
{
    sim_record *r = record_of(c);
    size_t w = index_of(c->set);
    sim_check("events", !monitor.inside[w], "conn %llu: an event comes in the middle of another",
              (unsigned long long)r->id);
    monitor.inside[w] = true;
    return r;
}

static void leave(const conn_set *set)
{
    monitor.inside[index_of(set)] = false;
}

static void check_held(const conn *c, const char *event)
{
    sim_check("events", c->holds == 0, "conn %llu: %s comes while a handler waits", (unsigned long long)c->id, event);
}

static void on_open(conn *c, io_status status)
{
    sim_record *r = enter(c);
    const conn_set *set = c->set;
    sim_note("on_open", r->id, (uint64_t) - (int)status, 0);
    sim_check("events", !r->opened, "conn %llu: on_open comes twice", (unsigned long long)r->id);
    if (status == IO_OK) {
        r->opened = true;
        r->end = sim_socket_find(c->socket)->end;
    } else {
        r->closed = true;
    }
    __real_host_events.on_open(c, status);
    leave(set);
}

/* The script gets bytes: the next ones that the peer wrote. */
static void check_delivered(sim_record *r, const uint8_t *data, size_t len)
{
    const sim_flow *flow = &r->end->other->out;
    if (r->mixed || len == 0) return;
    sim_check("bytes", !r->eof, "conn %llu: bytes come after end of stream", (unsigned long long)r->id);
    sim_check("bytes", r->delivered + len <= flow->read, "conn %llu: %zu bytes delivered, and only %zu were received",
              (unsigned long long)r->id, r->delivered + len, flow->read);
    sim_check("bytes", memcmp(data, flow->bytes + r->delivered, len) == 0,
              "conn %llu: the bytes from %zu to %zu are not those that the peer sent", (unsigned long long)r->id,
              r->delivered, r->delivered + len);
    r->delivered += len;
    monitor.delivered += len;
}

static void on_data(conn *c, const uint8_t *data, size_t len)
{
    sim_record *r = enter(c);
    const conn_set *set = c->set;
    sim_note("on_data", r->id, len, 0);
    sim_check("events", r->opened, "conn %llu: on_data comes before on_open", (unsigned long long)r->id);
    sim_check("events", !c->paused, "conn %llu: on_data comes while it is paused", (unsigned long long)r->id);
    sim_check("events", len > 0, "conn %llu: on_data without data", (unsigned long long)r->id);
    check_held(c, "on_data");
    sim_check("events", c->state == CONN_OPEN, "conn %llu: on_data comes after it was closed",
              (unsigned long long)r->id);
    if (c->above_high) r->high_datas++;
    sim_check("bounds", r->high_datas <= 1, "conn %llu goes on receiving above its high mark",
              (unsigned long long)r->id);
    check_delivered(r, data, len);
    r->in_data = true;
    __real_host_events.on_data(c, data, len);
    r->in_data = false;
    leave(set);
}

static void on_readable(conn *c)
{
    sim_record *r = enter(c);
    const conn_set *set = c->set;
    sim_note("on_readable", r->id, 0, 0);
    sim_check("events", r->opened, "conn %llu: on_readable comes before on_open", (unsigned long long)r->id);
    sim_check("events", !r->eof, "conn %llu: on_readable comes after on_eof", (unsigned long long)r->id);
    check_held(c, "on_readable");
    __real_host_events.on_readable(c);
    leave(set);
}

static void on_eof(conn *c)
{
    sim_record *r = enter(c);
    const conn_set *set = c->set;
    sim_note("on_eof", r->id, 0, 0);
    sim_check("events", r->opened && !r->eof, "conn %llu: on_eof comes twice, or before on_open",
              (unsigned long long)r->id);
    sim_check("bytes", sim_end_at_fin(r->end), "conn %llu: on_eof comes before the peer's FIN",
              (unsigned long long)r->id);
    sim_check("bytes", r->mixed || r->delivered + conn_truncated(c) == r->end->other->out.written,
              "conn %llu: at its end of stream %zu bytes are delivered of %zu", (unsigned long long)r->id, r->delivered,
              r->end->other->out.written);
    check_held(c, "on_eof");
    r->eof = true;
    __real_host_events.on_eof(c);
    leave(set);
}

static void on_drain(conn *c)
{
    sim_record *r = enter(c);
    const conn_set *set = c->set;
    sim_note("on_drain", r->id, 0, 0);
    sim_check("events", r->opened, "conn %llu: on_drain comes before on_open", (unsigned long long)r->id);
    r->high = false;
    check_held(c, "on_drain");
    __real_host_events.on_drain(c);
    leave(set);
}

static void check_end(const sim_record *r, const conn *c, conn_reason reason)
{
    const sim_flow *in = &r->end->other->out;
    bool is_clean = !r->end->aborted;
    if (is_clean) {
        sim_check("bytes", r->end->out.written == r->sent_len || r->end->broken,
                  "conn %llu ends well (%s), but of %zu bytes only %zu were sent", (unsigned long long)r->id,
                  conn_reason_name(reason), r->sent_len, r->end->out.written);
    }
    if (reason != CONN_EOF || r->mixed) return;
    sim_check("bytes", in->fin_written && r->delivered + conn_truncated(c) == in->written,
              "conn %llu ends with the peer's FIN, but of %zu bytes only %zu were delivered", (unsigned long long)r->id,
              in->written, r->delivered);
    if (monitor.expect.echoes && !r->outbound && !r->lenient) {
        size_t rest = monitor.expect.unit > 0 ? r->delivered % monitor.expect.unit : 0;
        sim_check("echo", r->sent_len == r->delivered - rest, "conn %llu: %zu bytes came and %zu were sent back",
                  (unsigned long long)r->id, r->delivered, r->sent_len);
    }
}

static void on_close(conn *c, conn_reason reason, io_status status)
{
    sim_record *r = enter(c);
    const conn_set *set = c->set;
    sim_note("on_close", r->id, reason, (uint64_t) - (int)status);
    sim_check("events", r->opened, "conn %llu: on_close comes before on_open", (unsigned long long)r->id);
    r->closed = true;
    check_end(r, c, reason);
    __real_host_events.on_close(c, reason, status);
    leave(set);
}

static void on_turn(conn *c)
{
    sim_record *r = enter(c);
    const conn_set *set = c->set;
    sim_note("on_turn", r->id, 0, 0);
    sim_check("events", r->opened, "conn %llu: on_turn comes before on_open", (unsigned long long)r->id);
    check_held(c, "on_turn");
    __real_host_events.on_turn(c);
    leave(set);
}

static void on_fin(conn *c)
{
    __real_host_events.on_fin(c);
}

const conn_events __wrap_host_events = {on_open, on_data, on_readable, on_eof, on_drain, on_close, on_turn, on_fin};

/* ---- Calls on their way to the engine ---- */

conn *__wrap_conn_open(conn_set *set, io_socket socket, const net_addr *peer, const conn_config *config)
{
    sim_socket *s = sim_socket_find(socket);
    conn *c = __real_conn_open(set, socket, peer, config);
    if (c == NULL) {
        sim_check("descriptors", s->closed, "a socket that no connection has is still open");
        return NULL;
    }
    sim_record *r = record_open(c, false);
    r->end = s->end;
    s->end->record = r;
    uint32_t total = 0;
    for (size_t i = 0; i < WORKERS_MAX; i++) total += monitor.workers[i] != NULL ? monitor.workers[i]->conns.count : 0;
    sim_check("bounds", monitor.expect.connects || monitor.max_connections == 0 || total <= monitor.max_connections,
              "%u connections are open, and %u may be", total, monitor.max_connections);
    monitor.opened++;
    return c;
}

conn *__wrap_conn_connect(conn_set *set, const net_uri *target, const conn_config *config, io_status *status)
{
    conn *c = __real_conn_connect(set, target, config, status);
    if (c == NULL) return NULL;
    sim_socket *s = sim_socket_find(c->socket);
    s->record = record_open(c, true);
    monitor.opened++;
    return c;
}

/* The script sends: the bytes are those it received, if it echoes. */
static void check_echo(const sim_record *r, const uint8_t *data, size_t len)
{
    const sim_flow *flow = &r->end->other->out;
    sim_check("echo", r->sent_len + len <= flow->read && memcmp(data, flow->bytes + r->sent_len, len) == 0,
              "conn %llu: the bytes from %zu on, %zu of them, are not an echo", (unsigned long long)r->id, r->sent_len,
              len);
}

/* What the script gave to be sent. */
static void note_sent(conn *c, const uint8_t *data, size_t len)
{
    sim_record *r = record_of(c);
    if (monitor.expect.echoes && !r->outbound && !r->lenient) check_echo(r, data, len);
    if (r->sent_len + len > r->sent_room) {
        r->sent_room = (r->sent_len + len) * 2;
        r->sent = sim_grow(r->sent, r->sent_room);
    }
    memcpy(r->sent + r->sent_len, data, len);
    r->sent_len += len;
}

static void note_high(conn *c)
{
    sim_record *r = record_of(c);
    r->high = r->high || c->above_high;
}

io_status __wrap_conn_send(conn *c, const void *data, size_t len)
{
    io_status status = __real_conn_send(c, data, len);
    /* What goes over the mark is queued and then dropped with the connection. */
    if (status != IO_OK || len == 0) return status;
    note_sent(c, data, len);
    note_high(c);
    return status;
}

io_status __wrap_conn_send_last(conn *c, const void *data, size_t len)
{
    bool can_send = c->state == CONN_OPEN && !c->fin_wanted;
    if (can_send && len > 0) note_sent(c, data, len); /* they may go out before it returns */
    io_status status = __real_conn_send_last(c, data, len);
    note_high(c);
    return status;
}

io_status __wrap_conn_draw(conn *c, void *buffer, size_t len, size_t *bytes)
{
    io_status status = __real_conn_draw(c, buffer, len, bytes);
    if (*bytes > 0) {
        sim_check("bytes", status == IO_OK, "%zu bytes are drawn with an error", *bytes);
        check_delivered(record_of(c), buffer, *bytes);
    }
    return status;
}

/* The last len bytes of what on_data got come again. */
void __wrap_conn_keep(conn *c, size_t len, size_t need)
{
    record_of(c)->delivered -= len;
    __real_conn_keep(c, len, need);
}

void __wrap_conn_consume(conn *c, size_t len)
{
    const uint8_t *data;
    sim_record *r = record_of(c);
    size_t there = conn_input(c, &data);
    sim_check("bytes", len <= there, "conn %llu: %zu bytes are taken where %zu are", (unsigned long long)r->id, len,
              there);
    if (!r->in_data) check_delivered(r, data, len);
    __real_conn_consume(c, len);
}

io_status __wrap_conn_unread(conn *c, const void *data, size_t len)
{
    sim_record *r = record_of(c);
    const uint8_t *bytes = r->end->other->out.bytes;
    io_status status = __real_conn_unread(c, data, len);
    if (status != IO_OK) return status;
    if (len <= r->delivered && memcmp(bytes + r->delivered - len, data, len) == 0) r->delivered -= len;
    else r->mixed = true;
    return status;
}

void sim_monitor_taken(sim_record *r, size_t from, const uint8_t *bytes, size_t len)
{
    sim_check("bytes", from + len <= r->sent_len && memcmp(bytes, r->sent + from, len) == 0,
              "conn %llu: the bytes from %zu to %zu that go out are not those that were to be sent",
              (unsigned long long)r->id, from, from + len);
}

void sim_monitor_fin(sim_record *r, size_t written)
{
    sim_check("bytes", written == r->sent_len, "conn %llu sends FIN after %zu bytes of %zu", (unsigned long long)r->id,
              written, r->sent_len);
}

/* ---- At each step ---- */

static worker *worker_of(const io_port *port)
{
    for (size_t i = 0; i < WORKERS_MAX; i++) {
        if (monitor.workers[i] != NULL && monitor.workers[i]->port == port) return monitor.workers[i];
    }
    return NULL; /* it has not opened its app yet */
}

static bool is_late(int64_t since_ns, int64_t period_ns)
{
    return period_ns > 0 && world.now_ns > since_ns + period_ns + LATE_NS;
}

/* What holds of any connection between two packets. */
static void check_bounds(const conn *c)
{
    const conn_limits *limits = c->limits;
    unsigned long long id = (unsigned long long)c->id;
    if (c->state != CONN_OPEN && c->state != CONN_DRAINING) return;
    sim_record *r = record_of(c);
    if (r->moved != c->received + c->sent) r->moved_ns = world.now_ns;
    r->moved = c->received + c->sent;
    if (c->state == CONN_DRAINING && c->reason == CONN_IDLE && !r->idle_seen) {
        r->idle_seen = true;
        sim_check("deadline", world.now_ns - r->moved_ns > limits->idle_ns - LOOK_NS,
                  "conn %llu is closed for being idle %.3f s after bytes moved, and may be for %.3f", id,
                  (double)(world.now_ns - r->moved_ns) / 1e9, (double)limits->idle_ns / 1e9);
    }
    if (!c->above_high) r->high_datas = 0;
    sim_check("bounds", limits->send_max == 0 || c->out.bytes <= limits->send_max, "conn %llu has %zu bytes queued", id,
              c->out.bytes);
    if (c->own_limits) return; /* they may have changed since */
    sim_check("bounds", c->above_high || c->drain_due || c->out.bytes <= limits->send_high,
              "conn %llu has %zu bytes queued and receives", id, c->out.bytes);
}

/* A connection that nothing is done about goes on by itself when the kernel answers, a deadline comes, or its owner
 * acts. */
static void check_rest(const conn *c, bool stopping)
{
    unsigned long long id = (unsigned long long)c->id;
    bool receives = c->recv_op.kind != IO_IDLE;
    bool sends = c->send_op.kind != IO_IDLE;
    bool deferred = c->holds > 0 || c->paused || c->above_high || c->eof_seen;
    bool has_due = c->stash != NULL && stash_len(c->stash) >= c->stash->need;
    sim_record *r;
    switch ((conn_state)c->state) {
    case CONN_OPEN:
        sim_check("rest", c->out.bytes == 0 || sends, "conn %llu has %zu bytes queued, and nobody sends them", id,
                  c->out.bytes);
        sim_check("rest", receives || deferred || (c->receive == CONN_READY && c->undrawn) || has_due,
                  "conn %llu is open, and nobody receives", id);
        sim_check("rest", !c->reading || receives || c->eof_seen || c->above_high,
                  "somebody waits for bytes of conn %llu, and nobody receives", id);
        sim_check("rest",
                  !has_due || c->holds > 0 || c->paused || c->above_high || c->reading ||
                      (c->receive == CONN_READY && c->undrawn),
                  "conn %llu keeps bytes that could be delivered", id);
        sim_check("rest", c->above_high || !c->drain_due || c->holds > 0, "conn %llu is owed on_drain", id);
        sim_check("rest",
                  !c->eof_seen || c->eof_told || c->holds > 0 || c->paused || (has_due && c->undrawn), /* these first */
                  "conn %llu has seen the end of the stream, and nobody is told", id);
        sim_check("rest", !record_of(c)->high || c->above_high || c->drain_due,
                  "conn %llu's queue has been above its mark, and on_drain never came", id);
        sim_check("rest", !c->above_high || c->out.bytes > 0, "conn %llu has nothing queued, and is above its mark",
                  id);
        sim_check("rest", !c->eof_told || !c->fin_sent, "conn %llu is closed in both directions, and open", id);
        sim_check("rest", !stopping || c->holds > 0 || c->outbound,
                  "conn %llu is open and at rest though the server stops", id);
        sim_check("deadline", !is_late(c->active_ns, c->limits->idle_ns), "conn %llu is idle for too long", id);
        sim_check("deadline", c->out.bytes == 0 || !is_late(c->progress_ns, c->limits->write_ns),
                  "conn %llu waits too long for its peer to read", id);
        sim_check("deadline", c->outbound || c->received > 0 || !is_late(c->opened_ns, c->limits->first_byte_ns),
                  "conn %llu waits too long for its first byte", id);
        break;
    case CONN_CONNECTING:
        sim_check("rest", sends, "conn %llu is connecting, and nobody connects", id);
        sim_check("deadline", !is_late(c->opened_ns, c->limits->connect_ns), "conn %llu connects for too long", id);
        break;
    case CONN_DRAINING:
        sim_check("rest", c->out.bytes == 0 || sends, "conn %llu drains %zu bytes, and nobody sends them", id,
                  c->out.bytes);
        sim_check("rest", receives || c->eof_seen, "conn %llu drains, and nobody waits for the peer's FIN", id);
        sim_check("deadline", world.now_ns < c->drain_ns + LATE_NS, "conn %llu drains for too long", id);
        sim_check("deadline", !c->fin_sent || !is_late(c->progress_ns, c->limits->linger_ns),
                  "conn %llu lingers for too long", id);
        break;
    case CONN_CLOSING:
        r = record_of(c);
        if (r->closing_ns == 0) r->closing_ns = world.now_ns;
        sim_check("rest", receives || sends, "conn %llu is closing, and waits for nothing", id);
        sim_check("deadline", world.now_ns < r->closing_ns + CLOSING_NS, "conn %llu closes for too long", id);
        break;
    case CONN_CLOSED:
    case CONN_FREE:
        break;
    }
}

void sim_monitor_step(io_port *port)
{
    const worker *w = worker_of(port);
    if (w == NULL) return;
    uint32_t live = 0;
    for (const conn *c = w->conns.live; c != NULL; c = c->live_next) {
        live++;
        check_bounds(c);
    }
    sim_check("bounds", live == w->conns.count, "%u connections are counted, and there are %u", w->conns.count, live);
}

void sim_monitor_rest(io_port *port, bool at_rest)
{
    sim_monitor_step(port);
    const worker *w = worker_of(port);
    if (w == NULL || !at_rest) return;
    for (const conn *c = w->conns.live; c != NULL; c = c->live_next) check_rest(c, w->draining);
}

/* ---- Opening and closing ---- */

void sim_monitor_open(sim_expect expect, uint32_t max_connections)
{
    memset(&monitor, 0, sizeof(monitor));
    monitor.expect = expect;
    monitor.max_connections = max_connections;
}

void sim_monitor_short(bool on)
{
    monitor.is_short = on;
}

void sim_monitor_worker(worker *w)
{
    sim_check("sim", w->id < WORKERS_MAX, "more than %d workers", WORKERS_MAX);
    monitor.workers[w->id] = w;
}

uint64_t sim_monitor_opened(void)
{
    return monitor.opened;
}

uint64_t sim_monitor_delivered(void)
{
    return monitor.delivered;
}

void sim_monitor_close(void)
{
    for (const sim_record *r = monitor.records; r != NULL; r = r->next) {
        sim_check("events", !r->opened || r->closed, "conn %llu was opened, and its end was never told",
                  (unsigned long long)r->id);
    }
}
