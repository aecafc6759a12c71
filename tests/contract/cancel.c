/* cancel.c - goal: after io_cancel() every pending op yields exactly one packet, canceled or with the result it reached
 * first, and no byte and no connection is lost. Method: each kind canceled while it waits, and in a race with what it
 * waits for; ledgers of bytes. */
#include "rig.h"

typedef enum way { LENT, POSTED, READY, WAYS } way;

static uint8_t posted[4096];

static void submit(rig *r, io_op *op, io_socket ours, way how)
{
    switch (how) {
    case LENT:
        check_eq(io_recv(r->port, op, ours), IO_OK);
        break;
    case POSTED:
        check_eq(io_recv_into(r->port, op, ours, posted, sizeof(posted)), IO_OK);
        break;
    case READY:
    case WAYS:
        check_eq(io_readable(r->port, op, ours), IO_OK);
        break;
    }
}

static void pending_receive_is_canceled_and_can_be_resubmitted(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    for (way how = LENT; how < WAYS; how++) {
        io_op op = {0};
        for (int in_kernel = 0; in_kernel < 2; in_kernel++) {
            submit(&r, &op, ours, how);
            if (in_kernel) expect_nothing(&r);
            io_cancel(r.port, ours);
            io_packet packet = expect(&r, &op);
            check_eq(packet.kind, how == READY ? IO_READABLE : IO_RECV);
            check_eq(packet.status, IO_CANCELED);
            check_eq(packet.bytes, 0);
        }
        submit(&r, &op, ours, how);
        peer_send(peer, "x", 1);
        io_packet packet = expect(&r, &op);
        check_eq(packet.status, IO_OK);
        if (how != READY) check_eq(packet.bytes, 1);
    }
    expect_nothing(&r);
    rig_close_pair(&r, ours, peer);
}

static void cancel_with_nothing_pending_is_harmless(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open(&r, NULL);
    io_cancel(r.port, r.listener);
    rig_pair(&r, &ours, &peer);
    io_cancel(r.port, ours);
    for (int i = 0; i < 50; i++) {
        io_op op = {0};
        peer_send(peer, "x", 1);
        io_cancel(r.port, ours);
        submit(&r, &op, ours, (way)(i % 2)); /* submitted after the cancel: not its business */
        io_packet packet = expect(&r, &op);
        check_eq(packet.status, IO_OK);
        check_eq(packet.bytes, 1);
        io_cancel(r.port, ours);
    }
    expect_nothing(&r);
    rig_close_pair(&r, ours, peer);
}

static void cancel_does_not_reach_what_is_submitted_after_it(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    for (int i = 0; i < 200; i++) {
        io_op op = {0};
        way how = (way)(i % WAYS);
        submit(&r, &op, ours, how);
        if (i % 2 == 0) check_eq(io_port_wait(r.port, 0), IO_OK);
        io_cancel(r.port, ours);
        io_cancel(r.port, ours); /* asked twice, still one packet */
        check_eq(expect(&r, &op).status, IO_CANCELED);
        submit(&r, &op, ours, LENT);
        if (i % 4 == 0) check_eq(io_port_wait(r.port, 0), IO_OK);
        peer_send(peer, "y", 1);
        io_packet packet = expect(&r, &op);
        check_eq(packet.status, IO_OK);
        check_eq(packet.bytes, 1);
    }
    expect_nothing(&r);
    rig_close_pair(&r, ours, peer);
}

static void cancel_of_one_socket_leaves_others_alone(void)
{
    enum { SOCKETS = 30 };
    rig r;
    io_socket ours[SOCKETS];
    io_socket peer[SOCKETS];
    io_op ops[SOCKETS] = {0};
    rig_open(&r, NULL);
    rig_pairs(&r, ours, peer, SOCKETS);
    for (int i = 0; i < SOCKETS; i++) submit(&r, &ops[i], ours[i], i % 2 == 0 ? LENT : READY);
    for (int i = 0; i < SOCKETS; i += 3) {
        io_cancel(r.port, ours[i]);
        check_eq(expect(&r, &ops[i]).status, IO_CANCELED);
    }
    expect_nothing(&r);
    for (int i = 0; i < SOCKETS; i++) {
        if (i % 3 != 0) {
            peer_send(peer[i], "x", 1);
            check_eq(expect(&r, &ops[i]).status, IO_OK);
        }
    }
    rig_close_pairs(&r, ours, peer, SOCKETS);
}

