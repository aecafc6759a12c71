/* run.c - one seed. Three acts: clients and faults of all kinds; then no more faults, and whoever comes now must be
 * served within a bound; then the stop, which must end in time with nothing left behind. In some runs the stop comes in
 * the middle of the first act. */
#include "run.h"

#include "fiber.h"
#include "file.h"
#include "generation.h"
#include "host.h"
#include "io_sim.h"
#include "kernel.h"
#include "listening.h"
#include "mem.h"
#include "monitor.h"
#include "ops.h"
#include "peer.h"
#include "reload.h"
#include "server.h"
#include "shared.h"
#include "versions.h"
#include "wraps.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PORT = 7000, CLIENTS_MAX = 24, CLIENTS_BRIEF = 4, PROBES = 3, LOOKS = 10, PATH_MAX_BYTES = 512 };

#define PROBE_NS (5 * SIM_SECOND)

typedef struct script {
    const char *name;
    sim_expect expect;
    uint32_t weight;
    const char *source;
    size_t len;
} script;

static script scripts[] = {
    {.name = "echo", .expect = {.echoes = true, .at_once = true}, .weight = 3},
    {.name = "default", .expect = {.echoes = true, .at_once = true}, .weight = 3},
    {.name = "posted", .expect = {.echoes = true, .at_once = true}, .weight = 2},
    {.name = "half_close", .expect = {.echoes = true, .late = true, .keeps = true}, .weight = 2},
    {.name = "sleeper", .expect = {.judges = true, .echoes = true}, .weight = 5},
    {.name = "stream", .expect = {.judges = true, .echoes = true}, .weight = 3},
    {.name = "pipe", .expect = {.connects = true}, .weight = 2},
    {.name = "pauser", .expect = {.echoes = true}, .weight = 3},
    {.name = "meddler", .expect = {.echoes = true}, .weight = 3},
    {.name = "framed", .expect = {.echoes = true, .unit = 7}, .weight = 3},
    {.name = "switcher", .expect = {.echoes = true}, .weight = 2},
    {.name = "reader", .expect = {.judges = true, .echoes = true}, .weight = 3},
    {.name = "mirror", .expect = {.echoes = true, .at_once = true}, .weight = 2},
    {.name = "tasks", .expect = {.echoes = true, .stays = true}, .weight = 2},
    {.name = "caller", .expect = {.echoes = true}, .weight = 2},
    {.name = "drawer", .expect = {.echoes = true}, .weight = 2},
    {.name = "relay", .expect = {.connects = true}, .weight = 2},
    {.name = "proxy", .expect = {.connects = true}, .weight = 3},
    {.name = "broadcast", .weight = 2},
    {.name = "chargen", .weight = 2},
    {.name = "closer", .expect = {.judges = true, .connects = true}, .weight = 4},
};

/* ---- Scripts ---- */

static const char *read_script(const char *path, size_t *len)
{
    char why[256];
    char *text;
    if (!file_read(&text, len, path, why, sizeof(why))) sim_fail("sim", "%s: %s", path, why);
    return text;
}

void sim_scripts_open(const char *directory, const char *default_script)
{
    char path[PATH_MAX_BYTES];
    for (size_t i = 0; i < array_count(scripts); i++) {
        script *s = &scripts[i];
        bool is_default = strcmp(s->name, "default") == 0;
        (void)snprintf(path, sizeof(path), "%s/%s.lua", directory, s->name);
        s->source = read_script(is_default ? default_script : path, &s->len);
    }
}

const char *sim_script_name(size_t index, bool *judges)
{
    if (index >= array_count(scripts)) return NULL;
    *judges = scripts[index].expect.judges;
    return scripts[index].name;
}

