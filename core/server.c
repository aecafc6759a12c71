/* server.c - order of starting and stopping. Listeners live on worker 0's port, on every system alike: there the dealer has
 * their sockets. Stopping runs backwards: first the listeners, and only when nothing more can be dealt, worker 0. The others drain
 * at once, since worker 0 may hang; who is still dealt to them is refused. Each worker serves its port until all are done, so that a
 * message never meets a closed one.
 */
#include "server.h"

#include "base.h"
#include "dealer.h"
#include "listener.h"
#include "log.h"
#include "mem.h"
#include "os.h"
#include "udp_listener.h"

#include <assert.h>
#include <string.h>

/* A listener, or room for one. Who calls server_listen() and its kin fills and empties it; between the messages it is worker 0's. */
typedef struct slot slot;
struct slot {
    server *server;
    listener *stream; /* one of the two, or neither: free */
    udp_listener *datagrams;
    _Atomic(const char *) name; /* in the server's names */
    worker_message accept_message;
    worker_message stop_message;
    bool asked;          /* callers': accept_message was posted */
    bool closing;        /* callers': stop_message was posted */
    bool accepts;        /* worker 0: started and not stopped yet; then it is in the server's list */
    slot *accepts_next;  /* worker 0 */
    atomic_bool stopped; /* it can be closed */
};

typedef struct name {
    struct name *next;
    char text[];
} name;

