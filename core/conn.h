/* conn.h - one connection: its receive, its send queue, its deadlines and its end.
 *
 * States:
 *
 *   FREE --conn_connect--> CONNECTING --connected--> OPEN
 *   FREE --conn_open-----> OPEN --conn_close, or FIN when not half-open--> DRAINING --all sent, peer's FIN or deadline--> CLOSING
 *                          OPEN, DRAINING, CONNECTING --reset, conn_abort, conn_fail, a limit----------------------------> CLOSING
 *                          CLOSING --no op pending--> CLOSED (socket closed, on_close called) --conn_release--> FREE
 *
 * Events are functions that the owner of the connection passes in (the Lua host; tests bring their own). They are
 * called from conn_settle() and conn_on_packet() only, never from inside a verb: a verb changes state, marks the
 * connection dirty, and what follows happens when the worker settles its dirty connections at the tail of the event.
 *
 * Guarantees:
 *   - on_open first; then any number of on_data, on_readable, on_drain, at most one on_eof; then exactly one on_close,
 *     and nothing after it. When on_open says that connecting failed, it is the only event.
 *   - Between conn_hold() and conn_unhold() no event is called: it is remembered (bytes in the stash, behind what was kept
 *     at most one receive) and comes afterwards, in order. The host holds a connection while one of its handlers waits.
 *   - Bytes are delivered in order; nothing is read, and nothing that was kept is delivered, while the connection is
 *     held, paused, or its queue is above the high mark.
 *   - Who wants bytes without an event waits for them (conn_wait_begin): then they are received though the connection is
 *     held or paused, and nobody else gets them.
 *
 * thread  everything here: the worker that owns the connection.
 */
#ifndef PORTICO_CONN_H
#define PORTICO_CONN_H

#include "frame.h"
#include "io.h"
#include "net_uri.h"
#include "sendq.h"
#include "timer.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct conn conn;
typedef struct conn_set conn_set;

typedef enum conn_state {
    CONN_FREE,
    CONN_CONNECTING, /* send_op is a connect, or has just completed */
    CONN_OPEN,
    CONN_DRAINING, /* nothing more is accepted for sending; what is queued goes out, then FIN; input is dropped */
    CONN_CLOSING,  /* canceled; waiting for the pending ops' packets */
    CONN_CLOSED    /* on_close was called; waiting for conn_release() */
} conn_state;

/* Why a connection ended. */
typedef enum conn_reason {
    CONN_EOF,      /* the peer sent FIN, and what was queued for it was sent */
    CONN_RESET,    /* the peer or the network broke it */
    CONN_LOCAL,    /* conn_close() or conn_abort() */
    CONN_IDLE,     /* no byte either way for limits.idle */
    CONN_TIMEOUT,  /* no first byte, or the peer did not take what was sent, in time */
    CONN_OVERFLOW, /* more queued than limits.send_max: the peer does not read */
    CONN_LIMIT,    /* refused for want of something: memory, descriptors */
    CONN_ERROR,    /* a handler raised, or an error of the system that is none of these */
    CONN_SHUTDOWN  /* the server is stopping */
} conn_reason;

/* "eof", "reset", "local", …: what scripts and logs see. */
const char *conn_reason_name(conn_reason reason);

/* How bytes come in; can be changed at any time, in force from the next receive. */
typedef enum conn_receive {
    CONN_LENT,  /* the port lends a buffer with the packet: an idle connection pins no memory */
    CONN_READY, /* the zero-byte read: on_readable, and the owner draws with conn_draw() */
    CONN_POSTED /* a buffer of the connection's own stays in flight */
} conn_receive;