static const script *choose_script(const sim_setting *setting)
{
    static script stranger;
    const char *name = setting->script;
    uint64_t weights = 0;
    if (setting->source != NULL) {
        stranger = (script){.name = "stranger", .source = setting->source, .len = strlen(setting->source)};
        stranger.expect = (sim_expect){.connects = true, .judges = true, .strange = true, .stays = setting->stays};
        return &stranger;
    }
    for (size_t i = 0; i < array_count(scripts); i++) {
        if (name != NULL && strcmp(name, scripts[i].name) == 0) return &scripts[i];
        weights += scripts[i].weight;
    }
    if (name != NULL) sim_fail("sim", "there is no script '%s'", name);
    uint64_t chosen = sim_below(SIM_SETUP, weights);
    for (size_t i = 0;; i++) {
        if (chosen < scripts[i].weight) return &scripts[i];
        chosen -= scripts[i].weight;
    }
}

static generation *open_generation(void)
{
    size_t len;
    char *text = sim_version_read(&len);
    if (text == NULL) return NULL;
    return generation_open(1, SIM_SCRIPT_PATH, text, len);
}

/* ---- The app: the host, with the monitor looking on ---- */

static bool app_open(worker *w, void *context)
{
    bool ok = host_app.open(w, context);
    if (ok) sim_monitor_worker(w);
    return ok;
}

static worker_app monitored_app(void)
{
    worker_app app = host_app;
    app.open = app_open;
    return app;
}

/* ---- Configuration ---- */

static int64_t draw_limit(int64_t low, int64_t high)
{
    return sim_percent(SIM_SETUP, 40) ? 0 : sim_between(SIM_SETUP, low, high);
}

static conn_limits draw_limits(void)
{
    conn_limits limits = conn_limits_default;
    limits.idle_ns = draw_limit(SIM_SECOND, 30 * SIM_SECOND);
    limits.first_byte_ns = draw_limit(SIM_SECOND, 10 * SIM_SECOND);
    limits.write_ns = draw_limit(SIM_SECOND, 10 * SIM_SECOND);
    limits.linger_ns = sim_between(SIM_SETUP, 10 * SIM_MS, 3 * SIM_SECOND);
    limits.connect_ns = draw_limit(100 * SIM_MS, 5 * SIM_SECOND);
    limits.send_high = (uint32_t)sim_between(SIM_SETUP, 16, 64 << 10);
    limits.send_low = limits.send_high / (uint32_t)(2 + sim_below(SIM_SETUP, 8));
    limits.send_max = sim_percent(SIM_SETUP, 30) ? limits.send_high + (uint32_t)sim_between(SIM_SETUP, 16384, 1 << 20)
                                                 : conn_limits_default.send_max;
    limits.recv_bytes = (uint32_t)sim_between(SIM_SETUP, 1, 16384);
    return limits;
}

/* ---- The run ---- */

typedef struct play {
    const script *script;
    server *server;
    server_options options;
    uint32_t clients;
    options command_line;
    listening *listening;
    reload *reload;
    reload_options reloads;
    bool is_plain;   /* a sweep over allocations */
    bool is_short;   /* of memory */
    bool is_brief;   /* see sim_setting */
    int64_t save_ns; /* when somebody saves the script next; SIM_FOREVER: nobody does */
    sim_peer *probes[PROBES];
} play;

/* What the main thread does meanwhile: it waits for news, and sees to reloads. Returns when the time has come, or when the
 * server has ended. */
static void attend(play *p, int64_t until_ns)
{
    while (world.now_ns < until_ns && !server_ended(p->server)) {
        if (world.now_ns >= p->save_ns) {
            bool is_steady = world.calm || p->script->expect.keeps; /* nothing is undone */
            sim_version_save(is_steady);
            p->save_ns = world.calm ? SIM_FOREVER : world.now_ns + sim_between(SIM_PEERS, SIM_MS, SIM_SECOND);
            bool by_watch = !world.calm && sim_percent(SIM_PEERS, 30);
            reload_ask(p->reload, by_watch ? RELOAD_WATCH : RELOAD_SIGNAL, NULL, NULL);
            if (!is_steady && sim_percent(SIM_PEERS, 30)) reload_undo(p->reload, NULL, NULL);
        }
        int64_t rest_ns = p->reload != NULL ? reload_step(p->reload) : -1;
        int64_t next_ns = until_ns < p->save_ns ? until_ns : p->save_ns;
        if (rest_ns >= 0 && rest_ns < next_ns - world.now_ns) next_ns = world.now_ns + rest_ns;
        fiber_wait(next_ns);
    }
}

