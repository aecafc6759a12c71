/* echoload - load client for TCP echo / acknowledge servers.
 *
 *   echoload [options] HOST PORT[,PORT...]
 *
 * Modes (-m):
 *   echo      closed loop: every connection keeps DEPTH messages in flight
 *             (default); with -R an open loop at a fixed message rate
 *   connect   connect, one echo, close - repeated; reports connections/s
 *   idle      open and hold connections; obeys commands on stdin:
 *             "sweep N W" pings N random connections, W at a time; "quit".
 *             With several ports thread i connects to the i-th of them
 * Options:
 *   -c N   connections (1)             -s N   message size in bytes (64)
 *   -p N   messages in flight per connection (1)
 *   -d S   measured seconds (3)        -w S   warm-up seconds before (1)
 *   -t N   threads (1)                 -R N   messages/s in total, open loop
 *   -f F   framing: raw (default) | line | fixed
 *   -q STR -a STR  request and expected answer for -f fixed (\r \n escapes)
 *   -e E   engine: uring (default) | epoll
 *   -b N   submission batch of the uring engine (64)
 *   -S N   source addresses 127.0.0.2 .. (connect: 64, idle: one per 8000)
 *   -T     idle: do not send one message on each fresh connection
 *   -P PID server process to account CPU time for (repeatable)
 *   -C N   core whose busy time is reported (from /proc/stat)
 *   -r S   answer timeout: no progress for S seconds ends the run (10)
 *
 * Every message carries its connection and sequence number at the front (and
 * the sequence again at the end when there is room); every byte of the answer
 * is compared. Latencies go into a logarithmic histogram of 128 sub-buckets
 * per power of two (error below 0.8 %), one entry per message, no sampling.
 * One line of JSON on stdout.
 */
#define _GNU_SOURCE
#include "uring.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#if defined(__x86_64__) || defined(__i386__)
#include <x86intrin.h>
#define HAVE_TSC 1
#endif
#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

/* ---- options ---------------------------------------------------------- */
enum { M_ECHO, M_CONNECT, M_IDLE };
enum { F_RAW, F_LINE, F_FIXED };
enum { E_URING, E_EPOLL };
static int mode = M_ECHO, framing = F_RAW, engine = E_URING;
static int nconn = 1, msz = 64, depth = 1, nthreads = 1, nsrc = -1, touch = 1, core = -1;
static unsigned sqbatch = 64;
static double dur = 3, warm = 1, rate, stall = 10;
static const char *host, *rq, *an;
static char *rq_b, *an_b;
static int ansz;
static struct sockaddr_in dst;
static uint16_t ports[256]; /* network order; dst has the first */
static int nports;
static int pids[64], npids;

/* ---- time -------------------------------------------------------------- */
static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
#ifdef HAVE_TSC
static double tick_ns = 1;
static inline uint64_t ticks(void)
{
    return __rdtsc();
}
static void calibrate(void)
{
    uint64_t n0 = now_ns(), t0 = ticks(), n1;
    do n1 = now_ns();
    while (n1 - n0 < 50000000);
    tick_ns = (double)(n1 - n0) / (double)(ticks() - t0);
}
#else
static const double tick_ns = 1;
static inline uint64_t ticks(void)
{
    return now_ns();
}
static void calibrate(void)
{
}
#endif

/* ---- histogram --------------------------------------------------------- */
#define SUB 128
#define NB (64 * SUB)
struct hist {
    uint64_t n, max, b[NB];
};

static inline unsigned h_idx(uint64_t v)
{
    if (v < SUB) return (unsigned)v;
    unsigned e = 63u - (unsigned)__builtin_clzll(v); /* >= 7 */
    return (e - 6) * SUB + (unsigned)((v >> (e - 7)) & (SUB - 1));
}
static uint64_t h_val(unsigned i) /* upper edge */
{
    if (i < SUB) return i;
    unsigned e = i / SUB + 6;
    return (((uint64_t)(i % SUB) + SUB + 1) << (e - 7)) - 1;
}
static inline void h_add(struct hist *h, uint64_t v)
{
    h->b[h_idx(v)]++;
    h->n++;
    if (v > h->max) h->max = v;
}
static void h_merge(struct hist *a, const struct hist *b)
{
    for (int i = 0; i < NB; i++) a->b[i] += b->b[i];
    a->n += b->n;
    if (b->max > a->max) a->max = b->max;
}
static double h_q(const struct hist *h, double q) /* microseconds */
{
    uint64_t want = (uint64_t)(q * (double)h->n), seen = 0;
    if (!h->n) return 0;
    if (want >= h->n) want = h->n - 1;
    for (unsigned i = 0; i < NB; i++) {
        seen += h->b[i];
        if (seen > want) {
            uint64_t v = h_val(i);
            return (double)(v > h->max ? h->max : v) * tick_ns / 1000;
        }
    }
    return (double)h->max * tick_ns / 1000;
}

/* ---- CPU accounting ------------------------------------------------------ */
static uint64_t task_ns(int pid, uint64_t *runs)
{
    char p[64];
    uint64_t sum = 0;
    snprintf(p, sizeof p, "/proc/%d/task", pid);
    DIR *d = opendir(p);
    if (!d) return 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        char f[320], b[128];
        snprintf(f, sizeof f, "/proc/%d/task/%s/schedstat", pid, e->d_name);
        int fd = open(f, O_RDONLY);
        if (fd < 0) continue;
        ssize_t n = read(fd, b, sizeof b - 1);
        close(fd);
        if (n > 0) { /* on-CPU time in ns, time waited, times scheduled */
            unsigned long long on = 0, slices = 0;
            b[n] = 0;
            sscanf(b, "%llu %*u %llu", &on, &slices);
            sum += on;
            *runs += slices;
        }
    }
    closedir(d);
    return sum;
}

/* user and system time in clock ticks */
static void task_ticks(int pid, uint64_t *ut, uint64_t *st)
{
    char f[64], b[1024];
    snprintf(f, sizeof f, "/proc/%d/stat", pid);
    int fd = open(f, O_RDONLY);
    if (fd < 0) return;
    ssize_t n = read(fd, b, sizeof b - 1);
    close(fd);
    if (n <= 0) return;
    b[n] = 0;
    char *p = strrchr(b, ')');
    unsigned long long u = 0, s = 0;
    if (p) sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &u, &s);
    *ut += u;
    *st += s;
}

