/* host_collect.c - when and how the garbage of a Lua state is collected.
 *
 * A small heap is collected by generations: what messages leave behind is found without a look at the rest. But each time the old
 * generation has doubled Lua collects all of it in one step, during which everybody waits. So a big heap is collected in
 * increments, whose longest step is a look at the script's largest table (docs/performance.md has both).
 *
 * Increments must come to their end before the memory cap: from there on each lack of memory collects everything at once. So the
 * less room is left, the sooner a collection begins, and the more it does for each byte that is allocated.
 */
#include "host_internal.h"

/* Sizes of a heap, garbage and all. They are apart so that it does not go back and forth: each way is a look at all of it. */
enum { BIG_BYTES = 1 << 20, SMALL_BYTES = BIG_BYTES / 2 };

enum {
    /* Percent of what a collection has left: when the heap has grown to so much, the next one begins. Lua's default. */
    PAUSE_MAX = 200,
    /* Of work for each byte that is allocated. By Lua's count, for tables of one entry, a collection ends with the least when the
     * heap has grown by about a seventh; with the most, Lua's default, by less than a hundredth. */
    MULTIPLIER_MIN = 4,
    MULTIPLIER_MAX = 100
};

/* Near the cap Lua collects by itself when it is refused memory, but not to let a stack grow (luaD_reallocstack): there
 * a handler that asks for little would fail for the garbage of another. So the host collects ahead of that, more rarely
 * the fuller the heap stays: each time when half of what was free then has been used. */
static void set_soft_cap(host *h)
{
    size_t cap = h->config->lua_memory;
    size_t least = cap - cap / 8;
    size_t half = h->heap_bytes < cap ? h->heap_bytes + (cap - h->heap_bytes) / 2 : SIZE_MAX;
    h->heap_soft = half > least ? half : least;
}

/* A collection begins when three quarters of the room are used, and ends before the last one is. */
static void set_increments(const host *h)
{
    size_t bytes = h->heap_bytes;
    size_t room = h->heap_soft > bytes ? h->heap_soft - bytes : 0;
    size_t pause = 100 + (room / 4 * 3 < bytes ? room / 4 * 3 * 100 / bytes : PAUSE_MAX - 100);
    size_t multiplier = MULTIPLIER_MIN + (room > 0 ? 4 * bytes / room : MULTIPLIER_MAX);
    lua_gc(h->L, LUA_GCINC, (int)pause, (int)(multiplier < MULTIPLIER_MAX ? multiplier : MULTIPLIER_MAX), 0);
}

void host_collect_choose(host *h)
{
    enum { SHARE = 16 }; /* of the heap, by which it may change */
    size_t bytes = h->heap_bytes, low = 0, high = BIG_BYTES;
    bool was_incremental = h->incremental;
    h->incremental = bytes >= (was_incremental ? SMALL_BYTES : BIG_BYTES);
    if (h->incremental) {
        low = bytes - bytes / SHARE > SMALL_BYTES ? bytes - bytes / SHARE : SMALL_BYTES;
        high = bytes + bytes / SHARE;
    }
    if (high > h->heap_soft) high = h->heap_soft;
    h->heap_low = low;
    h->heap_span = high > low ? high - low : 0;
    if (h->own_collector) return;
    if (h->incremental) set_increments(h);
    else if (was_incremental) lua_gc(h->L, LUA_GCGEN, 0, 0);
}

/* Protected: a collection may run finalisers. */
static int tend(lua_State *L)
{
    host *h = lua_touserdata(L, 1);
    if (h->heap_bytes > h->heap_soft) {
        lua_gc(L, LUA_GCCOLLECT);
        set_soft_cap(h);
    }
    host_collect_choose(h);
    return 0;
}

void host_collect_tend(host *h)
{
    if (host_protect(h, tend, h, 0) != LUA_OK) lua_pop(h->L, 1);
}

void host_collect_all(host *h)
{
    h->heap_soft = 0;
    host_collect_tend(h);
}

void host_collect_begin(host *h)
{
    set_soft_cap(h);
    h->heap_span = BIG_BYTES;
}
