/* conn_input.c - what comes from the peer: receiving, what is kept, who waits for it. */
#include "conn_internal.h"

#include "mem.h"
#include "stash.h"

#include <assert.h>
#include <string.h>

/* ---- Receiving ---- */

void conn_submit_receive(conn *c)
{
    io_port *port = c->set->port;
    io_status status;
    bool posted = c->receive == CONN_POSTED && c->state == CONN_OPEN;
    if (posted && c->buffer == NULL) c->buffer = mem_alloc(c->limits->recv_bytes);
    if (!posted && c->buffer != NULL) {
        mem_free(c->buffer);
        c->buffer = NULL;
    }
    if (posted && c->buffer != NULL) {
        status = io_recv_into(port, &c->recv_op, c->socket, c->buffer, c->limits->recv_bytes);
    } else if (c->receive == CONN_READY && c->state == CONN_OPEN && !c->reading) {
        status = io_readable(port, &c->recv_op, c->socket);
    } else {
        status = io_recv(port, &c->recv_op, c->socket);
    }
    if (status != IO_OK) conn_break(c, status);
}

/* Keeps bytes for later, behind those that are kept already. */
static void keep(conn *c, const uint8_t *data, size_t len)
{
    if (!stash_add(&c->stash, data, len)) conn_abort(c, CONN_LIMIT, IO_LIMIT);
}

/* Hands bytes to the owner: a loan, or, when given is not NULL, what was kept. */
void conn_deliver(conn *c, const uint8_t *data, size_t len, stash *given)
{
    conn_set *set = c->set;
    set->given_to = c;
    set->offered = 0;
    set->given = data;
    set->given_len = len;
    set->given_stash = given;
    c->messages++;
    c->events->on_data(c, data, len);
    mem_free(set->given_stash); /* conn_keep() has taken it out, or nothing is left of it */
    set->given_to = NULL;
    set->given = NULL;
    set->given_stash = NULL;
}

void conn_keep(conn *c, size_t len, size_t need)
{
    conn_set *set = c->set;
    assert(set->given != NULL && c->stash == NULL && len > 0 && len <= set->given_len && (need == 0 || need > len));
    if (c->state != CONN_OPEN) return; /* input is dropped */
    if (set->given_stash == NULL) {
        keep(c, set->given + set->given_len - len, len);
    } else {
        if (need > 0) stash_trim(&set->given_stash, len);
        else stash_take(&set->given_stash, set->given_len - len);
        c->stash = set->given_stash;
        set->given_stash = NULL;
    }
    if (c->stash == NULL) return;
    c->stash->need = need;
    c->stash->seen = need > 0 ? len : 0;
    if (need == 0) conn_mark_dirty(c);
}

size_t conn_seen(const conn *c)
{
    return c->set->given_stash != NULL ? c->set->given_stash->seen : 0;
}

size_t conn_truncated(const conn *c)
{
    return c->eof_seen && c->stash != NULL ? stash_len(c->stash) : 0;
}

void conn_rescan(conn *c)
{
    if (c->stash == NULL) return;
    c->stash->need = c->stash->seen = 0;
    conn_mark_dirty(c);
}

size_t conn_input(const conn *c, const uint8_t **data)
{
    const conn_set *set = c->set;
    size_t offered = conn_offered(c);
    if (offered > 0) {
        *data = set->given + set->given_len - offered;
        return offered;
    }
    *data = c->stash == NULL ? NULL : stash_data(c->stash);
    return c->stash == NULL ? 0 : stash_len(c->stash);
}

void conn_consume(conn *c, size_t len)
{
    if (len == 0) return;
    c->answered = false;
    if (c->undrawn) { /* as by conn_draw(): what is left is asked for again */
        c->undrawn = false;
        conn_mark_dirty(c);
    }
    if (conn_offered(c) > 0) c->set->offered -= len;
    else stash_take(&c->stash, len);
}

io_status conn_unread(conn *c, const void *data, size_t len)
{
    const uint8_t *rest;
    size_t offered = conn_offered(c);
    if (c->state != CONN_OPEN) return IO_CLOSED;
    if (len == 0) return IO_OK;
    bool was_due = offered > 0 || conn_has_due(c);
    if (offered > 0) { /* these are behind them, and cannot stay where they are */
        conn_input(c, &rest);
        if (!stash_add(&c->stash, rest, offered)) return IO_LIMIT;
        c->set->offered = 0;
    }
    if (!stash_unshift(&c->stash, data, len)) return IO_LIMIT;
    c->stash->need = was_due ? 0 : stash_len(c->stash) + 1;
    c->news = true;
    conn_mark_dirty(c);
    return IO_OK;
}

/* ---- Waiting ---- */

static bool wants_input(const conn_wait *wait)
{
    return wait->want == CONN_WANT_INPUT || wait->want == CONN_WANT_RELAY;
}

