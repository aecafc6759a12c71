/* io_types.h - what io.h and net.h share: the socket and the result of an operation. */
#ifndef PORTICO_IO_TYPES_H
#define PORTICO_IO_TYPES_H

#include <stdint.h>

typedef intptr_t io_socket; /* a SOCKET on Windows, a file descriptor elsewhere */
#define IO_SOCKET_NONE ((io_socket)-1)

/* Every function of the engine that can fail returns one of these. Native codes are mapped once, by
 * the table in net_posix.c or net_win.c. */
typedef enum io_status {
    IO_OK = 0,
    IO_AGAIN = -1,        /* nothing there now */
    IO_CANCELED = -2,     /* ended by io_cancel() */
    IO_RESET = -3,        /* peer or network broke the connection */
    IO_REFUSED = -4,      /* nobody listens there */
    IO_TIMEOUT = -5,      /* the kernel, or a deadline of ours, gave up */
    IO_UNREACHABLE = -6,  /* no route to network or host */
    IO_LIMIT = -7,        /* no descriptors, memory or kernel buffers left: retry later */
    IO_IN_USE = -8,       /* the address is taken */
    IO_DENIED = -9,       /* not permitted */
    IO_UNAVAILABLE = -10, /* the address is not one of this machine's */
    IO_UNSUPPORTED = -11, /* not to be had on this system */
    IO_CLOSED = -12,      /* too late: the connection is closing or gone */
    IO_INVALID = -13,     /* the arguments make no sense */
    IO_NOT_FOUND = -14,   /* a name that does not resolve, a file that is not there */
    IO_UNEXPECTED = -15   /* anything unmapped; the native code is in the log */
} io_status;

/* "ok", "reset", "refused", …: the symbolic name that logs and Lua scripts see. Never NULL. */
const char *io_status_name(io_status status);

/* A sentence fragment for people: "connection refused". Never NULL. */
const char *io_status_text(io_status status);

#endif