struct cpu {
    uint64_t self_u, self_s, srv, srv_u, srv_s, runs, wall, busy, idle;
};

static void cpu_sample(struct cpu *c)
{
    struct rusage ru;
    memset(c, 0, sizeof *c);
    getrusage(RUSAGE_SELF, &ru);
    c->self_u = (uint64_t)ru.ru_utime.tv_sec * 1000000u + (uint64_t)ru.ru_utime.tv_usec;
    c->self_s = (uint64_t)ru.ru_stime.tv_sec * 1000000u + (uint64_t)ru.ru_stime.tv_usec;
    for (int i = 0; i < npids; i++) {
        c->srv += task_ns(pids[i], &c->runs);
        task_ticks(pids[i], &c->srv_u, &c->srv_s);
    }
    if (core >= 0) {
        FILE *f = fopen("/proc/stat", "r");
        char l[512], w[16];
        snprintf(w, sizeof w, "cpu%d ", core);
        while (f && fgets(l, sizeof l, f))
            if (!strncmp(l, w, strlen(w))) {
                unsigned long long v[8] = {0};
                sscanf(l + strlen(w), "%llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3], &v[4],
                       &v[5], &v[6], &v[7]);
                c->busy = v[0] + v[1] + v[2] + v[5] + v[6];
                c->idle = v[3] + v[4];
            }
        if (f) fclose(f);
    }
    c->wall = now_ns();
}

/* ---- sockets ------------------------------------------------------------- */
static unsigned src_next;

static int tcp_socket(int flags)
{
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0), one = 1;
    if (s < 0) return -1;
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (nsrc > 0) {
        struct sockaddr_in a = {.sin_family = AF_INET};
        unsigned k = __atomic_fetch_add(&src_next, 1, __ATOMIC_RELAXED) % (unsigned)nsrc;
        a.sin_addr.s_addr = htonl(0x7f000002u + k);
        setsockopt(s, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(s, (struct sockaddr *)&a, sizeof a)) {
            close(s);
            return -1;
        }
    }
    return s;
}

/* ---- messages -------------------------------------------------------------- */
static char filler[1 << 16];

static void make_filler(void)
{
    uint64_t x = 0x9e3779b97f4a7c15ull;
    for (size_t i = 0; i < sizeof filler; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        filler[i] = framing == F_RAW ? (char)(x >> 24) : (char)(33 + (x >> 24) % 90);
    }
}

static void fill_slot(char *m, unsigned seed)
{
    if (framing == F_FIXED) {
        memcpy(m, rq_b, (size_t)msz);
        return;
    }
    for (int i = 0; i < msz; i++) m[i] = filler[(seed * 251u + (unsigned)i) % sizeof filler];
    if (framing == F_LINE) m[msz - 1] = '\n';
}

static inline void stamp(char *m, uint32_t conn, uint64_t seq)
{
    if (framing == F_RAW) {
        uint64_t v = (uint64_t)conn << 40 ^ seq;
        if (msz >= 8) memcpy(m, &v, 8);
        else memcpy(m, &v, (size_t)msz);
        if (msz >= 32) memcpy(m + msz - 8, &v, 8);
    } else if (framing == F_LINE) {
        static const char hx[] = "0123456789abcdef";
        uint64_t v = (uint64_t)conn << 40 ^ seq;
        int n = msz - 1 < 16 ? msz - 1 : 16;
        for (int i = n - 1; i >= 0; i--, v >>= 4) m[i] = hx[v & 15];
    }
}

/* ---- echo mode -------------------------------------------------------------- */
struct conn {
    int fd;
    uint8_t sending, dead, idle_listed;
    uint32_t id;
    uint32_t off;                 /* bytes of the current answer seen */
    uint64_t made, sent_b, acked; /* messages created, bytes handed to the kernel, answers */
    char *buf;                    /* depth slots of msz bytes */
    uint64_t *ts;                 /* creation time per slot */
};

struct worker {
    pthread_t th;
    int id, n, first;
    struct conn *c;
    struct hist h;
    uint64_t msgs, errors, mismatch, progress;
    int alive;
    /* open loop */
    uint32_t *ready;
    unsigned rhead, rtail;
    uint64_t next_due, due_step, missed;
    struct ur u;
    struct ur_bufs b;
    int ep;
    char err[128];
};

static volatile int phase; /* 0 warm-up, 1 measuring, 2 over */

static void conn_fail(struct worker *w, struct conn *c, const char *what, int e)
{
    if (c->dead) return;
    c->dead = 1;
    w->errors++;
    w->alive--;
    if (!w->err[0]) snprintf(w->err, sizeof w->err, "%s: %s", what, e ? strerror(e) : "closed by server");
}

static inline void make(struct conn *c, uint64_t t)
{
    unsigned slot = (unsigned)(c->made % (unsigned)depth);
    stamp(c->buf + (size_t)slot * (size_t)msz, c->id, c->made);
    c->ts[slot] = t;
    c->made++;
}

/* Compare n received bytes with what is expected; refill the pipeline. */
static void take(struct worker *w, struct conn *c, const char *p, size_t n)
{
    w->progress++;
    uint64_t t = ticks();
    while (n) {
        if (c->acked == c->made) {
            w->mismatch++;
            conn_fail(w, c, "unexpected bytes", EPROTO);
            return;
        }
        unsigned slot = (unsigned)(c->acked % (unsigned)depth);
        size_t k = (size_t)ansz - c->off;
        if (k > n) k = n;
        const char *exp = framing == F_FIXED ? an_b : c->buf + (size_t)slot * (size_t)msz;
        if (memcmp(p, exp + c->off, k)) {
            w->mismatch++;
            conn_fail(w, c, "answer differs", EPROTO);
            return;
        }
        p += k;
        n -= k;
        c->off += (uint32_t)k;
        if (c->off == (uint32_t)ansz) {
            c->off = 0;
            if (phase == 1) {
                h_add(&w->h, t - c->ts[slot]);
                w->msgs++;
            }
            c->acked++;
            if (!rate) make(c, t);
            else w->ready[w->rtail++ & 0xfffffu] = (uint32_t)(c - w->c);
        }
    }
}

