/* udp.c - see udp.h. Each op is at any time pending or idle; settle() submits what is due, and frees in the end. */
#include "udp.h"

#include "base.h"
#include "mem.h"

#include <assert.h>
#include <string.h>

#define RETRY_NS INT64_C(100000000) /* after a receive that the port had no room for */

typedef struct queued {
    struct queued *next;
    net_addr to;
    size_t len;
    uint8_t bytes[];
} queued;

struct udp {
    io_datagram_op receive;
    io_datagram_op send; /* while it is pending, of the head of the queue */
    udp_set *set;
    uint64_t id;
    udp *next;
    udp *prev;
    const udp_events *events;
    void *user;
    const char *listener;
    queued *head;
    queued *tail;
    size_t queue_bytes; /* with UDP_QUEUE_COST each */
    timer retry;
    io_socket socket;
    bool again; /* the head has met the error of a datagram before it, and is sent once more */
    bool paused;
    bool drained; /* a listener's: what comes is dropped */
    bool closing;
    bool canceled; /* while closing: io_cancel() was called */
    bool busy;     /* settle() or an event is under way */
};

static void settle(udp *u);

/* ---- Queue ---- */

static void pop(udp *u)
{
    queued *head = u->head;
    u->head = head->next;
    if (u->head == NULL) u->tail = NULL;
    u->queue_bytes -= head->len + UDP_QUEUE_COST;
    mem_free(head);
}

io_status udp_send(udp *u, const net_addr *to, const void *data, size_t len)
{
    assert(len <= IO_DATAGRAM_MAX);
    if (u->closing) return IO_CLOSED;
    queued *q = u->queue_bytes + len + UDP_QUEUE_COST <= UDP_QUEUE_BYTES ? mem_alloc(sizeof(*q) + len) : NULL;
    if (q == NULL) {
        u->set->dropped++;
        return IO_LIMIT;
    }
    q->next = NULL;
    q->to = to != NULL ? *to : (net_addr){{0}};
    q->len = len;
    if (len > 0) memcpy(q->bytes, data, len);
    if (u->tail != NULL) u->tail->next = q;
    else u->head = q;
    u->tail = q;
    u->queue_bytes += len + UDP_QUEUE_COST;
    settle(u);
    return IO_OK;
}

/* ---- What is due ---- */

static void submit_send(udp *u)
{
    while (u->head != NULL && u->send.op.kind == IO_IDLE) {
        u->send.peer = u->head->to;
        io_status status = io_send_to(u->set->port, &u->send, u->socket, u->head->bytes, u->head->len);
        if (status == IO_OK) return;
        u->set->dropped++;
        pop(u);
    }
}

static void on_retry(timer *t, int64_t now_ns)
{
    (void)now_ns;
    settle(container_of(t, udp, retry));
}

static void submit_receive(udp *u)
{
    if (u->paused || u->drained || u->closing || u->receive.op.kind != IO_IDLE) return;
    if (io_recv_from(u->set->port, &u->receive, u->socket) == IO_OK) return;
    /* Out of memory for the timer, too: the next send or packet tries again. */
    (void)timer_start(u->set->timers, &u->retry, io_port_now(u->set->port) + RETRY_NS);
}

static void finish(udp *u)
{
    udp_set *set = u->set;
    timer_stop(set->timers, &u->retry);
    io_close(set->port, u->socket, false);
    if (u->prev != NULL) u->prev->next = u->next;
    else set->live = u->next;
    if (u->next != NULL) u->next->prev = u->prev;
    set->count--;
    mem_free(u);
}

/* u may be gone afterwards. */
static void settle(udp *u)
{
    if (u->busy) return; /* who set it settles */
    submit_send(u);
    submit_receive(u);
    if (!u->closing || u->head != NULL) return;
    if (u->receive.op.kind == IO_IDLE && u->send.op.kind == IO_IDLE) {
        finish(u);
    } else if (!u->canceled) {
        u->canceled = true;
        io_cancel(u->set->port, u->socket);
    }
}

/* ---- Packets ---- */

