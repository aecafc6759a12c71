/* recv_lent.c - goal: io_recv() reports data, end of stream and resets, once each and in order, in bytes that the port
 * lends. Method: a plain peer sends, closes and resets before and after the submit. */
#include "rig.h"

static void recv_waits_for_bytes(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    check_eq(io_recv(r.port, &op, ours), IO_OK);
    check_eq(op.kind, IO_RECV);
    check_eq(io_port_pending(r.port), 1);
    expect_nothing(&r);
    peer_send(peer, "hello", 5);
    io_packet packet = expect(&r, &op);
    check_eq(packet.kind, IO_RECV);
    check_eq(packet.status, IO_OK);
    check_eq(packet.bytes, 5);
    check_mem(packet.data, "hello", 5);
    expect_nothing(&r);
    rig_close_pair(&r, ours, peer);
}

static void recv_takes_bytes_that_came_before(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    peer_send(peer, "early", 5);
    check(peer_ready(ours, false, RIG_PATIENCE_NS));
    check_eq(io_recv(r.port, &op, ours), IO_OK);
    check_eq(op.kind, IO_RECV); /* a submit never completes by itself */
    check_eq(io_port_pending(r.port), 1);
    io_packet packet = expect(&r, &op);
    check_eq(packet.status, IO_OK);
    check_eq(packet.bytes, 5);
    check_mem(packet.data, "early", 5);
    expect_nothing(&r);
    rig_close_pair(&r, ours, peer);
}

static void lent_bytes_stay_until_the_next_packet_is_asked_for(void)
{
    rig r;
    io_socket ours[2];
    io_socket peer[2];
    rig_open(&r, NULL);
    io_op recv[2] = {0};
    io_op send = {0};
    uint8_t bytes[4000];
    for (uint32_t i = 0; i < 2; i++) {
        rig_pair(&r, &ours[i], &peer[i]);
        pattern_fill(bytes, sizeof(bytes), i, 0);
        peer_send(peer[i], bytes, sizeof(bytes));
        check(peer_ready(ours[i], false, RIG_PATIENCE_NS));
    }
    for (int i = 0; i < 2; i++) check_eq(io_recv(r.port, &recv[i], ours[i]), IO_OK);
    uint64_t position[2] = {0, 0};
    while (position[0] < sizeof(bytes) || position[1] < sizeof(bytes)) {
        io_packet packet = take(&r);
        uint32_t i = packet.op == &recv[0] ? 0 : 1;
        check(packet.op == &recv[i]);
        check_eq(packet.status, IO_OK);
        check(packet.bytes > 0);
        /* Everything that a handler may do before it asks for the next packet: */
        size_t drawn;
        char none[8];
        if (position[i] + packet.bytes < sizeof(bytes)) check_eq(io_recv(r.port, &recv[i], ours[i]), IO_OK);
        else check_eq(io_draw(r.port, ours[i], none, sizeof(none), &drawn), IO_AGAIN);
        io_cancel(r.port, r.listener);
        check_pattern(packet.data, packet.bytes, i, position[i]);
        position[i] += packet.bytes;
    }
    const io_buf buf = {"x", 1};
    check_eq(io_recv(r.port, &recv[0], ours[0]), IO_OK);
    check_eq(io_send(r.port, &send, ours[0], &buf, 1), IO_OK);
    check_eq(expect(&r, &send).status, IO_OK);
    io_cancel(r.port, ours[0]);
    check_eq(expect(&r, &recv[0]).status, IO_CANCELED);
    rig_close_pairs(&r, ours, peer, 2);
}

/* While a loan is held, other receives are submitted, through a queue so small that the kernel sees them at once. */
static void lent_bytes_outlive_other_receives(void)
{
    enum { SOCKETS = 20, LENT = 2000 };
    const io_options options = {.recv_bytes = LENT, .recv_buffers = 2, .entries = 4};
    rig r;
    io_socket ours[SOCKETS];
    io_socket peer[SOCKETS];
    io_op ops[SOCKETS] = {0};
    rig_open(&r, &options);
    for (uint32_t i = 0; i < SOCKETS; i++) {
        uint8_t bytes[LENT];
        rig_pair(&r, &ours[i], &peer[i]);
        pattern_fill(bytes, LENT, i, 0);
        peer_send(peer[i], bytes, LENT);
        check(peer_ready(ours[i], false, RIG_PATIENCE_NS));
    }
    check_eq(io_recv(r.port, &ops[0], ours[0]), IO_OK);
    for (uint32_t taken = 0; taken < SOCKETS; taken++) {
        io_packet packet = take(&r);
        uint32_t i = (uint32_t)(packet.op - ops);
        check(i < SOCKETS);
        check_eq(packet.status, IO_OK);
        check_eq(packet.bytes, LENT);
        if (taken == 0) {
            for (uint32_t k = 1; k < SOCKETS; k++) check_eq(io_recv(r.port, &ops[k], ours[k]), IO_OK);
        }
        check_pattern(packet.data, LENT, i, 0);
    }
    rig_close_pairs(&r, ours, peer, SOCKETS);
}

