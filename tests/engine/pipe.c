/* pipe.c - what pipe.h promises, over a real port: bytes in order, back-pressure, half-closing both ways, and which side
 * failed.
 *
 * Method: two connections whose peers are driven from here without blocking; each byte tells its place in its stream.
 */
#include "pipe.h"
#include "stage.h"

#define MS(n) ((int64_t)(n)*1000000)
enum { KEY_THERE = 3, KEY_BACK = 4 };

typedef struct run {
    stage s;
    player a, b;
} run;

static unsigned overs; /* calls of over() */

static void count_over(conn_pipe *p)
{
    check(p->end != PIPE_RUNS);
    overs++;
}

static void run_open(run *r, conn_receive receive)
{
    memset(r, 0, sizeof(*r));
    overs = 0;
    stage_open(&r->s);
    stage_pair(&r->s, &r->a, receive, true);
    stage_pair(&r->s, &r->b, receive, true);
}

static void run_close(run *r)
{
    if (r->a.c != NULL) conn_abort(r->a.c, CONN_LOCAL, IO_OK);
    if (r->b.c != NULL) conn_abort(r->b.c, CONN_LOCAL, IO_OK);
    stage_leave(&r->s, &r->a);
    stage_leave(&r->s, &r->b);
    stage_close(&r->s);
}

/* What one peer sends to the other, and how far it has come. */
typedef struct flow {
    io_socket from, to;
    uint32_t key;
    uint64_t total, sent, got;
    bool has_fin, got_fin;
    unsigned slow; /* the reader takes a turn in so many */
} flow;

static void flow_turn(flow *f, unsigned turn)
{
    static uint8_t bytes[65536];
    if (f->sent < f->total) {
        size_t len = f->total - f->sent < sizeof(bytes) ? (size_t)(f->total - f->sent) : sizeof(bytes);
        pattern_fill(bytes, len, f->key, f->sent);
        long n = peer_send_now(f->from, bytes, len);
        check(n >= 0 || n == PEER_AGAIN);
        if (n > 0) f->sent += (uint64_t)n;
    } else if (!f->has_fin) {
        peer_shutdown(f->from);
        f->has_fin = true;
    }
    if (f->got_fin || (f->slow > 0 && turn % f->slow != 0)) return;
    long n = peer_recv_now(f->to, bytes, f->slow > 0 ? 8192 : sizeof(bytes));
    check(n >= 0 || n == PEER_AGAIN);
    if (n > 0) check_pattern(bytes, (size_t)n, f->key, f->got);
    if (n > 0) f->got += (uint64_t)n;
    if (n == 0) f->got_fin = true;
}

/* No queue is longer than its high mark and one receive. */
static void check_queues(const run *r)
{
    size_t most = r->s.limits.send_high + IO_RECV_BYTES;
    if (r->a.c != NULL) check(conn_queued(r->a.c) <= most);
    if (r->b.c != NULL) check(conn_queued(r->b.c) <= most);
}

static void bytes_pass_one_way(conn_receive receive, unsigned slow)
{
    run r;
    conn_pipe there;
    run_open(&r, receive);
    flow f = {.from = r.a.peer, .to = r.b.peer, .key = KEY_THERE, .total = 8 << 20, .slow = slow};
    check_eq(pipe_begin(&there, r.a.c, r.b.c, UINT64_MAX, count_over), PIPE_RUNS);
    for (unsigned turn = 0; !f.got_fin; turn++) {
        flow_turn(&f, turn);
        stage_turn(&r.s, 0);
        check_queues(&r);
    }
    check_eq(f.got, f.total);
    stage_until(&r.s, overs == 1);
    check_eq(there.end, PIPE_DONE);
    check_eq(there.bytes, f.total);
    check_eq(r.a.datas, 0);
    stage_until(&r.s, r.a.eofs == 1); /* what was held back while the pipe ran */
    check_eq(r.b.eofs, 0);
    check_eq(overs, 1);
    run_close(&r);
}

static void lent_bytes_pass(void)
{
    bytes_pass_one_way(CONN_LENT, 0);
}

static void posted_bytes_pass(void)
{
    bytes_pass_one_way(CONN_POSTED, 0);
}

static void ready_bytes_pass(void)
{
    bytes_pass_one_way(CONN_READY, 0);
}

static void a_slow_reader_slows_the_source(void)
{
    bytes_pass_one_way(CONN_LENT, 5);
}

