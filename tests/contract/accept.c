/* accept.c - goal: every accept yields one packet, with a connection and its peer's address, whatever peers do before
 * they are accepted. Method: plain peers that connect, reset and pile up before and after the accepts are submitted. */
#include "rig.h"

enum { CROWD = 32, GONE = 4 };

/* The address that packet's op reports is the one the peer calls its own. */
static void check_peer(const io_accept_op *op, io_socket peer)
{
    net_addr local;
    char expected[NET_ADDR_TEXT_MAX];
    char reported[NET_ADDR_TEXT_MAX];
    check_eq(net_local(&local, peer), IO_OK);
    check_str(net_addr_format(&op->peer, reported, sizeof(reported)),
              net_addr_format(&local, expected, sizeof(expected)));
    check_eq(net_addr_family(&op->peer), net_addr_family(&local));
    check_eq(net_addr_port(&op->peer), net_addr_port(&local));
}

/* A byte goes each way. */
static void check_works(rig *r, io_socket ours, io_socket peer)
{
    io_op op = {0};
    char byte = 'x';
    check_eq(io_attach(r->port, ours), IO_OK);
    peer_send(peer, "a", 1);
    check_eq(io_recv(r->port, &op, ours), IO_OK);
    io_packet packet = expect(r, &op);
    check_eq(packet.status, IO_OK);
    check_eq(packet.bytes, 1);
    check_eq(packet.data[0], 'a');
    rig_send(r, &op, ours, "b", 1);
    check_eq(peer_recv(peer, &byte, 1), 1);
    check_eq(byte, 'b');
}

static void accept_waits_for_a_peer(void)
{
    rig r;
    rig_open(&r, NULL);
    io_accept_op op = {0};
    check_eq(io_accept(r.port, &op, r.listener), IO_OK);
    check_eq(op.op.kind, IO_ACCEPT);
    check_eq(io_port_pending(r.port), 1);
    expect_nothing(&r);
    io_socket peer = peer_connect(&r.address);
    io_packet packet = expect(&r, &op.op);
    check_eq(packet.kind, IO_ACCEPT);
    check_eq(packet.status, IO_OK);
    check_peer(&op, peer);
    check_works(&r, packet.accepted, peer);
    io_close(r.port, packet.accepted, false);
    peer_close(peer);
    rig_close(&r);
}

static void accept_takes_a_peer_that_came_before(void)
{
    rig r;
    rig_open(&r, NULL);
    io_accept_op op = {0};
    io_socket peer = peer_connect(&r.address);
    check_eq(io_accept(r.port, &op, r.listener), IO_OK);
    check_eq(op.op.kind, IO_ACCEPT); /* a submit never completes by itself */
    check_eq(io_port_pending(r.port), 1);
    io_packet packet = expect(&r, &op.op);
    check_eq(packet.status, IO_OK);
    check_peer(&op, peer);
    check_works(&r, packet.accepted, peer);
    io_close(r.port, packet.accepted, false);
    peer_close(peer);
    rig_close(&r);
}

static void accept_is_resubmitted_from_its_packet(void)
{
    rig r;
    rig_open(&r, NULL);
    io_accept_op op = {0};
    io_socket peers[CROWD];
    io_socket ours[CROWD];
    check_eq(io_accept(r.port, &op, r.listener), IO_OK);
    for (int i = 0; i < CROWD; i++) {
        peers[i] = peer_connect(&r.address);
        io_packet packet = expect(&r, &op.op);
        check_eq(packet.status, IO_OK);
        check_peer(&op, peers[i]);
        ours[i] = packet.accepted;
        check_eq(io_accept(r.port, &op, r.listener), IO_OK);
    }
    io_cancel(r.port, r.listener);
    check_eq(expect(&r, &op.op).status, IO_CANCELED);
    for (int i = 0; i < CROWD; i++) check_works(&r, ours[i], peers[i]);
    rig_close_pairs(&r, ours, peers, CROWD);
}

/* Submits CROWD accepts before or after CROWD peers have come: each gets one of its own. */
static void serve_crowd(bool peers_first, const char *at)
{
    rig r;
    rig_open(&r, NULL);
    io_accept_op accepts[CROWD] = {0};
    io_op *ops[CROWD];
    io_socket peers[CROWD];
    io_packet packets[CROWD];
    net_addr address;
    net_addr given;
    io_socket listener;
    char error[128];
    int native = 0;
    check_eq(net_addr_parse(&given, at, error, sizeof(error)), IO_OK);
    check_eq(net_listen(&listener, &given, &native), IO_OK);
    check_eq(net_local(&address, listener), IO_OK);
    check_eq(io_attach(r.port, listener), IO_OK);
    if (peers_first) {
        for (int i = 0; i < CROWD; i++) peers[i] = peer_connect(&address);
    }
    for (int i = 0; i < CROWD; i++) {
        ops[i] = &accepts[i].op;
        check_eq(io_accept(r.port, &accepts[i], listener), IO_OK);
    }
    check_eq(io_port_pending(r.port), CROWD);
    if (!peers_first) {
        for (int i = 0; i < CROWD; i++) peers[i] = peer_connect(&address);
    }
    expect_all(&r, packets, ops, CROWD);
    for (int i = 0; i < CROWD; i++) {
        int with = 0;
        check_eq(packets[i].status, IO_OK);
        for (int j = 0; j < CROWD; j++) {
            net_addr local;
            check_eq(net_local(&local, peers[j]), IO_OK);
            if (net_addr_port(&local) != net_addr_port(&accepts[i].peer)) continue;
            check_peer(&accepts[i], peers[j]);
            check_works(&r, packets[i].accepted, peers[j]);
            with++;
        }
        check_eq(with, 1);
        io_close(r.port, packets[i].accepted, false);
    }
    for (int i = 0; i < CROWD; i++) peer_close(peers[i]);
    io_close(r.port, listener, false);
    rig_close(&r);
}