typedef struct conn_limits {
    int64_t idle_ns;       /* no byte either way; 0: no limit, here and below */
    int64_t first_byte_ns; /* from on_open to the first byte received */
    int64_t write_ns;      /* the peer takes not one byte of what is queued */
    int64_t linger_ns;     /* after our FIN, for the peer's */
    int64_t connect_ns;    /* conn_connect() to the answer */
    uint32_t send_high;    /* bytes queued above which receiving stops; > send_low */
    uint32_t send_low;     /* … and at or below which it goes on and on_drain is called */
    uint32_t send_max;     /* above this after a send: CONN_OVERFLOW; 0: no limit */
    uint32_t recv_bytes;   /* size of the buffer in CONN_POSTED */
    frame_rule frame;      /* how bytes are cut into messages: the owner's business; its max is a limit, too */
    uint32_t message_max;  /* bytes of one message: what the owner may leave with the connection for its sake */
} conn_limits;

/* The defaults that the command line shows. */
extern const conn_limits conn_limits_default;

typedef struct conn_events {
    /* The connection is open, or, for conn_connect() only, status says why it is not and the slot is freed when this
     * returns. */
    void (*on_open)(conn *c, io_status status);
    /* data is valid until this returns. CONN_LENT and CONN_POSTED. What it does not take it gives to conn_keep(). */
    void (*on_data)(conn *c, const uint8_t *data, size_t len);
    /* Something is there to be drawn. Comes again only after a conn_draw(): who does not draw now is asked again
     * when it has drawn, or called conn_resume(). */
    void (*on_readable)(conn *c);
    /* The peer will send no more. Called for half-open connections only; others flush and close. */
    void (*on_eof)(conn *c);
    /* The queue fell to the low mark after it had been above the high one. */
    void (*on_drain)(conn *c);
    /* The end. The slot stays until conn_release(), which may be called from inside. */
    void (*on_close)(conn *c, conn_reason reason, io_status status);
    /* Comes after a conn_turn(), before any bytes that are kept. */
    void (*on_turn)(conn *c);
    /* The peer's FIN has come, and half_open is about to be looked at: the owner may still set it, or move the connection to
     * another owner. May come more than once. NULL: it does not want to. */
    void (*on_fin)(conn *c);
} conn_events;

/* What may be waited for, without events. */
typedef enum conn_want {
    CONN_WANT_INPUT, /* bytes, FIN, conn_close() with SHUTDOWN, or the end of OPEN */
    CONN_WANT_RELAY, /* the same, for who passes the bytes on: a send queue above its high mark does not stop receiving */
    CONN_WANT_LOW,   /* a send queue no longer above its marks, or the end of OPEN */
    CONN_WANT_END,   /* the end of OPEN */
    CONN_WANT_EMPTY /* nothing queued, or the end of OPEN and DRAINING */
} conn_want;

/* Somebody who waits; lives in who waits. */
typedef struct conn_wait conn_wait;
struct conn_wait {
    /* Called once, from a packet or from settling, when the waiting is over; always before on_close. It may begin again,
     * unless nothing more can come. */
    void (*wake)(conn_wait *wait, conn *c);
    conn_wait *next; /* the connection's list */
    uint8_t want;    /* a conn_want */
    bool feeds;      /* said by who waits: it passes bytes on to the connection, and a stop waits for the end of that */
};

