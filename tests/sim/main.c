/* main.c - runs seeds, each child process many of them, and says how to repeat one that fails; and the exam, which runs
 * seeds with one planted defect after the other until an oracle finds it; and the sweep, in which each allocation fails once.
 *
 *   sim [--seed N | --seeds K [--first N]] [--profile iocp|io_uring|epoll] [--script NAME] [--trace] [--hash] [--jobs J]
 *   sim exam [--quick] [--limit K] [--defect N] [--jobs J]
 *   sim memory [--seed N] [--script NAME] [--profile P] [--step S]
 */
#include "defects.h"
#include "run.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    JOBS_MAX = 16,
    SEED_SECONDS_MAX = 60, /* of real time for one seed: a loop that never asks its port for anything */
    EXAM_SEEDS = 20000,
    QUICK_FACTOR = 4, /* the quick exam tries so many times the seeds that the defect needed once … */
    QUICK_MORE = 200  /* … and so many more */
};

static const char *const profile_names[SIM_PROFILES] = {"iocp", "io_uring", "epoll"};

typedef struct options {
    uint64_t first;
    uint64_t seeds;
    int profile; /* -1: by turns */
    const char *script;
    bool trace;
    bool hash;
    bool exam;
    bool quick;
    uint64_t limit;
    bool memory;
    uint64_t step;
    int defect; /* 0: none, in an exam: all */
    int jobs;
} options;

int sim_defect;

/* Replaces the C library's, in this executable: a failed assertion of the program's is an oracle's no. */
_Noreturn void __assert_fail(const char *expression, const char *file, unsigned line, const char *function)
{
    const char *name = strrchr(file, '/');
    (void)function;
    sim_fail("assertion", "%s:%u: %s", name != NULL ? name + 1 : file, line, expression);
}

static sim_profile profile_of(const options *o, uint64_t seed)
{
    return o->profile >= 0 ? (sim_profile)o->profile : (sim_profile)(seed % SIM_PROFILES);
}

/* ---- In a child ---- */

static _Noreturn void run_seeds(const options *o, uint64_t first, uint64_t count, uint64_t step)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t seed = first + i * step;
        sim_verdict_shared->seed = seed;
        alarm(SEED_SECONDS_MAX);
        sim_setting setting = {.seed = seed, .profile = profile_of(o, seed), .script = o->script, .tracing = o->trace};
        (void)sim_run(&setting);
        sim_verdict_shared->hash = world.hash;
        sim_verdict_shared->done++;
        if (o->hash) printf("%" PRIu64 " %016" PRIx64 "\n", seed, world.hash);
    }
    exit(0); /* and what counts coverage writes it */
}

/* Of one script, under one kind of want: a run for every allocation, or every step-th. */
static _Noreturn void run_points(const options *o, const char *script, sim_want want)
{
    sim_setting setting = {.seed = o->first, .script = script, .want = want, .at = UINT64_MAX, .tracing = o->trace};
    setting.profile = profile_of(o, setting.seed);
    uint64_t count = sim_run(&setting).allocations;
    for (uint64_t at = 1 + o->first % o->step; at <= count; at += o->step) {
        sim_verdict_shared->seed = setting.at = at;
        alarm(SEED_SECONDS_MAX);
        (void)sim_run(&setting);
        sim_verdict_shared->done++;
    }
    exit(0);
}

/* ---- In the parent ---- */

typedef struct child {
    pid_t pid; /* 0: none */
    int task;  /* the parent's number for it */
    sim_verdict *verdict;
} child;

static child children[JOBS_MAX];

