/* gate.c - connections counted by address, in a hash table under a secret key, and a clock that runs ahead with each
 * connection that comes (the generic cell rate algorithm, ITU-T I.371 annex A: as good as a bucket of tokens, without the
 * bucket). */
#include "gate.h"

#include "id_map.h"
#include "mem.h"
#include "os.h"
#include "siphash.h"

#include <assert.h>
#include <stddef.h>

#define SECOND_NS INT64_C(1000000000)

struct gate {
    gate_limits limits;
    uint64_t key[2];
    int64_t ahead_ns; /* when the next one is due at the full rate */
    os_mutex *mutex;  /* guards counts */
    id_map *counts;   /* connections by place_of(), as numbers above 0 */
};

gate *gate_open(const gate_limits *limits)
{
    gate *g = mem_zalloc(sizeof(*g));
    if (g == NULL) return NULL;
    g->limits = *limits;
    os_random(g->key, sizeof(g->key));
    g->mutex = os_mutex_open();
    g->counts = id_map_open();
    if (g->mutex != NULL && g->counts != NULL) return g;
    gate_close(g);
    return NULL;
}

void gate_close(gate *g)
{
    if (g == NULL) return;
    if (g->mutex != NULL) os_mutex_close(g->mutex);
    id_map_close(g->counts);
    mem_free(g);
}

const gate_limits *gate_get_limits(const gate *g)
{
    return &g->limits;
}

/* Under which number a peer is counted; 0: nowhere. */
static uint64_t place_of(const gate *g, const net_addr *peer)
{
    bool loopback;
    uint64_t site = net_addr_site(peer, &loopback);
    if (g->limits.per_address == 0 || site == 0 || (loopback && g->limits.spare_loopback)) return 0;
    uint64_t place = siphash(g->key, &site, sizeof(site));
    return place == 0 ? 1 : place;
}

/* Writes the count of a place. False: out of memory, and nothing has changed. */
static bool set_count(gate *g, uint64_t place, uintptr_t count)
{
    id_map_remove(g->counts, place);
    return count == 0 || id_map_put(g->counts, place, (void *)count);
}

static bool count_in(gate *g, uint64_t place)
{
    os_mutex_lock(g->mutex);
    uintptr_t count = (uintptr_t)id_map_get(g->counts, place);
    bool in = count < g->limits.per_address && set_count(g, place, count + 1);
    os_mutex_unlock(g->mutex);
    return in;
}

gate_verdict gate_enter(gate *g, const net_addr *peer, int64_t now_ns)
{
    uint64_t place = place_of(g, peer);
    int64_t step_ns = g->limits.per_second > 0 ? SECOND_NS / (int64_t)g->limits.per_second : 0;
    if (g->ahead_ns < now_ns) g->ahead_ns = now_ns;
    if (g->ahead_ns + step_ns - now_ns > SECOND_NS) return GATE_LATER;
    if (place != 0 && !count_in(g, place)) return GATE_FULL;
    g->ahead_ns += step_ns;
    return GATE_IN;
}

void gate_leave(gate *g, const net_addr *peer)
{
    uint64_t place = place_of(g, peer);
    if (place == 0) return;
    os_mutex_lock(g->mutex);
    uintptr_t count = (uintptr_t)id_map_get(g->counts, place);
    assert(count > 0);
    (void)set_count(g, place, count - 1); /* what was there a moment ago has room */
    os_mutex_unlock(g->mutex);
}
