/* close.c - goal: half-close works both ways, an aborting close is a reset for the peer, and a descriptor number that
 * is used again brings nothing of its former connection. Method: keys in the bytes, many quick reconnects. */
#include "os.h"
#include "rig.h"

static void shutdown_ends_one_direction_only(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op send = {0};
    io_op recv = {0};
    char got[8];
    check_eq(io_recv(r.port, &recv, ours), IO_OK);
    rig_send(&r, &send, ours, "last", 4);
    check_eq(io_shutdown(r.port, ours), IO_OK);
    check_eq(peer_recv(peer, got, sizeof(got)), 4); /* what was sent, then FIN */
    check_mem(got, "last", 4);
    expect_nothing(&r); /* it did not end our receive */
    for (int i = 0; i < 10; i++) {
        peer_send(peer, "more", 4);
        io_packet packet = expect(&r, &recv);
        check_eq(packet.status, IO_OK);
        check_eq(packet.bytes, 4);
        check_eq(io_recv(r.port, &recv, ours), IO_OK);
    }
    peer_shutdown(peer);
    io_packet packet = expect(&r, &recv);
    check_eq(packet.status, IO_OK);
    check_eq(packet.bytes, 0);
    rig_close_pair(&r, ours, peer);
}

static void sending_goes_on_after_the_peers_fin(void)
{
    enum { BYTES = 100000 };
    static uint8_t bytes[BYTES];
    static uint8_t got[BYTES];
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    peer_shutdown(peer);
    check_eq(io_recv(r.port, &op, ours), IO_OK);
    check_eq(expect(&r, &op).bytes, 0);
    pattern_fill(bytes, BYTES, 1, 0);
    for (size_t at = 0; at < BYTES; at += 10000) {
        rig_send(&r, &op, ours, bytes + at, 10000);
        check_eq(peer_recv(peer, got + at, 10000), 10000);
    }
    check_pattern(got, BYTES, 1, 0);
    check_eq(io_shutdown(r.port, ours), IO_OK);
    check_eq(peer_recv(peer, got, 1), 0);
    rig_close_pair(&r, ours, peer);
}

static void close_delivers_what_was_sent(void)
{
    enum { BYTES = 30000 };
    static uint8_t bytes[BYTES];
    static uint8_t got[BYTES + 1];
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    pattern_fill(bytes, BYTES, 2, 0);
    rig_send(&r, &op, ours, bytes, BYTES);
    io_close(r.port, ours, false);
    check_eq(peer_recv(peer, got, sizeof(got)), BYTES);
    check_pattern(got, BYTES, 2, 0);
    peer_close(peer);
    rig_close(&r);
}

/* Both ends are on the port, since the one that is reset has to have an op pending to be told so under Wine. */
static void aborting_close_is_a_reset_for_the_peer(void)
{
    rig r;
    rig_open(&r, NULL);
    for (int i = 0; i < 20; i++) {
        io_socket ends[2];
        io_op op = {0};
        rig_pair_on_port(&r, &ends[0], &ends[1]);
        int aborting = i % 2;
        check_eq(io_recv(r.port, &op, ends[1 - aborting]), IO_OK);
        check_eq(io_port_wait(r.port, 0), IO_OK);
        io_close(r.port, ends[aborting], true);
        io_packet packet = expect(&r, &op);
        check_eq(packet.status, IO_RESET);
        check_eq(packet.bytes, 0);
        io_close(r.port, ends[1 - aborting], false);
    }
    rig_close(&r);
}

static void aborting_close_drops_what_the_kernel_holds(void)
{
    enum { TURNS_MAX = 10000 };
    static uint8_t byte;
    rig r;
    rig_open(&r, NULL);
    io_socket ours;
    io_socket peer;
    rig_pair_on_port(&r, &ours, &peer);
    io_op send = {0};
    io_op recv = {0};
    uint64_t sent = rig_fill(&r, &send, ours, 3);
    io_cancel(r.port, ours);
    sent += expect(&r, &send).bytes;
    io_close(r.port, ours, true);
    uint64_t received = 0;
    for (int i = 0;; i++) { /* what had arrived may be read; the end is a reset, or under Wine none */
        check(i < TURNS_MAX);
        check_eq(io_recv(r.port, &recv, peer), IO_OK);
        io_packet packet = expect(&r, &recv);
        if (packet.status != IO_OK) check_eq(packet.status, IO_RESET);
        if (packet.bytes == 0) break;
        received += packet.bytes;
    }
    check(received < sent);
    const io_buf buf = {&byte, 1};
    check_eq(io_send(r.port, &send, peer, &buf, 1), IO_OK);
    check_eq(expect(&r, &send).status, IO_RESET);
    io_close(r.port, peer, false);
    rig_close(&r);
}

