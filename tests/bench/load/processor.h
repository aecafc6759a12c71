/* processor.h - the processor time of this process, of the server's processes and of one processor, up to a moment. */
#ifndef LOAD_PROCESSOR_H
#define LOAD_PROCESSOR_H

#include <stdint.h>

struct processor {
    uint64_t wall_ns;
    uint64_t self_us;                    /* this process */
    uint64_t server_ns;                  /* options.pids, from the scheduler */
    uint64_t server_user, server_system; /* the same in clock ticks, told apart */
    uint64_t server_runs;                /* how often their threads were given a processor */
    uint64_t busy, idle;                 /* options.core, in clock ticks */
};

void processor_sample(struct processor *p);

#endif
