/* conn_output.c - what goes to the peer: the queue, what is sent without it, FIN. */
#include "conn_internal.h"

#include <assert.h>

enum { SEND_TOGETHER_MAX = 1024 }; /* bytes: more is not copied if that can be avoided */

static bool can_send(const conn *c)
{
    return c->state == CONN_OPEN && !c->fin_wanted;
}

static io_status queue(conn *c, const void *data, size_t len)
{
    c->answered = true;
    bool was_empty = c->out.bytes == 0;
    if (!sendq_push(&c->out, &c->set->cache, data, len)) return IO_LIMIT;
    if (was_empty) c->progress_ns = c->set->now_ns;
    if (c->out.bytes > c->limits->send_high) c->above_high = true;
    if (c->limits->send_max > 0 && c->out.bytes > c->limits->send_max) {
        conn_abort(c, CONN_OVERFLOW, IO_OK); /* the reason says it all */
        return IO_LIMIT;
    }
    return IO_OK;
}

io_status conn_send(conn *c, const void *data, size_t len)
{
    if (!can_send(c)) return IO_CLOSED;
    if (len == 0) return IO_OK;
    io_status status = queue(c, data, len);
    if (status == IO_OK) conn_mark_dirty(c);
    return status;
}

static void note_sent(conn *c, size_t bytes)
{
    c->sent += bytes;
    c->active_ns = c->progress_ns = c->set->now_ns;
}

/* The first bytes of the queue have left. */
static void take_sent(conn *c, size_t bytes)
{
    sendq_consume(&c->out, &c->set->cache, bytes);
    note_sent(c, bytes);
}

/* Is to follow whatever may have made the queue shorter. */
static void look_at_mark(conn *c)
{
    if (!c->above_high || c->out.bytes > c->limits->send_low) return;
    c->above_high = false;
    c->drain_due = true;
}

/* A queue that has become shorter may be news to somebody. */
static bool is_sending_news(const conn *c)
{
    return c->drain_due || c->waits != NULL;
}

static void send_queue(conn *c)
{
    io_buf bufs[IO_BUFS_MAX];
    size_t sent;
    uint32_t count = sendq_view(&c->out, bufs);
    io_status status = io_send_now(c->set->port, c->socket, bufs, count, &sent);
    if (status == IO_OK) {
        take_sent(c, sent);
        look_at_mark(c);
        if (is_sending_news(c)) conn_mark_dirty(c);
        if (c->out.bytes == 0) return;
        count = sendq_view(&c->out, bufs);
    }
    if (status == IO_OK || status == IO_AGAIN) status = io_send(c->set->port, &c->send_op, c->socket, bufs, count);
    if (status != IO_OK) conn_break(c, status);
    else conn_arm_write(c);
}

/* A small answer waits for those of the packets that follow: handlers run back to back, and then sends. That is 0.95 of the
 * processor time on epoll (docs/performance.md, where the instructions go), for which caches that keep each one's code are the likely cause. */
static bool may_wait(const conn *c)
{
    return c->set->sends_late && can_send(c) && !c->above_high && c->out.bytes <= SEND_TOGETHER_MAX;
}

static void send_later(conn *c)
{
    conn_set *set = c->set;
    assert(c->send_op.kind == IO_IDLE);
    if (set->unsent_count == CONN_UNSENT_MAX) conn_send_unsent(set);
    set->unsent[set->unsent_count++] = c;
}

void conn_send_unsent(conn_set *set)
{
    for (uint32_t i = 0; i < set->unsent_count; i++) {
        conn *c = set->unsent[i]; /* or who has its slot by now */
        bool may_send = c->state == CONN_OPEN || c->state == CONN_DRAINING;
        if (c->out.bytes > 0 && c->send_op.kind == IO_IDLE && may_send) send_queue(c);
    }
    set->unsent_count = 0;
}

/* Without a detour over settling, where nothing else is to be settled. */
static io_status send_small(conn *c, const void *data, size_t len)
{
    io_status status = queue(c, data, len);
    if (status != IO_OK || c->dirty) return status;
    if (may_wait(c)) send_later(c);
    else conn_mark_dirty(c);
    return IO_OK;
}

io_status conn_send_last(conn *c, const void *data, size_t len)
{
    size_t sent = 0;
    if (can_send(c) && len > 0 && c->out.bytes == 0 && c->send_op.kind == IO_IDLE) {
        if (c->set->sends_late && len <= SEND_TOGETHER_MAX) return send_small(c, data, len);
        io_buf buf = {data, len};
        io_status status = io_send_now(c->set->port, c->socket, &buf, 1, &sent);
        if (status == IO_OK) {
            c->answered = true;
            note_sent(c, sent);
            if (sent == len) return IO_OK;
        } else if (status != IO_AGAIN) {
            conn_break(c, status);
            return status;
        }
    }
    return conn_send(c, (const char *)data + sent, len - sent);
}

void conn_submit_send(conn *c)
{
    if (c->out.bytes > 0 && c->send_op.kind == IO_IDLE) {
        if (may_wait(c)) send_later(c);
        else send_queue(c);
    }
    /* With the peer's FIN already here, closing the socket says the same as a FIN of ours. */
    if (c->fin_wanted && !c->fin_sent && c->out.bytes == 0 && !(c->state == CONN_DRAINING && c->eof_seen)) {
        assert(c->send_op.kind == IO_IDLE);
        io_status status = io_shutdown(c->set->port, c->socket);
        c->fin_sent = true;
        c->progress_ns = c->set->now_ns;
        if (status != IO_OK) conn_break(c, status);
        else conn_arm(c);
    }
}

bool conn_on_send(conn *c, const io_packet *packet)
{
    if (packet->bytes > 0) take_sent(c, packet->bytes);
    if (packet->status != IO_OK) conn_break(c, packet->status);
    else look_at_mark(c);
    /* One that has emptied the queue of an open connection, which is what most do, leaves nothing. */
    return c->state != CONN_OPEN || c->out.bytes > 0 || c->fin_wanted || is_sending_news(c);
}
