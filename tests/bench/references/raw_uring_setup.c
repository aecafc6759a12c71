/* raw_uring_setup.c - what a thread of raw_uring_echo begins with: memory, a listener, a ring. */
#include "raw_uring.h"

#include "uring.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

void *xmap(size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return p;
}

int listener(void)
{
    int one = 1, l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_ANY);
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (threads > 1) setsockopt(l, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    setsockopt(l, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(l, (struct sockaddr *)&a, sizeof a) || listen(l, 65535)) {
        perror("listen");
        exit(1);
    }
    return l;
}

int ring_init(struct ur *u)
{
    unsigned fl = 0;
    if (smode == S_DEFER) fl = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    if (smode == S_COOP) fl = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SINGLE_ISSUER;
    if (smode == S_SQPOLL) fl = IORING_SETUP_SQPOLL;
    return ur_init(u, sqn, sqn * 4, fl, 0, 50);
}
