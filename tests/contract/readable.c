/* readable.c - goal: io_readable(), the zero-byte read, says that there is something and takes nothing; io_draw() then
 * takes it. Method: after each packet the bytes are drawn and counted; the same news is asked for twice. */
#include "os.h"
#include "rig.h"

static io_packet expect_readable(rig *r, io_op *op)
{
    io_packet packet = expect(r, op);
    check_eq(packet.kind, IO_READABLE);
    check_eq(packet.bytes, 0);
    check(packet.data == NULL);
    return packet;
}

/* Draws up to len bytes, which must be there. */
static size_t draw(rig *r, io_socket ours, void *buffer, size_t len)
{
    size_t bytes = 12345;
    check_eq(io_draw(r->port, ours, buffer, len, &bytes), IO_OK);
    check(bytes <= len);
    return bytes;
}

static void check_drained(rig *r, io_socket ours)
{
    char byte;
    size_t bytes = 12345;
    check_eq(io_draw(r->port, ours, &byte, 1, &bytes), IO_AGAIN);
    check_eq(bytes, 0);
}

static void readable_waits_and_takes_nothing(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    char buffer[16];
    check_drained(&r, ours);
    for (int i = 0; i < 5; i++) {
        check_eq(io_readable(r.port, &op, ours), IO_OK);
        check_eq(op.kind, IO_READABLE);
        check_eq(io_port_pending(r.port), 1);
        expect_nothing(&r);
        peer_send(peer, "hello", 5);
        check_eq(expect_readable(&r, &op).status, IO_OK);
        check_eq(draw(&r, ours, buffer, sizeof(buffer)), 5);
        check_mem(buffer, "hello", 5);
        check_drained(&r, ours);
    }
    rig_close_pair(&r, ours, peer);
}

static void readable_is_level_triggered(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    char buffer[16];
    peer_send(peer, "abcdefghij", 10);
    check(peer_ready(ours, false, RIG_PATIENCE_NS));
    for (int i = 0; i < 5; i++) { /* nothing drawn: the same news again */
        check_eq(io_readable(r.port, &op, ours), IO_OK);
        check_eq(op.kind, IO_READABLE); /* a submit never completes by itself */
        check_eq(expect_readable(&r, &op).status, IO_OK);
    }
    for (size_t at = 0; at < 9; at += 3) { /* a part drawn: the rest is news */
        check_eq(draw(&r, ours, buffer, 3), 3);
        check_mem(buffer, &"abcdefghij"[at], 3);
        check_eq(io_readable(r.port, &op, ours), IO_OK);
        check_eq(expect_readable(&r, &op).status, IO_OK);
    }
    check_eq(draw(&r, ours, buffer, sizeof(buffer)), 1);
    check_eq(buffer[0], 'j');
    check_drained(&r, ours);
    check_eq(io_readable(r.port, &op, ours), IO_OK);
    expect_nothing(&r);
    peer_send(peer, "k", 1);
    check_eq(expect_readable(&r, &op).status, IO_OK);
    check_eq(draw(&r, ours, buffer, sizeof(buffer)), 1);
    rig_close_pair(&r, ours, peer);
}

static void readable_completes_on_fin(void)
{
    rig r;
    rig_open(&r, NULL);
    for (int early = 0; early < 2; early++) {
        io_socket ours;
        io_socket peer;
        rig_pair(&r, &ours, &peer);
        io_op op = {0};
        char buffer[16];
        if (!early) {
            check_eq(io_readable(r.port, &op, ours), IO_OK);
            check_eq(io_port_wait(r.port, 0), IO_OK);
        }
        peer_shutdown(peer);
        if (early) check_eq(io_readable(r.port, &op, ours), IO_OK);
        check_eq(expect_readable(&r, &op).status, IO_OK);
        check_eq(draw(&r, ours, buffer, sizeof(buffer)), 0);
        check_eq(io_readable(r.port, &op, ours), IO_OK); /* and stays so */
        check_eq(expect_readable(&r, &op).status, IO_OK);
        check_eq(draw(&r, ours, buffer, sizeof(buffer)), 0);
        io_close(r.port, ours, false);
        peer_close(peer);
    }
    rig_close(&r);
}

