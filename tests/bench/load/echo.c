/* echo.c - MODE_ECHO: all connections at once, each with its messages in flight. */
#include "echo.h"

#include "report.h"
#include "socket.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

void conn_fail(struct echo_worker *w, struct conn *c, const char *what, int code)
{
    if (c->dead) return;
    c->dead = true;
    w->errors++;
    w->alive--;
    trouble_note(&w->trouble, what, code);
}

static void conn_mismatch(struct echo_worker *w, struct conn *c, const char *what)
{
    w->mismatches++;
    conn_fail(w, c, what, EPROTO);
}

void conn_take(struct echo_worker *w, struct conn *c, const char *data, size_t len)
{
    w->progress++;
    uint64_t now = ticks();
    while (len > 0) {
        if (c->answered == c->made) {
            conn_mismatch(w, c, "unexpected bytes");
            return;
        }
        size_t slot = (size_t)(c->answered % (unsigned)options.depth), piece = options.answer - c->seen;
        if (piece > len) piece = len;
        if (memcmp(data, message_answer(c->messages + slot * options.size) + c->seen, piece) != 0) {
            conn_mismatch(w, c, "answer differs");
            return;
        }
        data += piece;
        len -= piece;
        c->seen += piece;
        if (c->seen < options.answer) return;
        c->seen = 0;
        if (phase == MEASURING) {
            histogram_add(&w->latencies, now - c->made_ticks[slot]);
            w->messages++;
        }
        c->answered++;
        if (options.rate > 0) w->ready[w->ready_tail++ % READY_SLOTS] = (uint32_t)(c - w->conns);
        else conn_make(c, now);
    }
}

static struct conn *next_ready(struct echo_worker *w)
{
    while (w->ready_head != w->ready_tail) {
        struct conn *c = &w->conns[w->ready[w->ready_head++ % READY_SLOTS]];
        if (!c->dead) return c;
    }
    return NULL;
}

int64_t echo_due(struct echo_worker *w, echo_send *send, void *engine)
{
    uint64_t now = ticks();
    while (w->due_ticks <= now) {
        struct conn *c = next_ready(w);
        if (!c) { /* every connection is busy: latency grows instead */
            w->missed++;
            break;
        }
        conn_make(c, w->due_ticks);
        send(engine, c);
        w->due_ticks += w->step_ticks;
    }
    now = ticks();
    if (w->due_ticks > now) return (int64_t)((double)(w->due_ticks - now) * tick_ns);
    return w->ready_head != w->ready_tail ? 0 : 1000000;
}

static void *work(void *arg)
{
    struct echo_worker *w = arg;
    if (options.rate > 0) {
        w->ready = malloc(sizeof(*w->ready) * READY_SLOTS);
        for (int k = 0; k < options.depth; k++)
            for (int i = 0; i < w->count; i++) w->ready[w->ready_tail++ % READY_SLOTS] = (uint32_t)i;
        w->step_ticks = (uint64_t)(1e9 * options.threads / options.rate / tick_ns);
        w->due_ticks = ticks();
    }
    if (options.engine == ENGINE_EPOLL) echo_by_epoll(w);
    else echo_by_uring(w);
    return NULL;
}

/* Returns the descriptor, or -1 having said why. A server whose backlog is full gets some time. */
static int connect_one(int index)
{
    for (int tries = 0;; tries++) {
        int fd = tcp_socket(0);
        if (fd < 0) {
            perror("socket");
            return -1;
        }
        if (!connect(fd, (struct sockaddr *)&options.server, sizeof options.server)) return fd;
        int code = errno;
        close(fd);
        if (tries > 50 || (code != ETIMEDOUT && code != ECONNREFUSED && code != EADDRNOTAVAIL)) {
            fprintf(stderr, "connect %d: %s\n", index, strerror(code));
            return -1;
        }
        clock_pass(0.02);
    }
}

