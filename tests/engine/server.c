/* server.c - starting, dealing, draining and stopping of whole servers, with an app in plain C.
 *
 * Method: real worker threads, plain peers on the test's own thread. What workers count is read after server_wait().
 */
#include "server.h"

#include "contract/rig.h"
#include "log.h"
#include "os.h"
#include "resolver.h"

#include <stdatomic.h>

enum { WORKERS = 2 };

/* What the app counts, from all workers. */
static struct {
    atomic_uint fired, stopped, cut, closed;
    atomic_uint opens, closes;
    atomic_uint per_worker[WORKERS];
    atomic_uint reasons[CONN_SHUTDOWN + 1];
    atomic_uint turns;        /* of the first worker, as asked for */
    atomic_uint waiting;      /* what busy() says */
    atomic_bool stop_in_open; /* the first worker's app stops the server while it opens */
    atomic_bool fail_second;  /* the second worker's app does not open */
    atomic_bool hold;         /* connections are held when they open, as by a handler that waits */
    atomic_bool flood;        /* a megabyte is sent to every new connection */
} app;

static conn_limits limits;

static void on_open(conn *c, io_status status)
{
    static const uint8_t block[1 << 20];
    worker *w = c->user;
    check_eq(status, IO_OK);
    app.opens++;
    app.per_worker[w->id]++;
    if (app.flood) {
        for (int i = 0; i < 8; i++) conn_send(c, block, sizeof(block));
    }
    if (app.hold) {
        conn_hold(c);
        app.waiting++;
    }
}

static void on_data(conn *c, const uint8_t *data, size_t len)
{
    conn_send(c, data, len);
}

static void nothing(conn *c)
{
    (void)c;
}

static void on_close(conn *c, conn_reason reason, io_status status)
{
    (void)status;
    app.closes++;
    app.reasons[reason]++;
    conn_release(c);
}

static const conn_events events = {on_open, on_data, nothing, nothing, nothing, on_close, nothing, NULL};

static void on_timer(timer *t, int64_t now_ns)
{
    (void)t;
    (void)now_ns;
    app.fired++;
}

static bool app_open(worker *w, void *context)
{
    static timer clocks[WORKERS];
    (void)context;
    check(w->thread != NULL);
    clocks[w->id] = (timer){.fire = on_timer};
    check(timer_start(&w->timers, &clocks[w->id], 0));
    if (app.stop_in_open && w->id == 0) {
        server_stop(w->server);
        server_stop(w->server);
    }
    return !(app.fail_second && w->id == 1);
}

static void app_stop(worker *w)
{
    (void)w;
    app.stopped++;
}

static uint32_t app_busy(worker *w)
{
    (void)w;
    return app.waiting;
}

static void app_cut(worker *w)
{
    app.cut++;
    for (conn *c = w->conns.live; c != NULL; c = c->live_next) {
        if (c->holds == 0) continue;
        conn_unhold(c);
        app.waiting--;
    }
}

static void app_close(worker *w)
{
    check_eq(w->conns.count, 0);
    server_stop(w->server); /* too late to matter, and harmless */
    server_stop(w->server);
    app.closed++;
}

static void app_accept(worker *w, io_socket socket, const net_addr *peer, const char *name)
{
    conn_config config = {.events = &events, .limits = &limits, .listener = name, .user = w};
    check(conn_open(&w->conns, socket, peer, &config) != NULL);
}

static const worker_app plain = {app_open, app_stop, app_busy, app_cut, app_close, app_accept, NULL};

static server *open_server(uint32_t workers, uint32_t max_connections, int64_t drain_ns, net_addr *addr)
{
    memset(&app, 0, sizeof(app));
    limits = conn_limits_default;
    limits.linger_ns = 100000000;
    server_options options = {
        .backend = rig_backend(), .workers = workers, .max_connections = max_connections, .drain_ns = drain_ns};
    bool app_failed;
    server *s = server_open(&options, &plain, NULL, &app_failed);
    check(s != NULL);
    char error[128];
    int native;
    check_eq(net_addr_parse(addr, "tcp://127.0.0.1:0", error, sizeof(error)), IO_OK);
    const net_uri uri = net_uri_tcp(addr);
    check_eq(server_listen(s, &uri, NULL, &native), IO_OK);
    check_eq(net_addr_parse(addr, server_listener_address(s, 0), error, sizeof(error)), IO_OK);
    check(net_addr_port(addr) != 0);
    server_start(s);
    return s;
}

