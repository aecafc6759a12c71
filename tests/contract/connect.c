/* connect.c - goal: io_connect() connects, is refused or is canceled, with one packet each time; with ConnectEx and,
 * where that is switched off, with its fallback. Method: plain listeners, ports that nobody listens on, and a listener
 * whose queue is full. */
#include "os.h"
#include "rig.h"

static const io_options fallback = {.no_connectex = true};

static void connect_to(const io_options *options)
{
    rig r;
    rig_open(&r, options);
    net_addr address;
    io_socket listener = peer_listen(&address);
    for (int i = 0; i < 10; i++) {
        io_op op = {0};
        char got[3];
        io_socket ours = rig_stream(&r, &address);
        if (i % 2 == 0) expect_nothing(&r); /* an attached socket is no news, whatever the kernel says of it */
        check_eq(io_connect(r.port, &op, ours, &address), IO_OK);
        check_eq(op.kind, IO_CONNECT); /* a submit never completes by itself */
        check_eq(io_port_pending(r.port), 1);
        io_packet packet = expect(&r, &op);
        check_eq(packet.kind, IO_CONNECT);
        check_eq(packet.status, IO_OK);
        io_socket peer = peer_accept(listener);
        net_addr local;
        check_eq(net_local(&local, ours), IO_OK);
        check(net_addr_port(&local) != 0);
        rig_send(&r, &op, ours, "abc", 3);
        check_eq(peer_recv(peer, got, 3), 3);
        check_mem(got, "abc", 3);
        peer_send(peer, "de", 2);
        check_eq(io_recv(r.port, &op, ours), IO_OK);
        packet = expect(&r, &op);
        check_eq(packet.status, IO_OK);
        check_eq(packet.bytes, 2);
        check_mem(packet.data, "de", 2);
        check_eq(io_shutdown(r.port, ours), IO_OK); /* needs the connect context on Windows */
        check_eq(peer_recv(peer, got, 3), 0);
        io_close(r.port, ours, false);
        peer_close(peer);
    }
    peer_close(listener);
    rig_close(&r);
}

static void connect_works(void)
{
    connect_to(NULL);
}

static void connect_works_without_connectex(void)
{
    connect_to(&fallback);
}

static void connect_to_nobody(const io_options *options)
{
    rig r;
    rig_open(&r, options);
    net_addr address = address_nobody();
    for (int i = 0; i < 10; i++) {
        io_op op = {0};
        io_socket ours = rig_stream(&r, &address);
        check_eq(io_connect(r.port, &op, ours, &address), IO_OK);
        check_eq(op.kind, IO_CONNECT);
        io_packet packet = expect(&r, &op);
        check_eq(packet.kind, IO_CONNECT);
        check_eq(packet.status, IO_REFUSED);
        check(packet.native != 0);
        io_close(r.port, ours, false);
    }
    expect_nothing(&r);
    rig_close(&r);
}

static void connect_to_nobody_is_refused(void)
{
    connect_to_nobody(NULL);
}

static void connect_to_nobody_is_refused_without_connectex(void)
{
    connect_to_nobody(&fallback);
}

/* The kernel drops what does not fit a listener's queue, so a connect to a full one stays pending. */
static void connect_and_cancel(const io_options *options)
{
    enum { QUEUE_MAX = 4, TURNS = 5 };
    rig r;
    rig_open(&r, options);
    net_addr address;
    io_socket listener = peer_listen(&address);
    io_socket queue[QUEUE_MAX];
    for (int i = 0; i < QUEUE_MAX; i++) queue[i] = peer_connect_begin(&address);
    for (int i = 0; i < TURNS; i++) {
        io_op op = {0};
        io_packet packet;
        io_socket ours = rig_stream(&r, &address);
        if (i > 2) check_eq(io_port_wait(r.port, 0), IO_OK);
        check_eq(io_connect(r.port, &op, ours, &address), IO_OK);
        if (i % 2 == 0 && rig_next(&r, &packet, os_monotonic_ns() + RIG_QUIET_NS)) {
            fail("a connect to a full listener said %s", io_status_name(packet.status));
        }
        io_cancel(r.port, ours);
        packet = expect(&r, &op);
        check_eq(packet.status, IO_CANCELED);
        io_cancel(r.port, ours); /* nothing is pending: harmless */
        io_close(r.port, ours, false);
    }
    expect_nothing(&r);
    for (int i = 0; i < QUEUE_MAX; i++) peer_close(queue[i]);
    peer_close(listener);
    rig_close(&r);
}