static void die(const char *what)
{
    fprintf(stderr, "sim: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void open_children(void)
{
    size_t bytes = sizeof(sim_verdict) * JOBS_MAX;
    sim_verdict *verdicts = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (verdicts == MAP_FAILED) die("mmap");
    for (int i = 0; i < JOBS_MAX; i++) children[i].verdict = &verdicts[i];
}

/* True in the child. */
static bool start_process(child *c, int task)
{
    memset(c->verdict, 0, sizeof(*c->verdict));
    fflush(stdout);
    c->task = task;
    c->pid = fork();
    if (c->pid < 0) die("fork");
    if (c->pid > 0) return false;
    sim_verdict_shared = c->verdict;
    return true;
}

static void start_child(child *c, const options *o, int task, uint64_t first, uint64_t count, uint64_t step)
{
    if (start_process(c, task)) run_seeds(o, first, count, step);
}

/* Waits for one to end. True: all its seeds were well. Else its verdict says why not. */
static child *wait_child(bool *well)
{
    int status;
    pid_t pid = wait(&status);
    if (pid < 0) die("wait");
    child *c = children;
    while (c->pid != pid) c++;
    c->pid = 0;
    *well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (*well || c->verdict->oracle[0] != '\0') return c;
    bool hung = WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM;
    (void)snprintf(c->verdict->oracle, sizeof(c->verdict->oracle), "%s", hung ? "hang" : "crash");
    if (WIFSIGNALED(status)) {
        (void)snprintf(c->verdict->text, sizeof(c->verdict->text), "%s", strsignal(WTERMSIG(status)));
    }
    return c;
}

static void say_failure(const options *o, const sim_verdict *v)
{
    const char *profile = profile_names[profile_of(o, v->seed)];
    printf("seed %" PRIu64 " (%s) fails: %s: %s\n", v->seed, profile, v->oracle, v->text);
    printf("repeat it: ./dev sim --seed %" PRIu64 " --profile %s%s%s --trace\n", v->seed, profile,
           o->script != NULL ? " --script " : "", o->script != NULL ? o->script : "");
}

static double seconds_since(const struct timespec *start)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

static int run_all(const options *o)
{
    struct timespec start;
    (void)clock_gettime(CLOCK_MONOTONIC, &start);
    uint64_t done = 0, steps = 0;
    int failures = 0, running = 0;
    int jobs = o->seeds < (uint64_t)o->jobs ? 1 : o->jobs;
    for (int i = 0; i < jobs; i++, running++) {
        uint64_t share = o->seeds / (uint64_t)jobs + ((uint64_t)i < o->seeds % (uint64_t)jobs);
        start_child(&children[i], o, i, o->first + (uint64_t)i, share, (uint64_t)jobs);
    }
    for (; running > 0; running--) {
        bool well;
        const child *c = wait_child(&well);
        done += c->verdict->done;
        steps += c->verdict->steps;
        if (!well) say_failure(o, c->verdict);
        failures += !well;
    }
    if (!o->trace && !o->hash) {
        double seconds = seconds_since(&start);
        printf("%" PRIu64 " seeds from %" PRIu64 " on, %" PRIu64 " steps, %.1f s, %.0f seeds/s: %s\n", done, o->first,
               steps, seconds, (double)done / seconds, failures == 0 ? "all well" : "not well");
    }
    return failures > 0;
}

/* ---- Memory that runs out ---- */

static const char *const wants[] = {
    [SIM_WANT_ONCE] = "once", [SIM_WANT_TWICE] = "twice", [SIM_WANT_FROM_THEN_ON] = "from then on"};

static int sweep(const options *o)
{
    struct timespec start;
    (void)clock_gettime(CLOCK_MONOTONIC, &start);
    uint64_t points = 0;
    int failures = 0;
    printf("| script | an allocation fails | points | failures |\n|---|---|---|---|\n");
    const char *script;
    bool judges;
    for (size_t i = 0; (script = sim_script_name(i, &judges)) != NULL; i++) {
        if (o->script != NULL ? strcmp(o->script, script) != 0 : judges) continue;
        for (sim_want want = SIM_WANT_ONCE; want <= SIM_WANT_FROM_THEN_ON; want++) {
            child *c = &children[0];
            bool well;
            if (start_process(c, 0)) run_points(o, script, want);
            (void)wait_child(&well);
            points += c->verdict->done;
            failures += !well;
            printf("| %s | %s | %" PRIu64 " | %s%s%s |\n", script, wants[want], c->verdict->done,
                   well ? "0" : c->verdict->oracle, well ? "" : ": ", well ? "" : c->verdict->text);
            if (!well) printf("at allocation %" PRIu64 "\n", c->verdict->seed);
        }
    }
    printf("\n%" PRIu64 " points, %d failures, %.1f s\n", points, failures, seconds_since(&start));
    return failures > 0;
}

/* ---- The exam ---- */

/* What became of each defect. */
typedef struct mark {
    bool asked;
    bool found;
    uint64_t seeds;
    char oracle[32];
} mark;

/* The next defect that is to be looked for, or -1. */
static int next_task(const options *o, mark *marks, int *next)
{
    while (*next < sim_defect_count) {
        int task = (*next)++;
        const sim_defect_info *d = &sim_defect_infos[task];
        marks[task].asked = o->defect == 0 || o->defect == d->number;
        if (marks[task].asked && d->planted) return task;
    }
    return -1;
}

static void look_for(const options *o, int task)
{
    const sim_defect_info *d = &sim_defect_infos[task];
    uint64_t quick = d->seeds * QUICK_FACTOR + QUICK_MORE;
    child *c = children;
    while (c->pid != 0) c++;
    sim_defect = d->number;
    start_child(c, o, task, o->first, o->quick && quick < o->limit ? quick : o->limit, 1);
}

/* True when nine in ten were found: a change of the sources may take a place from a defect, and is not wrong for that. */
static bool say_marks(const mark *marks)
{
    int asked = 0, found = 0;
    printf("| defect | in | what | seeds needed | found by |\n|---|---|---|---|---|\n");
    for (int i = 0; i < sim_defect_count; i++) {
        const sim_defect_info *d = &sim_defect_infos[i];
        asked += marks[i].asked;
        found += marks[i].found;
        if (!marks[i].asked) continue;
        printf("| %d | `%s` | %s | ", d->number, d->file, d->what);
        if (marks[i].found) printf("%" PRIu64 " | %s |\n", marks[i].seeds, marks[i].oracle);
        else if (d->planted) printf("**more than %" PRIu64 "** | none |\n", marks[i].seeds);
        else printf("**not planted**: its text is no longer there | |\n");
    }
    printf("\n%d of %d found", found, asked);
    return found > 0 && found * 10 >= asked * 9;
}

static int examine(const options *o)
{
    struct timespec start;
    (void)clock_gettime(CLOCK_MONOTONIC, &start);
    mark *marks = calloc((size_t)sim_defect_count, sizeof(*marks));
    if (marks == NULL) die("calloc");
    for (int next = 0, running = 0;;) {
        int task = running < o->jobs ? next_task(o, marks, &next) : -1;
        if (task >= 0) {
            look_for(o, task);
            running++;
            continue;
        }
        if (running == 0) break;
        bool well;
        const child *c = wait_child(&well);
        mark *m = &marks[c->task];
        running--;
        m->found = !well;
        m->seeds = well ? c->verdict->done : c->verdict->seed - o->first + 1;
        (void)snprintf(m->oracle, sizeof(m->oracle), "%s", c->verdict->oracle);
    }
    bool enough = say_marks(marks);
    printf(", %.1f s\n", seconds_since(&start));
    free(marks);
    return !enough;
}

/* ---- The command line ---- */

static _Noreturn void usage(const char *wrong)
{
    fprintf(stderr,
            "sim: %s\n"
            "usage: sim [--seed N | --seeds K [--first N]] [--profile iocp|io_uring|epoll] [--script NAME] [--trace]\n"
            "           [--hash] [--jobs J]\n"
            "       sim exam [--quick] [--limit K] [--defect N] [--jobs J]\n"
            "       sim memory [--seed N] [--script NAME] [--profile P] [--step S]\n",
            wrong);
    exit(2);
}

static uint64_t read_number(const char *text)
{
    char *end;
    errno = 0;
    uint64_t number = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || end == text) usage("a number is expected");
    return number;
}

static int read_profile(const char *text)
{
    for (int i = 0; i < SIM_PROFILES; i++) {
        if (strcmp(text, profile_names[i]) == 0) return i;
    }
    usage("there is no such profile");
}

static options read_options(int argc, char **argv)
{
    options o = {.first = 1, .seeds = 1000, .profile = -1, .limit = EXAM_SEEDS, .step = 1, .jobs = 2};
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(name, "exam") == 0) o.exam = true;
        else if (strcmp(name, "memory") == 0) o.memory = true;
        else if (strcmp(name, "--trace") == 0) o.trace = true;
        else if (strcmp(name, "--hash") == 0) o.hash = true;
        else if (strcmp(name, "--quick") == 0) o.quick = true;
        else if (value == NULL) usage("an option is unknown, or lacks its value");
        else if (strcmp(name, "--seed") == 0) o.first = read_number(value), o.seeds = 1, i++;
        else if (strcmp(name, "--seeds") == 0) o.seeds = read_number(value), i++;
        else if (strcmp(name, "--first") == 0) o.first = read_number(value), i++;
        else if (strcmp(name, "--profile") == 0) o.profile = read_profile(value), i++;
        else if (strcmp(name, "--script") == 0) o.script = value, i++;
        else if (strcmp(name, "--step") == 0) o.step = read_number(value), i++;
        else if (strcmp(name, "--limit") == 0) o.limit = read_number(value), i++;
        else if (strcmp(name, "--defect") == 0) o.defect = (int)read_number(value), i++;
        else if (strcmp(name, "--jobs") == 0) o.jobs = (int)read_number(value), i++;
        else usage("an option is unknown");
    }
    if (o.step == 0) usage("--step: 1 or more");
    if (o.jobs < 1 || o.jobs > JOBS_MAX) usage("--jobs: from 1 to 16");
    if (o.trace || o.hash) o.jobs = 1;
    return o;
}

int main(int argc, char **argv)
{
    options o = read_options(argc, argv);
    sim_scripts_open(SIM_SCRIPTS, SIM_DEFAULT_SCRIPT);
    open_children();
    if (o.exam) return examine(&o);
    if (o.memory) return sweep(&o);
    sim_defect = o.defect;
    return run_all(&o);
}