/* The peer sends while the receive is canceled. What the packets report and what is read afterwards is the stream. */
static void bytes_that_race_a_canceled_receive_are_not_lost(void)
{
    enum { TURNS = 400, PIECE = 100 };
    rig r;
    rig_open(&r, NULL);
    for (way how = LENT; how < WAYS; how++) {
        io_socket ours;
        io_socket peer;
        rig_pair(&r, &ours, &peer);
        uint64_t sent = 0;
        uint64_t received = 0;
        for (int i = 0; i < TURNS; i++) {
            uint8_t bytes[PIECE];
            io_op op = {0};
            submit(&r, &op, ours, how);
            if (i % 3 > 0) check_eq(io_port_wait(r.port, 0), IO_OK);
            pattern_fill(bytes, PIECE, how, sent);
            peer_send(peer, bytes, PIECE);
            sent += PIECE;
            if (i % 3 > 1) check_eq(io_port_wait(r.port, 0), IO_OK);
            io_cancel(r.port, ours);
            io_packet packet = expect(&r, &op);
            check(packet.status == IO_OK || packet.status == IO_CANCELED);
            if (packet.bytes > 0) check_pattern(packet.data, packet.bytes, how, received);
            else if (how != READY) check_eq(packet.status, IO_CANCELED); /* not an end of stream */
            received += packet.bytes;
        }
        while (received < sent) {
            io_op op = {0};
            check_eq(io_recv(r.port, &op, ours), IO_OK);
            io_packet packet = expect(&r, &op);
            check_eq(packet.status, IO_OK);
            check(packet.bytes > 0);
            check_pattern(packet.data, packet.bytes, how, received);
            received += packet.bytes;
        }
        check_eq(received, sent);
        io_close(r.port, ours, false);
        peer_close(peer);
    }
    rig_close(&r);
}

/* Packets of many sockets are ready; the handler of the first cancels all others. */
static void canceling_ops_whose_packets_wait_in_the_batch_loses_nothing(void)
{
    enum { SOCKETS = 20, TURNS = 10 };
    rig r;
    io_socket ours[SOCKETS];
    io_socket peer[SOCKETS];
    io_op ops[SOCKETS] = {0};
    uint64_t received[SOCKETS] = {0};
    rig_open(&r, NULL);
    rig_pairs(&r, ours, peer, SOCKETS);
    for (int turn = 0; turn < TURNS; turn++) {
        for (uint32_t i = 0; i < SOCKETS; i++) submit(&r, &ops[i], ours[i], LENT);
        check_eq(io_port_wait(r.port, 0), IO_OK);
        for (uint32_t i = 0; i < SOCKETS; i++) {
            uint8_t bytes[10];
            pattern_fill(bytes, 10, i, (uint64_t)turn * 10);
            peer_send(peer[i], bytes, 10);
        }
        for (uint32_t taken = 0; taken < SOCKETS; taken++) {
            io_packet packet = take(&r);
            uint32_t i = (uint32_t)(packet.op - ops);
            check(i < SOCKETS);
            check(packet.status == IO_OK || packet.status == IO_CANCELED);
            if (packet.bytes > 0) check_pattern(packet.data, packet.bytes, i, received[i]);
            received[i] += packet.bytes;
            if (taken > 0) continue;
            check_eq(packet.status, IO_OK);
            for (uint32_t other = 0; other < SOCKETS; other++) {
                if (other != i) io_cancel(r.port, ours[other]);
            }
        }
    }
    for (uint32_t i = 0; i < SOCKETS; i++) {
        while (received[i] < TURNS * 10) {
            submit(&r, &ops[i], ours[i], LENT);
            io_packet packet = expect(&r, &ops[i]);
            check_eq(packet.status, IO_OK);
            check(packet.bytes > 0);
            check_pattern(packet.data, packet.bytes, i, received[i]);
            received[i] += packet.bytes;
        }
    }
    rig_close_pairs(&r, ours, peer, SOCKETS);
}

/* The peer reads nothing, the send waits, is canceled, and what its packet reports is exactly what was moved: the
 * stream goes on from there without gap or repeat. */
