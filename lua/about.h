/* about.h - what the program says of itself on standard output.
 *
 * thread  the main thread.
 */
#ifndef PORTICO_ABOUT_H
#define PORTICO_ABOUT_H

#include <stdbool.h>

/* --help. False: it could not be written, which has been said on standard error; so it is below. */
bool about_help(void);

/* --version: a line; verbose: what it was built from, and which backends work here. */
bool about_version(bool verbose);

#endif
