/* resolver.c - a queue of queries and a few threads that block in the caller's place. */
#include "resolver.h"

#include "base.h"
#include "mem.h"
#include "os.h"

#include <assert.h>

#define PATIENCE_NS INT64_C(1000000000) /* at the end, for look-ups that are under way */

/* See resolver_left_behind(). */
static atomic_bool left_behind;

struct resolver {
    os_mutex *mutex; /* guards everything here */
    os_cond *asked;
    os_cond *left;
    resolver_query *head;
    resolver_query *tail;
    os_thread *threads[RESOLVER_THREADS];
    uint32_t thread_count;
    uint32_t free_threads; /* that wait for a query */
    uint32_t running;      /* threads that have not left */
    uint32_t queued;
    bool closing; /* nothing more is looked up */
    bool over;    /* nothing more is answered */
};

static void run_answer(worker *w, worker_message *message)
{
    resolver_query *query = container_of(message, resolver_query, message);
    query->answer(w, query);
}

static void look_up(resolver_query *query)
{
    query->count = RESOLVER_ADDRS_MAX;
    query->status = net_addr_resolve(query->addrs, &query->count, query->uri, query->error, sizeof(query->error));
}

/* It has left the queue. With the mutex. */
static void cancel(resolver_query *query)
{
    query->status = IO_CANCELED;
    worker_post(query->worker, &query->message);
}

/* Makes room in the queue. With the mutex. */
static void drop_forgotten(resolver *r)
{
    resolver_query **link = &r->head;
    r->tail = NULL;
    while (*link != NULL) {
        resolver_query *query = *link;
        if (atomic_load(&query->forgotten)) {
            *link = query->next;
            r->queued--;
            cancel(query);
        } else {
            r->tail = query;
            link = &query->next;
        }
    }
}

/* The body of a thread. */
static void serve(void *argument)
{
    resolver *r = argument;
    os_mutex_lock(r->mutex);
    while (!r->closing) {
        resolver_query *query = r->head;
        if (query == NULL) {
            r->free_threads++;
            os_cond_wait(r->asked, r->mutex, -1);
            r->free_threads--;
            continue;
        }
        r->head = query->next;
        if (r->head == NULL) r->tail = NULL;
        r->queued--;
        if (atomic_load(&query->forgotten)) { /* else those who were given up hold up the others, for seconds each */
            cancel(query);
            continue;
        }
        os_mutex_unlock(r->mutex);
        look_up(query);
        os_mutex_lock(r->mutex);
        /* Under the lock: once it is over, the worker's port may be gone, and who asked may be, too. */
        if (!r->over) worker_post(query->worker, &query->message);
    }
    r->running--;
    os_cond_signal(r->left);
    os_mutex_unlock(r->mutex);
}

static void free_resolver(resolver *r)
{
    if (r->left != NULL) os_cond_close(r->left);
    if (r->asked != NULL) os_cond_close(r->asked);
    if (r->mutex != NULL) os_mutex_close(r->mutex);
    mem_free(r);
}

resolver *resolver_open(void)
{
    resolver *r = mem_zalloc(sizeof(*r));
    if (r == NULL) return NULL;
    r->mutex = os_mutex_open();
    r->asked = os_cond_open();
    r->left = os_cond_open();
    if (r->mutex != NULL && r->asked != NULL && r->left != NULL) return r;
    free_resolver(r);
    return NULL;
}

void resolver_close(resolver *r)
{
    if (r == NULL) return;
    os_mutex_lock(r->mutex);
    r->closing = true;
    while (r->head != NULL) {
        resolver_query *query = r->head;
        r->head = query->next;
        cancel(query);
    }
    r->tail = NULL;
    os_cond_broadcast(r->asked);
    int64_t deadline = os_monotonic_ns() + PATIENCE_NS;
    while (r->running > 0 && os_monotonic_ns() < deadline)
        os_cond_wait(r->left, r->mutex, deadline - os_monotonic_ns());
    r->over = true;
    bool all_left = r->running == 0;
    os_mutex_unlock(r->mutex);
    if (!all_left) {
        atomic_store(&left_behind, true);
        return;
    }
    for (uint32_t i = 0; i < r->thread_count; i++) os_thread_join(r->threads[i]);
    free_resolver(r);
}

bool resolver_left_behind(void)
{
    return atomic_load(&left_behind);
}

io_status resolver_ask(resolver *r, worker *w, resolver_query *query)
{
    assert(query->answer != NULL);
    os_mutex_lock(r->mutex);
    assert(!r->closing);
    if (r->queued == RESOLVER_QUEUE_MAX) drop_forgotten(r);
    bool ok = r->queued < RESOLVER_QUEUE_MAX;
    if (ok && r->free_threads <= r->queued && r->thread_count < RESOLVER_THREADS) {
        os_thread *thread = os_thread_start("resolver", serve, r); /* it waits for the mutex */
        if (thread != NULL) {
            r->threads[r->thread_count++] = thread;
            r->running++;
        }
    }
    ok = ok && r->running > 0;
    if (ok) {
        query->message.run = run_answer;
        query->worker = w;
        query->next = NULL;
        if (r->tail != NULL) r->tail->next = query;
        else r->head = query;
        r->tail = query;
        r->queued++;
        os_cond_signal(r->asked);
    }
    os_mutex_unlock(r->mutex);
    return ok ? IO_OK : IO_LIMIT;
}

void resolver_forget(resolver_query *query)
{
    atomic_store(&query->forgotten, true);
}
