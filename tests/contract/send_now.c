/* send_now.c - goal: what io_send_now() says was moved arrives, nothing else does, and it mixes with io_send(). Method: a
 * stream of positional patterns to a peer that reads late, in sends of one buffer and of two; on ports that cannot send at once, or
 * choose not to, it must say so and move nothing. io_uring chooses to for large single buffers once a receive has left nothing. */
#include "os.h"
#include "rig.h"

#include <string.h>

enum { PIECE = 60000, HALF = PIECE / 2 };

/* One send of the stream's next bytes, as one buffer or two. */
static io_status send_piece(rig *r, io_socket ours, uint64_t position, uint32_t count, size_t *bytes)
{
    uint8_t piece[PIECE];
    const io_buf one = {piece, PIECE};
    const io_buf two[2] = {{piece, HALF}, {piece + HALF, HALF}};
    pattern_fill(piece, PIECE, 3, position);
    uint32_t pending = io_port_pending(r->port);
    io_status status = io_send_now(r->port, ours, count == 1 ? &one : two, count, bytes);
    check_eq(io_port_pending(r->port), pending); /* no op, no packet */
    if (status == IO_OK) check(*bytes <= PIECE);
    else check_eq(*bytes, 0);
    return status;
}

/* Until nothing more goes at once; returns how many bytes went. */
static uint64_t fill(rig *r, io_socket ours, uint64_t position, uint32_t count)
{
    uint64_t sent = 0;
    size_t bytes;
    io_status status;
    while ((status = send_piece(r, ours, position + sent, count, &bytes)) == IO_OK) sent += bytes;
    check_eq(status, IO_AGAIN);
    return sent;
}

/* A question of the peer's is received: from now on a large answer may go at once. */
static void hear(rig *r, io_socket ours, io_socket peer)
{
    io_op op = {0};
    peer_send(peer, "?", 1);
    check_eq(io_recv(r->port, &op, ours), IO_OK);
    check_eq(expect(r, &op).bytes, 1);
}

static void peer_reads(io_socket peer, uint64_t position, uint64_t len)
{
    static uint8_t got[65536];
    for (uint64_t at = 0; at < len;) {
        size_t want = len - at < sizeof(got) ? (size_t)(len - at) : sizeof(got);
        check_eq(peer_recv(peer, got, want), want);
        check_pattern(got, want, 3, position + at);
        at += want;
    }
}

static bool is_sent_at_once(uint32_t count)
{
    const char *name = io_backend_name(rig_backend());
    return strcmp(name, "epoll") == 0 || (strcmp(name, "io_uring") == 0 && count == 1);
}

static void what_goes_at_once_arrives_and_the_rest_by_a_packet(uint32_t count)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    peer_small_buffers(peer);
    hear(&r, ours, peer);
    uint64_t sent = fill(&r, ours, 0, count), read = 0;
    check_eq(sent > 0, is_sent_at_once(count));
    for (int turn = 0; turn < 3; turn++) {
        uint8_t byte = pattern_byte(3, sent);
        io_buf buf = {&byte, 1};
        io_op op = {0};
        io_packet packet;
        check_eq(io_send(r.port, &op, ours, &buf, 1), IO_OK);
        peer_reads(peer, read, sent - read);
        read = sent;
        while ((packet = expect(&r, &op)).bytes == 0) { /* there was no room, and now is */
            check_eq(packet.status, IO_OK);
            check_eq(io_send(r.port, &op, ours, &buf, 1), IO_OK);
        }
        sent++;
        sent += fill(&r, ours, sent, count);
    }
    peer_reads(peer, read, sent - read);
    expect_nothing(&r);
    rig_close_pair(&r, ours, peer);
}

static void two_buffers(void)
{
    what_goes_at_once_arrives_and_the_rest_by_a_packet(2);
}

static void one_large_buffer(void)
{
    what_goes_at_once_arrives_and_the_rest_by_a_packet(1);
}

/* Whoever hears of a reset first, the others hear of it too: a receive must not take it for an end of stream. */
static void a_reset_that_a_send_has_met_is_told_to_receives(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    io_op op = {0};
    size_t bytes;
    io_status status;
    rig_open_pair(&r, &ours, &peer);
    hear(&r, ours, peer);
    peer_reset(peer);
    const int64_t deadline = os_monotonic_ns() + RIG_PATIENCE_NS;
    while ((status = send_piece(&r, ours, 0, 1, &bytes)) == IO_OK) check(os_monotonic_ns() < deadline);
    check_eq(status, is_sent_at_once(1) ? IO_RESET : IO_AGAIN);
    check_eq(io_recv(r.port, &op, ours), IO_OK);
    /* A send that was not tried has met nothing, and under Wine a receive that is submitted after a reset sees none. */
    io_status told = expect(&r, &op).status;
    check(told == IO_RESET || status == IO_AGAIN);
    io_close(r.port, ours, true);
    rig_close(&r);
}

static void a_broken_connection_is_told(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open(&r, NULL);
    rig_pair_on_port(&r, &ours, &peer);
    io_op op = {0};
    check_eq(io_recv(r.port, &op, ours), IO_OK);
    io_close(r.port, peer, true);
    io_packet packet = expect(&r, &op);
    check_eq(packet.status, IO_RESET);
    size_t bytes;
    io_buf buf = {"x", 1};
    io_status status = io_send_now(r.port, ours, &buf, 1, &bytes);
    check(status == IO_RESET || status == IO_AGAIN); /* AGAIN: a port that does not send at once */
    check_eq(bytes, 0);
    io_close(r.port, ours, true);
    rig_close(&r);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(two_buffers);
    check_run(one_large_buffer);
    check_run(a_reset_that_a_send_has_met_is_told_to_receives);
    check_run(a_broken_connection_is_told);
    return rig_end();
}