static void both_ways_at_once(void)
{
    run r;
    conn_pipe there, back;
    run_open(&r, CONN_LENT);
    flow f = {.from = r.a.peer, .to = r.b.peer, .key = KEY_THERE, .total = 4 << 20, .slow = 7};
    flow g = {.from = r.b.peer, .to = r.a.peer, .key = KEY_BACK, .total = 3 << 20};
    check_eq(pipe_begin(&there, r.a.c, r.b.c, UINT64_MAX, count_over), PIPE_RUNS);
    check_eq(pipe_begin(&back, r.b.c, r.a.c, UINT64_MAX, count_over), PIPE_RUNS);
    for (unsigned turn = 0; !f.got_fin || !g.got_fin; turn++) {
        flow_turn(&f, turn);
        flow_turn(&g, turn);
        stage_turn(&r.s, 0);
        check_queues(&r);
    }
    check_eq(f.got, f.total);
    check_eq(g.got, g.total);
    stage_until(&r.s, overs == 2);
    check_eq(there.end, PIPE_DONE);
    check_eq(back.end, PIPE_DONE);
    stage_until(&r.s, r.a.closes == 1 && r.b.closes == 1); /* half-closed both ways */
    check_eq(r.a.eofs, 1);
    run_close(&r);
}

/* A source whose own queue is full is read all the same. */
static void one_way_does_not_stop_the_other(void)
{
    run r;
    conn_pipe there;
    static uint8_t bytes[4 << 20];
    run_open(&r, CONN_LENT);
    check_eq(conn_send(r.a.c, bytes, sizeof(bytes)), IO_OK); /* nobody takes it */
    check(conn_is_high(r.a.c));
    check_eq(pipe_begin(&there, r.a.c, r.b.c, UINT64_MAX, count_over), PIPE_RUNS);
    flow f = {.from = r.a.peer, .to = r.b.peer, .key = KEY_THERE, .total = UINT64_MAX};
    for (unsigned turn = 0; f.got < 1 << 20; turn++) {
        flow_turn(&f, turn);
        stage_turn(&r.s, 0);
    }
    pipe_stop(&there);
    run_close(&r);
}

static void what_is_there_already_is_passed_on(void)
{
    run r;
    conn_pipe there;
    char bytes[8];
    run_open(&r, CONN_LENT);
    conn_pause(r.a.c);
    check_eq(conn_unread(r.a.c, "abc", 3), IO_OK);
    peer_shutdown(r.a.peer);
    conn_resume(r.a.c);
    conn_hold(r.a.c);
    stage_until(&r.s, r.a.c->eof_seen);
    pipe_end end = pipe_begin(&there, r.a.c, r.b.c, UINT64_MAX, count_over);
    check_eq(end, PIPE_RUNS);
    stage_until(&r.s, overs == 1);
    check_eq(there.end, PIPE_DONE);
    check_eq(peer_recv(r.b.peer, bytes, sizeof(bytes)), 3);
    check_mem(bytes, "abc", 3);
    check_eq(pipe_begin(&there, r.a.c, r.b.c, UINT64_MAX, count_over), PIPE_TARGET); /* it has sent FIN */
    check_eq(overs, 1);
    conn_unhold(r.a.c);
    run_close(&r);
}

static void so_many_bytes_and_no_more(void)
{
    run r;
    conn_pipe there;
    char bytes[8];
    run_open(&r, CONN_LENT);
    check_eq(pipe_begin(&there, r.a.c, r.b.c, 5, count_over), PIPE_RUNS);
    peer_send(r.a.peer, "abc", 3);
    stage_until(&r.s, there.bytes == 3);
    peer_send(r.a.peer, "defgh", 5);
    stage_until(&r.s, overs == 1);
    check_eq(there.end, PIPE_DONE);
    check_eq(peer_recv(r.b.peer, bytes, 5), 5);
    check_mem(bytes, "abcde", 5);
    stage_until(&r.s, r.a.datas == 1); /* the rest is whose it was before */
    check_events(&r.a, "open data(fgh)");
    check_eq(pipe_begin(&there, r.a.c, r.b.c, 5, count_over), PIPE_RUNS);
    peer_send(r.a.peer, "ij", 2);
    peer_shutdown(r.a.peer);
    stage_until(&r.s, overs == 2);
    check_eq(there.end, PIPE_EOF);
    check_eq(there.bytes, 2);
    check(!r.b.c->fin_wanted);
    run_close(&r);
}

