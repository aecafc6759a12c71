/* main.c - the program: reads the command line, brings up the engine with the Lua host in it, and waits for news from
 * outside. The one place that knows both sides.
 */
#include "main.h"

#include "about.h"
#include "base.h"
#include "confine.h"
#include "ctl.h"
#include "embedded.h"
#include "file.h"
#include "generation.h"
#include "host.h"
#include "io.h"
#include "lint.h"
#include "listening.h"
#include "log.h"
#include "lua.h"
#include "mem.h"
#include "net.h"
#include "net_uri.h"
#include "options.h"
#include "os.h"
#include "reload.h"
#include "resolver.h"
#include "server.h"
#include "shared.h"
#include "triggers.h"
#include "worker.h"

#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* What a shell sees. */
enum { EXIT_CLEAN = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_SCRIPT = 3, EXIT_LISTEN = 4, EXIT_CUT_OFF = 5 };

enum {
    WHY_BYTES = 512,
    PER_ADDRESS_UNLIMITED = 16384, /* what auto is where nothing limits the connections in all */
    DESCRIPTORS_SPARE = 64         /* for listeners, ports, the log, files that the script opens */
};

#define NANOSECONDS 1e9 /* in a second */

/* What a worker has for its end when all is cut off, besides the budget of a handler that it may be in: then it hangs. A budget is
 * processor time, which on a crowded machine takes longer. */
#define GRACE_NS INT64_C(2000000000)
#define GRACE_BUDGETS 5
/* … and for on_unload and for giving back its memory, besides the drain time, when nobody asks again. */
#define CLOSE_NS INT64_C(10000000000)

static_assert((int)OPTIONS_WORKERS_MAX == (int)WORKER_MAX, "--workers goes as far as the server");
static_assert((int)OPTIONS_SANDBOX_STRICT == (int)HOST_SANDBOX_STRICT, "--sandbox has the host's levels");
static_assert((int)OPTIONS_LISTEN_MAX == (int)SERVER_LISTENERS_MAX, "--listen goes as far as the server");

static const char *plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}

/* ---- The script ---- */

/* The text that is run, with all that the host wants to know about it. */
typedef struct script {
    const char *name; /* in the start line */
    generation *first;
    char *chunk_name; /* "@scripts/chat.lua" */
    char *directory;  /* NULL: embedded */
} script;

static void script_close(script *s)
{
    generation_release(s->first);
    mem_free(s->chunk_name);
    mem_free(s->directory);
}

static bool script_open_embedded(script *s)
{
    static const char name[] = "default.lua";
    char *source = NULL;
    size_t len = 0;
    *s = (script){.name = name, .chunk_name = mem_strdup("@default.lua")};
    for (size_t i = 0; i < embedded_count; i++) {
        if (strcmp(embedded_files[i].name, name) != 0) continue;
        len = embedded_files[i].size;
        source = mem_alloc(len);
        if (source != NULL) memcpy(source, embedded_files[i].data, len);
    }
    if (source != NULL) s->first = generation_open(1, "", source, len);
    return s->first != NULL && s->chunk_name != NULL;
}

/* On failure everything is freed, and what is wrong has been logged. */
static bool script_open(script *s, const char *path)
{
    char why[WHY_BYTES] = "out of memory";
    if (path == NULL && script_open_embedded(s)) return true;
    if (path == NULL) goto fail;
    char *source;
    size_t len;
    bool from_stdin = strcmp(path, "-") == 0;
    *s = (script){.name = from_stdin ? "stdin" : path};
    if (!file_read(&source, &len, from_stdin ? NULL : path, why, sizeof why)) goto fail;
    bool stays = !from_stdin && file_is_ordinary(path); /* of a pipe there is no more to be read */
    s->first = generation_open(1, stays ? path : "", source, len);
    size_t size = strlen(s->name) + 2;
    s->directory = file_directory(from_stdin ? "" : path);
    s->chunk_name = mem_alloc(size);
    if (s->first == NULL || s->directory == NULL || s->chunk_name == NULL) goto fail;
    snprintf(s->chunk_name, size, "%c%s", from_stdin ? '=' : '@', s->name);
    return true;
fail:
    log_write(LOG_ERROR, "cannot read the script %s: %s", path != NULL ? path : s->name, why);
    script_close(s);
    return false;
}

/* ---- Starting ---- */

