/* Goal: a port's table of sockets finds each one's own slot, whatever else came and went, and takes little memory. Method:
 * a random sequence beside an array that remembers what each slot was marked with; then a worker's share of many. */
#include "check.h"

#include "io_slots.h"

#include <string.h>

enum { SOCKETS = 4000, STEPS = 300000, CROWD = 100000 };

/* As large as epoll's, and neither a power of two nor a number of words that is one. */
typedef struct slot {
    uint64_t mark;
    uint64_t words[2];
} slot;

static uint64_t seed;

static slot *find(const io_slots *slots, io_socket socket)
{
    return io_slots_find(slots, socket, sizeof(slot));
}

static void a_random_sequence_is_remembered(void)
{
    static bool there[SOCKETS];
    static uint64_t marks[SOCKETS];
    static const slot zeroed;
    io_slots slots = {0};
    uint64_t state = seed;
    io_socket step = 1 + (io_socket)check_random_below(&state, 8); /* descriptors of one worker of so many */
    for (int i = 0; i < STEPS; i++) {
        size_t n = (size_t)check_random_below(&state, i % 2 == 0 ? SOCKETS : 40);
        io_socket socket = (io_socket)n * step;
        const slot *found = find(&slots, socket);
        check((found != NULL) == there[n]);
        if (there[n]) {
            check(found->mark == marks[n] && found->words[1] == marks[n]);
            io_slots_remove(&slots, socket, sizeof(slot));
        } else {
            slot *s = io_slots_add(&slots, socket, sizeof(slot));
            check(s != NULL && s == find(&slots, socket));
            check(memcmp(s, &zeroed, sizeof(*s)) == 0);
            s->mark = s->words[1] = marks[n] = check_random_below(&state, UINT64_MAX);
        }
        there[n] = !there[n];
    }
    uint32_t count = 0;
    for (size_t n = 0; n < SOCKETS; n++) {
        const slot *found = find(&slots, (io_socket)n * step);
        check((found != NULL) == there[n]);
        check(found == NULL || found->mark == marks[n]);
        count += there[n];
    }
    check_eq(slots.count, count);
    io_slots_close(&slots);
}

/* However many workers there are: each has every eighth descriptor here. */
static void room_follows_the_sockets_of_the_port(void)
{
    io_slots slots = {0};
    for (io_socket n = 0; n < CROWD; n++) {
        check(io_slots_add(&slots, n * 8 + 5, sizeof(slot)) != NULL);
        check(slots.room <= 64 || slots.room <= slots.count * 2.1);
    }
    check_eq(slots.count, CROWD);
    io_slots_close(&slots);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    seed = check_seed(argc, argv, 1, 20261122);
    check_run(a_random_sequence_is_remembered);
    check_run(room_follows_the_sockets_of_the_port);
    return check_end();
}
