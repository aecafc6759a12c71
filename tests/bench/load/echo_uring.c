#include "echo.h"

#include "../references/uring.h"

#include <sys/socket.h>

enum { OP_RECV = 1, OP_SEND };
enum { COMPLETIONS = 16384, BUFFERS = 2048, WAIT_NS = 100000000 };

struct by_uring {
    struct echo_worker *w;
    struct ur ring;
    struct ur_bufs buffers;
    unsigned buffer_bytes;
};

static struct io_uring_sqe *submission(struct by_uring *e, const struct conn *c, int operation, uint8_t opcode)
{
    struct io_uring_sqe *q = ur_sqe(&e->ring);
    q->opcode = opcode;
    q->fd = (int)(c - e->w->conns);
    q->flags = IOSQE_FIXED_FILE;
    q->user_data = (uint64_t)operation << 56 | (uint64_t)(c - e->w->conns);
    return q;
}

static void uring_receive(struct by_uring *e, struct conn *c)
{
    struct io_uring_sqe *q = submission(e, c, OP_RECV, IORING_OP_RECV);
    q->flags |= IOSQE_BUFFER_SELECT;
    q->ioprio = IORING_RECV_MULTISHOT;
}

/* With one message in flight its answer proves that the send is over, so no completion is asked for; with more of them there
 * is one send at a time. */
static void uring_send(void *engine, struct conn *c)
{
    struct by_uring *e = engine;
    char *data;
    size_t len;
    if (c->dead || c->sending || (len = conn_unsent(c, &data)) == 0) return;
    struct io_uring_sqe *q = submission(e, c, OP_SEND, IORING_OP_SEND);
    q->addr = (uint64_t)(uintptr_t)data;
    q->len = (uint32_t)len;
    q->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
    c->sent_bytes += len;
    if (options.depth == 1) q->flags |= IOSQE_CQE_SKIP_SUCCESS;
    else c->sending = true;
}

/* Returns 0, or -errno. */
static int uring_open(struct by_uring *e)
{
    struct echo_worker *w = e->w;
    e->buffer_bytes = options.size * (size_t)options.depth > 8192 ? 16384 : 4096;
    int r =
        ur_init(&e->ring, options.batch, COMPLETIONS, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, 0, 0);
    if (r < 0) return r;
    r = ur_bufs_init(&e->ring, &e->buffers, BUFFERS, e->buffer_bytes, 0, 0);
    if (r < 0) return r;
    int *fds = malloc(sizeof(*fds) * (size_t)w->count);
    for (int i = 0; i < w->count; i++) fds[i] = w->conns[i].fd;
    r = ur_register(&e->ring, IORING_REGISTER_FILES, fds, (unsigned)w->count);
    free(fds);
    if (r < 0) return r;
    for (unsigned i = 0; i < e->buffers.n; i++) ur_bufs_add(&e->buffers, i, e->buffer_bytes);
    ur_bufs_publish(&e->buffers);
    return 0;
}

static void uring_received(struct by_uring *e, struct conn *c, const struct io_uring_cqe *cqe)
{
    if (cqe->res > 0) {
        unsigned id = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
        if (!c->dead) conn_take(e->w, c, e->buffers.mem + (size_t)id * e->buffer_bytes, (size_t)cqe->res);
        ur_bufs_add(&e->buffers, id, e->buffer_bytes);
        if (options.rate == 0) uring_send(e, c);
        if (!(cqe->flags & IORING_CQE_F_MORE) && !c->dead) uring_receive(e, c);
    } else if (cqe->res == -ENOBUFS) {
        ur_bufs_publish(&e->buffers);
        uring_receive(e, c);
    } else conn_fail(e->w, c, "recv", -cqe->res);
}

static void uring_sent(struct by_uring *e, struct conn *c, int result)
{
    c->sending = false;
    if (result < 0) conn_fail(e->w, c, "send", -result);
    else uring_send(e, c);
}

static void uring_fail(struct by_uring *e, const char *what, int code)
{
    e->w->errors++;
    trouble_note(&e->w->trouble, what, code);
}

void echo_by_uring(struct echo_worker *w)
{
    struct by_uring *e = calloc(1, sizeof *e);
    e->w = w;
    int r = uring_open(e);
    if (r < 0) {
        uring_fail(e, "io_uring", -r);
        return;
    }
    for (int i = 0; i < w->count; i++) {
        struct conn *c = &w->conns[i];
        uring_receive(e, c);
        if (options.rate > 0) continue;
        for (int k = 0; k < options.depth; k++) conn_make(c, ticks());
        uring_send(e, c);
    }
    while (phase != OVER && w->alive > 0) {
        int64_t wait_ns = options.rate > 0 ? echo_due(w, uring_send, e) : WAIT_NS;
        r = ur_enter(&e->ring, 1, wait_ns < WAIT_NS ? wait_ns : WAIT_NS, 0);
        if (r < 0 && r != -ETIME && r != -EINTR && r != -EAGAIN && r != -EBUSY) {
            uring_fail(e, "io_uring_enter", -r);
            return;
        }
        unsigned head = *e->ring.kcq_head, tail = ur_load(e->ring.kcq_tail);
        for (; head != tail; head++) {
            const struct io_uring_cqe *cqe = &e->ring.cqes[head & e->ring.cq_mask];
            struct conn *c = &w->conns[(uint32_t)cqe->user_data];
            if (cqe->user_data >> 56 == OP_SEND) uring_sent(e, c, cqe->res);
            else uring_received(e, c, cqe);
        }
        ur_store(e->ring.kcq_head, head);
        ur_bufs_publish(&e->buffers);
    }
}