static void close_server(server *s, server_end end)
{
    check_eq(server_wait(s), end);
    check(server_ended(s));
    check_eq(app.opens, app.closes);
    server_close(s);
}

static void echo(io_socket peer, const char *text)
{
    char bytes[64];
    size_t len = strlen(text);
    peer_send(peer, text, len);
    check_eq(peer_recv(peer, bytes, len), len);
    check_mem(bytes, text, len);
}

static void connections_are_dealt_evenly_and_served(void)
{
    net_addr addr;
    server *s = open_server(WORKERS, 0, 5000000000, &addr);
    io_socket peers[20];
    for (size_t i = 0; i < array_count(peers); i++) {
        peers[i] = peer_connect(&addr);
        echo(peers[i], "hello");
    }
    check_eq(app.per_worker[0], 10);
    check_eq(app.per_worker[1], 10);
    check_eq(server_connections(s), 20);
    for (size_t i = 0; i < array_count(peers); i++) peer_close(peers[i]);
    server_stop(s);
    close_server(s, SERVER_CLEAN);
    check_eq(app.stopped, WORKERS);
    check_eq(app.cut, 0);
    check_eq(app.closed, WORKERS);
    check_eq(app.opens, 20);
}

static void a_stop_closes_idle_connections_politely(void)
{
    net_addr addr;
    char byte;
    server *s = open_server(1, 0, 5000000000, &addr);
    io_socket peer = peer_connect(&addr);
    echo(peer, "x");
    server_stop(s);
    check(server_stopping(s));
    check_eq(peer_recv(peer, &byte, 1), 0); /* FIN, no reset */
    peer_close(peer);
    close_server(s, SERVER_CLEAN);
    check_eq(app.reasons[CONN_SHUTDOWN], 1);
}

static void a_stop_delivers_what_is_queued(void)
{
    enum { TOTAL = 8 << 20 };
    static uint8_t bytes[65536];
    net_addr addr;
    server *s = open_server(1, 0, 20000000000, &addr);
    app.flood = true;
    io_socket peer = peer_connect(&addr);
    check_eq(peer_recv(peer, bytes, 1), 1);
    server_stop(s);
    size_t total = 1;
    for (size_t n; (n = peer_recv(peer, bytes, sizeof(bytes))) > 0;) total += n;
    check_eq(total, TOTAL);
    peer_close(peer);
    close_server(s, SERVER_CLEAN);
}

static void a_drain_is_cut_off_at_its_deadline(void)
{
    net_addr addr;
    char byte;
    server *s = open_server(WORKERS, 0, 200000000, &addr);
    app.flood = true;
    io_socket peer = peer_connect(&addr);
    check_eq(peer_recv(peer, &byte, 1), 1); /* and then it reads no more */
    int64_t start = os_monotonic_ns();
    server_stop(s);
    close_server(s, SERVER_CUT_OFF);
    check(os_monotonic_ns() - start >= 190000000);
    peer_close(peer);
}

static void a_second_stop_does_not_wait(void)
{
    net_addr addr;
    char byte;
    server *s = open_server(WORKERS, 0, 60000000000, &addr);
    app.flood = true;
    io_socket peer = peer_connect(&addr);
    check_eq(peer_recv(peer, &byte, 1), 1);
    int64_t start = os_monotonic_ns();
    server_stop(s);
    server_stop(s);
    server_stop(s);
    close_server(s, SERVER_CUT_OFF);
    check(os_monotonic_ns() - start < RIG_PATIENCE_NS);
    peer_close(peer);
}

static void handlers_that_wait_are_waited_for_and_then_cut(void)
{
    net_addr addr;
    server *s = open_server(1, 0, 200000000, &addr);
    app.hold = true;
    io_socket peer = peer_connect(&addr);
    int64_t deadline = os_monotonic_ns() + RIG_PATIENCE_NS;
    while (app.waiting == 0) check(os_monotonic_ns() < deadline);
    server_stop(s);
    close_server(s, SERVER_CUT_OFF);
    check_eq(app.cut, 1);
    check_eq(app.reasons[CONN_SHUTDOWN], 1);
    peer_close(peer);
}

