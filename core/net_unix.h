/* net_unix.h - Unix sockets: listening on a file's name, and connecting to one. Once open they are stream sockets like
 * others. net_unix_posix.c and net_unix_win.c implement it.
 *
 * A listener's file outlives a process that is killed. So listening looks who has the name: a socket that refuses
 * connections is stale and is replaced; one that answers is in use. net_unix_remove() takes the file away at a clean
 * stop, if it is still the one that was made.
 *
 * thread  any.
 */
#ifndef PORTICO_NET_UNIX_H
#define PORTICO_NET_UNIX_H

#include "net_uri.h"

#include <stdbool.h>
#include <stdint.h>

/* Which file a listener has made. */
typedef struct net_unix_file {
    bool made;    /* false: none (an abstract name), or it has been removed */
    int16_t mode; /* its permissions when the URI names none; what follows stays as it is once the file is made */
    uint64_t device;
    uint64_t inode;
} net_unix_file;

/* Opens a listening socket, with the permissions that the URI names before anyone can connect.
 * native  the system's code on failure.
 * result  IO_OK; IO_IN_USE: somebody listens there; IO_INVALID: the name is that of a file that is no socket, which is left
 *         alone; IO_NOT_FOUND: there is no such directory; IO_DENIED; IO_UNSUPPORTED: this system has no Unix sockets. */
io_status net_unix_listen(io_socket *opened, const net_uri *uri, net_unix_file *file, int *native);

/* Gives the file of a listener the permissions mode, or with NET_MODE_NONE those that it has when the URI names none.
 * native  the system's code on failure.
 * result  IO_OK, also for an abstract name, which has none; IO_NOT_FOUND: the file is gone, or another has its name; IO_DENIED. */
io_status net_unix_set_mode(const net_uri *uri, const net_unix_file *file, int16_t mode, int *native);

/* Removes the file of a listener, while its socket is still open: else another process could already have the name. */
void net_unix_remove(const net_uri *uri, net_unix_file *file);

/* Connects at once: a Unix socket knows no waiting for the network. The socket is fit for io_attach().
 * result  IO_OK; IO_REFUSED: the file is there, and nobody listens; IO_NOT_FOUND: there is no such file or name; IO_AGAIN: the listener's queue is full,
 *         and the system does not tell when it is no more; IO_DENIED; IO_UNSUPPORTED. */
io_status net_unix_connect(io_socket *opened, const net_uri *uri, int *native);

#endif
