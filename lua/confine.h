/* confine.h - what --sandbox strict, --user and --group do to the process, as the command line says.
 * The process is one, so this has a state of its own.
 *
 * thread  the main thread.
 */
#ifndef PORTICO_CONFINE_H
#define PORTICO_CONFINE_H

#include "options.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Before there are threads, and before the log is open. False: what is wrong is in error. */
bool confine_open(const options *o, char *error, size_t error_size);
/* Says what is in force. */
void confine_log(void);
/* The user that the process becomes by confine_drop(). False: it stays who it is. */
bool confine_user(uint32_t *user);
/* When all is listened on. False: what is wrong is in error. */
bool confine_drop(char *error, size_t error_size);

#endif
