/* listening.h - what is listened on: the command line's addresses, the script's, or else the default; and how that follows the
 * script from one generation to the next.
 *
 * Generations want addresses, by a name or without one; sockets are the server's. A socket is there while a generation in force, or one
 * that can be gone back to, wants it: so the next generation that wants it too takes it over without a gap. The same one is
 * meant by the same address with a port of its own; where the system chooses the port, by the same name, or in the same
 * place among those without one.
 *
 *   listening_want()    a generation that loads, on every worker: nothing is bound yet
 *   listening_bind()    before it comes into force; nothing is accepted there yet
 *   listening_settle()  it is in force
 *   listening_want()    later on: at once
 *
 * thread  any, where nothing else is said.
 */
#ifndef PORTICO_LISTENING_H
#define PORTICO_LISTENING_H

#include "net_uri.h"
#include "options.h"
#include "server.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LISTENING_NAME_MAX = 64,     /* bytes of a name */
    LISTENING_NAMES_BYTES = 1024 /* room for most of what listening_names() says */
};

typedef struct listening listening;

/* The command line, and the script's name for messages; both outlive it. NULL: out of memory. */
listening *listening_open(const options *o, const char *script);
/* After the server was closed. NULL is fine. */
void listening_close(listening *l);

/* ---- For hosts ---- */

typedef struct listening_wish {
    net_uri uri;
    const char *name;    /* at most LISTENING_NAME_MAX bytes; NULL: none */
    uint64_t generation; /* who wants it; all its workers say the same */
    uint32_t worker;
    bool loads; /* the generation does; else it is in force */
} listening_wish;

typedef enum listening_outcome {
    LISTENING_OK,
    LISTENING_CONTRADICTS, /* another wish of the same generation */
    LISTENING_FAILED       /* status says how */
} listening_outcome;

/* result  LISTENING_OK: *id is the wish's, and the same for the same wish on several workers.
 *         Else error, of error_size bytes, says what is wrong. */
listening_outcome listening_want(listening *l, const listening_wish *wish, uint64_t *id, io_status *status, char *error,
                                 size_t error_size);
/* It is wanted no longer. False: that was so already. */
bool listening_forget(listening *l, uint64_t id);
/* Where it is: with the real port, once it is bound. text: of NET_URI_TEXT_MAX bytes. False: it is wanted no longer. */
bool listening_address(listening *l, uint64_t id, char *text);
/* The script of a generation that loads says what is to be listened on, be it nothing: the default is not for it. */
void listening_say(listening *l, uint64_t generation);
/* The command line names addresses: what a script has in `listen` does not count. */
bool listening_is_given(const listening *l);

/* ---- For who drives the generations: the main thread ---- */

/* The workers have opened. Before all that follows. */
void listening_attach(listening *l, server *s);
/* Binds what the generation wants and is not bound yet. False: something cannot be had, and then nothing is bound that was
 * not before; why is in error. */
bool listening_bind(listening *l, uint64_t generation, char *error, size_t error_size);
/* The server begins to accept. */
void listening_start(listening *l);
/* That generation did not come into force. */
void listening_drop(listening *l, uint64_t generation);
/* That generation is in force, and it can be gone back to fallback; 0: to none. Accepts where nothing was accepted yet, and
 * stops listening on what neither wants. */
void listening_settle(listening *l, uint64_t generation, uint64_t fallback);
/* When what is listened on has changed since listening_write_file() at the start: writes the address file anew, and logs what. The main thread is
 * woken when there is something to tell. */
void listening_tell(listening *l);
/* Writes the address file, if there is to be one. False: it cannot be, which has been logged. */
bool listening_write_file(listening *l);
/* "tcp://127.0.0.1:7777, unix:/run/x", or "nothing". Returns text. */
char *listening_names(listening *l, char *text, size_t size);

#endif