struct server {
    server_options options;
    gate *gate;
    dealer dealer;
    worker *workers; /* options.workers of them; room for WORKER_MAX while the number is not fixed */
    slot slots[SERVER_LISTENERS_MAX];
    slot *udp[SERVER_LISTENERS_MAX]; /* those with datagrams, which stay; nothing changes here after server_start() */
    uint32_t udp_count;
    struct name *names; /* of all listeners that there were: connections keep pointers to them */
    slot *accepting;    /* worker 0: listeners that are started and not stopped yet */
    bool stopping;      /* worker 0: all listeners are to stop */
    bool started;       /* main thread: server_start() */
    bool draining;      /* worker 0: it drains */
    bool cut_wanted;    /* worker 0: a second server_stop() */
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

/* Wakes wait_until(). The lock is held. */
static void tell_main(server *s)
{
    os_cond_signal(s->changed);
    if (s->options.wait != NULL) os_news_post(OS_NEWS_WAKE);
}

static void on_opened(worker *w, bool port_ok, bool app_ok)
{
    server *s = w->server;
    os_mutex_lock(s->mutex);
    s->opened++;
    atomic_store(&w->opened, true);
    if (!port_ok) s->port_failed = true;
    else if (!app_ok) s->app_failed = true;
    tell_main(s);
    os_mutex_unlock(s->mutex);
}

static void on_closed(worker *w)
{
    server *s = w->server;
    os_mutex_lock(s->mutex);
    atomic_store(&w->closed, true);
    tell_main(s);
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

static void on_fewer(worker *w)
{
    dealer_tell(&w->server->dealer);
}

static const worker_events events_of_workers = {on_opened, on_idle, on_failed, on_fewer, on_closed};

/* On worker 0's thread, like the following ones. */
static void on_arrival(void *context, arrival *a)
{
    slot *to = context;
    dealer_add(&to->server->dealer, a, &to->name);
}

static void on_short(void *context)
{
    const slot *of = context;
    (void)dealer_want_news(&of->server->dealer);
}

/* When nothing more can be accepted. */
static void drain_first(server *s)
{
    s->draining = true;
    worker_drain(&s->workers[0], s->options.drain_ns);
    if (s->cut_wanted) worker_cut(&s->workers[0]);
}

static void on_stopped(void *context, listener *l)
{
    slot *from = context;
    server *s = from->server;
    (void)l;
    slot **link = &s->accepting;
    while (*link != from) link = &(*link)->accepts_next;
    *link = from->accepts_next;
    from->accepts = false;
    atomic_store(&from->stopped, true);
    if (s->stopping && s->accepting == NULL) drain_first(s);
}

static const listener_events events_of_listeners = {on_arrival, on_short, on_stopped};

/* ---- Messages to workers ---- */

/* The worker's own socket of each address for datagrams. */
static void take_udp(server *s, worker *w)
{
    for (uint32_t i = 0; i < s->udp_count; i++) {
        slot *l = s->udp[i];
        io_socket socket = udp_listener_take(l->datagrams, w->id);
        if (socket != IO_SOCKET_NONE) w->app->take_udp(w, socket, l->name);
    }
}

static void run_start(worker *w, worker_message *message)
{
    server *s = w->server;
    (void)message;
    worker_begin(w);
    if (!server_stopping(s)) take_udp(s, w);
}

static void run_accept(worker *w, worker_message *message)
{
    slot *from = container_of(message, slot, accept_message);
    server *s = from->server;
    if (server_stopping(s)) return;
    from->accepts = true;
    from->accepts_next = s->accepting;
    s->accepting = from;
    io_status status = listener_start(from->stream, w->port, &w->timers);
    if (status != IO_OK) on_failed(w, status);
}

static void stop_accepting(slot *l)
{
    dealer_forget(&l->server->dealer, l->stream);
    listener_stop(l->stream);
}

static void run_unlisten(worker *w, worker_message *message)
{
    slot *from = container_of(message, slot, stop_message);
    (void)w;
    if (from->accepts) stop_accepting(from);
}

/* There is room. */
static void run_news(worker *w, worker_message *message)
{
    server *s = w->server;
    (void)message;
    dealer_on_news(&s->dealer);
    for (slot *l = s->accepting; l != NULL; l = l->accepts_next) listener_retry(l->stream);
}

static void run_stop(worker *w, worker_message *message)
{
    server *s = w->server;
    (void)message;
    s->stopping = true;
    if (s->accepting == NULL) drain_first(s);
    slot *next;
    for (slot *l = s->accepting; l != NULL; l = next) {
        next = l->accepts_next; /* it may leave the list at once */
        stop_accepting(l);
    }
}

static void run_now(worker *w, worker_message *message)
{
    server *s = w->server;
    (void)message;
    s->cut_wanted = true;
    if (s->draining) worker_cut(w);
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

/* Until that is true, which a worker reports. */
static void wait_until(server *s, const atomic_bool *reported)
{
    os_mutex_lock(s->mutex);
    while (!atomic_load(reported)) {
        if (s->options.wait == NULL) {
            os_cond_wait(s->changed, s->mutex, -1);
            continue;
        }
        os_mutex_unlock(s->mutex);
        s->options.wait(s->options.wait_context);
        os_mutex_lock(s->mutex);
    }
    os_mutex_unlock(s->mutex);
}

/* Starts worker i and waits for its report. False: it did not open. */
static bool open_worker(server *s, uint32_t i)
{
    worker *w = &s->workers[i];
    if (!worker_start(w, s->options.backend, &s->options.io, &events_of_workers)) {
        log_write(LOG_ERROR, "worker %u: the system has no thread to give", w->id);
        return false;
    }
    wait_until(s, &w->opened);
    os_mutex_lock(s->mutex);
    bool ok = !s->port_failed && !s->app_failed;
    os_mutex_unlock(s->mutex);
    if (!ok) worker_join(w);
    return ok;
}

/* Ends the threads of the first count workers. */
static void end_workers(server *s, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) worker_post(&s->workers[i], &s->workers[i].exit_message);
    for (uint32_t i = 0; i < count; i++) {
        wait_until(s, &s->workers[i].closed);
        worker_join(&s->workers[i]);
    }
}

static uint32_t workers_room(const server *s)
{
    return s->options.workers_fixed ? s->options.workers : (uint32_t)WORKER_MAX;
}

/* Boxes for so many workers, those that have one already included. Mail can come before its worker has opened. */
static bool open_boxes(server *s, uint32_t workers)
{
    bool ok = true;
    for (uint32_t i = 0; ok && i < workers; i++) {
        ok = s->workers[i].box.mutex != NULL || mail_box_open(&s->workers[i].box);
    }
    return ok;
}

static void free_server(server *s)
{
    resolver_close(s->resolver);
    for (size_t i = 0; i < SERVER_LISTENERS_MAX; i++) {
        listener_close(s->slots[i].stream);
        udp_listener_close(s->slots[i].datagrams);
    }
    while (s->names != NULL) {
        name *n = s->names;
        s->names = n->next;
        mem_free(n);
    }
    if (s->changed != NULL) os_cond_close(s->changed);
    if (s->mutex != NULL) os_mutex_close(s->mutex);
    for (uint32_t i = 0; s->workers != NULL && i < workers_room(s); i++) mail_box_close(&s->workers[i].box);
    gate_close(s->gate);
    mem_free(s->workers);
    mem_free(s);
}

/* The index-th call of server_stop(). Each worker is told for itself: one may hang. */
static void post_stop(server *s, uint32_t index)
{
    if (index > 1) return;
    worker_post(&s->workers[0], index == 0 ? &s->stop_message : &s->now_message);
    for (uint32_t i = 1; i < s->options.workers; i++) {
        worker *w = &s->workers[i];
        worker_post(w, index == 0 ? &w->drain_message : &w->cut_message);
    }
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
    s->workers = mem_zalloc(workers_room(s) * sizeof(*s->workers));
    s->gate = gate_open(&options->gate);
    s->resolver = resolver_open();
    s->mutex = os_mutex_open();
    s->changed = os_cond_open();
    if (s->workers == NULL || s->gate == NULL || !open_boxes(s, options->workers) || s->resolver == NULL ||
        s->mutex == NULL || s->changed == NULL) {
        log_write(LOG_ERROR, "cannot start: out of memory");
        free_server(s);
        return NULL;
    }
    s->dealer = (dealer){.workers = s->workers, .gate = s->gate, .max_connections = options->max_connections};
    dealer_open(&s->dealer, run_news);
    for (uint32_t i = 0; i < s->options.workers; i++) { /* the first may change the number */
        worker *w = &s->workers[i];
        w->id = i;
        w->count = s->options.workers;
        w->server = s;
        w->entrance = s->gate;
        w->app = app;
        w->app_context = app_context;
        w->start_message.run = run_start;
        w->drain_message.run = run_drain;
        w->cut_message.run = run_cut;
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

bool server_set_workers(server *s, uint32_t workers)
{
    assert(!s->options.workers_fixed && workers >= 1 && workers <= WORKER_MAX && s->opened == 0);
    if (!open_boxes(s, workers)) return false;
    s->options.workers = workers;
    s->workers[0].count = workers;
    conn_set_step(&s->workers[0].conns, workers);
    return true;
}

/* ---- Listening ---- */

/* Room for a listener, or NULL; what has stopped is closed first. */
static slot *free_slot(server *s)
{
    slot *room = NULL;
    for (size_t i = SERVER_LISTENERS_MAX; i-- > 0;) {
        slot *l = &s->slots[i];
        if (l->stream != NULL && atomic_load(&l->stopped)) {
            listener_close(l->stream);
            l->stream = NULL;
        }
        if (l->stream == NULL && l->datagrams == NULL) room = l;
    }
    return room;
}

/* The text, kept until the server is closed; NULL when out of memory. */
static const char *keep_name(server *s, const char *text)
{
    for (const name *n = s->names; n != NULL; n = n->next) {
        if (strcmp(n->text, text) == 0) return n->text;
    }
    size_t size = strlen(text) + 1;
    name *n = mem_alloc(sizeof(*n) + size);
    if (n == NULL) return NULL;
    memcpy(n->text, text, size);
    n->next = s->names;
    s->names = n;
    return n->text;
}

io_status server_listen(server *s, const net_uri *uri, uint32_t *number, int *native)
{
    *native = 0;
    slot *l = free_slot(s);
    bool is_udp = uri->transport == NET_UDP;
    if (l == NULL) return IO_LIMIT;
    if (is_udp && (s->started || s->workers[0].app->take_udp == NULL)) return IO_UNSUPPORTED;
    *l = (slot){.server = s, .accept_message.run = run_accept, .stop_message.run = run_unlisten};
    io_status status = is_udp ? udp_listener_open(&l->datagrams, uri, s->options.workers, native)
                              : listener_open(&l->stream, uri, &events_of_listeners, l, native);
    if (status != IO_OK) return status;
    uint32_t index = (uint32_t)(l - s->slots);
    if (!server_name_listener(s, index, server_listener_address(s, index))) {
        listener_close(l->stream);
        udp_listener_close(l->datagrams);
        *l = (slot){0};
        return IO_LIMIT;
    }
    if (is_udp) s->udp[s->udp_count++] = l;
    if (number != NULL) *number = index;
    return IO_OK;
}

uint32_t server_accept(server *s)
{
    uint32_t count = 0;
    for (size_t i = 0; i < SERVER_LISTENERS_MAX; i++) {
        slot *l = &s->slots[i];
        if (l->stream == NULL || l->asked) continue;
        l->asked = true;
        count++;
        worker_post(&s->workers[0], &l->accept_message);
    }
    return count;
}

static bool is_used(const slot *l)
{
    return (l->stream != NULL || l->datagrams != NULL) && !l->closing;
}

void server_unlisten(server *s, uint32_t number)
{
    slot *l = &s->slots[number];
    assert(is_used(l));
    if (l->stream == NULL) return;
    if (l->asked) {
        l->closing = true;
        worker_post(&s->workers[0], &l->stop_message);
        return;
    }
    listener_close(l->stream);
    l->stream = NULL;
}

const char *server_listener_address(const server *s, uint32_t number)
{
    const slot *l = &s->slots[number];
    if (!is_used(l)) return NULL;
    return l->stream != NULL ? listener_name(l->stream) : udp_listener_name(l->datagrams);
}

bool server_name_listener(server *s, uint32_t number, const char *text)
{
    const char *kept = keep_name(s, text);
    if (kept != NULL) atomic_store(&s->slots[number].name, kept);
    return kept != NULL;
}

io_status server_set_mode(server *s, uint32_t number, int16_t mode, int *native)
{
    *native = 0;
    return s->slots[number].stream != NULL ? listener_set_mode(s->slots[number].stream, mode, native) : IO_OK;
}

void server_start(server *s)
{
    s->started = true;
    for (uint32_t i = 0; i < s->options.workers; i++) worker_post(&s->workers[i], &s->workers[i].start_message);
    server_accept(s);
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

void server_arrivals(const server *s, uint32_t *waiting, uint64_t *refused)
{
    *waiting = s->dealer.waiting;
    *refused = s->dealer.refused;
}

server_end server_wait(server *s)
{
    wait_until(s, &s->ended);
    if (atomic_load(&s->failed)) return SERVER_FAILED;
    resolver_close(s->resolver); /* before the ports that it answers to */
    s->resolver = NULL;
    end_workers(s, s->options.workers);
    for (uint32_t i = 0; i < s->options.workers; i++) {
        if (s->workers[i].cut_off) return SERVER_CUT_OFF;
    }
    return SERVER_CLEAN;
}

worker *server_abandon(server *s)
{
    worker *hangs = NULL;
    for (uint32_t i = s->options.workers; i-- > 0;) {
        if (!atomic_load(&s->workers[i].idle)) hangs = &s->workers[i];
    }
    for (size_t i = 0; hangs != NULL && i < SERVER_LISTENERS_MAX; i++) {
        if (s->slots[i].stream != NULL) listener_remove_file(s->slots[i].stream);
    }
    return hangs;
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
