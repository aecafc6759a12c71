/* askers.h - those who have asked for something and wait for how it went.
 *
 * thread  one at a time.
 */
#ifndef PORTICO_ASKERS_H
#define PORTICO_ASKERS_H

#include <stdbool.h>

enum { ASKERS_MAX = 32 };

/* How it went, in a text that is valid during the call. */
typedef void asker_answer(void *context, bool ok, const char *text);

/* All zero: nobody waits. */
typedef struct askers {
    struct {
        asker_answer *answer; /* NULL: free */
        void *context;
    } all[ASKERS_MAX];
} askers;

/* One more waits, for whom answer is called once; NULL: somebody who does not want to know. When ASKERS_MAX wait already it is
 * called now, with false. */
void askers_add(askers *a, asker_answer *answer, void *context);
/* Those of `from` wait with those of `to`. */
void askers_move(askers *to, askers *from);
/* Calls the answers of all, who wait no longer. In an answer others may be added, who may be told in the same call. */
void askers_tell(askers *a, bool ok, const char *text);

#endif