static void log_start(const server *s, listening *l, const char *script_name)
{
    char names[LISTENING_NAMES_BYTES];
    const server_options *so = server_get_options(s);
    log_write(LOG_INFO, "listening on %s (backend %s, %" PRIu32 " worker%s, script %s, portico %s, %s)",
              listening_names(l, names, sizeof names), io_backend_name(so->backend), so->workers, plural(so->workers),
              script_name, PORTICO_VERSION, LUA_RELEASE);
}

/* ---- Workers that hang ---- */

/* In a call of the system, or in a loop without a budget: that keeps nobody from ending the process. */
static void give_up(triggers *t, const char *who, const char *in, const char *what)
{
    log_write(LOG_ERROR, "stopped, cut off: %s%s%s, and is not waited for any more", who, in, what);
    triggers_abandon(t);
    (void)log_close();
    os_end_now(EXIT_CUT_OFF);
}

/* ---- While workers open and close ---- */

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How long the news may be waited for, in ns; negative: for ever, like idle_ns. */
static int64_t wait_ns(int64_t idle_ns, int64_t end_ns)
{
    if (end_ns == INT64_MAX) return idle_ns;
    int64_t left_ns = end_ns - os_monotonic_ns();
    if (left_ns < 0) left_ns = 0;
    return idle_ns < 0 ? left_ns : least(idle_ns, left_ns);
}

/* What the main thread sees before watch() and behind it. */
typedef struct patience {
    int64_t drain_ns; /* from the first signal; later ones are at once */
    int64_t end_ns;   /* when the workers are not waited for any more */
    bool closing;
    triggers *triggers;           /* NULL: none yet */
    unsigned count[OS_NEWS_WAKE]; /* of each kind of news */
} patience;

/* A server's wait. */
static void wait_for_workers(void *context)
{
    patience *p = context;
    os_news news = os_news_wait(wait_ns(-1, p->end_ns));
    if (news != OS_NEWS_WAKE) p->count[news]++;
    if (news == OS_NEWS_STOP) {
        int64_t drain_ns = p->count[news] == 1 ? p->drain_ns : 0;
        p->end_ns = least(p->end_ns, os_monotonic_ns() + drain_ns + GRACE_NS);
    }
    if (news == OS_NEWS_WAKE && os_monotonic_ns() >= p->end_ns) {
        const char *where = p->closing ? "on_unload" : "while it loads";
        give_up(p->triggers, "the script hangs", p->closing ? " in " : " ", where);
    }
}

/* All is cut off or has drained. */
static void begin_closing(patience *p, triggers *t)
{
    p->closing = true;
    p->triggers = t;
    p->end_ns = os_monotonic_ns() + p->drain_ns + CLOSE_NS;
    p->drain_ns = 0;
}

/* For watch(). More than two of a kind change nothing. */
static void post_early(patience *p)
{
    for (int news = OS_NEWS_STOP; news < OS_NEWS_WAKE; news++) {
        for (unsigned i = 0; i < p->count[news] && i < 2; i++) os_news_post((os_news)news);
        p->count[news] = 0;
    }
}

/* ---- While it runs ---- */

static void log_stopping(server *s)
{
    uint32_t count = server_connections(s);
    log_write(LOG_INFO, "stopping: draining %" PRIu32 " connection%s, at most %g s", count, plural(count),
              (double)server_get_options(s)->drain_ns / NANOSECONDS);
}

static void dump_arrivals(const server *s)
{
    uint32_t waiting;
    uint64_t refused;
    server_arrivals(s, &waiting, &refused);
    log_write(LOG_INFO, "arrivals: %" PRIu32 " wait%s for room, %" PRIu64 " refused", waiting, waiting == 1 ? "s" : "",
              refused);
}

/* Workers that are to write their counters and have not done so yet. */
static atomic_uint dumping;

static void dump_worker(worker *w, worker_message *message)
{
    const conn_set *conns = &w->conns;
    const udp_set *udps = &w->udps;
    log_write(LOG_INFO,
              "worker %" PRIu32 ": %" PRIu32 " connection%s, %" PRIu64 " opened, %" PRIu64 " closed, %" PRIu64
              " packets",
              w->id, conns->count, plural(conns->count), conns->opened, conns->closed, w->packets);
    if (udps->ids > 0) {
        log_write(LOG_INFO,
                  "worker %" PRIu32 ": %" PRIu32 " UDP socket%s, %" PRIu64 " datagrams received, %" PRIu64
                  " sent, %" PRIu64 " dropped",
                  w->id, udps->count, plural(udps->count), udps->received, udps->sent, udps->dropped);
    }
    if (w->id == 0) dump_arrivals(w->server);
    mem_free(message);
    if (atomic_fetch_sub(&dumping, 1) == 1) os_news_post(OS_NEWS_WAKE);
}

