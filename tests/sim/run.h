/* run.h - one seed: a server in a world, from start to stop. */
#ifndef PORTICO_TESTS_SIM_RUN_H
#define PORTICO_TESTS_SIM_RUN_H

#include "mem_sim.h"
#include "sim.h"

/* What a run was: for the summary. */
typedef struct sim_summary {
    uint64_t connections;
    uint64_t bytes; /* delivered to scripts */
    uint64_t steps;
    int64_t virtual_ns;
    uint64_t allocations;
} sim_summary;

typedef struct sim_setting {
    uint64_t seed;
    sim_profile profile;
    const char *script; /* NULL: the seed's choice */
    bool tracing;
    sim_want want; /* not NONE: nothing but memory fails, and nobody saves or stops early; see sim_memory_open() */
    uint64_t at;
    const char *source; /* NULL: see script; else a script of which nothing is known but that it opens connections, … */
    bool stays;         /* … and nobody saves it anew */
    bool brief; /* few clients, who come soon and say little: for a fuzzer, to whom many runs say more than long ones */
    const uint8_t *decisions; /* see sim_decide() */
    size_t decision_count;
} sim_setting;

/* Reads the scripts from that directory, and the default script from the other. */
void sim_scripts_open(const char *directory, const char *default_script);
/* NULL: there are no more. judges: it has oracles of its own, which do not know of want of memory. */
const char *sim_script_name(size_t index, bool *judges);
/* Does not return if an oracle says no. */
sim_summary sim_run(const sim_setting *plan);

#endif
