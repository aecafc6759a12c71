/* worker.c - the loop, and the switch through which every packet goes. */
#include "worker.h"

#include "base.h"
#include "gate.h"
#include "listener.h"
#include "log.h"
#include "mem.h"

#include <assert.h>
#include <stdio.h>

/* Settling can make other connections dirty (a broadcast); after so many turns packets come first again. */
enum { SETTLE_TURNS_MAX = 8 };

/* A socket on its way to a worker. */
typedef struct handover {
    worker_message message;
    io_socket socket;
    net_addr peer;
    const char *name; /* the listener's */
} handover;

/* Returns true when connections are still dirty. */
static bool settle(worker *w)
{
    bool dirty = w->conns.dirty_head != NULL;
    for (int turn = 0; dirty && turn < SETTLE_TURNS_MAX; turn++) dirty = conn_settle(&w->conns);
    return dirty;
}

/* Settles, and sends what that leaves for the end of the round; to have sent can be news in turn. Returns true when connections are
 * still dirty. */
static bool end_round(worker *w)
{
    bool dirty = true;
    for (int turn = 0; dirty && turn < SETTLE_TURNS_MAX; turn++) {
        settle(w);
        conn_send_unsent(&w->conns);
        dirty = w->conns.dirty_head != NULL;
    }
    return dirty;
}

static void publish_load(worker *w)
{
    uint32_t before = w->published;
    if (before == w->conns.count) return;
    w->published = w->conns.count;
    atomic_fetch_add(&w->load, w->published - before); /* of fewer the complement, which is as good */
    if (w->published < before) w->events->on_fewer(w);
}

static uint32_t busy(worker *w)
{
    return w->app->busy == NULL ? 0 : w->app->busy(w);
}

static void dispatch(worker *w, const io_packet *packet)
{
    switch (packet->kind) {
    case IO_RECV:
    case IO_READABLE:
    case IO_SEND:
    case IO_CONNECT:
        conn_on_packet(packet);
        break;
    case IO_RECV_FROM:
    case IO_SEND_TO:
        udp_on_packet(packet);
        break;
    case IO_ACCEPT:
        listener_on_packet(packet);
        break;
    case IO_POST: {
        worker_message *message = container_of(packet->op, worker_message, op);
        message->run(w, message);
        break;
    }
    case IO_IDLE:
    default:
        assert(false && "a packet of no kind");
    }
}

/* How long the port may sleep, in ns; negative: for ever. */
static int64_t wait_ns(worker *w)
{
    int64_t next = timers_next(&w->timers);
    if (next == INT64_MAX || !w->begun) return -1;
    int64_t wait = next - w->conns.now_ns;
    /* now_ns is as old as the last round. That matters only for deadlines that are near. */
    if (wait < INT64_C(1000000000)) wait = next - io_port_now(w->port);
    return wait < 0 ? 0 : wait;
}

static void take_packets(worker *w)
{
    io_packet packet;
    w->conns.now_ns = io_port_now(w->port);
    while (io_port_next(w->port, &packet)) {
        w->packets++;
        dispatch(w, &packet);
        if (w->conns.dirty_head != NULL) settle(w); /* most messages leave nothing to settle */
    }
    conn_send_unsent(&w->conns); /* before timers, which can take long */
}

/* One at a time, since one can take long: then packets come first again, and what is due stays due. */
static void run_timers(worker *w)
{
    int64_t begun_ns = io_port_now(w->port);
    while (timers_run(&w->timers, w->conns.now_ns, 1) > 0) {
        if (io_port_now(w->port) - begun_ns >= WORKER_ROUND_NS) return;
    }
}

/* Returns true when connections are still dirty. */
static bool fire_timers(worker *w)
{
    if (w->begun && timers_next(&w->timers) <= w->conns.now_ns) run_timers(w);
    bool dirty = end_round(w);
    publish_load(w);
    return dirty;
}

void worker_turn(worker *w)
{
    take_packets(w);                                        /* what is left of the round in which we are */
    if (io_port_wait(w->port, 0) == IO_OK) take_packets(w); /* a port that fails does so again, in the loop */
    fire_timers(w);
}

static void loop(worker *w)
{
    bool dirty = false;
    while (!w->exiting || mail_box_is_due(&w->box)) {
        io_status status = io_port_wait(w->port, dirty ? 0 : wait_ns(w));
        if (status != IO_OK) {
            w->events->on_failed(w, status);
            return;
        }
        take_packets(w);
        dirty = fire_timers(w);
        bool done = w->draining && !w->idle && w->conns.count == 0 && busy(w) == 0;
        if (done) udp_set_finish(&w->udps, false); /* handlers that waited could still answer */
        if (done && w->udps.count == 0) {
            w->idle = true;
            timer_stop(&w->timers, &w->drain_deadline);
            w->events->on_idle(w);
        }
    }
}

static void on_drain_deadline(timer *t, int64_t now_ns)
{
    (void)now_ns;
    worker_cut(container_of(t, worker, drain_deadline));
}

/* Sockets for datagrams that a script opened while it loaded, and that ended with it. False: the port has failed. */
static bool join_udps(worker *w)
{
    udp_set_finish(&w->udps, true);
    while (w->udps.count > 0) {
        if (io_port_wait(w->port, wait_ns(w)) != IO_OK) return false;
        take_packets(w);
    }
    return true;
}

