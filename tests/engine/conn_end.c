/* conn_end.c - how a connection ends: closing, refusing, half-closing, resets, timeouts.
 *
 * Method: that of conn.c.
 */
#include "stage.h"

#include "os.h"

#define MS(n) ((int64_t)(n)*1000000)

static void answer_and_close(player *p, const uint8_t *data, size_t len)
{
    (void)data;
    (void)len;
    player_sends(p, "bye");
    conn_close(p->c, CONN_LOCAL);
    check_eq(conn_send(p->c, "more", 4), IO_CLOSED);
}

static void close_sends_what_is_queued_first(void)
{
    stage s;
    player p = {.in_data = answer_and_close};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    peer_send(p.peer, "x", 1);
    stage_until(&s, p.c == NULL || p.c->fin_sent);
    player_peer_gets(&p, "bye");
    player_peer_gets_fin(&p);
    peer_shutdown(p.peer);
    stage_until(&s, p.closes == 1);
    check_events(&p, "open data(x) close(local)");
    stage_leave(&s, &p);
    stage_close(&s);
}

static void close_in_open(player *p)
{
    conn_close(p->c, CONN_LOCAL);
}

static void a_connection_can_be_refused_in_open(void)
{
    stage s;
    player p = {.in_open = close_in_open};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    peer_send(p.peer, "x", 1);
    peer_shutdown(p.peer);
    stage_until(&s, p.closes == 1);
    check_events(&p, "open close(local)");
    stage_leave(&s, &p);
    stage_close(&s);
}

static void a_peer_that_keeps_its_side_open_is_left_after_lingering(void)
{
    stage s;
    player p = {0};
    stage_open(&s);
    s.limits.linger_ns = MS(60);
    stage_pair(&s, &p, CONN_LENT, false);
    player_sends(&p, "all");
    conn_close(p.c, CONN_LOCAL);
    stage_until(&s, p.closes == 1);
    player_peer_gets(&p, "all");
    player_peer_gets_fin(&p); /* and not a reset */
    check_events(&p, "open close(local)");
    stage_leave(&s, &p);
    stage_close(&s);
}

static void say_last(player *p)
{
    player_sends(p, "last words");
    conn_close(p->c, CONN_LOCAL);
}

static void a_half_open_connection_still_sends_after_fin(void)
{
    stage s;
    player p = {.in_eof = say_last};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, true);
    peer_send(p.peer, "q", 1);
    peer_shutdown(p.peer);
    stage_until(&s, p.closes == 1);
    player_peer_gets(&p, "last words");
    player_peer_gets_fin(&p);
    check_events(&p, "open data(q) eof close(local)");
    stage_leave(&s, &p);
    stage_close(&s);
}

static void our_own_half_close_leaves_receiving_open(void)
{
    stage s;
    player p = {0};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    player_sends(&p, "done");
    conn_shutdown(p.c);
    check_eq(conn_send(p.c, "more", 4), IO_CLOSED);
    stage_until(&s, p.c->fin_sent);
    player_peer_gets(&p, "done");
    player_peer_gets_fin(&p);
    peer_send(p.peer, "still", 5);
    stage_until(&s, p.received_len == 5);
    peer_shutdown(p.peer);
    stage_until(&s, p.closes == 1);
    check_events(&p, "open data(still) close(eof)");
    stage_leave(&s, &p);
    stage_close(&s);
}

static void half_close_both_ways_ends_a_half_open_connection(void)
{
    stage s;
    player p = {0};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, true);
    conn_shutdown(p.c);
    stage_until(&s, p.c->fin_sent);
    peer_shutdown(p.peer);
    stage_until(&s, p.closes == 1);
    check_events(&p, "open eof close(eof)");
    stage_leave(&s, &p);
    stage_close(&s);
}

static void a_reset_is_told_apart_from_an_end(void)
{
    stage s;
    player p = {0};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, true);
    stage_quiet(&s, MS(5)); /* a receive is pending */
    peer_reset(p.peer);
    p.peer = IO_SOCKET_NONE;
    stage_until(&s, p.closes == 1);
    check_events(&p, "open close(reset)");
    stage_leave(&s, &p);
    stage_close(&s);
}

static void abort_resets_the_peer(void)
{
    stage s;
    player p = {0};
    char byte;
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    conn_abort(p.c, CONN_ERROR, IO_OK);
    stage_until(&s, p.closes == 1);
    check_events(&p, "open close(error)");
    check(peer_ready(p.peer, false, RIG_PATIENCE_NS));
    long n = peer_recv_now(p.peer, &byte, 1);
    if (!os_is_wine()) check_eq(n, PEER_RESET); /* Wine tells a reset only to an op that is pending */
    stage_leave(&s, &p);
    stage_close(&s);
}

static void timeouts_have_their_reasons(void)
{
    stage s;
    player idle = {.in_data = player_echoes}, silent = {0};
    stage_open(&s);
    s.limits.idle_ns =
        MS(1500); /* a machine that does nothing for so long between two bytes would be one too crowded */
    s.limits.linger_ns = MS(20);
    stage_pair(&s, &idle, CONN_LENT, false);
    int64_t start = io_port_now(s.rig.port), last;
    do { /* bytes keep it alive beyond its first deadline */
        last = io_port_now(s.rig.port);
        peer_send(idle.peer, "x", 1);
        stage_quiet(&s, MS(20));
    } while (last - start < MS(1600));
    check_eq(idle.closes, 0);
    stage_until(&s, idle.closes == 1);
    check(io_port_now(s.rig.port) - last >= MS(1500));
    check(strstr(idle.events, "close(idle)") != NULL);
    s.limits.idle_ns = 0;
    s.limits.first_byte_ns = MS(40);
    stage_pair(&s, &silent, CONN_LENT, false);
    stage_until(&s, silent.closes == 1);
    check_events(&silent, "open close(timeout)");
    stage_leave(&s, &idle);
    stage_leave(&s, &silent);
    stage_close(&s);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(close_sends_what_is_queued_first);
    check_run(a_connection_can_be_refused_in_open);
    check_run(a_peer_that_keeps_its_side_open_is_left_after_lingering);
    check_run(a_half_open_connection_still_sends_after_fin);
    check_run(our_own_half_close_leaves_receiving_open);
    check_run(half_close_both_ways_ends_a_half_open_connection);
    check_run(a_reset_is_told_apart_from_an_end);
    check_run(abort_resets_the_peer);
    check_run(timeouts_have_their_reasons);
    return rig_end();
}
