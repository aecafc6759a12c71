/* raw_epoll_echo - the plainest fast echo server on epoll: one reference point.
 *
 *   raw_epoll_echo [-t threads] [-b bufsize] [-m maxevents] [-e] [-U] PORT
 *
 * One epoll instance and one SO_REUSEPORT listener per thread, recv() and
 * send() called straight from the event loop, no user-space queues unless the
 * peer stops reading. Per idle connection it keeps 16 bytes. -e: edge-triggered.
 * -U: each thread gets its own descriptor table, so that N threads can hold N
 * times the descriptor limit.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static int port, threads = 1, maxev = 512, edge, separate;
static size_t bufsz = 65536;
static size_t maxfd;

struct pend {
    char *data;
    uint32_t off, len;
};
static _Thread_local struct pend *table; /* indexed by fd, lazily paged in */

static int listener(void)
{
    int one = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_ANY);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (threads > 1) setsockopt(s, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* inherited */
    if (bind(s, (struct sockaddr *)&a, sizeof a) || listen(s, 65535)) {
        perror("listen");
        exit(1);
    }
    return s;
}

static void drop(int fd)
{
    free(table[fd].data);
    memset(&table[fd], 0, sizeof table[fd]);
    close(fd);
}

static void rearm(int ep, int fd, uint32_t ev)
{
    struct epoll_event e = {.events = ev | (edge ? EPOLLET : 0), .data.fd = fd};
    epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e);
}

/* returns -1 when the connection went away, 1 when the peer is not reading */
static int echo(int ep, int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t w = send(fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (w < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) return -1;
            struct pend *q = &table[fd];
            q->data = malloc(n);
            if (!q->data) return -1;
            memcpy(q->data, p, n);
            q->off = 0;
            q->len = (uint32_t)n;
            rearm(ep, fd, EPOLLOUT);
            return 1;
        }
        p += w;
        n -= (size_t)w;
    }
    return 0;
}

static void *loop(void *arg)
{
    (void)arg;
    if (separate && unshare(CLONE_FILES)) perror("unshare");
    table =
        mmap(NULL, maxfd * sizeof *table, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE | MAP_NORESERVE, -1, 0);
    char *buf = malloc(bufsz);
    struct epoll_event *ev = calloc((size_t)maxev, sizeof *ev);
    int ep = epoll_create1(EPOLL_CLOEXEC), ls = listener();
    struct epoll_event e = {.events = EPOLLIN, .data.fd = ls};
    epoll_ctl(ep, EPOLL_CTL_ADD, ls, &e);
    for (;;) {
        int n = epoll_wait(ep, ev, maxev, -1);
        for (int i = 0; i < n; i++) {
            int fd = ev[i].data.fd;
            if (fd == ls) {
                for (int k = 0; k < 64; k++) {
                    int c = accept4(ls, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                    if (c < 0) break;
                    if ((size_t)c >= maxfd) {
                        close(c);
                        continue;
                    }
                    e.events = EPOLLIN | (edge ? EPOLLET : 0);
                    e.data.fd = c;
                    epoll_ctl(ep, EPOLL_CTL_ADD, c, &e);
                }
                continue;
            }
            struct pend *q = &table[fd];
            if (q->data) {
                if (!(ev[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) continue;
                ssize_t w = send(fd, q->data + q->off, q->len - q->off, MSG_NOSIGNAL | MSG_DONTWAIT);
                if (w < 0 && errno != EAGAIN) {
                    drop(fd);
                    continue;
                }
                if (w > 0) q->off += (uint32_t)w;
                if (q->off == q->len) {
                    free(q->data);
                    memset(q, 0, sizeof *q);
                    rearm(ep, fd, EPOLLIN);
                }
                continue;
            }
            for (;;) {
                ssize_t r = recv(fd, buf, bufsz, MSG_DONTWAIT);
                if (r > 0) {
                    int x = echo(ep, fd, buf, (size_t)r);
                    if (x < 0) {
                        drop(fd);
                        break;
                    }
                    if (x > 0) break;
                    if (!edge || (size_t)r < bufsz) break; /* short read: drained */
                    continue;
                }
                if (r < 0 && errno == EINTR) continue;
                if (r < 0 && errno == EAGAIN) break;
                drop(fd);
                break;
            }
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int o;
    while ((o = getopt(argc, argv, "t:b:m:eU")) != -1) {
        if (o == 't') threads = atoi(optarg);
        else if (o == 'b') bufsz = (size_t)atol(optarg);
        else if (o == 'm') maxev = atoi(optarg);
        else if (o == 'e') edge = 1;
        else if (o == 'U') separate = 1;
        else return 2;
    }
    if (optind >= argc) {
        fprintf(stderr, "usage: raw_epoll_echo [-t n] [-b n] [-e] PORT\n");
        return 2;
    }
    port = atoi(argv[optind]);
    struct rlimit rl;
    getrlimit(RLIMIT_NOFILE, &rl);
    rl.rlim_cur = rl.rlim_max;
    setrlimit(RLIMIT_NOFILE, &rl);
    maxfd = (size_t)rl.rlim_cur;
    pthread_t th;
    for (int i = 1; i < threads; i++) pthread_create(&th, NULL, loop, NULL);
    loop(NULL);
    return 0;
}
