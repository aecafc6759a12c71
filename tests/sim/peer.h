/* peer.h - who is at the other end: models of clients, and of the services that scripts connect to.
 *
 *   talker       sends messages, waits for as many bytes as it sent, goes on, and closes well
 *   flooder      sends as fast as it can, and reads as fast as it can
 *   non-reader   sends, and never reads
 *   dripper      one byte at a time, both ways
 *   half-closer  sends everything and FIN, then reads to the end
 *   resetter     breaks off in the middle
 *   silent       connects, and that is all
 * A peer may come back at once when it is done.
 */
#ifndef PORTICO_TESTS_SIM_PEER_H
#define PORTICO_TESTS_SIM_PEER_H

#include "kernel.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum sim_model {
    SIM_TALKER,
    SIM_FLOODER,
    SIM_NON_READER,
    SIM_DRIPPER,
    SIM_HALF_CLOSER,
    SIM_RESETTER,
    SIM_SILENT,
    SIM_PROBE, /* a talker of few words, after faults have stopped */
    SIM_MODELS
} sim_model;

/* Ports of services, on any host. Other ports below 9000 are listeners of the program's. */
enum {
    SIM_SERVICE_ECHO = 9001, /* sends back what it gets */
    SIM_SERVICE_REFUSES,
    SIM_SERVICE_SILENT, /* does not answer the connect */
    SIM_SERVICE_TALKS,  /* sends by itself, then closes */
    SIM_SERVICE_RESETS, /* breaks off in the middle */
    SIM_SERVICE_DEAF,   /* accepts, and does nothing */
    SIM_SERVICES_END
};

/* What a client may expect of the server. */
typedef enum sim_reply {
    SIM_ANYTHING,
    SIM_ECHO,     /* what it sends comes back at once, so it may wait for that */
    SIM_LATE_ECHO /* … or at the latest when it has sent FIN */
} sim_reply;

/* A client that will connect to that port at that time. */
sim_peer *sim_peer_start(sim_model model, uint16_t port, int64_t at_ns, sim_reply reply);
/* Every byte it sent has come back, and the end has come, without a reset. */
bool sim_peer_is_content(const sim_peer *p);
/* It got as far as being accepted. */
bool sim_peer_was_accepted(const sim_peer *p);
/* unit: replies come in pieces of so many bytes; what is left of the last is not answered. 0: of any size.
 * at_once: nothing is waited for before a reply. is_brief: they say little. */
void sim_peers_open(size_t unit, bool at_once, bool is_brief);
/* Those that would go on for ever do not. */
void sim_peers_stop(void);
uint64_t sim_peers_bytes(void);

#endif