static void canceled_send_reports_what_was_moved(void)
{
    enum { MORE = 50000, SIP = 30000, SIPS = 20, CASES = 3 };
    static uint8_t got[65536];
    static uint8_t more[MORE];
    rig r;
    rig_open(&r, NULL);
    for (int how = 0; how < CASES; how++) {
        io_socket ours;
        io_socket peer;
        rig_pair(&r, &ours, &peer);
        io_op op = {0};
        io_op recv = {0};
        uint64_t received = 0;
        uint64_t sent = rig_fill(&r, &op, ours, 4);
        check_eq(io_recv(r.port, &recv, ours), IO_OK); /* one cancel ends both */
        if (how == 1) expect_nothing(&r);
        for (int i = 0; how == 2 && i < SIPS; i++) { /* a part of it is moved */
            check_eq(peer_recv(peer, got, SIP), SIP);
            check_pattern(got, SIP, 4, received);
            received += SIP;
        }
        io_cancel(r.port, ours);
        io_op *const ops[] = {&op, &recv};
        io_packet packets[2];
        expect_all(&r, packets, ops, 2);
        check(packets[0].status == IO_CANCELED || (packets[0].status == IO_OK && packets[0].bytes > 0));
        check_eq(packets[1].status, IO_CANCELED);
        check(packets[0].bytes < FILL_BYTES || packets[0].status == IO_OK);
        sent += packets[0].bytes;
        size_t moved = 0;
        uint64_t end = sent + MORE;
        pattern_fill(more, MORE, 4, sent);
        while (received < end) {
            if (op.kind == IO_IDLE && moved < MORE) {
                const io_buf buf = {more + moved, MORE - moved};
                check_eq(io_send(r.port, &op, ours, &buf, 1), IO_OK);
            }
            long taken = peer_recv_now(peer, got, sizeof(got));
            check(taken == PEER_AGAIN || taken > 0);
            if (taken > 0) {
                check_pattern(got, (size_t)taken, 4, received);
                received += (uint64_t)taken;
            }
            io_packet packet;
            if (rig_next(&r, &packet, taken > 0 ? 0 : io_port_now(r.port) + 1000000)) {
                check_eq(packet.status, IO_OK);
                moved += packet.bytes;
            }
        }
        while (op.kind != IO_IDLE) moved += expect(&r, &op).bytes;
        check_eq(moved, MORE);
        check_eq(received, end);
        io_close(r.port, ours, false);
        check_eq(peer_recv(peer, got, 1), 0);
        peer_close(peer);
    }
    rig_close(&r);
}

static void pending_accepts_are_canceled_each_once(void)
{
    enum { ACCEPTS = 32 };
    rig r;
    io_accept_op accepts[ACCEPTS] = {0};
    io_op *ops[ACCEPTS];
    io_packet packets[ACCEPTS];
    rig_open(&r, NULL);
    for (int turn = 0; turn < 3; turn++) {
        for (int i = 0; i < ACCEPTS; i++) {
            ops[i] = &accepts[i].op;
            check_eq(io_accept(r.port, &accepts[i], r.listener), IO_OK);
        }
        check_eq(io_port_pending(r.port), ACCEPTS);
        if (turn > 0) expect_nothing(&r);
        io_cancel(r.port, r.listener);
        expect_all(&r, packets, ops, ACCEPTS);
        for (int i = 0; i < ACCEPTS; i++) check_eq(packets[i].status, IO_CANCELED);
    }
    io_socket ours;
    io_socket peer;
    rig_pair(&r, &ours, &peer); /* the listener is as good as before */
    rig_close_pair(&r, ours, peer);
}

static void connection_that_races_a_canceled_accept_is_not_lost(void)
{
    rig r;
    rig_open(&r, NULL);
    for (int i = 0; i < 60; i++) {
        io_accept_op op = {0};
        check_eq(io_accept(r.port, &op, r.listener), IO_OK);
        if (i % 3 > 0) check_eq(io_port_wait(r.port, 0), IO_OK);
        io_socket peer = peer_connect(&r.address);
        if (i % 3 > 1) check_eq(io_port_wait(r.port, 0), IO_OK);
        io_cancel(r.port, r.listener);
        io_packet packet = expect(&r, &op.op);
        if (packet.status == IO_CANCELED) {
            check_eq(io_accept(r.port, &op, r.listener), IO_OK);
            packet = expect(&r, &op.op);
        }
        check_eq(packet.status, IO_OK);
        net_addr local;
        check_eq(net_local(&local, peer), IO_OK);
        check_eq(net_addr_port(&op.peer), net_addr_port(&local));
        io_close(r.port, packet.accepted, false);
        peer_close(peer);
    }
    expect_nothing(&r);
    rig_close(&r);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(pending_receive_is_canceled_and_can_be_resubmitted);
    check_run(cancel_with_nothing_pending_is_harmless);
    check_run(cancel_does_not_reach_what_is_submitted_after_it);
    check_run(cancel_of_one_socket_leaves_others_alone);
    check_run(bytes_that_race_a_canceled_receive_are_not_lost);
    check_run(canceling_ops_whose_packets_wait_in_the_batch_loses_nothing);
    check_run(canceled_send_reports_what_was_moved);
    check_run(pending_accepts_are_canceled_each_once);
    check_run(connection_that_races_a_canceled_accept_is_not_lost);
    return rig_end();
}
