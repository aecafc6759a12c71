/* io_iocp_probe.c - do completion ports work here? A connection to ourselves is made, awaited and canceled. */
#include "io_iocp.h"

#include "mem.h"
#include "os.h"

#include <stdio.h>

enum { TRIAL_MS = 5000, NS_PER_MS = 1000000 };

/* One connection to ourselves: accept, connect, the zero-byte read, cancel. */
typedef struct trial {
    io_port *port;
    io_socket listener;
    io_socket client;
    io_socket server;
    io_accept_op accept;
    io_op connect;
    io_op readable;
    int64_t until_ns;
    const char *step; /* what is being tried */
    io_status status;
    int native;
} trial;

static bool trial_ok(trial *t, const char *step, io_status status)
{
    t->step = step;
    t->status = status;
    return status == IO_OK;
}

/* Takes packets until the op is idle again. False: it went wrong or took too long. */
static bool trial_await(trial *t, const io_op *op, const char *step, io_status wanted)
{
    io_packet packet;
    t->step = step;
    while (op->kind != IO_IDLE) {
        int64_t left_ns = t->until_ns - os_monotonic_ns();
        t->status = left_ns > 0 ? io_port_wait(t->port, left_ns) : IO_TIMEOUT;
        if (t->status != IO_OK) return false;
        while (io_port_next(t->port, &packet)) {
            if (packet.kind == IO_ACCEPT) t->server = packet.accepted;
            t->native = packet.native;
            t->status = packet.status;
            if (packet.status != (packet.op == op ? wanted : IO_OK)) return false;
        }
    }
    return true;
}

static io_status listen_on_loopback(trial *t, net_addr *addr)
{
    static const char *const loopbacks[] = {"127.0.0.1:0", "[::1]:0"};
    io_status status = IO_UNSUPPORTED;
    char words[80];
    for (size_t i = 0; i < array_count(loopbacks) && status != IO_OK; i++) {
        status = net_addr_parse(addr, loopbacks[i], words, sizeof words);
        if (status == IO_OK) status = net_listen(&t->listener, addr, &t->native);
    }
    return status == IO_OK ? net_local(addr, t->listener) : status;
}

static bool trial_run(trial *t)
{
    net_addr addr;
    if (!trial_ok(t, "completion port", io_port_open(&t->port, &io_backend_iocp, NULL))) return false;
    if (!trial_ok(t, "listen", listen_on_loopback(t, &addr))) return false;
    if (!trial_ok(t, "socket", net_open_stream(&t->client, &addr, &t->native))) return false;
    if (!trial_ok(t, "attach", io_attach(t->port, t->listener))) return false;
    if (!trial_ok(t, "attach", io_attach(t->port, t->client))) return false;
    if (!trial_ok(t, "accept", io_accept(t->port, &t->accept, t->listener))) return false;
    if (!trial_ok(t, "connect", io_connect(t->port, &t->connect, t->client, &addr))) return false;
    if (!trial_await(t, &t->connect, "connect", IO_OK)) return false;
    if (!trial_await(t, &t->accept.op, "accept", IO_OK)) return false;
    if (!trial_ok(t, "attach", io_attach(t->port, t->server))) return false;
    if (!trial_ok(t, "zero-byte read", io_readable(t->port, &t->readable, t->server))) return false;
    io_cancel(t->port, t->server);
    return trial_await(t, &t->readable, "cancel", IO_CANCELED);
}

/* False: an op is still out, so nothing of the trial may be freed. */
static bool trial_end(trial *t)
{
    io_packet packet;
    io_socket *sockets[] = {&t->listener, &t->client, &t->server};
    int64_t until_ns = os_monotonic_ns() + (int64_t)TRIAL_MS * NS_PER_MS;
    for (size_t i = 0; i < array_count(sockets); i++) {
        if (*sockets[i] != IO_SOCKET_NONE) io_cancel(t->port, *sockets[i]);
    }
    while (t->port != NULL && io_port_pending(t->port) > 0) {
        int64_t left_ns = until_ns - os_monotonic_ns();
        if (left_ns <= 0 || io_port_wait(t->port, left_ns) != IO_OK) return false;
        while (io_port_next(t->port, &packet)) {
            if (packet.kind == IO_ACCEPT) t->server = packet.accepted;
        }
    }
    for (size_t i = 0; i < array_count(sockets); i++) {
        if (*sockets[i] != IO_SOCKET_NONE) net_close(*sockets[i]);
    }
    io_port_close(t->port);
    return true;
}

bool iocp_probe(char *why, size_t why_size)
{
    io_status status = net_start();
    trial *t = mem_zalloc(sizeof *t);
    if (t == NULL || status != IO_OK) {
        (void)snprintf(why, why_size, "sockets: %s", io_status_text(t == NULL ? IO_LIMIT : status));
        mem_free(t);
        return false;
    }
    t->listener = t->client = t->server = IO_SOCKET_NONE;
    t->until_ns = os_monotonic_ns() + (int64_t)TRIAL_MS * NS_PER_MS;
    bool works = trial_run(t);
    if (!works) {
        (void)snprintf(why, why_size, "%s: %s (system code %d)", t->step, io_status_text(t->status), t->native);
    }
    if (!trial_end(t)) return false; /* and leave what the system still has */
    mem_free(t);
    net_stop();
    return works;
}