static void recv_is_resubmitted_from_its_packet(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    check_eq(io_recv(r.port, &op, ours), IO_OK);
    for (int i = 0; i < 200; i++) {
        uint8_t byte = (uint8_t)i;
        peer_send(peer, &byte, 1);
        io_packet packet = expect(&r, &op);
        check_eq(packet.status, IO_OK);
        check_eq(packet.bytes, 1);
        check_eq(packet.data[0], byte);
        check_eq(io_recv(r.port, &op, ours), IO_OK);
    }
    peer_close(peer);
    check_eq(expect(&r, &op).bytes, 0);
    io_close(r.port, ours, false);
    rig_close(&r);
}

/* A backend may learn that a peer is quick, and guess. Then the peer is slow, gone, or the receive is called off. */
static void a_peer_that_was_quick_may_do_anything_next(void)
{
    enum { NOTHING_THEN_BYTES, CANCEL_BEFORE_WAITING, CANCEL_WHILE_WAITING, FIN, RESET, ENDS };
    for (int next = 0; next < ENDS; next++) {
        rig r;
        io_socket ours;
        io_socket peer;
        rig_open(&r, NULL);
        rig_pair(&r, &ours, &peer);
        io_op op = {0};
        for (int i = 0; i < 5; i++) {
            uint8_t byte = (uint8_t)i;
            peer_send(peer, &byte, 1);
            check(peer_ready(ours, false, RIG_PATIENCE_NS));
            check_eq(io_recv(r.port, &op, ours), IO_OK);
            io_packet packet = expect(&r, &op);
            check_eq(packet.status, IO_OK);
            check_eq(packet.bytes, 1);
            check_eq(packet.data[0], byte);
        }
        check_eq(io_recv(r.port, &op, ours), IO_OK);
        check_eq(io_port_pending(r.port), 1);
        if (next != CANCEL_BEFORE_WAITING) expect_nothing(&r);
        if (next == NOTHING_THEN_BYTES) peer_send(peer, "late", 4);
        if (next == FIN) peer_shutdown(peer);
        if (next == RESET) peer_reset(peer);
        if (next == CANCEL_BEFORE_WAITING || next == CANCEL_WHILE_WAITING) io_cancel(r.port, ours);
        io_packet packet = expect(&r, &op);
        static const io_status wanted[] = {IO_OK, IO_CANCELED, IO_CANCELED, IO_OK, IO_RESET};
        check_eq(packet.status, wanted[next]);
        check_eq(packet.bytes, next == NOTHING_THEN_BYTES ? 4 : 0);
        expect_nothing(&r);
        io_close(r.port, ours, false);
        if (next != RESET) peer_close(peer);
        rig_close(&r);
    }
}

static void recv_reports_fin_as_zero_bytes(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    check_eq(io_recv(r.port, &op, ours), IO_OK);
    check_eq(io_port_wait(r.port, 0), IO_OK); /* it is in the kernel now */
    peer_shutdown(peer);
    for (int i = 0; i < 3; i++) { /* and says so as often as it is asked */
        io_packet packet = expect(&r, &op);
        check_eq(packet.kind, IO_RECV);
        check_eq(packet.status, IO_OK);
        check_eq(packet.bytes, 0);
        if (i < 2) check_eq(io_recv(r.port, &op, ours), IO_OK);
    }
    rig_close_pair(&r, ours, peer);
}

static void data_then_fin_in_one_go_arrive_in_order(void)
{
    rig r;
    rig_open(&r, NULL);
    for (int early = 0; early < 2; early++) {
        io_socket ours;
        io_socket peer;
        rig_pair(&r, &ours, &peer);
        io_op op = {0};
        if (!early) {
            check_eq(io_recv(r.port, &op, ours), IO_OK);
            check_eq(io_port_wait(r.port, 0), IO_OK);
        }
        peer_send(peer, "abcdef", 6);
        peer_shutdown(peer);
        if (early) check_eq(io_recv(r.port, &op, ours), IO_OK);
        char got[16];
        size_t len = 0;
        for (;;) {
            io_packet packet = expect(&r, &op);
            check_eq(packet.status, IO_OK);
            if (packet.bytes == 0) break;
            check(len + packet.bytes <= 6);
            memcpy(got + len, packet.data, packet.bytes);
            len += packet.bytes;
            check_eq(io_recv(r.port, &op, ours), IO_OK);
        }
        check_eq(len, 6);
        check_mem(got, "abcdef", 6);
        io_close(r.port, ours, false);
        peer_close(peer);
    }
    rig_close(&r);
}

