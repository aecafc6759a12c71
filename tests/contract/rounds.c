/* rounds.c - goal: a round of io_port_next() ends, whatever handlers submit meanwhile, and one busy connection does not
 * keep others waiting; running out of lent buffers delays and loses nothing. Method: handlers that always resubmit,
 * peers that flood, more connections than buffers; packets and rounds are counted. */
#include "rig.h"

enum { ROUND_MAX = 4096 }; /* packets; what a backend promises is less */

typedef enum busy { POSTING, READING, READABLE, SENDING, BUSY } busy;

/* Does the busy handler's next submit. The peer keeps it busy. */
static void submit(rig *r, busy what, io_op *op, io_socket ours, io_socket peer)
{
    static uint8_t bytes[4096];
    const io_buf buf = {bytes, 1};
    switch (what) {
    case POSTING:
        io_port_post(r->port, op);
        break;
    case READING:
        peer_send_now(peer, bytes, 64);
        check_eq(io_recv(r->port, op, ours), IO_OK);
        break;
    case READABLE:
        peer_send_now(peer, bytes, 1);
        check_eq(io_readable(r->port, op, ours), IO_OK);
        break;
    case SENDING:
    case BUSY:
        peer_recv_now(peer, bytes, sizeof(bytes));
        check_eq(io_send(r->port, op, ours, &buf, 1), IO_OK);
        break;
    }
}

/* Some sockets, each busy for ever; a small queue lets the kernel see what is submitted in the midst of a round. */
static void keep_busy(const io_options *options)
{
    enum { SOCKETS = 8, ROUNDS = 20, SILENT_MAX = 10000 };
    rig r;
    rig_open(&r, options);
    for (busy what = POSTING; what < BUSY; what++) {
        io_socket ours[SOCKETS];
        io_socket peer[SOCKETS];
        io_op ops[SOCKETS] = {0};
        io_op *list[SOCKETS];
        io_packet packets[SOCKETS];
        for (int i = 0; i < SOCKETS; i++) {
            rig_pair(&r, &ours[i], &peer[i]);
            list[i] = &ops[i];
        }
        for (int i = 0; i < SOCKETS; i++) submit(&r, what, &ops[i], ours[i], peer[i]);
        int silent = 0;
        int taken = 0;
        for (int rounds = 0; rounds < ROUNDS;) {
            io_packet packet;
            check_eq(io_port_wait(r.port, RIG_QUIET_NS), IO_OK);
            int in_round = 0;
            while (io_port_next(r.port, &packet)) {
                ptrdiff_t i = packet.op - ops;
                check(i >= 0 && i < SOCKETS);
                check_eq(packet.status, IO_OK);
                check(++in_round < ROUND_MAX);
                submit(&r, what, &ops[i], ours[i], peer[i]);
            }
            taken += in_round;
            if (in_round > 0) rounds++;
            else check(++silent < SILENT_MAX);
        }
        check(taken >= ROUNDS);
        for (int i = 0; i < SOCKETS; i++) {
            if (what != POSTING) io_cancel(r.port, ours[i]);
        }
        expect_all(&r, packets, list, SOCKETS);
        for (int i = 0; i < SOCKETS; i++) {
            io_close(r.port, ours[i], true);
            peer_close(peer[i]);
        }
    }
    rig_close(&r);
}

static void handlers_that_resubmit_for_ever_do_not_hold_the_round(void)
{
    keep_busy(NULL);
}

static void handlers_that_resubmit_for_ever_through_a_small_queue_do_not_hold_the_round(void)
{
    const io_options options = {.entries = 2};
    keep_busy(&options);
}

