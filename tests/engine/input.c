/* input.c - bytes that nobody has taken yet: put back, offered, waited for without an event.
 *
 * Method: as conn.c; besides, a reader that waits for a number of bytes and notes what it got.
 */
#include "stage.h"

#define MS(n) ((int64_t)(n)*1000000)

/* ---- Put back ---- */

static void unread_bytes_come_first(void)
{
    stage s;
    player p = {0};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    check_eq(conn_unread(p.c, "world ", 6), IO_OK);
    check_eq(conn_unread(p.c, "hello ", 6), IO_OK);
    stage_quiet(&s, MS(30));
    check_eq(p.datas, 0);
    peer_send(p.peer, "!", 1);
    stage_until(&s, p.datas == 1);
    check_events(&p, "open data(hello world !)");
    conn_abort(p.c, CONN_LOCAL, IO_OK);
    check_eq(conn_unread(p.c, "x", 1), IO_CLOSED);
    stage_leave(&s, &p);
    stage_close(&s);
}

/* Takes two bytes, offers the others, and puts the two back. */
static void put_back(player *p, const uint8_t *data, size_t len)
{
    const uint8_t *rest;
    p->in_data = NULL;
    check_eq(len, 4);
    conn_offer(p->c, 2);
    check_eq(conn_input(p->c, &rest), 2);
    check_mem(rest, "cd", 2);
    conn_consume(p->c, 1);
    check_eq(conn_unread(p->c, data, 2), IO_OK);
    check_eq(conn_offered(p->c), 0);
    check_eq(conn_input(p->c, &rest), 3);
    check_mem(rest, "abd", 3);
}

static void unread_goes_in_front_of_what_is_offered(void)
{
    stage s;
    player p = {.in_data = put_back};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    peer_send(p.peer, "abcd", 4);
    stage_until(&s, p.datas == 2);
    check_events(&p, "open data(abcd) data(abd)");
    peer_shutdown(p.peer);
    stage_leave(&s, &p);
    stage_close(&s);
}

/* ---- Waited for ---- */

typedef struct reader {
    conn_wait wait;
    size_t want; /* bytes */
    unsigned wakes;
    bool over;
    bool at_eof;
    char got[64];
} reader;

static void read_on(conn_wait *wait, conn *c)
{
    reader *r = container_of(wait, reader, wait);
    const uint8_t *data;
    r->wakes++;
    size_t len = conn_input(c, &data);
    if (len >= r->want || c->eof_seen || c->state != CONN_OPEN) {
        size_t take = len < r->want ? len : r->want;
        check(take < sizeof(r->got));
        if (take > 0) memcpy(r->got, data, take);
        conn_consume(c, take);
        r->over = true;
        r->at_eof = c->eof_seen;
    } else {
        conn_wait_begin(c, &r->wait, CONN_WANT_INPUT);
    }
}

static void read_begin(reader *r, conn *c, size_t want)
{
    memset(r, 0, sizeof(*r));
    r->wait.wake = read_on;
    r->want = want;
    conn_wait_begin(c, &r->wait, CONN_WANT_INPUT);
}

