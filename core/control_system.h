/* control_system.h - what differs between systems in the channel for commands: control_posix.c and control_win.c. Private
 * to control.
 *
 * control.c holds what is said (exchanges), the system's file how the bytes travel. An exchange is the channel thread's.
 */
#ifndef PORTICO_CONTROL_SYSTEM_H
#define PORTICO_CONTROL_SYSTEM_H

#include "control.h"

/* ---- An exchange: one client, one line, one answer ---- */

/*  FREE --client--> READING --line--> ASKED --reply--> ANSWERING --sent--> SENT
 *                      \--line too long----------------^     any of them --cut off, or over--> FREE */
typedef enum exchange_state {
    EXCHANGE_FREE,
    EXCHANGE_READING,
    EXCHANGE_ASKED,
    EXCHANGE_ANSWERING,
    EXCHANGE_SENT
} exchange_state;

typedef struct exchange {
    exchange_state state;
    uint32_t serial;     /* tells it from earlier ones in the same place, whose replies may still come */
    int64_t deadline_ns; /* of READING, ANSWERING and SENT: then the client is cut off. Else INT64_MAX */
    char line[CONTROL_LINE_MAX];
    size_t line_len;
    char *answer;
    size_t answer_len;
    size_t sent;
} exchange;

/* FREE to READING. */
void exchange_begin(exchange *e);
/* READING: where to put bytes that come. At least one. */
char *exchange_room(exchange *e, size_t *room);
/* READING: bytes that were put there. */
void exchange_received(control *c, exchange *e, size_t bytes);
/* ANSWERING: bytes to be sent. At least one. */
const char *exchange_rest(const exchange *e, size_t *len);
/* ANSWERING: so many of them were sent. */
void exchange_sent(exchange *e, size_t bytes);
/* Any to FREE: the client has gone, or is cut off. */
void exchange_end(exchange *e);

/* ---- What control.c gives to the system's file ---- */

exchange *control_exchange(control *c, size_t index); /* index below CONTROL_CLIENTS_MAX */
/* Moves what has been replied to the exchanges. False: the channel closes, and nothing of it is left to be sent. */
bool control_deliver(control *c);
/* The channel closes: no client is to be let in. */
bool control_closing(const control *c);
/* When control_deliver() is to be called again even if nothing happens: a client is to be cut off, or the channel has
 * nothing left to do. INT64_MAX: never. */
int64_t control_deadline(const control *c);

/* ---- What the system's file gives to control.c ---- */

typedef struct control_server control_server;

/* name: of CONTROL_WHERE_MAX bytes: the place in full. where and error as for control_open(). */
control_server *control_server_open(char *name, const char *where, char *error, size_t error_size);
/* As control_give(). */
bool control_server_give(control_server *s, uint32_t user);
/* The body of the thread: until control_deliver() says false. */
void control_server_run(control_server *s, control *c);
/* Any thread. */
void control_server_wake(control_server *s);
/* After the thread has ended. */
void control_server_close(control_server *s);

typedef struct control_link control_link;

/* Connects to a server, before the deadline. NULL: error says why not. */
control_link *control_link_open(const char *where, int64_t deadline_ns, char *error, size_t error_size);
/* All of them, or false. */
bool control_link_write(control_link *l, const char *bytes, size_t len, int64_t deadline_ns);
/* Some bytes; 0: the end; negative: it failed or took too long. */
int control_link_read(control_link *l, char *bytes, size_t room, int64_t deadline_ns);
void control_link_close(control_link *l);

#endif
