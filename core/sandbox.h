/* sandbox.h - what the system does to keep this process from doing what a server has no need of, for --sandbox strict.
 * sandbox_posix.c and sandbox_win.c implement it.
 *
 *   Linux    no new privileges; a seccomp filter: no programs, no other processes, nothing that configures the system, sockets
 *            only of the families that Portico has; Landlock: no files but the given ones and what resolving names reads
 *   Windows  a job object: no other processes
 *
 * All of it holds for the process until it ends. What the kernel lacks is left out, and told.
 *
 * thread  the main thread, before there are others: threads inherit it.
 */
#ifndef PORTICO_SANDBOX_H
#define PORTICO_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>

/* What is allowed in the directory of a file, which need not be there. */
typedef enum sandbox_right {
    SANDBOX_READ,    /* reading what is there and below it; of a link also where it leads to now */
    SANDBOX_SOCKETS, /* making Unix sockets and removing files */
    SANDBOX_REPLACE  /* making files, writing and removing them, not reading; links as above */
} sandbox_right;

typedef struct sandbox_path {
    const char *path; /* of the file */
    sandbox_right right;
} sandbox_path;

enum { SANDBOX_TOLD_BYTES = 256 };

/* told  of SANDBOX_TOLD_BYTES bytes: what is in force now, and what could not be had and why.
 * result  everything that this system has is in force. */
bool sandbox_confine(const sandbox_path *paths, size_t count, char *told);

#endif
