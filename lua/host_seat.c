/* host_seat.c - what a worker has: the seat, on which hosts follow one another. The worker_app of the Lua host. */
#include "host_internal.h"

#include "id_map.h"
#include "log.h"

#include <inttypes.h>

static void free_seat(host_seat *seat)
{
    host_budget_enter(NULL);
    seat->worker->app_state = NULL;
    id_map_close(seat->calls);
    mem_free(seat->scratch);
    mem_free(seat);
}

static bool app_open(worker *w, void *context)
{
    const host_config *config = context;
    host_seat *seat = mem_zalloc(sizeof(*seat));
    if (seat == NULL) {
        log_write(LOG_ERROR, "worker %" PRIu32 ": cannot start: out of memory", w->id);
        return false;
    }
    seat->worker = w;
    seat->config = config;
    w->app_state = seat;
    host_budget_enter(seat);
    seat->scratch = mem_alloc(HOST_DRAW_MAX);
    if (seat->scratch == NULL) log_write(LOG_ERROR, "worker %" PRIu32 ": cannot start: out of memory", w->id);
    else seat->current = host_open(seat, config->first);
    if (seat->current != NULL && host_load(seat->current)) {
        if (!config->check) host_timers_start(seat->current);
        return true;
    }
    if (seat->current != NULL) host_discard(seat->current);
    free_seat(seat);
    return false;
}

static uint32_t app_busy(worker *w)
{
    const host_seat *seat = w->app_state;
    uint32_t count = seat->current->busy;
    if (seat->fallback != NULL) count += seat->fallback->busy;
    for (const host *h = seat->lingering; h != NULL; h = h->next) count += h->busy;
    return count;
}

static void cut(host *h)
{
    h->cut = true;
    host_kill_waiting(h);
}

static void app_cut(worker *w)
{
    host_seat *seat = w->app_state;
    if (seat->fallback != NULL) cut(seat->fallback);
    for (host *h = seat->lingering; h != NULL; h = h->next) cut(h);
    cut(seat->current);
}

static void app_close(worker *w)
{
    host_seat *seat = w->app_state;
    timer_stop(&w->timers, &seat->sweep);
    while (seat->lingering != NULL) {
        host *h = seat->lingering;
        seat->lingering = h->next;
        host_close(h);
    }
    host_drop(w);
    if (seat->fallback != NULL) host_close(seat->fallback);
    seat->fallback = NULL;
    host_close(seat->current);
    timer_stop(&w->timers, &seat->sweep);
    free_seat(seat);
}

static void app_accept(worker *w, io_socket socket, const net_addr *peer, const char *listener)
{
    const host *h = ((const host_seat *)w->app_state)->current;
    conn_config config = {
        .events = &h->events,
        .limits = &h->limits,
        .listener = listener,
        .receive = h->receive,
        .half_open = h->half_open,
    };
    if (conn_open(&w->conns, socket, peer, &config) == NULL) {
        static log_cause cause;
        log_rarely(&cause, LOG_WARN, "a connection was refused: out of memory",
                   "%s: a connection was refused: out of memory", listener);
    }
}

const worker_app host_app = {
    .open = app_open,
    .busy = app_busy,
    .cut = app_cut,
    .close = app_close,
    .accept = app_accept,
    .take_udp = host_udp_take,
};
