/* idle.c - MODE_IDLE: opens connections and holds them; commands on standard input have some of them asked.
 *
 * Where the limit of descriptors is too low for the wanted number, the connections are spread over threads that do not share their
 * tables of descriptors. Those that a sweep has drawn are passed to the main thread, so that it asks connections of all threads
 * in one go. */
#define _GNU_SOURCE
#include "crowd.h"
#include "passage.h"
#include "report.h"
#include "run.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

enum command { NOTHING, CONNECT, DRAW };

struct holder {
    pthread_t thread;
    struct sockaddr_in server;
    int wanted, have, *fds;
    enum command command;
    int drawn; /* how many to draw */
    uint64_t seed;
    struct trouble trouble;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER; /* a holder's command */
static struct passage passage;
static atomic_bool is_enough;
static int connected; /* in all; one holder connects at a time */
static uint64_t begun_ns;

static uint64_t draw(uint64_t *seed, uint64_t below)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed % below;
}

/* Moves count random members to the front. */
static void shuffle(int *fds, int n, int count, uint64_t *seed)
{
    for (int i = 0; i < count; i++) {
        int other = i + (int)draw(seed, (uint64_t)(n - i)), fd = fds[i];
        fds[i] = fds[other];
        fds[other] = fd;
    }
}

/* Connects what is wanted, and tells of every 20,000; a line on standard input meanwhile means: that is enough. */
static void hold(struct holder *h)
{
    h->fds = malloc(sizeof(*h->fds) * (size_t)h->wanted);
    while (h->have < h->wanted && !is_enough) {
        int count = h->wanted - h->have < CROWD_MAX ? h->wanted - h->have : CROWD_MAX;
        int got = crowd_connect(&h->server, h->fds + h->have, count, &h->trouble), before = connected;
        h->have += got;
        connected += got;
        if (connected / 20000 != before / 20000) {
            fprintf(stderr, "%d connections, %.1f s\n", connected, seconds_since(begun_ns));
            struct pollfd input = {.fd = 0, .events = POLLIN};
            is_enough = poll(&input, 1, 0) > 0;
            if (is_enough) snprintf(h->trouble.text, sizeof h->trouble.text, "stopped");
        }
        if (got < count) break;
    }
}

static void give_drawn(struct holder *h)
{
    shuffle(h->fds, h->have, h->drawn, &h->seed);
    int code = passage_give(&passage, h->fds, h->drawn);
    if (code) {
        fprintf(stderr, "passing descriptors: %s\n", strerror(code));
        exit(1);
    }
}

static void *work(void *arg)
{
    struct holder *h = arg;
    if (options.threads > 1 && unshare(CLONE_FILES)) perror("unshare");
    pthread_mutex_lock(&lock);
    for (;;) {
        while (h->command == NOTHING) pthread_cond_wait(&changed, &lock);
        pthread_mutex_unlock(&lock);
        if (h->command == CONNECT) hold(h);
        else give_drawn(h);
        pthread_mutex_lock(&lock);
        h->command = NOTHING;
        pthread_cond_broadcast(&changed);
    }
    return NULL;
}

static void order(struct holder *h, enum command command)
{
    pthread_mutex_lock(&lock);
    h->command = command;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void join(struct holder *h)
{
    pthread_mutex_lock(&lock);
    while (h->command != NOTHING) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

/* count random connections out of n, from each holder as many as its part is. fds: room for PASSAGE_MAX more. */
static int gather(struct holder *holders, int count, int n, int *fds, uint64_t *seed)
{
    int have = 0, upto = 0;
    for (int i = 0; i < options.threads; i++) {
        struct holder *h = &holders[i];
        int from = (int)((int64_t)upto * count / n);
        upto += h->have;
        h->drawn = (int)((int64_t)upto * count / n) - from;
        order(h, DRAW);
        for (int wanted = have + h->drawn; have < wanted;) {
            int got = passage_take(&passage, fds + have);
            if (got == 0) {
                fprintf(stderr, "a sweep of %d needs as many free descriptors\n", count);
                exit(1);
            }
            have += got;
        }
        join(h);
    }
    shuffle(fds, have, have, seed);
    return have;
}

/* One holder at a time. Returns how many connections there are. */
static int connect_all(struct holder *holders)
{
    const char *why = "";
    begun_ns = now_ns();
    for (int i = 0; i < options.threads && !is_enough && !*why; i++) {
        order(&holders[i], CONNECT);
        join(&holders[i]);
        why = holders[i].trouble.text;
    }
    double seconds = seconds_since(begun_ns);
    printf(
        "{\"mode\":\"idle\",\"wanted\":%d,\"connected\":%d,\"client_threads\":%d,\"seconds\":%.3f,\"conns_per_s\":%.0f,"
        "\"error\":\"%s\"}\n",
        options.connections, connected, options.threads, seconds, connected / seconds, why);
    fflush(stdout);
    return connected;
}

static void sweep(struct holder *holders, int count, int width, int n, uint64_t *seed)
{
    struct processor before, after;
    struct answers *answers = calloc(1, sizeof *answers);
    int *fds = malloc(sizeof(*fds) * ((size_t)count + PASSAGE_MAX));
    count = gather(holders, count, n, fds, seed);
    processor_sample(&before);
    for (int done = 0; done < count; done += width)
        crowd_ask(fds + done, count - done < width ? count - done : width, answers);
    processor_sample(&after);
    for (int i = 0; i < count; i++) close(fds[i]);
    double asked = (double)answers->latencies.count;
    printf("{\"mode\":\"sweep\",\"pinged\":%.0f,\"width\":%d,\"seconds\":%.3f,", asked, width,
           (double)(after.wall_ns - before.wall_ns) / 1e9);
    report_latency(&answers->latencies);
    report_processor(&before, &after, asked);
    printf(",\"errors\":%llu,\"mismatches\":%llu}\n", (unsigned long long)answers->errors,
           (unsigned long long)answers->mismatches);
    fflush(stdout);
    free(fds);
    free(answers);
}

/* As many threads as it takes that each can have its connections, and a sweep's, which are open twice meanwhile. */
static void choose_threads(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    int each = (int)(limit.rlim_cur > 1000 ? limit.rlim_cur - 200 - limit.rlim_cur / 50 : limit.rlim_cur);
    if (options.connections > each && options.threads == 1) options.threads = (options.connections + each - 1) / each;
    if (options.threads < options.port_count) options.threads = options.port_count;
}

int run_idle(void)
{
    uint64_t seed = 88172645463325252ull;
    char line[128];
    choose_threads();
    if (passage_open(&passage)) {
        perror("socketpair");
        return 1;
    }
    struct holder *holders = calloc((size_t)options.threads, sizeof *holders);
    for (int i = 0; i < options.threads; i++) {
        struct holder *h = &holders[i];
        h->wanted = options.connections / options.threads + (i < options.connections % options.threads);
        h->seed = seed + (uint64_t)i * 7919;
        h->server = options.server;
        h->server.sin_port = options.ports[i % options.port_count];
        pthread_create(&h->thread, NULL, work, h);
    }
    int n = connect_all(holders);
    while (fgets(line, sizeof line, stdin) && strncmp(line, "quit", 4) != 0) {
        int count = n / 100, width = 16;
        if (strncmp(line, "sweep", 5) != 0 || n == 0) continue;
        sscanf(line + 5, "%d %d", &count, &width);
        if (count > n) count = n;
        if (width > CROWD_MAX) width = CROWD_MAX;
        if (width < 1) width = 1;
        sweep(holders, count, width, n, &seed);
    }
    return n < options.connections;
}