/* contiguous bytes that may be sent now */
static inline size_t span(struct conn *c, char **p)
{
    uint64_t have = c->made * (uint64_t)msz - c->sent_b;
    size_t ring = (size_t)depth * (size_t)msz, pos = (size_t)(c->sent_b % ring);
    *p = c->buf + pos;
    return have < ring - pos ? (size_t)have : ring - pos;
}

/* open loop: create the messages that are due, on connections that have room */
static int64_t due(struct worker *w, void (*send_)(struct worker *, struct conn *))
{
    uint64_t t = ticks();
    while (w->next_due <= t) {
        struct conn *c = NULL;
        while (w->rhead != w->rtail) {
            c = &w->c[w->ready[w->rhead++ & 0xfffffu]];
            if (!c->dead) break;
            c = NULL;
        }
        if (!c) {
            w->missed++;
            break;
        } /* every connection is busy: latency grows instead */
        make(c, w->next_due);
        send_(w, c);
        w->next_due += w->due_step;
    }
    t = ticks();
    return w->next_due > t ? (int64_t)((double)(w->next_due - t) * tick_ns) : (w->rhead != w->rtail ? 0 : 1000000);
}

/* -- epoll engine -- */
static void ep_send(struct worker *w, struct conn *c)
{
    char *p;
    size_t n;
    while (!c->dead && (n = span(c, &p))) {
        ssize_t r = send(c->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0 && errno == EAGAIN) {
            struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
            epoll_ctl(w->ep, EPOLL_CTL_MOD, c->fd, &e);
            c->sending = 1;
            return;
        }
        if (r < 0) {
            conn_fail(w, c, "send", errno);
            return;
        }
        c->sent_b += (uint64_t)r;
    }
}

static void run_epoll(struct worker *w)
{
    static const size_t bs = 1 << 18;
    char *buf = malloc(bs);
    struct epoll_event ev[512];
    w->ep = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < w->n; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &w->c[i]};
        epoll_ctl(w->ep, EPOLL_CTL_ADD, w->c[i].fd, &e);
    }
    if (!rate)
        for (int i = 0; i < w->n; i++) {
            for (int k = 0; k < depth; k++) make(&w->c[i], ticks());
            ep_send(w, &w->c[i]);
        }
    while (phase < 2 && w->alive) {
        int to = 100;
        if (rate) {
            int64_t ns = due(w, ep_send);
            to = (int)(ns / 1000000);
        }
        int n = epoll_wait(w->ep, ev, 512, to);
        for (int i = 0; i < n; i++) {
            struct conn *c = ev[i].data.ptr;
            if (c->dead) continue;
            if (ev[i].events & EPOLLOUT && c->sending) {
                struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
                epoll_ctl(w->ep, EPOLL_CTL_MOD, c->fd, &e);
                c->sending = 0;
                ep_send(w, c);
            }
            if (!(ev[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))) continue;
            ssize_t r = recv(c->fd, buf, bs, MSG_DONTWAIT);
            if (r < 0 && (errno == EAGAIN || errno == EINTR)) continue;
            if (r <= 0) {
                conn_fail(w, c, "recv", r < 0 ? errno : 0);
                close(c->fd);
                continue;
            }
            take(w, c, buf, (size_t)r);
            if (!c->sending && !rate) ep_send(w, c);
            if (c->dead) close(c->fd);
        }
    }
}

/* -- io_uring engine -- */
enum { OP_RECV = 1, OP_SEND };

static void ur_arm(struct worker *w, struct conn *c)
{
    struct io_uring_sqe *q = ur_sqe(&w->u);
    q->opcode = IORING_OP_RECV;
    q->fd = (int)(c - w->c);
    q->flags = IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
    q->ioprio = IORING_RECV_MULTISHOT;
    q->user_data = (uint64_t)OP_RECV << 56 | (uint64_t)(c - w->c);
}

/* With depth 1 the answer itself proves that the previous send is over, so
 * no completion is asked for; deeper pipelines keep one send at a time. */
static void ur_send(struct worker *w, struct conn *c)
{
    char *p;
    size_t n;
    if (c->dead || c->sending || !(n = span(c, &p))) return;
    struct io_uring_sqe *q = ur_sqe(&w->u);
    q->opcode = IORING_OP_SEND;
    q->fd = (int)(c - w->c);
    q->flags = IOSQE_FIXED_FILE;
    q->addr = (uint64_t)(uintptr_t)p;
    q->len = (uint32_t)n;
    q->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
    q->user_data = (uint64_t)OP_SEND << 56 | (uint64_t)(c - w->c);
    c->sent_b += n;
    if (depth == 1) q->flags |= IOSQE_CQE_SKIP_SUCCESS;
    else c->sending = 1;
}

