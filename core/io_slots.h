/* io_slots.h - what a port of io_epoll.c or io_uring.c knows of each socket that is attached to it: a slot of the backend's own type. A
 * hash table by descriptor, because a worker's descriptors are scattered among those of the process. Slots move when a
 * socket is added or removed.
 *
 * bytes, below, is the size of the backend's slot: a constant, so that it costs nothing.
 */
#ifndef PORTICO_IO_SLOTS_H
#define PORTICO_IO_SLOTS_H

#include "io_types.h"

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroed, it is empty. */
typedef struct io_slots {
    unsigned char *slots; /* aligned as for any type */
    int32_t *sockets;     /* whose slot it is; -1: nobody's */
    uint32_t room;
    uint32_t count;
    uint32_t generations; /* for the backend: so many sockets have been attached */
} io_slots;

/* Where a descriptor's slot is looked for first. The multiplier, 2^32 divided by the golden ratio, spreads numbers that follow
 * each other evenly (Knuth, The Art of Computer Programming, volume 3, section 6.4). */
static inline uint32_t io_slots_home(const io_slots *slots, int32_t socket)
{
    return (uint32_t)((uint64_t)((uint32_t)socket * UINT32_C(2654435769)) * slots->room >> 32);
}

/* NULL: it is not attached to this port. */
static inline void *io_slots_find(const io_slots *slots, io_socket socket, size_t bytes)
{
    if (slots->room == 0) return NULL;
    for (uint32_t i = io_slots_home(slots, (int32_t)socket); slots->sockets[i] >= 0;) {
        if (slots->sockets[i] == (int32_t)socket) return slots->slots + i * bytes;
        if (++i == slots->room) i = 0;
    }
    return NULL;
}

/* The same of a socket that is attached. */
static inline void *io_slots_of(const io_slots *slots, io_socket socket, size_t bytes)
{
    assert(io_slots_find(slots, socket, bytes) != NULL);
    uint32_t i = io_slots_home(slots, (int32_t)socket);
    while (slots->sockets[i] != (int32_t)socket) i = i + 1 < slots->room ? i + 1 : 0;
    return slots->slots + i * bytes;
}

/* A zeroed slot for a socket that has none. NULL: out of memory. */
void *io_slots_add(io_slots *slots, io_socket socket, size_t bytes);
/* It has one. */
void io_slots_remove(io_slots *slots, io_socket socket, size_t bytes);
void io_slots_close(io_slots *slots);

#endif