static void bytes_before_fin_are_drawn_first(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    char buffer[16];
    check_eq(io_readable(r.port, &op, ours), IO_OK);
    check_eq(io_port_wait(r.port, 0), IO_OK);
    peer_send(peer, "abc", 3);
    peer_shutdown(peer);
    check_eq(expect_readable(&r, &op).status, IO_OK);
    check_eq(draw(&r, ours, buffer, 2), 2);
    check_eq(draw(&r, ours, buffer, 2), 1);
    check_eq(buffer[0], 'c');
    check_eq(io_readable(r.port, &op, ours), IO_OK);
    check_eq(expect_readable(&r, &op).status, IO_OK);
    check_eq(draw(&r, ours, buffer, sizeof(buffer)), 0);
    rig_close_pair(&r, ours, peer);
}

/* The reset comes with the packet, or else with the draw: a kernel tells it once. */
static void readable_completes_on_reset(void)
{
    rig r;
    rig_open(&r, NULL);
    for (int i = 0; i < 50; i++) {
        io_socket ours;
        io_socket peer;
        rig_pair(&r, &ours, &peer);
        io_op op = {0};
        check_eq(io_readable(r.port, &op, ours), IO_OK);
        check_eq(io_port_wait(r.port, 0), IO_OK);
        peer_reset(peer);
        io_packet packet = expect_readable(&r, &op);
        if (packet.status == IO_OK) {
            char byte;
            size_t bytes = 12345;
            check_eq(io_draw(r.port, ours, &byte, 1, &bytes), IO_RESET);
            check_eq(bytes, 0);
        } else {
            check_eq(packet.status, IO_RESET);
        }
        io_close(r.port, ours, false);
    }
    rig_close(&r);
}

static void draw_reports_a_reset(void)
{
    if (os_is_wine()) {
        check_skip("Wine may tell a reset as end of stream when nothing is pending");
        return;
    }
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    char byte;
    size_t bytes = 12345;
    peer_reset(peer);
    check(peer_ready(ours, false, RIG_PATIENCE_NS));
    check_eq(io_draw(r.port, ours, &byte, 1, &bytes), IO_RESET);
    check_eq(bytes, 0);
    io_close(r.port, ours, false);
    rig_close(&r);
}

static void idle_sockets_stay_silent_while_others_are_readable(void)
{
    enum { SOCKETS = 50 };
    rig r;
    io_socket ours[SOCKETS];
    io_socket peer[SOCKETS];
    io_op ops[SOCKETS] = {0};
    io_op *list[SOCKETS];
    io_packet packets[SOCKETS];
    rig_open(&r, NULL);
    for (int i = 0; i < SOCKETS; i++) {
        rig_pair(&r, &ours[i], &peer[i]);
        check_eq(io_readable(r.port, &ops[i], ours[i]), IO_OK);
        list[i] = &ops[i];
    }
    for (int i = 0; i < SOCKETS; i += 7) {
        peer_send(peer[i], "x", 1);
        check_eq(expect_readable(&r, &ops[i]).status, IO_OK);
    }
    expect_nothing(&r);
    for (int i = 0; i < SOCKETS; i += 7) check_eq(io_readable(r.port, &ops[i], ours[i]), IO_OK);
    for (int i = 0; i < SOCKETS; i++) {
        if (i % 7 != 0) peer_shutdown(peer[i]);
    }
    expect_all(&r, packets, list, SOCKETS);
    for (int i = 0; i < SOCKETS; i++) {
        char buffer[4];
        check_eq(packets[i].status, IO_OK);
        check_eq(draw(&r, ours[i], buffer, sizeof(buffer)), i % 7 == 0 ? 1 : 0);
    }
    rig_close_pairs(&r, ours, peer, SOCKETS);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(readable_waits_and_takes_nothing);
    check_run(readable_is_level_triggered);
    check_run(readable_completes_on_fin);
    check_run(bytes_before_fin_are_drawn_first);
    check_run(readable_completes_on_reset);
    check_run(draw_reports_a_reset);
    check_run(idle_sockets_stay_silent_while_others_are_readable);
    return rig_end();
}
