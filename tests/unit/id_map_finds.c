/* Goal: what was put is found, what was removed is not, whatever else came and went. Method: a random sequence beside an
 * array that remembers. */
#include "check.h"

#include "id_map.h"

enum { IDS = 3000, STEPS = 200000 };

static uint64_t seed;

static void a_random_sequence_is_remembered(void)
{
    static bool there[IDS + 1];
    static char things[IDS + 1];
    uint64_t state = seed;
    id_map *map = id_map_open();
    check(map != NULL);
    uint64_t step = 1 + check_random_below(&state, 8); /* ids of one worker of so many */
    for (int i = 0; i < STEPS; i++) {
        size_t n = 1 + (size_t)check_random_below(&state, i % 2 == 0 ? IDS : 40);
        uint64_t id = n * step;
        check(id_map_get(map, id) == (there[n] ? &things[n] : NULL));
        if (there[n]) id_map_remove(map, id);
        else check(id_map_put(map, id, &things[n]));
        there[n] = !there[n];
    }
    for (size_t n = 1; n <= IDS; n++) check(id_map_get(map, n * step) == (there[n] ? &things[n] : NULL));
    check(id_map_get(map, 0) == NULL);
    id_map_remove(map, UINT64_MAX);
    id_map_close(map);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    seed = check_seed(argc, argv, 1, 20261122);
    check_run(a_random_sequence_is_remembered);
    return check_end();
}
