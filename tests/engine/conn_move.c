/* conn_move.c - a connection changes its owner, and a walk over the connections outlasts their coming and going.
 *
 * Method: a second set of events that counts; what is kept, limits and modes are looked at after each move.
 */
#include "stage.h"

#include <string.h>

static unsigned datas, readables, closes;
static char last[64];

static void on_open(conn *c, io_status status)
{
    (void)c;
    (void)status;
    fail("on_open comes again");
}

static void on_data(conn *c, const uint8_t *data, size_t len)
{
    (void)c;
    check(len < sizeof(last));
    memcpy(last, data, len);
    last[len] = '\0';
    datas++;
}

static void on_readable(conn *c)
{
    size_t bytes;
    readables++;
    check_eq(conn_draw(c, last, sizeof(last) - 1, &bytes), IO_OK);
    last[bytes] = '\0';
}

static void on_nothing(conn *c)
{
    (void)c;
}

static void on_close(conn *c, conn_reason reason, io_status status)
{
    player *p = c->user;
    (void)reason;
    (void)status;
    closes++;
    p->c = NULL;
    conn_release(c);
}

static const conn_events others = {on_open, on_data, on_readable, on_nothing, on_nothing, on_close, on_nothing, NULL};

static void move(conn *c, const conn_limits *limits, conn_receive receive)
{
    conn_config config = {.events = &others, .limits = limits, .receive = receive};
    conn_move(c, &config);
}

static void events_go_to_the_new_owner(void)
{
    stage s;
    player p = {0};
    datas = closes = 0;
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    peer_send(p.peer, "one", 3);
    stage_until(&s, p.datas == 1);
    conn_limits limits = s.limits;
    move(p.c, &limits, CONN_LENT);
    check(p.c->limits == &limits);
    peer_send(p.peer, "two", 3);
    stage_until(&s, datas == 1);
    check_str(last, "two");
    check_eq(p.datas, 1);
    peer_shutdown(p.peer);
    stage_until(&s, closes == 1);
    check_eq(p.closes, 0);
    stage_leave(&s, &p);
    stage_close(&s);
}

/* The receive that is under way lends a buffer, and its bytes come to one who draws. */
static void bytes_that_were_on_their_way_are_drawn(void)
{
    stage s;
    player p = {0};
    readables = closes = 0;
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    conn_limits limits = s.limits;
    move(p.c, &limits, CONN_READY);
    peer_send(p.peer, "drawn", 5);
    stage_until(&s, readables == 1);
    check_str(last, "drawn");
    peer_send(p.peer, "again", 5);
    stage_until(&s, readables == 2);
    check_str(last, "again");
    peer_shutdown(p.peer);
    stage_until(&s, closes == 1);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void what_is_its_own_stays(void)
{
    stage s;
    player p = {0};
    closes = 0;
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    conn_limits *own = conn_own_limits(p.c);
    check(own != NULL);
    own->send_high = 12345;
    p.c->own_receive = p.c->own_half_open = p.c->half_open = true;
    conn_limits limits = s.limits;
    limits.frame = (frame_rule){.type = FRAME_LINE, .max = 77};
    move(p.c, &limits, CONN_POSTED);
    check_eq(p.c->limits->send_high, 12345);
    check_eq(p.c->limits->frame.max, 77); /* the frame was not its own */
    check_eq(p.c->receive, CONN_LENT);
    check(p.c->half_open);
    conn_abort(p.c, CONN_LOCAL, IO_OK);
    stage_until(&s, closes == 1);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void a_walk_meets_each_once_whatever_ends_meanwhile(void)
{
    enum { COUNT = 6 };
    stage s;
    player players[COUNT] = {{0}}, late = {0};
    unsigned met = 0;
    stage_open(&s);
    for (size_t i = 0; i < COUNT; i++) stage_pair(&s, &players[i], CONN_LENT, false);
    conn_walk_begin(&s.conns);
    check(conn_walk_next(&s.conns) == players[5].c);
    conn_abort(players[4].c, CONN_LOCAL, IO_OK); /* the next, and the one behind it */
    conn_abort(players[3].c, CONN_LOCAL, IO_OK);
    stage_until(&s, players[4].closes == 1 && players[3].closes == 1);
    stage_pair(&s, &late, CONN_LENT, false);
    for (conn *c = conn_walk_next(&s.conns); c != NULL; c = conn_walk_next(&s.conns)) {
        check(c == players[2 - met].c);
        met++;
    }
    check_eq(met, 3);
    check(conn_walk_next(&s.conns) == NULL);
    for (size_t i = 0; i < COUNT; i++) {
        if (players[i].c != NULL) conn_abort(players[i].c, CONN_LOCAL, IO_OK);
    }
    conn_abort(late.c, CONN_LOCAL, IO_OK);
    stage_until(&s, s.conns.count == 0);
    for (size_t i = 0; i < COUNT; i++) stage_leave(&s, &players[i]);
    stage_leave(&s, &late);
    stage_close(&s);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(events_go_to_the_new_owner);
    check_run(bytes_that_were_on_their_way_are_drawn);
    check_run(what_is_its_own_stays);
    check_run(a_walk_meets_each_once_whatever_ends_meanwhile);
    return check_end();
}
