/* raw_uring_loop.c - a thread of raw_uring_echo: its ring, its listener, its connections. */
#define _GNU_SOURCE
#include "raw_uring.h"

#include "uring.h"

#include <sched.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

enum { OP_ACCEPT = 1, OP_RECV, OP_SEND, OP_SKIP, OP_CLOSE, OP_IGN, OP_POLL };

#define NIL 0xffffffffu
#define IOVN 16

/* 20 bytes per connection, in a table indexed by descriptor */
struct conn {
    uint32_t head, tail; /* chunks received and not yet sent */
    uint32_t inflight;   /* chunks covered by the send in flight */
    uint8_t open, armed, sending, eof, batch;
    uint8_t dead, starved, pad, polled;
    uint32_t next_starved;
};

struct chunk {
    uint32_t next, off, len, bid;
};

struct srv {
    struct ur u;
    struct ur_bufs b;
    struct conn *c;
    int ls;
    /* chunk pool */
    struct chunk *ch;
    uint32_t ch_free, ch_used, ch_max;
    /* incremental buffers / bundles bookkeeping */
    uint32_t *bconsumed, *brefs;
    uint8_t *bkernel;
    uint16_t *ring_bid; /* ring position -> bid */
    uint16_t *bid_pos;  /* bid -> ring position */
    uint32_t starved;
    int recycled;
    int more;       /* sends without CQE hide work to continue with */
    unsigned nfree; /* buffers the kernel may still fill */
    /* sends submitted without a success CQE, resolved after the next scan */
    uint32_t *skip_prev, *skip_cur;
    unsigned nskip_prev, nskip_cur;
    struct iovec *iov; /* arena, valid until submission */
    struct msghdr *msg;
    unsigned niov, nmsg;
};

static inline uint64_t ud(int op, uint32_t c)
{
    return (uint64_t)op << 56 | c;
}

static void set_fd(struct io_uring_sqe *s, uint32_t c)
{
    s->fd = (int)c;
    if (direct) s->flags |= IOSQE_FIXED_FILE;
}

static void add_buf(struct srv *s, uint32_t bid)
{
    unsigned pos = s->b.tail & s->b.mask;
    s->ring_bid[pos] = (uint16_t)bid;
    s->bid_pos[bid] = (uint16_t)pos;
    s->bconsumed[bid] = 0;
    s->bkernel[bid] = 1;
    ur_bufs_add(&s->b, bid, bufsz);
    s->recycled = 1;
    s->nfree++;
}

static uint32_t ch_new(struct srv *s)
{
    uint32_t i = s->ch_free;
    if (i != NIL) s->ch_free = s->ch[i].next;
    else if (s->ch_used < s->ch_max) i = s->ch_used++; /* untouched part of the pool */
    else {
        fprintf(stderr, "chunk pool empty\n");
        exit(1);
    }
    return i;
}

static void ch_done(struct srv *s, uint32_t i)
{
    uint32_t bid = s->ch[i].bid;
    s->ch[i].next = s->ch_free;
    s->ch_free = i;
    if (rmode == R_OWN) return;
    if (!inc) {
        add_buf(s, bid);
        return;
    }
    if (--s->brefs[bid] == 0 && !s->bkernel[bid]) add_buf(s, bid);
}

static void arm_accept(struct srv *s)
{
    struct io_uring_sqe *q = ur_sqe(&s->u);
    q->opcode = IORING_OP_ACCEPT;
    q->fd = s->ls;
    q->accept_flags = direct ? 0 : SOCK_CLOEXEC;
    if (amulti) q->ioprio = IORING_ACCEPT_MULTISHOT;
    if (direct) q->file_index = IORING_FILE_INDEX_ALLOC;
    q->user_data = ud(OP_ACCEPT, 0);
}

static void arm_recv(struct srv *s, uint32_t c, int first)
{
    struct io_uring_sqe *q = ur_sqe(&s->u);
    q->opcode = IORING_OP_RECV;
    set_fd(q, c);
    if (rmode == R_OWN) {
        q->addr = (uint64_t)(uintptr_t)(s->b.mem + (size_t)c * bufsz);
        q->len = bufsz;
    } else {
        q->flags |= IOSQE_BUFFER_SELECT;
        if (rmode == R_MULTI) q->ioprio |= IORING_RECV_MULTISHOT;
        if (rmode == R_POLL) q->msg_flags = MSG_DONTWAIT;
        if (bundle) q->ioprio |= UR_RECVSEND_BUNDLE;
    }
    if (first && pollfirst) q->ioprio |= IORING_RECVSEND_POLL_FIRST;
    q->user_data = ud(OP_RECV, c);
    s->c[c].armed = 1;
}

