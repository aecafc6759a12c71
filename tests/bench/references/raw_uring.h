/* raw_uring.h - what raw_uring_echo was asked for, and its parts. */
#ifndef BENCH_RAW_URING_H
#define BENCH_RAW_URING_H

#include <stddef.h>

enum { S_PLAIN, S_COOP, S_DEFER, S_SQPOLL };
enum { R_MULTI, R_SINGLE, R_OWN, R_POLL };
enum { W_RING, W_SKIP, W_SYS, W_ZC };

/* The options, by the names that the usage in raw_uring_echo.c gives them; set before any thread starts. */
extern int port, threads, smode, rmode, amulti, wmode, direct, bundle, inc, pollfirst, separate;
extern unsigned nbufs, bufsz, sqn, waitn, minwait, spin_us, napi_us;
extern size_t maxconn; /* descriptors, and so connections */

/* Zeroed pages, of which only those that are touched take memory. Ends the program when there are none. */
void *xmap(size_t n);
/* Listens on the port; each thread has a listener of its own. Ends the program when that fails. */
int listener(void);
struct ur;
/* A ring of the wanted mode. Returns 0, or -errno. */
int ring_init(struct ur *u);

/* A thread of the server: does not return. */
void *raw_uring_loop(void *unused);

/* Whether the kernel knows buffers that are consumed bit by bit. */
int probe_inc(void);
/* Prints what the kernel knows. */
void probe_all(void);

#endif
