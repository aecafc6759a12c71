/* conn.c - the life of a connection. Verbs change state and mark; settle_one() acts; finish() ends. */
#include "conn_internal.h"

#include "base.h"
#include "frame.h"
#include "gate.h"
#include "log.h"
#include "mem.h"
#include "net.h"
#include "net_unix.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#define SECONDS(n) ((int64_t)(n)*1000000000)

const conn_limits conn_limits_default = {
    .idle_ns = SECONDS(600),
    .first_byte_ns = SECONDS(10),
    .write_ns = SECONDS(60),
    .linger_ns = SECONDS(2),
    .connect_ns = SECONDS(10),
    .send_high = 64 * 1024,
    .send_low = 16 * 1024,
    .send_max = 16 * 1024 * 1024,
    .recv_bytes = 16 * 1024,
    .message_max = 64 * 1024,
};

const char *conn_reason_name(conn_reason reason)
{
    static const char *const names[] = {"eof",      "reset", "local", "idle",    "timeout",
                                        "overflow", "limit", "error", "shutdown"};
    assert((size_t)reason < sizeof(names) / sizeof(names[0]));
    return names[reason];
}

/* ---- Deadlines: one timer a connection. It is moved forward only when it fires, so that a message costs none. ---- */

static int64_t earlier(int64_t a, int64_t start, int64_t period)
{
    return period > 0 && start + period < a ? start + period : a;
}

static int64_t due_ns(const conn *c)
{
    const conn_limits *limits = c->limits;
    int64_t due = INT64_MAX;
    switch ((conn_state)c->state) {
    case CONN_CONNECTING:
        return earlier(due, c->opened_ns, limits->connect_ns);
    case CONN_OPEN:
        if (c->received == 0 && !c->outbound) due = earlier(due, c->opened_ns, limits->first_byte_ns);
        due = earlier(due, c->active_ns, limits->idle_ns);
        if (c->out.bytes > 0) due = earlier(due, c->progress_ns, limits->write_ns);
        return due;
    case CONN_DRAINING:
        due = c->drain_ns;
        if (c->out.bytes > 0) due = earlier(due, c->progress_ns, limits->write_ns);
        else if (c->fin_sent) due = earlier(due, c->progress_ns, limits->linger_ns);
        return due;
    case CONN_FREE:
    case CONN_CLOSING:
    case CONN_CLOSED:
        break;
    }
    return due;
}

/* Makes sure that the timer fires no later than that; INT64_MAX: never. */
static void arm_by(conn *c, int64_t due)
{
    if (due == INT64_MAX || (timer_running(&c->deadline) && c->deadline.deadline_ns <= due)) return;
    if (!timer_start(c->set->timers, &c->deadline, due)) conn_abort(c, CONN_LIMIT, IO_LIMIT);
}

void conn_arm_write(conn *c)
{
    arm_by(c, earlier(INT64_MAX, c->progress_ns, c->limits->write_ns));
}

void conn_arm(conn *c)
{
    arm_by(c, due_ns(c));
}

static void on_deadline(timer *t, int64_t now_ns)
{
    conn *c = container_of(t, conn, deadline);
    const conn_limits *limits = c->limits;
    if (due_ns(c) > now_ns) { /* bytes have moved since */
        conn_arm(c);
        return;
    }
    if (c->state == CONN_CONNECTING) {
        conn_abort(c, CONN_TIMEOUT, IO_TIMEOUT);
    } else if (c->state == CONN_DRAINING && c->out.bytes == 0) { /* all sent; the peer keeps its side open */
        c->state = CONN_CLOSING;
        conn_mark_dirty(c);
    } else if (c->state == CONN_DRAINING ||
               (c->out.bytes > 0 && earlier(INT64_MAX, c->progress_ns, limits->write_ns) <= now_ns)) {
        conn_abort(c, CONN_TIMEOUT, IO_TIMEOUT);
    } else if (c->received == 0 && !c->outbound && earlier(INT64_MAX, c->opened_ns, limits->first_byte_ns) <= now_ns) {
        conn_close(c, CONN_TIMEOUT);
    } else {
        conn_close(c, CONN_IDLE);
    }
}

/* ---- Opening ---- */

static void configure(conn *c, const conn_config *config)
{
    assert(config->events != NULL && config->limits != NULL);
    c->events = config->events;
    c->limits = config->limits;
    c->listener = config->listener;
    c->user = config->user;
    c->receive = (unsigned)config->receive & 3u;
    c->half_open = config->half_open;
    c->deadline.fire = on_deadline;
}

