/* stage.h - what the engine tests share: a set of connections over a rig's port, and a player for each connection that writes
 * down every event as text ("open data(hello) eof close(eof)") and can be told what to do in it.
 */
#ifndef PORTICO_TESTS_STAGE_H
#define PORTICO_TESTS_STAGE_H

#include "conn.h"
#include "contract/rig.h"
#include "timer.h"

typedef struct player player;

struct player {
    conn *c; /* NULL after on_close */
    io_socket peer;
    char events[4096]; /* what was called, separated by blanks */
    uint8_t *received;
    size_t received_len;
    size_t received_room;
    bool quiet; /* events are counted, not written down */
    unsigned opens, datas, readables, eofs, drains, closes;
    bool keep; /* on_close does not release: the test does */
    /* Called in the event of that kind, after it was written down. May be NULL. */
    void (*in_open)(player *p);
    void (*in_data)(player *p, const uint8_t *data, size_t len);
    void (*in_readable)(player *p);
    void (*in_eof)(player *p);
    void (*in_drain)(player *p);
    void (*in_close)(player *p);
};

typedef struct stage {
    rig rig;
    timers timers;
    conn_set conns;
    conn_limits limits;
} stage;

void stage_open(stage *s);
/* All players have closed. */
void stage_close(stage *s);

/* A connection from a plain peer, on_open already called. */
void stage_pair(stage *s, player *p, conn_receive receive, bool half_open);
/* The same for an outbound connection to addr; on_open is not waited for. */
void stage_connect(stage *s, player *p, const net_addr *addr);
/* The peer's end goes; the connection has closed already. */
void stage_leave(stage *s, player *p);

/* One turn of the loop: packets, timers, settling. Sleeps at most timeout_ns. */
void stage_turn(stage *s, int64_t timeout_ns);
/* Turns until the condition holds, or fails the test after RIG_PATIENCE_NS. */
#define stage_until(s, condition) \
    do { \
        int64_t deadline_ = io_port_now((s)->rig.port) + RIG_PATIENCE_NS; \
        while (!(condition)) { \
            if (io_port_now((s)->rig.port) > deadline_) fail("never: %s", #condition); \
            stage_turn(s, 10000000); \
        } \
    } while (0)
/* Turns for ns, for what must not happen. */
void stage_quiet(stage *s, int64_t ns);
/* The player's events so far are exactly this. */
#define check_events(p, text) check_str((p)->events, text)

/* Queues a text. */
void player_sends(player *p, const char *text);
/* An in_data: sends what comes back. */
void player_echoes(player *p, const uint8_t *data, size_t len);
/* What the peer gets next is exactly this. */
void player_peer_gets(player *p, const char *text);
void player_peer_gets_fin(player *p);

#endif
