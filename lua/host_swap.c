/* host_swap.c - one generation after the other on one worker: prepared beside the one in force, put in its place, gone back
 * from, let go. lua/reload.c asks for these steps, on all workers alike; each is a few stores, but for preparing.
 *
 *   candidate --commit--> current --commit of the next--> fallback --confirm, or a further commit--> lingering --done--> closed
 *                         current --rollback------------------------------------------------------> lingering
 *
 * A host lingers while it has connections that could not be moved yet (their handlers wait), tasks that wait, or outbound
 * connections, at most until the reload's deadline.
 */
#include "host_internal.h"

#include "log.h"
#include "os.h"
#include "server.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

enum {
    GIVE_WAY_INSTRUCTIONS = 10000, /* of a script that loads, between two looks at the clock */
    LINGERING_MAX = 8,             /* one more, and the oldest is cut off */
    MOVES_PER_LOOK = 16
};
#define GIVE_WAY_NS INT64_C(1000000) /* a script that loads runs for so long at a time */
#define SWEEP_NS INT64_C(500000)     /* … and moving in the background */
#define SWEEP_PAUSE_NS INT64_C(1000000)
#define TOLD_NS INT64_C(1000000000) /* a host that lingers for longer is logged */

/* ---- Giving way ---- */

void host_give_way(host *h)
{
    worker *w = h->worker;
    if (os_monotonic_ns() < h->turn_due_ns) return;
    atomic_store_explicit(&h->watch.away, true, memory_order_relaxed);
    int64_t before_ns = os_thread_cpu_ns(w->thread);
    worker_turn(w);
    atomic_fetch_add_explicit(&h->watch.away_ns, os_thread_cpu_ns(w->thread) - before_ns, memory_order_relaxed);
    atomic_store_explicit(&h->watch.away, false, memory_order_relaxed);
    h->turn_due_ns = os_monotonic_ns() + GIVE_WAY_NS;
}

static const char stopping[] = "the server is stopping";

/* A count hook. raises */
static void hook(lua_State *L, lua_Debug *where)
{
    host *h = host_of(L);
    (void)where;
    if (!h->gives_way) { /* a coroutine made at load time inherited it */
        lua_sethook(L, NULL, 0, 0);
        return;
    }
    if (h->loading && server_stopping(h->worker->server)) {
        generation_refuse(h->generation, stopping,
                          sizeof(stopping) - 1); /* first: it is no error of the script's to log */
        luaL_error(L, "%s", stopping);
    }
    if (host_collect_is_due(h)) host_collect_choose(h); /* who fills his heap while he loads shall not hold up others */
    host_give_way(h);
}

void host_set_hook(const host *h, lua_State *L)
{
    if (h->gives_way) lua_sethook(L, hook, LUA_MASKCOUNT, GIVE_WAY_INSTRUCTIONS);
    else lua_sethook(L, NULL, 0, 0);
}

static void give_way_from_now_on(host *h)
{
    h->gives_way = true;
    h->turn_due_ns = os_monotonic_ns() + GIVE_WAY_NS;
    lua_setallocf(h->L, host_allocate_giving_way, h);
}

/* ---- Lingering hosts ---- */

static uint32_t count_waiting(const host *h)
{
    uint32_t count = 0;
    for (const host_task *t = h->waiting; t != NULL; t = t->next) count++;
    return count;
}

static uint32_t count_outbound(const host *h)
{
    uint32_t count = 0;
    for (const conn *c = h->worker->conns.live; c != NULL; c = c->live_next) {
        if (c->outbound && host_of_conn(c) == h) count++;
    }
    return count;
}

char *host_holder(char *text, size_t size, const host_row *row)
{
    snprintf(text, size, "%" PRIu32 " suspended handler%s, %" PRIu32 " outbound connection%s", row->waiting,
             row->waiting == 1 ? "" : "s", row->outbound, row->outbound == 1 ? "" : "s");
    return text;
}

static void tell_holder(host *h)
{
    char text[96];
    host_row row = {.waiting = count_waiting(h), .outbound = count_outbound(h)};
    h->told = true;
    log_write(LOG_INFO,
              "worker %" PRIu32 ": generation %" PRIu64
              " is still alive: %s; ended at the latest %g s after the reload",
              h->worker->id, h->generation->number, host_holder(text, sizeof(text), &row),
              (double)h->config->reload_deadline_ns / 1e9);
}

