/* run.h - one seed: a server in a world, from start to stop. */
#ifndef PORTICO_TESTS_SIM_RUN_H
#define PORTICO_TESTS_SIM_RUN_H

#include "sim.h"

/* What a run was: for the summary. */
typedef struct sim_summary {
    uint64_t connections;
    uint64_t bytes; /* delivered to scripts */
    uint64_t steps;
    int64_t virtual_ns;
} sim_summary;

/* Reads the scripts from that directory, and the default script from the other. */
void sim_scripts_open(const char *directory, const char *default_script);
/* Does not return if an oracle says no. script: that one, or NULL for the seed's choice. */
sim_summary sim_run(uint64_t seed, sim_profile profile, const char *script, bool tracing);

#endif
