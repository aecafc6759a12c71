/* send.c - goal: gathers arrive whole and in order, whatever the kernel takes at once, and a broken connection is
 * reported. Method: positional patterns, short counts resumed by the caller, readers that are slow or gone. */
#include "os.h"
#include "rig.h"

/* Drops the first bytes of a gather; returns how many buffers are left of count. */
static uint32_t advance(io_buf *bufs, uint32_t count, size_t bytes)
{
    uint32_t done = 0;
    while (done < count && bytes >= bufs[done].len) bytes -= bufs[done++].len;
    for (uint32_t i = done; i < count; i++) bufs[i - done] = bufs[i];
    if (done < count) {
        bufs[0].base = (const char *)bufs[0].base + bytes;
        bufs[0].len -= bytes;
    } else {
        check_eq(bytes, 0);
    }
    return count - done;
}

static size_t total(const io_buf *bufs, uint32_t count)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) bytes += bufs[i].len;
    return bytes;
}

static void send_reports_what_was_moved(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    io_buf buf = {"hello", 5};
    char got[5];
    check_eq(io_send(r.port, &op, ours, &buf, 1), IO_OK);
    check_eq(op.kind, IO_SEND); /* a submit never completes by itself */
    check_eq(io_port_pending(r.port), 1);
    memset(&buf, 0xee, sizeof(buf)); /* the array is the caller's again */
    io_packet packet = expect(&r, &op);
    check_eq(packet.kind, IO_SEND);
    check_eq(packet.status, IO_OK);
    check_eq(packet.bytes, 5);
    check_eq(peer_recv(peer, got, 5), 5);
    check_mem(got, "hello", 5);
    expect_nothing(&r);
    rig_close_pair(&r, ours, peer);
}

/* Buffers of growing sizes, in one gather, each in memory of its own. */
static void gather(uint32_t count)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    for (size_t step = 1; step <= 300; step += 299) {
        uint8_t bytes[IO_BUFS_MAX][IO_BUFS_MAX * 300];
        uint8_t got[IO_BUFS_MAX * IO_BUFS_MAX * 300];
        io_buf bufs[IO_BUFS_MAX];
        uint64_t position = 0;
        for (uint32_t i = 0; i < count; i++) {
            bufs[i].base = bytes[i];
            bufs[i].len = (i + 1) * step;
            pattern_fill(bytes[i], bufs[i].len, count, position);
            position += bufs[i].len;
        }
        uint64_t sent = 0;
        for (uint32_t left = count; left > 0;) {
            io_buf stack[IO_BUFS_MAX];
            memcpy(stack, bufs, sizeof(stack));
            check_eq(io_send(r.port, &op, ours, stack, left), IO_OK);
            memset(stack, 0xee, sizeof(stack));
            io_packet packet = expect(&r, &op);
            check_eq(packet.status, IO_OK);
            check(packet.bytes <= total(bufs, left));
            left = advance(bufs, left, packet.bytes);
            sent += packet.bytes;
        }
        check_eq(sent, position);
        check_eq(peer_recv(peer, got, (size_t)position), position);
        check_pattern(got, (size_t)position, count, 0);
    }
    rig_close_pair(&r, ours, peer);
}

static void gathers_of_one_two_and_the_most_buffers_arrive_in_order(void)
{
    gather(1);
    gather(2);
    gather(IO_BUFS_MAX);
}

/* Sends the stream in gathers of varying shape to a peer that takes a little now and then. */
static void stream_to(bool small_buffers, uint64_t length, size_t sip)
{
    enum { PIECE = 40000 };
    static uint8_t bytes[IO_BUFS_MAX * PIECE];
    static uint8_t got[65536];
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    if (small_buffers) peer_small_buffers(peer);
    io_op op = {0};
    uint64_t random = length;
    uint64_t sent = 0;
    uint64_t received = 0;
    size_t offered = 0;
    int64_t deadline = os_monotonic_ns() + RIG_PATIENCE_NS;
    while (received < length) {
        check(os_monotonic_ns() < deadline);
        if (op.kind == IO_IDLE && sent < length) {
            io_buf bufs[IO_BUFS_MAX];
            uint32_t count = 0;
            offered = 0;
            uint32_t most = 1 + (uint32_t)check_random_below(&random, IO_BUFS_MAX);
            while (count < most && sent + offered < length) {
                size_t len = 1 + (size_t)check_random_below(&random, PIECE);
                if (len > length - sent - offered) len = (size_t)(length - sent - offered);
                bufs[count].base = bytes + offered;
                bufs[count].len = len;
                offered += len;
                count++;
            }
            pattern_fill(bytes, offered, 5, sent);
            check_eq(io_send(r.port, &op, ours, bufs, count), IO_OK);
        }
        long taken = peer_recv_now(peer, got, sip);
        check(taken == PEER_AGAIN || taken > 0);
        if (taken > 0) {
            check_pattern(got, (size_t)taken, 5, received);
            received += (uint64_t)taken;
        }
        io_packet packet;
        if (rig_next(&r, &packet, taken > 0 ? 0 : os_monotonic_ns() + 1000000)) {
            check(packet.op == &op);
            check_eq(packet.status, IO_OK);
            check(packet.bytes <= offered);
            sent += packet.bytes;
        }
    }
    while (op.kind != IO_IDLE) sent += expect(&r, &op).bytes;
    check_eq(sent, length);
    check_eq(received, length);
    rig_close_pair(&r, ours, peer);
}

