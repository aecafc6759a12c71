/* id_map.h - which thing has that number: a hash table of numbers above 0, which its owner keeps up to date.
 *
 * thread  its owner's.
 */
#ifndef PORTICO_ID_MAP_H
#define PORTICO_ID_MAP_H

#include <stdbool.h>
#include <stdint.h>

typedef struct id_map id_map;

id_map *id_map_open(void);      /* NULL: out of memory */
void id_map_close(id_map *map); /* NULL is fine */
/* id: not in the map yet. False: out of memory, and nothing has changed. */
bool id_map_put(id_map *map, uint64_t id, void *thing);
void *id_map_get(const id_map *map, uint64_t id); /* NULL: there is none */
void id_map_remove(id_map *map, uint64_t id);     /* one that is not there is fine */

#endif