/* The counters belong to the workers' threads, so each is asked. */
static void dump(server *s)
{
    for (uint32_t i = 0; i < server_get_options(s)->workers; i++) {
        worker_message *message = mem_zalloc(sizeof *message);
        if (message == NULL) return;
        message->run = dump_worker;
        atomic_fetch_add(&dumping, 1);
        worker_post(server_worker(s, i), message);
    }
}

static void end_without(const worker *w, triggers *t)
{
    char who[32], what[HOST_SLICE_TEXT];
    snprintf(who, sizeof who, "worker %" PRIu32 " hangs", w->id);
    host_running_text(w, what, sizeof what);
    give_up(t, who, what[0] != '\0' ? " in " : "", what);
}

/* Until all workers have ended, by whatever news. grace_ns: what they have for that when all is cut off. */
static void watch(server *s, reload *r, triggers *t, int64_t grace_ns)
{
    bool told = false;
    int64_t end_ns = INT64_MAX; /* when they are not waited for any more */
    while (!server_ended(s)) {
        int64_t idle_ns = reload_step(r);
        triggers_follow(t);
        os_news news = os_news_wait(wait_ns(idle_ns, end_ns));
        bool again = server_stopping(s);
        if ((news == OS_NEWS_STOP || again) && !told) {
            log_stopping(s);
            told = true;
            end_ns = os_monotonic_ns() + server_get_options(s)->drain_ns + grace_ns;
        }
        const worker *hangs = os_monotonic_ns() >= end_ns ? server_abandon(s) : NULL;
        if (hangs != NULL) end_without(hangs, t);
        switch (news) {
        case OS_NEWS_STOP:
            if (again) {
                log_write(LOG_WARN, "stopping now: what is not sent is dropped");
                end_ns = least(end_ns, os_monotonic_ns() + grace_ns);
            }
            server_stop(s);
            break;
        case OS_NEWS_RELOAD:
            reload_ask(r, RELOAD_SIGNAL, NULL, NULL);
            break;
        case OS_NEWS_DUMP:
            dump(s);
            triggers_dump_begun(t);
            break;
        case OS_NEWS_WAKE:
            break;
        }
        triggers_step(t);
        if (atomic_load(&dumping) == 0) triggers_dump_done(t);
    }
}

static int end(server *s)
{
    server_end how = server_wait(s);
    uint64_t opened = 0;
    uint64_t packets = 0;
    for (uint32_t i = 0; i < server_get_options(s)->workers; i++) {
        const worker *w = server_worker(s, i);
        opened += w->conns.opened;
        packets += w->packets;
    }
    const char *remark = how == SERVER_FAILED ? " after a failure" : how == SERVER_CUT_OFF ? ", cut off" : "";
    log_write(how == SERVER_CLEAN ? LOG_INFO : LOG_WARN, "stopped%s: %" PRIu64 " connection%s, %" PRIu64 " packet%s",
              remark, opened, plural(opened), packets, plural(packets));
    return how == SERVER_CLEAN ? EXIT_CLEAN : how == SERVER_FAILED ? EXIT_FAILED : EXIT_CUT_OFF;
}

/* Listens where the script and the command line say, and gives up the rights that only that needed. EXIT_CLEAN, or what the
 * process ends with; why has been logged. */
static int bind_all(listening *l, const script *chosen, const options *o)
{
    char why[WHY_BYTES];
    if (o->check) {
        (void)lint_generation(chosen->first); /* warnings: the verdict stays */
        return EXIT_CLEAN;
    }
    if (!listening_bind(l, chosen->first->number, why, sizeof why)) {
        log_write(LOG_ERROR, "%s", why);
        return EXIT_LISTEN;
    }
    if (!listening_write_file(l)) return EXIT_FAILED;
    if (confine_drop(why, sizeof why)) return EXIT_CLEAN;
    log_write(LOG_ERROR, "%s", why);
    return EXIT_FAILED;
}

