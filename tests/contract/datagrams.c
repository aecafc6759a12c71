/* datagrams.c - goal: io_recv_from() and io_send_to() move datagrams whole, one a packet, in order, with the right peer;
 * empty ones and the largest too; a port that nobody has is news and no end; cancel yields one packet. Method: our
 * socket on the port, plain connected sockets as peers, all on the loopback, never more under way than the kernel's
 * buffers hold. */
#include "net_udp.h"
#include "os.h"
#include "rig.h"

static net_addr loopback(const char *text)
{
    net_addr addr;
    char error[128];
    check_eq(net_addr_parse(&addr, text, error, sizeof(error)), IO_OK);
    return addr;
}

/* Our socket, attached, and where it is. */
static io_socket open_ours(rig *r, const char *text, net_addr *where)
{
    io_socket ours;
    int native = 0;
    const net_addr addr = loopback(text);
    check_eq(net_udp_open(&ours, &addr, &native), IO_OK);
    check_eq(net_local(where, ours), IO_OK);
    check_eq(io_attach_udp(r->port, ours), IO_OK);
    return ours;
}

static io_socket open_peer(const net_addr *where)
{
    io_socket peer;
    int native = 0;
    check_eq(net_udp_connect(&peer, NULL, where, &native), IO_OK);
    return peer;
}

static long peer_take(io_socket peer, void *bytes, size_t len)
{
    if (!peer_ready(peer, false, RIG_PATIENCE_NS)) fail("no datagram for the peer");
    return peer_recv_now(peer, bytes, len);
}

static io_packet take_datagram(rig *r, io_datagram_op *op, io_socket ours)
{
    check_eq(io_recv_from(r->port, op, ours), IO_OK);
    check_eq(op->op.kind, IO_RECV_FROM); /* a submit never completes by itself */
    io_packet packet = expect(r, &op->op);
    check_eq(packet.kind, IO_RECV_FROM);
    check_eq(packet.status, IO_OK);
    check(packet.data != NULL);
    return packet;
}

static void send_datagram(rig *r, io_datagram_op *op, io_socket ours, const net_addr *to, const void *data, size_t len)
{
    op->peer = *to;
    check_eq(io_send_to(r->port, op, ours, data, len), IO_OK);
    check_eq(op->op.kind, IO_SEND_TO);
    io_packet packet = expect(r, &op->op);
    check_eq(packet.kind, IO_SEND_TO);
    check_eq(packet.status, IO_OK);
    check_eq(packet.bytes, len);
}

static void echo_over(const char *text)
{
    rig r;
    net_addr where;
    rig_open(&r, NULL);
    io_socket ours = open_ours(&r, text, &where);
    io_socket peers[3];
    for (int i = 0; i < 3; i++) peers[i] = open_peer(&where);
    for (int turn = 0; turn < 30; turn++) {
        static const size_t sizes[] = {1, 0, 100, 1472, 9000};
        io_datagram_op op = {0};
        char out[9000];
        char back[9001];
        char name[2][NET_ADDR_TEXT_MAX];
        size_t len = sizes[turn % (int)array_count(sizes)];
        io_socket peer = peers[turn % 3];
        net_addr from;
        pattern_fill(out, len, 1, (uint64_t)turn);
        if (turn % 2 == 0) check_eq(peer_send_now(peer, out, len), len);
        check_eq(io_recv_from(r.port, &op, ours), IO_OK);
        if (turn % 2 == 1) {
            check_eq(io_port_wait(r.port, 0), IO_OK); /* it waits in the system when the datagram comes */
            check_eq(peer_send_now(peer, out, len), len);
        }
        io_packet packet = expect(&r, &op.op);
        check_eq(packet.status, IO_OK);
        check_eq(packet.bytes, len);
        check_pattern(packet.data, len, 1, (uint64_t)turn);
        check_eq(net_local(&from, peer), IO_OK);
        check_str(net_addr_format(&op.peer, name[0], NET_ADDR_TEXT_MAX),
                  net_addr_format(&from, name[1], NET_ADDR_TEXT_MAX));
        from = op.peer;
        send_datagram(&r, &op, ours, &from, out, len);
        check_eq(peer_take(peer, back, sizeof(back)), len);
        check_mem(back, out, len);
    }
    expect_nothing(&r);
    for (int i = 0; i < 3; i++) peer_close(peers[i]);
    io_close(r.port, ours, false);
    rig_close(&r);
}

static void datagrams_of_several_peers_come_and_go(void)
{
    echo_over("127.0.0.1:0");
}

static void datagrams_go_over_ipv6(void)
{
    if (rig_has_ipv6()) echo_over("[::1]:0");
    else check_skip("this machine has no ::1");
}

