/* wait.c - goal: io_port_wait() sleeps as long as it is told and no longer than there is nothing to do. Method: the
 * clock. A machine may be busy, so upper bounds are generous and the best of a few turns counts. */
#include "os.h"
#include "rig.h"

#define MS INT64_C(1000000)

enum { TURNS = 5 };

/* How long one wait with nothing to report takes. */
static int64_t timed_wait(rig *r, int64_t timeout_ns)
{
    io_packet packet;
    int64_t start = os_monotonic_ns();
    check_eq(io_port_wait(r->port, timeout_ns), IO_OK);
    int64_t took = os_monotonic_ns() - start;
    while (io_port_next(r->port, &packet)) fail("a packet from nowhere, kind %d", (int)packet.kind);
    return took;
}

static void wait_of_zero_does_not_sleep(void)
{
    rig r;
    rig_open(&r, NULL);
    int64_t best = INT64_MAX;
    for (int turn = 0; turn < TURNS; turn++) {
        int64_t took = 0;
        for (int i = 0; i < 100; i++) took += timed_wait(&r, 0);
        if (took < best) best = took;
    }
    check(best < 100 * MS); /* less than 1 ms each: not even the shortest sleep */
    rig_close(&r);
}

static void wait_sleeps_for_its_timeout(void)
{
    static const int64_t timeouts[] = {2 * MS, 20 * MS, 70 * MS};
    rig r;
    rig_open(&r, NULL);
    timed_wait(&r, 0);
    for (size_t i = 0; i < array_count(timeouts); i++) {
        bool good = false;
        for (int turn = 0; turn < TURNS && !good; turn++) {
            int64_t took = timed_wait(&r, timeouts[i]);
            good = took >= timeouts[i] - MS && took < timeouts[i] + 400 * MS;
        }
        if (!good) fail("no wait of %d ms took about that long", (int)(timeouts[i] / MS));
    }
    rig_close(&r);
}

/* A timeout that is no whole number of milliseconds is neither cut to nothing, which would spin, nor slept long. */
static void short_waits_neither_spin_nor_sleep_long(void)
{
    rig r;
    rig_open(&r, NULL);
    int waits = 0;
    int64_t start = os_monotonic_ns();
    int64_t until = start + 20 * MS;
    for (int64_t left = 20 * MS; left > 0; left = until - os_monotonic_ns()) {
        timed_wait(&r, left < 500000 ? left : 500000);
        waits++;
    }
    check(waits < 120); /* 40 of the right length */
    check(os_monotonic_ns() - start < 1000 * MS);
    rig_close(&r);
}

static void wait_returns_at_once_when_there_is_a_packet(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    for (int i = 0; i < 20; i++) {
        io_op op = {0};
        io_packet packet;
        peer_send(peer, "x", 1);
        check_eq(io_recv(r.port, &op, ours), IO_OK);
        int64_t start = os_monotonic_ns();
        while (!io_port_next(r.port, &packet)) check_eq(io_port_wait(r.port, RIG_PATIENCE_NS), IO_OK);
        check(os_monotonic_ns() - start < RIG_PATIENCE_NS / 4);
        check(packet.op == &op);
        while (io_port_next(r.port, &packet)) fail("a second packet");
    }
    rig_close_pair(&r, ours, peer);
}

typedef struct sender {
    io_socket peer;
} sender;

static void send_late(void *argument)
{
    sender *s = argument;
    rig_delay(RIG_QUIET_NS);
    peer_send(s->peer, "x", 1);
}

static void wait_without_a_timeout_sleeps_until_bytes_come(void)
{
    static const int64_t timeouts[] = {-1, INT64_MIN, INT64_MAX, INT64_C(3600000000000), RIG_PATIENCE_NS};
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    for (size_t i = 0; i < array_count(timeouts); i++) {
        io_op op = {0};
        io_packet packet;
        sender s = {peer};
        int waits = 0;
        check_eq(io_recv(r.port, &op, ours), IO_OK);
        os_thread *thread = os_thread_start("sender", send_late, &s);
        check(thread != NULL);
        while (!io_port_next(r.port, &packet)) {
            check_eq(io_port_wait(r.port, timeouts[i]), IO_OK);
            check(++waits < 100); /* it may wake early, but it sleeps */
        }
        check(packet.op == &op);
        check_eq(packet.bytes, 1);
        os_thread_join(thread);
        while (io_port_next(r.port, &packet)) fail("a second packet");
    }
    rig_close_pair(&r, ours, peer);
}

/* Pending ops that have nothing to say do not keep the wait awake. */
static void idle_connections_let_the_wait_sleep(void)
{
    enum { SOCKETS = 40 };
    rig r;
    io_socket ours[SOCKETS];
    io_socket peer[SOCKETS];
    io_op ops[SOCKETS] = {0};
    rig_open(&r, NULL);
    for (int i = 0; i < SOCKETS; i++) {
        rig_pair(&r, &ours[i], &peer[i]);
        if (i % 2 == 0) check_eq(io_recv(r.port, &ops[i], ours[i]), IO_OK);
        else check_eq(io_readable(r.port, &ops[i], ours[i]), IO_OK);
    }
    timed_wait(&r, 0);
    uint64_t waits = r.waits;
    expect_nothing(&r);
    check(r.waits - waits < 20);
    for (int i = 0; i < SOCKETS; i++) {
        io_cancel(r.port, ours[i]);
        check_eq(expect(&r, &ops[i]).status, IO_CANCELED);
    }
    /* Nor do bytes and a FIN for which nothing has been submitted. */
    for (int i = 0; i < SOCKETS; i++) {
        peer_send(peer[i], "x", 1);
        peer_shutdown(peer[i]);
    }
    waits = r.waits;
    expect_nothing(&r);
    check(r.waits - waits < 20 + SOCKETS);
    waits = r.waits;
    expect_nothing(&r);
    check(r.waits - waits < 20);
    rig_close_pairs(&r, ours, peer, SOCKETS);
}

static void the_ports_clock_goes_forward(void)
{
    rig r;
    rig_open(&r, NULL);
    int64_t before = io_port_now(r.port);
    for (int i = 0; i < 1000; i++) {
        int64_t now = io_port_now(r.port);
        check(now >= before);
        before = now;
    }
    bool moved = false;
    for (int turn = 0; turn < TURNS && !moved; turn++) {
        timed_wait(&r, 20 * MS);
        moved = io_port_now(r.port) - before >= 19 * MS;
    }
    check(moved);
    rig_close(&r);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(wait_of_zero_does_not_sleep);
    check_run(wait_sleeps_for_its_timeout);
    check_run(short_waits_neither_spin_nor_sleep_long);
    check_run(wait_returns_at_once_when_there_is_a_packet);
    check_run(wait_without_a_timeout_sleeps_until_bytes_come);
    check_run(idle_connections_let_the_wait_sleep);
    check_run(the_ports_clock_goes_forward);
    return rig_end();
}
