/* epoll_echo.c - the plainest fast echo server on epoll, one thread: what a person would write in C in an afternoon. The reference
 * that Portico's figures are ratios to.
 *
 *   epoll_echo      listens on 127.0.0.1, prints the port, serves until it is killed
 *
 * Level-triggered, recv() and send() straight from the loop; bytes that the peer does not take wait in a buffer of their own, and
 * nothing more is read from that peer until they are gone.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 512, BUFFER = 65536 };

typedef struct rest { /* unsent bytes of one connection; indexed by descriptor */
    char *bytes;
    size_t start, end;
} rest;

static int poller;
static rest *rests;
static char buffer[BUFFER];

static void drop(int fd)
{
    free(rests[fd].bytes);
    rests[fd] = (rest){0};
    close(fd);
}

static void watch(int operation, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(poller, operation, fd, &event);
}

static void echo(int fd)
{
    ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        drop(fd);
        return;
    }
    ssize_t sent = send(fd, buffer, (size_t)got, MSG_NOSIGNAL);
    if (sent == got) return;
    if (sent < 0 && errno != EAGAIN) {
        drop(fd);
        return;
    }
    if (sent < 0) sent = 0;
    rest *r = &rests[fd];
    r->bytes = malloc((size_t)(got - sent));
    if (r->bytes == NULL) abort();
    memcpy(r->bytes, buffer + sent, (size_t)(got - sent));
    r->start = 0;
    r->end = (size_t)(got - sent);
    watch(EPOLL_CTL_MOD, fd, EPOLLOUT);
}

static void send_rest(int fd)
{
    rest *r = &rests[fd];
    ssize_t sent = send(fd, r->bytes + r->start, r->end - r->start, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        drop(fd);
        return;
    }
    if (sent > 0) r->start += (size_t)sent;
    if (r->start < r->end) return;
    free(r->bytes);
    *r = (rest){0};
    watch(EPOLL_CTL_MOD, fd, EPOLLIN);
}

int main(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    rests = calloc(limit.rlim_cur, sizeof(*rests)); /* its pages come with use */
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t addr_len = sizeof(addr);
    int one = 1;
    setsockopt(listening, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* accepted sockets inherit it */
    if (rests == NULL || bind(listening, (struct sockaddr *)&addr, sizeof(addr)) != 0 ||
        listen(listening, 65535) != 0 || getsockname(listening, (struct sockaddr *)&addr, &addr_len) != 0) {
        perror("epoll_echo");
        return 1;
    }
    poller = epoll_create1(0);
    watch(EPOLL_CTL_ADD, listening, EPOLLIN);
    printf("tcp://127.0.0.1:%d\n", ntohs(addr.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listening) {
                int accepted = accept4(listening, NULL, NULL, SOCK_NONBLOCK);
                if (accepted >= 0) watch(EPOLL_CTL_ADD, accepted, EPOLLIN);
            } else if (rests[fd].bytes != NULL) {
                send_rest(fd);
            } else {
                echo(fd);
            }
        }
    }
}
