/* udp.c - goal: a UDP socket of a worker delivers datagrams, sends from a bounded queue, pauses, and closes whatever is
 * pending. Method: sockets on a rig's port, with plain peers. */
#include "udp.h"

#include "contract/rig.h"
#include "net_udp.h"
#include "os.h"

typedef struct stage {
    rig rig;
    timers timers;
    udp_set set;
} stage;

/* What happened to a socket, and what is to be done in its events. */
typedef struct story {
    unsigned datagrams;
    unsigned errors;
    size_t bytes;
    io_status status; /* of the last error */
    bool echo;
    bool close;
    bool pause;
} story;

static void on_datagram(udp *u, const net_addr *peer, const uint8_t *data, size_t len)
{
    story *s = udp_user(u);
    s->datagrams++;
    s->bytes += len;
    if (s->echo) check_eq(udp_send(u, peer, data, len), IO_OK);
    if (s->pause) udp_pause(u);
    if (s->close) udp_close(u);
    if (s->close) check_eq(udp_send(u, peer, data, len), IO_CLOSED);
}

static void on_error(udp *u, io_status status)
{
    story *s = udp_user(u);
    s->errors++;
    s->status = status;
}

static const udp_events events = {on_datagram, on_error};

static void open_stage(stage *s)
{
    rig_open(&s->rig, NULL);
    timers_open(&s->timers);
    udp_set_open(&s->set, s->rig.port, &s->timers);
}

static void turn(stage *s, int64_t timeout_ns)
{
    io_packet packet;
    check_eq(io_port_wait(s->rig.port, timeout_ns), IO_OK);
    while (io_port_next(s->rig.port, &packet)) udp_on_packet(&packet);
    timers_run(&s->timers, io_port_now(s->rig.port), UINT32_MAX);
}

