#include "rig.h"

#include "os.h"

static const io_backend *backend;

void rig_begin(int argc, char **argv)
{
    check_begin(argc, argv);
    check_eq(net_start(), IO_OK);
    char why[256] = "";
    const char *name = argc > 1 ? argv[1] : NULL;
    backend = io_backend_find(name, why, sizeof(why));
    if (backend == NULL) {
        printf("skip all: no %s: %s\n", name != NULL ? name : "backend", why);
        exit(CHECK_SKIP);
    }
    printf("# backend %s\n", io_backend_name(backend));
    if (name != NULL && strcmp(name, "auto") != 0) check_str(io_backend_name(backend), name);
}

const io_backend *rig_backend(void)
{
    return backend;
}

void rig_open(rig *r, const io_options *options)
{
    memset(r, 0, sizeof(*r));
    r->descriptors = descriptors_count();
    check_eq(io_port_open(&r->port, backend, options), IO_OK);
    check_str(io_port_backend(r->port), io_backend_name(backend));
    check_eq(io_port_pending(r->port), 0);
    char error[128];
    int native = 0;
    check_eq(net_addr_parse(&r->address, "127.0.0.1:0", error, sizeof(error)), IO_OK);
    check_eq(net_listen(&r->listener, &r->address, &native), IO_OK);
    check_eq(net_local(&r->address, r->listener), IO_OK);
    check_eq(io_attach(r->port, r->listener), IO_OK);
}

void rig_close(rig *r)
{
    io_packet packet;
    for (int i = 0; i < 3; i++) {
        if (rig_next(r, &packet, 0)) fail("a packet of kind %d is left when the rig is closed", (int)packet.kind);
    }
    check_eq(io_port_pending(r->port), 0);
    io_close(r->port, r->listener, false);
    io_port_close(r->port);
    check_eq(descriptors_count(), r->descriptors);
}

/* One io_port_next(), and what is true of every packet. */
static bool next_now(rig *r, io_packet *packet)
{
    uint32_t pending = io_port_pending(r->port);
    memset(packet, 0xee, sizeof(*packet)); /* every field has to be set */
    if (!io_port_next(r->port, packet)) {
        check_eq(io_port_pending(r->port), pending);
        return false;
    }
    check(packet->op != NULL);
    check_eq(packet->op->kind, IO_IDLE);
    check(packet->kind >= IO_ACCEPT && packet->kind <= IO_POST);
    check_eq(io_port_pending(r->port), packet->kind == IO_POST ? pending : pending - 1);
    check(packet->status <= IO_OK && packet->status >= IO_UNEXPECTED);
    check(packet->status != IO_AGAIN); /* a packet is news */
    if (packet->status == IO_UNEXPECTED) fail("native code %d is not mapped", packet->native);
    if (packet->status == IO_OK) check_eq(packet->native, 0);
    if (packet->kind == IO_ACCEPT) check_eq(packet->accepted != IO_SOCKET_NONE, packet->status == IO_OK);
    else check_eq(packet->accepted, IO_SOCKET_NONE);
    if (packet->kind == IO_RECV && packet->bytes > 0) check(packet->data != NULL);
    bool moves = packet->kind == IO_RECV || packet->kind == IO_SEND || packet->kind == IO_RECV_FROM ||
                 packet->kind == IO_SEND_TO;
    if (!moves) check_eq(packet->bytes, 0);
    return true;
}

bool rig_next(rig *r, io_packet *packet, int64_t deadline)
{
    for (bool waited = false;; waited = true) {
        if (next_now(r, packet)) return true;
        int64_t left = deadline - os_monotonic_ns();
        if (left <= 0 && waited) return false;
        r->waits++;
        check_eq(io_port_wait(r->port, left > 0 ? left : 0), IO_OK);
    }
}

io_packet rig_take_at(rig *r, const char *file, int line)
{
    io_packet packet;
    if (!rig_next(r, &packet, os_monotonic_ns() + RIG_PATIENCE_NS)) {
        check_fail_at(file, line, "no packet came, %u pending", (unsigned)io_port_pending(r->port));
    }
    return packet;
}