static void eight_mebibytes_reach_a_slow_reader_in_order(void)
{
    stream_to(false, 8 << 20, 20000);
}

static void a_reader_with_a_small_buffer_gets_every_byte(void)
{
    stream_to(true, 1 << 18, 1000);
}

/* The kernel takes no more: the send waits; when the peer reads, it goes on. */
static void send_to_a_peer_that_does_not_read_waits(void)
{
    static uint8_t got[65536];
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    uint64_t sent = rig_fill(&r, &op, ours, 6);
    uint64_t received = 0;
    check_eq(op.kind, IO_SEND);
    while (op.kind != IO_IDLE || received < sent) {
        long taken = peer_recv_now(peer, got, sizeof(got));
        check(taken == PEER_AGAIN || taken > 0);
        if (taken > 0) {
            check_pattern(got, (size_t)taken, 6, received);
            received += (uint64_t)taken;
        }
        io_packet packet;
        if (rig_next(&r, &packet, taken > 0 ? 0 : os_monotonic_ns() + 1000000)) {
            check_eq(packet.status, IO_OK);
            check(packet.bytes <= FILL_BYTES);
            sent += packet.bytes;
        }
    }
    io_close(r.port, ours, false);
    check_eq(peer_recv(peer, got, 1), 0); /* not one byte more than reported */
    check_eq(received, sent);
    peer_close(peer);
    rig_close(&r);
}

static void send_to_a_peer_that_has_reset_is_reset(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op recv = {0};
    io_op send = {0};
    const io_buf buf = {"x", 1};
    check_eq(io_recv(r.port, &recv, ours), IO_OK);
    check_eq(io_port_wait(r.port, 0), IO_OK);
    peer_reset(peer);
    check_eq(expect(&r, &recv).status, IO_RESET);
    for (int i = 0; i < 3; i++) {
        check_eq(io_send(r.port, &send, ours, &buf, 1), IO_OK);
        check_eq(send.kind, IO_SEND);
        io_packet packet = expect(&r, &send);
        check_eq(packet.status, IO_RESET);
        check_eq(packet.bytes, 0);
        check(packet.native != 0);
    }
    io_close(r.port, ours, false);
    rig_close(&r);
}

static void pending_send_reports_a_reset(void)
{
    enum { MORE_MAX = 100 };
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op op = {0};
    uint8_t byte = 0;
    const io_buf buf = {&byte, 1};
    rig_fill(&r, &op, ours, 6);
    peer_reset(peer);
    for (int i = 0;; i++) { /* what was moved before may be reported first */
        io_packet packet = expect(&r, &op);
        if (packet.status == IO_RESET) break;
        check_eq(packet.status, IO_OK);
        check(i < MORE_MAX);
        check_eq(io_send(r.port, &op, ours, &buf, 1), IO_OK);
    }
    /* A kernel tells it once, so that a receive now may see an end of stream. It does not wait. */
    check_eq(io_recv(r.port, &op, ours), IO_OK);
    io_packet packet = expect(&r, &op);
    if (packet.status != IO_OK) check_eq(packet.status, IO_RESET);
    check_eq(packet.bytes, 0);
    io_close(r.port, ours, false);
    rig_close(&r);
}

