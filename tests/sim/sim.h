/* sim.h - the simulated world: its seed, its clock, its faults, and what happens when. One world at a time, one thread.
 *
 * The program under test is the real one: conn, listener, worker, server, resolver, and the Lua host. Below it stand a
 * kernel of ours (kernel.h) with a backend for io.h (io_sim.c), and threads that are fibers (fiber.h). The linker puts
 * them in place (--wrap, see tests/CMakeLists.txt), so that nothing in the program knows of it.
 *
 * All that is drawn comes from one seed, through streams of their own, so that a draw that is added in one stream
 * changes nothing in the others. Time passes only when somebody waits, and in small steps between packets.
 */
#ifndef PORTICO_TESTS_SIM_H
#define PORTICO_TESTS_SIM_H

#include "base.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_MS INT64_C(1000000)
#define SIM_SECOND INT64_C(1000000000)
#define SIM_FOREVER INT64_MAX

/* Which kernel is imitated, where they differ: see io_sim.c. */
typedef enum sim_profile { SIM_IOCP, SIM_RING, SIM_EPOLL, SIM_PROFILES } sim_profile;

typedef enum sim_stream {
    SIM_SETUP, /* what is drawn once: configuration, rates */
    SIM_NETWORK,
    SIM_SCHEDULING,
    SIM_FAULTS,
    SIM_PEERS,
    SIM_STREAMS
} sim_stream;

/* Each has its own rate, which for one seed in three is exactly 0. */
typedef enum sim_fault {
    SIM_SUBMIT_LIMIT,    /* a submit finds no room */
    SIM_ATTACH_LIMIT,    /* a socket cannot be attached */
    SIM_SOCKET_LIMIT,    /* no descriptor for an outbound socket or an accept */
    SIM_ACCEPT_GONE,     /* the peer was gone before it was accepted */
    SIM_PARTIAL_RECEIVE, /* fewer bytes than there are */
    SIM_PARTIAL_SEND,    /* fewer bytes than there is room for */
    SIM_SPURIOUS,        /* news of nothing: a wait that ends early, a readable socket without bytes */
    SIM_RESET,           /* the network breaks a connection */
    SIM_RACE,            /* a cancel comes too late */
    SIM_STARVE,          /* no buffers for lent receives, for a while */
    SIM_CLOG,            /* a connection's bytes are held up for long */
    SIM_SLOW,            /* the thread is not run for a while */
    SIM_NAME_LOST,       /* the resolver fails */
    SIM_NO_MEMORY,       /* an allocation fails */
    SIM_FAULTS_COUNT
} sim_fault;

typedef struct sim_world {
    uint64_t seed;
    sim_profile profile;
    int64_t now_ns;
    uint64_t steps;                   /* packets and waits, for the bound on them */
    uint64_t hash;                    /* of all notes: two runs of a seed have the same */
    bool tracing;                     /* notes are written to standard output */
    bool reset_drops;                 /* a reset destroys what had arrived before it (Windows) */
    bool calm;                        /* faults have stopped */
    uint32_t rates[SIM_FAULTS_COUNT]; /* in a million */
    int64_t latency_ns;               /* of the network, about */
    size_t window;                    /* bytes under way in one direction of a connection, at most */
    uint32_t descriptors;             /* that may be open */
    uint32_t recv_buffers;            /* SIM_RING: completions that can hold bytes */
} sim_world;

extern sim_world world;

/* A fresh world: the clock at an arbitrary time, nothing planned, rates drawn. */
void sim_open(uint64_t seed, sim_profile profile, bool tracing);
/* Frees what belongs to it. */
void sim_close(void);
/* Before sim_open(), for a fuzzer: the first draws are decided, in turn. A byte below SIM_UNDECIDED leaves a draw as it is;
 * another one is the number drawn, less SIM_UNDECIDED. The bytes outlive the run. */
void sim_decide(const uint8_t *bytes, size_t count);
enum { SIM_UNDECIDED = 128 };

uint64_t sim_random(sim_stream stream);
/* From 0 to bound - 1; bound > 0. */
uint64_t sim_below(sim_stream stream, uint64_t bound);
/* Between the two, both included, each order of magnitude as likely as the others; low > 0. */
int64_t sim_between(sim_stream stream, int64_t low, int64_t high);
/* True so many times in a hundred. */
bool sim_percent(sim_stream stream, uint32_t percent);
bool sim_fault_drawn(sim_fault fault);
/* Faults stop. */
void sim_calm(void);

/* ---- What happens later ---- */

typedef void sim_happening(void *context);
/* At the same time, in random order. */
void sim_plan(int64_t at_ns, sim_happening *run, void *context);
/* When the next is planned, or SIM_FOREVER. */
int64_t sim_planned(void);
/* Moves the clock, running what is due on the way. */
void sim_advance(int64_t to_ns);

/* Memory until sim_close(), zeroed. */
void *sim_alloc(size_t bytes);
/* A block of the C library's that sim_close() frees, too: for what grows. */
void *sim_grow(void *block, size_t bytes);

/* ---- Records ---- */

/* Adds to the trace: a word and up to three numbers. */
void sim_note(const char *what, uint64_t a, uint64_t b, uint64_t c);
/* Adds a line of the program's log. */
void sim_note_text(const char *text, size_t len);
/* Counts a step; an endless run is a failure. */
void sim_step(void);

/* An oracle says no: says so, and ends the process. oracle: its name, one word. */
_Noreturn void sim_fail(const char *oracle, const char *format, ...) PRINTF_LIKE(2, 3);
#define sim_check(oracle, condition, ...) \
    do { \
        if (!(condition)) sim_fail(oracle, __VA_ARGS__); \
    } while (0)

/* Where sim_fail() leaves its words: shared with the process that started this one; else NULL. */
enum { SIM_VERDICT_BYTES = 512 };
typedef struct sim_verdict {
    volatile uint64_t seed; /* that runs, or ran last */
    volatile uint64_t hash; /* of the last that has ended */
    volatile uint64_t done; /* seeds that have ended */
    volatile uint64_t steps;
    char oracle[32];
    char text[SIM_VERDICT_BYTES];
} sim_verdict;
extern sim_verdict *sim_verdict_shared;

#endif
