#include "echo.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 512, RECEIVE_BYTES = 1 << 18, WAIT_MS = 100 };

struct by_epoll {
    struct echo_worker *w;
    int fd;
};

static void wait_for(struct by_epoll *e, struct conn *c, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(e->fd, EPOLL_CTL_MOD, c->fd, &event);
    c->sending = events & EPOLLOUT;
}

static void epoll_send(void *engine, struct conn *c)
{
    struct by_epoll *e = engine;
    char *data;
    size_t len;
    while (!c->dead && !c->sending && (len = conn_unsent(c, &data)) > 0) {
        ssize_t sent = send(c->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) c->sent_bytes += (uint64_t)sent;
        else if (errno == EAGAIN) wait_for(e, c, EPOLLIN | EPOLLOUT);
        else if (errno != EINTR) conn_fail(e->w, c, "send", errno);
    }
}

static void epoll_receive(struct by_epoll *e, struct conn *c, char *buffer)
{
    ssize_t len = recv(c->fd, buffer, RECEIVE_BYTES, MSG_DONTWAIT);
    if (len < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (len > 0) conn_take(e->w, c, buffer, (size_t)len);
    else conn_fail(e->w, c, "recv", len < 0 ? errno : 0);
    if (options.rate == 0) epoll_send(e, c);
    if (c->dead) close(c->fd);
}

void echo_by_epoll(struct echo_worker *w)
{
    struct by_epoll engine = {.w = w, .fd = epoll_create1(EPOLL_CLOEXEC)};
    struct epoll_event events[EVENTS];
    char *buffer = malloc(RECEIVE_BYTES);
    for (int i = 0; i < w->count; i++) {
        struct conn *c = &w->conns[i];
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(engine.fd, EPOLL_CTL_ADD, c->fd, &event);
        if (options.rate > 0) continue;
        for (int k = 0; k < options.depth; k++) conn_make(c, ticks());
        epoll_send(&engine, c);
    }
    while (phase != OVER && w->alive > 0) {
        int wait_ms = options.rate > 0 ? (int)(echo_due(w, epoll_send, &engine) / 1000000) : WAIT_MS;
        int count = epoll_wait(engine.fd, events, EVENTS, wait_ms);
        for (int i = 0; i < count; i++) {
            struct conn *c = events[i].data.ptr;
            if (c->dead) continue;
            if (events[i].events & EPOLLOUT && c->sending) {
                wait_for(&engine, c, EPOLLIN);
                epoll_send(&engine, c);
            }
            if (!c->dead && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) epoll_receive(&engine, c, buffer);
        }
    }
}