void conn_wait_begin(conn *c, conn_wait *wait, conn_want want)
{
    conn_wait **place = &c->waits;
    while (*place != NULL) place = &(*place)->next;
    *place = wait;
    wait->next = NULL;
    wait->want = (uint8_t)want;
    if (wants_input(wait)) {
        assert(!c->reading && !c->eof_seen && c->state == CONN_OPEN);
        c->reading = true;
        c->undrawn = false; /* who waits for bytes draws them */
        c->relaying = want == CONN_WANT_RELAY;
    }
    conn_mark_dirty(c);
}

void conn_wait_end(conn *c, conn_wait *wait)
{
    conn_wait **place = &c->waits;
    while (*place != wait) place = &(*place)->next;
    *place = wait->next;
    if (wants_input(wait)) c->reading = c->relaying = false;
    conn_mark_dirty(c);
}

static bool is_over(const conn *c, const conn_wait *wait)
{
    switch ((conn_want)wait->want) {
    case CONN_WANT_INPUT:
    case CONN_WANT_RELAY:
        return c->news || c->eof_seen || c->state != CONN_OPEN;
    case CONN_WANT_LOW:
        return !c->above_high || c->state != CONN_OPEN;
    case CONN_WANT_END:
        return c->state != CONN_OPEN;
    case CONN_WANT_EMPTY:
    default:
        return c->out.bytes == 0 || (c->state != CONN_OPEN && c->state != CONN_DRAINING);
    }
}

/* Wakes those whose waiting is over. Each is off the list before it is called, and may change the list. */
void conn_wake(conn *c)
{
    conn_wait *wait = c->waits;
    while (wait != NULL) {
        if (!is_over(c, wait)) {
            wait = wait->next;
            continue;
        }
        conn_wait_end(c, wait);
        if (wants_input(wait)) c->news = false;
        wait->wake(wait, c);
        wait = c->waits;
    }
}

/* Bytes have come for who waits for them. */
static void take_in(conn *c, const uint8_t *data, size_t len)
{
    conn_set *set = c->set;
    c->messages++;
    c->news = true;
    if (c->stash != NULL) {
        keep(c, data, len);
        conn_wake(c);
        return;
    }
    set->given_to = c;
    set->given = data;
    set->given_len = set->offered = len;
    conn_wake(c);
    size_t rest = set->offered;
    set->given_to = NULL;
    set->given = NULL;
    if (rest > 0 && c->state == CONN_OPEN) keep(c, data + len - rest, rest);
}

void conn_on_recv(conn *c, const io_packet *packet)
{
    if (c->state != CONN_OPEN && c->state != CONN_DRAINING) return;
    if (packet->status != IO_OK) {
        conn_break(c, packet->status);
        return;
    }
    if (packet->kind == IO_READABLE) {
        /* Level-triggered: a held or paused connection submits it again later, and it completes at once. */
        if (c->state != CONN_OPEN || c->holds > 0 || c->paused || c->reading || c->receive != CONN_READY) return;
        c->undrawn = true;
        c->events->on_readable(c);
        return;
    }
    if (packet->bytes == 0) {
        c->eof_seen = true;
        return;
    }
    c->received += packet->bytes;
    c->active_ns = c->set->now_ns;
    if (c->state == CONN_DRAINING) return;
    if (c->reading) take_in(c, packet->data, packet->bytes);
    else if (c->holds > 0 || c->paused || c->stash != NULL || c->receive == CONN_READY || c->turn_due)
        keep(c, packet->data, packet->bytes); /* tell() goes on */
    else conn_deliver(c, packet->data, packet->bytes, NULL);
}

io_status conn_draw(conn *c, void *buffer, size_t len, size_t *bytes)
{
    *bytes = 0;
    if (c->state != CONN_OPEN) return IO_CLOSED;
    if (len == 0) return IO_AGAIN; /* 0 bytes would read as FIN */
    c->undrawn = false;
    conn_mark_dirty(c);
    const uint8_t *data;
    size_t have = conn_input(c, &data); /* also what on_data has and has offered: it comes before what the socket has */
    if (have > 0) {
        *bytes = len < have ? len : have;
        memcpy(buffer, data, *bytes);
        conn_consume(c, *bytes);
        c->messages++;
        return IO_OK;
    }
    if (c->eof_seen) return IO_OK;
    if (c->recv_op.kind != IO_IDLE) return IO_AGAIN; /* what comes goes to it first */
    io_status status = io_draw(c->set->port, c->socket, buffer, len, bytes);
    if (status == IO_OK && *bytes == 0) {
        c->eof_seen = true;
    } else if (status == IO_OK) {
        c->received += *bytes;
        c->active_ns = c->set->now_ns;
        c->messages++;
    } else if (status != IO_AGAIN) {
        conn_break(c, status);
    }
    return status;
}