/* From recv_op to `out` stands what every message needs, so that it is few lines of memory: see io_op_prefetch(). */
struct conn {
    io_op send_op; /* also the connect */
    io_op recv_op;
    conn_set *set;
    const conn_events *events;
    const conn_limits *limits; /* shared until conn_own_limits() */
    void *user;                /* the owner's */
    uint8_t *buffer;           /* CONN_POSTED: the receive buffer; else NULL */
    struct stash *stash;       /* bytes that came while held or paused, or that conn_keep() kept; else NULL */
    conn_wait *waits;          /* in order of beginning; at most one wants input */
    io_socket socket;
    uint64_t id;         /* never reused in this process, above 0; 0 in FREE: who keeps slot and id can tell */
    uint64_t received;   /* bytes */
    uint64_t sent;       /* bytes that the kernel took */
    int64_t active_ns;   /* last byte either way */
    int64_t progress_ns; /* when the kernel last took bytes, or the queue began to fill; after our FIN: when it went */
    uint32_t messages;   /* on_data and draws that brought bytes; the owner may count otherwise */
    int16_t status;      /* an io_status: what broke it */
    uint8_t state;       /* a conn_state */
    uint8_t reason;      /* a conn_reason; final from CLOSING on */
    uint8_t holds;       /* conn_hold() less conn_unhold() */
    uint8_t receive : 2; /* a conn_receive: fits in two bits */
    uint8_t fault : 4;   /* a frame_fault, set by the owner: why the reason is LIMIT or ERROR */
    bool outbound : 1;
    bool half_open : 1; /* FIN is reported and not answered by closing */
    /* These eight, what the owner is owed and was told, share a byte: settling looks at them together. */
    bool eof_seen : 1;     /* FIN has been received; nothing more will come */
    bool eof_told : 1;     /* … and on_eof called, or closing begun */
    bool open_told : 1;    /* on_open was called */
    bool close_told : 1;   /* on_close was called */
    bool turn_due : 1;     /* on_turn is owed */
    bool drain_due : 1;    /* on_drain is owed */
    bool shutdown_due : 1; /* conn_close() with SHUTDOWN came while it was held or fed: it follows when it is no more */
    bool canceled : 1;     /* io_cancel() was called in CLOSING */
    /* And these, what concerns receiving. */
    bool paused : 1;     /* conn_pause() */
    bool above_high : 1; /* since the queue passed the high mark, until on_drain */
    bool undrawn : 1;    /* on_readable was called, and nothing drawn, taken or waited for since */
    bool reading : 1;    /* one of waits wants input, … */
    bool relaying : 1;   /* … to pass it on */
    bool news : 1;       /* something that who waits for input has not heard of */
    bool answered : 1;   /* conn_consume() has not been called since conn_send(), or at all */
    bool dirty : 1;      /* on the set's dirty list */
    bool fin_wanted : 1; /* send FIN when the queue is empty */
    bool fin_sent : 1;
    bool abortive : 1; /* close with RST */
    bool own_limits : 1;
    bool own_frame : 1;   /* limits->frame is of this connection alone; then own_limits, too */
    bool own_receive : 1; /* these two were set for this connection alone: see conn_move() */
    bool own_half_open : 1;
    sendq out; /* its count of bytes first */
    timer deadline;
    conn *dirty_next;
    conn *live_next; /* the set's list of all that are not FREE; in FREE the next free slot */
    conn *live_prev;
    const char *listener; /* name of the listener, or of the target for an outbound one; outlives it */
    int64_t opened_ns;
    int64_t drain_ns; /* DRAINING: the deadline for all of it */
    net_addr peer;
};

enum { CONN_UNSENT_MAX = 16 }; /* answers that are sent one after the other */

/* The connections of one worker. */
struct conn_set {
    io_port *port;
    timers *timers;
    int64_t now_ns;       /* the clock as of this round of packets */
    int64_t drain_ns;     /* how long a conn_close() may take to send what is queued */
    conn *given_to;       /* whose on_data or wait for input runs; NULL: none */
    size_t offered;       /* of what is given the last so many bytes can be had by conn_input() */
    const uint8_t *given; /* what on_data has now; NULL: it does not run */
    size_t given_len;
    struct stash *given_stash; /* where that is, when it was kept */
    sendq_cache cache;
    conn *dirty_head; /* to settle, in order */
    conn *dirty_tail;
    conn *unsent[CONN_UNSENT_MAX]; /* for conn_send_unsent(): whose queues are small, and wait for others */
    uint32_t unsent_count;
    bool sends_late; /* io_port_sends_late() */
    conn *live;
    conn *walk; /* the next of conn_walk_next(); NULL: none, or the end */
    conn *free;
    struct conn_slab *slabs;
    struct id_map *by_id; /* NULL: nobody has asked yet */
    uint32_t count;       /* not FREE */
    uint64_t opened;      /* since start */
    uint64_t closed;
    uint64_t ids; /* the last id given; ids of different workers interleave */
    uint64_t ids_step;
    struct gate
        *gate; /* where accepted connections are counted, and are to be reported when they are gone; NULL: nowhere */
};