static void run_uring(struct worker *w)
{
    int r = ur_init(&w->u, sqbatch, 16384, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, 0, 0);
    unsigned bsz = msz * depth > 8192 ? 16384 : 4096;
    if (r == 0) r = ur_bufs_init(&w->u, &w->b, 2048, bsz, 0, 0);
    int *fds = malloc(sizeof(int) * (size_t)w->n);
    for (int i = 0; i < w->n; i++) fds[i] = w->c[i].fd;
    if (r == 0) {
        r = ur_register(&w->u, IORING_REGISTER_FILES, fds, (unsigned)w->n);
        if (r > 0) r = 0;
    }
    if (r < 0) {
        snprintf(w->err, sizeof w->err, "io_uring: %s", strerror(-r));
        w->errors++;
        return;
    }
    for (unsigned i = 0; i < w->b.n; i++) ur_bufs_add(&w->b, i, bsz);
    ur_bufs_publish(&w->b);
    for (int i = 0; i < w->n; i++) ur_arm(w, &w->c[i]);
    if (!rate)
        for (int i = 0; i < w->n; i++) {
            for (int k = 0; k < depth; k++) make(&w->c[i], ticks());
            ur_send(w, &w->c[i]);
        }
    while (phase < 2 && w->alive) {
        int64_t to = 100000000;
        if (rate) {
            to = due(w, ur_send);
            if (to > 100000000) to = 100000000;
        }
        r = ur_enter(&w->u, 1, to, 0);
        if (r < 0 && r != -ETIME && r != -EINTR && r != -EAGAIN && r != -EBUSY) {
            snprintf(w->err, sizeof w->err, "io_uring_enter: %s", strerror(-r));
            w->errors++;
            return;
        }
        unsigned head = *w->u.kcq_head, tail = ur_load(w->u.kcq_tail);
        for (; head != tail; head++) {
            struct io_uring_cqe *e = &w->u.cqes[head & w->u.cq_mask];
            struct conn *c = &w->c[(uint32_t)e->user_data];
            int res = e->res;
            if (e->user_data >> 56 == OP_SEND) {
                c->sending = 0;
                if (res < 0) conn_fail(w, c, "send", -res);
                else ur_send(w, c);
                continue;
            }
            if (res > 0) {
                unsigned bid = e->flags >> IORING_CQE_BUFFER_SHIFT;
                if (!c->dead) take(w, c, w->b.mem + (size_t)bid * bsz, (size_t)res);
                ur_bufs_add(&w->b, bid, bsz);
                if (!rate) ur_send(w, c);
                if (!(e->flags & IORING_CQE_F_MORE) && !c->dead) ur_arm(w, c);
            } else if (res == -ENOBUFS) {
                ur_bufs_publish(&w->b);
                ur_arm(w, c);
            } else conn_fail(w, c, "recv", -res);
        }
        ur_store(w->u.kcq_head, head);
        ur_bufs_publish(&w->b);
    }
}

static void *echo_worker(void *arg)
{
    struct worker *w = arg;
    if (rate) {
        w->ready = malloc(sizeof(uint32_t) << 20);
        for (int k = 0; k < depth; k++)
            for (int i = 0; i < w->n; i++) w->ready[w->rtail++ & 0xfffffu] = (uint32_t)i;
        w->due_step = (uint64_t)(1e9 * nthreads / rate / tick_ns);
        w->next_due = ticks();
    }
    if (engine == E_EPOLL) run_epoll(w);
    else run_uring(w);
    return NULL;
}

static int connect_all(struct conn *c, int n)
{
    for (int i = 0; i < n; i++) {
        for (int tries = 0;; tries++) {
            c[i].fd = tcp_socket(0);
            if (c[i].fd < 0) {
                perror("socket");
                return -1;
            }
            if (!connect(c[i].fd, (struct sockaddr *)&dst, sizeof dst)) break;
            int e = errno;
            close(c[i].fd);
            if (tries > 50 || (e != ETIMEDOUT && e != ECONNREFUSED && e != EADDRNOTAVAIL)) {
                fprintf(stderr, "connect %d: %s\n", i, strerror(e));
                return -1;
            }
            usleep(20000);
        }
    }
    return 0;
}

static void json_latency(const struct hist *h)
{
    printf("\"lat_us\":{\"p50\":%.2f,\"p90\":%.2f,\"p99\":%.2f,\"p999\":%.2f,\"max\":%.2f}", h_q(h, .5), h_q(h, .9),
           h_q(h, .99), h_q(h, .999), (double)h->max * tick_ns / 1000);
}

static void json_cpu(const struct cpu *a, const struct cpu *b, double n)
{
    double wall = (double)(b->wall - a->wall) / 1e9;
    double self = (double)(b->self_u + b->self_s - a->self_u - a->self_s) / 1e6;
    printf(",\"client_cpu\":%.3f,\"client_us_per_msg\":%.4f", self / wall, n > 0 ? self * 1e6 / n : 0.0);
    if (npids) {
        double tu = (double)(b->srv_u - a->srv_u), ts = (double)(b->srv_s - a->srv_s);
        printf(
            ",\"server_cpu\":%.3f,\"server_us_per_msg\":%.4f,\"server_user_share\":%.3f,\"server_runs_per_msg\":%.4f",
            (double)(b->srv - a->srv) / 1e9 / wall, n > 0 ? (double)(b->srv - a->srv) / 1e3 / n : 0.0,
            tu + ts > 0 ? tu / (tu + ts) : 0.0, n > 0 ? (double)(b->runs - a->runs) / n : 0.0);
    }
    if (core >= 0 && b->busy + b->idle > a->busy + a->idle) {
        double busy = (double)(b->busy - a->busy) / (double)(b->busy + b->idle - a->busy - a->idle);
        printf(",\"core_busy\":%.3f,\"core_us_per_msg\":%.4f", busy, n > 0 ? busy * wall * 1e6 / n : 0.0);
    }
}