/* The peer sends and resets while nothing is pending on a connection that has received before: whatever of the bytes may still be
 * read, the end is told: as a reset, or under Wine, where nothing was pending to hear of it, as an end of stream. */
static void a_reset_behind_bytes_is_told(void)
{
    enum { TURNS = 40, RECEIVES_MAX = 100 };
    static uint8_t bytes[100000];
    rig r;
    rig_open(&r, NULL);
    for (int turn = 0; turn < TURNS; turn++) {
        io_socket ours;
        io_socket peer;
        io_op op = {0};
        rig_pair(&r, &ours, &peer);
        for (int before = 0; before < turn % 4; before++) {
            check_eq(peer_send_now(peer, bytes, 1), 1);
            check_eq(io_recv(r.port, &op, ours), IO_OK);
            check_eq(expect(&r, &op).bytes, 1);
        }
        check(peer_send_now(peer, bytes, turn % 8 < 4 ? 1 : sizeof(bytes)) > 0);
        peer_reset(peer);
        io_packet packet;
        int receives = 0;
        do {
            check(receives++ < RECEIVES_MAX);
            check_eq(io_recv(r.port, &op, ours), IO_OK);
            packet = expect(&r, &op);
        } while (packet.status == IO_OK && packet.bytes > 0);
        if (packet.status != IO_OK || !os_is_wine()) check_eq(packet.status, IO_RESET);
        io_close(r.port, ours, false);
    }
    rig_close(&r);
}

/* A receive and a send are pending when the peer resets: a kernel tells it once, the port tells both. */
static void reset_ends_both_directions(void)
{
    enum { MORE_MAX = 100, TURNS = 4 };
    static uint8_t posted[100];
    const uint8_t byte = 0;
    const io_buf buf = {&byte, 1};
    rig r;
    rig_open(&r, NULL);
    for (int turn = 0; turn < TURNS; turn++) {
        io_socket ours;
        io_socket peer;
        io_op recv = {0};
        io_op send = {0};
        rig_pair(&r, &ours, &peer);
        if (turn / 2 == 0) rig_fill(&r, &send, ours, 3);
        if (turn % 2 == 0) check_eq(io_recv(r.port, &recv, ours), IO_OK);
        else check_eq(io_recv_into(r.port, &recv, ours, posted, sizeof(posted)), IO_OK);
        if (turn / 2 != 0) rig_fill(&r, &send, ours, 3);
        check_eq(io_port_wait(r.port, 0), IO_OK);
        peer_reset(peer);
        int ended = 0;
        for (int i = 0; ended < 2; i++) {
            io_packet packet = take(&r);
            check(i < MORE_MAX);
            if (packet.op == &send && packet.status == IO_OK) { /* what was moved before */
                check_eq(io_send(r.port, &send, ours, &buf, 1), IO_OK);
                continue;
            }
            check_eq(packet.status, IO_RESET);
            ended++;
        }
        check_eq(recv.kind, IO_IDLE);
        check_eq(send.kind, IO_IDLE);
        io_close(r.port, ours, false);
    }
    rig_close(&r);
}

static void fin_leaves_a_pending_send_alone(void)
{
    static uint8_t got[65536];
    rig r;
    io_socket ours;
    io_socket peer;
    io_op recv = {0};
    io_op send = {0};
    rig_open_pair(&r, &ours, &peer);
    uint64_t sent = rig_fill(&r, &send, ours, 3);
    uint64_t received = 0;
    check_eq(io_recv(r.port, &recv, ours), IO_OK);
    check_eq(io_port_wait(r.port, 0), IO_OK);
    peer_shutdown(peer);
    /* The FIN may wake the send as well, with nothing moved: then it is submitted again. */
    for (bool ended = false; !ended || send.kind != IO_IDLE || received < sent;) {
        io_packet packet;
        long taken = ended ? peer_recv_now(peer, got, sizeof(got)) : PEER_AGAIN;
        check(taken == PEER_AGAIN || taken > 0);
        if (taken > 0) {
            check_pattern(got, (size_t)taken, 3, received);
            received += (uint64_t)taken;
        }
        if (!rig_next(&r, &packet, taken > 0 ? 0 : io_port_now(r.port) + 1000000)) continue;
        check_eq(packet.status, IO_OK);
        if (packet.op == &recv) {
            check_eq(packet.bytes, 0);
            ended = true;
            continue;
        }
        sent += packet.bytes;
        if (packet.bytes > 0) continue;
        static uint8_t byte;
        const io_buf buf = {&byte, 1};
        byte = pattern_byte(3, sent);
        check_eq(io_send(r.port, &send, ours, &buf, 1), IO_OK);
    }
    io_close(r.port, ours, false);
    check_eq(peer_recv(peer, got, 1), 0);
    peer_close(peer);
    rig_close(&r);
}