static void the_side_that_fails_is_told(void)
{
    for (unsigned way = 0; way < 6; way++) {
        run r;
        conn_pipe there;
        static uint8_t bytes[4 << 20];
        run_open(&r, CONN_LENT);
        bool blocked = way >= 3;
        if (blocked) check_eq(conn_send(r.b.c, bytes, sizeof(bytes)), IO_OK);
        check_eq(pipe_begin(&there, r.a.c, r.b.c, UINT64_MAX, count_over), PIPE_RUNS);
        stage_turn(&r.s, 0);
        player *failing = way % 3 == 0 ? &r.a : &r.b;
        if (way == 0 || way == 1) peer_reset(failing->peer);
        else if (way == 3 || way == 4) conn_abort(failing->c, CONN_RESET, IO_RESET);
        else conn_close(failing->c, CONN_LOCAL);
        if (way == 0 || way == 1) failing->peer = IO_SOCKET_NONE;
        stage_until(&r.s, overs == 1);
        check_eq(there.end, way % 3 == 0 ? PIPE_SOURCE : PIPE_TARGET);
        check_eq(there.bytes, 0);
        run_close(&r);
        check_eq(overs, 1);
    }
}

static void one_that_is_stopped_leaves_no_trace(void)
{
    run r;
    conn_pipe there;
    static uint8_t bytes[12 << 20]; /* Linux may take 4 MiB from who sends: net.ipv4.tcp_wmem */
    run_open(&r, CONN_LENT);
    check_eq(pipe_begin(&there, r.a.c, r.b.c, UINT64_MAX, count_over), PIPE_RUNS);
    pipe_stop(&there);
    check_eq(conn_send(r.b.c, bytes, sizeof(bytes)), IO_OK);
    check_eq(pipe_begin(&there, r.a.c, r.b.c, UINT64_MAX, count_over), PIPE_RUNS); /* blocked */
    pipe_stop(&there);
    check_eq(pipe_begin(&there, r.a.c, r.b.c, 1, count_over), PIPE_RUNS);
    peer_send(r.a.peer, "xyz", 3);
    stage_quiet(&r.s, MS(20));
    pipe_stop(&there);
    stage_until(&r.s, r.a.datas == 1);
    check_events(&r.a, "open data(xyz)");
    check_eq(overs, 0);
    run_close(&r);
}

static void a_queue_without_room_is_not_overrun(void)
{
    run r;
    conn_pipe there;
    run_open(&r, CONN_LENT);
    conn_limits *own = conn_own_limits(r.b.c);
    own->send_high = own->send_max = 1000;
    own->send_low = 250;
    flow f = {.from = r.a.peer, .to = r.b.peer, .key = KEY_THERE, .total = 300000};
    check_eq(pipe_begin(&there, r.a.c, r.b.c, UINT64_MAX, count_over), PIPE_RUNS);
    for (unsigned turn = 0; !f.got_fin; turn++) {
        flow_turn(&f, turn);
        stage_turn(&r.s, 0);
    }
    check_eq(f.got, f.total);
    stage_until(&r.s, overs == 1);
    check_eq(there.end, PIPE_DONE);
    run_close(&r);
}

static void a_connection_may_be_piped_to_itself(void)
{
    run r;
    conn_pipe there;
    run_open(&r, CONN_LENT);
    flow f = {.from = r.a.peer, .to = r.a.peer, .key = KEY_THERE, .total = 2 << 20, .slow = 3};
    check_eq(pipe_begin(&there, r.a.c, r.a.c, UINT64_MAX, count_over), PIPE_RUNS);
    for (unsigned turn = 0; !f.got_fin; turn++) {
        flow_turn(&f, turn);
        stage_turn(&r.s, 0);
        check_queues(&r);
    }
    check_eq(f.got, f.total);
    stage_until(&r.s, overs == 1);
    check_eq(there.end, PIPE_DONE);
    run_close(&r);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(lent_bytes_pass);
    check_run(posted_bytes_pass);
    check_run(ready_bytes_pass);
    check_run(a_slow_reader_slows_the_source);
    check_run(both_ways_at_once);
    check_run(one_way_does_not_stop_the_other);
    check_run(what_is_there_already_is_passed_on);
    check_run(so_many_bytes_and_no_more);
    check_run(the_side_that_fails_is_told);
    check_run(one_that_is_stopped_leaves_no_trace);
    check_run(a_queue_without_room_is_not_overrun);
    check_run(a_connection_may_be_piped_to_itself);
    return check_end();
}