static void thirty_two_pending_accepts_serve_thirty_two_peers(void)
{
    serve_crowd(false, "127.0.0.1:0");
}

static void thirty_two_waiting_peers_serve_thirty_two_accepts(void)
{
    serve_crowd(true, "127.0.0.1:0");
}

static void accept_reports_ipv6_peers(void)
{
    if (!rig_has_ipv6()) {
        check_skip("this machine has no ::1");
        return;
    }
    serve_crowd(false, "[::1]:0");
    serve_crowd(true, "[::1]:0");
}

/* Some peers have reset, one has not. Accepts until the good one is there: no more than one accept for each that
 * is gone, and the accepts go on working. Whether an accept of a gone one fails or yields a dead socket differs. */
static void serve_after_gone(rig *r, io_socket good, bool submitted, io_accept_op *op)
{
    for (int taken = 0;; taken++) {
        check(taken <= GONE);
        if (!submitted) check_eq(io_accept(r->port, op, r->listener), IO_OK);
        submitted = false;
        io_packet packet = expect(r, &op->op);
        if (packet.status != IO_OK) {
            check_eq(packet.status, IO_RESET);
            continue;
        }
        net_addr local;
        check_eq(net_local(&local, good), IO_OK);
        if (net_addr_port(&local) == net_addr_port(&op->peer)) {
            check_works(r, packet.accepted, good);
            io_close(r->port, packet.accepted, false);
            return;
        }
        io_close(r->port, packet.accepted, false);
    }
}

static void peers_that_reset_before_the_accept_cost_at_most_their_own(void)
{
    rig r;
    rig_open(&r, NULL);
    io_accept_op op = {0};
    for (int i = 0; i < GONE; i++) peer_reset(peer_connect(&r.address));
    io_socket good = peer_connect(&r.address);
    serve_after_gone(&r, good, false, &op);
    peer_close(good);
    rig_close(&r);
}

static void peers_that_reset_under_a_pending_accept_cost_at_most_their_own(void)
{
    rig r;
    rig_open(&r, NULL);
    io_accept_op op = {0};
    check_eq(io_accept(r.port, &op, r.listener), IO_OK);
    check_eq(io_port_wait(r.port, 0), IO_OK); /* it is in the kernel now */
    for (int i = 0; i < GONE; i++) peer_reset(peer_connect(&r.address));
    io_socket good = peer_connect(&r.address);
    serve_after_gone(&r, good, true, &op);
    peer_close(good);
    rig_close(&r);
}

static void peer_that_closed_before_the_accept_is_accepted(void)
{
    rig r;
    rig_open(&r, NULL);
    io_op op = {0};
    io_socket peer = peer_connect(&r.address);
    peer_send(peer, "last words", 10);
    peer_close(peer);
    io_socket ours = rig_accept(&r);
    check_eq(io_attach(r.port, ours), IO_OK);
    check_eq(io_recv(r.port, &op, ours), IO_OK);
    io_packet packet = expect(&r, &op);
    check_eq(packet.status, IO_OK);
    check_eq(packet.bytes, 10);
    check_mem(packet.data, "last words", 10);
    check_eq(io_recv(r.port, &op, ours), IO_OK);
    packet = expect(&r, &op);
    check_eq(packet.status, IO_OK);
    check_eq(packet.bytes, 0);
    io_close(r.port, ours, false);
    rig_close(&r);
}

static void running_out_of_descriptors_is_a_limit_and_passes(void)
{
    rig r;
    rig_open(&r, NULL);
    io_accept_op op = {0};
    io_socket peer = peer_connect(&r.address);
    if (!descriptors_exhaust()) {
        check_skip("this system sets no limit on descriptors");
        peer_close(peer);
        io_close(r.port, rig_accept(&r), false);
        rig_close(&r);
        return;
    }
    for (int i = 0; i < 10; i++) {
        check_eq(io_accept(r.port, &op, r.listener), IO_OK);
        io_packet packet = expect(&r, &op.op); /* one packet, each time */
        check_eq(packet.status, IO_LIMIT);
        check(packet.native != 0);
    }
    uint64_t waits = r.waits;
    expect_nothing(&r); /* with nothing submitted the waiting peer is no news */
    check(r.waits - waits < 20);
    descriptors_free_one();
    check_eq(io_accept(r.port, &op, r.listener), IO_OK);
    io_packet packet = expect(&r, &op.op);
    check_eq(packet.status, IO_OK);
    check_peer(&op, peer);
    descriptors_restore();
    check_works(&r, packet.accepted, peer);
    io_close(r.port, packet.accepted, false);
    peer_close(peer);
    rig_close(&r);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(accept_waits_for_a_peer);
    check_run(accept_takes_a_peer_that_came_before);
    check_run(accept_is_resubmitted_from_its_packet);
    check_run(thirty_two_pending_accepts_serve_thirty_two_peers);
    check_run(thirty_two_waiting_peers_serve_thirty_two_accepts);
    check_run(accept_reports_ipv6_peers);
    check_run(peers_that_reset_before_the_accept_cost_at_most_their_own);
    check_run(peers_that_reset_under_a_pending_accept_cost_at_most_their_own);
    check_run(peer_that_closed_before_the_accept_is_accepted);
    check_run(running_out_of_descriptors_is_a_limit_and_passes);
    return rig_end();
}
