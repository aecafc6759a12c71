/* server.c - order of starting and stopping. Listeners live on worker 0's port, on every system alike: it accepts and deals
 * sockets to the worker with the fewest connections. Stopping runs backwards: first the listeners, and only when nothing
 * more can be dealt, the workers. Each worker serves its port until all are done, so that a message never meets a closed one.
 */
#include "server.h"

#include "base.h"
#include "listener.h"
#include "log.h"
#include "mem.h"
#include "os.h"
#include "udp_listener.h"

#include <assert.h>

struct server {
    server_options options;
    worker *workers; /* options.workers of them */
    struct {
        listener *stream; /* one of the two */
        udp_listener *datagrams;
    } listeners[SERVER_LISTENERS_MAX];
    uint32_t listener_count;
    uint32_t stream_count;
    uint32_t streams_stopped; /* worker 0 */
    bool accepting;           /* worker 0: listeners are started */
    bool draining;            /* worker 0: the workers have been told to drain */
    bool cut_wanted;          /* worker 0: a second server_stop() */
    worker_message stop_message;
    worker_message now_message;
    resolver *resolver;
    os_mutex *mutex; /* guards the following */
    os_cond *changed;
    bool up;         /* all workers have opened: messages can be posted to them */
    uint32_t opened; /* workers that have reported */
    uint32_t idle;
    bool port_failed;
    bool app_failed;
    atomic_bool failed; /* a worker's port */
    atomic_bool ended;
    atomic_uint stops; /* calls of server_stop() */
};

/* ---- What workers and listeners report ---- */

static void on_opened(worker *w, bool port_ok, bool app_ok)
{
    server *s = w->server;
    os_mutex_lock(s->mutex);
    s->opened++;
    if (!port_ok) s->port_failed = true;
    else if (!app_ok) s->app_failed = true;
    os_cond_signal(s->changed);
    os_mutex_unlock(s->mutex);
}

static void on_idle(worker *w)
{
    server *s = w->server;
    os_mutex_lock(s->mutex);
    s->idle++;
    if (s->idle == s->options.workers) atomic_store(&s->ended, true);
    os_cond_signal(s->changed);
    os_mutex_unlock(s->mutex);
    if (atomic_load(&s->ended)) os_news_post(OS_NEWS_WAKE);
}

static void on_failed(worker *w, io_status status)
{
    server *s = w->server;
    log_write(LOG_ERROR, "worker %u: its completion port has failed (%s); the server ends", w->id,
              io_status_text(status));
    os_mutex_lock(s->mutex);
    atomic_store(&s->failed, true);
    atomic_store(&s->ended, true);
    os_cond_signal(s->changed);
    os_mutex_unlock(s->mutex);
    os_news_post(OS_NEWS_WAKE);
}

static const worker_events events_of_workers = {on_opened, on_idle, on_failed};

/* Deals a socket to the worker with the fewest connections. On worker 0's thread. */
static bool on_accept(void *context, listener *l, io_socket socket, const net_addr *peer)
{
    server *s = context;
    uint32_t total = 0, least = UINT32_MAX;
    worker *best = NULL;
    for (uint32_t i = 0; i < s->options.workers; i++) {
        uint32_t load = worker_load(&s->workers[i]);
        total += load;
        if (load < least) {
            least = load;
            best = &s->workers[i];
        }
    }
    if (s->options.max_connections > 0 && total >= s->options.max_connections) return false;
    if (best == &s->workers[0]) worker_take(best, socket, peer, listener_name(l));
    else worker_give(best, socket, peer, listener_name(l));
    return true;
}

/* On worker 0's thread. Workers that have all ended get no more messages: their ports may be closed. */
static void cut_all(server *s)
{
    os_mutex_lock(s->mutex);
    for (uint32_t i = 0; i < s->options.workers && !atomic_load(&s->ended); i++) {
        worker_post(&s->workers[i], &s->workers[i].cut_message);
    }
    os_mutex_unlock(s->mutex);
}

/* On worker 0's thread, when nothing more can be accepted. */
static void drain_all(server *s)
{
    for (uint32_t i = 0; i < s->options.workers; i++) worker_post(&s->workers[i], &s->workers[i].drain_message);
    s->draining = true;
    if (s->cut_wanted) cut_all(s);
}

