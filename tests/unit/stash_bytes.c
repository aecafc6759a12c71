/* stash_bytes.c - what is added to a stash is there until it is taken, in order, whatever is done to it; and its memory
 * follows what is there, not what a peer says will come. argv[1]: the seed.
 */
#include "check.h"
#include "stash.h"

static uint64_t seed;

static uint8_t byte_at(uint64_t position)
{
    return (uint8_t)(position * 167 + (position >> 8));
}

static uint64_t add(stash **s, uint64_t in, size_t len)
{
    static uint8_t piece[20000];
    check(len <= sizeof(piece));
    for (size_t i = 0; i < len; i++) piece[i] = byte_at(in + i);
    check(stash_add(s, piece, len));
    return in + len;
}

static void bytes_are_there_until_they_are_taken(void)
{
    stash *s = NULL;
    uint64_t in = 0, out = 0;
    for (int step = 0; step < 5000; step++) {
        size_t here = (size_t)(in - out);
        switch (check_random_below(&seed, 5)) {
        case 0:
        case 1:
            if (here < 100000) in = add(&s, in, 1 + check_random_below(&seed, step % 50 == 0 ? 20000 : 200));
            if (check_random_below(&seed, 2) == 1) s->need = check_random_below(&seed, 100000);
            break;
        case 2:
            if (here > 0) {
                size_t len = check_random_below(&seed, here + 1);
                stash_take(&s, len);
                out += len;
            }
            break;
        case 3: /* what was taken is put back */
            if (out > 0 && here < 100000) {
                uint8_t piece[300];
                size_t len = 1 + check_random_below(&seed, out < sizeof(piece) ? out : sizeof(piece));
                out -= len;
                for (size_t i = 0; i < len; i++) piece[i] = byte_at(out + i);
                check(stash_unshift(&s, piece, len));
                check_eq(s->need, 0);
            }
            break;
        default:
            if (here > 0) {
                size_t len = 1 + check_random_below(&seed, here);
                stash_trim(&s, len);
                out = in - len;
            }
        }
        check_eq(s != NULL ? stash_len(s) : 0, in - out);
        for (size_t i = 0; s != NULL && i < stash_len(s); i += 1 + i / 7) check_eq(stash_data(s)[i], byte_at(out + i));
    }
    if (s != NULL) stash_take(&s, stash_len(s));
    check(s == NULL);
}

static void memory_follows_what_is_there(void)
{
    stash *s = NULL;
    uint64_t in = add(&s, 0, 10);
    s->need = 1 << 30; /* what a peer says */
    for (int i = 0; i < 1000; i++) {
        in = add(&s, in, 100);
        check(s->room <= 2 * stash_len(s));
    }
    stash_trim(&s, 10);
    check_eq(s->room, 10);
    s->need = 15;
    add(&s, in, 1);
    check_eq(s->room, 15); /* towards its end not twice as much */
    stash_take(&s, 11);
    check(s == NULL);
}

static void many_small_pieces_are_not_copied_each_time(void)
{
    stash *s = NULL;
    size_t moves = 0;
    for (size_t i = 0; i < 100000; i++) {
        size_t room = s != NULL ? s->room : 0;
        add(&s, i, 1);
        if (s->room != room) moves++;
    }
    check(moves < 40);
    stash_take(&s, stash_len(s));
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    seed = check_seed(argc, argv, 1, 20261122);
    check_run(bytes_are_there_until_they_are_taken);
    check_run(memory_follows_what_is_there);
    check_run(many_small_pieces_are_not_copied_each_time);
    return check_end();
}