static int run_echo(void)
{
    struct conn *c = calloc((size_t)nconn, sizeof *c);
    if (connect_all(c, nconn)) return 1;
    struct worker *w = calloc((size_t)nthreads, sizeof *w);
    char *mem = malloc((size_t)nconn * (size_t)depth * (size_t)msz);
    uint64_t *ts = calloc((size_t)nconn * (size_t)depth, 8);
    for (int i = 0; i < nconn; i++) {
        c[i].id = (uint32_t)i;
        c[i].buf = mem + (size_t)i * (size_t)depth * (size_t)msz;
        c[i].ts = ts + (size_t)i * (size_t)depth;
        for (int k = 0; k < depth; k++) fill_slot(c[i].buf + (size_t)k * (size_t)msz, (unsigned)(i * depth + k));
    }
    for (int i = 0, at = 0; i < nthreads; i++) {
        w[i].id = i;
        w[i].n = nconn / nthreads + (i < nconn % nthreads);
        w[i].alive = w[i].n;
        w[i].c = c + at;
        at += w[i].n;
        pthread_create(&w[i].th, NULL, echo_worker, &w[i]);
    }
    struct cpu a, b;
    uint64_t t0 = now_ns(), last_p = 0, last_t = t0;
    int stalled = 0;
    a.wall = 0;
    for (;;) {
        uint64_t t = now_ns(), p = 0;
        double el = (double)(t - t0) / 1e9, left;
        int alive = 0;
        for (int i = 0; i < nthreads; i++) {
            p += w[i].progress;
            alive += w[i].alive;
        }
        if (p != last_p) {
            last_p = p;
            last_t = t;
        }
        if ((double)(t - last_t) / 1e9 > stall) {
            stalled = 1;
            break;
        }
        if (!alive) break;
        if (phase == 0 && el >= warm) {
            cpu_sample(&a);
            phase = 1;
            continue;
        }
        if (phase == 1 && (left = dur - (double)(t - a.wall) / 1e9) <= 0) break;
        if (phase == 0) left = warm - el;
        else left = dur - (double)(t - a.wall) / 1e9;
        if (left > .2) left = .2;
        usleep((useconds_t)(left * 1e6) + 1);
    }
    if (!a.wall) {
        cpu_sample(&a);
    }
    phase = 2;
    cpu_sample(&b);
    for (int i = 0; i < nthreads; i++) pthread_join(w[i].th, NULL);
    struct hist *h = calloc(1, sizeof *h);
    uint64_t msgs = 0, total = 0, err = 0, mm = 0, missed = 0;
    const char *what = "";
    for (int i = 0; i < nthreads; i++) {
        h_merge(h, &w[i].h);
        msgs += w[i].msgs;
        err += w[i].errors;
        mm += w[i].mismatch;
        missed += w[i].missed;
        if (w[i].err[0] && !*what) what = w[i].err;
    }
    for (int i = 0; i < nconn; i++) total += c[i].acked;
    double wall = (double)(b.wall - a.wall) / 1e9;
    printf("{\"mode\":\"echo\",\"conns\":%d,\"depth\":%d,\"size\":%d,\"seconds\":%.3f,\"msgs\":%llu,"
           "\"total\":%llu,\"msgs_per_s\":%.0f,\"mb_per_s\":%.2f,",
           nconn, depth, msz, wall, (unsigned long long)msgs, (unsigned long long)total, (double)msgs / wall,
           (double)msgs / wall * msz / 1e6);
    json_latency(h);
    json_cpu(&a, &b, (double)msgs);
    if (rate) printf(",\"rate\":%.0f,\"rate_waits\":%llu", rate, (unsigned long long)missed);
    printf(",\"errors\":%llu,\"mismatches\":%llu,\"stalled\":%d,\"error\":\"%s\"}\n", (unsigned long long)err,
           (unsigned long long)mm, stalled, what);
    fflush(stdout);
    return err || mm || stalled;
}

/* ---- connect mode -------------------------------------------------------------- */
struct slot {
    int fd, st;
    uint32_t got;
    uint64_t t0;
};
enum { C_CONNECTING = 1, C_WAITING };

struct cworker {
    pthread_t th;
    int n;
    struct hist h;
    uint64_t done, errors, mismatch, progress, seq;
    char err[128];
};

static void c_err(struct cworker *w, const char *what, int e)
{
    w->errors++;
    if (!w->err[0]) snprintf(w->err, sizeof w->err, "%s: %s", what, e ? strerror(e) : "closed by server");
}