void conn_set_open(conn_set *set, io_port *port, timers *deadlines, uint64_t first_id, uint64_t ids_step);
/* Changes the distance of ids. Before the first connection. */
void conn_set_step(conn_set *set, uint64_t ids_step);
/* All connections are FREE. What was counted can still be read. */
void conn_set_close(conn_set *set);

/* The connection of that id; NULL: it is over. The first call makes a table, which is kept up to date from then on. */
conn *conn_find(conn_set *set, uint64_t id);
/* Gives an open connection another id: for all who keep the one it had, it is over. */
void conn_renew_id(conn *c);

/* What a new connection gets. */
typedef struct conn_config {
    const conn_events *events;
    const conn_limits *limits; /* outlives the connection */
    const char *listener;      /* outlives the connection */
    void *user;
    conn_receive receive;
    bool half_open;
} conn_config;

/* Takes over an accepted socket that the set's gate has let in, attaches it and makes it dirty; on_open comes with the settling.
 * peer    may be NULL when there is no gate.
 * result  NULL when out of memory or the socket cannot be attached; the socket is then closed. */
conn *conn_open(conn_set *set, io_socket socket, const net_addr *peer, const conn_config *config);

/* Begins an outbound connection over NET_TCP or NET_UNIX. on_open reports how it went.
 * result  NULL when there is no memory or no descriptor, and for a Unix socket also what net_unix_connect() says: *status
 *         has it. */
conn *conn_connect(conn_set *set, const net_uri *target, const conn_config *config, io_status *status);

/* The worker hands in packets of kind IO_RECV, IO_READABLE, IO_SEND and IO_CONNECT. */
void conn_on_packet(const io_packet *packet);

/* Sends what sends and settling have left for the end of the round. Connections may be dirty afterwards. */
void conn_send_unsent(conn_set *set);

/* Brings every dirty connection to rest: events that are due, sends, the next receive, closing. Bounded: a
 * connection that makes itself dirty again and again waits for the next call. True: some are still dirty. */
bool conn_settle(conn_set *set);

/* ---- Verbs. All may be called from inside events, and on any connection of the same worker. ---- */

/* Queues a copy of len bytes.
 * result  IO_OK: queued; ask conn_is_high() whether to slow down. IO_CLOSED: not OPEN, or FIN was sent or asked for.
 *         IO_LIMIT: no memory, or the queue passed limits.send_max, which also ends the connection (overflow). */
io_status conn_send(conn *c, const void *data, size_t len);
/* The same for who has nothing more to send in this event: where the port can send at once and nothing is queued, many bytes go
 * from where they are, and only what the system does not take is copied.
 * result  as conn_send(); after IO_LIMIT a part of the bytes may have been sent, so that the caller has to end the connection.
 *         What the system says of a broken connection: nothing was queued, and the connection ends. */
io_status conn_send_last(conn *c, const void *data, size_t len);

/* Inside on_data only, at most once: the last len bytes, > 0, of what it got are not taken. They come again, at the front of
 * what on_data gets next. Not in OPEN any more: nothing happens, input is dropped.
 *
 * need    > len: when at least so many bytes are there. Receiving goes on meanwhile. If FIN comes first, they do not
 *         come again: on_eof or closing follows, and conn_truncated() says how many they were.
 *         0: as soon as the connection is not held, paused or above its high mark; at once, but after others had their
 *         turn, if it is none of these. */
void conn_keep(conn *c, size_t len, size_t need);
/* Inside on_data: how many of its bytes were there the last time, when they were too few (`need`). */
size_t conn_seen(const conn *c);
/* What was kept waiting for more is to be looked at again, for what is needed has changed. */
void conn_rescan(conn *c);
/* After the peer's FIN, in on_eof and on_close: bytes that were kept waiting for more. */
size_t conn_truncated(const conn *c);

/* Inside on_data: while the owner's handler runs, the last len bytes can be read (conn_input). They stay the owner's to keep:
 * conn_offered() says afterwards how many are left. After a conn_unread() none are: they lie behind what was put back. */
