/* modes.c - goal: a connection that switches between lent, posted and ready receives, with cancels in between, loses no
 * byte and swaps none. Method: a positional pattern in random pieces, a mode drawn at random for each receive.
 * Arguments: backend, seed. */
#include "os.h"
#include "rig.h"

enum { TOTAL = 400000, PIECE = 6000, BUFFER = 5000 };

typedef enum mode { LENT, POSTED, READY, MODES } mode;

static uint64_t seed;

typedef struct stream {
    io_socket ours;
    io_socket peer;
    uint64_t sent;     /* by the peer */
    uint64_t received; /* through packets and draws */
    uint8_t buffer[BUFFER];
} stream;

/* The peer sends a random piece of what is left, possibly nothing. */
static void feed(stream *s, uint64_t *random)
{
    uint8_t piece[PIECE];
    size_t len = (size_t)check_random_below(random, PIECE);
    if (len > TOTAL - s->sent) len = (size_t)(TOTAL - s->sent);
    if (len == 0) return;
    pattern_fill(piece, len, 9, s->sent);
    long sent = peer_send_now(s->peer, piece, len);
    if (sent > 0) s->sent += (uint64_t)sent;
}

static void submit(rig *r, stream *s, io_op *op, mode how, uint64_t *random)
{
    switch (how) {
    case LENT:
        check_eq(io_recv(r->port, op, s->ours), IO_OK);
        break;
    case POSTED:
        check_eq(io_recv_into(r->port, op, s->ours, s->buffer, 1 + (size_t)check_random_below(random, BUFFER)), IO_OK);
        break;
    case READY:
    case MODES:
        check_eq(io_readable(r->port, op, s->ours), IO_OK);
        break;
    }
}

static void account(rig *r, stream *s, const io_packet *packet, uint64_t *random)
{
    check(packet->status == IO_OK || packet->status == IO_CANCELED);
    if (packet->kind == IO_RECV) {
        check_pattern(packet->data, packet->bytes, 9, s->received);
        s->received += packet->bytes;
    } else if (packet->status == IO_OK) {
        int draws = (int)check_random_below(random, 4);
        for (int i = 0; i < draws; i++) {
            size_t bytes;
            io_status status =
                io_draw(r->port, s->ours, s->buffer, 1 + (size_t)check_random_below(random, BUFFER), &bytes);
            if (status == IO_AGAIN) break;
            check_eq(status, IO_OK);
            check_pattern(s->buffer, bytes, 9, s->received);
            s->received += bytes;
        }
    }
    check(s->received <= s->sent);
}

static void run(bool cancels, const io_options *options)
{
    rig r;
    rig_open(&r, options);
    static stream s;
    memset(&s, 0, sizeof(s));
    rig_pair(&r, &s.ours, &s.peer);
    io_op op = {0};
    uint64_t random = seed;
    while (s.received < TOTAL) {
        mode how = (mode)check_random_below(&random, MODES);
        bool before = check_random_below(&random, 2) == 0;
        if (before) feed(&s, &random);
        submit(&r, &s, &op, how, &random);
        if (!before) feed(&s, &random);
        bool cancel = cancels && check_random_below(&random, 3) == 0;
        if (cancel) {
            if (check_random_below(&random, 2) == 0) check_eq(io_port_wait(r.port, 0), IO_OK);
            io_cancel(r.port, s.ours);
        }
        while (!cancel && s.sent == s.received) feed(&s, &random); /* something has to come */
        io_packet packet = expect(&r, &op);
        if (!cancel) check_eq(packet.status, IO_OK);
        account(&r, &s, &packet, &random);
    }
    check_eq(s.received, TOTAL);
    peer_shutdown(s.peer);
    for (int how = 0; how < MODES; how++) { /* the end is seen in each mode */
        submit(&r, &s, &op, (mode)how, &random);
        io_packet packet = expect(&r, &op);
        check_eq(packet.status, IO_OK);
        check_eq(packet.bytes, 0);
    }
    io_close(r.port, s.ours, false);
    peer_close(s.peer);
    rig_close(&r);
}

static void switching_modes_keeps_every_byte_in_order(void)
{
    run(false, NULL);
}

static void canceling_between_modes_keeps_every_byte_in_order(void)
{
    run(true, NULL);
}

static void switching_modes_with_few_small_buffers_keeps_every_byte_in_order(void)
{
    const io_options options = {.recv_bytes = 700, .recv_buffers = 2};
    run(true, &options);
}

static void switching_modes_keeps_every_byte_when_every_success_has_a_system_packet(void)
{
    const io_options options = {.no_skip = true};
    run(true, &options);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    seed = check_seed(argc, argv, 2, (uint64_t)os_monotonic_ns());
    check_run(switching_modes_keeps_every_byte_in_order);
    check_run(canceling_between_modes_keeps_every_byte_in_order);
    check_run(switching_modes_with_few_small_buffers_keeps_every_byte_in_order);
    check_run(switching_modes_keeps_every_byte_when_every_success_has_a_system_packet);
    return rig_end();
}