static sim_reply reply_of(const play *p)
{
    const script *s = p->script;
    return p->is_short || !s->expect.echoes ? SIM_ANYTHING : s->expect.late ? SIM_LATE_ECHO : SIM_ECHO;
}

static void start_clients(const play *p, int64_t length_ns)
{
    for (uint32_t i = 0; i < p->clients; i++) {
        sim_model model = (sim_model)sim_below(SIM_PEERS, SIM_PROBE);
        int64_t at_ns = world.now_ns + (int64_t)sim_below(SIM_PEERS, (uint64_t)length_ns);
        uint16_t port = (uint16_t)(PORT + sim_below(SIM_PEERS, p->command_line.listen_count));
        (void)sim_peer_start(model, port, at_ns, reply_of(p));
    }
}

/* Whoever comes when all is well is served within PROBE_NS. */
static void probe(play *p)
{
    bool is_crowded =
        world.descriptors < 512 || (p->options.max_connections > 0 && p->options.max_connections < p->clients + PROBES);
    if (is_crowded || server_stopping(p->server)) return;
    for (int i = 0; i < PROBES; i++) {
        p->probes[i] = sim_peer_start(SIM_PROBE, PORT, world.now_ns, reply_of(p));
    }
    attend(p, world.now_ns + PROBE_NS + 8 * world.latency_ns * 4);
    if (server_stopping(p->server)) return;
    for (int i = 0; i < PROBES; i++) {
        sim_check("liveness", sim_peer_was_accepted(p->probes[i]),
                  "a client that came when all was well is not accepted");
        sim_check("liveness", !p->script->expect.echoes || sim_peer_is_content(p->probes[i]),
                  "a client that came when all was well is not served");
    }
}

static bool is_room_unused(const play *p)
{
    uint32_t waiting;
    uint64_t refused;
    server_arrivals(p->server, &waiting, &refused);
    return waiting > 0 && server_connections(p->server) < p->options.max_connections;
}

/* When all is well nobody waits for room that there is. One look can find somebody who is on the way. */
static void look_for_room(play *p)
{
    int unused = 0;
    for (; unused < LOOKS && is_room_unused(p); unused++) attend(p, world.now_ns + SIM_MS);
    sim_check("liveness", unused < LOOKS, "peers wait, and there is room");
}

static void stop(play *p)
{
    int64_t asked_ns = world.now_ns;
    int64_t patience_ns = p->options.drain_ns;
    server_stop(p->server);
    if (sim_percent(SIM_SETUP, 30)) { /* and again, at once or after a while */
        attend(p, world.now_ns + (int64_t)sim_below(SIM_SETUP, (uint64_t)patience_ns + 1));
        server_stop(p->server);
        patience_ns = world.now_ns - asked_ns;
    }
    sim_peers_stop();
    attend(p, SIM_FOREVER);
    server_end how = server_wait(p->server);
    int64_t took_ns = world.now_ns - asked_ns;
    sim_check("leftovers", server_connections(p->server) == 0, "%u connections are still counted",
              server_connections(p->server));
    sim_check("liveness", how != SERVER_FAILED, "the server says that it has failed");
    sim_check("deadline", took_ns < patience_ns + 3 * SIM_SECOND, "the stop took %.3f s, and the drain may take %.3f",
              (double)took_ns / 1e9, (double)patience_ns / 1e9);
    sim_note("stopped", (uint64_t)how, (uint64_t)took_ns, 0);
}

/* As main.c does it: the command line's addresses, whatever the script says. */
static bool listen_on_all(play *p, char *why, size_t why_size)
{
    return listening_bind(p->listening, 1, why, why_size);
}

/* Faults stop, and the script's last version is good. */
static void calm_down(play *p)
{
    sim_calm();
    sim_memory_relief();
    sim_monitor_short(false);
    p->is_short = false;
    if (p->save_ns == SIM_FOREVER) return;
    p->save_ns = world.now_ns;
    attend(p, world.now_ns + SIM_SECOND);
}

