/* echo_client.c - the load: connections that each keep one message in flight, and compare every byte that comes back.
 *
 *   echo_client PORT CONNECTIONS BYTES SECONDS      measures, and prints one line:
 *                                                   messages seconds own-cpu-seconds p50-us p99-us
 *   echo_client PORT CONNECTIONS BYTES SECONDS held the same, but prints "ready" and waits for a line of input before it measures,
 *                                                   and holds the connections afterwards until its input ends
 *   echo_client PORT CONNECTIONS idle               opens them, prints "ready", and holds them until its input ends
 *
 * Latencies are sorted into buckets an eighth of a power of two wide. A wrong byte or a lost connection ends it with exit code 1.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 512, BUCKETS = 64 * 8, PER_SOURCE = 20000 };

typedef struct client {
    int fd;
    uint32_t sequence;
    size_t got; /* bytes of the answer so far */
    uint64_t sent_ns;
} client;

static uint64_t histogram[BUCKETS];

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "echo_client: %s: %s\n", what, strerror(errno));
    exit(1);
}

static unsigned bucket_of(uint64_t ns)
{
    if (ns < 16) return (unsigned)ns;
    unsigned power = 63u - (unsigned)__builtin_clzll(ns);
    return power * 8 + (unsigned)((ns >> (power - 3)) & 7);
}

/* The upper edge of the bucket in which the given share of all messages ends, in microseconds. */
static double quantile(double share, uint64_t total)
{
    uint64_t seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if ((double)seen >= share * (double)total) {
            return i < 16 ? i / 1000.0 : (double)((uint64_t)(8 + i % 8 + 1) << (i / 8 - 3)) / 1000.0;
        }
    }
    return 0;
}

/* One source address has too few ports for very many connections. */
static int connect_to(uint16_t port, unsigned index)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002u + index / PER_SOURCE)};
    struct sockaddr_in target = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0) die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&source, sizeof(source)) != 0) die("bind");
    if (connect(fd, (struct sockaddr *)&target, sizeof(target)) != 0) die("connect");
    return fd;
}

static void send_next(client *c, char *message, size_t bytes)
{
    c->sequence++;
    c->got = 0;
    memset(message, (int)(c->sequence % 251), bytes);
    c->sent_ns = now_ns();
    if (send(c->fd, message, bytes, MSG_NOSIGNAL) != (ssize_t)bytes) die("send");
}

/* Takes what has come. True when the answer is whole. */
static bool receive(client *c, char *answer, size_t bytes)
{
    ssize_t got = recv(c->fd, answer, bytes - c->got, 0);
    if (got <= 0) die("the server closed a connection");
    for (ssize_t i = 0; i < got; i++) {
        if ((unsigned char)answer[i] != c->sequence % 251) die("a wrong byte came back");
    }
    c->got += (size_t)got;
    return c->got == bytes;
}

int main(int argc, char **argv)
{
    if (argc < 4 || argc > 6) die("usage: echo_client PORT CONNECTIONS BYTES SECONDS [held] | PORT CONNECTIONS idle");
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    unsigned count = (unsigned)atoi(argv[2]);
    client *clients = calloc(count, sizeof(*clients));
    if (clients == NULL) die("memory");
    for (unsigned i = 0; i < count; i++) clients[i].fd = connect_to((uint16_t)atoi(argv[1]), i);
    if (argc == 4) {
        printf("ready\n");
        fflush(stdout);
        return getchar() == EOF ? 0 : 1;
    }
    bool held = argc == 6;
    if (held) {
        printf("ready\n");
        fflush(stdout);
        if (getchar() == EOF) return 1;
    }
    size_t bytes = (size_t)atol(argv[3]);
    char *message = malloc(bytes), *answer = malloc(bytes);
    if (message == NULL || answer == NULL) die("memory");
    int poller = epoll_create1(0);
    for (unsigned i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &clients[i]};
        epoll_ctl(poller, EPOLL_CTL_ADD, clients[i].fd, &event);
        send_next(&clients[i], message, bytes);
    }
    uint64_t start = now_ns(), end = start + (uint64_t)(atof(argv[4]) * 1e9), messages = 0, now = start;
    while (now < end) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(poller, events, EVENTS, 1000);
        if (ready == 0) die("no answer for a second");
        for (int i = 0; i < ready; i++) {
            client *c = events[i].data.ptr;
            if (!receive(c, answer, bytes)) continue;
            now = now_ns();
            histogram[bucket_of(now - c->sent_ns)]++;
            messages++;
            send_next(c, message, bytes);
        }
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("%llu %.6f %.6f %.1f %.1f\n", (unsigned long long)messages, (double)(now - start) / 1e9, cpu,
           quantile(0.5, messages), quantile(0.99, messages));
    fflush(stdout);
    while (held && getchar() != EOF) {
    }
    return 0;
}
