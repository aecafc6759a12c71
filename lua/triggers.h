/* triggers.h - what reaches a running server from outside besides signals: a file of the script that was saved, and what
 * "portico ctl" asks for. Both have threads of their own that only wake the main thread; it does the work here.
 *
 * thread  the main thread.
 */
#ifndef PORTICO_TRIGGERS_H
#define PORTICO_TRIGGERS_H

#include "options.h"
#include "reload.h"

typedef struct triggers triggers;

/* Never fails: a server without it is better than none. What cannot be had is logged in one line each. The reload outlives
 * it until triggers_close(). */
triggers *triggers_open(reload *r, const options *o);

/* After confine_drop(). Commands are taken at the usual place of the user that the process has become: it is that user's
 * directory, which neither could be made nor cleared up with other rights. */
void triggers_settle(triggers *t, const options *o);

/* Does what is due. Called after each piece of news, before reload_step(). */
void triggers_step(triggers *t);
/* Watches what the reload now wants to be watched. Called after reload_step() and before the wait: when the next news come
 * may be up to who saves one of these files. */
void triggers_follow(triggers *t);

/* A dump of the counters has begun, which answers who asked for one until now; and none is under way any more. */
void triggers_dump_begun(triggers *t);
void triggers_dump_done(triggers *t);

/* Only removes what of it others can see, instead of triggers_close(), when the process ends without its workers. NULL is fine. */
void triggers_abandon(triggers *t);
/* After reload_close(), by which everything that was asked for has its answer. NULL is fine. */
void triggers_close(triggers *t);

#endif
