/* pipe.c - one step looks at all there is to do and then waits: for input, for room, or for the end of the sending. On the
 * other connection it waits for its end meanwhile, so that each is there as long as the pipe needs it.
 */
#include "pipe.h"

#include "base.h"

#include <assert.h>

static void begin_waiting(conn_pipe *p, conn_want from, conn_want to)
{
    conn_wait_begin(p->source, &p->from, from);
    conn_wait_begin(p->target, &p->to, to);
}

static void finish(conn_pipe *p, pipe_end end)
{
    p->end = (uint8_t)end;
    conn_unhold(p->source);
    if (p->over != NULL) p->over(p);
}

/* Bytes that the target's queue can take now. */
static size_t room_of(const conn *target)
{
    uint32_t most = target->limits->send_max;
    if (conn_is_high(target)) return 0;
    return most == 0 ? SIZE_MAX : most > conn_queued(target) ? most - conn_queued(target) : 0;
}

/* Passes on what there is. False: the target refuses it. */
static bool pass_on(conn_pipe *p)
{
    const uint8_t *data;
    size_t len = conn_input(p->source, &data), room = room_of(p->target);
    if (len > room) len = room;
    if (len > p->left) len = (size_t)p->left;
    if (len == 0) return true;
    if (conn_send(p->target, data, len) != IO_OK) return false;
    conn_consume(p->source, len);
    p->bytes += len;
    if (p->left != UINT64_MAX) p->left -= len;
    return true;
}

static bool has_input(const conn *c)
{
    const uint8_t *data;
    return conn_input(c, &data) > 0;
}

/* All has been queued: waits for the rest of it to leave. */
static void flush(conn_pipe *p)
{
    conn *target = p->target;
    if (p->left == UINT64_MAX) conn_shutdown(target);
    p->flushing = true;
    if (conn_queued(target) == 0) finish(p, PIPE_DONE);
    else conn_wait_begin(target, &p->to, CONN_WANT_EMPTY);
}

static void step(conn_pipe *p)
{
    conn *source = p->source, *target = p->target;
    if (target->state != CONN_OPEN || target->fin_wanted) {
        finish(p, PIPE_TARGET);
    } else if (source->state != CONN_OPEN) {
        finish(p, PIPE_SOURCE);
    } else if (!pass_on(p)) {
        finish(p, PIPE_TARGET);
    } else if (p->left == 0) {
        flush(p);
    } else if (has_input(source) || conn_is_high(target)) {
        begin_waiting(p, CONN_WANT_END, conn_is_high(target) ? CONN_WANT_LOW : CONN_WANT_EMPTY);
    } else if (!source->eof_seen) {
        begin_waiting(p, CONN_WANT_RELAY, CONN_WANT_END);
    } else if (p->left != UINT64_MAX) {
        finish(p, PIPE_EOF);
    } else {
        flush(p);
    }
}

static void source_has_news(conn_wait *wait, conn *c)
{
    conn_pipe *p = container_of(wait, conn_pipe, from);
    (void)c;
    conn_wait_end(p->target, &p->to);
    step(p);
}

static void target_has_news(conn_wait *wait, conn *c)
{
    conn_pipe *p = container_of(wait, conn_pipe, to);
    if (p->flushing) {
        finish(p, conn_queued(c) == 0 ? PIPE_DONE : PIPE_TARGET);
        return;
    }
    conn_wait_end(p->source, &p->from);
    step(p);
}

pipe_end pipe_begin(conn_pipe *p, conn *source, conn *target, uint64_t count, void (*over)(conn_pipe *p))
{
    assert(!conn_is_read(source));
    *p = (conn_pipe){.source = source, .target = target, .left = count};
    p->from.wake = source_has_news;
    p->to.wake = target_has_news;
    p->to.feeds = true;
    conn_hold(source);
    step(p);
    p->over = over;
    return (pipe_end)p->end;
}

void pipe_stop(conn_pipe *p)
{
    assert(p->end == PIPE_RUNS);
    conn_wait_end(p->target, &p->to);
    if (!p->flushing) conn_wait_end(p->source, &p->from);
    conn_unhold(p->source);
}
