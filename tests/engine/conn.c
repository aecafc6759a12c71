/* conn.c - what conn.h promises, over a real port: order of events, deferring, backpressure, outbound ones, slots.
 * How it ends: conn_end.c.
 *
 * Method: a connection whose player writes its events down, a plain peer at the other end, and the text compared.
 */
#include "stage.h"

#define MS(n) ((int64_t)(n)*1000000)

static void bytes_come_back_and_are_counted(void)
{
    stage s;
    player p = {.in_data = player_echoes};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    peer_send(p.peer, "hello", 5);
    stage_until(&s, p.datas == 1 && p.c->sent == 5);
    player_peer_gets(&p, "hello");
    check_eq(p.c->received, 5);
    check_eq(p.c->messages, 1);
    peer_shutdown(p.peer);
    stage_until(&s, p.closes == 1);
    player_peer_gets_fin(&p);
    check_events(&p, "open data(hello) close(eof)");
    stage_leave(&s, &p);
    stage_close(&s);
}

static void every_receive_mode_delivers(conn_receive receive)
{
    stage s;
    player p = {.in_data = player_echoes};
    stage_open(&s);
    stage_pair(&s, &p, receive, false);
    for (unsigned i = 1; i <= 50; i++) {
        peer_send(p.peer, "abc", 3);
        stage_until(&s, p.received_len == (size_t)i * 3);
    }
    stage_until(&s, p.c->sent == 150);
    peer_shutdown(p.peer);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void lent_receives_deliver(void)
{
    every_receive_mode_delivers(CONN_LENT);
}

static void posted_receives_deliver(void)
{
    every_receive_mode_delivers(CONN_POSTED);
}

static void draw_three(player *p)
{
    char bytes[3];
    size_t got;
    if (conn_draw(p->c, bytes, sizeof(bytes), &got) != IO_OK) return;
    check_eq(conn_send(p->c, bytes, got), IO_OK);
}

static void ready_mode_asks_again_until_all_is_drawn(void)
{
    stage s;
    player p = {.in_readable = draw_three};
    stage_open(&s);
    stage_pair(&s, &p, CONN_READY, false);
    peer_send(p.peer, "abcdefgh", 8);
    stage_until(&s, p.c->received == 8);
    check_eq(p.datas, 0);
    check(p.readables >= 3);
    stage_until(&s, p.c->sent == 8);
    player_peer_gets(&p, "abcdefgh");
    peer_shutdown(p.peer);
    stage_until(&s, p.closes == 1);
    check_eq(p.eofs, 0);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void who_does_not_draw_is_not_asked_again(void)
{
    stage s;
    player p = {0};
    stage_open(&s);
    stage_pair(&s, &p, CONN_READY, false);
    peer_send(p.peer, "abc", 3);
    stage_until(&s, p.readables == 1);
    stage_quiet(&s, MS(50));
    check_eq(p.readables, 1);
    char bytes[8];
    size_t got;
    check_eq(conn_draw(p.c, bytes, sizeof(bytes), &got), IO_OK);
    check_eq(got, 3);
    check_eq(conn_draw(p.c, bytes, sizeof(bytes), &got), IO_AGAIN);
    peer_send(p.peer, "d", 1);
    stage_until(&s, p.readables == 2);
    conn_abort(p.c, CONN_LOCAL, IO_OK);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void modes_change_in_mid_stream_without_losing_a_byte(void)
{
    stage s;
    player p = {.quiet = true};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    uint8_t sent[300], got[300];
    size_t total = 0;
    pattern_fill(sent, sizeof(sent), 7, 0);
    for (unsigned i = 0; i < 100; i++) {
        conn_set_receive(p.c, (conn_receive)(i % 3));
        peer_send(p.peer, sent + (size_t)i * 3, 3);
        unsigned readables = p.readables;
        stage_until(&s, total + p.received_len == ((size_t)i + 1) * 3 || p.readables > readables);
        for (;;) { /* in ready mode the bytes are still there; in the others this finds none */
            size_t n;
            if (p.c->receive != CONN_READY) break;
            io_status status = conn_draw(p.c, got, sizeof(got), &n);
            if (status != IO_OK) break;
            check_mem(got, sent + total + p.received_len, n);
            total += n;
        }
    }
    stage_until(&s, total + p.received_len == 300);
    check_eq(p.c->received, 300);
    peer_shutdown(p.peer);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void hold_in_data(player *p, const uint8_t *data, size_t len)
{
    (void)data;
    (void)len;
    conn_hold(p->c);
}

static void a_held_connection_gets_its_events_afterwards_in_order(void)
{
    stage s;
    player p = {.in_data = hold_in_data};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, true);
    peer_send(p.peer, "1", 1);
    stage_until(&s, p.datas == 1);
    peer_send(p.peer, "2", 1);
    peer_shutdown(p.peer);
    stage_quiet(&s, MS(30));
    check_events(&p, "open data(1)");
    p.in_data = NULL;
    conn_unhold(p.c);
    stage_until(&s, p.eofs == 1);
    check_events(&p, "open data(1) data(2) eof");
    conn_close(p.c, CONN_LOCAL);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void what_was_on_its_way_when_held_is_kept(void)
{
    stage s;
    player p = {0};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    stage_quiet(&s, MS(5)); /* the receive is pending now */
    conn_hold(p.c);
    conn_hold(p.c);
    peer_send(p.peer, "early", 5);
    stage_until(&s, p.c->received == 5);
    check_eq(p.datas, 0);
    conn_unhold(p.c);
    stage_quiet(&s, MS(10));
    check_eq(p.datas, 0);
    conn_unhold(p.c);
    stage_until(&s, p.datas == 1);
    check_events(&p, "open data(early)");
    peer_shutdown(p.peer);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void the_end_of_a_held_connection_waits(void)
{
    stage s;
    player p = {0};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    stage_quiet(&s, MS(5));
    conn_hold(p.c);
    peer_reset(p.peer);
    p.peer = IO_SOCKET_NONE;
    stage_until(&s, p.c->state == CONN_CLOSED);
    check_eq(p.closes, 0);
    check_eq(conn_send(p.c, "x", 1), IO_CLOSED);
    conn_unhold(p.c);
    stage_until(&s, p.closes == 1);
    check_events(&p, "open close(reset)");
    stage_leave(&s, &p);
    stage_close(&s);
}

static void paused_bytes_wait_and_can_be_drawn(void)
{
    stage s;
    player p = {0};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    stage_quiet(&s, MS(5));
    conn_pause(p.c);
    peer_send(p.peer, "abcdef", 6);
    stage_until(&s, p.c->received == 6); /* the receive that was pending */
    check_eq(p.datas, 0);
    char bytes[4];
    size_t got;
    check_eq(conn_draw(p.c, bytes, 4, &got), IO_OK);
    check_eq(got, 4);
    check_mem(bytes, "abcd", 4);
    conn_resume(p.c);
    stage_until(&s, p.datas == 1);
    check_events(&p, "open data(ef)");
    peer_shutdown(p.peer);
    stage_leave(&s, &p);
    stage_close(&s);
}
/* Queues bytes until the kernel has taken none for a while and len are left. */
static void fill(stage *s, player *p, size_t len)
{
    static uint8_t block[65536];
    for (int unchanged = 0; unchanged < 4;) {
        uint64_t sent = p->c->sent;
        while (conn_queued(p->c) < len + sizeof(block)) check_eq(conn_send(p->c, block, sizeof(block)), IO_OK);
        stage_quiet(s, MS(30));
        unchanged = p->c->sent == sent ? unchanged + 1 : 0;
    }
    check(conn_queued(p->c) >= len);
}

static void a_peer_that_takes_nothing_runs_into_the_write_timeout(void)
{
    stage s;
    player p = {.quiet = true};
    stage_open(&s);
    s.limits.send_max = 0;
    stage_pair(&s, &p, CONN_LENT, false);
    fill(&s, &p, 4 << 20);
    p.quiet = false;
    s.limits.write_ns = MS(100);
    conn_limits_changed(p.c);
    stage_until(&s, p.closes == 1);
    check_events(&p, "close(timeout)");
    stage_leave(&s, &p);
    stage_close(&s);
}

static void a_queue_without_end_is_overflow(void)
{
    stage s;
    player p = {0};
    static uint8_t block[65536];
    stage_open(&s);
    s.limits.send_max = 256 * 1024;
    stage_pair(&s, &p, CONN_LENT, false);
    io_status status = IO_OK;
    for (int i = 0; i < 10000 && status == IO_OK; i++) {
        status = conn_send(p.c, block, sizeof(block));
        check(conn_queued(p.c) <= s.limits.send_max + sizeof(block));
        stage_turn(&s, 0);
    }
    check_eq(status, IO_LIMIT);
    stage_until(&s, p.closes == 1);
    check(strstr(p.events, " close(overflow)") != NULL);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void above_the_high_mark_nothing_is_read_and_drain_is_told_once(void)
{
    stage s;
    player p = {.quiet = true};
    stage_open(&s);
    s.limits.send_high = 50000;
    s.limits.send_low = 10000;
    s.limits.send_max = 0;
    stage_pair(&s, &p, CONN_LENT, false);
    fill(&s, &p, 4 << 20);
    check(conn_is_high(p.c));
    uint64_t before = p.c->received;
    unsigned drains = p.drains; /* while it was being filled */
    static uint8_t block[100000];
    for (int i = 0; i < 3; i++) peer_send_now(p.peer, block, sizeof(block));
    stage_quiet(&s, MS(30));
    check(p.c->received - before <= IO_RECV_BYTES); /* at most the receive that was pending */
    check_eq(p.drains, drains);
    uint64_t total = p.c->sent + conn_queued(p.c);
    for (uint64_t got = 0; got < total;) {
        stage_turn(&s, 0);
        long n = peer_recv_now(p.peer, block, sizeof(block));
        check(n != 0 && n != PEER_RESET);
        if (n > 0) got += (uint64_t)n;
    }
    stage_until(&s, p.drains == drains + 1 && p.c->received > before);
    stage_quiet(&s, MS(10));
    check_eq(p.drains, drains + 1);
    conn_abort(p.c, CONN_LOCAL, IO_OK);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void eight_mebibytes_pass_through_a_slow_reader_in_order(void)
{
    enum { TOTAL = 8 << 20 };
    stage s;
    player p = {.quiet = true, .in_data = player_echoes};
    stage_open(&s);
    stage_pair(&s, &p, CONN_LENT, false);
    static uint8_t out[30011], in[7919];
    uint64_t sent = 0, got = 0;
    while (got < TOTAL) {
        if (sent < TOTAL) {
            size_t len = TOTAL - sent < sizeof(out) ? (size_t)(TOTAL - sent) : sizeof(out);
            pattern_fill(out, len, 3, sent);
            long n = peer_send_now(p.peer, out, len);
            if (n > 0) sent += (uint64_t)n;
        }
        stage_turn(&s, 0);
        check(conn_queued(p.c) <= s.limits.send_high + IO_RECV_BYTES);
        long n = peer_recv_now(p.peer, in, sizeof(in));
        check(n != 0 && n != PEER_RESET);
        if (n > 0) {
            check_pattern(in, (size_t)n, 3, got);
            got += (uint64_t)n;
        }
        p.received_len = 0;
    }
    peer_shutdown(p.peer);
    stage_leave(&s, &p);
    stage_close(&s);
}

static void a_drain_has_a_deadline(void)
{
    stage s;
    player p = {.quiet = true};
    stage_open(&s);
    s.conns.drain_ns = MS(100);
    s.limits.send_max = 0;
    stage_pair(&s, &p, CONN_LENT, false);
    fill(&s, &p, 4 << 20);
    p.quiet = false;
    conn_close(p.c, CONN_LOCAL);
    stage_until(&s, p.closes == 1);
    check_events(&p, "close(timeout)");
    stage_leave(&s, &p);
    stage_close(&s);
}

static void connecting_reports_how_it_went(void)
{
    stage s;
    player good = {0}, refused = {0}, given_up = {0};
    stage_open(&s);
    net_addr there, nobody = address_nobody();
    io_socket listening = peer_listen(&there);
    stage_connect(&s, &good, &there);
    stage_until(&s, good.opens == 1);
    good.peer = peer_accept(listening);
    player_sends(&good, "ping");
    stage_until(&s, good.c->sent == 4);
    player_peer_gets(&good, "ping");
    peer_send(good.peer, "pong", 4);
    stage_until(&s, good.received_len == 4);
    peer_shutdown(good.peer);
    stage_until(&s, good.closes == 1);
    check_events(&good, "open data(pong) close(eof)");
    stage_connect(&s, &refused, &nobody);
    stage_until(&s, refused.opens == 1);
    check_events(&refused, "open(refused)");
    stage_connect(&s, &given_up, &there);
    conn_close(given_up.c, CONN_LOCAL);
    stage_until(&s, given_up.opens == 1);
    check(given_up.c == NULL);
    check_events(&given_up, "open(canceled)");
    peer_close(listening);
    stage_leave(&s, &good);
    stage_leave(&s, &refused);
    stage_close(&s);
}

static player *other;

static void tell_the_other(player *p, const uint8_t *data, size_t len)
{
    (void)p;
    check_eq(conn_send(other->c, data, len), IO_OK);
    conn_close(other->c, CONN_LOCAL);
}

static void one_connection_can_send_to_and_close_another(void)
{
    stage s;
    player a = {.in_data = tell_the_other}, b = {0};
    stage_open(&s);
    stage_pair(&s, &a, CONN_LENT, false);
    stage_pair(&s, &b, CONN_LENT, false);
    other = &b;
    peer_send(a.peer, "to b", 4);
    stage_until(&s, b.c->fin_sent);
    player_peer_gets(&b, "to b");
    player_peer_gets_fin(&b);
    peer_shutdown(b.peer);
    peer_shutdown(a.peer);
    stage_leave(&s, &a);
    stage_leave(&s, &b);
    stage_close(&s);
}

static void a_slot_waits_for_its_release_and_ids_are_never_reused(void)
{
    stage s;
    player kept = {.keep = true};
    stage_open(&s);
    stage_pair(&s, &kept, CONN_LENT, false);
    conn *slot = kept.c;
    uint64_t last = slot->id;
    conn_close(slot, CONN_LOCAL);
    peer_shutdown(kept.peer);
    stage_until(&s, kept.closes == 1);
    for (int i = 0; i < 300; i++) {
        player p = {.in_data = player_echoes};
        stage_pair(&s, &p, CONN_LENT, false);
        check(p.c != slot);
        check(p.c->id > last);
        last = p.c->id;
        peer_send(p.peer, "k", 1);
        stage_until(&s, p.received_len == 1);
        if (i % 3 == 0) {
            peer_reset(p.peer);
            p.peer = IO_SOCKET_NONE;
        } else {
            peer_shutdown(p.peer);
        }
        stage_leave(&s, &p);
    }
    check_eq(s.conns.count, 1);
    conn_release(slot);
    kept.c = NULL;
    stage_leave(&s, &kept);
    stage_close(&s);
}

static void an_idle_connection_is_small(void)
{
    check(conn_bytes() <= 400);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(bytes_come_back_and_are_counted);
    check_run(lent_receives_deliver);
    check_run(posted_receives_deliver);
    check_run(ready_mode_asks_again_until_all_is_drawn);
    check_run(who_does_not_draw_is_not_asked_again);
    check_run(modes_change_in_mid_stream_without_losing_a_byte);
    check_run(a_held_connection_gets_its_events_afterwards_in_order);
    check_run(what_was_on_its_way_when_held_is_kept);
    check_run(the_end_of_a_held_connection_waits);
    check_run(paused_bytes_wait_and_can_be_drawn);
    check_run(a_peer_that_takes_nothing_runs_into_the_write_timeout);
    check_run(a_queue_without_end_is_overflow);
    check_run(above_the_high_mark_nothing_is_read_and_drain_is_told_once);
    check_run(eight_mebibytes_pass_through_a_slow_reader_in_order);
    check_run(a_drain_has_a_deadline);
    check_run(connecting_reports_how_it_went);
    check_run(one_connection_can_send_to_and_close_another);
    check_run(a_slot_waits_for_its_release_and_ids_are_never_reused);
    check_run(an_idle_connection_is_small);
    return rig_end();
}
