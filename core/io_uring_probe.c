/* io_uring_probe.c - does io_uring work here? Everything that must work is done once for real over a pair of sockets. */
#define _GNU_SOURCE 1

#include "io_uring.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Runs the port until the op's packet comes. False: it does not. */
static bool probe_packet(uring_port *port, const io_op *op, io_packet *packet)
{
    enum { ROUNDS_MAX = 100 };
    const int64_t round_ns = 10000000;
    for (int round = 0; round < ROUNDS_MAX; round++) {
        if (uring_wait(&port->head, round_ns) != IO_OK) return false;
        *packet = (io_packet){.accepted = IO_SOCKET_NONE};
        while (uring_next(&port->head, packet)) {
            if (packet->op == op) return true;
            *packet = (io_packet){.accepted = IO_SOCKET_NONE};
        }
    }
    return false;
}

static const char *probe_receive(uring_port *port, const int pair[2], int *native)
{
    static const char word[] = "portico";
    io_op op = {.kind = IO_RECV, .socket = pair[0]};
    io_packet packet = {0};
    *native = 0;
    if (uring_attach(&port->head, pair[0], false) != IO_OK) return "memory";
    if (uring_recv(&port->head, &op, pair[0], NULL, 0) != IO_OK) return "submission";
    if (send(pair[1], word, sizeof word, MSG_NOSIGNAL) != (ssize_t)sizeof word) {
        *native = errno;
        return "send";
    }
    bool came = probe_packet(port, &op, &packet);
    *native = packet.native;
    if (!came || packet.bytes != sizeof word || packet.data == NULL || memcmp(packet.data, word, sizeof word) != 0) {
        return "receive with a provided buffer";
    }
    if (uring_recv(&port->head, &op, pair[0], NULL, 0) != IO_OK) return "submission";
    uring_cancel(&port->head, pair[0]);
    came = probe_packet(port, &op, &packet);
    if (came && packet.status == IO_CANCELED) return NULL;
    *native = packet.native;
    return "cancel by descriptor";
}

bool uring_probe(char *why, size_t why_size)
{
    static const io_options options = {.recv_bytes = 64, .recv_buffers = 2, .entries = 8};
    const char *step;
    int pair[2];
    int native;
    uring_port *port = uring_open_port(&options, &step, &native);
    if (port != NULL) {
        step = "socketpair";
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0) {
            step = probe_receive(port, pair, &native);
            (void)close(pair[0]);
            (void)close(pair[1]);
        } else {
            native = errno;
        }
        /* What failed may still be with the kernel, which lets go of it when the ring is closed. */
        port->ready = (io_queue){NULL, NULL};
        port->starved = (io_queue){NULL, NULL};
        uring_close(&port->head);
    }
    if (step == NULL) return true;
    if (native != 0) (void)snprintf(why, why_size, "%s: %s", step, strerror(native));
    else (void)snprintf(why, why_size, "%s did not work", step);
    return false;
}
