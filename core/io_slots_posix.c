/* io_slots_posix.c - the table of the sockets that are attached to a port: linear probing, between a half and three quarters
 * full once it has grown. Removing moves back what follows, so that nothing is left of what was there (Knuth, The Art of
 * Computer Programming, volume 3, section 6.4, algorithm R).
 *
 * Every idle connection has a place here, so the table grows by halves.
 */
#include "io_slots.h"

#include "mem.h"

#include <stdbool.h>
#include <string.h>

enum { ROOM_FIRST = 64, NOBODY = -1 };

/* The place of the socket, which is not in the table, would be here. */
static uint32_t free_place(const io_slots *slots, int32_t socket)
{
    uint32_t i = io_slots_home(slots, socket);
    while (slots->sockets[i] != NOBODY) i = i + 1 < slots->room ? i + 1 : 0;
    return i;
}

static void move(const io_slots *to, uint32_t place, const io_slots *from, uint32_t i, size_t bytes)
{
    to->sockets[place] = from->sockets[i];
    memcpy(to->slots + place * bytes, from->slots + i * bytes, bytes);
}

static bool grow(io_slots *slots, size_t bytes)
{
    io_slots larger = *slots;
    larger.room = slots->room > 0 ? slots->room / 2 * 3 : ROOM_FIRST;
    larger.slots = mem_alloc(larger.room * (bytes + sizeof *larger.sockets));
    if (larger.slots == NULL) return false;
    larger.sockets = (int32_t *)(void *)(larger.slots + larger.room * bytes);
    memset(larger.sockets, 0xff, larger.room * sizeof *larger.sockets); /* NOBODY */
    for (uint32_t i = 0; i < slots->room; i++) {
        if (slots->sockets[i] == NOBODY) continue;
        move(&larger, free_place(&larger, slots->sockets[i]), slots, i, bytes);
    }
    mem_free(slots->slots);
    *slots = larger;
    return true;
}

void *io_slots_add(io_slots *slots, io_socket socket, size_t bytes)
{
    if (slots->count >= slots->room / 4 * 3 && !grow(slots, bytes)) return NULL;
    uint32_t place = free_place(slots, (int32_t)socket);
    slots->sockets[place] = (int32_t)socket;
    slots->count++;
    return memset(slots->slots + place * bytes, 0, bytes);
}

void io_slots_remove(io_slots *slots, io_socket socket, size_t bytes)
{
    uint32_t hole = io_slots_home(slots, (int32_t)socket);
    while (slots->sockets[hole] != (int32_t)socket) hole = hole + 1 < slots->room ? hole + 1 : 0;
    for (uint32_t i = hole;;) {
        i = i + 1 < slots->room ? i + 1 : 0;
        if (slots->sockets[i] == NOBODY) break;
        /* It may move back unless its home lies behind the hole. */
        uint32_t home = io_slots_home(slots, slots->sockets[i]);
        if (hole <= i ? hole < home && home <= i : hole < home || home <= i) continue;
        move(slots, hole, slots, i, bytes);
        hole = i;
    }
    slots->sockets[hole] = NOBODY;
    slots->count--;
}

void io_slots_close(io_slots *slots)
{
    mem_free(slots->slots);
}