static void open_and_serve(worker *w)
{
    timers_open(&w->timers);
    w->drain_deadline.fire = on_drain_deadline;
    io_status status = io_port_open(&w->port, w->backend, w->io_options);
    if (status != IO_OK) {
        log_write(LOG_ERROR, "worker %u: cannot open a completion port: %s", w->id, io_status_text(status));
        w->events->on_opened(w, false, false);
        return;
    }
    conn_set_open(&w->conns, w->port, &w->timers, w->id + 1, w->count);
    w->conns.gate = w->entrance;
    udp_set_open(&w->udps, w->port, &w->timers);
    bool app_ok = w->app->open(w, w->app_context);
    w->events->on_opened(w, true, app_ok);
    if (app_ok) {
        loop(w);
        if (!w->exiting) return; /* the port has failed: what it still owns cannot be taken back */
        w->app->close(w);
    }
    if (!join_udps(w)) return;
    conn_set_close(&w->conns);
    udp_set_close(&w->udps);
    timers_close(&w->timers);
    io_port_close(w->port);
}

static void run(void *argument)
{
    worker *w = argument;
    os_mutex_lock(w->gate);
    os_mutex_unlock(w->gate);
    open_and_serve(w);
    w->events->on_closed(w);
}

static void run_exit(worker *w, worker_message *message)
{
    (void)message;
    w->exiting = true;
    mail_box_stop(&w->box);
}

bool worker_start(worker *w, const io_backend *backend, const io_options *options, const worker_events *events)
{
    w->backend = backend;
    w->io_options = options;
    w->events = events;
    w->exit_message.run = run_exit;
    w->gate = os_mutex_open();
    if (w->gate == NULL) return false;
    char name[16];
    snprintf(name, sizeof(name), "worker %u", w->id % WORKER_MAX);
    os_mutex_lock(w->gate);
    w->thread = os_thread_start(name, run, w);
    os_mutex_unlock(w->gate);
    if (w->thread != NULL) return true;
    os_mutex_close(w->gate);
    return false;
}

void worker_join(worker *w)
{
    os_thread_join(w->thread);
    os_mutex_close(w->gate);
    w->thread = NULL;
}

void worker_begin(worker *w)
{
    if (w->begun) return;
    w->begun = true;
    mail_box_start(&w->box, w->port);
}

void worker_drain(worker *w, int64_t drain_ns)
{
    if (w->draining) return;
    worker_begin(w); /* a server may be stopped before it has begun */
    w->draining = true;
    if (w->app->stop != NULL) w->app->stop(w);
    w->conns.now_ns = io_port_now(w->port);
    w->conns.drain_ns = drain_ns;
    for (conn *c = w->conns.live; c != NULL; c = c->live_next) conn_close(c, CONN_SHUTDOWN);
    udp_set_drain(&w->udps);
    if (!timer_start(&w->timers, &w->drain_deadline, w->conns.now_ns + drain_ns)) worker_cut(w);
}

void worker_cut(worker *w)
{
    assert(w->draining);
    if (w->cut_done) return;
    w->cut_done = true;
    if (busy(w) > 0) w->cut_off = true;
    for (conn *c = w->conns.live; c != NULL; c = c->live_next) {
        if (conn_queued(c) > 0) w->cut_off = true;
        conn_abort(c, CONN_SHUTDOWN, IO_OK);
    }
    if (udp_set_finish(&w->udps, true) > 0) w->cut_off = true;
    if (w->app->cut != NULL) w->app->cut(w);
}

static void refuse(worker *w, io_socket socket, const net_addr *peer)
{
    net_close(socket);
    if (w->entrance != NULL) gate_leave(w->entrance, peer);
}

void worker_take(worker *w, io_socket socket, const net_addr *peer, const char *name)
{
    if (w->draining) refuse(w, socket, peer);
    else w->app->accept(w, socket, peer, name);
    publish_load(w);
}

static void run_handover(worker *w, worker_message *message)
{
    handover *h = container_of(message, handover, message);
    w->published++; /* the load has it since it was on its way */
    worker_take(w, h->socket, &h->peer, h->name);
    mem_free(h);
}

void worker_give(worker *w, io_socket socket, const net_addr *peer, const char *name)
{
    handover *h = mem_zalloc(sizeof(*h));
    if (h == NULL) {
        static log_cause cause;
        log_rarely(&cause, LOG_ERROR, "a connection was refused: out of memory",
                   "%s: a connection was refused: out of memory", name);
        refuse(w, socket, peer);
        return;
    }
    h->message.run = run_handover;
    h->socket = socket;
    h->peer = *peer;
    h->name = name;
    atomic_fetch_add(&w->load, 1);
    worker_post(w, &h->message);
}

uint32_t worker_load(worker *w)
{
    return atomic_load(&w->load);
}

void worker_post(worker *w, worker_message *message)
{
    assert(message->run != NULL);
    io_port_post(w->port, &message->op);
}

conn *worker_connect(worker *w, const net_uri *target, const conn_config *config, io_status *status)
{
    *status = IO_CLOSED;
    return w->draining ? NULL : conn_connect(&w->conns, target, config, status);
}
