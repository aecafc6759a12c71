/* dealer.c - who comes when there is no room: the order in which they are served, and how soon.
 *
 * Method: whole servers with few places, real worker threads, and peers that are seen to wait before the next one comes.
 */
#include "contract/rig.h"
#include "log.h"
#include "os.h"
#include "server.h"

#include <stdatomic.h>

enum { WORKERS = 2, LISTENERS = 3 };

static atomic_uint opens;

static void on_open(conn *c, io_status status)
{
    (void)c;
    check_eq(status, IO_OK);
    opens++;
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
    (void)reason;
    (void)status;
    conn_release(c);
}

static const conn_events events = {on_open, on_data, nothing, nothing, nothing, on_close, nothing, NULL};

static bool app_open(worker *w, void *context)
{
    (void)w;
    (void)context;
    return true;
}

static void app_close(worker *w)
{
    (void)w;
}

static void app_accept(worker *w, io_socket socket, const net_addr *peer, const char *name)
{
    conn_config config = {.events = &events, .limits = &conn_limits_default, .listener = name};
    check(conn_open(&w->conns, socket, peer, &config) != NULL);
}

static const worker_app plain = {.open = app_open, .close = app_close, .accept = app_accept};

/* A server for so many connections, and where it listens. */
static server *open_server(uint32_t max_connections, net_addr *addrs, uint32_t listeners)
{
    server_options options = {
        .backend = rig_backend(), .workers = WORKERS, .max_connections = max_connections, .drain_ns = 5000000000};
    bool app_failed;
    server *s = server_open(&options, &plain, NULL, &app_failed);
    check(s != NULL);
    for (uint32_t i = 0; i < listeners; i++) {
        char error[128];
        int native;
        net_uri uri;
        check_eq(net_uri_parse(&uri, "tcp://127.0.0.1:0", error, sizeof(error)), IO_OK);
        check_eq(server_listen(s, &uri, NULL, &native), IO_OK);
        check_eq(net_addr_parse(&addrs[i], server_listener_address(s, i), error, sizeof(error)), IO_OK);
    }
    opens = 0;
    server_start(s);
    return s;
}

static void close_server(server *s)
{
    server_stop(s);
    check_eq(server_wait(s), SERVER_CLEAN);
    server_close(s);
}

/* A peer that has asked for an echo. */
static io_socket come(const net_addr *addr)
{
    io_socket peer = peer_connect(addr);
    peer_send(peer, "x", 1);
    return peer;
}

static void expect_served(io_socket peer)
{
    char byte;
    check_eq(peer_recv(peer, &byte, 1), 1);
}

static void expect_unserved(const io_socket *peers, size_t count)
{
    for (size_t i = 0; i < count; i++) check(!peer_ready(peers[i], false, 0));
}

static struct {
    worker_message message;
    atomic_bool answered;
    uint32_t waiting;
    uint64_t refused;
} arrivals;

static void run_arrivals(worker *w, worker_message *message)
{
    (void)message;
    server_arrivals(w->server, &arrivals.waiting, &arrivals.refused);
    arrivals.answered = true;
}

static void await_waiting(server *s, size_t count)
{
    int64_t deadline = os_monotonic_ns() + RIG_PATIENCE_NS;
    do {
        arrivals.answered = false;
        arrivals.message.run = run_arrivals;
        worker_post(server_worker(s, 0), &arrivals.message);
        while (!arrivals.answered) check(os_monotonic_ns() < deadline);
    } while (arrivals.waiting != count);
    check_eq(arrivals.refused, 0);
}