static void on_received(udp *u, const io_packet *packet)
{
    if (u->closing || u->drained) return;
    if (packet->status == IO_OK) {
        u->set->received++;
        u->events->on_datagram(u, &u->receive.peer, packet->data, packet->bytes);
    } else if (packet->status != IO_CANCELED) {
        u->events->on_error(u, packet->status);
    }
}

static void on_sent(udp *u, const io_packet *packet)
{
    /* That nobody has the port comes back from an earlier datagram, and a send that meets the news has sent nothing: udp(7),
     * ip(7). Having told it, the system takes the same datagram. */
    bool again = packet->status == IO_REFUSED && !u->again && u->head != NULL;
    u->again = again;
    if (u->head != NULL && !again) pop(u);
    if (packet->status == IO_OK) u->set->sent++;
    else if (!u->closing) u->events->on_error(u, packet->status);
}

void udp_on_packet(const io_packet *packet)
{
    bool is_receive = packet->kind == IO_RECV_FROM;
    io_datagram_op *op = container_of(packet->op, io_datagram_op, op);
    udp *u = is_receive ? container_of(op, udp, receive) : container_of(op, udp, send);
    u->busy = true; /* an event may send, pause or close */
    if (is_receive) on_received(u, packet);
    else on_sent(u, packet);
    u->busy = false;
    settle(u);
}

/* ---- Life ---- */

void udp_set_open(udp_set *set, io_port *port, timers *deadlines)
{
    *set = (udp_set){.port = port, .timers = deadlines};
}

void udp_set_close(udp_set *set)
{
    assert(set->count == 0 && set->live == NULL);
    (void)set;
}

udp *udp_open(udp_set *set, io_socket socket, const udp_events *events, void *user, const char *listener, bool paused)
{
    udp *u = mem_zalloc(sizeof(*u));
    if (u == NULL || io_attach_udp(set->port, socket) != IO_OK) {
        io_close(set->port, socket, false);
        mem_free(u);
        return NULL;
    }
    u->set = set;
    u->id = ++set->ids;
    u->socket = socket;
    u->events = events;
    u->user = user;
    u->listener = listener;
    u->paused = paused;
    u->retry.fire = on_retry;
    u->next = set->live;
    if (u->next != NULL) u->next->prev = u;
    set->live = u;
    set->count++;
    settle(u);
    return u;
}

void udp_close(udp *u)
{
    u->closing = true;
    settle(u);
}

void udp_set_drain(udp_set *set)
{
    for (udp *u = set->live; u != NULL; u = u->next) u->drained = u->drained || u->listener != NULL;
}

uint32_t udp_set_finish(udp_set *set, bool cut)
{
    uint32_t queues = 0;
    udp *next;
    for (udp *u = set->live; u != NULL; u = next) {
        next = u->next;
        if (u->head != NULL) queues++;
        if (cut) {
            while (u->tail != NULL && u->tail != u->head) { /* the head may be under way */
                queued *second = u->head->next;
                u->head->next = second->next;
                if (u->tail == second) u->tail = u->head;
                u->queue_bytes -= second->len + UDP_QUEUE_COST;
                mem_free(second);
            }
            if (u->head != NULL && u->send.op.kind != IO_IDLE) io_cancel(set->port, u->socket);
        }
        if (!u->closing || cut) udp_close(u);
    }
    return queues;
}

void udp_pause(udp *u)
{
    u->paused = true;
}

void udp_resume(udp *u)
{
    u->paused = false;
    settle(u);
}

void *udp_user(const udp *u)
{
    return u->user;
}

udp *udp_next(const udp *u)
{
    return u->next;
}

uint64_t udp_id(const udp *u)
{
    return u->id;
}

bool udp_is_open(const udp_set *set, const udp *u, uint64_t id)
{
    const udp *one = set->live;
    while (one != NULL && one != u) one = one->next;
    return one != NULL && one->id == id && !one->closing;
}

const char *udp_listener_of(const udp *u)
{
    return u->listener;
}

io_socket udp_socket(const udp *u)
{
    return u->socket;
}

size_t udp_queued(const udp *u)
{
    return u->queue_bytes;
}
