/* gate.h - who may come in: how many connections from one address, and how many a second.
 *
 * One address is an IPv4 address or an IPv6 network of 64 bits, since who has one address of such a network has them all.
 * Peers of a Unix socket have no address and are counted nowhere.
 *
 * thread  gate_enter: one thread, which accepts. gate_leave: any.
 */
#ifndef PORTICO_GATE_H
#define PORTICO_GATE_H

#include "net.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct gate gate;

typedef struct gate_limits {
    uint32_t per_address; /* connections at a time; 0: any number */
    bool spare_loopback;  /* per_address is not for this machine's own */
    uint32_t per_second;  /* as many may come at once, too, after a quiet second; 0: any number */
} gate_limits;

typedef enum gate_verdict {
    GATE_IN,
    GATE_LATER, /* too many in this second: ask again */
    GATE_FULL   /* too many from there, or no memory to count them */
} gate_verdict;

gate *gate_open(const gate_limits *limits); /* NULL: out of memory */
void gate_close(gate *g);                   /* NULL is fine */
const gate_limits *gate_get_limits(const gate *g);

/* May one more come in, from there? It does if this says GATE_IN, and gate_leave() follows when it is gone. Who does not come in
 * does not count among those of this second either: an address that is full holds nobody else up. now_ns: the monotonic clock. */
gate_verdict gate_enter(gate *g, const net_addr *peer, int64_t now_ns);
void gate_leave(gate *g, const net_addr *peer);

#endif
