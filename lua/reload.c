/* reload.c - the transaction over all workers. Each step is posted to all of them at once; the last that has done it wakes
 * the main thread, which goes on from there. So nothing here needs a lock: between the steps the main thread alone looks.
 */
#include "reload.h"

#include "askers.h"
#include "base.h"
#include "generation.h"
#include "listening.h"
#include "log.h"
#include "mem.h"
#include "os.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum {
    ROWS_MAX = 12, /* hosts of one worker: current, fallback, lingering */
    LINE_BYTES = 768,
    REPORT_BYTES = 4096
};

typedef enum phase { RESTING, PREPARING, DROPPING, COMMITTING, ANNOUNCING, UNDOING, CONFIRMING, COUNTING } phase;

/* A worker's part of a step. */
typedef struct part part;
struct part {
    worker_message message;
    void (*step)(worker *w, part *p); /* what is to be done there */
    reload *owner;
    bool ok;
    uint32_t moves; /* connections to be moved */
    int64_t ns;     /* that the step took there */
    size_t row_count;
    host_row rows[ROWS_MAX];
};

struct reload {
    server *server;
    listening *listening; /* the config's */
    const host_config *config;
    const reload_options *options;
    generation *current;
    generation *fallback; /* during probation; else NULL */
    generation *candidate;
    generation *rejected; /* the last that was refused or undone; else NULL */
    uint64_t numbers;     /* the last that was given to a generation that came into force */
    phase phase;
    atomic_uint left; /* workers that have not done the step */
    int64_t begun_ns;
    int64_t prepared_ns;
    int64_t probation_end_ns;
    reload_cause cause; /* of the reload under way */
    bool again;         /* the reload under way gives way to going back, and then comes again */
    bool asked;         /* another is to follow … */
    reload_cause asked_cause;
    bool undo_asked;
    bool report_asked;
    bool paths_changed;
    char undo_reason[128];
    char unread[GENERATION_REASON_BYTES]; /* why the script could not be read the last time; "" when it could */
    askers under_way;                     /* wait for the reload that is under way */
    askers next;                          /* … for the one that follows */
    askers undoers;
    askers reporters;
    uint32_t part_count;
    part parts[];
};

/* ---- What is told ---- */

/* "generation 3 (3f2a91c0d4e7)". Returns text. */
static char *name_of(const generation *g, char *text, size_t size)
{
    char hash[GENERATION_HASH_TEXT];
    snprintf(text, size, "generation %" PRIu64 " (%s)", g->number, generation_hash(g, hash));
    return text;
}

/* Logs a line and tells it to those who wait for the reload under way. */
static void conclude(reload *r, bool ok, log_level level, const char *format, ...) PRINTF_LIKE(4, 5);

