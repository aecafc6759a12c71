/* mem_sim.h - when the system has no memory to give. */
#ifndef PORTICO_TESTS_SIM_MEM_SIM_H
#define PORTICO_TESTS_SIM_MEM_SIM_H

#include <stdint.h>

typedef enum sim_want {
    SIM_WANT_NONE,
    SIM_WANT_ONCE,         /* the n-th allocation fails */
    SIM_WANT_TWICE,        /* … and the next, which is its retry */
    SIM_WANT_FROM_THEN_ON, /* … and all after it */
    SIM_WANT_RANDOM        /* at the rate of SIM_NO_MEMORY */
} sim_want;

void sim_memory_open(sim_want want, uint64_t at);
/* From here on there is memory again. */
void sim_memory_relief(void);
/* Allocations since sim_memory_open(). */
uint64_t sim_memory_count(void);

#endif
