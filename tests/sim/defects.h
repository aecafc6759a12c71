/* defects.h - what defects.py has planted into the simulation's copy of the program. */
#ifndef PORTICO_TESTS_SIM_DEFECTS_H
#define PORTICO_TESTS_SIM_DEFECTS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct sim_defect_info {
    int number;
    const char *file;
    const char *what;
    uint64_t seeds; /* that it took to find it once */
    bool planted;   /* its text was found in the file */
} sim_defect_info;

extern const sim_defect_info sim_defect_infos[];
extern const int sim_defect_count;

#endif