io_packet rig_expect_at(rig *r, const io_op *op, const char *file, int line)
{
    io_packet packet = rig_take_at(r, file, line);
    if (packet.op != op) {
        check_fail_at(file, line, "the packet is another op's: kind %d, status %s, %u bytes", (int)packet.kind,
                      io_status_name(packet.status), (unsigned)packet.bytes);
    }
    return packet;
}

void rig_expect_all_at(rig *r, io_packet *packets, io_op *const *ops, size_t count, const char *file, int line)
{
    for (size_t i = 0; i < count; i++) packets[i].op = NULL;
    for (size_t taken = 0; taken < count; taken++) {
        io_packet packet = rig_take_at(r, file, line);
        size_t i = 0;
        while (i < count && ops[i] != packet.op) i++;
        if (i == count) check_fail_at(file, line, "a packet of an op that is not expected, kind %d", (int)packet.kind);
        if (packets[i].op != NULL) check_fail_at(file, line, "two packets of one submit, kind %d", (int)packet.kind);
        packets[i] = packet;
        packets[i].data = NULL;
    }
}

void rig_quiet_at(rig *r, const char *file, int line)
{
    io_packet packet;
    if (rig_next(r, &packet, os_monotonic_ns() + RIG_QUIET_NS)) {
        check_fail_at(file, line, "a packet that should not be: kind %d, status %s, %u bytes", (int)packet.kind,
                      io_status_name(packet.status), (unsigned)packet.bytes);
    }
}

io_socket rig_accept(rig *r)
{
    io_accept_op op = {0};
    check_eq(io_accept(r->port, &op, r->listener), IO_OK);
    io_packet packet = expect(r, &op.op);
    check_eq(packet.kind, IO_ACCEPT);
    check_eq(packet.status, IO_OK);
    return packet.accepted;
}

void rig_pair(rig *r, io_socket *ours, io_socket *peer)
{
    *peer = peer_connect(&r->address);
    *ours = rig_accept(r);
    check_eq(io_attach(r->port, *ours), IO_OK);
    net_set_nodelay(*ours, true);
}

io_socket rig_stream(rig *r, const net_addr *addr)
{
    io_socket opened = IO_SOCKET_NONE;
    int native = 0;
    check_eq(net_open_stream(&opened, addr, &native), IO_OK);
    check_eq(io_attach(r->port, opened), IO_OK);
    return opened;
}

void rig_open_pair(rig *r, io_socket *ours, io_socket *peer)
{
    rig_open(r, NULL);
    rig_pair(r, ours, peer);
}

void rig_close_pair(rig *r, io_socket ours, io_socket peer)
{
    io_close(r->port, ours, false);
    peer_close(peer);
    rig_close(r);
}

void rig_pairs(rig *r, io_socket *ours, io_socket *peers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) rig_pair(r, &ours[i], &peers[i]);
}

void rig_close_pairs(rig *r, const io_socket *ours, const io_socket *peers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        io_close(r->port, ours[i], false);
        peer_close(peers[i]);
    }
    rig_close(r);
}

void rig_pair_on_port(rig *r, io_socket *accepted, io_socket *connected)
{
    io_accept_op accept = {0};
    io_op connect = {0};
    *connected = rig_stream(r, &r->address);
    check_eq(io_accept(r->port, &accept, r->listener), IO_OK);
    check_eq(io_connect(r->port, &connect, *connected, &r->address), IO_OK);
    io_op *const ops[] = {&accept.op, &connect};
    io_packet packets[2];
    expect_all(r, packets, ops, 2);
    check_eq(packets[0].status, IO_OK);
    check_eq(packets[1].status, IO_OK);
    *accepted = packets[0].accepted;
    check_eq(io_attach(r->port, *accepted), IO_OK);
    net_set_nodelay(*accepted, true);
    net_set_nodelay(*connected, true);
}

void rig_send(rig *r, io_op *op, io_socket socket, const void *bytes, size_t len)
{
    const char *next = bytes;
    for (size_t left = len; left > 0;) {
        const io_buf buf = {next, left};
        check_eq(io_send(r->port, op, socket, &buf, 1), IO_OK);
        io_packet packet = expect(r, op);
        check_eq(packet.status, IO_OK);
        check(packet.bytes <= left);
        next += packet.bytes;
        left -= packet.bytes;
    }
}