static void arm_poll(struct srv *s, uint32_t c)
{
    struct io_uring_sqe *q = ur_sqe(&s->u);
    q->opcode = IORING_OP_POLL_ADD;
    set_fd(q, c);
    q->poll32_events = 1; /* POLLIN */
    q->len = IORING_POLL_ADD_MULTI;
    q->user_data = ud(OP_POLL, c);
    s->c[c].polled = 1;
}

static void maybe_close(struct srv *s, uint32_t c)
{
    struct conn *k = &s->c[c];
    if (k->batch) s->more = 1;
    if (!k->open || !k->eof || k->armed || k->sending || k->batch || k->starved) return;
    if (k->polled) {
        if (k->polled == 1) {
            struct io_uring_sqe *q = ur_sqe(&s->u);
            q->opcode = IORING_OP_POLL_REMOVE;
            q->addr = ud(OP_POLL, c);
            q->flags = IOSQE_CQE_SKIP_SUCCESS;
            q->user_data = ud(OP_IGN, c);
            k->polled = 2;
        }
        return;
    }
    if (k->head != NIL && !k->dead) return;
    while (k->head != NIL) {
        uint32_t x = k->head;
        k->head = s->ch[x].next;
        ch_done(s, x);
    }
    k->open = 0;
    struct io_uring_sqe *q = ur_sqe(&s->u);
    q->opcode = IORING_OP_CLOSE;
    if (direct) q->file_index = c + 1;
    else q->fd = (int)c;
    q->flags = IOSQE_CQE_SKIP_SUCCESS;
    q->user_data = ud(OP_CLOSE, c);
}

static char *chunk_ptr(struct srv *s, uint32_t i)
{
    return s->b.mem + (size_t)s->ch[i].bid * bufsz + s->ch[i].off;
}

static void fail_conn(struct srv *s, uint32_t c)
{
    struct conn *k = &s->c[c];
    k->dead = 1;
    if (k->armed) { /* ends the multishot receive with res 0 */
        struct io_uring_sqe *q = ur_sqe(&s->u);
        q->opcode = IORING_OP_SHUTDOWN;
        set_fd(q, c);
        q->len = SHUT_RDWR;
        q->flags |= IOSQE_CQE_SKIP_SUCCESS;
        q->user_data = ud(OP_IGN, c);
    } else k->eof = 1;
}

