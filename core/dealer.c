/* dealer.c - a queue of sockets, and who is told when there is room for the first of them. */
#include "dealer.h"

#include "base.h"
#include "log.h"

#include <assert.h>

/* Whether a worker with fewer connections posts the message. */
typedef enum dealer_news {
    NEWS_UNWANTED,
    NEWS_WANTED,
    NEWS_POSTED /* and not yet taken: the message must not be posted twice */
} dealer_news;

typedef enum verdict { DEALT, NO_ROOM, TOO_FAST } verdict;

/* ---- One socket ---- */

static void turn_away(dealer *d, const arrival *a)
{
    static log_cause cause;
    char text[NET_ADDR_TEXT_MAX];
    d->refused++;
    log_rarely(&cause, LOG_WARN, "a connection was refused: too many from one address",
               "%s: a connection from %s was refused: its address has %u already (--max-per-address)",
               listener_name(a->from), net_addr_format(a->peer, text, sizeof(text)),
               gate_get_limits(d->gate)->per_address);
    io_close(d->workers[0].port, a->socket, true);
}

static verdict deal(dealer *d, const arrival *a)
{
    uint32_t total = 0, least = UINT32_MAX;
    worker *best = NULL;
    for (uint32_t i = 0; i < d->workers[0].count; i++) {
        uint32_t load = worker_load(&d->workers[i]);
        total += load;
        if (load < least) {
            least = load;
            best = &d->workers[i];
        }
    }
    if (d->max_connections > 0 && total >= d->max_connections) return NO_ROOM;
    switch (gate_enter(d->gate, a->peer, io_port_now(d->workers[0].port))) {
    case GATE_LATER:
        return TOO_FAST;
    case GATE_FULL:
        turn_away(d, a);
        return DEALT;
    case GATE_IN:
        break;
    }
    const char *name = atomic_load(a->name);
    if (best == &d->workers[0]) worker_take(best, a->socket, a->peer, name);
    else worker_give(best, a->socket, a->peer, name);
    return DEALT;
}

/* ---- The queue ---- */

static void push(dealer *d, arrival *a)
{
    a->next = NULL;
    if (d->first == NULL) d->first = a;
    else d->last->next = a;
    d->last = a;
    d->waiting++;
}

static void pop(dealer *d)
{
    d->first = d->first->next;
    d->waiting--;
}

static void begin_pause(dealer *d, verdict v)
{
    static log_cause cause;
    if (!d->paused) {
        d->said = v == NO_ROOM
                      ? log_rarely(&cause, LOG_WARN, "accepting pauses: the limit of connections",
                                   "accepting pauses: the limit of %u connections is reached (--max-connections)",
                                   d->max_connections)
                      : log_rarely(&cause, LOG_WARN, "accepting pauses: too many connections in a second",
                                   "accepting pauses: too many connections in a second (--accept-rate %u)",
                                   gate_get_limits(d->gate)->per_second);
    }
    d->paused = true;
    if (v != TOO_FAST || timer_running(&d->retry)) return;
    /* Out of memory for the heap of timers: whoever comes or goes next has it looked at again. */
    (void)timer_start(&d->workers[0].timers, &d->retry, io_port_now(d->workers[0].port) + DEALER_RETRY_NS);
}

static void end_pause(dealer *d)
{
    if (d->said) log_write(LOG_INFO, "accepting again");
    d->paused = d->said = false;
}

/* Deals those at the head of the queue while there is room. */
static void serve(dealer *d)
{
    while (d->first != NULL) {
        arrival *a = d->first;
        verdict v = deal(d, a);
        if (v == DEALT) {
            pop(d);
            listener_take_back(a);
        } else if (!dealer_want_news(d)) {
            begin_pause(d, v);
            return;
        } /* else once more: who left before nobody was told of */
    }
    if (d->paused) end_pause(d);
}

static void on_retry(timer *t, int64_t now_ns)
{
    (void)now_ns;
    serve(container_of(t, dealer, retry));
}

void dealer_open(dealer *d, void (*on_news)(worker *w, worker_message *message))
{
    d->retry.fire = on_retry;
    d->message.run = on_news;
}

void dealer_add(dealer *d, arrival *a, const _Atomic(const char *) *name)
{
    a->name = name;
    push(d, a);
    serve(d);
}

void dealer_forget(dealer *d, const listener *l)
{
    arrival *next, *all = d->first;
    d->first = NULL;
    d->waiting = 0;
    for (arrival *a = all; a != NULL; a = next) {
        next = a->next;
        if (a->from != l) {
            push(d, a);
            continue;
        }
        net_close(a->socket);
        a->socket = IO_SOCKET_NONE;
    }
    if (d->first == NULL) d->paused = d->said = false; /* and nobody is accepted again */
}

/* ---- News of room ---- */

/* The worker lowers its load and then looks here; worker 0 writes here and then looks at the loads. Both are sequentially
 * consistent, so at least one of them sees what the other has done. */
bool dealer_want_news(dealer *d)
{
    int expected = NEWS_UNWANTED;
    return atomic_compare_exchange_strong(&d->news, &expected, NEWS_WANTED);
}

void dealer_tell(dealer *d)
{
    int expected = NEWS_WANTED;
    if (atomic_load(&d->news) != NEWS_WANTED) return;
    if (atomic_compare_exchange_strong(&d->news, &expected, NEWS_POSTED)) worker_post(&d->workers[0], &d->message);
}

void dealer_on_news(dealer *d)
{
    assert(atomic_load(&d->news) == NEWS_POSTED);
    atomic_store(&d->news, NEWS_UNWANTED);
    serve(d);
}
