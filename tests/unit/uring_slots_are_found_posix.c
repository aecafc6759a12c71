/* Goal: io_uring's table of sockets finds each one's own slot, whatever else came and went, and takes little memory. Method:
 * a random sequence beside an array that remembers what each slot was marked with; then a worker's share of many. */
#define _GNU_SOURCE 1

#include "check.h"

#include "io_uring.h"

enum { SOCKETS = 4000, STEPS = 300000, CROWD = 100000, MARK_BITS = 8 };

static uint64_t seed;

static void a_random_sequence_is_remembered(void)
{
    static bool there[SOCKETS];
    static uint8_t marks[SOCKETS];
    static uring_port port;
    uint64_t state = seed;
    io_socket step = 1 + (io_socket)check_random_below(&state, 8); /* descriptors of one worker of so many */
    for (int i = 0; i < STEPS; i++) {
        size_t n = (size_t)check_random_below(&state, i % 2 == 0 ? SOCKETS : 40);
        io_socket socket = (io_socket)n * step;
        const uring_slot *found = uring_slot_find(&port, socket);
        check((found != NULL) == there[n]);
        if (there[n]) {
            check_eq(found->error, marks[n]);
            uring_slot_remove(&port.attached, socket);
        } else {
            uint32_t generations = port.attached.generations;
            check(uring_slot_add(&port.attached, socket));
            uring_slot *s = uring_slot_of(&port, socket);
            check_eq(s->flags, 0);
            check_eq(s->generation, generations + 1);
            s->error = marks[n] = (uint8_t)check_random_below(&state, 1 << MARK_BITS);
        }
        there[n] = !there[n];
    }
    for (size_t n = 0; n < SOCKETS; n++) {
        const uring_slot *found = uring_slot_find(&port, (io_socket)n * step);
        check((found != NULL) == there[n]);
        check(found == NULL || found->error == marks[n]);
    }
    uring_slots_close(&port.attached);
}

/* However many workers there are: each has every eighth descriptor here. */
static void room_follows_the_sockets_of_the_port(void)
{
    static uring_port port;
    for (io_socket n = 0; n < CROWD; n++) check(uring_slot_add(&port.attached, n * 8 + 5));
    check_eq(port.attached.count, CROWD);
    check(port.attached.room <= CROWD * 2 + CROWD / 4);
    uring_slots_close(&port.attached);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    seed = check_seed(argc, argv, 1, 20261122);
    check_run(a_random_sequence_is_remembered);
    check_run(room_follows_the_sockets_of_the_port);
    return check_end();
}
