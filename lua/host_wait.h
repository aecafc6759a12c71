/* host_wait.h - tasks that wait for each other, and what a task can run beside the script's handlers. Part of
 * host_internal.h, which says more about tasks.
 */
#ifndef PORTICO_HOST_WAIT_H
#define PORTICO_HOST_WAIT_H

#include "timer.h"

#include <lua.h>

#include <stdbool.h>
#include <stdint.h>

typedef struct host host;
typedef struct host_task host_task;
typedef struct host_turn host_turn;

/* A place in the line of what runs next: in order, and outside of any slice. */
struct host_turn {
    host_turn *next;
    host_turn *prev;
    void (*run)(host *h, host_turn *turn); /* it has left the line by then */
    bool lined_up;
};

typedef struct host_line {
    host_turn *first;
    host_turn *last;
    uint32_t count;
    bool moves; /* the host has come into force */
    timer
        clock; /* runs always: due at once while somebody stands in line, else never; so that starting it cannot fail */
} host_line;

/* Tasks that wait for the same thing, in the order in which they came. It is part of a userdata that each of them has
 * on its stack. */
typedef struct host_queue {
    host_task *first;
    host_task *last;
    uint32_t count; /* who waits */
    uint32_t woken; /* who has been woken and has not gone on yet */
    /* One that waited, or had been woken, is being ended. NULL: nobody cares. */
    void (*left)(struct host_queue *q, host_task *t);
} host_queue;

typedef enum host_errand_end { HOST_ERRAND_DONE, HOST_ERRAND_FAILED, HOST_ERRAND_CANCELED } host_errand_end;

/* A function that a task runs for something of the host's: a timer, a spawned task, a message. The first three are called in
 * the task's coroutine, or protected. */
typedef struct host_errand {
    /* Pushes function and arguments; returns how many arguments. raises */
    int (*push)(lua_State *L, host_task *t);
    /* Keeps the results, from index first to the top. NULL: nobody wants any. raises */
    void (*keep)(lua_State *L, host_task *t, int first);
    /* Keeps the error on top of the stack: the table for on_error, or any value. True: who waits for it gets it, so it is not
     * logged. NULL: nobody wants it. raises */
    bool (*keep_error)(lua_State *L, host_task *t);
    /* The function has returned, has raised, or was ended. Outside of the slice. */
    void (*over)(host *h, host_task *t, host_errand_end how);
} host_errand;

/* ---- host_wait.c ---- */
/* False: out of memory. */
bool host_line_open(host *h);
void host_line_close(host *h);
/* The host comes into force: what has lined up until now begins to run. */
void host_line_start(host *h);
/* Last in the line. */
void host_line_up(host *h, host_turn *turn);
void host_line_leave(host *h, host_turn *turn); /* one that has not lined up is fine */
/* A timeout argument: ns, or INT64_MAX when there is none. raises */
int64_t host_check_timeout(lua_State *L, int arg);
/* The task that runs waits at the end of q for at most timeout_ns; then k goes on: see host_task.woken. Returns what
 * the calling C function has to return. After host_check_wait(). raises */
int host_wait_in(lua_State *L, host_queue *q, int64_t timeout_ns, lua_KContext context, lua_KFunction k);
/* Wakes who came first. False: nobody waits. */
bool host_queue_wake(host_queue *q);
/* Takes a suspended task out of whatever it waits for. It has then to be woken, or ended. */
void host_wait_end(host_task *t);

/* ---- host_spawn.c, host_timeout.c, host_channel.c, host_semaphore.c ---- */
void host_spawn_library(lua_State *L); /* raises; and so do those of the others */
int host_api_spawn(lua_State *L);
void host_timeout_library(lua_State *L);
int host_api_timeout(lua_State *L);
void host_channel_library(lua_State *L);
int host_api_channel(lua_State *L);
void host_semaphore_library(lua_State *L);
int host_api_semaphore(lua_State *L);

#endif