static void perform(play *p)
{
    listening_start(p->listening);
    int64_t length_ns = sim_between(SIM_SETUP, 100 * SIM_MS, (p->is_brief ? 1 : 20) * SIM_SECOND);
    start_clients(p, length_ns);
    if (sim_percent(SIM_SETUP, 40)) { /* a stop in the middle of it all */
        attend(p, world.now_ns + (int64_t)sim_below(SIM_SETUP, (uint64_t)length_ns + 1));
    } else {
        attend(p, world.now_ns + length_ns);
        calm_down(p);
        look_for_room(p);
        probe(p);
    }
    stop(p);
}

/* The same for a sweep over allocations: one reload, and then memory comes back, or does not. */
static void perform_plain(play *p, const sim_setting *setting)
{
    bool recovers = setting->want != SIM_WANT_FROM_THEN_ON || setting->at % 2 == 0;
    listening_start(p->listening);
    start_clients(p, SIM_SECOND);
    p->save_ns = p->script->expect.stays ? SIM_FOREVER : world.now_ns + SIM_SECOND / 2;
    attend(p, world.now_ns + 2 * SIM_SECOND);
    if (recovers) {
        calm_down(p);
        probe(p);
    }
    stop(p);
}

static void check_nothing_left(int64_t live_before)
{
    sim_check("leftovers", sim_ports_open() == 0, "%u ports are open", sim_ports_open());
    sim_check("leftovers", sim_ops_pending() == 0, "%u operations are pending", sim_ops_pending());
    sim_check("leftovers", sim_os_open() == 0, "%d threads, mutexes and conditions are open", sim_os_open());
    sim_check("leftovers", mem_live() == live_before, "%" PRId64 " blocks of memory are still allocated",
              mem_live() - live_before);
}

/* The drawn part of what the server is told. */
static void draw_options(play *p)
{
    static const char *const ports[] = {"127.0.0.1:7000", "127.0.0.1:7001"};
    p->clients = 1 + (uint32_t)sim_below(SIM_SETUP, p->is_brief ? CLIENTS_BRIEF : CLIENTS_MAX);
    p->options = (server_options){
        .backend = &io_backend_sim,
        .workers = sim_percent(SIM_SETUP, 50) ? 1 : 2 + (uint32_t)sim_below(SIM_SETUP, p->is_brief ? 1 : 2),
        .max_connections = sim_percent(SIM_SETUP, 70) ? 0 : 1 + (uint32_t)sim_below(SIM_SETUP, CLIENTS_MAX),
        .drain_ns = sim_between(SIM_SETUP, 10 * SIM_MS, 10 * SIM_SECOND),
        .io = {.recv_bytes = (uint32_t)sim_between(SIM_SETUP, 1, 16384)},
    };
    p->command_line.listen_count = sim_percent(SIM_SETUP, 60) ? 1 : 2;
    for (uint32_t i = 0; i < p->command_line.listen_count; i++) {
        net_addr addr = sim_addr(ports[i]);
        p->command_line.listen[i] = net_uri_tcp(&addr);
        p->command_line.listen_uri[i] = ports[i];
    }
    p->reloads = (reload_options){
        .probation_ns = draw_limit(SIM_MS, 5 * SIM_SECOND),
        .error_limit = sim_below(SIM_SETUP, 5),
    };
    bool saves = !p->script->expect.stays && sim_percent(SIM_SETUP, 50);
    p->save_ns = saves ? world.now_ns + sim_between(SIM_SETUP, SIM_MS, 10 * SIM_SECOND) : SIM_FOREVER;
}

/* For a sweep over allocations: few clients, and no other faults. */
static void be_plain(play *p)
{
    memset(world.rates, 0, sizeof(world.rates));
    world.descriptors = 512;
    p->is_plain = true;
    p->clients = 3;
    p->options.max_connections = 0;
    p->options.io.recv_bytes = 0;
}