static void the_largest_datagram_comes_whole(void)
{
    static uint8_t out[IO_DATAGRAM_MAX];
    static uint8_t back[IO_DATAGRAM_MAX + 1];
    rig r;
    net_addr where;
    io_datagram_op op = {0};
    const io_options small = {.recv_bytes = 4096}; /* that is for streams */
    rig_open(&r, &small);
    io_socket ours = open_ours(&r, "127.0.0.1:0", &where);
    io_socket peer = open_peer(&where);
    for (uint64_t turn = 0; turn < 3; turn++) {
        pattern_fill(out, sizeof(out), 2, turn);
        check_eq(peer_send_now(peer, out, sizeof(out)), sizeof(out));
        io_packet packet = take_datagram(&r, &op, ours);
        check_eq(packet.bytes, sizeof(out));
        check_pattern(packet.data, sizeof(out), 2, turn);
        const net_addr from = op.peer;
        send_datagram(&r, &op, ours, &from, out, sizeof(out));
        check_eq(peer_take(peer, back, sizeof(back)), sizeof(out));
        check_mem(back, out, sizeof(out));
    }
    peer_close(peer);
    io_close(r.port, ours, false);
    rig_close(&r);
}

static void datagrams_that_wait_come_one_by_one_and_in_order(void)
{
    enum { WAITING = 50 };
    rig r;
    net_addr where;
    io_datagram_op op = {0};
    rig_open(&r, NULL);
    io_socket ours = open_ours(&r, "127.0.0.1:0", &where);
    io_socket peer = open_peer(&where);
    for (uint32_t i = 0; i < WAITING; i++) check_eq(peer_send_now(peer, &i, sizeof(i)), sizeof(i));
    for (uint32_t i = 0; i < WAITING; i++) {
        io_packet packet = take_datagram(&r, &op, ours);
        check_eq(packet.bytes, sizeof(i));
        check_mem(packet.data, &i, sizeof(i));
    }
    expect_nothing(&r);
    peer_close(peer);
    io_close(r.port, ours, false);
    rig_close(&r);
}

/* A receive and a send of one socket are pending side by side, while both ends are on the port. */
static void both_ends_may_be_on_one_port(void)
{
    enum { TURNS = 500 };
    rig r;
    net_addr where[2];
    io_socket ours[2];
    io_datagram_op receive[2] = {0};
    io_datagram_op send[2] = {0};
    uint32_t number = 0;
    uint32_t received = 0;
    uint32_t sent = 0;
    rig_open(&r, NULL);
    for (int i = 0; i < 2; i++) {
        ours[i] = open_ours(&r, "127.0.0.1:0", &where[i]);
        check_eq(io_recv_from(r.port, &receive[i], ours[i]), IO_OK);
    }
    send[0].peer = where[1];
    check_eq(io_send_to(r.port, &send[0], ours[0], &number, sizeof(number)), IO_OK);
    while (received < TURNS || sent < TURNS) {
        io_packet packet = take(&r);
        check_eq(packet.status, IO_OK);
        if (packet.kind == IO_SEND_TO) {
            sent++;
            check_eq(packet.bytes, sizeof(number));
            continue;
        }
        check_eq(packet.kind, IO_RECV_FROM);
        int side = packet.op == &receive[1].op;
        check_eq(side, received % 2 == 0);
        check_eq(packet.bytes, sizeof(number));
        check_mem(packet.data, &received, sizeof(received));
        check_eq(net_addr_port(&receive[side].peer), net_addr_port(&where[1 - side]));
        if (++received == TURNS) continue;
        number = received;
        check_eq(io_recv_from(r.port, &receive[side], ours[side]), IO_OK);
        while (send[side].op.kind != IO_IDLE) { /* its packet is behind that of the datagram's arrival */
            packet = expect(&r, &send[side].op);
            check_eq(packet.status, IO_OK);
            sent++;
        }
        send[side].peer = where[1 - side];
        check_eq(io_send_to(r.port, &send[side], ours[side], &number, sizeof(number)), IO_OK);
    }
    for (int i = 0; i < 2; i++) {
        if (receive[i].op.kind == IO_IDLE) continue;
        io_cancel(r.port, ours[i]);
        check_eq(expect(&r, &receive[i].op).status, IO_CANCELED);
    }
    for (int i = 0; i < 2; i++) io_close(r.port, ours[i], false);
    rig_close(&r);
}

