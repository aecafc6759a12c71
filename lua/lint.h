/* lint.h - what can be seen in a script's text before it happens. For --check.
 *
 * thread  any, while nobody adds files to the generation.
 */
#ifndef PORTICO_LINT_H
#define PORTICO_LINT_H

#include "generation.h"

#include <stddef.h>

/* Warns, with file and line, where something is put into a field of conn.state that the next version of the script could not be
 * given: a function, a coroutine, a table with a metatable, a file. It reads words and knows no types, so it sees
 * `anything.state.field = function …`, and not what goes through a local. Returns how many warnings. */
size_t lint_generation(const generation *g);

#endif
