/* conn_internal.h - what the files of conn share. Nobody else includes it.
 *
 *   conn.c         the life of a connection: opening, settling, ending
 *   conn_input.c   what comes from the peer
 *   conn_output.c  what goes to it
 *   conn_set.c     slots
 */
#ifndef PORTICO_CONN_INTERNAL_H
#define PORTICO_CONN_INTERNAL_H

#include "conn.h"
#include "stash.h"

/* ---- conn_set.c ---- */
/* A slot with an id, counted; NULL: out of memory. */
conn *conn_slot_take(conn_set *set);
/* Nothing is pending, queued or kept. */
void conn_slot_give(conn *c);

/* It is to be settled. */
static inline void conn_mark_dirty(conn *c)
{
    if (c->dirty) return;
    conn_set *set = c->set;
    c->dirty = true;
    c->dirty_next = NULL;
    if (set->dirty_tail != NULL) set->dirty_tail->dirty_next = c;
    else set->dirty_head = c;
    set->dirty_tail = c;
}

/* ---- conn.c ---- */
/* The system says that the connection is broken. */
void conn_break(conn *c, io_status status);

/* Makes sure that the timer fires no later than what is due; the second, when only the send is new. */
void conn_arm(conn *c);
void conn_arm_write(conn *c);

/* ---- conn_output.c ---- */
/* Sends what is queued, at once or with what else this round brings, and FIN behind it. */
void conn_submit_send(conn *c);
/* A packet of kind IO_SEND. True: there is something to settle. */
bool conn_on_send(conn *c, const io_packet *packet);

/* ---- conn_input.c ---- */
/* Kept bytes that the owner is to see before any others. */
static inline bool conn_has_due(const conn *c)
{
    return c->stash != NULL && stash_len(c->stash) >= c->stash->need;
}

/* A receive is to be submitted. */
static inline bool conn_wants_receive(const conn *c)
{
    if (c->eof_seen || c->recv_op.kind != IO_IDLE) return false;
    if (c->state == CONN_DRAINING) return true; /* to see the peer's FIN; bytes are dropped */
    if (c->state != CONN_OPEN || !c->open_told) return false;
    if (c->reading) return c->relaying || !c->above_high;
    return !c->paused && c->holds == 0 && !c->above_high && !c->drain_due && !conn_has_due(c) && /* on_drain is first */
           !(c->receive == CONN_READY && c->undrawn);
}

/* A packet of kind IO_RECV or IO_READABLE. */
void conn_on_recv(conn *c, const io_packet *packet);
void conn_submit_receive(conn *c);
/* Hands bytes to the owner: a loan, or, when given is not NULL, what was kept. */
void conn_deliver(conn *c, const uint8_t *data, size_t len, stash *given);
/* Wakes those whose waiting is over. Each is off the list before it is called, and may change the list. */
void conn_wake(conn *c);

#endif