/* From the start of the program to its end, as main.c does it. Without memory it may end before it has begun. */
static void serve(play *p, const sim_setting *setting)
{
    char seed_text[32];
    char *arguments[] = {seed_text};
    atomic_bool reload_wanted = false;
    worker_app app = monitored_app();
    bool script_failed = false;
    (void)snprintf(seed_text, sizeof(seed_text), "%" PRIu64, setting->seed);
    host_config config = {
        .chunk_name = "@sim.lua",
        .first = open_generation(),
        .shared = shared_open(1 << 20, os_monotonic_ns),
        .listening = listening_open(&p->command_line, p->script->name),
        .script = p->script->name,
        .arg_count = strcmp(p->script->name, "default") == 0 ? 0 : 1,
        .args = arguments,
        .lua_memory = 64 << 20,
        /* A handler that is ended does not send the rest of its echo. */
        .reload_deadline_ns =
            p->script->expect.echoes ? SIM_SECOND * 3600 : sim_between(SIM_SETUP, SIM_MS, 10 * SIM_SECOND),
        .limits = draw_limits(),
        .version = "sim",
        .reload_wanted = &reload_wanted,
    };
    p->server = NULL;
    p->listening = config.listening;
    if (config.first != NULL && config.shared != NULL && config.listening != NULL) {
        p->server = server_open(&p->options, &app, &config, &script_failed);
    }
    bool may_fail = p->is_short || (script_failed && p->script->expect.strange);
    sim_check("sim", p->server != NULL || may_fail, "the server did not open");
    if (p->server != NULL) {
        listening_attach(p->listening, p->server);
        p->reload = reload_open(p->server, &config, &p->reloads);
        char why[256] = "out of memory";
        bool ok = p->reload != NULL && listen_on_all(p, why, sizeof(why));
        if (ok && p->is_plain) perform_plain(p, setting);
        else if (ok) perform(p);
        else stop(p);
        sim_check("sim", ok || p->is_short || p->script->expect.strange, "cannot listen: %s", why);
        server_close(p->server);
        reload_close(p->reload);
    }
    listening_close(p->listening);
    if (config.shared != NULL) shared_close(config.shared);
    generation_release(config.first);
}

sim_summary sim_run(const sim_setting *setting)
{
    int64_t live_before = mem_live();
    play p = {.is_brief = setting->brief};
    sim_decide(setting->decisions, setting->decision_count);
    sim_open(setting->seed, setting->profile, setting->tracing);
    sim_kernel_open();
    sim_net_open();
    fibers_open();
    sim_news_open();
    int64_t start_ns = world.now_ns;
    p.script = choose_script(setting);
    sim_note(p.script->name, setting->seed, setting->profile, 0);
    sim_versions_open(p.script->source, p.script->len);
    draw_options(&p);
    sim_want want = setting->want;
    bool may_be_short = want == SIM_WANT_NONE && !p.script->expect.judges && sim_percent(SIM_SETUP, 30);
    if (may_be_short && world.rates[SIM_NO_MEMORY] > 0) want = SIM_WANT_RANDOM;
    if (setting->want != SIM_WANT_NONE) be_plain(&p);
    p.is_short = want != SIM_WANT_NONE;
    sim_peers_open(p.script->expect.unit, p.script->expect.at_once, setting->brief);
    sim_monitor_open(p.script->expect, p.options.max_connections);
    sim_monitor_short(p.is_short);
    sim_memory_open(want, setting->at);
    serve(&p, setting);
    uint64_t allocations = sim_memory_count();
    sim_memory_relief();
    sim_monitor_close();
    fibers_close();
    sim_kernel_close();
    check_nothing_left(live_before);
    sim_summary summary = {
        .connections = sim_monitor_opened(),
        .bytes = sim_monitor_delivered(),
        .steps = world.steps,
        .virtual_ns = world.now_ns - start_ns,
        .allocations = allocations,
    };
    sim_note("end", summary.connections, summary.bytes, summary.steps);
    sim_close();
    return summary;
}
