/* raw_uring_echo - echo server on io_uring, as tight as this bench can make it,
 * with every relevant kernel feature switchable so each can be measured.
 *
 *   raw_uring_echo [options] PORT
 *     -t N         threads, each with its own ring and SO_REUSEPORT listener
 *     -S MODE      ring mode: defer (default) | coop | plain | sqpoll
 *     -R MODE      receive: multi (default) | single | own (buffer per connection)
 *                  | poll (idle: multishot poll only; receive when readable)
 *     -A MODE      accept: multi (default) | single
 *     -W MODE      send: ring (default) | skip (no completion on success) | sys | zc
 *     -D           direct (registered) descriptors from accept on
 *     -B           receive bundles
 *     -I | -O      incrementally consumed buffers (default where the kernel has
 *                  them) | one buffer per receive
 *     -n N -s N    number and size of provided buffers (8 x 1 MiB with -I,
 *                  512 x 16 KiB with -O)
 *     -q N         submission queue entries (4096)
 *     -w N         completions to wait for (1)
 *     -M USEC      minimum wait window (6.12)
 *     -X USEC      spin this long before blocking
 *     -P           poll first on the initial receive
 *     -U           separate descriptor table per thread (N times the limit)
 *     -N USEC      register NAPI busy polling
 *     -v           print the features of the running kernel and exit
 *
 * Built with -DWITH_LUA (and Lua 5.4) it calls on_message(id, data) of the Lua
 * file given with -l for everything received - with -L for every line - and
 * sends what that returns: the reference for what scripting has to cost.
 *
 * Correctness rules it keeps: one send in flight per connection (stream order),
 * a provided buffer is recycled only after its send finished, out-of-buffers
 * stops a receiver until buffers come back.
 */
#define _GNU_SOURCE
#include "uring.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#ifdef WITH_LUA
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
static const char *script;
static int lines;
#define BLOCK 16384u
#endif

enum { OP_ACCEPT = 1, OP_RECV, OP_SEND, OP_SKIP, OP_CLOSE, OP_IGN, OP_POLL };
enum { S_PLAIN, S_COOP, S_DEFER, S_SQPOLL };
enum { R_MULTI, R_SINGLE, R_OWN, R_POLL };
enum { W_RING, W_SKIP, W_SYS, W_ZC };

static int port, threads = 1, smode = S_DEFER, rmode = R_MULTI, amulti = 1, wmode = W_RING;
static int direct, bundle, inc = -1, pollfirst, separate;
static unsigned nbufs, bufsz, sqn = 4096, waitn = 1, minwait, spin_us, napi_us;
static size_t maxconn;

#define NIL 0xffffffffu
#define IOVN 16

/* 20 bytes per connection, in a table indexed by descriptor */
struct conn {
    uint32_t head, tail; /* chunks received and not yet sent */
    uint32_t inflight;   /* chunks covered by the send in flight */
    uint8_t open, armed, sending, eof, batch;
    uint8_t dead, starved, pad, polled;
    uint32_t next_starved;
#ifdef WITH_LUA
    uint32_t carry_len; /* unfinished line */
    char *carry;
#endif
};

struct chunk {
    uint32_t next, off, len, bid;
#ifdef WITH_LUA
    char *own; /* reply memory, 16 KiB or more */
    uint32_t cap;
#endif
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
#ifdef WITH_LUA
    lua_State *L;
    char *blocks; /* free reply blocks, linked through their start */
#endif
    struct iovec *iov; /* arena, valid until submission */
    struct msghdr *msg;
    unsigned niov, nmsg;
};

static void *xmap(size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return p;
}

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
#ifdef WITH_LUA
    if (s->ch[i].own) {
        if (s->ch[i].cap == BLOCK) {
            *(char **)(void *)s->ch[i].own = s->blocks;
            s->blocks = s->ch[i].own;
        } else free(s->ch[i].own);
        s->ch[i].own = NULL;
        s->ch[i].next = s->ch_free;
        s->ch_free = i;
        return;
    }
#endif
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
#ifdef WITH_LUA
    free(k->carry);
    k->carry = NULL;
    k->carry_len = 0;
#endif
    struct io_uring_sqe *q = ur_sqe(&s->u);
    q->opcode = IORING_OP_CLOSE;
    if (direct) q->file_index = c + 1;
    else q->fd = (int)c;
    q->flags = IOSQE_CQE_SKIP_SUCCESS;
    q->user_data = ud(OP_CLOSE, c);
}

