/* Goal: a system that refuses to be asked is not asked without end. Method: every wait fails for a while; they are counted.
 * Argument: the backend. */
#include "inject.h"

#include "contract/rig.h"
#include "os.h"

static void a_port_that_cannot_wait_rests(void)
{
    enum { WAITS_MAX = 5000 }; /* hundreds are usual, hundreds of thousands would be a loop */
    const int64_t time_ns = 300000000;
    rig r;
    io_op op = {0};
    rig_open(&r, NULL);
    io_socket ours, peer;
    rig_pair(&r, &ours, &peer);
    check_eq(io_recv(r.port, &op, ours), IO_OK);
    expect_nothing(&r);
    inject_not_now(1, 1);
    io_packet packet;
    uint64_t before = r.waits;
    check(!rig_next(&r, &packet, os_monotonic_ns() + time_ns));
    check(inject_count() > 10);
    inject_nothing();
    printf("# %llu waits\n", (unsigned long long)(r.waits - before));
    check(r.waits - before < WAITS_MAX);
    peer_send(peer, "x", 1);
    check_eq(expect(&r, &op).bytes, 1);
    io_close(r.port, ours, false);
    peer_close(peer);
    rig_close(&r);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(a_port_that_cannot_wait_rests);
    return rig_end();
}
