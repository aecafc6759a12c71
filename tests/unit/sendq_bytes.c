/* sendq_bytes.c - what goes in comes out, in order, whatever the sizes of pieces and sends; bytes handed out stay where they
 * are while more is pushed. argv[1]: the seed.
 */
#include "check.h"
#include "sendq.h"

static uint64_t seed;

static uint8_t byte_at(uint64_t position)
{
    return (uint8_t)(position * 167 + (position >> 8));
}

/* Pushes a piece of random size, and says how long the stream is now. */
static uint64_t push(sendq *queue, sendq_cache *cache, uint64_t in)
{
    static uint8_t piece[40000];
    size_t len = check_random_below(&seed, check_random_below(&seed, 8) == 0 ? sizeof(piece) : 300) + 1;
    for (size_t i = 0; i < len; i++) piece[i] = byte_at(in + i);
    check(sendq_push(queue, cache, piece, len));
    return in + len;
}

static void bytes_come_out_in_order(void)
{
    sendq_cache cache = {0};
    sendq queue = {0};
    uint64_t in = 0, out = 0;
    for (int step = 0; step < 3000; step++) {
        in = push(&queue, &cache, in);
        if (check_random_below(&seed, 3) == 0) continue;
        io_buf bufs[IO_BUFS_MAX];
        uint32_t count = sendq_view(&queue, bufs);
        check(count >= 1 && count <= IO_BUFS_MAX);
        in = push(&queue, &cache, in); /* while these are in flight: they must not move */
        size_t total = 0;
        for (uint32_t b = 0; b < count; b++) {
            const uint8_t *bytes = bufs[b].base;
            for (size_t i = 0; i < bufs[b].len; i++) check_eq(bytes[i], byte_at(out + total + i));
            total += bufs[b].len;
        }
        size_t sent = check_random_below(&seed, total + 1); /* also nothing, also all */
        sendq_consume(&queue, &cache, sent);
        out += sent;
        check_eq(queue.bytes, in - out);
    }
    sendq_clear(&queue, &cache);
    check_eq(queue.bytes, 0);
    check(cache.count <= SENDQ_CACHE_MAX);
    sendq_cache_close(&cache);
}

static void a_partial_send_goes_on_at_the_right_byte(void)
{
    sendq_cache cache = {0};
    sendq queue = {0};
    io_buf bufs[IO_BUFS_MAX];
    static uint8_t big[SENDQ_CHUNK_BYTES + 100];
    for (size_t i = 0; i < sizeof(big); i++) big[i] = byte_at(i);
    check(sendq_push(&queue, &cache, big, 10));
    check(sendq_push(&queue, &cache, big + 10, sizeof(big) - 10));
    for (size_t sent = 0; sent < sizeof(big); sent += 7) {
        check_eq(queue.bytes, sizeof(big) - sent);
        check(sendq_view(&queue, bufs) >= 1);
        check_eq(*(const uint8_t *)bufs[0].base, byte_at(sent));
        sendq_consume(&queue, &cache, queue.bytes < 7 ? queue.bytes : 7);
    }
    check_eq(sendq_view(&queue, bufs), 0);
    check(queue.head == NULL && queue.tail == NULL);
    sendq_cache_close(&cache);
}

static void a_view_is_bounded_in_bytes(void)
{
    sendq_cache cache = {0};
    sendq queue = {0};
    io_buf bufs[IO_BUFS_MAX];
    static uint8_t big[SENDQ_VIEW_BYTES + 1000];
    check(sendq_push(&queue, &cache, big, 100));
    check(sendq_push(&queue, &cache, big, sizeof(big)));
    size_t total = 0;
    for (uint32_t count = sendq_view(&queue, bufs), i = 0; i < count; i++) total += bufs[i].len;
    check_eq(total, SENDQ_VIEW_BYTES);
    sendq_consume(&queue, &cache, total);
    check_eq(sendq_view(&queue, bufs), 1);
    check_eq(bufs[0].len, 1100);
    sendq_clear(&queue, &cache);
    sendq_cache_close(&cache);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    seed = check_seed(argc, argv, 1, 20261122);
    check_run(bytes_come_out_in_order);
    check_run(a_partial_send_goes_on_at_the_right_byte);
    check_run(a_view_is_bounded_in_bytes);
    return check_end();
}