#define until(s, condition) \
    do { \
        int64_t deadline_ = os_monotonic_ns() + RIG_PATIENCE_NS; \
        while (!(condition)) { \
            if (os_monotonic_ns() > deadline_) fail("never: %s", #condition); \
            turn(s, 10000000); \
        } \
    } while (0)

static void quiet(stage *s)
{
    int64_t end = os_monotonic_ns() + RIG_QUIET_NS;
    while (os_monotonic_ns() < end) turn(s, 5000000);
}

static void close_stage(stage *s)
{
    until(s, s->set.count == 0);
    check_eq(s->timers.count, 0);
    udp_set_close(&s->set);
    timers_close(&s->timers);
    rig_close(&s->rig);
}

static udp *open_udp(stage *s, story *told, net_addr *where, const char *listener)
{
    net_addr any;
    char error[64];
    int native = 0;
    io_socket socket;
    check_eq(net_addr_parse(&any, "127.0.0.1:0", error, sizeof(error)), IO_OK);
    check_eq(net_udp_open(&socket, &any, &native), IO_OK);
    check_eq(net_local(where, socket), IO_OK);
    udp *u = udp_open(&s->set, socket, &events, told, listener, false);
    check(u != NULL);
    return u;
}

static io_socket open_peer(const net_addr *where)
{
    io_socket peer;
    int native = 0;
    check_eq(net_udp_connect(&peer, NULL, where, &native), IO_OK);
    return peer;
}

static void datagrams_are_answered(void)
{
    stage s;
    story told = {.echo = true};
    net_addr where;
    char got[2000];
    open_stage(&s);
    udp *u = open_udp(&s, &told, &where, "udp://test");
    io_socket peer = open_peer(&where);
    for (size_t len = 0; len < 1000; len += 99) {
        pattern_fill(got, len, 7, 0);
        check_eq(peer_send_now(peer, got, len), len);
        until(&s, peer_ready(peer, false, 0));
        check_eq(peer_recv_now(peer, got, sizeof(got)), len);
        check_pattern(got, len, 7, 0);
    }
    until(&s, s.set.sent == told.datagrams);
    check_eq(s.set.received, told.datagrams);
    check_eq(udp_queued(u), 0);
    udp_close(u);
    peer_close(peer);
    close_stage(&s);
}

static void the_queue_is_bounded_and_what_does_not_fit_is_counted(void)
{
    enum { LEN = 1000, TRIES = 2000 };
    stage s;
    story told = {.echo = false};
    net_addr where;
    static const uint8_t bytes[LEN];
    unsigned queued = 0;
    open_stage(&s);
    udp *u = open_udp(&s, &told, &where, NULL);
    for (int i = 0; i < TRIES; i++) {                       /* nothing is sent before the port's next turn */
        io_status status = udp_send(u, &where, bytes, LEN); /* to itself */
        if (status == IO_OK) queued++;
        else check_eq(status, IO_LIMIT);
    }
    check(queued > 0 && queued < TRIES);
    check(queued * (size_t)LEN <= UDP_QUEUE_BYTES);
    check_eq(s.set.dropped, TRIES - queued);
    check(udp_queued(u) <= UDP_QUEUE_BYTES);
    until(&s, udp_queued(u) == 0);
    check_eq(s.set.sent, queued);
    check_eq(udp_send(u, &where, bytes, LEN), IO_OK); /* there is room again */
    udp_close(u);
    close_stage(&s);
    check_eq(s.set.sent, queued + 1); /* what is queued is sent before the end */
}

static void nothing_is_received_while_paused(void)
{
    stage s;
    story told = {.pause = true};
    net_addr where;
    open_stage(&s);
    udp *u = open_udp(&s, &told, &where, NULL);
    io_socket peer = open_peer(&where);
    for (int i = 0; i < 5; i++) check_eq(peer_send_now(peer, "x", 1), 1);
    for (unsigned i = 1; i <= 5; i++) {
        until(&s, told.datagrams == i);
        quiet(&s);
        check_eq(told.datagrams, i);
        udp_resume(u);
    }
    udp_close(u);
    peer_close(peer);
    close_stage(&s);
}

static void a_handler_may_close_its_socket(void)
{
    stage s;
    story told = {.close = true};
    net_addr where;
    open_stage(&s);
    open_udp(&s, &told, &where, NULL);
    io_socket peer = open_peer(&where);
    check_eq(peer_send_now(peer, "x", 1), 1);
    check_eq(peer_send_now(peer, "x", 1), 1);
    until(&s, told.datagrams == 1);
    until(&s, s.set.count == 0);
    check_eq(told.datagrams, 1); /* none after the close */
    peer_close(peer);
    close_stage(&s);
}

static void nobody_there_is_told_and_no_end(void)
{
    stage s;
    story told = {.echo = false};
    net_addr nobody;
    net_addr where;
    int native = 0;
    io_socket socket;
    open_stage(&s);
    udp *gone = open_udp(&s, &told, &nobody, NULL);
    udp_close(gone);
    until(&s, s.set.count == 0);
    check_eq(net_udp_connect(&socket, NULL, &nobody, &native), IO_OK);
    check_eq(net_local(&where, socket), IO_OK);
    udp *u = udp_open(&s.set, socket, &events, &told, NULL, false);
    check_eq(udp_send(u, NULL, "anybody?", 8), IO_OK);
    until(&s, told.errors > 0);
    check_eq(told.status, IO_REFUSED);
    check_eq(udp_send(u, NULL, "anybody?", 8), IO_OK);
    until(&s, udp_queued(u) == 0);
    udp_close(u);
    close_stage(&s);
}

static void listeners_are_drained_and_all_are_finished(void)
{
    stage s;
    story told[2] = {{.echo = false}, {.echo = false}};
    net_addr where[2];
    open_stage(&s);
    udp *listener = open_udp(&s, &told[0], &where[0], "udp://test");
    open_udp(&s, &told[1], &where[1], NULL);
    io_socket peers[2] = {open_peer(&where[0]), open_peer(&where[1])};
    udp_set_drain(&s.set);
    for (int i = 0; i < 2; i++) check_eq(peer_send_now(peers[i], "x", 1), 1);
    until(&s, told[1].datagrams == 1);
    quiet(&s);
    check_eq(told[0].datagrams, 0);
    net_addr to;
    char got[8];
    check_eq(net_local(&to, peers[0]), IO_OK);
    check_eq(udp_send(listener, &to, "bye", 3), IO_OK); /* a late answer */
    check_eq(udp_set_finish(&s.set, false), 1);
    until(&s, s.set.count == 0);
    check(peer_ready(peers[0], false, RIG_PATIENCE_NS));
    check_eq(peer_recv_now(peers[0], got, sizeof(got)), 3);
    for (int i = 0; i < 2; i++) peer_close(peers[i]);
    close_stage(&s);
}

static void a_cut_drops_what_is_queued(void)
{
    stage s;
    story told = {.echo = false};
    net_addr where;
    open_stage(&s);
    udp *u = open_udp(&s, &told, &where, NULL);
    for (int i = 0; i < 100; i++) check_eq(udp_send(u, &where, "x", 1), IO_OK);
    check_eq(udp_set_finish(&s.set, true), 1);
    close_stage(&s);
    check(s.set.sent <= 1);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(datagrams_are_answered);
    check_run(the_queue_is_bounded_and_what_does_not_fit_is_counted);
    check_run(nothing_is_received_while_paused);
    check_run(a_handler_may_close_its_socket);
    check_run(nobody_there_is_told_and_no_end);
    check_run(listeners_are_drained_and_all_are_finished);
    check_run(a_cut_drops_what_is_queued);
    return rig_end();
}
