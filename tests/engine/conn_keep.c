/* conn_keep.c - what an owner does not take of its bytes comes again: with more, or at once, in order, and never twice.
 *
 * Method: players that take a part in on_data, and the text of their events compared.
 */
#include "stage.h"

#define MS(n) ((int64_t)(n)*1000000)

/* Takes messages of five bytes. */
static void take_fives(player *p, const uint8_t *data, size_t len)
{
    (void)data;
    if (conn_seen(p->c) > 0) check(conn_seen(p->c) < 5 && len >= 5);
    if (len % 5 != 0) conn_keep(p->c, len % 5, 5);
}

static void too_few_wait_for_more(void)
{
    stage s;
    player p = {.in_data = take_fives};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    const char *pieces[] = {"ab", "c", "d", "e", "fghij", "klmnopq", "rst"};
    size_t sent = 0;
    for (size_t i = 0; i < array_count(pieces); i++) {
        peer_send(p.peer, pieces[i], strlen(pieces[i]));
        sent += strlen(pieces[i]);
        stage_until(&s, p.c->received == sent);
    }
    check_events(&p, "open data(ab) data(abcde) data(fghij) data(klmnopq) data(pqrst)");
    check(p.c->stash == NULL);
    peer_shutdown(p.peer);
    stage_leave(&s, &p);
    stage_close(&s);
}

static size_t truncated;

static void note_truncated(player *p)
{
    truncated = conn_truncated(p->c);
}

static void an_end_that_comes_first_is_told_and_counts_what_is_lost(bool half_open, const char *expected)
{
    stage s;
    player p = {.in_data = take_fives, .in_close = note_truncated};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, half_open);
    truncated = 0;
    peer_send(p.peer, "abcdefg", 7);
    stage_until(&s, p.datas == 1);
    peer_shutdown(p.peer);
    if (half_open) {
        stage_until(&s, p.eofs == 1);
        check_eq(conn_truncated(p.c), 2);
        conn_close(p.c, CONN_LOCAL);
    }
    stage_until(&s, p.closes == 1);
    check_events(&p, expected);
    check_eq(truncated, 2);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void an_end_that_comes_first_closes(void)
{
    an_end_that_comes_first_is_told_and_counts_what_is_lost(false, "open data(abcdefg) close(eof)");
}

static void an_end_that_comes_first_is_told(void)
{
    an_end_that_comes_first_is_told_and_counts_what_is_lost(true, "open data(abcdefg) eof close(local)");
}

/* Takes two bytes, wants the rest at once, and says "." for it. */
static void take_two(player *p, const uint8_t *data, size_t len)
{
    (void)data;
    check_eq(conn_seen(p->c), 0);
    if (len > 2) conn_keep(p->c, len - 2, 0);
    check_eq(conn_send(p->c, ".", 1), IO_OK);
}

static void the_rest_comes_again_before_anything_else(void)
{
    stage s;
    player p = {.in_data = take_two};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    peer_send(p.peer, "abcdefg", 7);
    peer_shutdown(p.peer);
    stage_until(&s, p.closes == 1);
    check_events(&p, "open data(abcdefg) data(cdefg) data(efg) data(g) close(eof)");
    stage_leave(&s, &p);
    stage_close(&s);
}

static void hold_one(player *p, const uint8_t *data, size_t len)
{
    (void)data;
    conn_hold(p->c);
    if (len > 1) conn_keep(p->c, len - 1, 0);
}