conn *conn_open(conn_set *set, io_socket socket, const net_addr *peer, const conn_config *config)
{
    conn *c = conn_slot_take(set);
    if (c == NULL && set->gate != NULL) gate_leave(set->gate, peer);
    if (c != NULL && peer != NULL) c->peer = *peer;
    if (c == NULL || io_attach(set->port, socket) != IO_OK) {
        io_close(set->port, socket, true);
        if (c != NULL) conn_slot_give(c);
        return NULL;
    }
    configure(c, config);
    c->socket = socket;
    c->state = CONN_OPEN;
    conn_mark_dirty(c);
    conn_arm(c);
    return c;
}

conn *conn_connect(conn_set *set, const net_uri *target, const conn_config *config, io_status *status)
{
    int native = 0;
    io_socket socket = IO_SOCKET_NONE;
    bool is_unix = target->transport == NET_UNIX; /* connected at once, or not at all */
    if (is_unix) *status = net_unix_connect(&socket, target, &native);
    else *status = net_open_stream(&socket, &target->addr, &native);
    if (*status != IO_OK) return NULL;
    conn *c = conn_slot_take(set);
    if (c != NULL) c->outbound = true;
    if (c == NULL) *status = IO_LIMIT;
    else *status = io_attach(set->port, socket);
    if (*status == IO_OK) {
        configure(c, config);
        c->peer = is_unix ? net_addr_unix() : target->addr;
        if (!is_unix) *status = io_connect(set->port, &c->send_op, socket, &c->peer);
    }
    if (*status != IO_OK) {
        io_close(set->port, socket, true);
        if (c != NULL) conn_slot_give(c);
        return NULL;
    }
    c->socket = socket;
    c->state = is_unix ? CONN_OPEN : CONN_CONNECTING;
    if (is_unix) conn_mark_dirty(c);
    conn_arm(c);
    return c;
}

/* ---- Ending ---- */

/* The system says that the connection is broken. */
void conn_break(conn *c, io_status status)
{
    if (c->state == CONN_CLOSING || c->state == CONN_CLOSED) return;
    /* After our FIN and with nothing left to send, a peer that resets instead of closing changes nothing. */
    bool done = c->state == CONN_DRAINING && c->out.bytes == 0;
    if (!done) {
        c->reason = status == IO_RESET || status == IO_TIMEOUT || status == IO_UNREACHABLE ? CONN_RESET
                    : status == IO_LIMIT                                                   ? CONN_LIMIT
                                                                                           : CONN_ERROR;
        c->status = (int16_t)status;
    }
    c->abortive = true;
    c->state = CONN_CLOSING;
    conn_mark_dirty(c);
}

/* Nothing is pending: gives the socket back. on_close follows when no handler waits. */
static void finish(conn *c)
{
    conn_set *set = c->set;
    assert(c->state == CONN_CLOSING && c->recv_op.kind == IO_IDLE && c->send_op.kind == IO_IDLE);
    io_close(set->port, c->socket, c->abortive);
    c->socket = IO_SOCKET_NONE;
    timer_stop(set->timers, &c->deadline);
    sendq_clear(&c->out, &set->cache);
    mem_free(c->buffer);
    c->buffer = NULL;
    c->state = CONN_CLOSED;
}

/* For who wonders why a peer is gone, and has no on_close. */
static void log_end(const conn *c)
{
    char peer[NET_ADDR_TEXT_MAX];
    net_addr_format(&c->peer, peer, sizeof(peer));
    log_write(LOG_DEBUG, "conn %" PRIu64 " (%s): closed: %s%s%s", c->id, peer, conn_reason_name((conn_reason)c->reason),
              c->status != IO_OK ? ": " : "", c->status != IO_OK ? io_status_text((io_status)c->status) : "");
}

/* CLOSED: tells the owner, or frees a slot that nobody has heard of. c may be gone afterwards. */
static void tell_close(conn *c)
{
    if (c->close_told || c->holds > 0) return;
    c->close_told = true;
    if (c->open_told) {
        if (log_wants(LOG_DEBUG)) log_end(c);
        c->events->on_close(c, (conn_reason)c->reason, (io_status)c->status);
        return;
    }
    if (c->outbound) c->events->on_open(c, c->status == IO_OK ? IO_CANCELED : (io_status)c->status);
    conn_slot_give(c);
}

void conn_release(conn *c)
{
    assert(c->state == CONN_CLOSED && c->close_told && c->open_told);
    conn_slot_give(c);
}

/* ---- Packets ---- */