uint64_t rig_fill(rig *r, io_op *op, io_socket socket, uint32_t key)
{
    enum { SENDS_MAX = 2000 };
    static uint8_t bytes[FILL_BYTES];
    uint64_t sent = 0;
    for (int i = 0; i < SENDS_MAX; i++) {
        pattern_fill(bytes, FILL_BYTES, key, sent);
        const io_buf buf = {bytes, FILL_BYTES};
        check_eq(io_send(r->port, op, socket, &buf, 1), IO_OK);
        io_packet packet;
        if (!rig_next(r, &packet, os_monotonic_ns() + RIG_QUIET_NS)) return sent;
        check(packet.op == op);
        check_eq(packet.status, IO_OK);
        check(packet.bytes <= FILL_BYTES);
        sent += packet.bytes;
    }
    fail("%llu bytes are gone, and nobody reads them", (unsigned long long)sent);
    return 0;
}

void rig_delay(int64_t ns)
{
    os_mutex *mutex = os_mutex_open();
    os_cond *cond = os_cond_open();
    int64_t until = os_monotonic_ns() + ns;
    os_mutex_lock(mutex);
    for (int64_t left = ns; left > 0; left = until - os_monotonic_ns()) os_cond_wait(cond, mutex, left);
    os_mutex_unlock(mutex);
    os_cond_close(cond);
    os_mutex_close(mutex);
}

void pattern_fill(void *bytes, size_t len, uint32_t key, uint64_t position)
{
    uint8_t *to = bytes;
    for (size_t i = 0; i < len; i++) to[i] = pattern_byte(key, position + i);
}

void pattern_check_at(const void *bytes, size_t len, uint32_t key, uint64_t position, const char *file, int line)
{
    const uint8_t *from = bytes;
    for (size_t i = 0; i < len; i++) {
        if (from[i] != pattern_byte(key, position + i)) {
            check_fail_at(file, line, "byte %llu of stream %u is 0x%02x and not 0x%02x",
                          (unsigned long long)(position + i), (unsigned)key, from[i], pattern_byte(key, position + i));
        }
    }
}

void peer_send(io_socket socket, const void *bytes, size_t len)
{
    const char *next = bytes;
    while (len > 0) {
        if (!peer_ready(socket, true, RIG_PATIENCE_NS)) fail("the peer cannot send: nobody reads");
        long sent = peer_send_now(socket, next, len);
        if (sent == PEER_AGAIN) continue;
        if (sent < 0) fail("the peer cannot send: reset");
        next += sent;
        len -= (size_t)sent;
    }
}

size_t peer_recv(io_socket socket, void *bytes, size_t len)
{
    char *next = bytes;
    size_t received = 0;
    while (received < len) {
        if (!peer_ready(socket, false, RIG_PATIENCE_NS))
            fail("nothing for the peer, %u bytes came", (unsigned)received);
        long got = peer_recv_now(socket, next + received, len - received);
        if (got == PEER_AGAIN) continue;
        if (got < 0) fail("the peer was reset after %u bytes", (unsigned)received);
        if (got == 0) break;
        received += (size_t)got;
    }
    return received;
}

void peer_shutdown(io_socket socket)
{
    check_eq(net_shutdown_send(socket), IO_OK);
}

void peer_close(io_socket socket)
{
    net_close(socket);
}

void peer_reset(io_socket socket)
{
    check_eq(net_set_abort(socket), IO_OK);
    net_close(socket);
}

net_addr address_nobody(void)
{
    net_addr addr = {{0}};
    io_socket listener = peer_listen(&addr);
    net_close(listener);
    return addr;
}

bool rig_has_ipv6(void)
{
    net_addr addr;
    char error[128];
    int native = 0;
    io_socket probe;
    check_eq(net_addr_parse(&addr, "[::1]:0", error, sizeof(error)), IO_OK);
    if (net_listen(&probe, &addr, &native) != IO_OK) return false;
    net_close(probe);
    return true;
}
