/* recv_between.c - goal: bytes that come while no receive is pending are there, in order, for whatever is submitted or drawn
 * next, whichever way earlier ones came. Method: sockets that have already received twice (a backend may keep something
 * with the kernel from then on), a peer that sends while nothing is pending, and rounds of the port in between.
 * Arguments: backend, seed. */
#include "rig.h"

#include "os.h"

static uint64_t seed;

typedef struct pair {
    rig r;
    io_socket ours;
    io_socket peer;
    io_op op;
    uint64_t sent;
    uint64_t received;
} pair;

static void send_more(pair *p, size_t len)
{
    uint8_t bytes[4096];
    check(len <= sizeof(bytes));
    pattern_fill(bytes, len, 7, p->sent);
    peer_send(p->peer, bytes, len);
    p->sent += len;
}

static void check_more(pair *p, const void *bytes, size_t len)
{
    check_pattern(bytes, len, 7, p->received);
    p->received += len;
}

/* All that was sent, by lent receives. */
static void receive_all(pair *p)
{
    while (p->received < p->sent) {
        check_eq(io_recv(p->r.port, &p->op, p->ours), IO_OK);
        io_packet packet = expect(&p->r, &p->op);
        check_eq(packet.status, IO_OK);
        check(packet.bytes > 0);
        check_more(p, packet.data, packet.bytes);
    }
}

static void open_warm(pair *p)
{
    *p = (pair){.sent = 0};
    rig_open(&p->r, NULL);
    rig_pair(&p->r, &p->ours, &p->peer);
    for (int i = 0; i < 3; i++) {
        send_more(p, 10);
        receive_all(p);
    }
}

static void close_pair(pair *p)
{
    io_close(p->r.port, p->ours, false);
    peer_close(p->peer);
    rig_close(&p->r);
}

/* Bytes come in two parts, each seen by the kernel while nothing is pending. */
static void send_unasked(pair *p)
{
    send_more(p, 100);
    expect_nothing(&p->r);
    send_more(p, 50);
    expect_nothing(&p->r);
}

static void a_lent_receive_gets_them(void)
{
    pair p;
    open_warm(&p);
    send_unasked(&p);
    receive_all(&p);
    send_more(&p, 10);
    receive_all(&p);
    close_pair(&p);
}

static void a_receive_into_a_buffer_gets_them_piece_by_piece(void)
{
    pair p;
    uint8_t bytes[30];
    open_warm(&p);
    send_unasked(&p);
    while (p.received < p.sent) {
        check_eq(io_recv_into(p.r.port, &p.op, p.ours, bytes, sizeof(bytes)), IO_OK);
        io_packet packet = expect(&p.r, &p.op);
        check_eq(packet.status, IO_OK);
        check(packet.bytes > 0 && packet.bytes <= sizeof(bytes));
        check_more(&p, packet.data, packet.bytes);
    }
    close_pair(&p);
}

static void draws_get_them(void)
{
    pair p;
    uint8_t bytes[30];
    size_t len;
    open_warm(&p);
    send_unasked(&p);
    while (p.received < p.sent) {
        check_eq(io_draw(p.r.port, p.ours, bytes, sizeof(bytes), &len), IO_OK);
        check(len > 0);
        check_more(&p, bytes, len);
    }
    check_eq(io_draw(p.r.port, p.ours, bytes, sizeof(bytes), &len), IO_AGAIN);
    close_pair(&p);
}

/* A round of the port may have fetched the first bytes: what is drawn then must not be the later ones. */
static void a_draw_in_the_round_of_a_packet_keeps_the_order(void)
{
    pair p;
    uint8_t bytes[64];
    size_t len;
    open_warm(&p);
    check_eq(io_recv(p.r.port, &p.op, p.ours), IO_OK);
    for (int i = 0; i < 20; i++) send_more(&p, 20);
    io_packet packet = expect(&p.r, &p.op);
    check_more(&p, packet.data, packet.bytes);
    while (p.received < p.sent) {
        check_eq(io_draw(p.r.port, p.ours, bytes, sizeof(bytes), &len), IO_OK);
        check_more(&p, bytes, len);
    }
    close_pair(&p);
}