/* From a loaded script to the end of all workers. */
static int run(server *s, listening *l, const script *chosen, reload *r, triggers *t, const options *o, patience *p)
{
    int code = r == NULL ? EXIT_FAILED : bind_all(l, chosen, o);
    if (code != EXIT_CLEAN || o->check) {
        server_stop(s);
        begin_closing(p, t);
        (void)server_wait(s);
        return code;
    }
    triggers_settle(t, o);
    listening_start(l);
    log_start(s, l, chosen->name);
    watch(s, r, t, GRACE_NS + GRACE_BUDGETS * (int64_t)o->callback_budget_ns);
    begin_closing(p, t);
    return end(s);
}

/* descriptors: how many the process may have; 0: no such limit. */
static void fill_gate(server_options *so, const options *o, uint64_t descriptors)
{
    uint64_t spare = descriptors / 4 < DESCRIPTORS_SPARE ? descriptors / 4 : DESCRIPTORS_SPARE;
    uint64_t room = descriptors - spare < OPTIONS_CONNECTIONS_MAX ? descriptors - spare : OPTIONS_CONNECTIONS_MAX;
    bool is_auto = o->max_per_address == OPTIONS_AUTO;
    so->max_connections = o->max_connections > 0 ? o->max_connections : (uint32_t)room;
    uint32_t quarter = so->max_connections > 0 ? so->max_connections / 4 + 1 : PER_ADDRESS_UNLIMITED;
    so->gate.per_address = is_auto ? quarter : o->max_per_address;
    so->gate.spare_loopback = is_auto;
    so->gate.per_second = o->accept_rate;
}

static void fill_limits(host_config *host, const options *o)
{
    host->limits = conn_limits_default;
    host->limits.idle_ns = (int64_t)o->idle_ns;
    host->limits.first_byte_ns = (int64_t)o->first_byte_ns;
    host->limits.write_ns = (int64_t)o->write_ns;
    if ((o->given & OPTIONS_GIVEN_IDLE) != 0) host->limits_given |= HOST_LIMIT_IDLE;
    if ((o->given & OPTIONS_GIVEN_FIRST_BYTE) != 0) host->limits_given |= HOST_LIMIT_FIRST_BYTE;
    if ((o->given & OPTIONS_GIVEN_WRITE) != 0) host->limits_given |= HOST_LIMIT_WRITE;
}

/* Loads the script on all workers and runs it. */
static int serve(const options *o, const io_backend *backend, const script *chosen, uint64_t descriptors)
{
    atomic_int exit_code = EXIT_CLEAN;
    atomic_bool reload_wanted = false;
    unsigned processors = os_cpu_count();
    uint32_t workers = o->workers > 0 ? o->workers : processors < WORKER_MAX ? processors : WORKER_MAX;
    server_options so = {
        .backend = backend,
        .workers = o->check ? 1 : workers,
        .workers_fixed = o->check || o->workers > 0,
        .drain_ns = (int64_t)o->drain_ns,
    };
    patience waiting = {.drain_ns = so.drain_ns, .end_ns = INT64_MAX};
    so.wait = wait_for_workers;
    so.wait_context = &waiting;
    fill_gate(&so, o, descriptors);
    host_config host = {
        .chunk_name = chosen->chunk_name,
        .first = chosen->first,
        .script = chosen->name,
        .script_dir = chosen->directory,
        .arg_count = o->arg_count,
        .args = o->args,
        .shared = shared_open((size_t)o->shared_memory, os_monotonic_ns),
        .listening = listening_open(o, chosen->name),
        .lua_memory = (size_t)o->lua_memory,
        .callback_budget_ns = (int64_t)o->callback_budget_ns,
        .load_budget_ns = (int64_t)o->load_budget_ns,
        .sandbox = (host_sandbox)o->sandbox,
        .check = o->check,
        .workers_given = o->check || o->workers > 0,
        .version = PORTICO_VERSION,
        .reload_deadline_ns = (int64_t)o->reload_deadline_ns,
        .reload_wanted = &reload_wanted,
        .exit_code = &exit_code,
    };
    if (host.shared == NULL || host.listening == NULL) {
        log_write(LOG_ERROR, "cannot start: out of memory");
        shared_close(host.shared);
        listening_close(host.listening);
        return EXIT_FAILED;
    }
    fill_limits(&host, o);
    bool script_failed = false;
    server *s = server_open(&so, &host_app, &host, &script_failed);
    if (s == NULL) {
        shared_close(host.shared);
        listening_close(host.listening);
        return script_failed ? EXIT_SCRIPT : EXIT_FAILED;
    }
    const reload_options ro = {
        .probation_ns = (int64_t)o->reload_probation_ns,
        .error_limit = o->reload_error_limit,
    };
    post_early(&waiting);
    listening_attach(host.listening, s);
    reload *r = reload_open(s, &host, &ro);
    if (r == NULL) log_write(LOG_ERROR, "cannot start: out of memory");
    triggers *t = r == NULL || o->check ? NULL : triggers_open(r, o);
    int code = run(s, host.listening, chosen, r, t, o, &waiting);
    server_close(s);
    if (code != EXIT_FAILED) { /* else a worker may still be at work: see server_close() */
        reload_close(r);
        listening_close(host.listening);
        shared_close(host.shared);
    }
    triggers_close(t);
    return code == EXIT_CLEAN && !o->check ? atomic_load(&exit_code) : code;
}

