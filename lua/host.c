/* host.c - one Lua state: one generation on one worker, from opening to closing. */
#include "host_internal.h"

#include "log.h"

#include <inttypes.h>
#include <stdlib.h>

/* The last thing Lua does before it aborts: an error outside of any protected call, so a bug of the host's. */
static int panic(lua_State *L)
{
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "(no text)";
    log_write(LOG_ERROR, "bug: an error of Lua's outside of a protected call: %s", text);
    (void)log_close();
    abort();
}

static void free_host(host *h)
{
    host_budget_close(h);
    host_line_close(h);
    host_topics_close(h);
    host_outbox_close(h);
    mem_heap_close(h->heap);
    generation_release(h->generation);
    mem_free(h);
}

static bool open_state(host *h)
{
    h->heap = mem_heap_open();
    if (h->heap == NULL || !host_budget_open(h)) return false;
    host_reserve(h, false);
    host_collect_begin(h);
    h->L = lua_newstate(host_allocate, h);
    if (h->L == NULL) return false;
    lua_atpanic(h->L, panic);
    *(host **)lua_getextraspace(h->L) = h;
    return true;
}

host *host_open(host_seat *seat, generation *g)
{
    host *h = mem_zalloc(sizeof(*h));
    if (h != NULL) {
        h->seat = seat;
        h->worker = seat->worker;
        h->config = seat->config;
        h->generation = g;
        generation_retain(g);
        h->migrate_ref = h->lasting_ref = LUA_NOREF;
        h->events = host_events;
        h->limits = seat->config->limits;
        if (host_line_open(h) && open_state(h)) return h;
        free_host(h);
    }
    log_write(LOG_ERROR, "worker %" PRIu32 ": cannot start Lua: out of memory or threads", seat->worker->id);
    return NULL;
}

bool host_load(host *h)
{
    atomic_store(&h->watch.budget_ns, h->config->load_budget_ns);
    h->loading = true;
    bool ok = host_script_load(h) && host_call_load(h, HOST_ON_LOAD) && host_call_load(h, HOST_ON_CHECK);
    host_collect_tend(h);
    h->loading = false;
    atomic_store(&h->watch.budget_ns, h->config->callback_budget_ns);
    return ok;
}

/* Finalisers run under watch here. */
void host_discard(host *h)
{
    h->closing = true;
    host_line_close(
        h); /* what on_unload lined up would run while the state is being closed and others have their turns */
    host_slice_begin(h, HOST_CLEANUP, 0, h->L);
    lua_close(h->L);
    /* The hook, if any, went with the state. */
    atomic_fetch_add_explicit(&h->watch.sequence, 1, memory_order_release);
    free_host(h);
}

void host_close(host *h)
{
    host_kill_waiting(h);
    host_call_unload(h);
    log_write(LOG_DEBUG,
              "worker %" PRIu32 ", generation %" PRIu64 ": slices: %" PRIu64 ", errors: %" PRIu64
              ", over budget: %" PRIu64 ", %zu KiB of Lua at most",
              h->worker->id, h->generation->number, h->slices, h->errors, h->overruns, h->heap_peak >> 10);
    host_discard(h);
}