/* Each connection has a key, which is all that its peer sends. The next one has the same descriptor number. */
static void reused_descriptor_numbers_bring_nothing_of_the_former_connection(void)
{
    enum { CONNECTIONS = 2000, BYTES = 200 };
    rig r;
    rig_open(&r, NULL);
    io_op ops[3][2] = {0}; /* not the same op each time, so that a late packet is seen */
    uint8_t posted[BYTES];
    for (uint32_t turn = 0; turn < CONNECTIONS; turn++) {
        io_op *recv = &ops[turn % 3][0];
        io_op *send = &ops[turn % 3][1];
        io_socket ours;
        io_socket peer;
        uint8_t bytes[BYTES];
        pattern_fill(bytes, BYTES, turn, 0);
        rig_pair(&r, &ours, &peer);
        io_op *const both[] = {recv, send};
        io_packet packets[2];
        uint64_t received = 0;
        switch (turn % 5) {
        case 0: /* all is received */
            peer_send(peer, bytes, BYTES);
            while (received < BYTES) {
                check_eq(io_recv(r.port, recv, ours), IO_OK);
                io_packet packet = expect(&r, recv);
                check(packet.status == IO_OK && packet.bytes > 0);
                check_pattern(packet.data, packet.bytes, turn, received);
                received += packet.bytes;
            }
            break;
        case 1: /* the receive is canceled while bytes are on their way */
        case 2:
            if (turn % 5 == 1) check_eq(io_recv(r.port, recv, ours), IO_OK);
            else check_eq(io_recv_into(r.port, recv, ours, posted, BYTES), IO_OK);
            if (turn % 2 == 0) check_eq(io_port_wait(r.port, 0), IO_OK);
            peer_send(peer, bytes, BYTES);
            io_cancel(r.port, ours);
            io_packet packet = expect(&r, recv);
            check(packet.status == IO_OK || packet.status == IO_CANCELED);
            if (packet.bytes > 0) check_pattern(packet.data, packet.bytes, turn, 0);
            break;
        case 3: /* the peer resets under a pending receive */
            check_eq(io_readable(r.port, recv, ours), IO_OK);
            if (turn % 2 == 0) check_eq(io_port_wait(r.port, 0), IO_OK);
            peer_reset(peer);
            peer = IO_SOCKET_NONE;
            expect(&r, recv);
            break;
        default: /* both directions are canceled */
            check_eq(io_readable(r.port, recv, ours), IO_OK);
            const io_buf buf = {bytes, BYTES};
            check_eq(io_send(r.port, send, ours, &buf, 1), IO_OK);
            io_cancel(r.port, ours);
            expect_all(&r, packets, both, 2);
            check(packets[0].status == IO_CANCELED || packets[0].status == IO_OK);
            check(packets[1].status == IO_CANCELED || packets[1].status == IO_OK);
            break;
        }
        io_close(r.port, ours, turn % 2 == 0);
        if (peer != IO_SOCKET_NONE) peer_reset(peer);
    }
    expect_nothing(&r);
    rig_close(&r);
}

static void sockets_that_were_never_used_are_closed(void)
{
    rig r;
    rig_open(&r, NULL);
    io_socket ours;
    io_socket peer;
    io_close(r.port, rig_stream(&r, &r.address), false);
    io_close(r.port, rig_stream(&r, &r.address), true);
    rig_pair(&r, &ours, &peer);
    io_close(r.port, ours, true);
    peer_close(peer);
    peer = peer_connect(&r.address);
    io_close(r.port, rig_accept(&r), true); /* accepted, not attached */
    peer_close(peer);
    expect_nothing(&r);
    rig_close(&r);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(shutdown_ends_one_direction_only);
    check_run(sending_goes_on_after_the_peers_fin);
    check_run(close_delivers_what_was_sent);
    check_run(aborting_close_is_a_reset_for_the_peer);
    check_run(aborting_close_drops_what_the_kernel_holds);
    check_run(a_reset_behind_bytes_is_told);
    check_run(reset_ends_both_directions);
    check_run(fin_leaves_a_pending_send_alone);
    check_run(reused_descriptor_numbers_bring_nothing_of_the_former_connection);
    check_run(sockets_that_were_never_used_are_closed);
    return rig_end();
}