/* Ends what waits there; connections move on. */
static void cut(host *h)
{
    h->cut = true;
    host_report_waiting(h);
    host_kill_waiting(h);
    for (conn *c = h->worker->conns.live; c != NULL; c = c->live_next) {
        if (c->outbound && host_of_conn(c) == h) conn_close(c, CONN_SHUTDOWN);
    }
}

/* Closes it, and gives way meanwhile: there may be much to close. */
static void end(host *h)
{
    host_seat *seat = h->seat;
    seat->ending = true;
    give_way_from_now_on(h);
    host_close(h);
    seat->ending = false;
}

static void take_out(host_seat *seat, host *h)
{
    host **link = &seat->lingering;
    while (*link != h) link = &(*link)->next;
    *link = h->next;
}

/* Returns when to look again; INT64_MAX: when something happens. */
static int64_t look_after_lingering(host_seat *seat, int64_t now_ns)
{
    host *next;
    int64_t due_ns = INT64_MAX;
    for (host *h = seat->lingering; h != NULL; h = next) {
        int64_t deadline_ns = h->retired_ns + seat->config->reload_deadline_ns;
        int64_t look_ns = INT64_MAX;
        next = h->next;
        if (now_ns >= deadline_ns && !h->cut) cut(h);
        if (!seat->sweeping && h->conns == 0 && h->waiting == NULL && h->spawned == 0) {
            take_out(seat, h);
            end(h);
            next = seat->lingering; /* much may have happened meanwhile */
            due_ns = INT64_MAX;
            continue;
        }
        if (now_ns >= h->retired_ns + TOLD_NS && !h->told) tell_holder(h);
        if (!h->cut) {
            look_ns = deadline_ns;
            if (!h->told && h->retired_ns + TOLD_NS < deadline_ns) look_ns = h->retired_ns + TOLD_NS;
        }
        if (look_ns < due_ns) due_ns = look_ns;
    }
    return due_ns;
}

static void sweep(timer *t, int64_t now_ns)
{
    host_seat *seat = container_of(t, host_seat, sweep);
    conn_set *conns = &seat->worker->conns;
    int64_t end_ns = os_monotonic_ns() + SWEEP_NS;
    for (uint32_t moves = 1; seat->sweeping; moves++) {
        conn *c = conn_walk_next(conns);
        if (c == NULL) seat->sweeping = false;
        else if (host_of_conn(c) != seat->current && host_is_movable(c)) host_move(c);
        if (moves % MOVES_PER_LOOK == 0 && os_monotonic_ns() >= end_ns) break;
    }
    int64_t due_ns = seat->ending ? now_ns + SWEEP_PAUSE_NS : look_after_lingering(seat, now_ns);
    if (seat->sweeping) due_ns = now_ns + SWEEP_PAUSE_NS;
    if (due_ns != INT64_MAX) timer_start(&seat->worker->timers, t, due_ns);
}

static void look_soon(host_seat *seat)
{
    seat->sweep.fire = sweep;
    timer_start(&seat->worker->timers, &seat->sweep, io_port_now(seat->worker->port));
}

void host_loosen(host *h)
{
    if (h->conns == 0 && h->waiting == NULL && h->spawned == 0 && h != h->seat->current && h != h->seat->fallback)
        look_soon(h->seat);
}

static void begin_sweep(host_seat *seat)
{
    conn_walk_begin(&seat->worker->conns);
    seat->sweeping = true;
    look_soon(seat);
}

static void retire(host *h)
{
    host_seat *seat = h->seat;
    host **link = &seat->lingering;
    uint32_t count = 1;
    host_pool_close(h);
    for (; *link != NULL; link = &(*link)->next) count++;
    *link = h;
    h->next = NULL;
    h->retired_ns = io_port_now(h->worker->port);
    if (count > LINGERING_MAX) {
        log_write(LOG_WARN, "worker %" PRIu32 ": more than %d old generations linger: the oldest is cut off",
                  h->worker->id, LINGERING_MAX);
        for (host *oldest = seat->lingering; oldest != NULL; oldest = oldest->next) {
            if (oldest->cut) continue;
            cut(oldest);
            break;
        }
    }
    look_soon(seat);
}

