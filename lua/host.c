/* host.c - a Lua state per worker, from opening to closing. */
#include "host_internal.h"

#include "log.h"

#include <inttypes.h>
#include <stdlib.h>

/* The last thing Lua does before it aborts: an error outside of any protected call, so a bug of the host's. */
static int panic(lua_State *L)
{
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "(no text)";
    log_write(LOG_ERROR, "bug: an error of Lua's outside of a protected call: %s", text);
    log_close();
    abort();
}

static void free_host(host *h)
{
    host_budget_close(h);
    mem_heap_close(h->heap);
    for (char **uri = h->listen; uri != NULL && *uri != NULL; uri++) mem_free(*uri);
    mem_free(h->listen);
    mem_free(h->scratch);
    h->worker->app_state = NULL;
    mem_free(h);
}

/* Finalisers run under watch here. */
static void close_state(host *h)
{
    h->closing = true;
    host_slice_begin(h, HOST_CLEANUP, 0, h->L);
    lua_close(h->L);
    /* The hook, if any, went with the state. */
    atomic_fetch_add_explicit(&h->watch.sequence, 1, memory_order_release);
}

static bool open_state(host *h)
{
    h->heap = mem_heap_open();
    h->scratch = mem_alloc(HOST_DRAW_MAX);
    if (h->heap == NULL || h->scratch == NULL || !host_budget_open(h)) return false;
    host_reserve(h, false);
    host_set_soft_cap(h);
    h->L = lua_newstate(host_allocate, h);
    if (h->L == NULL) return false;
    lua_atpanic(h->L, panic);
    *(host **)lua_getextraspace(h->L) = h;
    return true;
}

static bool app_open(worker *w, void *context)
{
    const host_config *config = context;
    host *h = mem_zalloc(sizeof(*h));
    if (h == NULL) {
        log_write(LOG_ERROR, "worker %" PRIu32 ": cannot start: out of memory", w->id);
        return false;
    }
    h->worker = w;
    h->config = config;
    h->limits = config->limits;
    w->app_state = h;
    if (!open_state(h)) {
        log_write(LOG_ERROR, "worker %" PRIu32 ": cannot start Lua: out of memory or threads", w->id);
        free_host(h);
        return false;
    }
    atomic_store(&h->watch.budget_ns, config->load_budget_ns);
    bool ok = host_script_load(h) && host_call_load(h);
    atomic_store(&h->watch.budget_ns, config->callback_budget_ns);
    if (ok) return true;
    close_state(h);
    free_host(h);
    return false;
}

static uint32_t app_busy(worker *w)
{
    return ((const host *)w->app_state)->busy;
}

static void app_cut(worker *w)
{
    host *h = w->app_state;
    h->cut = true;
    host_kill_waiting(h);
}

static void app_close(worker *w)
{
    host *h = w->app_state;
    host_kill_waiting(h); /* what waits without a connection */
    host_call_unload(h);
    log_write(LOG_DEBUG,
              "worker %" PRIu32 ": %" PRIu64 " slices, %" PRIu64 " errors, %" PRIu64
              " over budget, %zu KiB of Lua at most",
              w->id, h->slices, h->errors, h->overruns, h->heap_peak >> 10);
    close_state(h);
    free_host(h);
}

static void app_accept(worker *w, io_socket socket, const net_addr *peer, const char *listener)
{
    host *h = w->app_state;
    conn_config config = {
        .events = &host_events,
        .limits = &h->limits,
        .listener = listener,
        .receive = h->receive,
        .half_open = h->half_open,
    };
    if (conn_open(&w->conns, socket, peer, &config) == NULL) {
        log_write(LOG_WARN, "%s: a connection was refused: out of memory", listener);
    }
}

const worker_app host_app = {
    .open = app_open,
    .busy = app_busy,
    .cut = app_cut,
    .close = app_close,
    .accept = app_accept,
};

const char *const *host_listen(const worker *w)
{
    return (const char *const *)((const host *)w->app_state)->listen;
}