/* How many packets of the busy one come before the quiet one's, once its byte has arrived. */
static void quiet_one_is_served_beside(busy what)
{
    enum { TURNS = 30, BUSY_MAX = 1500 };
    rig r;
    io_socket ours[2];
    io_socket peer[2];
    io_op ops[2] = {0};
    rig_open(&r, NULL);
    rig_pairs(&r, ours, peer, 2);
    submit(&r, what, &ops[0], ours[0], peer[0]);
    check_eq(io_recv(r.port, &ops[1], ours[1]), IO_OK);
    for (int turn = 0; turn < TURNS; turn++) {
        peer_send(peer[1], "q", 1);
        for (int taken = 0;; taken++) {
            io_packet packet = take(&r);
            if (packet.op == &ops[1]) {
                check_eq(packet.status, IO_OK);
                check_eq(packet.bytes, 1);
                check_eq(io_recv(r.port, &ops[1], ours[1]), IO_OK);
                break;
            }
            check(packet.op == &ops[0]);
            check_eq(packet.status, IO_OK);
            if (taken > BUSY_MAX) fail("%d packets of the busy one (%d), none of the quiet one", taken, (int)what);
            submit(&r, what, &ops[0], ours[0], peer[0]);
        }
    }
    for (int i = 0; i < 2; i++) io_cancel(r.port, ours[i]);
    io_op *const both[] = {&ops[0], &ops[1]};
    io_packet packets[2];
    expect_all(&r, packets, both, 2);
    for (int i = 0; i < 2; i++) {
        io_close(r.port, ours[i], true);
        peer_close(peer[i]);
    }
    rig_close(&r);
}

static void a_quiet_connection_is_served_beside_endless_posts(void)
{
    quiet_one_is_served_beside(POSTING);
}

static void a_quiet_connection_is_served_beside_a_flooding_peer(void)
{
    quiet_one_is_served_beside(READING);
}

static void a_quiet_connection_is_served_beside_one_that_is_always_readable(void)
{
    quiet_one_is_served_beside(READABLE);
}

static void a_quiet_connection_is_served_beside_one_that_always_sends(void)
{
    quiet_one_is_served_beside(SENDING);
}

static void a_post_arrives_beside_a_flooding_peer(void)
{
    enum { TURNS = 20, BUSY_MAX = 1500 };
    rig r;
    io_socket ours;
    io_socket peer;
    io_op recv = {0};
    io_op post = {0};
    rig_open_pair(&r, &ours, &peer);
    submit(&r, READING, &recv, ours, peer);
    for (int turn = 0; turn < TURNS; turn++) {
        io_port_post(r.port, &post);
        for (int taken = 0;; taken++) {
            io_packet packet = take(&r);
            if (packet.op == &post) break;
            check(packet.op == &recv);
            check(taken < BUSY_MAX);
            submit(&r, READING, &recv, ours, peer);
        }
    }
    io_cancel(r.port, ours);
    expect(&r, &recv);
    io_close(r.port, ours, true);
    peer_close(peer);
    rig_close(&r);
}

/* Many connections send, and close, all at once; the port has two buffers to lend. */
static void few_buffers_serve_many_connections_without_loss_or_spin(void)
{
    enum { SOCKETS = 64, BYTES = 5000, LENT = 1024 };
    const io_options options = {.recv_bytes = LENT, .recv_buffers = 2};
    rig r;
    static io_socket ours[SOCKETS];
    static io_socket peer[SOCKETS];
    static io_op ops[SOCKETS];
    static uint64_t position[SOCKETS];
    memset(ops, 0, sizeof(ops));
    memset(position, 0, sizeof(position));
    rig_open(&r, &options);
    rig_pairs(&r, ours, peer, SOCKETS);
    for (uint32_t i = 0; i < SOCKETS; i++) check_eq(io_recv(r.port, &ops[i], ours[i]), IO_OK);
    check_eq(io_port_wait(r.port, 0), IO_OK);
    for (uint32_t i = 0; i < SOCKETS; i++) {
        uint8_t bytes[BYTES];
        pattern_fill(bytes, BYTES, i, 0);
        peer_send(peer[i], bytes, BYTES);
        if (i % 2 == 0) peer_shutdown(peer[i]); /* its FIN comes while buffers are short */
    }
    uint64_t packets = 0;
    uint64_t waits = r.waits;
    for (uint32_t ended = 0; ended < SOCKETS; packets++) {
        io_packet packet = take(&r);
        uint32_t i = (uint32_t)(packet.op - ops);
        check(i < SOCKETS);
        check_eq(packet.kind, IO_RECV);
        check_eq(packet.status, IO_OK); /* exhaustion is never the caller's concern */
        if (packet.bytes == 0) {
            check_eq(position[i], BYTES);
            ended++;
            continue;
        }
        check_pattern(packet.data, packet.bytes, i, position[i]);
        position[i] += packet.bytes;
        if (position[i] == BYTES && i % 2 == 1) peer_shutdown(peer[i]);
        check_eq(io_recv(r.port, &ops[i], ours[i]), IO_OK);
    }
    if (r.waits - waits > 2 * packets + 100) {
        fail("%llu waits for %llu packets: it spins", (unsigned long long)(r.waits - waits),
             (unsigned long long)packets);
    }
    rig_close_pairs(&r, ours, peer, SOCKETS);
}