static inline void conn_offer(conn *c, size_t len)
{
    assert(c->set->given_to == c && len <= c->set->given_len);
    c->set->offered = len;
}
static inline size_t conn_offered(const conn *c)
{
    return c->set->given_to == c ? c->set->offered : 0;
}

/* What has come and nobody has taken: how many bytes, and where, until the next verb but conn_send(). Bytes that on_data
 * has are among them only as far as they are offered. */
size_t conn_input(const conn *c, const uint8_t **data);
/* The first len of these are taken. */
void conn_consume(conn *c, size_t len);
/* Puts a copy of bytes back in front. on_data is not called for their sake, only with what comes next.
 * In on_data the owner must have offered what it has not taken.
 * result  IO_OK; IO_CLOSED: not OPEN; IO_LIMIT: out of memory. */
io_status conn_unread(conn *c, const void *data, size_t len);

/* Begins to wait.
 * wait    wake is set. want: not there already, as far as the caller can see. For input: OPEN, no FIN seen, and nobody
 *         else waits for input (conn_is_read). */
void conn_wait_begin(conn *c, conn_wait *wait, conn_want want);
/* Stops waiting before it is over. */
void conn_wait_end(conn *c, conn_wait *wait);

/* Draws bytes that have arrived, without waiting; for CONN_READY, and for paused connections in any mode. In on_data those that
 * are offered come first.
 * bytes   moved, at most len; 0 with IO_OK: the peer has sent FIN.
 * result  IO_OK; IO_AGAIN: nothing now; IO_CLOSED; IO_RESET. */
io_status conn_draw(conn *c, void *buffer, size_t len, size_t *bytes);

/* Stops and restarts receiving. What was on its way when it stopped is kept and delivered on resume. */
void conn_pause(conn *c);
void conn_resume(conn *c);

/* Defers all events; nests. */
void conn_hold(conn *c);
void conn_unhold(conn *c);

/* FIN after what is queued; receiving goes on. */
void conn_shutdown(conn *c);
/* Asks for on_turn, once, as soon as the connection is not held: for what the owner cannot do in the midst of something
 * else. */
void conn_turn(conn *c);
/* Sends what is queued, then FIN, then closes when the peer's FIN has come or the deadline has passed. reason: LOCAL,
 * SHUTDOWN, or LIMIT and ERROR for what a peer said. In any state but OPEN and CONNECTING nothing changes. SHUTDOWN waits while the connection is held
 * or fed, so that its handler's answer is sent, too, and all that a pipe brings. */
void conn_close(conn *c, conn_reason reason);
/* Ends it now: drops the queue, closes with RST. */
void conn_abort(conn *c, conn_reason reason, io_status status);
/* After on_close: gives the slot back. Exactly once; c is gone. */
void conn_release(conn *c);

void conn_set_receive(conn *c, conn_receive receive);
/* Gives the connection to another owner: its events come there from now on. Of the config, listener and user are left as they
 * are, and so is what was set for this connection alone: limits, frame, and where own_receive or own_half_open say so,
 * those. Bytes that were kept for more to come are looked at again. Allowed inside its events, too. */
void conn_move(conn *c, const conn_config *config);
/* A walk over the connections of a set that may be interrupted: others may come and go meanwhile. One at a time; those that
 * come later are left out. NULL at the end. */
void conn_walk_begin(conn_set *set);
conn *conn_walk_next(conn_set *set);

/* Limits of this connection alone, to be changed by the caller, which then calls conn_limits_changed(). NULL: out
 * of memory. */
conn_limits *conn_own_limits(conn *c);
void conn_limits_changed(conn *c);
/* Gives the connection a frame of its own, in force for what has not been delivered yet. False: out of memory. */
bool conn_set_frame(conn *c, const frame_rule *rule);

static inline bool conn_is_high(const conn *c)
{
    return c->above_high;
}
static inline size_t conn_queued(const conn *c)
{
    return c->out.bytes;
}
static inline bool conn_is_read(const conn *c)
{
    return c->reading;
}
/* Bytes of C memory that one connection takes while idle. */
size_t conn_bytes(void);

#endif
