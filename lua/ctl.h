/* ctl.h - "portico ctl": asks a running server, from the command line. */
#ifndef PORTICO_CTL_H
#define PORTICO_CTL_H

/* What the server understands; ctl.c tells what each means. */
#define CTL_RELOAD "reload"
#define CTL_ROLLBACK "rollback"
#define CTL_GENERATIONS "generations"
#define CTL_STOP "stop"
#define CTL_DUMP "dump"

/* words: what follows "ctl" on the command line. Returns the exit code: 0 it was done, 1 it was not and the reason is on
 * standard error, 2 wrong usage. */
int ctl_main(int count, char *const *words);

#endif