static void readiness_tells_of_them(void)
{
    pair p;
    uint8_t bytes[256];
    size_t len;
    open_warm(&p);
    send_unasked(&p);
    while (p.received < p.sent) {
        check_eq(io_readable(p.r.port, &p.op, p.ours), IO_OK);
        check_eq(expect(&p.r, &p.op).status, IO_OK);
        check_eq(io_draw(p.r.port, p.ours, bytes, sizeof(bytes), &len), IO_OK);
        check_more(&p, bytes, len);
    }
    /* And of none when there are none. */
    check_eq(io_readable(p.r.port, &p.op, p.ours), IO_OK);
    expect_nothing(&p.r);
    send_more(&p, 10);
    check_eq(expect(&p.r, &p.op).status, IO_OK);
    receive_all(&p);
    close_pair(&p);
}

static void the_end_comes_after_them(void)
{
    pair p;
    open_warm(&p);
    send_unasked(&p);
    peer_shutdown(p.peer);
    expect_nothing(&p.r);
    receive_all(&p);
    for (int i = 0; i < 2; i++) {
        check_eq(io_recv(p.r.port, &p.op, p.ours), IO_OK);
        io_packet packet = expect(&p.r, &p.op);
        check_eq(packet.status, IO_OK);
        check_eq(packet.bytes, 0);
    }
    close_pair(&p);
}

/* Nothing that the port keeps with the kernel may keep the socket open. */
static void closing_sends_fin(void)
{
    pair p;
    char none[1];
    open_warm(&p);
    io_close(p.r.port, p.ours, false);
    io_packet packet;
    check(!rig_next(&p.r, &packet, os_monotonic_ns() + RIG_QUIET_NS));
    check_eq(peer_recv(p.peer, none, 1), 0);
    peer_close(p.peer);
    rig_close(&p.r);
}

static void a_cancel_ends_what_waits(void)
{
    pair p;
    open_warm(&p);
    for (int i = 0; i < 3; i++) {
        if (i == 1) check_eq(io_readable(p.r.port, &p.op, p.ours), IO_OK);
        else check_eq(io_recv(p.r.port, &p.op, p.ours), IO_OK);
        expect_nothing(&p.r);
        io_cancel(p.r.port, p.ours);
        check_eq(expect(&p.r, &p.op).status, IO_CANCELED);
    }
    send_unasked(&p);
    receive_all(&p);
    close_pair(&p);
}

static void any_mix_keeps_the_order(void)
{
    enum { STEPS = 2000 };
    uint64_t random = seed;
    pair p;
    uint8_t bytes[512];
    open_warm(&p);
    bool pending = false;
    for (int step = 0; step < STEPS; step++) {
        size_t len = 1 + (size_t)check_random_below(&random, sizeof(bytes));
        io_packet packet;
        size_t got;
        if (p.sent - p.received < 20000 && check_random_below(&random, 2) == 0) send_more(&p, len);
        if (pending) {
            if (!rig_next(&p.r, &packet, p.sent > p.received ? os_monotonic_ns() + RIG_PATIENCE_NS : 0)) continue;
            pending = false;
            check_eq(packet.status, IO_OK);
            if (packet.kind == IO_RECV) check_more(&p, packet.data, packet.bytes);
            continue;
        }
        switch (check_random_below(&random, 4)) {
        case 0:
            check_eq(io_recv(p.r.port, &p.op, p.ours), IO_OK);
            pending = true;
            break;
        case 1:
            check_eq(io_recv_into(p.r.port, &p.op, p.ours, bytes, len), IO_OK);
            pending = true;
            break;
        case 2:
            check_eq(io_readable(p.r.port, &p.op, p.ours), IO_OK);
            pending = true;
            break;
        default:
            if (io_draw(p.r.port, p.ours, bytes, len, &got) == IO_OK) check_more(&p, bytes, got);
            else check(!rig_next(&p.r, &packet, 0));
        }
    }
    if (pending) {
        io_cancel(p.r.port, p.ours);
        io_packet packet = expect(&p.r, &p.op);
        if (packet.kind == IO_RECV && packet.status == IO_OK) check_more(&p, packet.data, packet.bytes);
    }
    receive_all(&p);
    close_pair(&p);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    seed = check_seed(argc, argv, 2, (uint64_t)os_monotonic_ns());
    check_run(a_lent_receive_gets_them);
    check_run(a_receive_into_a_buffer_gets_them_piece_by_piece);
    check_run(draws_get_them);
    check_run(a_draw_in_the_round_of_a_packet_keeps_the_order);
    check_run(readiness_tells_of_them);
    check_run(the_end_comes_after_them);
    check_run(closing_sends_fin);
    check_run(a_cancel_ends_what_waits);
    check_run(any_mix_keeps_the_order);
    return rig_end();
}
