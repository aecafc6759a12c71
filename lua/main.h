/* main.h - what the few lines that differ between systems call: main_posix.c holds main(), main_win.c wmain(). */
#ifndef PORTICO_MAIN_H
#define PORTICO_MAIN_H

/* Runs the program. argv in UTF-8. Returns the exit code. */
int portico_main(int argc, char **argv);

#endif
