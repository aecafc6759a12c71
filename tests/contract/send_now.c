/* send_now.c - goal: what io_send_now() says was moved arrives, nothing else does, and it mixes with io_send(). Method: a
 * stream of positional patterns to a peer that reads late; on ports that cannot send at once it must say so and move nothing. */
#include "os.h"
#include "rig.h"

enum { PIECE = 30000 };

/* One send of the stream's next bytes, as two buffers. */
static io_status send_piece(rig *r, io_socket ours, uint64_t position, size_t *bytes)
{
    uint8_t first[PIECE], second[PIECE];
    io_buf bufs[2] = {{first, sizeof(first)}, {second, sizeof(second)}};
    pattern_fill(first, sizeof(first), 3, position);
    pattern_fill(second, sizeof(second), 3, position + sizeof(first));
    uint32_t pending = io_port_pending(r->port);
    io_status status = io_send_now(r->port, ours, bufs, 2, bytes);
    check_eq(io_port_pending(r->port), pending); /* no op, no packet */
    if (status == IO_OK) check(*bytes <= sizeof(first) + sizeof(second));
    else check_eq(*bytes, 0);
    return status;
}

/* Until nothing more goes at once; returns how many bytes went. */
static uint64_t fill(rig *r, io_socket ours, uint64_t position)
{
    uint64_t sent = 0;
    size_t bytes;
    io_status status;
    while ((status = send_piece(r, ours, position + sent, &bytes)) == IO_OK) sent += bytes;
    check_eq(status, IO_AGAIN);
    return sent;
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

static void what_goes_at_once_arrives_and_the_rest_by_a_packet(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    peer_small_buffers(peer);
    uint64_t sent = fill(&r, ours, 0), read = 0;
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
        sent += fill(&r, ours, sent);
    }
    peer_reads(peer, read, sent - read);
    expect_nothing(&r);
    rig_close_pair(&r, ours, peer);
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
    check_run(what_goes_at_once_arrives_and_the_rest_by_a_packet);
    check_run(a_broken_connection_is_told);
    return rig_end();
}
