/* raw_uring_probe.c - which features of io_uring the running kernel has. */
#include "raw_uring.h"

#include "uring.h"

void probe_all(void)
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

int probe_inc(void)
{
    struct ur u;
    struct ur_bufs b;
    if (ur_init(&u, 4, 8, 0, 0, 0) < 0) return 0;
    int r = ur_bufs_init(&u, &b, 2, 4096, 0, UR_PBUF_RING_INC);
    close(u.fd);
    return r >= 0;
}
