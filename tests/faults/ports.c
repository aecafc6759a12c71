/* Goal: whatever call fails while a backend is tried or operations of all kinds are under way, each submit yields its one
 * packet or is refused, and nothing is left behind.
 * Method: each call fails, one after the other, with each of its errors. Argument: the backend. */
#include "inject.h"

#include "contract/rig.h"
#include "net_udp.h"
#include "os.h"

#include <sys/socket.h>

static const char *backend_name;

static void try_backend(void)
{
    char why[256] = "";
    const io_backend *found = io_backend_find(backend_name, why, sizeof(why));
    check(found != NULL || why[0] != '\0');
}

static void try_best_backend(void)
{
    char why[256] = "";
    (void)io_backend_find(NULL, why, sizeof(why));
}

static void a_backend_works_or_says_why_not(void)
{
    inject_sweep(try_backend);
    inject_sweep(try_best_backend);
}

/* ---- Operations ---- */

static io_port *port;

/* Takes packets until the op's has come. */
static io_packet await(const io_op *op)
{
    io_packet packet;
    int64_t deadline_ns = os_monotonic_ns() + RIG_PATIENCE_NS;
    for (;;) {
        memset(&packet, 0, sizeof(packet));
        while (io_port_next(port, &packet)) {
            if (packet.op == op) return packet;
        }
        (void)io_port_wait(port, 100000000);
        if (os_monotonic_ns() > deadline_ns)
            fail("no packet of kind %d came, %u pending", (int)op->kind, (unsigned)io_port_pending(port));
    }
}

/* The status of an op: of its submit, or of its packet. */
static io_status status_of(const io_op *op, io_status submitted)
{
    return submitted == IO_OK ? await(op).status : submitted;
}

static net_addr parse(const char *text)
{
    net_addr addr;
    char error[128];
    check_eq(net_addr_parse(&addr, text, error, sizeof(error)), IO_OK);
    return addr;
}

/* One datagram to ourselves. */
static void send_a_datagram(void)
{
    io_socket ours;
    int native;
    io_datagram_op out = {0}, in = {0};
    const net_addr any = parse("127.0.0.1:0");
    if (net_udp_open(&ours, &any, &native) != IO_OK) return;
    if (net_local(&out.peer, ours) == IO_OK && io_attach_udp(port, ours) == IO_OK) {
        io_status status = status_of(&out.op, io_send_to(port, &out, ours, "datagram", 8));
        if (io_recv_from(port, &in, ours) == IO_OK) {
            if (status != IO_OK) io_cancel(port, ours);
            io_packet packet = await(&in.op);
            if (packet.status == IO_OK) check_eq(packet.bytes, 8);
        }
        io_close(port, ours, false);
    } else {
        net_close(ours);
    }
}

/* A byte from a peer, noticed, drawn and answered by two buffers; then the peer goes. */
static void serve(io_socket ours, io_socket peer)
{
    io_op in = {0}, out = {0};
    char byte = 0;
    size_t bytes;
    const io_buf bufs[] = {{"ab", 2}, {"c", 1}};
    inject_pause();
    peer_send(peer, "x", 1);
    inject_resume();
    if (status_of(&in, io_readable(port, &in, ours)) == IO_OK) {
        io_status drawn = io_draw(port, ours, &byte, 1, &bytes);
        if (drawn == IO_OK && bytes == 1) check_eq(byte, 'x');
    }
    (void)status_of(&out, io_send(port, &out, ours, bufs, array_count(bufs)));
    inject_pause();
    peer_send(peer, "y", 1);
    inject_resume();
    (void)status_of(&in, io_recv_into(port, &in, ours, &byte, 1));
    if (io_recv(port, &in, ours) == IO_OK) {
        io_cancel(port, ours);
        (void)await(&in);
    }
}

static void connect_and_serve(void)
{
    net_addr addr;
    inject_pause();
    io_socket listener = peer_listen(&addr);
    inject_resume();
    io_socket ours;
    int native;
    io_op op = {0};
    if (net_open_stream(&ours, &addr, &native) == IO_OK) {
        if (io_attach(port, ours) == IO_OK) {
            if (status_of(&op, io_connect(port, &op, ours, &addr)) == IO_OK) {
                inject_pause();
                io_socket peer = peer_accept(listener);
                inject_resume();
                serve(ours, peer);
                inject_pause();
                peer_close(peer);
                inject_resume();
            }
            io_close(port, ours, true);
        } else {
            net_close(ours);
        }
    }
    inject_pause();
    peer_close(listener);
    inject_resume();
}

static void accept_one(void)
{
    io_socket listener;
    int native;
    io_accept_op op = {0};
    net_addr addr = parse("127.0.0.1:0");
    if (net_listen(&listener, &addr, &native) != IO_OK) return;
    if (net_local(&addr, listener) == IO_OK && io_attach(port, listener) == IO_OK) {
        inject_pause();
        io_socket peer = peer_connect_begin(&addr);
        inject_resume();
        if (io_accept(port, &op, listener) == IO_OK) {
            io_packet packet = await(&op.op);
            if (packet.status == IO_OK) net_close(packet.accepted);
        }
        inject_pause();
        peer_close(peer);
        inject_resume();
        io_close(port, listener, false);
    } else {
        net_close(listener);
    }
}

static void use_a_port(void)
{
    const io_options options = {.recv_bytes = 64, .recv_buffers = 2, .entries = 8};
    if (io_port_open(&port, rig_backend(), &options) != IO_OK) {
        check(port == NULL);
        return;
    }
    send_a_datagram();
    connect_and_serve();
    accept_one();
    io_port_close(port);
}

static void each_submit_yields_a_packet_or_is_refused(void)
{
    inject_sweep(use_a_port);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    backend_name = io_backend_name(rig_backend());
    check_run(a_backend_works_or_says_why_not);
    check_run(each_submit_yields_a_packet_or_is_refused);
    return rig_end();
}