/* Returns NULL having said why. */
static struct conn *connect_all(void)
{
    size_t count = (size_t)options.connections, depth = (size_t)options.depth;
    struct conn *conns = calloc(count, sizeof *conns);
    char *messages = malloc(count * depth * options.size);
    uint64_t *made_ticks = calloc(count * depth, sizeof *made_ticks);
    for (size_t i = 0; i < count; i++) {
        struct conn *c = &conns[i];
        c->id = (uint32_t)i;
        c->messages = messages + i * depth * options.size;
        c->made_ticks = made_ticks + i * depth;
        for (size_t k = 0; k < depth; k++) message_fill(c->messages + k * options.size, (unsigned)(i * depth + k));
        if ((c->fd = connect_one((int)i)) < 0) return NULL;
    }
    return conns;
}

/* Lets the threads work: warms up, measures, and tells them that it is over. Returns whether they were stuck. */
static bool measure(const struct echo_worker *workers, struct processor *begin, struct processor *end)
{
    uint64_t started_ns = now_ns(), progress = 0, progress_ns = started_ns;
    bool is_stuck = false;
    processor_sample(begin);
    for (;;) {
        uint64_t now_progress = 0;
        int alive = 0;
        for (int i = 0; i < options.threads; i++) {
            now_progress += workers[i].progress;
            alive += workers[i].alive;
        }
        if (now_progress != progress) {
            progress = now_progress;
            progress_ns = now_ns();
        }
        is_stuck = seconds_since(progress_ns) > options.patience;
        if (is_stuck || alive == 0) break;
        double left = options.warm - seconds_since(started_ns);
        if (phase == WARM_UP && left <= 0) {
            processor_sample(begin);
            phase = MEASURING;
        }
        if (phase == MEASURING) left = options.seconds - seconds_since(begin->wall_ns);
        if (phase == MEASURING && left <= 0) break;
        clock_pass(left > .2 ? .2 : left);
    }
    phase = OVER;
    processor_sample(end);
    return is_stuck;
}

int run_echo(void)
{
    struct conn *conns = connect_all();
    if (!conns) return 1;
    struct echo_worker *workers = calloc((size_t)options.threads, sizeof *workers);
    for (int i = 0, at = 0; i < options.threads; i++) {
        struct echo_worker *w = &workers[i];
        w->count = w->alive = options.connections / options.threads + (i < options.connections % options.threads);
        w->conns = conns + at;
        at += w->count;
        pthread_create(&w->thread, NULL, work, w);
    }
    struct processor begin, end;
    bool is_stuck = measure(workers, &begin, &end);
    struct echo_worker *sum = calloc(1, sizeof *sum);
    for (int i = 0; i < options.threads; i++) {
        struct echo_worker *w = &workers[i];
        pthread_join(w->thread, NULL);
        histogram_merge(&sum->latencies, &w->latencies);
        sum->messages += w->messages;
        sum->errors += w->errors;
        sum->mismatches += w->mismatches;
        sum->missed += w->missed;
        if (!sum->trouble.text[0]) sum->trouble = w->trouble;
    }
    uint64_t total = 0;
    for (int i = 0; i < options.connections; i++) total += conns[i].answered;
    double wall = (double)(end.wall_ns - begin.wall_ns) / 1e9, rate = (double)sum->messages / wall;
    printf("{\"mode\":\"echo\",\"conns\":%d,\"depth\":%d,\"size\":%zu,\"seconds\":%.3f,\"msgs\":%llu,"
           "\"total\":%llu,\"msgs_per_s\":%.0f,\"mb_per_s\":%.2f,",
           options.connections, options.depth, options.size, wall, (unsigned long long)sum->messages,
           (unsigned long long)total, rate, rate * (double)options.size / 1e6);
    report_latency(&sum->latencies);
    report_processor(&begin, &end, (double)sum->messages);
    if (options.rate > 0) printf(",\"rate\":%.0f,\"rate_waits\":%llu", options.rate, (unsigned long long)sum->missed);
    printf(",\"errors\":%llu,\"mismatches\":%llu,\"stalled\":%d,\"error\":\"%s\"}\n", (unsigned long long)sum->errors,
           (unsigned long long)sum->mismatches, is_stuck, sum->trouble.text);
    return sum->errors > 0 || sum->mismatches > 0 || is_stuck;
}
