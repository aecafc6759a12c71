/* Goal: whatever call fails while a server starts, serves a client and stops: it does not start, and says so, or it serves, or the
 * client's connection ends; it stops in any case, and nothing is left behind.
 * Method: each call fails, one after the other, with each of its errors; real workers, the client on this thread.
 * Argument: the backend. */
#include "inject.h"

#include "contract/rig.h"
#include "os.h"
#include "server.h"

#include <sys/wait.h>
#include <unistd.h>

/* How a child ends. */
enum { ALL_WELL = 0, CALL_FAILED = 10 };

static conn_limits limits;

static void on_open(conn *c, io_status status)
{
    (void)c;
    check_eq(status, IO_OK);
}

static void on_data(conn *c, const uint8_t *data, size_t len)
{
    io_status status = conn_send(c, data, len);
    if (status != IO_OK) conn_abort(c, CONN_ERROR, status);
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

static void app_nothing(worker *w)
{
    (void)w;
}

static uint32_t app_busy(worker *w)
{
    (void)w;
    return 0;
}

static void app_accept(worker *w, io_socket socket, const net_addr *peer, const char *name)
{
    conn_config config = {.events = &events, .limits = &limits, .listener = name, .user = w};
    if (conn_open(&w->conns, socket, peer, &config) == NULL) net_close(socket);
}

static const worker_app app = {app_open, app_nothing, app_busy, app_nothing, app_nothing, app_accept, NULL};

/* One question; the answer, or the end of the connection, or of the server. */
static void ask(const server *s, const net_addr *addr)
{
    const int64_t look_ns = 10000000;
    int64_t deadline_ns = os_monotonic_ns() + RIG_PATIENCE_NS;
    char answer[8];
    inject_pause();
    io_socket client = peer_connect(addr);
    long got = peer_send_now(client, "question", sizeof(answer)) == PEER_RESET ? PEER_RESET : PEER_AGAIN;
    size_t count = 0;
    while (got != 0 && got != PEER_RESET && count < sizeof(answer) && !server_ended(s)) {
        if (os_monotonic_ns() > deadline_ns) fail("neither an answer nor an end");
        if (!peer_ready(client, false, look_ns)) continue;
        got = peer_recv_now(client, answer + count, sizeof(answer) - count);
        if (got > 0) count += (size_t)got;
    }
    if (count == sizeof(answer)) check_mem(answer, "question", count);
    peer_close(client);
    inject_resume();
}

static void live(void)
{
    net_addr addr;
    char error[128];
    int native;
    bool app_failed;
    limits = conn_limits_default;
    limits.linger_ns = 10000000;
    server_options options = {.backend = rig_backend(),
                              .workers = 2,
                              .drain_ns = 1000000000,
                              .io = {.recv_buffers = 4, .recv_bytes = 64, .entries = 8}};
    server *s = server_open(&options, &app, NULL, &app_failed);
    if (s == NULL) return;
    check_eq(net_addr_parse(&addr, "127.0.0.1:0", error, sizeof(error)), IO_OK);
    const net_uri uri = net_uri_tcp(&addr);
    if (server_listen(s, &uri, NULL, &native) == IO_OK) {
        check_eq(net_addr_parse(&addr, server_listener_address(s, 0), error, sizeof(error)), IO_OK);
        server_start(s);
        ask(s, &addr);
    } else {
        server_start(s);
    }
    server_stop(s);
    bool failed = server_wait(s) == SERVER_FAILED;
    server_close(s);
    if (failed) _Exit(inject_count() > 0 ? CALL_FAILED : ALL_WELL); /* what a failed port holds, it keeps */
}

/* In a process of its own, because one whose port has failed keeps what it has. True: a call has failed. */
static bool live_with(uint32_t nth, uint32_t variant)
{
    int status = -1;
    pid_t child = fork();
    check(child >= 0);
    if (child == 0) {
        long descriptors = descriptors_count();
        int64_t live_blocks = mem_live();
        inject_nth(nth, variant);
        live();
        inject_nothing();
        check_eq(mem_live(), live_blocks);
        check_eq(descriptors_count(), descriptors);
        exit(inject_count() > 0 ? CALL_FAILED : ALL_WELL);
    }
    check(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || (WEXITSTATUS(status) != ALL_WELL && WEXITSTATUS(status) != CALL_FAILED)) {
        fail("call %u, error %u: status %d", (unsigned)nth, (unsigned)variant, status);
    }
    return WEXITSTATUS(status) == CALL_FAILED;
}

static void a_server_lives_or_says_why_not(void)
{
    enum { CALLS_MAX = 2000 };
    uint32_t failed = 0;
    for (uint32_t variant = 0; variant < INJECT_VARIANTS; variant++) {
        uint32_t nth = 1;
        while (live_with(nth, variant)) {
            check(nth < CALLS_MAX);
            nth++;
            failed++;
        }
    }
    printf("# %u calls have failed\n", (unsigned)failed);
    check(failed > 100);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check(os_news_open());
    check_run(a_server_lives_or_says_why_not);
    return rig_end();
}