static void c_open(struct cworker *w, int ep, struct slot *s, const char *m)
{
    for (int tries = 0; tries < 3; tries++) {
        s->t0 = ticks();
        s->got = 0;
        s->fd = tcp_socket(SOCK_NONBLOCK);
        if (s->fd < 0) {
            c_err(w, "socket", errno);
            continue;
        }
        int r = connect(s->fd, (struct sockaddr *)&dst, sizeof dst);
        if (r && errno != EINPROGRESS) {
            c_err(w, "connect", errno);
            close(s->fd);
            continue;
        }
        s->st = C_WAITING;
        /* on loopback the handshake is over by now unless the backlog is full */
        ssize_t k = send(s->fd, m, (size_t)msz, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (k != msz) s->st = C_CONNECTING;
        struct epoll_event e = {.events = s->st == C_WAITING ? EPOLLIN : EPOLLOUT, .data.ptr = s};
        epoll_ctl(ep, EPOLL_CTL_ADD, s->fd, &e);
        return;
    }
    s->fd = -1;
}

static void *connect_worker(void *arg)
{
    struct cworker *w = arg;
    int ep = epoll_create1(0);
    struct slot *s = calloc((size_t)w->n, sizeof *s);
    struct epoll_event ev[256];
    char *m = malloc((size_t)msz), *buf = malloc((size_t)ansz + 1);
    fill_slot(m, 7);
    for (int i = 0; i < w->n; i++) c_open(w, ep, &s[i], m);
    while (phase < 2) {
        int n = epoll_wait(ep, ev, 256, 100);
        for (int i = 0; i < n; i++) {
            struct slot *k = ev[i].data.ptr;
            if (k->st == C_CONNECTING) {
                ssize_t x = send(k->fd, m, (size_t)msz, MSG_NOSIGNAL | MSG_DONTWAIT);
                if (x < 0 && errno == EAGAIN) continue;
                if (x != msz) {
                    c_err(w, "send", errno);
                    close(k->fd);
                    c_open(w, ep, k, m);
                    continue;
                }
                struct epoll_event e = {.events = EPOLLIN, .data.ptr = k};
                epoll_ctl(ep, EPOLL_CTL_MOD, k->fd, &e);
                k->st = C_WAITING;
                continue;
            }
            ssize_t r = recv(k->fd, buf + k->got, (size_t)ansz + 1 - k->got, MSG_DONTWAIT);
            if (r < 0 && errno == EAGAIN) continue;
            if (r <= 0) {
                c_err(w, "recv", r < 0 ? errno : 0);
                close(k->fd);
                c_open(w, ep, k, m);
                continue;
            }
            k->got += (uint32_t)r;
            if (k->got < (uint32_t)ansz) continue;
            if (k->got > (uint32_t)ansz || memcmp(buf, framing == F_FIXED ? an_b : m, (size_t)ansz)) w->mismatch++;
            close(k->fd);
            w->progress++;
            if (phase == 1) {
                h_add(&w->h, ticks() - k->t0);
                w->done++;
            }
            c_open(w, ep, k, m);
        }
    }
    for (int i = 0; i < w->n; i++)
        if (s[i].fd >= 0) close(s[i].fd);
    return NULL;
}

static int run_connect(void)
{
    struct cworker *w = calloc((size_t)nthreads, sizeof *w);
    for (int i = 0; i < nthreads; i++) {
        w[i].n = nconn / nthreads + (i < nconn % nthreads);
        pthread_create(&w[i].th, NULL, connect_worker, &w[i]);
    }
    struct cpu a, b;
    usleep((useconds_t)(warm * 1e6));
    cpu_sample(&a);
    phase = 1;
    usleep((useconds_t)(dur * 1e6));
    phase = 2;
    cpu_sample(&b);
    for (int i = 0; i < nthreads; i++) pthread_join(w[i].th, NULL);
    struct hist *h = calloc(1, sizeof *h);
    uint64_t n = 0, err = 0, mm = 0;
    const char *what = "";
    for (int i = 0; i < nthreads; i++) {
        h_merge(h, &w[i].h);
        n += w[i].done;
        err += w[i].errors;
        mm += w[i].mismatch;
        if (w[i].err[0] && !*what) what = w[i].err;
    }
    double wall = (double)(b.wall - a.wall) / 1e9;
    printf("{\"mode\":\"connect\",\"slots\":%d,\"size\":%d,\"seconds\":%.3f,\"conns\":%llu,\"conns_per_s\":%.0f,",
           nconn, msz, wall, (unsigned long long)n, (double)n / wall);
    json_latency(h);
    json_cpu(&a, &b, (double)n);
    printf(",\"errors\":%llu,\"mismatches\":%llu,\"error\":\"%s\"}\n", (unsigned long long)err, (unsigned long long)mm,
           what);
    return err || mm;
}

/* ---- idle mode -------------------------------------------------------------------- */
#define IB 256

static int idle_batch(const struct sockaddr_in *to, int *fd, int n, const char *m, char *buf, char *err, size_t esz)
{
    struct pollfd p[IB];
    int got[IB];
    for (int i = 0; i < n; i++) {
        fd[i] = tcp_socket(SOCK_NONBLOCK);
        if (fd[i] < 0) {
            snprintf(err, esz, "socket: %s", strerror(errno));
            return i;
        }
        if (connect(fd[i], (const struct sockaddr *)to, sizeof *to) && errno != EINPROGRESS) {
            snprintf(err, esz, "connect: %s", strerror(errno));
            close(fd[i]);
            return i;
        }
        p[i].fd = fd[i];
        p[i].events = POLLOUT;
        got[i] = 0;
    }
    int left = n;
    uint64_t t = now_ns();
    int st[IB] = {0}; /* 0 connecting, 1 waiting for the answer, 2 done */
    while (left) {
        int r = poll(p, (nfds_t)n, 1000);
        if (now_ns() - t > (uint64_t)(stall * 1e9)) {
            snprintf(err, esz, "no answer while connecting");
            return 0;
        }
        if (r <= 0) continue;
        for (int i = 0; i < n; i++) {
            if (!p[i].revents) continue;
            if (st[i] == 0) {
                int e = 0;
                socklen_t l = sizeof e;
                getsockopt(fd[i], SOL_SOCKET, SO_ERROR, &e, &l);
                if (e) {
                    snprintf(err, esz, "connect: %s", strerror(e));
                    return 0;
                }
                if (!touch) {
                    st[i] = 2;
                    p[i].fd = -1;
                    left--;
                    continue;
                }
                if (send(fd[i], m, (size_t)msz, MSG_NOSIGNAL | MSG_DONTWAIT) != msz) {
                    snprintf(err, esz, "send: %s", strerror(errno));
                    return 0;
                }
                st[i] = 1;
                p[i].events = POLLIN;
            } else {
                ssize_t k = recv(fd[i], buf + got[i], (size_t)(ansz - got[i]), MSG_DONTWAIT);
                if (k < 0 && errno == EAGAIN) continue;
                if (k <= 0) {
                    snprintf(err, esz, "recv: %s", k ? strerror(errno) : "closed by server");
                    return 0;
                }
                got[i] += (int)k;
                if (got[i] == ansz) {
                    st[i] = 2;
                    p[i].fd = -1;
                    left--;
                }
            }
            t = now_ns();
        }
    }
    return n;
}

/* Where the descriptor limit is too low for the wanted number, the connections
 * are spread over threads that do not share their descriptor tables. Those that
 * a sweep has drawn are passed to the main thread, so that it pings connections
 * of all threads in one go. */
struct iworker {
    pthread_t th;
    struct sockaddr_in to;
    int n, have, *fd;
    int cmd, count; /* 1 connect, 2 draw */
    uint64_t seed;
    char what[128];
};
static pthread_mutex_t imx = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t icv = PTHREAD_COND_INITIALIZER;
static volatile int istop;
static int itotal, passage[2];
static uint64_t istart;

static uint64_t draw(uint64_t *seed, uint64_t below)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed % below;
}

/* Moves count random members to the front. */
static void shuffle(int *fd, int n, int count, uint64_t *seed)
{
    for (int i = 0; i < count; i++) {
        int x = i + (int)draw(seed, (uint64_t)(n - i)), t = fd[i];
        fd[i] = fd[x];
        fd[x] = t;
    }
}

enum { PASSED = 250 }; /* descriptors in a message; the kernel takes 253 (SCM_MAX_FD) */

union rights {
    struct cmsghdr h;
    char room[CMSG_SPACE(sizeof(int) * PASSED)];
};

static int pass(const int *fd, int n)
{
    for (int k; n; n -= k, fd += k) {
        char byte = 0;
        union rights r;
        struct iovec v = {&byte, 1};
        struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &r};
        k = n < PASSED ? n : PASSED;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)k);
        memset(&r, 0, sizeof r);
        r.h.cmsg_level = SOL_SOCKET;
        r.h.cmsg_type = SCM_RIGHTS;
        r.h.cmsg_len = CMSG_LEN(sizeof(int) * (size_t)k);
        memcpy(CMSG_DATA(&r.h), fd, sizeof(int) * (size_t)k);
        if (sendmsg(passage[1], &m, 0) < 0) return errno;
    }
    return 0;
}