static void on_connect(conn *c, const io_packet *packet)
{
    if (c->state != CONN_CONNECTING) return; /* given up meanwhile: settling ends it */
    if (packet->status == IO_OK) {
        c->state = CONN_OPEN;
        c->opened_ns = c->active_ns = c->progress_ns = c->set->now_ns;
        conn_arm(c);
    } else {
        c->status = (int16_t)packet->status;
        c->state = CONN_CLOSING;
    }
}

/* tell() may have something to call. */
static bool is_news(const conn *c)
{
    return c->stash != NULL || !c->open_told || c->turn_due || c->drain_due || c->eof_seen || c->shutdown_due;
}

/* Bytes that were taken, and answered at once if at all, leave nothing to settle but the next receive. */
static bool leaves_receive_only(const conn *c)
{
    return c->state == CONN_OPEN && !c->dirty && !is_news(c) && !c->fin_wanted && c->waits == NULL &&
           conn_wants_receive(c);
}

void conn_on_packet(const io_packet *packet)
{
    conn *c;
    switch (packet->kind) {
    case IO_RECV:
    case IO_READABLE:
        c = container_of(packet->op, conn, recv_op);
        conn_on_recv(c, packet);
        if (leaves_receive_only(c)) {
            conn_submit_receive(c);
            return;
        }
        break;
    case IO_SEND:
        c = container_of(packet->op, conn, send_op);
        if (!conn_on_send(c, packet)) return;
        break;
    case IO_CONNECT:
        c = container_of(packet->op, conn, send_op);
        on_connect(c, packet);
        break;
    case IO_IDLE:
    case IO_ACCEPT:
    case IO_POST:
    default:
        assert(false && "a packet that is not a connection's");
        return;
    }
    conn_mark_dirty(c);
}

/* ---- Settling ---- */

/* FIN has come, and on_fin been asked: it may have changed everything. */
static void tell_fin(conn *c)
{
    if (c->state != CONN_OPEN) return;
    if (c->turn_due || conn_has_due(c)) { /* first these, and then again */
        conn_mark_dirty(c);
        return;
    }
    c->eof_told = true;
    if (c->half_open) c->events->on_eof(c);
    else conn_close(c, CONN_EOF);
}

/* Somebody passes bytes on to it. */
static bool is_fed(const conn *c)
{
    for (const conn_wait *wait = c->waits; wait != NULL; wait = wait->next) {
        if (wait->feeds) return true;
    }
    return false;
}

/* Calls what is due, in order, until a handler waits or nothing is left. */
static void tell(conn *c)
{
    if (c->holds > 0) return;
    if (c->shutdown_due && !is_fed(c)) {
        conn_close(c, CONN_SHUTDOWN);
        return;
    }
    if (!c->open_told) {
        c->open_told = true;
        c->events->on_open(c, IO_OK);
    }
    if (c->turn_due && c->state == CONN_OPEN && c->holds == 0) {
        c->turn_due = false;
        c->events->on_turn(c);
    }
    if (conn_has_due(c) && c->state == CONN_OPEN && c->holds == 0 && !c->paused && !c->above_high && !c->reading) {
        if (c->receive != CONN_READY) {
            stash *kept = c->stash;
            c->stash = NULL;
            conn_deliver(c, stash_data(kept), stash_len(kept), kept);
        } else if (!c->undrawn) {
            c->undrawn = true;
            c->events->on_readable(c);
        }
    }
    if (c->drain_due && c->state == CONN_OPEN && c->holds == 0) {
        c->drain_due = false;
        if (!c->above_high) c->events->on_drain(c);
    }
    if (c->eof_seen && !c->eof_told && !conn_has_due(c) && c->state == CONN_OPEN && c->holds == 0 && !c->paused) {
        if (c->events->on_fin != NULL) c->events->on_fin(c);
        tell_fin(c);
    }
}

static void settle_one(conn *c)
{
    if (c->state == CONN_FREE) return; /* given back while it waited here */
    if (c->waits != NULL) conn_wake(c);
    if (c->state == CONN_OPEN && is_news(c)) tell(c);
    if (c->state == CONN_OPEN || c->state == CONN_DRAINING) conn_submit_send(c);
    /* Half-closed both ways. That of a paused one was heard of by who read it. */
    if (c->state == CONN_OPEN && c->fin_sent &&
        (c->eof_told || (c->eof_seen && c->paused && c->stash == NULL && c->holds == 0))) {
        c->reason = CONN_EOF;
        c->state = CONN_CLOSING;
    }
    if (c->state == CONN_DRAINING && c->eof_seen && c->out.bytes == 0) c->state = CONN_CLOSING;
    if (conn_wants_receive(c)) conn_submit_receive(c);
    if (c->state == CONN_CLOSING) {
        if (c->waits != NULL) conn_wake(c); /* before on_close */
        bool pending = c->recv_op.kind != IO_IDLE || c->send_op.kind != IO_IDLE;
        if (pending && !c->canceled) {
            c->canceled = true;
            io_cancel(c->set->port, c->socket);
        }
        if (!pending) finish(c);
    }
    if (c->state == CONN_CLOSED) tell_close(c);
}