static void conclude(reload *r, bool ok, log_level level, const char *format, ...)
{
    char line[LINE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    log_write(level, "%s", line);
    askers_tell(&r->under_way, ok, line);
}

static void set_generation(generation **place, generation *g)
{
    generation *old = *place;
    *place = g;
    generation_release(old);
}

/* ---- On the workers ---- */

static void run(worker *w, worker_message *message)
{
    part *p = container_of(message, part, message);
    reload *r = p->owner;
    int64_t began_ns = os_monotonic_ns();
    p->step(w, p);
    p->ns = os_monotonic_ns() - began_ns;
    if (atomic_fetch_sub_explicit(&r->left, 1, memory_order_acq_rel) == 1) os_news_post(OS_NEWS_WAKE);
}

static void prepare(worker *w, part *p)
{
    p->ok = host_prepare(w, p->owner->candidate);
}

static void drop(worker *w, part *p)
{
    (void)p;
    host_drop(w);
}

static void commit(worker *w, part *p)
{
    p->moves = host_commit(w);
}

static void announce(worker *w, part *p)
{
    (void)p;
    host_announce(w);
}

static void confirm(worker *w, part *p)
{
    (void)p;
    host_confirm(w);
}

static void undo(worker *w, part *p)
{
    p->moves = host_rollback(w);
}

static void count_rows(worker *w, part *p)
{
    p->row_count = host_rows(w, p->rows, ROWS_MAX);
}

/* Has all workers do it. */
static void begin_step(reload *r, phase next, void (*step)(worker *w, part *p))
{
    r->phase = next;
    atomic_store(&r->left, r->part_count);
    for (uint32_t i = 0; i < r->part_count; i++) {
        part *p = &r->parts[i];
        p->step = step;
        p->message.run = run;
        worker_post(server_worker(r->server, i), &p->message);
    }
}

static int64_t slowest_ns(const reload *r)
{
    int64_t ns = 0;
    for (uint32_t i = 0; i < r->part_count; i++) ns = r->parts[i].ns > ns ? r->parts[i].ns : ns;
    return ns;
}

static uint32_t all_moves(const reload *r)
{
    uint32_t moves = 0;
    for (uint32_t i = 0; i < r->part_count; i++) moves += r->parts[i].moves;
    return moves;
}

/* ---- Steps, on the main thread ---- */

static void reject(reload *r, generation *g)
{
    set_generation(&r->rejected, g);
    r->paths_changed = true;
}

/* The reason has been logged. */
static void refuse(reload *r, const char *reason)
{
    char serving[64];
    name_of(r->current, serving, sizeof(serving));
    conclude(r, false, LOG_WARN, "reload refused, %s serves on: %s", serving, reason);
}

bool reload_possible(const reload *r)
{
    return r->config->first->script->path[0] != '\0';
}

/* Reads the script, and has the workers prepare it, if it is worth it. */
static void begin(reload *r)
{
    char error[GENERATION_REASON_BYTES];
    askers_move(&r->under_way, &r->next);
    r->asked = false;
    r->cause = r->asked_cause;
    r->asked_cause = RELOAD_WATCH;
    if (!reload_possible(r)) {
        refuse(r, "the script is no file that could be read again");
        return;
    }
    r->begun_ns = os_monotonic_ns();
    generation *g = generation_read_again(r->numbers + 1, r->current, r->rejected, error, sizeof(error));
    bool is_news = g == NULL && strcmp(r->unread, error) != 0;
    snprintf(r->unread, sizeof(r->unread), "%s", g == NULL ? error : "");
    if (g == NULL && r->cause == RELOAD_WATCH &&
        !is_news) { /* a file that is not there is looked for again and again */
        askers_tell(&r->under_way, false, error);
        return;
    }
    if (g == NULL) {
        char reason[LINE_BYTES];
        snprintf(reason, sizeof(reason), "cannot read %s: %s", r->config->script, error);
        refuse(r, reason);
        return;
    }
    bool rejected = r->rejected != NULL && generation_contains(g, r->rejected);
    bool same = generation_contains(g, r->current);
    if (same && !rejected && r->rejected != NULL) { /* it was taken back: saved again, it is to be tried again */
        set_generation(&r->rejected, NULL);
        r->paths_changed = true;
    }
    if (r->cause == RELOAD_WATCH && (rejected || same)) {
        generation_release(g);
        askers_tell(&r->under_way, true, "nothing has changed");
        return;
    }
    if (!host_compiles(g)) {
        refuse(r, g->reason);
        reject(r, g);
        return;
    }
    r->candidate = g;
    begin_step(r, PREPARING, prepare);
}

/* The generation in force, which is on probation, is to be gone back from. */
static bool is_failing(const reload *r)
{
    const generation *g = r->current;
    return r->fallback != NULL &&
           (atomic_load(&g->move_failed) || atomic_load(&g->errors) > atomic_load(&g->error_limit));
}

/* Those that the candidate wants and that are not listened on yet; nothing is accepted there before the commit. */
static bool bind_addresses(reload *r)
{
    char error[GENERATION_REASON_BYTES];
    if (listening_bind(r->listening, r->candidate->number, error, sizeof(error))) return true;
    if (generation_refuse(r->candidate, error, strlen(error))) log_write(LOG_ERROR, "%s", error);
    return false;
}

/* All have tried. */
static void prepared(reload *r)
{
    /* Going back comes first, else the generation that is to be gone back to would be let go. */
    r->again = is_failing(r) || (r->undo_asked && r->fallback != NULL);
    bool ok = !server_stopping(r->server) && !r->again;
    for (uint32_t i = 0; i < r->part_count; i++) ok = ok && r->parts[i].ok;
    ok = ok && bind_addresses(r);
    r->prepared_ns = os_monotonic_ns();
    if (ok && r->options->probation_ns > 0) { /* before the first handler runs */
        atomic_store(&r->candidate->error_limit, atomic_load(&r->candidate->errors) + r->options->error_limit);
    }
    if (ok) begin_step(r, COMMITTING, commit);
    else begin_step(r, DROPPING, drop);
}

static void dropped(reload *r)
{
    generation *g = r->candidate;
    r->candidate = NULL;
    r->phase = RESTING;
    listening_drop(r->listening, g->number);
    if (r->again && !atomic_load(&g->refused)) {
        generation_release(g);
        askers_move(&r->next, &r->under_way);
        reload_ask(r, r->cause, NULL, NULL);
        return;
    }
    refuse(r, atomic_load(&g->refused) ? g->reason : "the server is stopping");
    reject(r, g);
}

static void committed(reload *r)
{
    generation *g = r->candidate;
    char old_name[64], new_name[64];
    uint32_t moves = all_moves(r);
    r->candidate = NULL;
    r->numbers = g->number;
    g->loaded_ns = os_realtime_ns();
    set_generation(&r->fallback, r->current);
    r->current = g;
    listening_settle(r->listening, g->number, r->fallback->number);
    set_generation(&r->rejected, NULL);
    r->paths_changed = true;
    conclude(r, true, LOG_INFO,
             "reload: %s takes over from %s: prepared in %.1f ms, swapped in %.3f ms, %" PRIu32 " connection%s to move",
             name_of(g, new_name, sizeof(new_name)), name_of(r->fallback, old_name, sizeof(old_name)),
             (double)(r->prepared_ns - r->begun_ns) / 1e6, (double)slowest_ns(r) / 1e6, moves, moves == 1 ? "" : "s");
    r->probation_end_ns = os_monotonic_ns() + r->options->probation_ns;
    begin_step(r, ANNOUNCING, announce);
}

static void announced(reload *r)
{
    r->phase = RESTING;
    if (r->options->probation_ns == 0) begin_step(r, CONFIRMING, confirm);
}

static void confirmed(reload *r)
{
    r->phase = RESTING;
    atomic_store(&r->current->error_limit, UINT64_MAX);
    set_generation(&r->fallback, NULL);
    listening_settle(r->listening, r->current->number, 0);
}

static void undone(reload *r)
{
    generation *bad = r->current;
    char bad_name[64], good_name[64], line[LINE_BYTES];
    uint32_t moves = all_moves(r);
    r->phase = RESTING;
    r->current = r->fallback;
    r->fallback = NULL;
    listening_settle(r->listening, r->current->number, 0);
    reject(r, bad);
    snprintf(line, sizeof(line),
             "reload undone: %s serves again instead of %s, because of %s; %" PRIu32 " connection%s to move",
             name_of(r->current, good_name, sizeof(good_name)), name_of(bad, bad_name, sizeof(bad_name)),
             r->undo_reason, moves, moves == 1 ? "" : "s");
    log_write(LOG_WARN, "%s", line);
    askers_tell(&r->undoers, true, line);
}

/* ---- The report ---- */

static void add(char *text, size_t *len, const char *format, ...) PRINTF_LIKE(3, 4);

static void add(char *text, size_t *len, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(text + *len, REPORT_BYTES - *len, format, arguments);
    va_end(arguments);
    if (wanted > 0) *len += (size_t)wanted < REPORT_BYTES - *len ? (size_t)wanted : REPORT_BYTES - *len - 1;
}

/* The sum over all workers; its state is NULL when no worker has it. */
static host_row sum_rows(const reload *r, uint64_t number)
{
    host_row sum = {.generation = number};
    for (uint32_t i = 0; i < r->part_count; i++) {
        for (size_t k = 0; k < r->parts[i].row_count; k++) {
            const host_row *row = &r->parts[i].rows[k];
            if (row->generation != number) continue;
            if (sum.state == NULL || strcmp(sum.state, "lingering") == 0) sum.state = row->state;
            memcpy(sum.hash, row->hash, sizeof(sum.hash));
            sum.loaded_ns = row->loaded_ns;
            sum.errors = row->errors;
            sum.connections += row->connections;
            sum.waiting += row->waiting;
            sum.outbound += row->outbound;
            sum.memory_bytes += row->memory_bytes;
        }
    }
    return sum;
}

/* Why it is alive. Returns text. */
static char *holder(char *text, size_t size, const host_row *row)
{
    if (strcmp(row->state, "current") == 0) snprintf(text, size, "in force");
    else if (strcmp(row->state, "fallback") == 0) snprintf(text, size, "probation of the next");
    else host_holder(text, size, row);
    return text;
}

/* The greatest number below `below` that any worker has; 0: none. */
static uint64_t next_number(const reload *r, uint64_t below)
{
    uint64_t number = 0;
    for (uint32_t i = 0; i < r->part_count; i++) {
        for (size_t k = 0; k < r->parts[i].row_count; k++) {
            uint64_t here = r->parts[i].rows[k].generation;
            if (here < below && here > number) number = here;
        }
    }
    return number;
}

static void counted(reload *r)
{
    char text[REPORT_BYTES], why[96], loaded[LOG_TIME_BYTES];
    size_t len = 0;
    r->phase = RESTING;
    add(text, &len, "%-10s  %-12s  %-9s  %-24s  %11s  %10s  %7s  %s", "generation", "hash", "state", "loaded at",
        "connections", "memory KiB", "errors", "alive because of");
    for (uint64_t number = next_number(r, UINT64_MAX); number > 0; number = next_number(r, number)) {
        host_row row = sum_rows(r, number);
        add(text, &len, "\n%-10" PRIu64 "  %-12s  %-9s  %-24s  %11" PRIu32 "  %10zu  %7" PRIu64 "  %s", number,
            row.hash, row.state, log_time(row.loaded_ns, loaded), row.connections, row.memory_bytes >> 10, row.errors,
            holder(why, sizeof(why), &row));
    }
    askers_tell(&r->reporters, true, text);
}

/* ---- The controller ---- */

reload *reload_open(server *s, const host_config *config, const reload_options *chosen)
{
    uint32_t workers = server_get_options(s)->workers;
    reload *r = mem_zalloc(sizeof(*r) + workers * sizeof(r->parts[0]));
    if (r == NULL) return NULL;
    r->server = s;
    r->listening = config->listening;
    r->config = config;
    r->options = chosen;
    r->current = config->first;
    r->current->loaded_ns = os_realtime_ns();
    r->numbers = r->current->number;
    r->paths_changed = true;
    r->part_count = workers;
    generation_retain(r->current);
    for (uint32_t i = 0; i < workers; i++) r->parts[i].owner = r;
    return r;
}

/* Nothing that was asked for, and has not begun, will happen. */
static void turn_away(reload *r, const char *why)
{
    /* Of the watch nobody expects an answer, and it asks once more after each reload, just in case. */
    if (r->asked && r->asked_cause != RELOAD_WATCH) log_write(LOG_WARN, "reload refused: %s", why);
    r->asked = r->undo_asked = r->report_asked = false;
    askers_tell(&r->next, false, why);
    askers_tell(&r->undoers, false, why);
    askers_tell(&r->reporters, false, why);
}

void reload_close(reload *r)
{
    static const char stopped[] = "the server has stopped";
    if (r == NULL) return;
    askers_tell(&r->under_way, false, stopped);
    turn_away(r, stopped);
    generation_release(r->candidate);
    generation_release(r->fallback);
    generation_release(r->rejected);
    generation_release(r->current);
    mem_free(r);
}

void reload_ask(reload *r, reload_cause cause, asker_answer *answer, void *context)
{
    askers_add(&r->next, answer, context);
    if (!r->asked || cause != RELOAD_WATCH) r->asked_cause = cause; /* who insists is heard */
    r->asked = true;
}

void reload_undo(reload *r, asker_answer *answer, void *context)
{
    askers_add(&r->undoers, answer, context);
    r->undo_asked = true;
}

void reload_report(reload *r, asker_answer *answer, void *context)
{
    askers_add(&r->reporters, answer, context);
    r->report_asked = true;
}

/* A step has been done by all. */
static void go_on(reload *r)
{
    switch (r->phase) {
    case PREPARING:
        prepared(r);
        break;
    case DROPPING:
        dropped(r);
        break;
    case COMMITTING:
        committed(r);
        break;
    case ANNOUNCING:
        announced(r);
        break;
    case UNDOING:
        undone(r);
        break;
    case CONFIRMING:
        confirmed(r);
        break;
    case COUNTING:
        counted(r);
        break;
    case RESTING:
        break;
    }
}

/* Begins what is wanted first, if anything: going back before all. */
static void choose(reload *r)
{
    const generation *g = r->current;
    if (r->undo_asked && r->fallback == NULL) {
        r->undo_asked = false;
        askers_tell(&r->undoers, false, "there is nothing to go back to: no reload is on probation");
    }
    if (is_failing(r) || r->undo_asked) {
        uint64_t errors = atomic_load(&g->errors);
        if (atomic_load(&g->move_failed))
            snprintf(r->undo_reason, sizeof(r->undo_reason), "a connection that could not be moved to it");
        else if (is_failing(r))
            snprintf(r->undo_reason, sizeof(r->undo_reason), "%" PRIu64 " %s in its handlers", errors,
                     errors == 1 ? "error" : "errors");
        else snprintf(r->undo_reason, sizeof(r->undo_reason), "a command");
        r->undo_asked = false;
        begin_step(r, UNDOING, undo);
    } else if (r->fallback != NULL && os_monotonic_ns() >= r->probation_end_ns) {
        begin_step(r, CONFIRMING, confirm);
    } else if (r->report_asked) {
        r->report_asked = false;
        begin_step(r, COUNTING, count_rows);
    } else if (r->asked) {
        begin(r);
    }
}

int64_t reload_step(reload *r)
{
    listening_tell(r->listening);
    if (atomic_exchange(r->config->reload_wanted, false)) reload_ask(r, RELOAD_SCRIPT, NULL, NULL);
    for (;;) {
        if (r->phase != RESTING) {
            if (atomic_load_explicit(&r->left, memory_order_acquire) > 0) return -1;
            go_on(r);
            continue;
        }
        if (server_stopping(r->server)) {
            turn_away(r, "the server is stopping");
            return -1;
        }
        choose(r);
        if (r->phase != RESTING || r->asked) continue;
        if (r->fallback == NULL) return -1;
        int64_t left_ns = r->probation_end_ns - os_monotonic_ns();
        return left_ns > 0 ? left_ns : 0;
    }
}

void reload_paths(const reload *r, void (*visit)(void *context, const char *path), void *context)
{
    generation_paths(r->current, visit, context);
    if (r->rejected != NULL) generation_paths(r->rejected, visit, context);
}

bool reload_paths_changed(reload *r)
{
    bool found = generation_found(r->current);
    bool changed = r->paths_changed || found;
    r->paths_changed = false;
    return changed;
}