/* Returns how many have come with the next message, 0 when it came without. */
static int take_passed(int *fd)
{
    char byte;
    union rights r;
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &r, .msg_controllen = sizeof r};
    if (recvmsg(passage[0], &m, MSG_CMSG_CLOEXEC) != 1 || m.msg_flags & MSG_CTRUNC || !CMSG_FIRSTHDR(&m)) return 0;
    int n = (int)((r.h.cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(fd, CMSG_DATA(&r.h), sizeof(int) * (size_t)n);
    return n;
}

struct swept {
    struct hist h;
    uint64_t err, mm;
};

static void sweep(const int *fd, int n, int width, struct swept *s)
{
    struct pollfd p[IB];
    uint64_t t0[IB];
    int got[IB];
    char *m = malloc((size_t)msz), *buf = malloc((size_t)ansz);
    if (width > IB) width = IB;
    if (width < 1) width = 1;
    fill_slot(m, 7);
    for (int done = 0; done < n;) {
        int k = n - done < width ? n - done : width;
        for (int i = 0; i < k; i++) {
            p[i].fd = fd[done + i];
            p[i].events = POLLIN;
            got[i] = 0;
            t0[i] = ticks();
            if (send(p[i].fd, m, (size_t)msz, MSG_NOSIGNAL | MSG_DONTWAIT) != msz) s->err++;
        }
        for (int left = k; left;) {
            int r = poll(p, (nfds_t)k, (int)(stall * 1000));
            if (r <= 0) {
                s->err += (uint64_t)left;
                break;
            }
            for (int i = 0; i < k; i++) {
                if (p[i].fd < 0 || !p[i].revents) continue;
                ssize_t g = recv(p[i].fd, buf, (size_t)(ansz - got[i]), MSG_DONTWAIT);
                if (g <= 0) {
                    s->err++;
                    left--;
                    p[i].fd = -1;
                    continue;
                }
                if (memcmp(buf, (framing == F_FIXED ? an_b : m) + got[i], (size_t)g)) s->mm++;
                got[i] += (int)g;
                if (got[i] == ansz) {
                    h_add(&s->h, ticks() - t0[i]);
                    left--;
                    p[i].fd = -1;
                }
            }
        }
        done += k;
    }
    free(m);
    free(buf);
}

static void idle_connect(struct iworker *w)
{
    char *m = malloc((size_t)msz), *buf = malloc((size_t)ansz);
    fill_slot(m, 7);
    w->fd = malloc(sizeof(int) * (size_t)w->n);
    while (w->have < w->n && !istop) {
        int k = w->n - w->have < IB ? w->n - w->have : IB;
        int g = idle_batch(&w->to, w->fd + w->have, k, m, buf, w->what, sizeof w->what);
        w->have += g;
        itotal += g;
        if (itotal / 20000 != (itotal - g) / 20000) {
            fprintf(stderr, "%d connections, %.1f s\n", itotal, (double)(now_ns() - istart) / 1e9);
            /* a line on stdin while connecting means: stop here */
            struct pollfd p = {.fd = 0, .events = POLLIN};
            if (poll(&p, 1, 0) > 0) {
                istop = 1;
                snprintf(w->what, sizeof w->what, "stopped");
            }
        }
        if (g < k) break;
    }
    free(m);
    free(buf);
}

static void *idle_worker(void *arg)
{
    struct iworker *w = arg;
    if (nthreads > 1 && unshare(CLONE_FILES)) perror("unshare");
    pthread_mutex_lock(&imx);
    for (;;) {
        while (!w->cmd) pthread_cond_wait(&icv, &imx);
        int c = w->cmd;
        pthread_mutex_unlock(&imx);
        if (c == 1) idle_connect(w);
        if (c == 2) {
            shuffle(w->fd, w->have, w->count, &w->seed);
            int e = pass(w->fd, w->count);
            if (e) {
                fprintf(stderr, "passing descriptors: %s\n", strerror(e));
                exit(1);
            }
        }
        pthread_mutex_lock(&imx);
        w->cmd = 0;
        pthread_cond_broadcast(&icv);
    }
    return NULL;
}

static void idle_do(struct iworker *w, int cmd)
{
    pthread_mutex_lock(&imx);
    w->cmd = cmd;
    pthread_cond_broadcast(&icv);
    pthread_mutex_unlock(&imx);
}

static void idle_done(struct iworker *w)
{
    pthread_mutex_lock(&imx);
    while (w->cmd) pthread_cond_wait(&icv, &imx);
    pthread_mutex_unlock(&imx);
}

/* count random connections out of n, from each thread as many as its part is */
static int gather(struct iworker *w, int count, int n, int *fd, uint64_t *seed)
{
    int have = 0, upto = 0;
    for (int i = 0; i < nthreads; i++) {
        int from = (int)((int64_t)upto * count / n);
        upto += w[i].have;
        w[i].count = (int)((int64_t)upto * count / n) - from;
        idle_do(&w[i], 2);
        for (int want = have + w[i].count; have < want;) {
            int got = take_passed(fd + have);
            if (!got) {
                fprintf(stderr, "a sweep of %d needs as many free descriptors\n", count);
                exit(1);
            }
            have += got;
        }
        idle_done(&w[i]);
    }
    shuffle(fd, have, have, seed);
    return have;
}

static int run_idle(void)
{
    struct rlimit rl;
    uint64_t seed = 88172645463325252ull;
    getrlimit(RLIMIT_NOFILE, &rl);
    /* what a sweep draws is open twice meanwhile */
    int per = (int)(rl.rlim_cur > 1000 ? rl.rlim_cur - 200 - rl.rlim_cur / 50 : rl.rlim_cur);
    if (nconn > per && nthreads == 1) nthreads = (nconn + per - 1) / per;
    if (nthreads < nports) nthreads = nports;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, passage)) {
        perror("socketpair");
        return 1;
    }
    struct iworker *w = calloc((size_t)nthreads, sizeof *w);
    for (int i = 0; i < nthreads; i++) {
        w[i].n = nconn / nthreads + (i < nconn % nthreads);
        w[i].seed = seed + (uint64_t)i * 7919;
        w[i].to = dst;
        w[i].to.sin_port = ports[i % nports];
        pthread_create(&w[i].th, NULL, idle_worker, &w[i]);
    }
    istart = now_ns();
    int n = 0;
    const char *what = "";
    for (int i = 0; i < nthreads && !istop; i++) { /* one thread at a time */
        idle_do(&w[i], 1);
        idle_done(&w[i]);
        n += w[i].have;
        if (w[i].what[0]) {
            what = w[i].what;
            break;
        }
    }
    double el = (double)(now_ns() - istart) / 1e9;
    printf("{\"mode\":\"idle\",\"wanted\":%d,\"connected\":%d,\"client_threads\":%d,\"seconds\":%.3f,\"conns_per_s\":%."
           "0f,\"error\":\"%s\"}\n",
           nconn, n, nthreads, el, n / el, what);
    fflush(stdout);
    char line[128];
    while (fgets(line, sizeof line, stdin)) {
        int cnt = n / 100, width = 16;
        if (!strncmp(line, "quit", 4)) break;
        if (strncmp(line, "sweep", 5) || !n) continue;
        sscanf(line + 5, "%d %d", &cnt, &width);
        if (cnt > n) cnt = n;
        struct cpu a, b;
        struct swept *s = calloc(1, sizeof *s);
        int *fd = malloc(sizeof(int) * ((size_t)cnt + PASSED));
        cnt = gather(w, cnt, n, fd, &seed);
        cpu_sample(&a);
        sweep(fd, cnt, width, s);
        cpu_sample(&b);
        for (int i = 0; i < cnt; i++) close(fd[i]);
        printf("{\"mode\":\"sweep\",\"pinged\":%llu,\"width\":%d,\"seconds\":%.3f,", (unsigned long long)s->h.n, width,
               (double)(b.wall - a.wall) / 1e9);
        json_latency(&s->h);
        json_cpu(&a, &b, (double)s->h.n);
        printf(",\"errors\":%llu,\"mismatches\":%llu}\n", (unsigned long long)s->err, (unsigned long long)s->mm);
        fflush(stdout);
        free(fd);
        free(s);
    }
    return n < nconn;
}