/* Returns the limit now in force; 0: there is none. */
static uint64_t raise_descriptor_limit(const options *o)
{
    uint64_t limit = os_raise_descriptor_limit();
    uint64_t wanted = (uint64_t)o->max_connections + DESCRIPTORS_SPARE;
    if (limit > 0 && o->max_connections > 0 && limit < wanted) {
        log_write(LOG_WARN, "the system allows %" PRIu64 " descriptors: too few for --max-connections %" PRIu32, limit,
                  o->max_connections);
    }
    return limit;
}

/* Finds a backend and a script, and serves. */
static int prepare(const options *o)
{
    char why[WHY_BYTES] = "";
    script chosen;
    uint64_t descriptors = raise_descriptor_limit(o);
    const io_backend *backend = io_backend_find(o->backend, why, sizeof why);
    if (backend == NULL) {
        log_write(LOG_ERROR, "no backend: %s", why);
        return EXIT_FAILED;
    }
    log_write(LOG_INFO, "backend %s: %s", io_backend_name(backend), why);
    if (!script_open(&chosen, o->script)) return EXIT_SCRIPT;
    int code = serve(o, backend, &chosen, descriptors);
    script_close(&chosen);
    return code;
}

/* *left_behind: threads that hang may be using blocks of memory, see log_close() and resolver_left_behind(). */
static int run_command_line(int argc, char **argv, bool *left_behind)
{
    options o;
    char error[OPTIONS_ERROR_BYTES];
    if (!options_parse(&o, argc, argv, io_backend_names(), error, sizeof error)) {
        fprintf(stderr, "portico: %s\n", error);
        return EXIT_USAGE;
    }
    if (o.help) return about_help() ? EXIT_CLEAN : EXIT_FAILED;
    if (o.version) return about_version(o.verbose) ? EXIT_CLEAN : EXIT_FAILED;
    if (!confine_open(&o, error, sizeof error)) {
        fprintf(stderr, "portico: %s\n", error);
        return EXIT_USAGE;
    }
    /* A verdict is given by the exit code: without a word when it is good, unless words were asked for. */
    bool least_given = o.verbose || (o.given & OPTIONS_GIVEN_LOG_LEVEL) != 0;
    log_level least = (log_level)o.log_level;
    if (o.check && !least_given && least < LOG_WARN) least = LOG_WARN;
    log_open(least, o.log_format == OPTIONS_JSON);
    confine_log();
    int code = prepare(&o);
    *left_behind = !log_close() || resolver_left_behind();
    return code;
}

int portico_main(int argc, char **argv)
{
    file_guard_standard();
    bool asks = argc > 1 && strcmp(argv[1], "ctl") == 0;
    if (!asks && !os_news_open()) {
        fputs("portico: cannot watch for signals\n", stderr);
        return EXIT_FAILED;
    }
    if (net_start() != IO_OK) {
        fputs("portico: the system's sockets cannot be used\n", stderr);
        return EXIT_FAILED;
    }
    if (asks) { /* after net_start(), by which a reader who has gone is an error and no death by a signal */
        int code = ctl_main(argc - 2, argv + 2);
        net_stop();
        return code;
    }
    int64_t live = mem_live();
    bool left_behind = false;
    int code = run_command_line(argc, argv, &left_behind);
    /* After a failure workers may still be at work: see server_close(). */
    int64_t left = code == EXIT_FAILED || left_behind ? 0 : mem_live() - live;
    if (left != 0) fprintf(stderr, "portico: leak: %" PRId64 " blocks of memory were not freed\n", left);
    assert(left == 0);
    net_stop();
    return code;
}