static void on_stopped(void *context, listener *l)
{
    server *s = context;
    (void)l;
    if (++s->streams_stopped == s->stream_count) drain_all(s);
}

static const listener_events events_of_listeners = {on_accept, on_stopped};

/* ---- Messages to workers ---- */

/* The worker's own socket of each address for datagrams. */
static void take_udp(server *s, worker *w)
{
    for (uint32_t i = 0; i < s->listener_count; i++) {
        udp_listener *l = s->listeners[i].datagrams;
        io_socket socket = l == NULL ? IO_SOCKET_NONE : udp_listener_take(l, w->id);
        if (socket == IO_SOCKET_NONE) continue;
        w->app->take_udp(w, socket, udp_listener_name(l));
    }
}

static void run_start(worker *w, worker_message *message)
{
    server *s = w->server;
    (void)message;
    if (w->app->start != NULL) w->app->start(w);
    if (server_stopping(s)) return;
    take_udp(s, w);
    if (w->id != 0) return;
    s->accepting = s->stream_count > 0;
    for (uint32_t i = 0; i < s->listener_count; i++) {
        if (s->listeners[i].stream == NULL) continue;
        io_status status = listener_start(s->listeners[i].stream, w->port, &w->timers);
        if (status != IO_OK) on_failed(w, status);
    }
}

static void run_stop(worker *w, worker_message *message)
{
    server *s = w->server;
    (void)message;
    if (!s->accepting) drain_all(s);
    else {
        for (uint32_t i = 0; i < s->listener_count; i++) {
            if (s->listeners[i].stream != NULL) listener_stop(s->listeners[i].stream);
        }
    }
}

static void run_now(worker *w, worker_message *message)
{
    server *s = w->server;
    (void)message;
    s->cut_wanted = true;
    if (s->draining) cut_all(s);
}

static void run_drain(worker *w, worker_message *message)
{
    (void)message;
    worker_drain(w, w->server->options.drain_ns);
}

static void run_cut(worker *w, worker_message *message)
{
    (void)message;
    worker_cut(w);
}

/* ---- Opening ---- */

/* Starts worker i and waits for its report. False: it did not open. */
static bool open_worker(server *s, uint32_t i)
{
    worker *w = &s->workers[i];
    if (!worker_start(w, s->options.backend, &s->options.io, &events_of_workers)) {
        log_write(LOG_ERROR, "worker %u: the system has no thread to give", w->id);
        return false;
    }
    os_mutex_lock(s->mutex);
    while (s->opened == i) os_cond_wait(s->changed, s->mutex, -1);
    bool ok = !s->port_failed && !s->app_failed;
    os_mutex_unlock(s->mutex);
    if (!ok) worker_join(w);
    return ok;
}

/* Ends the threads of the first count workers. */
static void end_workers(server *s, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) worker_post(&s->workers[i], &s->workers[i].exit_message);
    for (uint32_t i = 0; i < count; i++) worker_join(&s->workers[i]);
}

static void free_server(server *s)
{
    resolver_close(s->resolver);
    for (uint32_t i = 0; i < s->listener_count; i++) {
        listener_close(s->listeners[i].stream);
        udp_listener_close(s->listeners[i].datagrams);
    }
    if (s->changed != NULL) os_cond_close(s->changed);
    if (s->mutex != NULL) os_mutex_close(s->mutex);
    mem_free(s->workers);
    mem_free(s);
}

/* The index-th call of server_stop(). */
static void post_stop(server *s, uint32_t index)
{
    if (index == 0) worker_post(&s->workers[0], &s->stop_message);
    if (index == 1) worker_post(&s->workers[0], &s->now_message);
}

