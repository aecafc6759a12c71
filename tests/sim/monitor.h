/* monitor.h - what the oracles know of the program's connections. The linker leads the calls that open, send and draw
 * through here, and a connection's events come through here on their way to the host.
 */
#ifndef PORTICO_TESTS_SIM_MONITOR_H
#define PORTICO_TESTS_SIM_MONITOR_H

#include "io.h"
#include "server.h"

/* What is asked of the script that runs. */
typedef struct sim_expect {
    bool echoes;   /* what it sends on a connection is what it received there, all of it if the peer closes well */
    bool at_once;  /* … without waiting for anything */
    bool late;     /* … but perhaps only when the peer has sent FIN */
    uint32_t unit; /* … and only in pieces of so many bytes; 0: of any size */
    bool keeps;    /* … and keeps bytes in conn.state, which going back to an older version of it does as well */
    bool stays;    /* nobody saves it anew: what it keeps in variables would be lost */
    bool judges;   /* it has oracles of its own, which want of memory would mislead */
    bool strange;  /* nothing is known of it: it may not even load, or listen where nobody can */
    bool connects; /* it opens connections of its own */
} sim_expect;

void sim_monitor_open(sim_expect expect, uint32_t max_connections);
/* A worker has opened its app, and knows its port. */
void sim_monitor_worker(worker *w);
/* After each packet, and each time the worker is about to wait: at_rest if there is nothing it knows to do. */
void sim_monitor_step(io_port *port);
void sim_monitor_rest(io_port *port, bool at_rest);
/* Memory is short, or no longer: of connections that come meanwhile no whole echo is expected. */
void sim_monitor_short(bool on);
/* Connections that were opened, and bytes that were delivered to the script: for the summary. */
uint64_t sim_monitor_opened(void);
uint64_t sim_monitor_delivered(void);
/* All connections are over, and each was told so. */
void sim_monitor_close(void);

#endif