static void pending_recv_reports_a_reset(void)
{
    rig r;
    rig_open(&r, NULL);
    for (int i = 0; i < 50; i++) {
        io_socket ours;
        io_socket peer;
        rig_pair(&r, &ours, &peer);
        io_op op = {0};
        check_eq(io_recv(r.port, &op, ours), IO_OK);
        check_eq(io_port_wait(r.port, 0), IO_OK);
        peer_reset(peer);
        io_packet packet = expect(&r, &op);
        check_eq(packet.kind, IO_RECV);
        check_eq(packet.status, IO_RESET);
        check_eq(packet.bytes, 0);
        check(packet.native != 0);
        io_close(r.port, ours, false);
    }
    rig_close(&r);
}

static void recv_is_no_longer_than_a_lent_buffer(void)
{
    enum { LENT = 1000, TOTAL = 25 * LENT + 17 };
    rig r;
    io_socket ours;
    io_socket peer;
    const io_options options = {.recv_bytes = LENT};
    rig_open(&r, &options);
    rig_pair(&r, &ours, &peer);
    io_op op = {0};
    static uint8_t bytes[TOTAL];
    pattern_fill(bytes, TOTAL, 7, 0);
    peer_send(peer, bytes, TOTAL);
    uint64_t position = 0;
    while (position < TOTAL) {
        check_eq(io_recv(r.port, &op, ours), IO_OK);
        io_packet packet = expect(&r, &op);
        check_eq(packet.status, IO_OK);
        check(packet.bytes > 0 && packet.bytes <= LENT);
        check_pattern(packet.data, packet.bytes, 7, position);
        position += packet.bytes;
    }
    check_eq(position, TOTAL);
    rig_close_pair(&r, ours, peer);
}

static void many_sockets_receive_their_own_bytes(void)
{
    enum { SOCKETS = 300, TURNS = 3 }; /* more than a round has packets, or a port buffers */
    static io_socket ours[SOCKETS];
    static io_socket peer[SOCKETS];
    static io_op ops[SOCKETS];
    static uint64_t position[SOCKETS];
    rig r;
    rig_open(&r, NULL);
    memset(ops, 0, sizeof(ops));
    memset(position, 0, sizeof(position));
    rig_pairs(&r, ours, peer, SOCKETS);
    for (uint32_t i = 0; i < SOCKETS; i++) check_eq(io_recv(r.port, &ops[i], ours[i]), IO_OK);
    check_eq(io_port_pending(r.port), SOCKETS);
    for (int turn = 0; turn < TURNS; turn++) {
        uint8_t bytes[100];
        for (uint32_t i = 0; i < SOCKETS; i++) {
            pattern_fill(bytes, 100, i, (uint64_t)turn * 100);
            peer_send(peer[i], bytes, 100);
        }
        for (uint64_t left = SOCKETS * 100; left > 0;) {
            io_packet packet = take(&r);
            uint32_t i = (uint32_t)(packet.op - ops);
            check(i < SOCKETS);
            check_eq(packet.status, IO_OK);
            check(packet.bytes > 0 && packet.bytes <= left);
            check_pattern(packet.data, packet.bytes, i, position[i]);
            position[i] += packet.bytes;
            left -= packet.bytes;
            check_eq(io_recv(r.port, &ops[i], ours[i]), IO_OK);
        }
    }
    for (uint32_t i = 0; i < SOCKETS; i++) peer_shutdown(peer[i]);
    for (uint32_t i = 0; i < SOCKETS; i++) {
        io_packet packet = take(&r);
        check_eq(packet.status, IO_OK);
        check_eq(packet.bytes, 0);
    }
    rig_close_pairs(&r, ours, peer, SOCKETS);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(recv_waits_for_bytes);
    check_run(recv_takes_bytes_that_came_before);
    check_run(lent_bytes_stay_until_the_next_packet_is_asked_for);
    check_run(lent_bytes_outlive_other_receives);
    check_run(recv_is_resubmitted_from_its_packet);
    check_run(a_peer_that_was_quick_may_do_anything_next);
    check_run(recv_reports_fin_as_zero_bytes);
    check_run(data_then_fin_in_one_go_arrive_in_order);
    check_run(pending_recv_reports_a_reset);
    check_run(recv_is_no_longer_than_a_lent_buffer);
    check_run(many_sockets_receive_their_own_bytes);
    return rig_end();
}
