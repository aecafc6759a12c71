/* id_map.c - linear probing, at most half full. Removing moves back what follows, so that nothing is left of what was
 * there (Knuth, The Art of Computer Programming, volume 3, section 6.4, algorithm R).
 */
#include "id_map.h"

#include "mem.h"

#include <assert.h>
#include <stddef.h>

enum { ROOM_FIRST = 64 };

typedef struct place {
    uint64_t id; /* 0: free */
    void *thing;
} place;

struct id_map {
    place *places;
    size_t room; /* a power of two */
    size_t count;
};

static size_t home_of(const id_map *map, uint64_t id)
{
    return (size_t)(id * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (map->room - 1);
}

/* Where it is, or where it would be put. */
static size_t find(const id_map *map, uint64_t id)
{
    size_t i = home_of(map, id);
    while (map->places[i].id != 0 && map->places[i].id != id) i = (i + 1) & (map->room - 1);
    return i;
}

id_map *id_map_open(void)
{
    id_map *map = mem_zalloc(sizeof(*map));
    if (map == NULL) return NULL;
    map->room = ROOM_FIRST;
    map->places = mem_zalloc(map->room * sizeof(place));
    if (map->places != NULL) return map;
    mem_free(map);
    return NULL;
}

void id_map_close(id_map *map)
{
    if (map == NULL) return;
    mem_free(map->places);
    mem_free(map);
}

static bool grow(id_map *map)
{
    id_map larger = {.room = map->room * 2, .count = map->count};
    larger.places = mem_zalloc(larger.room * sizeof(place));
    if (larger.places == NULL) return false;
    for (size_t i = 0; i < map->room; i++) {
        if (map->places[i].id != 0) larger.places[find(&larger, map->places[i].id)] = map->places[i];
    }
    mem_free(map->places);
    *map = larger;
    return true;
}

bool id_map_put(id_map *map, uint64_t id, void *thing)
{
    assert(id != 0 && thing != NULL);
    if ((map->count + 1) * 2 > map->room && !grow(map)) return false;
    place *p = &map->places[find(map, id)];
    assert(p->id == 0);
    *p = (place){id, thing};
    map->count++;
    return true;
}

void *id_map_get(const id_map *map, uint64_t id)
{
    return id == 0 ? NULL : map->places[find(map, id)].thing;
}

void id_map_remove(id_map *map, uint64_t id)
{
    size_t hole = find(map, id);
    if (id == 0 || map->places[hole].id == 0) return;
    size_t mask = map->room - 1;
    for (size_t i = (hole + 1) & mask; map->places[i].id != 0; i = (i + 1) & mask) {
        /* It may move back unless its home lies behind the hole. */
        if (((i - home_of(map, map->places[i].id)) & mask) < ((i - hole) & mask)) continue;
        map->places[hole] = map->places[i];
        hole = i;
    }
    map->places[hole] = (place){0, NULL};
    map->count--;
}