/* Only FINs, at once, with nothing but FINs to say: no buffer is needed, yet a kernel may ask for one. */
static void fins_alone_arrive_when_buffers_are_few(void)
{
    enum { SOCKETS = 64 };
    const io_options options = {.recv_buffers = 2};
    rig r;
    static io_socket ours[SOCKETS];
    static io_socket peer[SOCKETS];
    static io_op ops[SOCKETS];
    io_op *list[SOCKETS];
    io_packet packets[SOCKETS];
    memset(ops, 0, sizeof(ops));
    rig_open(&r, &options);
    for (uint32_t i = 0; i < SOCKETS; i++) {
        rig_pair(&r, &ours[i], &peer[i]);
        list[i] = &ops[i];
    }
    for (uint32_t i = 0; i < SOCKETS; i++) check_eq(io_recv(r.port, &ops[i], ours[i]), IO_OK);
    check_eq(io_port_wait(r.port, 0), IO_OK);
    for (uint32_t i = 0; i < SOCKETS; i++) peer_shutdown(peer[i]);
    expect_all(&r, packets, list, SOCKETS);
    for (uint32_t i = 0; i < SOCKETS; i++) {
        check_eq(packets[i].status, IO_OK);
        check_eq(packets[i].bytes, 0);
    }
    rig_close_pairs(&r, ours, peer, SOCKETS);
}

/* Receives that wait for a buffer can be canceled like any other. */
static void canceling_while_buffers_are_short_yields_every_packet(void)
{
    enum { SOCKETS = 64, BYTES = 100 };
    const io_options options = {.recv_bytes = BYTES, .recv_buffers = 2};
    rig r;
    static io_socket ours[SOCKETS];
    static io_socket peer[SOCKETS];
    static io_op ops[SOCKETS];
    static uint64_t position[SOCKETS];
    memset(ops, 0, sizeof(ops));
    memset(position, 0, sizeof(position));
    rig_open(&r, &options);
    for (uint32_t i = 0; i < SOCKETS; i++) {
        uint8_t bytes[BYTES];
        rig_pair(&r, &ours[i], &peer[i]);
        pattern_fill(bytes, BYTES, i, 0);
        peer_send(peer[i], bytes, BYTES);
    }
    for (uint32_t i = 0; i < SOCKETS; i++) check_eq(io_recv(r.port, &ops[i], ours[i]), IO_OK);
    for (uint32_t taken = 0; taken < SOCKETS; taken++) {
        io_packet packet = take(&r);
        uint32_t i = (uint32_t)(packet.op - ops);
        check(i < SOCKETS);
        check(packet.status == IO_OK || packet.status == IO_CANCELED);
        if (packet.bytes > 0) check_pattern(packet.data, packet.bytes, i, 0);
        position[i] += packet.bytes;
        if (taken != 3) continue;
        for (uint32_t other = 0; other < SOCKETS; other++) {
            if (ops[other].kind != IO_IDLE) io_cancel(r.port, ours[other]);
        }
    }
    for (uint32_t i = 0; i < SOCKETS; i++) {
        while (position[i] < BYTES) {
            check_eq(io_recv(r.port, &ops[i], ours[i]), IO_OK);
            io_packet packet = expect(&r, &ops[i]);
            check(packet.status == IO_OK && packet.bytes > 0);
            check_pattern(packet.data, packet.bytes, i, position[i]);
            position[i] += packet.bytes;
        }
    }
    rig_close_pairs(&r, ours, peer, SOCKETS);
}

