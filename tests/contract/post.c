/* post.c - goal: io_port_post() from any thread arrives exactly once, in order, and wakes the owner. Method: numbered
 * ops from the owner, from eight threads at once, and to and fro between two ports. */
#include "os.h"
#include "rig.h"

typedef struct note {
    io_op op;
    uint32_t thread;
    uint32_t number;
    uint32_t taken;
} note;

static io_packet expect_post(rig *r)
{
    io_packet packet = take(r);
    check_eq(packet.kind, IO_POST);
    check_eq(packet.status, IO_OK);
    check_eq(packet.bytes, 0);
    check(packet.data == NULL);
    return packet;
}

static void posts_keep_their_order(void)
{
    enum { POSTS = 1000 };
    static note notes[POSTS];
    rig r;
    rig_open(&r, NULL);
    for (int turn = 0; turn < 3; turn++) {
        for (uint32_t i = 0; i < POSTS; i++) {
            io_port_post(r.port, &notes[i].op);
            check_eq(notes[i].op.kind, IO_POST);
        }
        for (uint32_t i = 0; i < POSTS; i++) check(expect_post(&r).op == &notes[i].op);
    }
    expect_nothing(&r);
    rig_close(&r);
}

enum { THREADS = 8, POSTS_EACH = 1250 };

typedef struct poster {
    io_port *port;
    note *notes; /* POSTS_EACH */
    os_thread *thread;
} poster;

static void post_all(void *argument)
{
    poster *p = argument;
    for (int i = 0; i < POSTS_EACH; i++) io_port_post(p->port, &p->notes[i].op);
}

static void ten_thousand_posts_from_eight_threads_arrive_once_each(void)
{
    static note notes[THREADS][POSTS_EACH];
    poster posters[THREADS];
    uint32_t next[THREADS] = {0};
    rig r;
    rig_open(&r, NULL);
    for (uint32_t t = 0; t < THREADS; t++) {
        for (uint32_t i = 0; i < POSTS_EACH; i++) {
            notes[t][i].thread = t;
            notes[t][i].number = i;
        }
        posters[t] = (poster){.port = r.port, .notes = notes[t]};
    }
    for (int t = 0; t < THREADS; t++) {
        posters[t].thread = os_thread_start("poster", post_all, &posters[t]);
        check(posters[t].thread != NULL);
    }
    for (int i = 0; i < THREADS * POSTS_EACH; i++) {
        note *n = container_of(expect_post(&r).op, note, op);
        check_eq(n->number, next[n->thread]); /* in the order of its thread */
        next[n->thread]++;
        n->taken++;
        check_eq(n->taken, 1);
    }
    for (int t = 0; t < THREADS; t++) os_thread_join(posters[t].thread);
    expect_nothing(&r);
    rig_close(&r);
}

typedef struct late_post {
    io_port *port;
    io_op op;
} late_post;

static void post_late(void *argument)
{
    late_post *late = argument;
    rig_delay(RIG_QUIET_NS);
    io_port_post(late->port, &late->op);
}

static void post_wakes_a_wait_without_a_timeout(void)
{
    rig r;
    rig_open(&r, NULL);
    for (int i = 0; i < 5; i++) {
        late_post late = {.port = r.port};
        io_packet packet;
        os_thread *thread = os_thread_start("late", post_late, &late);
        check(thread != NULL);
        int waits = 0;
        while (!io_port_next(r.port, &packet)) {
            check_eq(io_port_wait(r.port, -1), IO_OK);
            check(++waits < 100); /* it may wake early, but it sleeps */
        }
        check(packet.op == &late.op);
        check_eq(packet.kind, IO_POST);
        os_thread_join(thread);
        while (io_port_next(r.port, &packet)) fail("a second packet");
    }
    rig_close(&r);
}

static void posts_made_before_the_wait_do_not_let_it_sleep(void)
{
    rig r;
    rig_open(&r, NULL);
    for (int i = 0; i < 100; i++) {
        io_op op = {0};
        io_packet packet;
        int waits = 0;
        io_port_post(r.port, &op);
        while (!io_port_next(r.port, &packet)) {
            check_eq(io_port_wait(r.port, -1), IO_OK);
            check(++waits < 10);
        }
        check(packet.op == &op);
        while (io_port_next(r.port, &packet)) fail("a second packet");
    }
    rig_close(&r);
}

static void posts_are_not_pending(void)
{
    rig r;
    rig_open(&r, NULL);
    io_op op = {0};
    io_port_post(r.port, &op);
    check_eq(io_port_pending(r.port), 0);
    check(expect_post(&r).op == &op);
    check_eq(io_port_pending(r.port), 0);
    rig_close(&r);
}