static char *chunk_ptr(struct srv *s, uint32_t i)
{
#ifdef WITH_LUA
    if (s->ch[i].own) return s->ch[i].own + s->ch[i].off;
#endif
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
#ifdef WITH_LUA
    if (x == NIL) k->pad = 0; /* everything queued is on its way */
#endif
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

#ifdef WITH_LUA
/* ---- Lua: on_message(id, data) returns the reply ------------------------- */
static void reply(struct srv *s, struct conn *k, const char *p, size_t n)
{
    uint32_t x = k->tail;
    if (k->head == NIL || !k->pad || s->ch[x].off + s->ch[x].len + n > s->ch[x].cap) {
        uint32_t cap = n > BLOCK ? (uint32_t)n : BLOCK;
        char *m = cap == BLOCK && s->blocks ? s->blocks : NULL;
        if (m) s->blocks = *(char **)(void *)m;
        else if (!(m = malloc(cap))) exit(1);
        x = ch_new(s);
        s->ch[x].next = NIL;
        s->ch[x].off = s->ch[x].len = 0;
        s->ch[x].bid = 0;
        s->ch[x].own = m;
        s->ch[x].cap = cap;
        if (k->head == NIL) k->head = x;
        else s->ch[k->tail].next = x;
        k->tail = x;
        k->pad = 1; /* block still open for more */
    }
    memcpy(s->ch[x].own + s->ch[x].off + s->ch[x].len, p, n);
    s->ch[x].len += (uint32_t)n;
}

static void callback(struct srv *s, uint32_t c, const char *p, size_t n)
{
    lua_State *L = s->L;
    lua_pushvalue(L, 1);
    lua_pushinteger(L, c);
    lua_pushlstring(L, p, n);
    if (lua_pcall(L, 2, 1, 0)) {
        fprintf(stderr, "lua: %s\n", lua_tostring(L, -1));
        exit(1);
    }
    size_t rn;
    const char *r = lua_tolstring(L, -1, &rn);
    if (r) reply(s, &s->c[c], r, rn);
    lua_settop(L, 1);
}

static void deliver(struct srv *s, uint32_t c, const char *p, size_t n)
{
    struct conn *k = &s->c[c];
    if (!lines) {
        callback(s, c, p, n);
        return;
    }
    while (n) {
        const char *e = memchr(p, '\n', n);
        size_t m = e ? (size_t)(e - p) + 1 : n;
        if (e && !k->carry_len) callback(s, c, p, m);
        else {
            k->carry = realloc(k->carry, k->carry_len + m);
            memcpy(k->carry + k->carry_len, p, m);
            k->carry_len += (uint32_t)m;
            if (e) {
                callback(s, c, k->carry, k->carry_len);
                free(k->carry);
                k->carry = NULL;
                k->carry_len = 0;
            }
        }
        p += m;
        n -= m;
    }
}

static lua_State *load(void)
{
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    if (luaL_dofile(L, script)) {
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
        exit(1);
    }
    lua_settop(L, 0);
    lua_getglobal(L, "on_message");
    return L;
}
#endif

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
#ifdef WITH_LUA
            deliver(s, c, s->b.mem + (size_t)bid * bufsz + off, left);
            if (!s->bkernel[bid]) add_buf(s, bid);
#else
            push(s, k, bid, off, left);
#endif
        } else if (bundle) {
            for (unsigned pos = s->bid_pos[bid]; left; pos++) {
                uint32_t b = s->ring_bid[pos & s->b.mask], n = left < bufsz ? left : bufsz;
                push(s, k, b, 0, n);
                left -= n;
                s->nfree--;
            }
        } else {
            s->nfree--;
#ifdef WITH_LUA
            deliver(s, c, s->b.mem + (size_t)bid * bufsz, left);
            add_buf(s, bid);
#else
            push(s, k, bid, 0, left);
#endif
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

static int listener(void)
{
    int one = 1, l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_ANY);
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (threads > 1) setsockopt(l, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    setsockopt(l, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(l, (struct sockaddr *)&a, sizeof a) || listen(l, 65535)) {
        perror("listen");
        exit(1);
    }
    return l;
}

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static int ring_init(struct ur *u)
{
    unsigned fl = 0;
    if (smode == S_DEFER) fl = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    if (smode == S_COOP) fl = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SINGLE_ISSUER;
    if (smode == S_SQPOLL) fl = IORING_SETUP_SQPOLL;
    return ur_init(u, sqn, sqn * 4, fl, 0, 50);
}

static void *loop(void *arg)
{
    (void)arg;
    if (separate && unshare(CLONE_FILES)) perror("unshare");
    struct srv *s = calloc(1, sizeof *s);
    int r = ring_init(&s->u);
    if (r < 0) {
        fprintf(stderr, "io_uring setup: %s\n", strerror(-r));
        exit(1);
    }
    s->ls = listener();
#ifdef WITH_LUA
    s->L = load();
#endif
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
        r = ur_enter(&s->u, wn, minwait ? 1000000000 : -1, minwait);
        if (r < 0 && r != -EINTR && r != -ETIME && r != -EAGAIN && r != -EBUSY) {
            fprintf(stderr, "enter: %s\n", strerror(-r));
            exit(1);
        }
        s->niov = s->nmsg = 0;
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
        unsigned head = *s->u.kcq_head, tail = ur_load(s->u.kcq_tail);
        if (s->nskip_prev || s->nskip_cur) {
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
        if (spin_us && head != tail) idle_since = 0;
        for (; head != tail; head++) {
            struct io_uring_cqe *e = &s->u.cqes[head & s->u.cq_mask];
            uint32_t c = (uint32_t)e->user_data;
            switch (e->user_data >> 56) {
            case OP_RECV:
                on_recv(s, c, e->res, e->flags);
                break;
            case OP_POLL: {
                struct conn *k = &s->c[c];
                int again = !(e->flags & IORING_CQE_F_MORE) && k->polled == 1 && e->res >= 0 && !k->eof;
                if (!(e->flags & IORING_CQE_F_MORE)) k->polled = 0;
                if (again) arm_poll(s, c);
                if (k->eof || k->dead) {
                    k->eof = 1;
                    maybe_close(s, c);
                } else if (k->armed || k->starved) k->pad = 1; /* look again afterwards */
                else arm_recv(s, c, 0);
                break;
            }
            case OP_SEND: {
                struct conn *k = &s->c[c];
                if (e->flags & IORING_CQE_F_NOTIF) { /* zero copy: buffer free now */
                    k->sending = 0;
                    consume(s, k, k->pad ? s->ch[k->head].len : 0);
                    k->pad = 0;
                    after_send(s, c);
                    break;
                }
                if (e->flags & IORING_CQE_F_MORE) { /* zero copy: wait for NOTIF */
                    if (e->res < 0) fail_conn(s, c);
                    else k->pad = 1;
                    break;
                }
                k->sending = 0;
                if (e->res < 0) {
                    fail_conn(s, c);
                    maybe_close(s, c);
                    break;
                }
                consume(s, k, (uint32_t)e->res);
                after_send(s, c);
                break;
            }
            case OP_ACCEPT:
                on_accept(s, e->res);
                if (!(e->flags & IORING_CQE_F_MORE)) arm_accept(s);
                break;
            default:
                break;
            }
        }
        ur_store(s->u.kcq_head, head);
        if (s->recycled) {
            ur_bufs_publish(&s->b);
            s->recycled = 0;
        }
        if (s->starved != NIL && s->nfree) {
            while (s->starved != NIL) {
                uint32_t c = s->starved;
                s->starved = s->c[c].next_starved;
                s->c[c].starved = 0;
                if (s->c[c].eof) maybe_close(s, c);
                else if (s->c[c].open && !s->c[c].armed) arm_recv(s, c, 0);
            }
        }
    }
    return NULL;
}

static void probe(void)
{
    struct ur u;
    int r = ur_init(&u, 64, 256, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, 0, 0);
    printf("single_issuer+defer_taskrun: %s\n", r < 0 ? strerror(-r) : "yes");
    if (r < 0) return;
    printf("no_sqarray: %s\nregistered ring fd: %s\n", u.setup_flags & UR_SETUP_NO_SQARRAY ? "yes" : "no",
           u.enter_flags ? "yes" : "no");
    printf("features: 0x%x bundles: %s min_wait: %s no_iowait: %s\n", u.features,
           u.features & UR_FEAT_RECVSEND_BUNDLE ? "yes" : "no", u.features & UR_FEAT_MIN_TIMEOUT ? "yes" : "no",
           u.features & UR_FEAT_NO_IOWAIT ? "yes" : "no");
    struct ur_bufs b;
    r = ur_bufs_init(&u, &b, 64, 4096, 0, 0);
    printf("buffer ring: %s\n", r < 0 ? strerror(-r) : "yes");
    r = ur_bufs_init(&u, &b, 64, 4096, 1, UR_PBUF_RING_INC);
    printf("incremental buffer ring: %s\n", r < 0 ? strerror(-r) : "yes");
    struct io_uring_rsrc_register rr = {.nr = 1024, .flags = IORING_RSRC_REGISTER_SPARSE};
    r = ur_register(&u, IORING_REGISTER_FILES2, &rr, sizeof rr);
    printf("sparse registered files: %s\n", r < 0 ? strerror(-r) : "yes");
    struct ur_napi na = {.busy_poll_to = 50, .prefer_busy_poll = 1};
    r = ur_register(&u, UR_REGISTER_NAPI, &na, 1);
    printf("NAPI registration: %s\n", r < 0 ? strerror(-r) : "yes");
    struct {
        struct io_uring_probe p;
        struct io_uring_probe_op ops[256];
    } *pr = calloc(1, sizeof *pr);
    r = ur_register(&u, IORING_REGISTER_PROBE, pr, 256);
    printf("last opcode: %d, send_zc: %s\n", r < 0 ? r : pr->p.last_op,
           r >= 0 && pr->p.ops[IORING_OP_SEND_ZC].flags & IO_URING_OP_SUPPORTED ? "yes" : "no");
    struct ur q;
    r = ur_init(&q, 64, 256, IORING_SETUP_SQPOLL, 0, 50);
    printf("sqpoll: %s\n", r < 0 ? strerror(-r) : "yes");
}

static int have_inc(void)
{
    struct ur u;
    struct ur_bufs b;
    if (ur_init(&u, 4, 8, 0, 0, 0) < 0) return 0;
    int r = ur_bufs_init(&u, &b, 2, 4096, 0, UR_PBUF_RING_INC);
    close(u.fd);
    return r >= 0;
}

static int pick(const char *s, const char *names)
{
    int i = 0;
    char *d = strdup(names);
    for (char *p = strtok(d, " "); p; p = strtok(NULL, " "), i++)
        if (!strcmp(p, s)) return i;
    fprintf(stderr, "unknown mode %s (one of: %s)\n", s, names);
    exit(2);
}

int main(int argc, char **argv)
{
    int o;
    while ((o = getopt(argc, argv, "t:S:R:A:W:DBIOn:s:q:w:M:X:PN:vUl:L")) != -1) {
        switch (o) {
        case 't':
            threads = atoi(optarg);
            break;
        case 'S':
            smode = pick(optarg, "plain coop defer sqpoll");
            break;
        case 'R':
            rmode = pick(optarg, "multi single own poll");
            break;
        case 'A':
            amulti = !pick(optarg, "multi single");
            break;
        case 'W':
            wmode = pick(optarg, "ring skip sys zc");
            break;
        case 'D':
            direct = 1;
            break;
        case 'B':
            bundle = 1;
            break;
        case 'I':
            inc = 1;
            break;
        case 'O':
            inc = 0;
            break;
        case 'n':
            nbufs = (unsigned)atoi(optarg);
            break;
        case 's':
            bufsz = (unsigned)atoi(optarg);
            break;
        case 'q':
            sqn = (unsigned)atoi(optarg);
            break;
        case 'w':
            waitn = (unsigned)atoi(optarg);
            break;
        case 'M':
            minwait = (unsigned)atoi(optarg);
            break;
        case 'X':
            spin_us = (unsigned)atoi(optarg);
            break;
        case 'P':
            pollfirst = 1;
            break;
        case 'U':
            separate = 1;
            break;
#ifdef WITH_LUA
        case 'l':
            script = optarg;
            break;
        case 'L':
            lines = 1;
            break;
#endif
        case 'N':
            napi_us = (unsigned)atoi(optarg);
            break;
        case 'v':
            probe();
            return 0;
        default:
            return 2;
        }
    }
    if (optind >= argc) {
        fprintf(stderr, "usage: raw_uring_echo [options] PORT\n");
        return 2;
    }
    if (inc < 0) inc = !bundle && rmode != R_OWN && have_inc();
    if (!bufsz) bufsz = inc ? 1u << 20 : rmode == R_OWN ? 4096 : 16384;
    if (!nbufs) nbufs = inc ? 8 : 512;
    if (rmode == R_POLL && wmode == W_ZC) {
        fprintf(stderr, "-R poll excludes -W zc\n");
        return 2;
    }
    if (bundle && inc) {
        fprintf(stderr, "-B excludes -I\n");
        return 2;
    }
    if (direct && wmode == W_SYS) {
        fprintf(stderr, "-D excludes -W sys\n");
        return 2;
    }
    if (smode == S_SQPOLL && wmode == W_SKIP) wmode = W_RING; /* submission is asynchronous there */
    port = atoi(argv[optind]);
#ifdef WITH_LUA
    if (!script || bundle || rmode != R_MULTI || wmode == W_ZC) {
        fprintf(stderr, "-l SCRIPT is needed, -B, -R and -W zc excluded\n");
        return 2;
    }
#endif
    struct rlimit rl;
    getrlimit(RLIMIT_NOFILE, &rl);
    rl.rlim_cur = rl.rlim_max;
    setrlimit(RLIMIT_NOFILE, &rl);
    maxconn = (size_t)rl.rlim_cur;
    pthread_t th;
    for (int i = 1; i < threads; i++) pthread_create(&th, NULL, loop, NULL);
    loop(NULL);
    return 0;
}