/* A port may receive for several of them before it gives the first its packet: then a cancel comes too late for the rest, and what is lent
 * of each has to stay whole until its turn. */
static void messages_of_many_sizes_that_come_at_once_arrive_whole(void)
{
    enum { SOCKETS = 48, ROUNDS = 20, CANCEL_AFTER = 5 };
    static const size_t sizes[] = {1, 64, 1023, 1024, 1025, 64, 64, 4000, 1, 12000};
    enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };
    rig r;
    static io_socket ours[SOCKETS];
    static io_socket peer[SOCKETS];
    static io_op ops[SOCKETS];
    static uint64_t sent[SOCKETS];
    static uint64_t received[SOCKETS];
    memset(ops, 0, sizeof(ops));
    memset(sent, 0, sizeof(sent));
    memset(received, 0, sizeof(received));
    rig_open(&r, NULL);
    rig_pairs(&r, ours, peer, SOCKETS);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < SOCKETS; i++) check_eq(io_recv(r.port, &ops[i], ours[i]), IO_OK);
        check_eq(io_port_wait(r.port, 0), IO_OK);
        for (uint32_t i = 0; i < SOCKETS; i++) {
            uint8_t bytes[12000];
            size_t len = sizes[(i + round) % SIZES];
            pattern_fill(bytes, len, i, sent[i]);
            peer_send(peer[i], bytes, len);
            sent[i] += len;
        }
        uint32_t canceled = (round * 7) % SOCKETS;
        for (uint32_t ended = 0, taken = 0; ended < SOCKETS; taken++) {
            io_packet packet = take(&r);
            uint32_t i = (uint32_t)(packet.op - ops);
            check(i < SOCKETS);
            check(packet.status == IO_OK || (packet.status == IO_CANCELED && i == canceled && packet.bytes == 0));
            if (packet.bytes > 0) check_pattern(packet.data, packet.bytes, i, received[i]);
            received[i] += packet.bytes;
            if (received[i] == sent[i]) ended++;
            else check_eq(io_recv(r.port, &ops[i], ours[i]), IO_OK);
            if (taken == CANCEL_AFTER && ops[canceled].kind != IO_IDLE) io_cancel(r.port, ours[canceled]);
        }
    }
    rig_close_pairs(&r, ours, peer, SOCKETS);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(handlers_that_resubmit_for_ever_do_not_hold_the_round);
    check_run(handlers_that_resubmit_for_ever_through_a_small_queue_do_not_hold_the_round);
    check_run(a_quiet_connection_is_served_beside_endless_posts);
    check_run(a_quiet_connection_is_served_beside_a_flooding_peer);
    check_run(a_quiet_connection_is_served_beside_one_that_is_always_readable);
    check_run(a_quiet_connection_is_served_beside_one_that_always_sends);
    check_run(a_post_arrives_beside_a_flooding_peer);
    check_run(few_buffers_serve_many_connections_without_loss_or_spin);
    check_run(fins_alone_arrive_when_buffers_are_few);
    check_run(canceling_while_buffers_are_short_yields_every_packet);
    check_run(messages_of_many_sizes_that_come_at_once_arrive_whole);
    return rig_end();
}