/* Both directions at once on one socket: the peer echoes, we check. */
static void a_send_and_a_receive_are_pending_at_once(void)
{
    enum { LENGTH = 3 << 20, PIECE = 100000 };
    static uint8_t bytes[PIECE];
    static uint8_t echo[65536];
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op send = {0};
    io_op recv = {0};
    uint64_t sent = 0;
    uint64_t received = 0;
    size_t echo_len = 0;
    int64_t deadline = os_monotonic_ns() + RIG_PATIENCE_NS;
    check_eq(io_recv(r.port, &recv, ours), IO_OK);
    while (received < LENGTH ||
           sent < LENGTH) { /* the last packet of the send may come after its bytes have come back */
        check(os_monotonic_ns() < deadline);
        if (send.kind == IO_IDLE && sent < LENGTH) {
            size_t len = LENGTH - sent < PIECE ? (size_t)(LENGTH - sent) : PIECE;
            const io_buf buf = {bytes, len};
            pattern_fill(bytes, len, 8, sent);
            check_eq(io_send(r.port, &send, ours, &buf, 1), IO_OK);
        }
        bool moved = false;
        if (echo_len < sizeof(echo)) {
            long got = peer_recv_now(peer, echo + echo_len, sizeof(echo) - echo_len);
            if (got > 0) echo_len += (size_t)got;
            moved = got > 0;
        }
        if (echo_len > 0) {
            long given = peer_send_now(peer, echo, echo_len);
            if (given > 0) {
                echo_len -= (size_t)given;
                memmove(echo, echo + given, echo_len);
                moved = true;
            }
        }
        io_packet packet;
        if (!rig_next(&r, &packet, moved ? 0 : os_monotonic_ns() + 1000000)) continue;
        check_eq(packet.status, IO_OK);
        if (packet.op == &send) {
            check_eq(packet.kind, IO_SEND);
            sent += packet.bytes;
        } else {
            check_eq(packet.kind, IO_RECV);
            check(packet.bytes > 0);
            check_pattern(packet.data, packet.bytes, 8, received);
            received += packet.bytes;
            check_eq(io_recv(r.port, &recv, ours), IO_OK);
        }
    }
    peer_shutdown(peer);
    check_eq(expect(&r, &recv).bytes, 0);
    check_eq(sent, LENGTH);
    rig_close_pair(&r, ours, peer);
}

/* All gathers are submitted before the kernel is asked once. */
static void many_sockets_send_gathers_at_once(void)
{
    enum { SOCKETS = 300, LEN = 60, BYTES = IO_BUFS_MAX * LEN };
    static uint8_t bytes[SOCKETS][BYTES];
    static io_socket ours[SOCKETS];
    static io_socket peer[SOCKETS];
    static io_op ops[SOCKETS];
    static size_t sent[SOCKETS];
    uint8_t got[BYTES];
    rig r;
    rig_open(&r, NULL);
    memset(ops, 0, sizeof(ops));
    memset(sent, 0, sizeof(sent));
    for (uint32_t i = 0; i < SOCKETS; i++) {
        rig_pair(&r, &ours[i], &peer[i]);
        pattern_fill(bytes[i], BYTES, i, 0);
    }
    for (uint32_t i = 0; i < SOCKETS; i++) {
        io_buf bufs[IO_BUFS_MAX];
        for (uint32_t k = 0; k < IO_BUFS_MAX; k++) bufs[k] = (io_buf){bytes[i] + k * LEN, LEN};
        check_eq(io_send(r.port, &ops[i], ours[i], bufs, IO_BUFS_MAX), IO_OK);
        memset(bufs, 0xee, sizeof(bufs));
    }
    for (uint32_t left = SOCKETS; left > 0;) {
        io_packet packet = take(&r);
        uint32_t i = (uint32_t)(packet.op - ops);
        check(i < SOCKETS);
        check_eq(packet.status, IO_OK);
        check(packet.bytes <= BYTES - sent[i]);
        sent[i] += packet.bytes;
        const io_buf rest = {bytes[i] + sent[i], BYTES - sent[i]};
        if (rest.len > 0) check_eq(io_send(r.port, &ops[i], ours[i], &rest, 1), IO_OK);
        else left--;
    }
    for (uint32_t i = 0; i < SOCKETS; i++) {
        check_eq(peer_recv(peer[i], got, BYTES), BYTES);
        check_pattern(got, BYTES, i, 0);
    }
    rig_close_pairs(&r, ours, peer, SOCKETS);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(send_reports_what_was_moved);
    check_run(gathers_of_one_two_and_the_most_buffers_arrive_in_order);
    check_run(eight_mebibytes_reach_a_slow_reader_in_order);
    check_run(a_reader_with_a_small_buffer_gets_every_byte);
    check_run(send_to_a_peer_that_does_not_read_waits);
    check_run(send_to_a_peer_that_has_reset_is_reset);
    check_run(pending_send_reports_a_reset);
    check_run(a_send_and_a_receive_are_pending_at_once);
    check_run(many_sockets_send_gathers_at_once);
    return rig_end();
}
