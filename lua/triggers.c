/* triggers.c - the watched files and the channel for commands, as the main thread sees them. */
#include "triggers.h"

#include "base.h"
#include "confine.h"
#include "control.h"
#include "ctl.h"
#include "log.h"
#include "mem.h"
#include "os.h"
#include "watch.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { WHY_BYTES = 512 };

struct triggers {
    reload *reload;
    watch *files;            /* NULL: not watched */
    control *commands;       /* NULL: none are taken */
    atomic_bool files_saved; /* since the main thread last looked */
    struct {
        control_request *request; /* NULL: none */
        bool begun;
    } dumps[CONTROL_CLIENTS_MAX]; /* who wants to know that the counters are in the log */
};

/* ---- Commands ---- */

static void reply(void *request, bool ok, const char *text)
{
    control_reply(request, ok, text);
}

static void do_reload(triggers *t, control_request *request)
{
    reload_ask(t->reload, RELOAD_COMMAND, reply, request);
}

static void do_rollback(triggers *t, control_request *request)
{
    reload_undo(t->reload, reply, request);
}

static void do_generations(triggers *t, control_request *request)
{
    reload_report(t->reload, reply, request);
}

/* The same as the signal, which not every system has. */
static void do_stop(triggers *t, control_request *request)
{
    (void)t;
    os_news_post(OS_NEWS_STOP);
    control_reply(request, true, "stopping");
}

static void do_dump(triggers *t, control_request *request)
{
    size_t i = 0;
    while (i < CONTROL_CLIENTS_MAX && t->dumps[i].request != NULL) i++;
    if (i == CONTROL_CLIENTS_MAX) {
        control_reply(request, false, "too many ask at a time");
        return;
    }
    t->dumps[i].request = request;
    t->dumps[i].begun = false;
    os_news_post(OS_NEWS_DUMP);
}

/* Answers who waits for a dump; not_begun: also those for whom none has begun. */
static void answer_dumps(triggers *t, bool not_begun, bool ok, const char *text)
{
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        control_request *request = t->dumps[i].request;
        if (request == NULL || (!t->dumps[i].begun && !not_begun)) continue;
        t->dumps[i].request = NULL;
        control_reply(request, ok, text);
    }
}

static const struct {
    const char *name;
    void (*run)(triggers *t, control_request *request);
} commands[] = {
    {CTL_RELOAD, do_reload}, {CTL_ROLLBACK, do_rollback}, {CTL_GENERATIONS, do_generations},
    {CTL_STOP, do_stop},     {CTL_DUMP, do_dump},
};

/* Answers now, or later. */
static void run_command(triggers *t, control_request *request)
{
    const char *line = control_line(request);
    for (size_t i = 0; i < array_count(commands); i++) {
        if (strcmp(commands[i].name, line) == 0) {
            log_write(LOG_DEBUG, "command: %s", line);
            commands[i].run(t, request);
            return;
        }
    }
    control_reply(request, false, "the server does not know this command");
}

static void on_asked(void *context)
{
    (void)context;
    os_news_post(OS_NEWS_WAKE);
}

static control *open_commands(triggers *t, const char *where)
{
    char why[WHY_BYTES];
    if (where != NULL && strcmp(where, "off") == 0) return NULL;
    control *c = control_open(where, on_asked, t, why, sizeof(why));
    if (c == NULL) log_write(LOG_WARN, "portico ctl will not reach this server: %s", why);
    else log_write(LOG_DEBUG, "commands are taken at %s", control_where(c));
    return c;
}

/* ---- Files ---- */

/* On the watch's thread. */
static void on_saved(void *context)
{
    triggers *t = context;
    atomic_store(&t->files_saved, true);
    os_news_post(OS_NEWS_WAKE);
}

static watch *open_files(triggers *t, const options *o)
{
    if (!reload_possible(t->reload) || o->watch == OPTIONS_WATCH_OFF) return NULL;
    watch *files = watch_open(o->watch == OPTIONS_WATCH_POLL ? WATCH_POLL : WATCH_NOTIFIED, on_saved, t);
    if (files == NULL) log_write(LOG_WARN, "saved files will not be noticed: out of memory or threads");
    return files;
}

typedef struct path_list {
    const char **paths;
    size_t count;
    size_t room;
    bool complete;
} path_list;

static void add_path(void *context, const char *path)
{
    path_list *list = context;
    if (list->count == list->room) {
        size_t room = list->room > 0 ? 2 * list->room : 16;
        const char **paths = mem_realloc(list->paths, room * sizeof(*paths));
        if (paths == NULL) {
            list->complete = false;
            return;
        }
        list->paths = paths;
        list->room = room;
    }
    list->paths[list->count++] = path;
}

/* The script may have other modules than before. */
static void watch_paths(triggers *t)
{
    path_list list = {.complete = true};
    reload_paths(t->reload, add_path, &list);
    bool set = list.complete && watch_set(t->files, list.paths, list.count);
    static log_cause cause;
    if (!set)
        log_rarely(&cause, LOG_WARN, "saved modules will not all be noticed",
                   "saved modules will not all be noticed: out of memory, or more than %d", WATCH_FILES_MAX);
    mem_free(list.paths);
}

/* ---- Together ---- */

triggers *triggers_open(reload *r, const options *o)
{
    triggers *t = mem_zalloc(sizeof(*t));
    if (t == NULL) return NULL;
    t->reload = r;
    uint32_t user;
    bool changes = confine_user(&user);
    if (!changes || o->control != NULL) t->commands = open_commands(t, o->control);
    if (changes && t->commands != NULL && !control_give(t->commands, user))
        log_write(LOG_WARN, "only root can use %s: it cannot be given to user %" PRIu32, control_where(t->commands),
                  user);
    t->files = open_files(t, o);
    triggers_follow(t);
    return t;
}

void triggers_settle(triggers *t, const options *o)
{
    uint32_t user;
    if (t != NULL && o->control == NULL && confine_user(&user)) t->commands = open_commands(t, NULL);
}

void triggers_step(triggers *t)
{
    if (t == NULL) return;
    if (atomic_exchange(&t->files_saved, false)) reload_ask(t->reload, RELOAD_WATCH, NULL, NULL);
    for (;;) {
        control_request *request = t->commands != NULL ? control_take(t->commands) : NULL;
        if (request == NULL) return;
        run_command(t, request);
    }
}

void triggers_follow(triggers *t)
{
    if (t == NULL || t->files == NULL) return;
    if (reload_paths_changed(t->reload)) watch_paths(t);
}

void triggers_dump_begun(triggers *t)
{
    for (size_t i = 0; t != NULL && i < CONTROL_CLIENTS_MAX; i++) t->dumps[i].begun = true;
}

void triggers_dump_done(triggers *t)
{
    if (t != NULL) answer_dumps(t, false, true, "the counters are in the server's log");
}

void triggers_abandon(triggers *t)
{
    if (t == NULL) return;
    control_close(t->commands);
    t->commands = NULL;
}

void triggers_close(triggers *t)
{
    if (t == NULL) return;
    answer_dumps(t, true, false, "the server has stopped");
    watch_close(t->files);
    control_close(t->commands);
    mem_free(t);
}