static void what_is_held_waits(void)
{
    stage s;
    player p = {.in_data = hold_one};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    peer_send(p.peer, "abc", 3);
    stage_until(&s, p.datas == 1);
    stage_quiet(&s, MS(20));
    check_eq(p.datas, 1);
    conn_unhold(p.c);
    stage_until(&s, p.datas == 2);
    peer_send(p.peer, "d", 1);
    stage_quiet(&s, MS(20));
    conn_unhold(p.c);
    stage_until(&s, p.datas == 3);
    conn_unhold(p.c);
    stage_until(&s, p.datas == 4);
    check_events(&p, "open data(abc) data(bc) data(c) data(d)");
    conn_unhold(p.c);
    conn_abort(p.c, CONN_LOCAL, IO_OK);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void pause_and_keep(player *p, const uint8_t *data, size_t len)
{
    (void)data;
    if (len == 1) return;
    conn_pause(p->c);
    conn_keep(p->c, len - 1, 0);
}

static void what_is_paused_waits_or_is_drawn(void)
{
    stage s;
    player p = {.in_data = pause_and_keep};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    peer_send(p.peer, "abcde", 5);
    stage_until(&s, p.datas == 1);
    stage_quiet(&s, MS(20));
    char bytes[2];
    size_t got;
    check_eq(conn_draw(p.c, bytes, sizeof(bytes), &got), IO_OK);
    check_eq(got, 2);
    check_mem(bytes, "bc", 2);
    conn_resume(p.c);
    stage_until(&s, p.datas == 2);
    conn_resume(p.c);
    stage_until(&s, p.datas == 3);
    check_events(&p, "open data(abcde) data(de) data(e)");
    conn_abort(p.c, CONN_LOCAL, IO_OK);
    stage_leave(&s, &p);
    stage_close(&s);
}

enum { ANSWER = 1 << 20 };

/* One byte asks for a mebibyte. */
static void answer_much(player *p, const uint8_t *data, size_t len)
{
    static uint8_t answer[ANSWER];
    (void)data;
    check_eq(conn_send(p->c, answer, sizeof(answer)), IO_OK);
    if (len > 1) conn_keep(p->c, len - 1, 0);
}

static void who_does_not_read_is_not_answered_on(void)
{
    stage s;
    player p = {.in_data = answer_much, .quiet = true};
    static uint8_t got[ANSWER];
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    peer_send(p.peer, "abcdefghij", 10);
    stage_until(&s, p.datas >= 1);
    stage_quiet(&s, MS(50));
    /* What the kernel took may have brought the queue below its mark once or twice, but nobody has read ten. */
    check(p.datas < 10);
    size_t read = 0;
    while (read < 10 * (size_t)ANSWER) {
        check(conn_queued(p.c) <= ANSWER + s.limits.send_high);
        long some = peer_recv_now(p.peer, got, sizeof(got));
        check(some != 0 && some != PEER_RESET);
        if (some > 0) read += (size_t)some;
        stage_turn(&s, some > 0 ? 0 : MS(1));
    }
    check_eq(p.datas, 10);
    peer_shutdown(p.peer);
    stage_leave(&s, &p);
    stage_close(&s);
}

static unsigned wanted;

static void want(player *p, const uint8_t *data, size_t len)
{
    (void)data;
    if (len < wanted) conn_keep(p->c, len, wanted);
}

static void a_new_need_is_asked_for(void)
{
    stage s;
    player p = {.in_data = want};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    wanted = 100;
    peer_send(p.peer, "abc", 3);
    stage_until(&s, p.datas == 1);
    peer_send(p.peer, "d", 1);
    stage_until(&s, p.c->received == 4);
    check_eq(p.datas, 1);
    wanted = 4;
    conn_rescan(p.c);
    stage_until(&s, p.datas == 2);
    conn_rescan(p.c); /* nothing is kept */
    stage_quiet(&s, MS(20));
    check_events(&p, "open data(abc) data(abcd)");
    conn_abort(p.c, CONN_LOCAL, IO_OK);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void close_and_keep(player *p, const uint8_t *data, size_t len)
{
    (void)data;
    conn_close(p->c, CONN_LOCAL);
    conn_keep(p->c, len, 0);
}

static void after_closing_nothing_is_kept(void)
{
    stage s;
    player p = {.in_data = close_and_keep};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    peer_send(p.peer, "abc", 3);
    stage_until(&s, p.datas == 1);
    check(p.c->stash == NULL);
    peer_shutdown(p.peer);
    stage_leave(&s, &p);
    check_events(&p, "open data(abc) close(local)");
    stage_close(&s);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(too_few_wait_for_more);
    check_run(an_end_that_comes_first_closes);
    check_run(an_end_that_comes_first_is_told);
    check_run(the_rest_comes_again_before_anything_else);
    check_run(what_is_held_waits);
    check_run(what_is_paused_waits_or_is_drawn);
    check_run(who_does_not_read_is_not_answered_on);
    check_run(a_new_need_is_asked_for);
    check_run(after_closing_nothing_is_kept);
    return rig_end();
}