static void the_limit_of_connections_makes_peers_wait(void)
{
    net_addr addr;
    server *s = open_server(WORKERS, 3, 5000000000, &addr);
    io_socket peers[6];
    for (size_t i = 0; i < array_count(peers); i++) {
        peers[i] = peer_connect(&addr); /* the kernel accepts them all */
        peer_send(peers[i], "x", 1);
    }
    char byte;
    for (size_t i = 0; i < 3; i++) check_eq(peer_recv(peers[i], &byte, 1), 1);
    for (size_t i = 3; i < 6; i++) check(!peer_ready(peers[i], false, RIG_QUIET_NS));
    check_eq(app.opens, 3);
    for (size_t i = 0; i < 3; i++) peer_close(peers[i]);
    for (size_t i = 3; i < 6; i++) check_eq(peer_recv(peers[i], &byte, 1), 1);
    for (size_t i = 3; i < 6; i++) peer_close(peers[i]);
    server_stop(s);
    close_server(s, SERVER_CLEAN);
    check_eq(app.opens, 6);
}

static void stopping_with_peers_in_the_queue_loses_nothing_of_ours(void)
{
    net_addr addr;
    server *s = open_server(WORKERS, 2, 5000000000, &addr);
    io_socket peers[50];
    for (size_t i = 0; i < array_count(peers); i++) peers[i] = peer_connect(&addr);
    server_stop(s);
    for (size_t i = 0; i < array_count(peers); i++) peer_close(peers[i]);
    close_server(s, SERVER_CLEAN);
}

static void a_server_can_stop_before_it_starts(void)
{
    memset(&app, 0, sizeof(app));
    server_options options = {.backend = rig_backend(), .workers = WORKERS, .drain_ns = 1000000000};
    bool app_failed;
    server *s = server_open(&options, &plain, NULL, &app_failed);
    check(s != NULL);
    server_stop(s);
    close_server(s, SERVER_CLEAN);
    check_eq(app.closed, WORKERS);
}

static void an_app_can_stop_the_server_while_others_still_open(void)
{
    memset(&app, 0, sizeof(app));
    app.stop_in_open = true;
    server_options options = {.backend = rig_backend(), .workers = WORKERS, .drain_ns = 1000000000};
    bool app_failed;
    server *s = server_open(&options, &plain, NULL, &app_failed);
    check(s != NULL);
    check(server_stopping(s));
    server_start(s);
    close_server(s, SERVER_CLEAN);
    check_eq(app.closed, WORKERS);
}

static void count_turn(worker *w, worker_message *message)
{
    (void)w;
    (void)message;
    app.turns++;
}

/* The first timer of a script may connect to the server itself, and with --user nothing but its load shall run as root. */
static void timers_wait_for_the_start(void)
{
    memset(&app, 0, sizeof(app));
    server_options options = {.backend = rig_backend(), .workers = WORKERS, .drain_ns = 1000000000};
    bool app_failed;
    server *s = server_open(&options, &plain, NULL, &app_failed);
    check(s != NULL);
    for (uint32_t turn = 1; turn <= 3; turn++) { /* by the second a round has passed since the app opened */
        worker_message message = {.run = count_turn};
        int64_t deadline_ns = os_monotonic_ns() + RIG_PATIENCE_NS;
        worker_post(server_worker(s, 0), &message);
        while (app.turns < turn) check(os_monotonic_ns() < deadline_ns);
    }
    check_eq(app.fired, 0);
    server_start(s);
    server_stop(s);
    close_server(s, SERVER_CLEAN);
    check_eq(app.fired, WORKERS);
}

/* A script may stop the server as soon as it runs, while the main thread has not listened yet. */
static void a_stop_while_addresses_are_bound(void)
{
    enum { ROUNDS = 10, ADDRESSES = 8 };
    for (int round = 0; round < ROUNDS; round++) {
        memset(&app, 0, sizeof(app));
        app.stop_in_open = true;
        server_options options = {.backend = rig_backend(), .workers = WORKERS, .drain_ns = 1000000000};
        bool app_failed;
        server *s = server_open(&options, &plain, NULL, &app_failed);
        check(s != NULL);
        for (int i = 0; i < ADDRESSES; i++) {
            net_uri uri;
            char error[128];
            int native;
            check_eq(net_uri_parse(&uri, "tcp://127.0.0.1:0", error, sizeof(error)), IO_OK);
            check_eq(server_listen(s, &uri, NULL, &native), IO_OK);
        }
        server_start(s);
        close_server(s, SERVER_CLEAN);
        check_eq(app.closed, WORKERS);
    }
}

static void an_app_that_does_not_open_ends_the_start(void)
{
    memset(&app, 0, sizeof(app));
    app.fail_second = true;
    server_options options = {.backend = rig_backend(), .workers = WORKERS, .drain_ns = 1000000000};
    bool app_failed = false;
    check(server_open(&options, &plain, NULL, &app_failed) == NULL);
    check(app_failed);
    check_eq(app.closed, 1);
}