static void a_reader_gets_bytes_though_held_or_paused(void)
{
    stage s;
    reader r;
    player p = {0};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    conn_hold(p.c);
    conn_pause(p.c);
    read_begin(&r, p.c, 5);
    check(conn_is_read(p.c));
    for (unsigned i = 0; i < 7; i++) {
        peer_send(p.peer, &"abcdefg"[i], 1);
        stage_until(&s, p.c->received == i + 1 || r.over);
        if (r.over) break;
    }
    check_str(r.got, "abcde");
    check(!conn_is_read(p.c));
    check_eq(p.datas, 0);
    peer_send(p.peer, "xyz", 3); /* nobody waits: it stays where it is, or is kept */
    conn_unhold(p.c);
    stage_quiet(&s, MS(20));
    check_eq(p.datas, 0);
    conn_resume(p.c);
    stage_until(&s, p.received_len == 3);
    check_mem(p.received, "xyz", 3);
    peer_shutdown(p.peer);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void what_a_reader_leaves_goes_to_on_data(void)
{
    stage s;
    reader r;
    player p = {0};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    read_begin(&r, p.c, 2);
    peer_send(p.peer, "abcd", 4);
    stage_until(&s, p.datas == 1);
    check_str(r.got, "ab");
    check_events(&p, "open data(cd)");
    peer_shutdown(p.peer);
    stage_until(&s, p.closes == 1);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void a_reader_hears_of_the_end_before_on_close(void)
{
    static const char *const expected[] = {"open close(eof)", "open close(reset)", "open close(local)"};
    for (unsigned way = 0; way < 3; way++) {
        stage s;
        reader r;
        player p = {0};
        stage_open(&s);
        stage_pair(&s, &p, CONN_LENT, false);
        conn_hold(p.c);
        read_begin(&r, p.c, 5);
        peer_send(p.peer, "abc", 3);
        stage_until(&s, r.wakes == 1);
        if (way == 0) peer_shutdown(p.peer);
        else if (way == 1) peer_reset(p.peer);
        else conn_close(p.c, CONN_LOCAL);
        if (way == 1) p.peer = IO_SOCKET_NONE;
        stage_until(&s, r.over);
        check_eq(r.at_eof, way == 0);
        if (way == 0) check_str(r.got, "abc");
        check_eq(p.closes, 0);
        conn_unhold(p.c);
        if (way == 2) peer_shutdown(p.peer);
        stage_until(&s, p.closes == 1);
        check_events(&p, expected[way]);
        stage_leave(&s, &p);
        stage_close(&s);
    }
}

static void a_stop_that_is_put_off_is_heard_of_once(void)
{
    stage s;
    reader r;
    player p = {0};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    conn_hold(p.c);
    read_begin(&r, p.c, 5);
    conn_close(p.c, CONN_SHUTDOWN);
    stage_quiet(&s, MS(20));
    check_eq(r.wakes, 1);
    check(!r.over && p.c->shutdown_due);
    peer_send(p.peer, "abcde", 5);
    stage_until(&s, r.over);
    check_str(r.got, "abcde");
    conn_unhold(p.c);
    peer_shutdown(p.peer);
    stage_until(&s, p.closes == 1);
    check_events(&p, "open close(shutdown)");
    stage_leave(&s, &p);
    stage_close(&s);
}

static void ready_mode_is_read_like_the_others(void)
{
    stage s;
    reader r;
    player p = {0};
    stage_open(&s);
    stage_pair(&s, &p, CONN_READY, false);
    stage_turn(&s, 0); /* a zero-byte read is under way */
    read_begin(&r, p.c, 3);
    peer_send(p.peer, "abcde", 5);
    stage_until(&s, r.over);
    check_str(r.got, "abc");
    stage_until(&s, p.readables == 1);
    char rest[8];
    size_t got;
    check_eq(conn_draw(p.c, rest, sizeof(rest), &got), IO_OK);
    check_eq(got, 2);
    conn_abort(p.c, CONN_LOCAL, IO_OK);
    stage_leave(&s, &p);
    stage_close(&s);
}

/* ---- The queue waited for ---- */

typedef struct writer {
    conn_wait wait;
    unsigned wakes;
} writer;

static void count_wake(conn_wait *wait, conn *c)
{
    (void)c;
    container_of(wait, writer, wait)->wakes++;
}

static void the_queue_is_waited_for(void)
{
    enum { BYTES = 4 << 20 };
    stage s;
    player p = {.quiet = true};
    writer low = {.wait = {.wake = count_wake}}, empty = low, given_up = low;
    static uint8_t bytes[BYTES];
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    check_eq(conn_send(p.c, bytes, sizeof(bytes)), IO_OK);
    check(conn_is_high(p.c));
    conn_wait_begin(p.c, &empty.wait, CONN_WANT_EMPTY);
    conn_wait_begin(p.c, &given_up.wait, CONN_WANT_LOW);
    conn_wait_begin(p.c, &low.wait, CONN_WANT_LOW);
    conn_wait_end(p.c, &given_up.wait);
    for (size_t got = 0; got < sizeof(bytes);) {
        static uint8_t piece[65536];
        stage_turn(&s, 1000000);
        if (empty.wakes == 1) check_eq(conn_queued(p.c), 0);
        if (low.wakes == 0) check(conn_is_high(p.c));
        long n = peer_recv_now(p.peer, piece, sizeof(piece));
        check(n > 0 || n == PEER_AGAIN);
        if (n > 0) got += (size_t)n;
    }
    stage_until(&s, empty.wakes == 1);
    check_eq(low.wakes, 1);
    check_eq(given_up.wakes, 0);
    check_eq(conn_send(p.c, bytes, sizeof(bytes)), IO_OK);
    conn_wait_begin(p.c, &empty.wait, CONN_WANT_EMPTY);
    conn_wait_begin(p.c, &low.wait, CONN_WANT_LOW);
    conn_abort(p.c, CONN_LOCAL, IO_OK); /* ends all waiting */
    stage_until(&s, p.closes == 1);
    check_eq(low.wakes, 2);
    check_eq(empty.wakes, 2);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void a_turn_comes_when_it_is_not_held(void)
{
    stage s;
    player p = {0};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    conn_hold(p.c);
    conn_turn(p.c);
    conn_turn(p.c);
    stage_quiet(&s, MS(10));
    check_events(&p, "open");
    peer_send(p.peer, "x", 1);
    conn_unhold(p.c);
    stage_until(&s, p.datas == 1);
    check_events(&p, "open turn data(x)");
    conn_turn(p.c);
    conn_abort(p.c, CONN_LOCAL, IO_OK);
    stage_until(&s, p.closes == 1);
    check_events(&p, "open turn data(x) close(local)");
    stage_leave(&s, &p);
    stage_close(&s);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(unread_bytes_come_first);
    check_run(unread_goes_in_front_of_what_is_offered);
    check_run(a_reader_gets_bytes_though_held_or_paused);
    check_run(what_a_reader_leaves_goes_to_on_data);
    check_run(a_reader_hears_of_the_end_before_on_close);
    check_run(a_stop_that_is_put_off_is_heard_of_once);
    check_run(ready_mode_is_read_like_the_others);
    check_run(the_queue_is_waited_for);
    check_run(a_turn_comes_when_it_is_not_held);
    return check_end();
}
