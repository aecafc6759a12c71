/* io_uring_slots.c - the table of the sockets that are attached to a port: linear probing, between a half and three quarters
 * full once it has grown. Removing moves back what follows, so that nothing is left of what was there (Knuth, The Art of
 * Computer Programming, volume 3, section 6.4, algorithm R).
 *
 * Nothing else of this backend is there for an idle connection, so a place is 20 bytes, and the table grows by halves.
 */
#include "io_uring.h"

#include "mem.h"

#include <string.h>

enum { ROOM_FIRST = 64, NOBODY = -1 };

/* The place of the socket, which is not in the table, would be here. */
static uint32_t free_place(const uring_slots *slots, int32_t socket)
{
    uint32_t i = uring_home(slots, socket);
    while (slots->sockets[i] != NOBODY) i = i + 1 < slots->room ? i + 1 : 0;
    return i;
}

static bool grow(uring_slots *slots)
{
    uring_slots larger = *slots;
    larger.room = slots->room > 0 ? slots->room / 2 * 3 : ROOM_FIRST;
    larger.slots = mem_alloc(larger.room * (sizeof *larger.slots + sizeof *larger.sockets));
    if (larger.slots == NULL) return false;
    larger.sockets = (int32_t *)(void *)(larger.slots + larger.room);
    memset(larger.sockets, 0xff, larger.room * sizeof *larger.sockets); /* NOBODY */
    for (uint32_t i = 0; i < slots->room; i++) {
        if (slots->sockets[i] == NOBODY) continue;
        uint32_t place = free_place(&larger, slots->sockets[i]);
        larger.sockets[place] = slots->sockets[i];
        larger.slots[place] = slots->slots[i];
    }
    mem_free(slots->slots);
    *slots = larger;
    return true;
}

bool uring_slot_add(uring_slots *slots, io_socket socket)
{
    if (slots->count >= slots->room / 4 * 3 && !grow(slots)) return false;
    uint32_t place = free_place(slots, (int32_t)socket);
    slots->sockets[place] = (int32_t)socket;
    slots->slots[place] = (uring_slot){.generation = ++slots->generations};
    slots->count++;
    return true;
}

void uring_slot_remove(uring_slots *slots, io_socket socket)
{
    uint32_t hole = uring_home(slots, (int32_t)socket);
    while (slots->sockets[hole] != (int32_t)socket) hole = hole + 1 < slots->room ? hole + 1 : 0;
    for (uint32_t i = hole;;) {
        i = i + 1 < slots->room ? i + 1 : 0;
        if (slots->sockets[i] == NOBODY) break;
        /* It may move back unless its home lies behind the hole. */
        uint32_t home = uring_home(slots, slots->sockets[i]);
        if (hole <= i ? hole < home && home <= i : hole < home || home <= i) continue;
        slots->sockets[hole] = slots->sockets[i];
        slots->slots[hole] = slots->slots[i];
        hole = i;
    }
    slots->sockets[hole] = NOBODY;
    slots->count--;
}

void uring_slots_close(uring_slots *slots)
{
    mem_free(slots->slots);
}