server *server_open(const server_options *options, const worker_app *app, void *app_context, bool *app_failed)
{
    assert(options->workers >= 1 && options->workers <= WORKER_MAX);
    *app_failed = false;
    server *s = mem_zalloc(sizeof(*s));
    if (s == NULL) return NULL;
    s->options = *options;
    s->stop_message.run = run_stop;
    s->now_message.run = run_now;
    s->workers = mem_zalloc(options->workers * sizeof(*s->workers));
    s->resolver = resolver_open();
    s->mutex = os_mutex_open();
    s->changed = os_cond_open();
    if (s->workers == NULL || s->resolver == NULL || s->mutex == NULL || s->changed == NULL) {
        log_write(LOG_ERROR, "cannot start: out of memory");
        free_server(s);
        return NULL;
    }
    for (uint32_t i = 0; i < options->workers; i++) {
        worker *w = &s->workers[i];
        w->id = i;
        w->count = options->workers;
        w->server = s;
        w->app = app;
        w->app_context = app_context;
        w->start_message.run = run_start;
        w->drain_message.run = run_drain;
        w->cut_message.run = run_cut;
    }
    for (uint32_t i = 0; i < options->workers; i++) {
        if (open_worker(s, i)) continue;
        *app_failed = s->app_failed;
        end_workers(s, i);
        free_server(s);
        return NULL;
    }
    os_mutex_lock(s->mutex);
    s->up = true;
    for (uint32_t i = 0; i < atomic_load(&s->stops); i++) post_stop(s, i);
    os_mutex_unlock(s->mutex);
    return s;
}

io_status server_listen(server *s, const net_uri *uri, int *native)
{
    *native = 0;
    if (s->listener_count == SERVER_LISTENERS_MAX) return IO_LIMIT;
    if (uri->transport == NET_UDP && s->workers[0].app->take_udp == NULL) return IO_UNSUPPORTED;
    listener **stream = &s->listeners[s->listener_count].stream;
    udp_listener **datagrams = &s->listeners[s->listener_count].datagrams;
    io_status status = uri->transport == NET_UDP ? udp_listener_open(datagrams, uri, s->options.workers, native)
                                                 : listener_open(stream, uri, &events_of_listeners, s, native);
    if (status != IO_OK) return status;
    s->listener_count++;
    if (uri->transport != NET_UDP) s->stream_count++;
    return IO_OK;
}

uint32_t server_listener_count(const server *s)
{
    return s->listener_count;
}

const char *server_listener_name(const server *s, uint32_t index)
{
    assert(index < s->listener_count);
    const listener *stream = s->listeners[index].stream;
    return stream != NULL ? listener_name(stream) : udp_listener_name(s->listeners[index].datagrams);
}

void server_start(server *s)
{
    for (uint32_t i = 0; i < s->options.workers; i++) worker_post(&s->workers[i], &s->workers[i].start_message);
}

/* ---- Stopping ---- */

void server_stop(server *s)
{
    /* A script may ask while the other workers still open; server_open() then makes up for it. */
    os_mutex_lock(s->mutex);
    uint32_t before = atomic_fetch_add(&s->stops, 1);
    /* Once all have ended (a script asks in on_unload) nobody is left to read it. */
    if (s->up && !atomic_load(&s->ended)) post_stop(s, before);
    os_mutex_unlock(s->mutex);
    os_news_post(OS_NEWS_WAKE);
}

bool server_stopping(const server *s)
{
    return atomic_load(&s->stops) > 0;
}

bool server_ended(const server *s)
{
    return atomic_load(&s->ended);
}

uint32_t server_connections(const server *s)
{
    uint32_t total = 0;
    for (uint32_t i = 0; i < s->options.workers; i++) total += worker_load(&s->workers[i]);
    return total;
}

server_end server_wait(server *s)
{
    os_mutex_lock(s->mutex);
    while (!atomic_load(&s->ended)) os_cond_wait(s->changed, s->mutex, -1);
    os_mutex_unlock(s->mutex);
    if (atomic_load(&s->failed)) return SERVER_FAILED;
    resolver_close(s->resolver); /* before the ports that it answers to */
    s->resolver = NULL;
    end_workers(s, s->options.workers);
    for (uint32_t i = 0; i < s->options.workers; i++) {
        if (s->workers[i].cut_off) return SERVER_CUT_OFF;
    }
    return SERVER_CLEAN;
}

void server_close(server *s)
{
    /* A worker whose port failed may still be at work in it: the process is about to end, and its memory with it. */
    if (!atomic_load(&s->failed)) free_server(s);
}

worker *server_worker(server *s, uint32_t index)
{
    assert(index < s->options.workers);
    return &s->workers[index];
}

resolver *server_resolver(server *s)
{
    return s->resolver;
}

const server_options *server_get_options(const server *s)
{
    return &s->options;
}
