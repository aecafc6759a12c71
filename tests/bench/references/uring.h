/* uring.h - the io_uring system calls used by this bench, without liburing.
 *
 * Only needs the kernel header of Linux >= 6.1; newer ABI constants are
 * defined below under their own names (UR_*), so the same binary builds on
 * Debian 12 and probes for newer kernel features at run time.
 */
#ifndef BENCH_URING_H
#define BENCH_URING_H

#include <errno.h>
#include <linux/io_uring.h>
#include <linux/time_types.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Linux 6.5 - 6.18 additions to the ABI */
#define UR_SETUP_NO_SQARRAY (1u << 16)
#define UR_FEAT_RECVSEND_BUNDLE (1u << 14)
#define UR_FEAT_MIN_TIMEOUT (1u << 15)
#define UR_RECVSEND_BUNDLE (1u << 4)
#define UR_CQE_F_BUF_MORE (1u << 4)
#define UR_PBUF_RING_INC 2u
#define UR_REGISTER_NAPI 27u
#define UR_ENTER_NO_IOWAIT (1u << 7)
#define UR_FEAT_NO_IOWAIT (1u << 17)

struct ur_getevents_arg { /* io_uring_getevents_arg, 6.12 layout */
    uint64_t sigmask;
    uint32_t sigmask_sz;
    uint32_t min_wait_usec;
    uint64_t ts;
};

struct ur_buf_reg { /* io_uring_buf_reg, with flags */
    uint64_t ring_addr;
    uint32_t ring_entries;
    uint16_t bgid;
    uint16_t flags;
    uint64_t resv[3];
};

struct ur_napi {
    uint32_t busy_poll_to;
    uint8_t prefer_busy_poll;
    uint8_t pad[3];
    uint64_t resv;
};

struct ur {
    int fd, enter_fd;
    unsigned enter_flags;
    unsigned setup_flags, features;
    /* submission side */
    unsigned *ksq_head, *ksq_tail, *ksq_flags;
    unsigned sq_mask, sq_entries;
    unsigned sqe_tail, sqe_flushed;
    struct io_uring_sqe *sqes;
    /* completion side */
    unsigned *kcq_head, *kcq_tail, *kcq_overflow;
    unsigned cq_mask;
    struct io_uring_cqe *cqes;
    unsigned long enters;
};

#define ur_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define ur_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

static inline int ur_register(struct ur *u, unsigned op, void *arg, unsigned n)
{
    long r = syscall(__NR_io_uring_register, u->fd, op, arg, n);
    return r < 0 ? -errno : (int)r;
}

/* flags: wanted IORING_SETUP_* bits. NO_SQARRAY is tried and dropped. */
static inline int ur_init(struct ur *u, unsigned sq, unsigned cq, unsigned flags, unsigned sq_thread_cpu,
                          unsigned sq_idle_ms)
{
    struct io_uring_params p;
    memset(u, 0, sizeof *u);
    int fd = -1;
    for (int attempt = 0; attempt < 2 && fd < 0; attempt++) {
        memset(&p, 0, sizeof p);
        p.flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL | (attempt == 0 ? UR_SETUP_NO_SQARRAY : 0);
        p.cq_entries = cq;
        p.sq_thread_cpu = sq_thread_cpu;
        p.sq_thread_idle = sq_idle_ms;
        fd = (int)syscall(__NR_io_uring_setup, sq, &p);
    }
    if (fd < 0) return -errno;
    u->fd = u->enter_fd = fd;
    u->setup_flags = p.flags;
    u->features = p.features;
    size_t sqsz = p.sq_off.array + p.sq_entries * sizeof(unsigned);
    size_t cqsz = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    size_t sz = sqsz > cqsz ? sqsz : cqsz;
    char *m = mmap(NULL, sz, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQ_RING);
    if (m == MAP_FAILED) return -errno;
    u->sqes = mmap(NULL, p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                   fd, IORING_OFF_SQES);
    if (u->sqes == MAP_FAILED) return -errno;
    u->ksq_head = (unsigned *)(m + p.sq_off.head);
    u->ksq_tail = (unsigned *)(m + p.sq_off.tail);
    u->ksq_flags = (unsigned *)(m + p.sq_off.flags);
    u->sq_mask = *(unsigned *)(m + p.sq_off.ring_mask);
    u->sq_entries = p.sq_entries;
    u->kcq_head = (unsigned *)(m + p.cq_off.head);
    u->kcq_tail = (unsigned *)(m + p.cq_off.tail);
    u->kcq_overflow = (unsigned *)(m + p.cq_off.overflow);
    u->cq_mask = *(unsigned *)(m + p.cq_off.ring_mask);
    u->cqes = (struct io_uring_cqe *)(m + p.cq_off.cqes);
    if (!(p.flags & UR_SETUP_NO_SQARRAY)) {
        unsigned *arr = (unsigned *)(m + p.sq_off.array);
        for (unsigned i = 0; i < p.sq_entries; i++) arr[i] = i;
    }
    /* register the ring fd with the task: saves an fget/fput per enter */
    struct io_uring_rsrc_update up;
    memset(&up, 0, sizeof up);
    up.offset = ~0u;
    up.data = (uint64_t)fd;
    if (!(flags & IORING_SETUP_SQPOLL) && ur_register(u, IORING_REGISTER_RING_FDS, &up, 1) == 1) {
        u->enter_fd = (int)up.offset;
        u->enter_flags = IORING_ENTER_REGISTERED_RING;
    }
    return 0;
}