static void a_canceled_receive_yields_one_packet(void)
{
    rig r;
    net_addr where;
    io_datagram_op op = {0};
    rig_open(&r, NULL);
    io_socket ours = open_ours(&r, "127.0.0.1:0", &where);
    io_socket peer = open_peer(&where);
    for (int turn = 0; turn < 40; turn++) {
        check_eq(io_recv_from(r.port, &op, ours), IO_OK);
        if (turn % 4 > 0) check_eq(io_port_wait(r.port, 0), IO_OK);
        if (turn % 4 > 1) expect_nothing(&r);
        bool races = turn % 4 == 3; /* a datagram comes beside the cancel */
        if (races) check_eq(peer_send_now(peer, "race", 4), 4);
        io_cancel(r.port, ours);
        io_packet packet = expect(&r, &op.op);
        if (packet.status == IO_OK) check(races);
        else check_eq(packet.status, IO_CANCELED);
        io_cancel(r.port, ours); /* nothing is pending: harmless, also for the next */
        if (races && packet.status != IO_OK) check_eq(take_datagram(&r, &op, ours).bytes, 4);
        check_eq(peer_send_now(peer, "next", 4), 4);
        packet = take_datagram(&r, &op, ours);
        check_eq(packet.bytes, 4);
        check_mem(packet.data, "next", 4);
    }
    expect_nothing(&r);
    peer_close(peer);
    io_close(r.port, ours, false);
    rig_close(&r);
}

/* A connected socket is told that nobody has the port, and goes on; one that speaks to many is not told. */
static void a_port_that_nobody_has_is_news_and_no_end(void)
{
    rig r;
    net_addr where;
    net_addr nobody;
    int native = 0;
    io_socket ours;
    io_socket probe;
    io_datagram_op receive = {0};
    io_datagram_op send = {0};
    const net_addr none = {{0}};
    const net_addr any = loopback("127.0.0.1:0");
    rig_open(&r, NULL);
    check_eq(net_udp_open(&probe, &any, &native), IO_OK);
    check_eq(net_local(&nobody, probe), IO_OK);
    net_close(probe);
    check_eq(net_udp_connect(&ours, &any, &nobody, &native), IO_OK);
    check_eq(net_local(&where, ours), IO_OK);
    check_eq(io_attach_udp(r.port, ours), IO_OK);
    check_eq(io_recv_from(r.port, &receive, ours), IO_OK);
    check_eq(io_send_to(r.port, &send, ours, "anybody?", 8), IO_OK);
    io_op *const both[] = {&send.op, &receive.op};
    io_packet packets[2]; /* in any order: the news may be there before the system has told of the send */
    expect_all(&r, packets, both, 2);
    check_eq(packets[0].status, IO_OK);
    check_eq(packets[0].bytes, 8);
    check_eq(packets[1].status, IO_REFUSED);
    check(packets[1].native != 0);
    check_eq(packets[1].bytes, 0);
    check_eq(net_udp_open(&probe, &nobody, &native), IO_OK); /* now somebody has it */
    /* Wine 8 wakes no receive of a socket any more that has once failed, of whatever kind: there the datagram comes first. */
    bool comes_first = os_is_wine();
    if (!comes_first) check_eq(io_recv_from(r.port, &receive, ours), IO_OK);
    send_datagram(&r, &send, ours, &none, "anybody?", 8);
    char got[9];
    check_eq(peer_take(probe, got, sizeof(got)), 8);
    net_close(probe);
    check_eq(net_udp_connect(&probe, &nobody, &where, &native), IO_OK);
    check_eq(peer_send_now(probe, "me", 2), 2);
    if (comes_first) {
        check(peer_ready(ours, false, RIG_PATIENCE_NS));
        check_eq(io_recv_from(r.port, &receive, ours), IO_OK);
    }
    io_packet packet = expect(&r, &receive.op);
    check_eq(packet.status, IO_OK);
    check_eq(packet.bytes, 2);
    net_close(probe);
    io_close(r.port, ours, false);

    ours = open_ours(&r, "127.0.0.1:0", &where);
    check_eq(io_recv_from(r.port, &receive, ours), IO_OK);
    for (int i = 0; i < 3; i++) send_datagram(&r, &send, ours, &nobody, "anybody?", 8);
    expect_nothing(&r);
    io_socket peer = open_peer(&where);
    check_eq(peer_send_now(peer, "here", 4), 4);
    check_eq(expect(&r, &receive.op).status, IO_OK);
    peer_close(peer);
    io_close(r.port, ours, false);
    rig_close(&r);
}

