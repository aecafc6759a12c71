/* mix.c - goal: in any order of verbs, every submit yields its one packet and the bytes reported on one side are the
 * bytes seen on the other. Method: random verbs over some connections, which end and are replaced in several ways, and
 * a ledger of both directions of each. Arguments: backend, seed. */
#include "os.h"
#include "rig.h"

enum { LINKS = 16, STEPS = 12000, OUT_BYTES = 60000, PIECE = 9000 };

typedef struct link {
    io_op recv;
    io_op send;
    io_socket ours;
    io_socket peer;
    uint32_t key;          /* of what we send; key + 1 of what the peer sends */
    uint64_t out_reported; /* by packets of send */
    uint64_t out_received; /* by the peer */
    uint64_t in_sent;      /* by the peer */
    uint64_t in_received;  /* by packets of recv, and draws */
    size_t offered;        /* bytes in the pending send */
    bool recv_canceled;    /* io_cancel() was called since the submit */
    bool send_canceled;
    bool out_ended; /* io_shutdown() was called */
    bool in_ended;  /* the peer sent FIN */
    bool reset;     /* the peer was closed with RST: what comes now is not checked */
    uint8_t out[OUT_BYTES];
    uint8_t in[PIECE];
} link;

static uint64_t seed;
static uint64_t state; /* of the random numbers */
static uint32_t next_key;
static link links[LINKS];
static rig r;

static bool one_in(uint64_t count)
{
    return check_random_below(&state, count) == 0;
}

static size_t some(size_t most)
{
    return 1 + (size_t)check_random_below(&state, most);
}

/* ---- What comes in ---- */

static void receive(link *l, const uint8_t *data, size_t bytes)
{
    check_pattern(data, bytes, l->key + 1, l->in_received);
    l->in_received += bytes;
    check(l->in_received <= l->in_sent);
}

/* The end may be seen only when the peer has sent it and all is read. */
static void receive_end(const link *l)
{
    if (l->reset) return;
    check(l->in_ended);
    check_eq(l->in_received, l->in_sent);
}

/* True when the stream has ended. */
static bool draw(link *l)
{
    size_t bytes = 12345;
    io_status status = io_draw(r.port, l->ours, l->in, some(PIECE), &bytes);
    if (status != IO_OK) {
        check(status == IO_AGAIN || (status == IO_RESET && l->reset));
        check_eq(bytes, 0);
        return status == IO_RESET;
    }
    if (bytes == 0) receive_end(l);
    else receive(l, l->in, bytes);
    return bytes == 0;
}

static void check_status(const link *l, const io_packet *packet)
{
    switch (packet->status) {
    case IO_OK:
        break;
    case IO_CANCELED:
        check(packet->op == &l->recv ? l->recv_canceled : l->send_canceled);
        break;
    case IO_RESET:
        check(l->reset);
        break;
    default:
        fail("%s (%d) from kind %d", io_status_name(packet->status), packet->native, (int)packet->kind);
    }
}

static void handle(const io_packet *packet)
{
    link *l = NULL;
    for (int i = 0; i < LINKS; i++) {
        if (packet->op == &links[i].recv || packet->op == &links[i].send) l = &links[i];
    }
    check(l != NULL);
    check_status(l, packet);
    switch (packet->kind) {
    case IO_RECV:
        check(packet->op == &l->recv);
        if (packet->bytes > 0) receive(l, packet->data, packet->bytes);
        else if (packet->status == IO_OK) receive_end(l);
        break;
    case IO_READABLE:
        check(packet->op == &l->recv);
        if (packet->status == IO_OK && one_in(2)) draw(l);
        break;
    case IO_SEND:
        check(packet->op == &l->send);
        check(packet->bytes <= l->offered);
        l->out_reported += packet->bytes;
        break;
    default:
        fail("kind %d", (int)packet->kind);
    }
}

static void take_packets(size_t most)
{
    io_packet packet;
    for (size_t i = 0; i < most && rig_next(&r, &packet, 0); i++) handle(&packet);
}

/* ---- Verbs ---- */

static void link_open(link *l)
{
    memset(l, 0, sizeof(*l));
    l->key = next_key;
    next_key += 2;
    l->ours = IO_SOCKET_NONE;
    l->peer = peer_connect(&r.address);
    io_accept_op op = {0};
    check_eq(io_accept(r.port, &op, r.listener), IO_OK);
    while (op.op.kind != IO_IDLE) { /* beside what the other links do */
        io_packet packet = take(&r);
        if (packet.op != &op.op) handle(&packet);
        else l->ours = packet.accepted;
    }
    check(l->ours != IO_SOCKET_NONE);
    check_eq(io_attach(r.port, l->ours), IO_OK);
}

static void submit_receive(link *l)
{
    l->recv_canceled = false;
    switch (check_random_below(&state, 3)) {
    case 0:
        check_eq(io_recv(r.port, &l->recv, l->ours), IO_OK);
        break;
    case 1:
        check_eq(io_recv_into(r.port, &l->recv, l->ours, l->in, some(PIECE)), IO_OK);
        break;
    default:
        check_eq(io_readable(r.port, &l->recv, l->ours), IO_OK);
        break;
    }
}