static void pending_connect_is_canceled(void)
{
    connect_and_cancel(NULL);
}

static void pending_connect_is_canceled_without_connectex(void)
{
    connect_and_cancel(&fallback);
}

/* Cancels at once what would work: either result is right, two are not. */
static void canceled_connect_yields_one_packet(void)
{
    rig r;
    rig_open(&r, NULL);
    net_addr address;
    io_socket listener = peer_listen(&address);
    for (int i = 0; i < 50; i++) {
        io_op op = {0};
        io_socket ours = rig_stream(&r, &address);
        check_eq(io_connect(r.port, &op, ours, &address), IO_OK);
        if (i % 2 == 0) check_eq(io_port_wait(r.port, 0), IO_OK);
        io_cancel(r.port, ours);
        io_packet packet = expect(&r, &op);
        check(packet.status == IO_OK || packet.status == IO_CANCELED);
        io_close(r.port, ours, true);
        while (peer_ready(listener, false, 0)) peer_close(peer_accept(listener));
    }
    expect_nothing(&r);
    peer_close(listener);
    rig_close(&r);
}

static void connect_many(const io_options *options)
{
    enum { SOCKETS = 50 };
    rig r;
    rig_open(&r, options);
    io_op ops[SOCKETS] = {0};
    io_op *list[SOCKETS];
    io_packet packets[SOCKETS];
    io_socket ours[SOCKETS];
    net_addr nobody = address_nobody();
    for (int i = 0; i < SOCKETS; i++) { /* every fifth to nobody */
        const net_addr *address = i % 5 == 0 ? &nobody : &r.address;
        ours[i] = rig_stream(&r, address);
        list[i] = &ops[i];
        check_eq(io_connect(r.port, &ops[i], ours[i], address), IO_OK);
    }
    expect_all(&r, packets, list, SOCKETS);
    for (int i = 0; i < SOCKETS; i++) check_eq(packets[i].status, i % 5 == 0 ? IO_REFUSED : IO_OK);
    for (int i = 0; i < SOCKETS; i++) {
        if (i % 5 != 0) io_close(r.port, rig_accept(&r), false);
    }
    for (int i = 0; i < SOCKETS; i++) io_close(r.port, ours[i], false);
    rig_close(&r);
}

static void many_connects_are_pending_at_once(void)
{
    connect_many(NULL);
}

static void many_connects_are_pending_at_once_without_connectex(void)
{
    connect_many(&fallback);
}

static void connect_works_over_ipv6(void)
{
    if (!rig_has_ipv6()) {
        check_skip("this machine has no ::1");
        return;
    }
    rig r;
    rig_open(&r, NULL);
    net_addr address;
    net_addr local;
    net_addr peer;
    char error[128];
    char text[2][NET_ADDR_TEXT_MAX];
    io_socket listener;
    int native = 0;
    check_eq(net_addr_parse(&address, "[::1]:0", error, sizeof(error)), IO_OK);
    check_eq(net_listen(&listener, &address, &native), IO_OK);
    check_eq(net_local(&address, listener), IO_OK);
    check_eq(io_attach(r.port, listener), IO_OK);
    io_accept_op accept = {0};
    io_op connect = {0};
    io_op *const ops[] = {&accept.op, &connect};
    io_packet packets[2];
    io_socket ours = rig_stream(&r, &address);
    check_eq(io_accept(r.port, &accept, listener), IO_OK);
    check_eq(io_connect(r.port, &connect, ours, &address), IO_OK);
    expect_all(&r, packets, ops, 2);
    check_eq(packets[0].status, IO_OK);
    check_eq(packets[1].status, IO_OK);
    check_eq(net_local(&local, ours), IO_OK);
    peer = accept.peer;
    check_str(net_addr_format(&peer, text[0], NET_ADDR_TEXT_MAX), net_addr_format(&local, text[1], NET_ADDR_TEXT_MAX));
    io_close(r.port, packets[0].accepted, false);
    io_close(r.port, ours, false);
    io_close(r.port, listener, false);
    rig_close(&r);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(connect_works);
    check_run(connect_works_without_connectex);
    check_run(connect_to_nobody_is_refused);
    check_run(connect_to_nobody_is_refused_without_connectex);
    check_run(pending_connect_is_canceled);
    check_run(pending_connect_is_canceled_without_connectex);
    check_run(canceled_connect_yields_one_packet);
    check_run(many_connects_are_pending_at_once);
    check_run(many_connects_are_pending_at_once_without_connectex);
    check_run(connect_works_over_ipv6);
    return rig_end();
}
