/* listening.h - what is listened on: the command line's addresses, else the script's, else the default; and how that follows
 * the script from one generation to the next.
 *
 * thread  the main thread.
 */
#ifndef PORTICO_LISTENING_H
#define PORTICO_LISTENING_H

#include "net_uri.h"
#include "options.h"
#include "server.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct listening {
    server *server;
    const options *options;
    const char *script; /* its name, for messages */
} listening;

typedef struct listen_set {
    net_uri list[SERVER_LISTENERS_MAX];
    uint32_t count;
} listen_set;

/* What is to be listened on with a script that says uris (see host_listen()). False: one of them is no address, even if the
 * command line's count; why is in error. */
bool listening_collect(const listening *l, listen_set *set, const char *const *uris, char *error, size_t error_size);
/* Binds those that are not bound yet. False: one cannot be, and then none is that was not before; why is in error. */
bool listening_bind(const listening *l, const listen_set *set, char *error, size_t error_size);
/* Begins to accept on what was bound while the server ran, and stops listening on what neither set has. b may be NULL. Writes
 * the address file anew if that has changed anything, and logs what. */
void listening_settle(const listening *l, const listen_set *a, const listen_set *b);
/* Writes the address file, if there is to be one. False: it cannot be, which has been logged. */
bool listening_write_file(const listening *l);

#endif
