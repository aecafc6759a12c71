/* host_wait.c - tasks that wait for each other, and the line of what is to run next.
 *
 * A task that waits stands in a queue, which belongs to what it waits for: a channel, a semaphore, another task. Who
 * wakes it does so in a slice of its own, so the woken one cannot go on at once: it lines up. The line moves when the
 * worker's timers run, so packets come in between; it is in order, so nobody is forgotten and nobody overtaken.
 *
 * A queue counts who has been woken and has not gone on yet: what those will take is not there for others.
 */
#include "host_internal.h"

#include <assert.h>

/* ---- The line ---- */

static void move_line(timer *clock, int64_t now_ns)
{
    host *h = container_of(clock, host, line.clock);
    host_line *line = &h->line;
    timers *set = &h->worker->timers;
    int64_t begun_ns = io_port_now(h->worker->port);
    bool started = timer_start(set, clock, INT64_MAX); /* in the place in the heap that it has just left */
    assert(started);
    (void)started;
    uint32_t turns = line->count < HOST_LINE_ROUND ? line->count : HOST_LINE_ROUND;
    for (; turns > 0 && line->first != NULL; turns--) {
        host_turn *turn = line->first;
        host_line_leave(h, turn);
        turn->run(h, turn);
        if (io_port_now(h->worker->port) - begun_ns >= WORKER_ROUND_NS) break;
    }
    if (line->first != NULL) timer_start(set, clock, now_ns);
}

bool host_line_open(host *h)
{
    h->line.clock.fire = move_line;
    return timer_start(&h->worker->timers, &h->line.clock, INT64_MAX);
}

void host_line_close(host *h)
{
    h->line.moves = false;
    timer_stop(&h->worker->timers, &h->line.clock);
}

void host_line_start(host *h)
{
    h->line.moves = true;
    if (h->line.first != NULL) timer_start(&h->worker->timers, &h->line.clock, io_port_now(h->worker->port));
}

void host_line_up(host *h, host_turn *turn)
{
    host_line *line = &h->line;
    assert(!turn->lined_up);
    turn->lined_up = true;
    turn->next = NULL;
    turn->prev = line->last;
    if (line->last != NULL) line->last->next = turn;
    else line->first = turn;
    line->last = turn;
    if (line->count++ == 0 && line->moves) {
        timer_start(&h->worker->timers, &line->clock, io_port_now(h->worker->port));
    }
}

void host_line_leave(host *h, host_turn *turn)
{
    host_line *line = &h->line;
    if (!turn->lined_up) return;
    turn->lined_up = false;
    if (turn->prev != NULL) turn->prev->next = turn->next;
    else line->first = turn->next;
    if (turn->next != NULL) turn->next->prev = turn->prev;
    else line->last = turn->prev;
    line->count--;
}

/* ---- Queues ---- */

static void leave_queue(host_task *t)
{
    host_queue *q = t->queue;
    if (t->queue_prev != NULL) t->queue_prev->queue_next = t->queue_next;
    else q->first = t->queue_next;
    if (t->queue_next != NULL) t->queue_next->queue_prev = t->queue_prev;
    else q->last = t->queue_prev;
    q->count--;
}

static void time_out(timer *clock, int64_t now_ns)
{
    host_task *t = container_of(clock, host_task, wake);
    (void)now_ns;
    leave_queue(t);
    t->queue = NULL;
    host_task_wake(t);
}

static void go_on(host *h, host_turn *turn)
{
    host_task *t = container_of(turn, host_task, turn);
    (void)h;
    t->queue->woken--;
    t->queue = NULL;
    host_task_wake(t);
}

int64_t host_check_timeout(lua_State *L, int arg)
{
    return lua_isnoneornil(L, arg) ? INT64_MAX : host_check_seconds(L, arg);
}

int host_wait_in(lua_State *L, host_queue *q, int64_t timeout_ns, lua_KContext context, lua_KFunction k)
{
    host *h = host_of(L);
    host_task *t = h->task;
    t->wake.fire = time_out;
    if (timeout_ns != INT64_MAX &&
        !timer_start(&h->worker->timers, &t->wake, io_port_now(h->worker->port) + timeout_ns)) {
        return luaL_error(L, "out of memory");
    }
    t->waiting = HOST_QUEUES;
    t->woken = false;
    t->turn.run = go_on;
    t->queue = q;
    t->queue_next = NULL;
    t->queue_prev = q->last;
    if (q->last != NULL) q->last->queue_next = t;
    else q->first = t;
    q->last = t;
    q->count++;
    return lua_yieldk(L, 0, context, k);
}

bool host_queue_wake(host_queue *q)
{
    host_task *t = q->first;
    if (t == NULL) return false;
    leave_queue(t);
    timer_stop(&t->host->worker->timers, &t->wake);
    q->woken++;
    t->waiting = HOST_READY;
    t->woken = true;
    host_line_up(t->host, &t->turn);
    return true;
}

void host_wait_end(host_task *t)
{
    host_queue *q = t->queue;
    timer_stop(&t->host->worker->timers, &t->wake);
    switch ((host_waiting)t->waiting) {
    case HOST_CONNECTS:
        host_connect_abandon(t->attempt);
        break;
    case HOST_STREAMS:
        host_stream_abandon(t);
        break;
    case HOST_PIPES:
        host_pipe_abandon(t->pipe);
        break;
    case HOST_QUEUES:
        leave_queue(t);
        break;
    case HOST_READY:
        host_line_leave(t->host, &t->turn);
        q->woken--;
        break;
    case HOST_SLEEPS:
    case HOST_RUNS:
    default:
        break;
    }
    t->queue = NULL;
    t->woken = false;
    if (q != NULL && q->left != NULL) q->left(q, t);
}