/* There is one place. In each round who has it leaves, and another peer comes. */
static void check_order(uint32_t listeners)
{
    enum { WAITING = 5, ROUNDS = 50 };
    net_addr addrs[LISTENERS];
    io_socket peers[1 + WAITING + ROUNDS];
    server *s = open_server(1, addrs, listeners);
    size_t count = 0;
    peers[count++] = come(&addrs[0]);
    expect_served(peers[0]);
    for (; count <= WAITING; count++) {
        peers[count] = come(&addrs[count % listeners]);
        await_waiting(s, count);
    }
    for (size_t first = 0; first < ROUNDS; first++) {
        peer_close(peers[first]);
        peers[count] = come(&addrs[count % listeners]);
        count++;
        expect_served(peers[first + 1]);
        await_waiting(s, WAITING);
        expect_unserved(peers + first + 2, count - first - 2);
    }
    for (size_t i = ROUNDS; i < count; i++) {
        if (i > ROUNDS) expect_served(peers[i]);
        peer_close(peers[i]);
    }
    close_server(s);
    check_eq(opens, count);
}

static void who_waits_longest_is_served_first(void)
{
    check_order(1);
}

static void listeners_share_one_queue(void)
{
    check_order(LISTENERS);
}

/* More than a listener accepts: the others are in the kernel's queue. */
static void a_long_queue_keeps_its_order(void)
{
    enum { PEERS = 100, LENT = 32 }; /* LISTENER_ACCEPTS */
    net_addr addr;
    io_socket peers[PEERS];
    server *s = open_server(1, &addr, 1);
    peers[0] = come(&addr);
    expect_served(peers[0]);
    for (size_t i = 1; i < PEERS; i++) {
        peers[i] = come(&addr);
        await_waiting(s, i < LENT ? i : LENT);
    }
    for (size_t i = 0; i < PEERS; i++) {
        if (i > 0) expect_served(peers[i]);
        expect_unserved(peers + i + 1, PEERS - i - 1);
        peer_close(peers[i]);
    }
    close_server(s);
}

/* Whichever worker had the connection that leaves. */
static void room_is_used_at_once(void)
{
    enum { ROUNDS = 60, PLACES = 2 };
    net_addr addr;
    io_socket peers[PLACES + 1 + ROUNDS];
    const int64_t soon_ns = os_is_wine() ? 50000000 : 10000000;
    unsigned quick = 0;
    server *s = open_server(PLACES, &addr, 1);
    size_t count = 0;
    while (count <= PLACES) peers[count++] = come(&addr);
    for (size_t i = 0; i < PLACES; i++) expect_served(peers[i]);
    for (size_t i = 0; i < ROUNDS; i++) {
        await_waiting(s, 1);
        int64_t start_ns = os_monotonic_ns();
        peer_close(peers[i]);
        expect_served(peers[i + PLACES]);
        if (os_monotonic_ns() - start_ns < soon_ns) quick++;
        peers[count++] = come(&addr);
    }
    check(quick >= ROUNDS / 2); /* of a crowded machine */
    for (size_t i = ROUNDS; i < count; i++) peer_close(peers[i]);
    close_server(s);
}

static void a_listener_that_goes_takes_its_own_along(void)
{
    net_addr addrs[2];
    io_socket peers[5];
    char byte;
    server *s = open_server(1, addrs, array_count(addrs));
    for (size_t i = 0; i < array_count(peers); i++) {
        peers[i] = come(&addrs[i % 2]);
        if (i == 0) expect_served(peers[0]);
        else await_waiting(s, i);
    }
    server_unlisten(s, 1);
    check(peer_ready(peers[1], false, RIG_PATIENCE_NS) && peer_recv_now(peers[1], &byte, 1) <= 0);
    check(peer_ready(peers[3], false, RIG_PATIENCE_NS) && peer_recv_now(peers[3], &byte, 1) <= 0);
    await_waiting(s, 2);
    peer_close(peers[0]);
    expect_served(peers[2]);
    peer_close(peers[2]);
    expect_served(peers[4]);
    for (size_t i = 1; i < array_count(peers); i++) {
        if (i != 2) peer_close(peers[i]);
    }
    close_server(s);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    log_open(LOG_NONE, false);
    check_run(who_waits_longest_is_served_first);
    check_run(listeners_share_one_queue);
    check_run(a_long_queue_keeps_its_order);
    check_run(room_is_used_at_once);
    check_run(a_listener_that_goes_takes_its_own_along);
    log_close();
    return rig_end();
}