bool conn_settle(conn_set *set)
{
    conn *last = set->dirty_tail;
    for (conn *c = set->dirty_head; c != NULL; c = set->dirty_head) {
        set->dirty_head = c->dirty_next;
        if (set->dirty_head == NULL) set->dirty_tail = NULL;
        c->dirty = false;
        bool end = c == last;
        settle_one(c);
        if (end) break;
    }
    return set->dirty_head != NULL;
}

/* ---- Verbs ---- */

void conn_pause(conn *c)
{
    c->paused = true;
}

void conn_resume(conn *c)
{
    c->paused = false;
    c->undrawn = false;
    conn_mark_dirty(c);
}

void conn_hold(conn *c)
{
    assert(c->holds < UINT8_MAX);
    c->holds++;
}

void conn_unhold(conn *c)
{
    assert(c->holds > 0);
    if (--c->holds == 0) conn_mark_dirty(c);
}

void conn_turn(conn *c)
{
    c->turn_due = true;
    conn_mark_dirty(c);
}

void conn_shutdown(conn *c)
{
    if (c->state != CONN_OPEN) return;
    c->fin_wanted = true;
    conn_mark_dirty(c);
}

void conn_close(conn *c, conn_reason reason)
{
    if (c->state == CONN_CONNECTING) {
        conn_abort(c, reason, IO_CANCELED);
        return;
    }
    if (c->state != CONN_OPEN) return;
    if (reason == CONN_SHUTDOWN && (c->holds > 0 || is_fed(c))) { /* what its handler is at work on may still be sent */
        c->shutdown_due = true;
        c->news = true;
        conn_mark_dirty(c);
        return;
    }
    c->state = CONN_DRAINING;
    c->reason = (uint8_t)reason;
    c->fin_wanted = true;
    c->drain_ns = c->set->now_ns + c->set->drain_ns;
    if (c->set->given_to == c) c->set->offered = 0;
    if (!c->eof_seen) { /* input is dropped from here on, but for conn_truncated() */
        mem_free(c->stash);
        c->stash = NULL;
    }
    conn_arm(c);
    conn_mark_dirty(c);
}

void conn_abort(conn *c, conn_reason reason, io_status status)
{
    if (c->state != CONN_CONNECTING && c->state != CONN_OPEN && c->state != CONN_DRAINING) return;
    /* A drained connection that only waits for the peer's FIN loses nothing, and its peer need not see a reset. */
    c->abortive = !(c->state == CONN_DRAINING && c->out.bytes == 0);
    if (c->abortive) {
        c->reason = (uint8_t)reason;
        c->status = (int16_t)status;
    }
    c->state = CONN_CLOSING;
    conn_mark_dirty(c);
}

void conn_set_receive(conn *c, conn_receive receive)
{
    c->receive = (unsigned)receive & 3u;
    c->undrawn = false;
    conn_mark_dirty(c);
}

void conn_move(conn *c, const conn_config *config)
{
    c->events = config->events;
    if (!c->own_half_open) c->half_open = config->half_open;
    if (!c->own_limits) {
        c->limits = config->limits;
        conn_arm(c);
    } else if (!c->own_frame) {
        conn_own_limits(c)->frame = config->limits->frame;
    }
    if (!c->own_frame) {
        conn_rescan(c);
        if (c->set->given_stash != NULL)
            c->set->given_stash->seen = 0; /* inside on_data; if it is another's, no harm */
    }
    if (!c->own_receive && c->receive != config->receive) conn_set_receive(c, config->receive);
}

conn_limits *conn_own_limits(conn *c)
{
    if (!c->own_limits) {
        conn_limits *own = mem_alloc(sizeof(*own));
        if (own == NULL) return NULL;
        *own = *c->limits;
        c->limits = own;
        c->own_limits = true;
    }
    return (conn_limits *)(uintptr_t)c->limits;
}

bool conn_set_frame(conn *c, const frame_rule *rule)
{
    conn_limits *own = conn_own_limits(c);
    if (own == NULL) return false;
    own->frame = *rule;
    c->own_frame = true;
    conn_rescan(c);
    return true;
}

void conn_limits_changed(conn *c)
{
    conn_arm(c);
}
