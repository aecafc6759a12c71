/* pipe.h - what comes from one connection goes to another, without the owner's help.
 *
 * Received bytes go straight into the other's send queue; while that is above its high mark nothing is received. When the
 * source has sent FIN the target's FIN is queued, and the pipe is over when the target's queue is empty. Two pipes, one
 * for each direction, join two connections, with half-closing both ways.
 *
 * The source is held while its pipe lasts, and read by it. The target goes on as it is, but that the server stops does not end it
 * before the pipe is over.
 *
 * thread  the worker that owns both connections.
 */
#ifndef PORTICO_PIPE_H
#define PORTICO_PIPE_H

#include "conn.h"

typedef enum pipe_end {
    PIPE_RUNS,
    PIPE_DONE,   /* all has been passed on, and sent */
    PIPE_EOF,    /* FIN came before as many bytes as were asked for */
    PIPE_SOURCE, /* the source is not OPEN any more */
    PIPE_TARGET  /* … or the target, or it does not take bytes: see its reason */
} pipe_end;

/* Lives in its owner. */
typedef struct conn_pipe conn_pipe;
struct conn_pipe {
    /* Called once, from a packet or from settling; the pipe is no longer used then. */
    void (*over)(conn_pipe *p);
    conn *source;
    conn *target;
    conn_wait from; /* for input, or the source's end */
    conn_wait to;   /* for the target's queue, or its end */
    uint64_t left;  /* bytes to pass on; UINT64_MAX: up to FIN, which is passed on, too */
    uint64_t bytes; /* passed on */
    uint8_t end;    /* a pipe_end */
    bool flushing;  /* all is queued: there is only `to` */
};

/* Begins with what is there.
 * source  nobody reads it (conn_is_read). May be the target, too.
 * count   bytes, after which the pipe is done, and no FIN is sent; UINT64_MAX: all.
 * over    as above.
 * result  PIPE_RUNS; else it is over already, and over() does not come. */
pipe_end pipe_begin(conn_pipe *p, conn *source, conn *target, uint64_t count, void (*over)(conn_pipe *p));
/* Stops one that runs; over() does not come. What has been passed on stays so. */
void pipe_stop(conn_pipe *p);

#endif
