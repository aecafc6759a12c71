/* listener.c - a ring of accepts. Each is at any time pending, lent with its socket, or waiting for the retry timer. */
#include "listener.h"

#include "base.h"
#include "log.h"
#include "mem.h"
#include "net_unix.h"

#include <assert.h>
#include <stdio.h>

typedef struct posted_accept {
    io_accept_op accept;
    arrival arrival;
} posted_accept;

struct listener {
    posted_accept accepts[LISTENER_ACCEPTS];
    const listener_events *events;
    void *context;
    io_socket socket;
    net_uri uri; /* of NET_TCP with the port that the system chose */
    net_unix_file file;
    int16_t mode;  /* of that file, as it was named last; callers' of listener_set_mode() */
    io_port *port; /* NULL until started */
    timers *deadlines;
    timer retry;
    uint32_t pending;
    bool stopping;
    bool is_short; /* of descriptors or memory */
    bool said;     /* the log has a line about that */
    char name[LISTENER_NAME_MAX];
};

io_status listener_set_mode(listener *l, int16_t mode, int *native)
{
    *native = 0;
    if (l->uri.transport != NET_UNIX || mode == l->mode) return IO_OK;
    l->mode = mode; /* what has failed fails again: once is enough */
    return net_unix_set_mode(&l->uri, &l->file, mode, native);
}

static void wait_and_retry(listener *l)
{
    if (l->stopping) return;
    l->events->on_short(l->context);
    if (timer_running(&l->retry)) return;
    /* Out of memory for the heap of timers: the next packet or stop looks again. */
    (void)timer_start(l->deadlines, &l->retry, io_port_now(l->port) + LISTENER_RETRY_NS);
}

static void say_short(listener *l, io_status status, int native)
{
    static log_cause cause;
    if (l->is_short) return;
    l->is_short = true;
    l->said = log_rarely(
        &cause, LOG_WARN, "accepting pauses: the system refuses",
        "%s: accepting pauses: %s (system code %d); raise the limit of open files or lower --max-connections", l->name,
        io_status_text(status), native);
}

static void say_again(listener *l)
{
    if (l->said) log_write(LOG_INFO, "%s: accepting again", l->name);
    l->is_short = l->said = false;
}

static bool is_idle(const posted_accept *a)
{
    return a->arrival.socket == IO_SOCKET_NONE && a->accept.op.kind == IO_IDLE;
}

static void submit(listener *l, posted_accept *a)
{
    if (l->stopping || !is_idle(a)) return;
    io_status status = io_accept(l->port, &a->accept, l->socket);
    if (status == IO_OK) {
        l->pending++;
        return;
    }
    say_short(l, status, 0);
    wait_and_retry(l);
}

static void on_retry(timer *t, int64_t now_ns)
{
    listener *l = container_of(t, listener, retry);
    (void)now_ns;
    for (size_t i = 0; i < LISTENER_ACCEPTS; i++) submit(l, &l->accepts[i]);
}

void listener_retry(listener *l)
{
    size_t i = 0;
    while (i < LISTENER_ACCEPTS && !is_idle(&l->accepts[i])) i++;
    if (l->is_short && i < LISTENER_ACCEPTS) submit(l, &l->accepts[i]);
}

void listener_take_back(arrival *a)
{
    a->socket = IO_SOCKET_NONE;
    submit(a->from, container_of(a, posted_accept, arrival));
}

/* Opens the socket that l->uri names, and completes that. */
static io_status open_socket(listener *l, int *native)
{
    if (l->uri.transport == NET_UNIX) return net_unix_listen(&l->socket, &l->uri, &l->file, native);
    io_status status = net_listen(&l->socket, &l->uri.addr, native);
    if (status != IO_OK) return status;
    status = net_local(&l->uri.addr, l->socket);
    if (status != IO_OK) net_close(l->socket);
    return status;
}

io_status listener_open(listener **out, const net_uri *uri, const listener_events *events, void *context, int *native)
{
    *out = NULL;
    *native = 0;
    listener *l = mem_zalloc(sizeof(*l));
    if (l == NULL) return IO_LIMIT;
    l->uri = *uri;
    l->mode = uri->mode;
    io_status status = open_socket(l, native);
    if (status != IO_OK) {
        mem_free(l);
        return status;
    }
    net_uri_format(&l->uri, l->name, sizeof(l->name));
    l->events = events;
    l->context = context;
    l->retry.fire = on_retry;
    for (size_t i = 0; i < LISTENER_ACCEPTS; i++) {
        posted_accept *a = &l->accepts[i];
        a->arrival = (arrival){.from = l, .socket = IO_SOCKET_NONE, .peer = &a->accept.peer};
    }
    *out = l;
    return IO_OK;
}

void listener_close(listener *l)
{
    if (l == NULL) return;
    assert(l->pending == 0);
    net_unix_remove(&l->uri, &l->file);
    if (l->socket != IO_SOCKET_NONE) net_close(l->socket);
    mem_free(l);
}

void listener_remove_file(listener *l)
{
    net_unix_remove(&l->uri, &l->file);
}

const char *listener_name(const listener *l)
{
    return l->name;
}

io_status listener_start(listener *l, io_port *port, timers *deadlines)
{
    assert(l->port == NULL);
    l->port = port;
    l->deadlines = deadlines;
    io_status status = io_attach(port, l->socket);
    if (status != IO_OK) return status;
    for (size_t i = 0; i < LISTENER_ACCEPTS; i++) submit(l, &l->accepts[i]);
    return IO_OK;
}

/* The last step of stopping. */
static void end_if_joined(listener *l)
{
    if (!l->stopping || l->pending > 0 || l->socket == IO_SOCKET_NONE) return;
    net_unix_remove(&l->uri, &l->file); /* while it is still ours beyond doubt */
    io_close(l->port, l->socket, false);
    l->socket = IO_SOCKET_NONE;
    l->events->on_stopped(l->context, l);
}

void listener_stop(listener *l)
{
    assert(l->port != NULL);
    if (l->stopping) return;
    l->stopping = true;
    timer_stop(l->deadlines, &l->retry);
    for (size_t i = 0; i < LISTENER_ACCEPTS; i++) assert(l->accepts[i].arrival.socket == IO_SOCKET_NONE);
    if (l->pending > 0) io_cancel(l->port, l->socket);
    end_if_joined(l);
}

void listener_on_packet(const io_packet *packet)
{
    posted_accept *a = container_of(packet->op, posted_accept, accept.op);
    listener *l = a->arrival.from;
    assert(l->pending > 0);
    l->pending--;
    if (packet->status == IO_OK && l->stopping) {
        net_close(packet->accepted);
    } else if (packet->status == IO_OK) {
        if (l->is_short) say_again(l);
        a->arrival.socket = packet->accepted;
        l->events->on_arrival(l->context, &a->arrival);
    } else if (packet->status == IO_RESET) {
        submit(l, a); /* the peer was gone before it was accepted: its own affair */
    } else if (packet->status != IO_CANCELED) {
        say_short(l, packet->status, packet->native);
        wait_and_retry(l);
    }
    end_if_joined(l);
}
