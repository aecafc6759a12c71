/* run.h - a run of each mode: prints its object, returns the exit code. */
#ifndef LOAD_RUN_H
#define LOAD_RUN_H

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { WARM_UP, MEASURING, OVER };
extern atomic_int phase;

int run_echo(void);
int run_connect(void);
int run_idle(void);

/* What ends up as "error": the first trouble that a thread had. */
struct trouble {
    char text[128];
};

/* code: an errno; 0: the server has closed the connection. */
static inline void trouble_note(struct trouble *t, const char *what, int code)
{
    if (!t->text[0]) snprintf(t->text, sizeof t->text, "%s: %s", what, code ? strerror(code) : "closed by server");
}

#endif
