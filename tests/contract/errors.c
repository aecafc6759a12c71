/* errors.c - goal: what cannot be had is refused with the right status and yields no packet, and statuses have names.
 * Method: more submits than a queue holds, addresses that are taken or not ours, backends that are not there. */
#include "rig.h"

static void statuses_have_names(void)
{
    for (int i = IO_OK; i >= IO_UNEXPECTED; i--) {
        const char *name = io_status_name((io_status)i);
        const char *text = io_status_text((io_status)i);
        check(name != NULL && name[0] != '\0');
        check(text != NULL && text[0] != '\0');
        check(strchr(name, ' ') == NULL);
        for (int k = IO_OK; k > i; k--) check(strcmp(name, io_status_name((io_status)k)) != 0);
    }
    check_str(io_status_name(IO_OK), "ok");
    check_str(io_status_name(IO_RESET), "reset");
    check_str(io_status_name(IO_REFUSED), "refused");
    check_str(io_status_text(IO_REFUSED), "connection refused");
    check_eq(net_map_error(1234567), IO_UNEXPECTED);
}

static void backends_are_found_by_name(void)
{
    char why[200] = "";
    const io_backend *backend = io_backend_find(NULL, why, sizeof(why));
    check(backend != NULL);
    check(why[0] != '\0');
    check(strstr(io_backend_names(), io_backend_name(backend)) != NULL);
    check(io_backend_find("auto", why, sizeof(why)) == backend);
    check(strstr(io_backend_names(), io_backend_name(rig_backend())) != NULL);
    check(io_backend_find(io_backend_name(rig_backend()), why, sizeof(why)) == rig_backend());
    why[0] = '\0';
    check(io_backend_find("kqueue", why, sizeof(why)) == NULL);
    check(strlen(why) > 0);
    char small[8];
    memset(small, 'x', sizeof(small));
    check(io_backend_find("kqueue", small, 4) == NULL);
    check_mem(small + 4, "xxxx", 4);
}

/* Submits without taking packets in between. Each is accepted and yields one packet, or is IO_LIMIT and yields none. */
static void more_submits_than_the_queue_holds_yield_one_packet_each_or_none(void)
{
    enum { ACCEPTS = 300 };
    static io_accept_op accepts[ACCEPTS];
    io_op *ops[ACCEPTS];
    io_packet packets[ACCEPTS];
    const io_options options = {.entries = 4};
    rig r;
    memset(accepts, 0, sizeof(accepts));
    rig_open(&r, &options);
    uint32_t submitted = 0;
    for (int i = 0; i < ACCEPTS; i++) {
        io_status status = io_accept(r.port, &accepts[i], r.listener);
        if (status == IO_OK) {
            ops[submitted++] = &accepts[i].op;
        } else {
            check_eq(status, IO_LIMIT);
            check_eq(accepts[i].op.kind, IO_IDLE);
        }
        check_eq(io_port_pending(r.port), submitted);
    }
    check(submitted > 0);
    io_cancel(r.port, r.listener);
    expect_all(&r, packets, ops, submitted);
    for (uint32_t i = 0; i < submitted; i++) check_eq(packets[i].status, IO_CANCELED);
    expect_nothing(&r);
    rig_close(&r);
}

static void many_sockets_work_through_a_small_queue(void)
{
    enum { SOCKETS = 100, TURNS = 3 };
    static io_socket ours[SOCKETS];
    static io_socket peer[SOCKETS];
    static io_op recv[SOCKETS];
    static io_op send[SOCKETS];
    static io_op *ops[2 * SOCKETS];
    static io_packet packets[2 * SOCKETS];
    const io_options options = {.entries = 4};
    rig r;
    memset(recv, 0, sizeof(recv));
    memset(send, 0, sizeof(send));
    rig_open(&r, &options);
    for (int i = 0; i < SOCKETS; i++) {
        rig_pair(&r, &ours[i], &peer[i]);
        ops[i] = &recv[i];
        ops[SOCKETS + i] = &send[i];
    }
    for (int turn = 0; turn < TURNS; turn++) {
        for (int i = 0; i < SOCKETS; i++) {
            const io_buf buf = {"abc", 3};
            peer_send(peer[i], "xy", 2);
            check_eq(io_recv(r.port, &recv[i], ours[i]), IO_OK);
            check_eq(io_send(r.port, &send[i], ours[i], &buf, 1), IO_OK);
        }
        expect_all(&r, packets, ops, 2 * SOCKETS);
        for (int i = 0; i < SOCKETS; i++) {
            char got[3];
            check_eq(packets[i].status, IO_OK);
            check_eq(packets[i].bytes, 2);
            check_eq(packets[SOCKETS + i].status, IO_OK);
            check_eq(packets[SOCKETS + i].bytes, 3);
            check_eq(peer_recv(peer[i], got, 3), 3);
        }
    }
    for (int i = 0; i < SOCKETS; i++) {
        check_eq(io_recv(r.port, &recv[i], ours[i]), IO_OK);
        io_cancel(r.port, ours[i]); /* many cancels without a wait, too */
        io_cancel(r.port, ours[i]);
    }
    expect_all(&r, packets, ops, SOCKETS);
    for (int i = 0; i < SOCKETS; i++) check_eq(packets[i].status, IO_CANCELED);
    rig_close_pairs(&r, ours, peer, SOCKETS);
}