/* Start sending what is queued, unless something is on its way already. */
static void pump(struct srv *s, uint32_t c, int mode)
{
    struct conn *k = &s->c[c];
    if (k->batch) s->more = 1;
    if (k->sending || k->batch || k->dead) return;
    if (mode == W_SYS) {
        while (k->head != NIL) {
            uint32_t x = k->head;
            ssize_t w = send((int)c, chunk_ptr(s, x), s->ch[x].len, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (w < 0 && errno == EINTR) continue;
            if (w < 0 && errno != EAGAIN) {
                fail_conn(s, c);
                return;
            }
            if (w < 0) break;
            if ((uint32_t)w < s->ch[x].len) {
                s->ch[x].off += (uint32_t)w;
                s->ch[x].len -= (uint32_t)w;
                break;
            }
            k->head = s->ch[x].next;
            ch_done(s, x);
        }
    }
    if (k->head == NIL) return;
    struct io_uring_sqe *q = ur_sqe(&s->u);
    uint32_t x = k->head;
    set_fd(q, c);
    q->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
    if (s->ch[x].next == NIL || mode == W_ZC || smode == S_SQPOLL) {
        q->opcode = mode == W_ZC ? IORING_OP_SEND_ZC : IORING_OP_SEND;
        q->addr = (uint64_t)(uintptr_t)chunk_ptr(s, x);
        q->len = s->ch[x].len;
        k->inflight = 1;
        x = s->ch[x].next;
    } else {
        if (s->niov + IOVN > sqn * 2u || s->nmsg >= sqn) { /* arena full: flush first */
            s->u.sqe_tail--;
            ur_enter(&s->u, 0, -1, 0);
            s->niov = s->nmsg = 0;
            q = ur_sqe(&s->u);
            set_fd(q, c);
            q->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
        }
        struct msghdr *m = &s->msg[s->nmsg++];
        struct iovec *v = &s->iov[s->niov];
        unsigned n = 0;
        for (; x != NIL && n < IOVN; x = s->ch[x].next, n++) {
            v[n].iov_base = chunk_ptr(s, x);
            v[n].iov_len = s->ch[x].len;
        }
        s->niov += n;
        memset(m, 0, sizeof *m);
        m->msg_iov = v;
        m->msg_iovlen = n;
        q->opcode = IORING_OP_SENDMSG;
        q->addr = (uint64_t)(uintptr_t)m;
        q->len = 1;
        k->inflight = n;
    }
    if (mode == W_SKIP) {
        q->msg_flags |= MSG_DONTWAIT;
        q->flags |= IOSQE_CQE_SKIP_SUCCESS;
        q->user_data = ud(OP_SKIP, c);
        k->batch = 1;
        s->skip_cur[s->nskip_cur++] = c;
        if (x != NIL || rmode == R_OWN) s->more = 1; /* x: first chunk not covered */
    } else {
        q->user_data = ud(OP_SEND, c);
        k->sending = 1;
    }
}

/* n bytes of the chunks in flight have left */
static void consume(struct srv *s, struct conn *k, uint32_t n)
{
    while (n && k->head != NIL) {
        uint32_t x = k->head;
        if (n < s->ch[x].len) {
            s->ch[x].off += n;
            s->ch[x].len -= n;
            break;
        }
        n -= s->ch[x].len;
        k->head = s->ch[x].next;
        ch_done(s, x);
    }
    k->inflight = 0;
}

static void push(struct srv *s, struct conn *k, uint32_t bid, uint32_t off, uint32_t len)
{
    uint32_t x = ch_new(s);
    s->ch[x].next = NIL;
    s->ch[x].off = off;
    s->ch[x].len = len;
    s->ch[x].bid = bid;
    if (k->head == NIL) k->head = x;
    else s->ch[k->tail].next = x;
    k->tail = x;
    if (inc) s->brefs[bid]++;
}

static void on_recv(struct srv *s, uint32_t c, int res, unsigned fl)
{
    struct conn *k = &s->c[c];
    if (!(fl & IORING_CQE_F_MORE)) k->armed = 0;
    if (res > 0) {
        uint32_t left = (uint32_t)res, bid = fl >> IORING_CQE_BUFFER_SHIFT;
        if (rmode == R_OWN) {
            push(s, k, c, 0, left);
        } else if (inc) {
            uint32_t off = s->bconsumed[bid];
            s->bconsumed[bid] += left;
            if (!(fl & UR_CQE_F_BUF_MORE)) {
                s->bkernel[bid] = 0;
                s->nfree--;
            }
            push(s, k, bid, off, left);
        } else if (bundle) {
            for (unsigned pos = s->bid_pos[bid]; left; pos++) {
                uint32_t b = s->ring_bid[pos & s->b.mask], n = left < bufsz ? left : bufsz;
                push(s, k, b, 0, n);
                left -= n;
                s->nfree--;
            }
        } else {
            s->nfree--;
            push(s, k, bid, 0, left);
        }
        pump(s, c, wmode);
        if (k->dead) {
            maybe_close(s, c);
            return;
        }
        if (rmode == R_POLL) {
            if (fl & IORING_CQE_F_SOCK_NONEMPTY || k->pad) {
                k->pad = 0;
                arm_recv(s, c, 0);
            }
        } else if (!k->armed && rmode != R_OWN) arm_recv(s, c, 0);
        else if (rmode == R_OWN && !k->armed && k->head == NIL) arm_recv(s, c, 0);
    } else if (res == -ENOBUFS) {
        if (!k->starved) {
            k->starved = 1;
            k->next_starved = s->starved;
            s->starved = c;
        }
    } else if (res == -EINTR || res == -EAGAIN) {
        if (!k->armed && (rmode != R_POLL || k->pad)) {
            k->pad = 0;
            arm_recv(s, c, 0);
        }
    } else if (!k->armed) {
        k->eof = 1;
        if (res < 0) k->dead = 1;
        maybe_close(s, c);
    }
}

static void after_send(struct srv *s, uint32_t c)
{
    struct conn *k = &s->c[c];
    if (k->head != NIL) pump(s, c, wmode);
    if (rmode == R_OWN && k->head == NIL && !k->armed && !k->eof && !k->dead) arm_recv(s, c, 0);
    if (k->eof) maybe_close(s, c);
}

static void on_accept(struct srv *s, int res)
{
    if (res < 0) return;
    uint32_t c = (uint32_t)res;
    if (c >= maxconn) {
        close(res);
        return;
    }
    struct conn *k = &s->c[c];
    memset(k, 0, sizeof *k);
    k->head = k->tail = NIL;
    k->open = 1;
    if (rmode == R_POLL) arm_poll(s, c);
    else arm_recv(s, c, 1);
}

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static struct srv *server_open(void)
{
    struct srv *s = calloc(1, sizeof *s);
    int r = ring_init(&s->u);
    if (r < 0) {
        fprintf(stderr, "io_uring setup: %s\n", strerror(-r));
        exit(1);
    }
    s->ls = listener();
    s->c = xmap(maxconn * sizeof *s->c);
    s->ch_max = 1u << 20; /* address space only, touched on demand */
    s->ch = xmap(s->ch_max * sizeof *s->ch);
    s->ch_free = NIL;
    s->starved = NIL;
    s->skip_prev = xmap(sizeof(uint32_t) * maxconn);
    s->skip_cur = xmap(sizeof(uint32_t) * maxconn);
    s->iov = xmap(sizeof *s->iov * (sqn * 2 + IOVN));
    s->msg = xmap(sizeof *s->msg * (sqn + 1));
    s->bconsumed = xmap(nbufs * 4);
    s->brefs = xmap(nbufs * 4);
    s->bkernel = xmap(nbufs);
    s->ring_bid = xmap(nbufs * 2);
    s->bid_pos = xmap(nbufs * 2);
    if (direct) {
        struct io_uring_rsrc_register rr = {.nr = (uint32_t)(maxconn < 1100000 ? maxconn : 1100000),
                                            .flags = IORING_RSRC_REGISTER_SPARSE};
        r = ur_register(&s->u, IORING_REGISTER_FILES2, &rr, sizeof rr);
        if (r < 0) {
            fprintf(stderr, "register files: %s\n", strerror(-r));
            exit(1);
        }
    }
    if (napi_us) {
        struct ur_napi na = {.busy_poll_to = napi_us, .prefer_busy_poll = 1};
        r = ur_register(&s->u, UR_REGISTER_NAPI, &na, 1);
        if (r < 0) fprintf(stderr, "NAPI: %s\n", strerror(-r));
    }
    if (rmode == R_OWN) s->b.mem = xmap(maxconn * bufsz);
    else {
        r = ur_bufs_init(&s->u, &s->b, nbufs, bufsz, 0, inc ? UR_PBUF_RING_INC : 0);
        if (r < 0) {
            fprintf(stderr, "buffer ring: %s\n", strerror(-r));
            exit(1);
        }
        for (unsigned i = 0; i < nbufs; i++) add_buf(s, i);
        ur_bufs_publish(&s->b);
    }
    arm_accept(s);
    return s;
}

/* After the submission of a round: which sends without a completion are to be looked at. */
static void turn_skipped(struct srv *s)
{
    /* Sends of the last round asked for no success CQE and for MSG_DONTWAIT,
     * so the submission above finished all of them: those without a failure
     * CQE in the queue now are done and their buffers free. (Not to be
     * concluded while completions sit in the kernel's overflow list.) */
    if (ur_load(s->u.ksq_flags) & IORING_SQ_CQ_OVERFLOW) s->nskip_prev = 0;
    else {
        uint32_t *sw = s->skip_prev;
        s->skip_prev = s->skip_cur;
        s->skip_cur = sw;
        s->nskip_prev = s->nskip_cur;
        s->nskip_cur = 0;
    }
}

static void resolve_skipped(struct srv *s, unsigned head, unsigned tail)
{
    for (unsigned i = head; i != tail; i++) {
        struct io_uring_cqe *e = &s->u.cqes[i & s->u.cq_mask];
        if (e->user_data >> 56 != OP_SKIP) continue;
        uint32_t c = (uint32_t)e->user_data;
        struct conn *k = &s->c[c];
        k->batch = 0;
        if (e->res == -EAGAIN || e->res >= 0) {
            /* socket full: hand the rest over as a polling send */
            consume(s, k, e->res > 0 ? (uint32_t)e->res : 0);
            pump(s, c, W_RING);
        } else {
            fail_conn(s, c);
            maybe_close(s, c);
        }
    }
    for (unsigned i = 0; i < s->nskip_prev; i++) {
        uint32_t c = s->skip_prev[i];
        struct conn *k = &s->c[c];
        if (!k->batch) continue; /* failed above */
        k->batch = 0;
        for (uint32_t n = k->inflight; n; n--) {
            uint32_t x = k->head;
            k->head = s->ch[x].next;
            ch_done(s, x);
        }
        k->inflight = 0;
        if (k->head != NIL || k->eof || rmode == R_OWN) after_send(s, c);
    }
}

static void on_poll(struct srv *s, uint32_t c, const struct io_uring_cqe *e)
{
    struct conn *k = &s->c[c];
    int again = !(e->flags & IORING_CQE_F_MORE) && k->polled == 1 && e->res >= 0 && !k->eof;
    if (!(e->flags & IORING_CQE_F_MORE)) k->polled = 0;
    if (again) arm_poll(s, c);
    if (k->eof || k->dead) {
        k->eof = 1;
        maybe_close(s, c);
    } else if (k->armed || k->starved) k->pad = 1; /* look again afterwards */
    else arm_recv(s, c, 0);
}

static void on_send(struct srv *s, uint32_t c, const struct io_uring_cqe *e)
{
    struct conn *k = &s->c[c];
    if (e->flags & IORING_CQE_F_NOTIF) { /* zero copy: buffer free now */
        k->sending = 0;
        consume(s, k, k->pad ? s->ch[k->head].len : 0);
        k->pad = 0;
        after_send(s, c);
        return;
    }
    if (e->flags & IORING_CQE_F_MORE) { /* zero copy: wait for NOTIF */
        if (e->res < 0) fail_conn(s, c);
        else k->pad = 1;
        return;
    }
    k->sending = 0;
    if (e->res < 0) {
        fail_conn(s, c);
        maybe_close(s, c);
        return;
    }
    consume(s, k, (uint32_t)e->res);
    after_send(s, c);
}

static void on_completion(struct srv *s, const struct io_uring_cqe *e)
{
    uint32_t c = (uint32_t)e->user_data;
    switch (e->user_data >> 56) {
    case OP_RECV:
        on_recv(s, c, e->res, e->flags);
        break;
    case OP_POLL:
        on_poll(s, c, e);
        break;
    case OP_SEND:
        on_send(s, c, e);
        break;
    case OP_ACCEPT:
        on_accept(s, e->res);
        if (!(e->flags & IORING_CQE_F_MORE)) arm_accept(s);
        break;
    default:
        break;
    }
}

/* There are buffers again. */
static void feed_starved(struct srv *s)
{
    while (s->starved != NIL) {
        uint32_t c = s->starved;
        s->starved = s->c[c].next_starved;
        s->c[c].starved = 0;
        if (s->c[c].eof) maybe_close(s, c);
        else if (s->c[c].open && !s->c[c].armed) arm_recv(s, c, 0);
    }
}

void *raw_uring_loop(void *unused)
{
    (void)unused;
    if (separate && unshare(CLONE_FILES)) perror("unshare");
    struct srv *s = server_open();
    uint64_t idle_since = 0;
    for (;;) {
        unsigned wn = waitn;
        if (spin_us) {
            uint64_t t = now_us();
            if (!idle_since) idle_since = t;
            if (t - idle_since < spin_us) wn = 0;
        }
        if (s->nskip_cur && (s->more || s->starved != NIL)) wn = 0;
        s->more = 0;
        int r = ur_enter(&s->u, wn, minwait ? 1000000000 : -1, minwait);
        if (r < 0 && r != -EINTR && r != -ETIME && r != -EAGAIN && r != -EBUSY) {
            fprintf(stderr, "enter: %s\n", strerror(-r));
            exit(1);
        }
        s->niov = s->nmsg = 0;
        turn_skipped(s);
        unsigned head = *s->u.kcq_head, tail = ur_load(s->u.kcq_tail);
        if (s->nskip_prev || s->nskip_cur) resolve_skipped(s, head, tail);
        if (spin_us && head != tail) idle_since = 0;
        for (; head != tail; head++) on_completion(s, &s->u.cqes[head & s->u.cq_mask]);
        ur_store(s->u.kcq_head, head);
        if (s->recycled) {
            ur_bufs_publish(&s->b);
            s->recycled = 0;
        }
        if (s->starved != NIL && s->nfree) feed_starved(s);
    }
    return NULL;
}