static void a_port_in_use_is_said(void)
{
    net_addr addr;
    int native = 0;
    server *s = open_server(1, 0, 1000000000, &addr);
    const net_uri uri = net_uri_tcp(&addr);
    check_eq(server_listen(s, &uri, NULL, &native), IO_IN_USE);
    check(native != 0);
    server_stop(s);
    close_server(s, SERVER_CLEAN);
}

static struct {
    worker_message message;
    const char *uri;
    bool forgotten;
    atomic_uint answers;
    io_status status;
    net_addr first;
    worker *thread;
} question;

static void on_answer(worker *w, resolver_query *query)
{
    question.status = query->status;
    question.first = query->addrs[0];
    question.thread = w;
    mem_free(query);
    question.answers++;
}

static void run_question(worker *w, worker_message *message)
{
    (void)message;
    resolver_query *query = mem_zalloc(sizeof(*query));
    check(query != NULL);
    snprintf(query->uri, sizeof(query->uri), "%s", question.uri);
    query->answer = on_answer;
    if (question.forgotten) resolver_forget(query); /* before a thread can have taken it */
    check_eq(resolver_ask(server_resolver(w->server), w, query), IO_OK);
}

static void ask(server *s, const char *uri, bool forgotten)
{
    memset(&question, 0, sizeof(question));
    question.uri = uri;
    question.forgotten = forgotten;
    question.message.run = run_question;
    worker_post(server_worker(s, 1), &question.message);
    int64_t deadline = os_monotonic_ns() + RIG_PATIENCE_NS;
    while (question.answers == 0) check(os_monotonic_ns() < deadline);
    check_eq(question.answers, 1);
    check(question.thread == server_worker(s, 1));
}

static void names_are_resolved_off_the_loop_and_answered_on_it(void)
{
    net_addr addr;
    char text[NET_ADDR_TEXT_MAX];
    server *s = open_server(WORKERS, 0, 5000000000, &addr);
    ask(s, "tcp://localhost:80", false);
    check_eq(question.status, IO_OK);
    check_eq(net_addr_port(&question.first), 80);
    ask(s, "tcp://127.0.0.7:81", false);
    check_eq(question.status, IO_OK);
    check_str(net_addr_format(&question.first, text, sizeof(text)), "127.0.0.7:81");
    ask(s, "tcp://no-such-host.invalid:80", false);
    check_eq(question.status, IO_NOT_FOUND);
    ask(s, "tcp://127.0.0.7:81", true);
    check_eq(question.status, IO_CANCELED);
    server_stop(s);
    close_server(s, SERVER_CLEAN);
}

static void churn_leaves_nothing_behind(void)
{
    net_addr addr;
    server *s = open_server(WORKERS, 0, 5000000000, &addr);
    unsigned count = os_is_wine() ? 200 : 2000;
    for (unsigned i = 0; i < count; i++) {
        io_socket peer = peer_connect(&addr);
        if (i % 4 != 0) echo(peer, "churn");
        if (i % 2 == 0) peer_reset(peer);
        else peer_close(peer);
    }
    server_stop(s);
    close_server(s, SERVER_CLEAN);
    check(app.opens >= count * 3 / 4); /* a peer may be gone before it is accepted */
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    log_open(LOG_NONE, false);
    check_run(connections_are_dealt_evenly_and_served);
    check_run(a_stop_closes_idle_connections_politely);
    check_run(a_stop_delivers_what_is_queued);
    check_run(a_drain_is_cut_off_at_its_deadline);
    check_run(a_second_stop_does_not_wait);
    check_run(handlers_that_wait_are_waited_for_and_then_cut);
    check_run(the_limit_of_connections_makes_peers_wait);
    check_run(stopping_with_peers_in_the_queue_loses_nothing_of_ours);
    check_run(a_server_can_stop_before_it_starts);
    check_run(an_app_can_stop_the_server_while_others_still_open);
    check_run(timers_wait_for_the_start);
    check_run(a_stop_while_addresses_are_bound);
    check_run(an_app_that_does_not_open_ends_the_start);
    check_run(a_port_in_use_is_said);
    check_run(names_are_resolved_off_the_loop_and_answered_on_it);
    check_run(churn_leaves_nothing_behind);
    log_close();
    return rig_end();
}
