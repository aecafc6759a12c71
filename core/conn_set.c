/* conn_set.c - the slots of a worker's connections: taken, found, walked, given back. */
#include "conn_internal.h"

#include "base.h"
#include "gate.h"
#include "id_map.h"
#include "mem.h"

#include <assert.h>

enum { SLAB_BYTES = 32 * 1024 }; /* a size that the allocator has, so that nothing is lost to rounding */

typedef struct conn_slab {
    struct conn_slab *next;
    conn conns[(SLAB_BYTES - sizeof(void *)) / sizeof(conn)];
} conn_slab;

static_assert(sizeof(conn_slab) <= SLAB_BYTES, "a slab is a block of that size");

size_t conn_bytes(void)
{
    return sizeof(conn);
}

void conn_set_open(conn_set *set, io_port *port, timers *deadlines, uint64_t first_id, uint64_t ids_step)
{
    assert(first_id > 0 && ids_step > 0);
    *set = (conn_set){.port = port, .timers = deadlines, .ids = first_id - ids_step, .ids_step = ids_step};
    set->now_ns = io_port_now(port);
    set->drain_ns = INT64_C(10000000000);
    set->sends_late = io_port_sends_late(port);
}

void conn_set_step(conn_set *set, uint64_t ids_step)
{
    assert(set->opened == 0 && ids_step > 0);
    set->ids += set->ids_step - ids_step;
    set->ids_step = ids_step;
}

static void forget_ids(conn_set *set)
{
    id_map_close(set->by_id);
    set->by_id = NULL;
}

void conn_set_close(conn_set *set)
{
    forget_ids(set);
    assert(set->count == 0 && set->live == NULL);
    while (set->slabs != NULL) {
        conn_slab *slab = set->slabs;
        set->slabs = slab->next;
        mem_free(slab);
    }
    sendq_cache_close(&set->cache);
    set->free = NULL; /* the counters stay, for the last line in the log */
}

void conn_walk_begin(conn_set *set)
{
    set->walk = set->live; /* new ones are put in front */
}

conn *conn_walk_next(conn_set *set)
{
    conn *c = set->walk;
    if (c != NULL) set->walk = c->live_next;
    return c;
}

static bool add_slab(conn_set *set)
{
    conn_slab *slab = mem_zalloc(sizeof(*slab));
    if (slab == NULL) return false;
    slab->next = set->slabs;
    set->slabs = slab;
    for (size_t i = array_count(slab->conns); i-- > 0;) {
        slab->conns[i].live_next = set->free;
        set->free = &slab->conns[i];
    }
    return true;
}

conn *conn_find(conn_set *set, uint64_t id)
{
    if (set->by_id == NULL) {
        set->by_id = id_map_open();
        for (conn *c = set->live; set->by_id != NULL && c != NULL; c = c->live_next) {
            if (!id_map_put(set->by_id, c->id, c)) forget_ids(set);
        }
    }
    if (set->by_id != NULL) return id_map_get(set->by_id, id);
    conn *c = set->live; /* no memory for it now */
    while (c != NULL && c->id != id) c = c->live_next;
    return c;
}

static void give_id(conn *c)
{
    conn_set *set = c->set;
    set->ids += set->ids_step;
    c->id = set->ids;
    if (set->by_id != NULL && !id_map_put(set->by_id, c->id, c)) forget_ids(set);
}

void conn_renew_id(conn *c)
{
    if (c->set->by_id != NULL) id_map_remove(c->set->by_id, c->id);
    give_id(c);
}

conn *conn_slot_take(conn_set *set)
{
    if (set->free == NULL && !add_slab(set)) return NULL;
    conn *c = set->free;
    set->free = c->live_next;
    /* A slot can be given back while it is still on the dirty list; its place there serves the next connection. */
    conn *dirty_next = c->dirty_next;
    bool dirty = c->dirty;
    *c = (conn){.set = set, .dirty_next = dirty_next, .dirty = dirty, .socket = IO_SOCKET_NONE, .answered = true};
    c->live_next = set->live;
    if (set->live != NULL) set->live->live_prev = c;
    set->live = c;
    set->count++;
    set->opened++;
    give_id(c);
    c->opened_ns = c->active_ns = c->progress_ns = set->now_ns;
    return c;
}

void conn_slot_give(conn *c)
{
    conn_set *set = c->set;
    assert(c->recv_op.kind == IO_IDLE && c->send_op.kind == IO_IDLE && c->socket == IO_SOCKET_NONE);
    assert(!timer_running(&c->deadline) && c->out.bytes == 0 && c->buffer == NULL && c->waits == NULL);
    if (c->own_limits) mem_free((void *)(uintptr_t)c->limits);
    mem_free(c->stash);
    if (set->walk == c) set->walk = c->live_next;
    if (c->live_prev != NULL) c->live_prev->live_next = c->live_next;
    else set->live = c->live_next;
    if (c->live_next != NULL) c->live_next->live_prev = c->live_prev;
    c->state = CONN_FREE;
    if (set->by_id != NULL) id_map_remove(set->by_id, c->id);
    c->id = 0;
    c->live_next = set->free;
    set->free = c;
    set->count--;
    set->closed++;
    if (set->gate != NULL && !c->outbound) gate_leave(set->gate, &c->peer);
}