/* ---- main ---------------------------------------------------------------------------- */
static char *unescape(const char *s)
{
    char *r = malloc(strlen(s) + 1), *d = r;
    for (; *s; s++) {
        if (*s == '\\' && s[1]) {
            s++;
            *d++ = *s == 'n' ? '\n' : *s == 'r' ? '\r' : *s == 't' ? '\t' : *s;
        } else *d++ = *s;
    }
    *d = 0;
    return r;
}

static int pick(const char *s, const char *names)
{
    int i = 0;
    char *d = strdup(names);
    for (char *p = strtok(d, " "); p; p = strtok(NULL, " "), i++)
        if (!strcmp(p, s)) return i;
    fprintf(stderr, "unknown value %s (one of: %s)\n", s, names);
    exit(2);
}

int main(int argc, char **argv)
{
    int o;
    while ((o = getopt(argc, argv, "m:c:s:p:d:w:t:R:f:q:a:e:b:S:TP:C:r:")) != -1) {
        switch (o) {
        case 'm':
            mode = pick(optarg, "echo connect idle");
            break;
        case 'c':
            nconn = atoi(optarg);
            break;
        case 's':
            msz = atoi(optarg);
            break;
        case 'p':
            depth = atoi(optarg);
            break;
        case 'd':
            dur = atof(optarg);
            break;
        case 'w':
            warm = atof(optarg);
            break;
        case 't':
            nthreads = atoi(optarg);
            break;
        case 'R':
            rate = atof(optarg);
            break;
        case 'f':
            framing = pick(optarg, "raw line fixed");
            break;
        case 'q':
            rq = optarg;
            break;
        case 'a':
            an = optarg;
            break;
        case 'e':
            engine = pick(optarg, "uring epoll");
            break;
        case 'b':
            sqbatch = (unsigned)atoi(optarg);
            break;
        case 'S':
            nsrc = atoi(optarg);
            break;
        case 'T':
            touch = 0;
            break;
        case 'P':
            if (npids < 64) pids[npids++] = atoi(optarg);
            break;
        case 'C':
            core = atoi(optarg);
            break;
        case 'r':
            stall = atof(optarg);
            break;
        default:
            return 2;
        }
    }
    if (argc - optind != 2 || nconn < 1 || msz < 1 || depth < 1 || nthreads < 1 || nthreads > nconn) {
        fprintf(stderr, "usage: echoload [-m echo|connect|idle] [-c conns] [-s size] [-p depth] [-d secs] ... HOST "
                        "PORT[,PORT...]\n");
        return 2;
    }
    if (framing == F_FIXED) {
        if (!rq || !an) {
            fprintf(stderr, "-f fixed needs -q and -a\n");
            return 2;
        }
        rq_b = unescape(rq);
        an_b = unescape(an);
        msz = (int)strlen(rq_b);
    }
    ansz = framing == F_FIXED ? (int)strlen(an_b) : msz;
    /* few ports per address: the kernel looks for free ones in half of the range first */
    if (nsrc < 0) nsrc = mode == M_CONNECT ? 64 : mode == M_IDLE ? (nconn < 80000 ? 10 : nconn / 8000) : 0;
    host = argv[optind];
    struct addrinfo hint = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *ai;
    char *first = argv[optind + 1];
    for (char *p = strtok(strdup(first), ","); p && nports < (int)(sizeof ports / sizeof *ports); p = strtok(NULL, ","))
        ports[nports++] = htons((uint16_t)atoi(p));
    first[strcspn(first, ",")] = 0;
    if (getaddrinfo(host, first, &hint, &ai)) {
        fprintf(stderr, "cannot resolve %s\n", host);
        return 1;
    }
    memcpy(&dst, ai->ai_addr, sizeof dst);
    if (nsrc > 0 && (ntohl(dst.sin_addr.s_addr) >> 24) != 127) nsrc = 0;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit rl;
    getrlimit(RLIMIT_NOFILE, &rl);
    rl.rlim_cur = rl.rlim_max;
    setrlimit(RLIMIT_NOFILE, &rl);
    calibrate();
    make_filler();
    return mode == M_ECHO ? run_echo() : mode == M_CONNECT ? run_connect() : run_idle();
}
