/* io_sim.h - the backend of the simulated kernel. */
#ifndef PORTICO_TESTS_SIM_IO_SIM_H
#define PORTICO_TESTS_SIM_IO_SIM_H

#include "io.h"

extern const io_backend io_backend_sim;

/* Ports that are open: 0 at the end. */
uint32_t sim_ports_open(void);

#endif