static void posts_and_packets_of_sockets_both_arrive(void)
{
    enum { TURNS = 200 };
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    io_op recv = {0};
    io_op post = {0};
    int received = 0;
    int posted = 0;
    check_eq(io_recv(r.port, &recv, ours), IO_OK);
    for (int i = 0; i < TURNS; i++) {
        peer_send(peer, "x", 1);
        io_port_post(r.port, &post);
        while (received + posted < 2 * (i + 1)) {
            io_packet packet = take(&r);
            if (packet.kind == IO_POST) {
                posted++;
                continue;
            }
            check_eq(packet.status, IO_OK);
            check_eq(packet.bytes, 1);
            received++;
            check_eq(io_recv(r.port, &recv, ours), IO_OK);
        }
        check_eq(posted, i + 1);
        check_eq(received, i + 1);
    }
    io_cancel(r.port, ours);
    check_eq(expect(&r, &recv).status, IO_CANCELED);
    rig_close_pair(&r, ours, peer);
}

/* More packets at once than a small port has room for, and a post among them; later posts still wake the owner. */
static void posts_arrive_when_many_packets_came_at_once(void)
{
    enum { SOCKETS = 60, TURNS = 5 };
    const io_options options = {.entries = 2};
    rig r;
    io_socket ours[SOCKETS];
    io_socket peer[SOCKETS];
    io_op ops[SOCKETS + 1] = {0};
    io_op *list[SOCKETS + 1];
    io_packet packets[SOCKETS + 1];
    rig_open(&r, &options);
    rig_pairs(&r, ours, peer, SOCKETS);
    for (int i = 0; i <= SOCKETS; i++) list[i] = &ops[i];
    for (int turn = 0; turn < TURNS; turn++) {
        for (int i = 0; i < SOCKETS; i++) check_eq(io_recv(r.port, &ops[i], ours[i]), IO_OK);
        check_eq(io_port_wait(r.port, 0), IO_OK);
        for (int i = 0; i < SOCKETS; i++) peer_send(peer[i], "x", 1);
        io_port_post(r.port, &ops[SOCKETS]);
        expect_all(&r, packets, list, SOCKETS + 1);
        check_eq(packets[SOCKETS].kind, IO_POST);
        expect_nothing(&r);
        io_port_post(r.port, &ops[SOCKETS]);
        check(expect_post(&r).op == &ops[SOCKETS]);
    }
    rig_close_pairs(&r, ours, peer, SOCKETS);
}

/* Two threads, a port each; one op goes to and fro. Its kind and number are handed over with it. */
enum { VOLLEYS = 2000 };

typedef struct court {
    io_port *ports[2]; /* [1] is set by the other thread before it posts ready */
    note ready;
    note ball;
} court;

static void play_back(void *argument)
{
    court *c = argument;
    io_packet packet;
    check_eq(io_port_open(&c->ports[1], rig_backend(), NULL), IO_OK);
    io_port_post(c->ports[0], &c->ready.op);
    for (bool over = false; !over;) {
        check_eq(io_port_wait(c->ports[1], -1), IO_OK);
        while (io_port_next(c->ports[1], &packet)) {
            check(packet.op == &c->ball.op);
            check_eq(packet.kind, IO_POST);
            c->ball.number++;
            over = c->ball.number >= VOLLEYS;
            io_port_post(c->ports[0], &c->ball.op);
        }
    }
    io_port_close(c->ports[1]);
}

static void an_op_is_posted_to_and_fro_between_two_ports(void)
{
    rig r;
    rig_open(&r, NULL);
    static court c;
    memset(&c, 0, sizeof(c));
    c.ports[0] = r.port;
    os_thread *thread = os_thread_start("court", play_back, &c);
    check(thread != NULL);
    check(expect_post(&r).op == &c.ready.op);
    uint32_t seen = 0;
    while (seen < VOLLEYS) {
        io_port_post(c.ports[1], &c.ball.op);
        check(expect_post(&r).op == &c.ball.op);
        check_eq(c.ball.number, seen + 1);
        seen++;
    }
    os_thread_join(thread);
    rig_close(&r);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(posts_keep_their_order);
    check_run(ten_thousand_posts_from_eight_threads_arrive_once_each);
    check_run(post_wakes_a_wait_without_a_timeout);
    check_run(posts_made_before_the_wait_do_not_let_it_sleep);
    check_run(posts_are_not_pending);
    check_run(posts_and_packets_of_sockets_both_arrive);
    check_run(posts_arrive_when_many_packets_came_at_once);
    check_run(an_op_is_posted_to_and_fro_between_two_ports);
    return rig_end();
}
