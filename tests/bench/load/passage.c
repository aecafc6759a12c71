#define _GNU_SOURCE
#include "passage.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

union rights {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int) * PASSAGE_MAX)];
};

int passage_open(struct passage *p)
{
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p->ends);
}

int passage_give(const struct passage *p, const int *fds, int count)
{
    for (int piece; count > 0; count -= piece, fds += piece) {
        char byte = 0;
        union rights rights = {0};
        struct iovec data = {&byte, 1};
        piece = count < PASSAGE_MAX ? count : PASSAGE_MAX;
        size_t bytes = sizeof(*fds) * (size_t)piece;
        struct msghdr message = {
            .msg_iov = &data, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = CMSG_SPACE(bytes)};
        rights.header.cmsg_level = SOL_SOCKET;
        rights.header.cmsg_type = SCM_RIGHTS;
        rights.header.cmsg_len = CMSG_LEN(bytes);
        memcpy(CMSG_DATA(&rights.header), fds, bytes);
        if (sendmsg(p->ends[1], &message, 0) < 0) return errno;
    }
    return 0;
}

int passage_take(const struct passage *p, int *fds)
{
    char byte;
    union rights rights;
    struct iovec data = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof rights};
    if (recvmsg(p->ends[0], &message, MSG_CMSG_CLOEXEC) != 1) return 0;
    if (message.msg_flags & MSG_CTRUNC || !CMSG_FIRSTHDR(&message)) return 0;
    size_t bytes = rights.header.cmsg_len - CMSG_LEN(0);
    memcpy(fds, CMSG_DATA(&rights.header), bytes);
    return (int)(bytes / sizeof(*fds));
}
