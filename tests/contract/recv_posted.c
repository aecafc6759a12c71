/* recv_posted.c - goal: io_recv_into() fills the caller's buffer and nothing behind it, with data, end of stream and
 * resets reported once each. Method: guarded buffers of several sizes, a plain peer. */
#include "rig.h"

enum { GUARD = 64 };

/* A posted receive puts what is there at the start of the buffer, and packet.data is the buffer. */
static void recv_into_fills_the_callers_buffer(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    uint8_t buffer[100 + GUARD];
    uint8_t guard[GUARD];
    memset(buffer, 0xa5, sizeof(buffer));
    memset(guard, 0xa5, sizeof(guard));
    check_eq(io_recv_into(r.port, &op, ours, buffer, 100), IO_OK);
    check_eq(op.kind, IO_RECV);
    check_eq(io_port_pending(r.port), 1);
    expect_nothing(&r);
    peer_send(peer, "hello", 5);
    io_packet packet = expect(&r, &op);
    check_eq(packet.kind, IO_RECV);
    check_eq(packet.status, IO_OK);
    check_eq(packet.bytes, 5);
    check(packet.data == buffer);
    check_mem(buffer, "hello", 5);
    check_mem(buffer + 100, guard, GUARD);
    rig_close_pair(&r, ours, peer);
}

static void recv_into_takes_bytes_that_came_before(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    uint8_t buffer[8];
    peer_send(peer, "early", 5);
    check(peer_ready(ours, false, RIG_PATIENCE_NS));
    check_eq(io_recv_into(r.port, &op, ours, buffer, sizeof(buffer)), IO_OK);
    check_eq(op.kind, IO_RECV);
    check_eq(io_port_pending(r.port), 1);
    io_packet packet = expect(&r, &op);
    check_eq(packet.bytes, 5);
    check_mem(buffer, "early", 5);
    rig_close_pair(&r, ours, peer);
}

static void buffers_of_any_size_are_filled_in_order_and_not_beyond(void)
{
    enum { TOTAL = 60000, BUFFER = 5000 };
    static const size_t sizes[] = {1, 2, 3, 7, 64, 1000, 4096, BUFFER};
    static uint8_t bytes[TOTAL];
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    uint8_t buffer[BUFFER + GUARD];
    pattern_fill(bytes, TOTAL, 3, 0);
    peer_send(peer, bytes, TOTAL);
    uint64_t position = 0;
    for (size_t i = 0; position < TOTAL; i++) {
        size_t len = sizes[i % array_count(sizes)];
        memset(buffer, 0xa5, sizeof(buffer));
        check_eq(io_recv_into(r.port, &op, ours, buffer, len), IO_OK);
        io_packet packet = expect(&r, &op);
        check_eq(packet.status, IO_OK);
        check(packet.bytes > 0 && packet.bytes <= len);
        check_pattern(buffer, packet.bytes, 3, position);
        for (size_t k = packet.bytes; k < sizeof(buffer); k++) check_eq(buffer[k], 0xa5);
        position += packet.bytes;
    }
    check_eq(position, TOTAL);
    rig_close_pair(&r, ours, peer);
}

static void recv_into_reports_fin_as_zero_bytes(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    uint8_t buffer[16];
    check_eq(io_recv_into(r.port, &op, ours, buffer, sizeof(buffer)), IO_OK);
    check_eq(io_port_wait(r.port, 0), IO_OK);
    peer_send(peer, "bye", 3);
    peer_shutdown(peer);
    io_packet packet = expect(&r, &op);
    check_eq(packet.bytes, 3);
    for (int i = 0; i < 2; i++) {
        check_eq(io_recv_into(r.port, &op, ours, buffer, sizeof(buffer)), IO_OK);
        packet = expect(&r, &op);
        check_eq(packet.status, IO_OK);
        check_eq(packet.bytes, 0);
    }
    rig_close_pair(&r, ours, peer);
}

static void pending_recv_into_reports_a_reset(void)
{
    rig r;
    rig_open(&r, NULL);
    for (int i = 0; i < 20; i++) {
        io_socket ours;
        io_socket peer;
        uint8_t buffer[16];
        rig_pair(&r, &ours, &peer);
        io_op op = {0};
        check_eq(io_recv_into(r.port, &op, ours, buffer, sizeof(buffer)), IO_OK);
        check_eq(io_port_wait(r.port, 0), IO_OK);
        peer_reset(peer);
        io_packet packet = expect(&r, &op);
        check_eq(packet.status, IO_RESET);
        check_eq(packet.bytes, 0);
        io_close(r.port, ours, false);
    }
    rig_close(&r);
}

static void posted_buffers_of_many_sockets_are_not_mixed_up(void)
{
    enum { SOCKETS = 50, BYTES = 300 };
    static uint8_t buffer[SOCKETS][BYTES];
    io_socket ours[SOCKETS];
    io_socket peer[SOCKETS];
    io_op ops[SOCKETS] = {0};
    rig r;
    rig_open(&r, NULL);
    rig_pairs(&r, ours, peer, SOCKETS);
    for (uint32_t i = 0; i < SOCKETS; i++) check_eq(io_recv_into(r.port, &ops[i], ours[i], buffer[i], BYTES), IO_OK);
    for (uint32_t i = SOCKETS; i-- > 0;) {
        uint8_t bytes[BYTES];
        pattern_fill(bytes, BYTES, i, 0);
        peer_send(peer[i], bytes, BYTES);
    }
    for (uint32_t i = 0; i < SOCKETS; i++) {
        io_packet packet = take(&r);
        uint32_t at = (uint32_t)(packet.op - ops);
        check(at < SOCKETS);
        check_eq(packet.status, IO_OK);
        check_eq(packet.bytes, BYTES);
        check(packet.data == buffer[at]);
    }
    for (uint32_t i = 0; i < SOCKETS; i++) check_pattern(buffer[i], BYTES, i, 0);
    rig_close_pairs(&r, ours, peer, SOCKETS);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(recv_into_fills_the_callers_buffer);
    check_run(recv_into_takes_bytes_that_came_before);
    check_run(buffers_of_any_size_are_filled_in_order_and_not_beyond);
    check_run(recv_into_reports_fin_as_zero_bytes);
    check_run(pending_recv_into_reports_a_reset);
    check_run(posted_buffers_of_many_sockets_are_not_mixed_up);
    return rig_end();
}