static void submit_send(link *l)
{
    io_buf bufs[IO_BUFS_MAX];
    uint32_t count = (uint32_t)some(IO_BUFS_MAX);
    size_t most = one_in(4) ? OUT_BYTES / count : 200;
    l->send_canceled = false;
    l->offered = 0;
    for (uint32_t i = 0; i < count; i++) {
        bufs[i].base = l->out + l->offered;
        bufs[i].len = some(most);
        l->offered += bufs[i].len;
    }
    pattern_fill(l->out, l->offered, l->key, l->out_reported);
    check_eq(io_send(r.port, &l->send, l->ours, bufs, count), IO_OK);
    memset(bufs, 0xee, sizeof(bufs));
}

static void peer_gives(link *l)
{
    uint8_t bytes[PIECE];
    size_t len = some(PIECE);
    pattern_fill(bytes, len, l->key + 1, l->in_sent);
    long sent = peer_send_now(l->peer, bytes, len);
    check(sent == PEER_AGAIN || sent > 0);
    if (sent > 0) l->in_sent += (uint64_t)sent;
}

static void peer_takes(link *l)
{
    uint8_t bytes[2 * PIECE];
    long got = peer_recv_now(l->peer, bytes, some(sizeof(bytes)));
    check(got != PEER_RESET);
    if (got == 0) check(l->out_ended);
    if (got <= 0) return;
    check_pattern(bytes, (size_t)got, l->key, l->out_received);
    l->out_received += (uint64_t)got;
}

static void cancel(link *l)
{
    l->recv_canceled = true;
    l->send_canceled = true;
    io_cancel(r.port, l->ours);
}

static void join(link *l)
{
    cancel(l);
    while (l->recv.kind != IO_IDLE || l->send.kind != IO_IDLE) {
        io_packet packet = take(&r);
        handle(&packet);
    }
}

/* Both directions to their ends, and the ledger. */
static void link_finish(link *l)
{
    static uint8_t rest[1 << 16];
    join(l);
    if (!l->out_ended) check_eq(io_shutdown(r.port, l->ours), IO_OK);
    l->out_ended = true;
    for (;;) {
        size_t got = peer_recv(l->peer, rest, some(sizeof(rest)));
        if (got == 0) break;
        check_pattern(rest, got, l->key, l->out_received);
        l->out_received += got;
    }
    check_eq(l->out_received, l->out_reported);
    if (!l->in_ended) peer_shutdown(l->peer);
    l->in_ended = true;
    for (bool ended = false; !ended;) {
        check_eq(io_readable(r.port, &l->recv, l->ours), IO_OK);
        while (l->recv.kind != IO_IDLE) {
            io_packet packet = take(&r);
            if (packet.op == &l->recv) check_eq(packet.status, IO_OK);
            else handle(&packet);
        }
        ended = draw(l);
    }
    check_eq(l->in_received, l->in_sent);
    io_close(r.port, l->ours, one_in(2));
    peer_close(l->peer);
}

/* One of the ways in which a connection ends at any moment. */
static void link_break(link *l)
{
    if (one_in(2)) {
        l->reset = true;
        peer_reset(l->peer);
        take_packets(some(5));
        join(l);
        io_close(r.port, l->ours, false);
    } else {
        join(l);
        io_close(r.port, l->ours, true);
        peer_close(l->peer);
    }
}

static void step(link *l)
{
    switch (check_random_below(&state, 8)) {
    case 0:
    case 1:
        if (l->recv.kind == IO_IDLE) submit_receive(l);
        break;
    case 2:
        if (l->send.kind == IO_IDLE && !l->out_ended) submit_send(l);
        break;
    case 3:
        if (!l->in_ended) peer_gives(l);
        break;
    case 4:
        peer_takes(l);
        break;
    case 5:
        if (l->recv.kind == IO_IDLE) draw(l);
        break;
    case 6:
        if (one_in(3)) cancel(l);
        break;
    default:
        if (one_in(30) && l->send.kind == IO_IDLE && !l->out_ended) {
            l->out_ended = true;
            check_eq(io_shutdown(r.port, l->ours), IO_OK);
        } else if (one_in(30) && !l->in_ended) {
            l->in_ended = true;
            peer_shutdown(l->peer);
        } else if (one_in(30)) {
            if (one_in(2)) link_finish(l);
            else link_break(l);
            link_open(l);
        }
        break;
    }
    if (one_in(2)) take_packets(some(6));
}

static void run(const io_options *options)
{
    rig_open(&r, options);
    state = seed;
    next_key = 0;
    for (int i = 0; i < LINKS; i++) link_open(&links[i]);
    for (int i = 0; i < STEPS; i++) step(&links[check_random_below(&state, LINKS)]);
    for (int i = 0; i < LINKS; i++) link_finish(&links[i]);
    rig_close(&r);
}

static void any_mix_of_verbs_keeps_the_ledger(void)
{
    run(NULL);
}

static void any_mix_of_verbs_keeps_the_ledger_with_few_small_buffers(void)
{
    const io_options options = {.recv_bytes = 512, .recv_buffers = 2, .entries = 4};
    run(&options);
}

static void any_mix_of_verbs_keeps_the_ledger_when_every_success_has_a_system_packet(void)
{
    const io_options options = {.no_skip = true};
    run(&options);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    seed = check_seed(argc, argv, 2, (uint64_t)os_monotonic_ns());
    check_run(any_mix_of_verbs_keeps_the_ledger);
    check_run(any_mix_of_verbs_keeps_the_ledger_with_few_small_buffers);
    check_run(any_mix_of_verbs_keeps_the_ledger_when_every_success_has_a_system_packet);
    return rig_end();
}