static inline unsigned ur_pending(struct ur *u)
{
    return u->sqe_tail - u->sqe_flushed;
}

/* Publish queued SQEs; returns how many io_uring_enter should submit. */
static inline unsigned ur_flush(struct ur *u)
{
    unsigned n = ur_pending(u);
    if (n) {
        ur_store(u->ksq_tail, u->sqe_tail);
        u->sqe_flushed = u->sqe_tail;
    }
    return n;
}

/* Submit everything queued and wait for wait_nr completions (0: no wait).
 * timeout_ns < 0: no timeout. min_wait_us: 6.12 batch window. */
static inline int ur_enter(struct ur *u, unsigned wait_nr, int64_t timeout_ns, unsigned min_wait_us)
{
    unsigned n = ur_flush(u);
    unsigned fl = IORING_ENTER_GETEVENTS | u->enter_flags;
    struct ur_getevents_arg arg;
    struct __kernel_timespec ts;
    void *ap = NULL;
    size_t asz = 0;
    if (timeout_ns >= 0 || min_wait_us) {
        memset(&arg, 0, sizeof arg);
        if (timeout_ns >= 0) {
            ts.tv_sec = timeout_ns / 1000000000;
            ts.tv_nsec = timeout_ns % 1000000000;
            arg.ts = (uint64_t)(uintptr_t)&ts;
        }
        arg.min_wait_usec = min_wait_us;
        fl |= IORING_ENTER_EXT_ARG;
        ap = &arg;
        asz = sizeof arg;
    }
    if (u->setup_flags & IORING_SETUP_SQPOLL) {
        if (ur_load(u->ksq_flags) & IORING_SQ_NEED_WAKEUP) fl |= IORING_ENTER_SQ_WAKEUP;
        else if (!wait_nr) return 0;
    }
    u->enters++;
    long r = syscall(__NR_io_uring_enter, u->enter_fd, n, wait_nr, fl, ap, asz);
    return r < 0 ? -errno : (int)r;
}

/* Next free SQE, zeroed; submits by itself when the queue is full. */
static inline struct io_uring_sqe *ur_sqe(struct ur *u)
{
    while (u->sqe_tail - ur_load(u->ksq_head) >= u->sq_entries) {
        unsigned n = ur_flush(u);
        unsigned fl = u->enter_flags;
        if (u->setup_flags & IORING_SETUP_SQPOLL) fl |= IORING_ENTER_SQ_WAIT | IORING_ENTER_SQ_WAKEUP;
        u->enters++;
        long r = syscall(__NR_io_uring_enter, u->enter_fd, n, 0, fl, NULL, 0);
        if (r < 0 && errno != EINTR && errno != EAGAIN && errno != EBUSY) {
            perror("io_uring_enter");
            exit(1);
        }
    }
    struct io_uring_sqe *s = &u->sqes[u->sqe_tail & u->sq_mask];
    u->sqe_tail++;
    memset(s, 0, sizeof *s);
    return s;
}

/* ---- provided buffer rings ------------------------------------------- */
struct ur_bufs {
    struct io_uring_buf_ring *ring;
    char *mem;
    unsigned n, size, mask;
    uint16_t bgid, tail;
};

static inline int ur_bufs_init(struct ur *u, struct ur_bufs *b, unsigned n, unsigned size, uint16_t bgid,
                               unsigned flags)
{
    memset(b, 0, sizeof *b);
    b->n = n;
    b->size = size;
    b->mask = n - 1;
    b->bgid = bgid;
    b->ring = mmap(NULL, n * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE,
                   MAP_ANONYMOUS | MAP_PRIVATE | MAP_POPULATE, -1, 0);
    b->mem = mmap(NULL, (size_t)n * size, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
    if (b->ring == MAP_FAILED || b->mem == MAP_FAILED) return -ENOMEM;
    struct ur_buf_reg reg;
    memset(&reg, 0, sizeof reg);
    reg.ring_addr = (uint64_t)(uintptr_t)b->ring;
    reg.ring_entries = n;
    reg.bgid = bgid;
    reg.flags = (uint16_t)flags;
    return ur_register(u, IORING_REGISTER_PBUF_RING, &reg, 1);
}

/* Queue one buffer for the kernel; ur_bufs_publish() makes it visible.
 * The ring tail shares memory with bufs[0].resv, so resv is never written. */
static inline void ur_bufs_add(struct ur_bufs *b, unsigned bid, unsigned len)
{
    struct io_uring_buf *e = (struct io_uring_buf *)b->ring + (b->tail & b->mask);
    e->addr = (uint64_t)(uintptr_t)(b->mem + (size_t)bid * b->size);
    e->len = len;
    e->bid = (uint16_t)bid;
    b->tail++;
}

static inline void ur_bufs_publish(struct ur_bufs *b)
{
    ur_store(&b->ring->tail, b->tail);
}

#endif
