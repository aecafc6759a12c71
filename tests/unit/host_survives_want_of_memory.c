/* Goal: whatever Lua cannot get, the host stays in order: loading fails with a word in the log, or a handler does and
 * its connection ends; nothing is left behind and nothing is touched that is gone. Method: a server runs a script that
 * uses most of the API, again and again, with a cap that begins below what opening takes and ends above what the script
 * needs. */
#include "check.h"

#include "generation.h"
#include "host.h"
#include "io.h"
#include "log.h"
#include "mem.h"
#include "net.h"
#include "os.h"
#include "server.h"

#include <stdio.h>

enum {
    CAP_FIRST = 2000,
    CAP_LOADS = 38000, /* around this the script begins to load … */
    CAP_LAST = 56000,  /* … and here it runs to its end */
    STEP_COARSE = 1999,
    STEP_FINE = 307,
    PATIENCE_NS = 40000000, /* a round that may have lost its way is stopped after this … */
    ENOUGH_NS = 2000000000, /* … and one that has what it needs */
    ROUND_NS = 1000000
};

static const char script[] =
    "local uri = ...\n"
    "local ticks, tick = 0\n"
    "tick = portico.every(0.001, function() ticks = ticks + 1; if ticks == 3 then tick:cancel() error('tick') end "
    "end)\n"
    "local function items(n)\n"
    "  return coroutine.wrap(function() for i = 1, n do portico.sleep(0.0005) coroutine.yield(i) end end)\n"
    "end\n"
    "portico.after(0, function()\n"
    "  local got = {}\n"
    "  local out = assert(portico.connect(uri, { timeout = 1, on_message = function(o, d) got[#got + 1] = d end,\n"
    "    on_close = function() got.closed = true end }))\n"
    "  out:send('one')\n"
    "  for i in items(3) do out:send(('x'):rep(100), i) end\n"
    "  out:send('fail')\n"
    "  while not got.closed do portico.sleep(0.0005) end\n"
    "  local plain = assert(portico.connect(uri))\n"
    "  plain:send('two')\n"
    "  portico.sleep(0.002)\n"
    "  local data = plain:recv()\n"
    "  for conn in portico.conns() do conn.state.seen = tostring(conn) .. conn.peer .. conn.stats.received end\n"
    "  plain:set{ idle = 5, nodelay = true }\n"
    "  plain:close()\n"
    "  local ch, sem, sum = portico.channel(1), portico.semaphore(1), 0\n"
    "  local t = portico.spawn(function() for i = 1, 3 do ch:send(('v'):rep(i)) end ch:close() return 1, 2 end)\n"
    "  for v in ch do local g <close> = sem:acquire() sum = sum + #v end\n"
    "  assert(t:join() and sum == 6)\n"
    "  local slow <close> = portico.spawn(function() sem:acquire() portico.sleep(9) end)\n"
    "  assert(not portico.timeout(0.001, function() return pcall(slow.join, slow) end))\n"
    "  assert(not portico.spawn(error, 'joined'):join())\n"
    "  portico.shutdown()\n"
    "end)\n"
    "return {\n"
    "  on_load = function(ctx) assert(#ctx.args == 1) end,\n"
    "  on_connect = function(conn) conn.state.n = 0 end,\n"
    "  on_message = function(conn, data)\n"
    "    conn.state.n = conn.state.n + 1\n"
    "    if data:find('fail') then error('failed as told') end\n"
    "    portico.sleep(0.0005)\n"
    "    return data:upper()\n"
    "  end,\n"
    "  on_error = function(conn, err) portico.sleep(0.0005) portico.log.debug(err.message, err.traceback) end,\n"
    "  on_close = function(conn, reason) portico.sleep(0) end,\n"
    "}\n";

static const io_backend *backend;

/* A port that is free now, as an address. */
static void choose_port(char *uri, size_t size)
{
    net_addr addr;
    io_socket socket;
    char error[128];
    int native;
    check_eq(net_addr_parse(&addr, "127.0.0.1:0", error, sizeof(error)), IO_OK);
    check_eq(net_listen(&socket, &addr, &native), IO_OK);
    check_eq(net_local(&addr, socket), IO_OK);
    net_close(socket);
    net_addr_format(&addr, uri, size);
}

/* The server runs to its end. True: the script has ended it. */
static bool wait_for_end(server *s, int64_t patience_ns)
{
    int64_t deadline = os_monotonic_ns() + patience_ns;
    os_mutex *mutex = os_mutex_open();
    os_cond *never = os_cond_open();
    os_mutex_lock(mutex);
    while (!server_ended(s) && os_monotonic_ns() < deadline) os_cond_wait(never, mutex, ROUND_NS);
    os_mutex_unlock(mutex);
    os_cond_close(never);
    os_mutex_close(mutex);
    bool ended = server_ended(s);
    if (!ended) {
        server_stop(s);
        server_stop(s);
    }
    server_wait(s);
    return ended;
}

/* 0: did not load; 1: loaded, and had to be stopped; 2: ran to its end. */
static int run_with(size_t cap, int64_t patience_ns)
{
    char uri[NET_ADDR_TEXT_MAX];
    char error[128];
    char *args[] = {uri, NULL};
    net_uri target;
    bool app_failed;
    int native;
    choose_port(uri, sizeof(uri));
    host_config config = {
        .chunk_name = "=script",
        .first = generation_open(1, "", mem_strdup(script), sizeof(script) - 1),
        .script = "script",
        .arg_count = 1,
        .args = args,
        .lua_memory = cap,
        .limits = conn_limits_default,
        .version = "test",
    };
    server_options options = {.backend = backend, .workers = 1, .drain_ns = PATIENCE_NS};
    server *s = server_open(&options, &host_app, &config, &app_failed);
    if (s == NULL) {
        check(app_failed);
        generation_release(config.first);
        return 0;
    }
    check_eq(net_uri_parse(&target, uri, error, sizeof(error)), IO_OK);
    bool listens = server_listen(s, &target, NULL, &native) == IO_OK; /* somebody else may have taken the port */
    server_start(s);
    if (!listens) server_stop(s);
    bool ended = wait_for_end(s, patience_ns);
    server_close(s);
    generation_release(config.first);
    return ended && listens ? 2 : 1;
}

static void every_cap_leaves_the_host_in_order(void)
{
    int count[3] = {0};
    for (size_t cap = CAP_FIRST; cap < CAP_LOADS; cap += STEP_COARSE) count[run_with(cap, PATIENCE_NS)]++;
    for (size_t cap = CAP_LOADS; cap < CAP_LAST; cap += STEP_FINE) count[run_with(cap, PATIENCE_NS)]++;
    printf("# %d did not load, %d did not come through, %d did\n", count[0], count[1], count[2]);
    check(count[0] > 0);
}

static void enough_memory_is_enough(void)
{
    for (int tries = 0; tries < 5; tries++) {
        if (run_with(1 << 20, ENOUGH_NS) == 2) return; /* a port that was taken, or a slow machine, may cost a try */
    }
    fail("the script does not run to its end");
}

int main(int argc, char **argv)
{
    char why[128];
    check_begin(argc, argv);
    check_eq(net_start(), IO_OK);
    check(os_news_open());
    log_open(LOG_NONE, false);
    backend = io_backend_find(NULL, why, sizeof(why));
    check(backend != NULL);
    check_run(enough_memory_is_enough);
    check_run(every_cap_leaves_the_host_in_order);
    log_close();
    net_stop();
    return check_end();
}