/* ---- The steps ---- */

/* What is open and served by a host that is not in force. */
static uint32_t count_to_move(const host_seat *seat)
{
    uint32_t count = 0;
    if (seat->fallback != NULL) count += seat->fallback->conns;
    for (const host *h = seat->lingering; h != NULL; h = h->next) count += h->conns;
    return count;
}

bool host_prepare(worker *w, generation *g)
{
    static const char no_memory[] = "cannot start Lua: out of memory or threads";
    host_seat *seat = w->app_state;
    assert(seat->candidate == NULL);
    if (server_stopping(w->server)) {
        generation_refuse(g, stopping, sizeof(stopping) - 1);
        return false;
    }
    host *h = host_open(seat, g);
    if (h == NULL) {
        generation_refuse(g, no_memory, sizeof(no_memory) - 1);
        return false;
    }
    seat->candidate = h;
    h->holds_back = true;
    give_way_from_now_on(h);
    host_set_hook(h, h->L);
    bool ok = host_load(h);
    h->gives_way = false;
    host_set_hook(h, h->L);
    lua_setallocf(h->L, host_allocate, h);
    if (ok && host_try_states(h)) return true;
    host_drop(w);
    return false;
}

void host_drop(worker *w)
{
    host_seat *seat = w->app_state;
    host *h = seat->candidate;
    seat->candidate = NULL;
    if (h == NULL) return;
    if (!seat->worker->exiting) give_way_from_now_on(h);
    host_discard(h);
}

uint32_t host_commit(worker *w)
{
    host_seat *seat = w->app_state;
    host_confirm(w); /* an earlier probation ends */
    host *before = seat->current;
    host *h = seat->candidate;
    host_timers_stop(before);
    host_timers_take_over(h, before);
    seat->fallback = before;
    seat->current = h;
    seat->candidate = NULL;
    seat->frozen = false;
    seat->undone = 0;
    seat->committed_id = w->conns.opened > 0 ? w->conns.ids : 0; /* before the first one ids may be "below" 0 */
    host_timers_start(h);
    begin_sweep(seat);
    return count_to_move(seat);
}

void host_announce(worker *w)
{
    const host_seat *seat = w->app_state;
    host *h = seat->current;
    h->holds_back = false;
    host_outbox_send(h);
    if (h->outbox.stop) host_shut_down(h, h->outbox.code);
}

void host_confirm(worker *w)
{
    host_seat *seat = w->app_state;
    host *h = seat->fallback;
    seat->fallback = NULL;
    if (seat->frozen) { /* one could not be moved, and too late for going back: it is closed now */
        seat->frozen = false;
        begin_sweep(seat);
    }
    if (h != NULL) retire(h);
}

uint32_t host_rollback(worker *w)
{
    host_seat *seat = w->app_state;
    host *failed = seat->current;
    assert(seat->fallback != NULL);
    host_timers_stop(failed);
    seat->current = seat->fallback;
    seat->fallback = NULL;
    seat->frozen = false;
    seat->undone = failed->generation->number;
    retire(failed);
    host_timers_start(seat->current);
    begin_sweep(seat);
    return count_to_move(seat);
}

/* ---- What is there ---- */

static void fill_row(host_row *row, const host *h, const char *state)
{
    row->generation = h->generation->number;
    row->loaded_ns = h->generation->loaded_ns;
    row->errors = atomic_load_explicit(&h->generation->errors, memory_order_relaxed);
    generation_hash(h->generation, row->hash);
    row->state = state;
    row->connections = h->conns;
    row->memory_bytes = h->heap_bytes;
    row->waiting = count_waiting(h);
    row->outbound = count_outbound(h);
}

size_t host_rows(const worker *w, host_row *rows, size_t max)
{
    const host_seat *seat = w->app_state;
    size_t count = 0;
    if (count < max) fill_row(&rows[count++], seat->current, "current");
    if (count < max && seat->fallback != NULL) fill_row(&rows[count++], seat->fallback, "fallback");
    for (const host *h = seat->lingering; count < max && h != NULL; h = h->next) {
        fill_row(&rows[count++], h, "lingering");
    }
    return count;
}
