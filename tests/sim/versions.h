/* versions.h - the script's file: what it says at the moment, and others that somebody saves in its place. */
#ifndef PORTICO_TESTS_SIM_VERSIONS_H
#define PORTICO_TESTS_SIM_VERSIONS_H

#include <stdbool.h>
#include <stddef.h>

#define SIM_SCRIPT_PATH "sim.lua"

/* text is the first version; it outlives the run. */
void sim_versions_open(const char *text, size_t len);
/* The file as it is. mem_alloc()ed; NULL when out of memory. */
char *sim_version_read(size_t *len);
/* Somebody saves: good: the same with another remark in it; else perhaps one that does not compile, raises when it is
 * loaded, refuses itself, or raises in its handlers. */
void sim_version_save(bool good);

#endif
