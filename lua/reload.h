/* reload.h - the controller of hot reload: one generation of the script follows another, on all workers or on none.
 *
 *   RESTING --reload_ask--> PREPARING --all can--> COMMITTING --> PROBATION --time over--> RESTING
 *                           PREPARING --one cannot--> DROPPING --> RESTING or PROBATION, as before
 *                           PROBATION --too many errors, a connection cannot be moved, reload_undo--> UNDOING --> RESTING
 *
 * A reload that is asked for during a probation is prepared beside it; its commit ends the probation. One that is asked for
 * while another is being prepared follows it.
 *
 * thread  the main thread. The workers do their part in messages, and wake it by OS_NEWS_WAKE.
 */
#ifndef PORTICO_RELOAD_H
#define PORTICO_RELOAD_H

#include "askers.h"
#include "host.h"
#include "server.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct reload reload;

typedef enum reload_cause {
    RELOAD_WATCH,  /* a file may have changed: nothing happens when none has, or when this version was just undone */
    RELOAD_SIGNAL, /* from here on it happens in any case */
    RELOAD_SCRIPT,
    RELOAD_COMMAND
} reload_cause;

typedef struct reload_options {
    int64_t probation_ns; /* 0: none */
    uint64_t error_limit; /* of handlers during probation; one more, and it is undone */
} reload_options;

/* All workers have opened with config->first, which is retained. The arguments outlive it. NULL: out of memory. */
reload *reload_open(server *s, const host_config *config, const reload_options *chosen);
/* After server_wait(): no message is under way any more. NULL is fine. What was asked for and not answered gets its answer. */
void reload_close(reload *r);

/* The script is a file, which can be read again. */
bool reload_possible(const reload *r);

/* Asks for the script to be read and, if it is good, put into force. answer is called when it is in force, or refused; it may
 * be NULL. */
void reload_ask(reload *r, reload_cause cause, asker_answer *answer, void *context);
/* Asks to go back to the generation before, which is possible during probation. */
void reload_undo(reload *r, asker_answer *answer, void *context);
/* Asks for a table of the generations that are alive, a line each, with a heading. */
void reload_report(reload *r, asker_answer *answer, void *context);

/* Does what is due. Called after each piece of news. Returns how long there is nothing to do unless news come, in ns;
 * negative: for ever. */
int64_t reload_step(reload *r);

/* Calls visit for each file whose change is worth a reload: of the generation in force and of the last that was refused or
 * undone. They change with each reload, and when a handler requires a module: reload_paths_changed() is true once after that. */
void reload_paths(const reload *r, void (*visit)(void *context, const char *path), void *context);
bool reload_paths_changed(reload *r);

#endif