/* However many datagrams wait, a round ends, and other sockets get their turn. */
static void a_flood_does_not_hold_the_port(void)
{
    enum { FLOOD = 100, ROUNDS_MAX = 20 };
    rig r;
    net_addr where[2];
    io_socket ours[2];
    io_socket peers[2];
    io_datagram_op ops[2] = {0};
    io_packet packet;
    rig_open(&r, NULL);
    for (int i = 0; i < 2; i++) {
        ours[i] = open_ours(&r, "127.0.0.1:0", &where[i]);
        peers[i] = open_peer(&where[i]);
    }
    check_eq(io_recv_from(r.port, &ops[1], ours[1]), IO_OK);
    for (int i = 0; i < FLOOD; i++) check_eq(peer_send_now(peers[0], "flood", 5), 5);
    check_eq(io_recv_from(r.port, &ops[0], ours[0]), IO_OK);
    check_eq(peer_send_now(peers[1], "quiet", 5), 5);
    int turns = 0;
    for (bool heard = false; !heard; turns++) {
        packet = take(&r);
        check_eq(packet.status, IO_OK);
        heard = packet.op == &ops[1].op;
        if (heard) break;
        /* Kept flooded: for each one that is taken another comes. */
        check_eq(peer_send_now(peers[0], "flood", 5), 5);
        check_eq(io_recv_from(r.port, &ops[0], ours[0]), IO_OK);
        if (turns > ROUNDS_MAX * FLOOD) fail("%d datagrams of one socket before the other's", turns);
    }
    while (ops[0].op.kind != IO_IDLE) {
        io_cancel(r.port, ours[0]);
        packet = expect(&r, &ops[0].op);
    }
    for (int i = 0; i < 2; i++) {
        peer_close(peers[i]);
        io_close(r.port, ours[i], false);
    }
    rig_close(&r);
}

static void an_address_in_use_is_said_also_to_those_who_would_share(void)
{
    net_addr where;
    io_socket first;
    io_socket group[4];
    int native = 0;
    const net_addr any = loopback("127.0.0.1:0");
    check_eq(net_udp_open(&first, &any, &native), IO_OK);
    check_eq(net_local(&where, first), IO_OK);
    check_eq(net_udp_open(&group[0], &where, &native), IO_IN_USE);
    check(native != 0);
    net_close(first);
    if (!net_udp_deals()) {
        check_eq(net_udp_open_group(group, 4, &where, &native), IO_UNSUPPORTED);
        return;
    }
    check_eq(net_udp_open_group(group, 4, &where, &native), IO_OK);
    check_eq(net_udp_open(&first, &where, &native), IO_IN_USE);
    io_socket others[4];
    check_eq(net_udp_open_group(others, 4, &where, &native), IO_IN_USE);
    for (int i = 0; i < 4; i++) net_close(group[i]);
}

/* The sockets of a group have one address, and each peer has one of them. */
static void a_group_is_dealt_by_peer(void)
{
    enum { GROUP = 4, PEERS = 32, EACH = 5 };
    if (!net_udp_deals()) {
        check_skip("this system does not deal datagrams");
        return;
    }
    net_addr where;
    io_socket group[GROUP];
    int native = 0;
    int used = 0;
    const net_addr any = loopback("127.0.0.1:0");
    check_eq(net_udp_open_group(group, GROUP, &any, &native), IO_OK);
    check_eq(net_local(&where, group[0]), IO_OK);
    int owner[PEERS];
    for (int p = 0; p < PEERS; p++) {
        io_socket peer = open_peer(&where);
        owner[p] = -1;
        for (int i = 0; i < EACH; i++) {
            char got[4];
            int found = -1;
            check_eq(peer_send_now(peer, "deal", 4), 4);
            for (int tries = 0; found < 0 && tries < 10000; tries++) {
                int g = tries % GROUP;
                if (peer_recv_now(group[g], got, sizeof(got)) == 4) found = g;
                else peer_ready(group[g], false, 1000000);
            }
            check(found >= 0);
            if (owner[p] < 0) owner[p] = found;
            check_eq(found, owner[p]);
        }
        peer_close(peer);
    }
    for (int g = 0; g < GROUP; g++) {
        bool is_used = false;
        for (int p = 0; p < PEERS; p++) is_used = is_used || owner[p] == g;
        used += is_used;
        net_close(group[g]);
    }
    check(used > 1); /* all 32 peers on one of four: once in 4^31 */
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(datagrams_of_several_peers_come_and_go);
    check_run(datagrams_go_over_ipv6);
    check_run(the_largest_datagram_comes_whole);
    check_run(datagrams_that_wait_come_one_by_one_and_in_order);
    check_run(both_ends_may_be_on_one_port);
    check_run(a_canceled_receive_yields_one_packet);
    check_run(a_port_that_nobody_has_is_news_and_no_end);
    check_run(a_flood_does_not_hold_the_port);
    check_run(an_address_in_use_is_said_also_to_those_who_would_share);
    check_run(a_group_is_dealt_by_peer);
    return rig_end();
}