static void two_ports_of_one_thread_keep_their_packets_apart(void)
{
    rig a;
    rig b;
    io_socket ours[2];
    io_socket peer[2];
    io_op ops[2] = {0};
    rig_open(&a, NULL);
    rig_open(&b, NULL);
    rig_pair(&a, &ours[0], &peer[0]);
    rig_pair(&b, &ours[1], &peer[1]);
    check_eq(io_recv(a.port, &ops[0], ours[0]), IO_OK);
    check_eq(io_recv(b.port, &ops[1], ours[1]), IO_OK);
    check_eq(io_port_pending(a.port), 1);
    check_eq(io_port_pending(b.port), 1);
    peer_send(peer[0], "a", 1);
    expect_nothing(&b);
    check_eq(expect(&a, &ops[0]).bytes, 1);
    peer_send(peer[1], "b", 1);
    expect_nothing(&a);
    check_eq(expect(&b, &ops[1]).bytes, 1);
    io_close(a.port, ours[0], false);
    io_close(b.port, ours[1], false);
    peer_close(peer[0]);
    peer_close(peer[1]);
    rig_close(&b);
    rig_close(&a);
}

/* A socket that one port accepted may be attached to another: how connections are dealt to workers. */
static void an_accepted_socket_may_join_another_port(void)
{
    rig a;
    rig b;
    io_op op = {0};
    rig_open(&a, NULL);
    rig_open(&b, NULL);
    io_socket peer = peer_connect(&a.address);
    io_socket ours = rig_accept(&a);
    check_eq(io_attach(b.port, ours), IO_OK);
    check_eq(io_recv(b.port, &op, ours), IO_OK);
    peer_send(peer, "hello", 5);
    io_packet packet = expect(&b, &op);
    check_eq(packet.status, IO_OK);
    check_eq(packet.bytes, 5);
    rig_send(&b, &op, ours, "x", 1);
    io_close(b.port, ours, false);
    peer_close(peer);
    rig_close(&b);
    rig_close(&a);
}

static net_addr parse(const char *uri)
{
    net_addr addr;
    char error[128];
    check_eq(net_addr_parse(&addr, uri, error, sizeof(error)), IO_OK);
    return addr;
}

/* Nothing that needs a descriptor works, each says so, and nothing is left behind. */
static void without_descriptors_everything_is_a_limit(void)
{
    net_addr address = parse("127.0.0.1:0");
    io_port *port = NULL;
    io_socket opened = IO_SOCKET_NONE;
    int native = 0;
    long before = descriptors_count();
    if (!descriptors_exhaust()) {
        check_skip("this system sets no limit on descriptors");
        return;
    }
    for (int spare = 0; spare < 8; spare++) { /* a port may need several: fail after each */
        if (io_port_open(&port, rig_backend(), NULL) == IO_OK) {
            check(spare > 0);
            io_port_close(port);
            break;
        }
        check(spare < 7);
        check_eq(io_port_open(&port, rig_backend(), NULL), IO_LIMIT);
        check(port == NULL);
        if (spare == 0) {
            check_eq(net_listen(&opened, &address, &native), IO_LIMIT);
            check_eq(net_open_stream(&opened, &address, &native), IO_LIMIT);
            check(native != 0);
        }
        descriptors_free_one();
    }
    descriptors_restore();
    check_eq(descriptors_count(), before);
}

static void a_port_that_is_listened_on_is_in_use(void)
{
    rig r;
    rig_open(&r, NULL);
    io_socket second = IO_SOCKET_NONE;
    int native = 0;
    check_eq(net_listen(&second, &r.address, &native), IO_IN_USE);
    check(native != 0);
    rig_close(&r);
}

static void an_address_of_another_machine_is_unavailable(void)
{
    net_addr foreign = parse("192.0.2.1:0"); /* TEST-NET-1 of RFC 5737: nobody's */
    io_socket listener = IO_SOCKET_NONE;
    int native = 0;
    check_eq(net_listen(&listener, &foreign, &native), IO_UNAVAILABLE);
    check(native != 0);
}

static void a_port_is_free_again_after_its_connections_have_closed(void)
{
    net_addr address = parse("127.0.0.1:0");
    for (int i = 0; i < 3; i++) {
        io_socket listener = IO_SOCKET_NONE;
        int native = 0;
        check_eq(net_listen(&listener, &address, &native), IO_OK);
        check_eq(net_local(&address, listener), IO_OK); /* the same port from the second turn on */
        io_socket peer = peer_connect(&address);
        io_socket ours = peer_accept(listener);
        char byte;
        peer_close(ours); /* this end waits in TIME_WAIT, on the listener's port */
        check_eq(peer_recv(peer, &byte, 1), 0);
        peer_close(peer);
        net_close(listener);
    }
}

static void both_wildcards_listen_on_one_port(void)
{
    if (!rig_has_ipv6()) {
        check_skip("this machine has no ::1");
        return;
    }
    net_addr four = parse("*:0");
    net_addr local;
    io_socket listeners[2];
    int native = 0;
    char six[32];
    check_eq(net_listen(&listeners[0], &four, &native), IO_OK);
    check_eq(net_local(&local, listeners[0]), IO_OK);
    snprintf(six, sizeof(six), "[::]:%u", (unsigned)net_addr_port(&local));
    net_addr other = parse(six);
    check_eq(net_listen(&listeners[1], &other, &native), IO_OK);
    net_close(listeners[0]);
    net_close(listeners[1]);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(statuses_have_names);
    check_run(backends_are_found_by_name);
    check_run(more_submits_than_the_queue_holds_yield_one_packet_each_or_none);
    check_run(many_sockets_work_through_a_small_queue);
    check_run(two_ports_of_one_thread_keep_their_packets_apart);
    check_run(an_accepted_socket_may_join_another_port);
    check_run(without_descriptors_everything_is_a_limit);
    check_run(a_port_that_is_listened_on_is_in_use);
    check_run(an_address_of_another_machine_is_unavailable);
    check_run(a_port_is_free_again_after_its_connections_have_closed);
    check_run(both_wildcards_listen_on_one_port);
    return rig_end();
}
