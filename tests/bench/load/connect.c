/* connect.c - MODE_CONNECT: connect, one message and its answer, close; again and again, options.connections at a time. */
#include "clock.h"
#include "message.h"
#include "report.h"
#include "run.h"
#include "socket.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, TRIES = 3 };

struct visit {
    int fd; /* -1: it was tried in vain */
    bool is_sent;
    size_t got;
    uint64_t begin_ticks;
};

struct visitor {
    pthread_t thread;
    int count, epoll;
    char *message, *answer;
    struct histogram latencies;
    uint64_t done, errors, mismatches;
    struct trouble trouble;
};

static void fail(struct visitor *w, const char *what, int code)
{
    w->errors++;
    trouble_note(&w->trouble, what, code);
}

static ssize_t send_message(const struct visitor *w, int fd)
{
    return send(fd, w->message, options.size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void wait_for(const struct visitor *w, struct visit *v, int how)
{
    struct epoll_event e = {.events = v->is_sent ? EPOLLIN : EPOLLOUT, .data.ptr = v};
    epoll_ctl(w->epoll, how, v->fd, &e);
}

static void begin(struct visitor *w, struct visit *v)
{
    for (int tries = 0; tries < TRIES; tries++) {
        v->begin_ticks = ticks();
        v->got = 0;
        v->fd = tcp_socket(SOCK_NONBLOCK);
        if (v->fd < 0) {
            fail(w, "socket", errno);
            continue;
        }
        if (connect(v->fd, (struct sockaddr *)&options.server, sizeof options.server) && errno != EINPROGRESS) {
            fail(w, "connect", errno);
            close(v->fd);
            v->fd = -1;
            continue;
        }
        /* On loopback the handshake is over by now, unless the backlog is full. */
        v->is_sent = send_message(w, v->fd) == (ssize_t)options.size;
        wait_for(w, v, EPOLL_CTL_ADD);
        return;
    }
}

static void begin_again(struct visitor *w, struct visit *v)
{
    close(v->fd);
    begin(w, v);
}

static void connected(struct visitor *w, struct visit *v)
{
    ssize_t n = send_message(w, v->fd);
    if (n < 0 && errno == EAGAIN) return;
    if (n == (ssize_t)options.size) {
        v->is_sent = true;
        wait_for(w, v, EPOLL_CTL_MOD);
    } else {
        fail(w, "send", errno);
        begin_again(w, v);
    }
}

static void received(struct visitor *w, struct visit *v)
{
    ssize_t n = recv(v->fd, w->answer, options.answer + 1 - v->got, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        fail(w, "recv", n < 0 ? errno : 0);
        begin_again(w, v);
        return;
    }
    const char *expected = message_answer(w->message) + v->got;
    v->got += (size_t)n;
    bool is_wrong = v->got > options.answer || memcmp(w->answer, expected, (size_t)n) != 0;
    if (v->got < options.answer && !is_wrong) return;
    if (is_wrong) w->mismatches++;
    close(v->fd);
    if (phase == MEASURING) {
        histogram_add(&w->latencies, ticks() - v->begin_ticks);
        w->done++;
    }
    begin(w, v);
}

static void *work(void *arg)
{
    struct visitor *w = arg;
    struct visit *visits = calloc((size_t)w->count, sizeof *visits);
    struct epoll_event events[EVENTS];
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->message = malloc(options.size);
    w->answer = malloc(options.answer + 1);
    message_fill(w->message, 7);
    for (int i = 0; i < w->count; i++) begin(w, &visits[i]);
    while (phase != OVER) {
        int count = epoll_wait(w->epoll, events, EVENTS, 100);
        for (int i = 0; i < count; i++) {
            struct visit *v = events[i].data.ptr;
            if (v->is_sent) received(w, v);
            else connected(w, v);
        }
    }
    for (int i = 0; i < w->count; i++)
        if (visits[i].fd >= 0) close(visits[i].fd);
    return NULL;
}

int run_connect(void)
{
    struct visitor *workers = calloc((size_t)options.threads, sizeof *workers), *sum = calloc(1, sizeof *sum);
    for (int i = 0; i < options.threads; i++) {
        workers[i].count = options.connections / options.threads + (i < options.connections % options.threads);
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    struct processor before, after;
    clock_pass(options.warm);
    processor_sample(&before);
    phase = MEASURING;
    clock_pass(options.seconds);
    phase = OVER;
    processor_sample(&after);
    for (int i = 0; i < options.threads; i++) {
        struct visitor *w = &workers[i];
        pthread_join(w->thread, NULL);
        histogram_merge(&sum->latencies, &w->latencies);
        sum->done += w->done;
        sum->errors += w->errors;
        sum->mismatches += w->mismatches;
        if (!sum->trouble.text[0]) sum->trouble = w->trouble;
    }
    double wall = (double)(after.wall_ns - before.wall_ns) / 1e9;
    printf("{\"mode\":\"connect\",\"slots\":%d,\"size\":%zu,\"seconds\":%.3f,\"conns\":%llu,\"conns_per_s\":%.0f,",
           options.connections, options.size, wall, (unsigned long long)sum->done, (double)sum->done / wall);
    report_latency(&sum->latencies);
    report_processor(&before, &after, (double)sum->done);
    printf(",\"errors\":%llu,\"mismatches\":%llu,\"error\":\"%s\"}\n", (unsigned long long)sum->errors,
           (unsigned long long)sum->mismatches, sum->trouble.text);
    return sum->errors > 0 || sum->mismatches > 0;
}
