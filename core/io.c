/* io.c - the front of every backend: checks the caller, counts what is pending, and finds the backend to use. */
#include "io.h"

#include "io_backend.h"

#include "mem.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { WHY_MAX = 160 }; /* of one backend */

/* ---- Finding a backend ---- */

static const io_backend *find_named(const char *name, char *why, size_t why_size)
{
    for (const io_backend *const *next = io_backends_all; *next != NULL; next++) {
        char reason[WHY_MAX] = "";
        if (strcmp((*next)->name, name) != 0) continue;
        if ((*next)->probe(reason, sizeof reason)) {
            (void)snprintf(why, why_size, "%s works", name);
            return *next;
        }
        (void)snprintf(why, why_size, "%s: %s", name, reason);
        return NULL;
    }
    (void)snprintf(why, why_size, "no backend is called '%s' here; there is: %s", name, io_backend_names());
    return NULL;
}

/* The best that works; the refusals of better ones stand before it in why. */
static const io_backend *find_best(char *why, size_t why_size)
{
    char refusals[4 * WHY_MAX] = "";
    size_t len = 0;
    for (const io_backend *const *next = io_backends_all; *next != NULL; next++) {
        char reason[WHY_MAX] = "";
        if ((*next)->probe(reason, sizeof reason)) {
            if (len == 0) (void)snprintf(why, why_size, "%s works", (*next)->name);
            else (void)snprintf(why, why_size, "%susing %s", refusals, (*next)->name);
            return *next;
        }
        int written = snprintf(refusals + len, sizeof refusals - len, "%s: %s; ", (*next)->name, reason);
        if (written > 0 && (size_t)written < sizeof refusals - len) len += (size_t)written;
    }
    (void)snprintf(why, why_size, "%snone works here", refusals);
    return NULL;
}

const io_backend *io_backend_find(const char *name, char *why, size_t why_size)
{
    assert(why != NULL && why_size > 0);
    if (name == NULL || strcmp(name, "auto") == 0) return find_best(why, why_size);
    return find_named(name, why, why_size);
}

const char *io_backend_name(const io_backend *backend)
{
    return backend->name;
}

const char *io_backend_names(void)
{
    static char names[64]; /* always the same text, so that calling this twice does no harm */
    size_t len = 0;
    for (const io_backend *const *next = io_backends_all; *next != NULL; next++) {
        int written = snprintf(names + len, sizeof names - len, "%s%s", len > 0 ? " " : "", (*next)->name);
        assert(written > 0 && (size_t)written < sizeof names - len);
        len += (size_t)written;
    }
    return names;
}

/* ---- Ports ---- */

io_status io_port_open(io_port **port, const io_backend *backend, const io_options *options)
{
    io_options chosen = {0};
    assert(backend != NULL);
    if (options != NULL) chosen = *options;
    if (chosen.recv_bytes == 0) chosen.recv_bytes = IO_RECV_BYTES;
    if (chosen.recv_buffers == 0) chosen.recv_buffers = IO_RECV_BUFFERS;
    if (chosen.entries == 0) chosen.entries = IO_ENTRIES;
    assert((chosen.recv_buffers & (chosen.recv_buffers - 1)) == 0);
    *port = NULL;
    io_status status = backend->open(port, &chosen);
    if (status != IO_OK) return status;
    (*port)->backend = backend;
    (*port)->pending = 0;
    (*port)->datagram = NULL;
    return IO_OK;
}

void io_port_close(io_port *port)
{
    if (port == NULL) return;
    assert(port->pending == 0);
    mem_free(port->datagram);
    port->backend->close(port);
}

uint32_t io_port_pending(const io_port *port)
{
    return port->pending;
}

const char *io_port_backend(const io_port *port)
{
    return port->backend->name;
}

bool io_port_sends_late(const io_port *port)
{
    return port->backend->sends_late;
}

int64_t io_port_now(io_port *port)
{
    return port->backend->now(port);
}

/* ---- Operations ---- */

static void begin(io_op *op, io_kind kind, io_socket socket)
{
    assert(op->kind == IO_IDLE);
    assert(socket != IO_SOCKET_NONE);
    op->kind = (uint8_t)kind;
    op->socket = socket;
    op->next = NULL;
    op->flags = 0;
}

static io_status submitted(io_port *port, io_op *op, io_status status)
{
    if (status == IO_OK) port->pending++;
    else op->kind = IO_IDLE;
    return status;
}

io_status io_attach(io_port *port, io_socket socket)
{
    assert(socket != IO_SOCKET_NONE);
    return port->backend->attach(port, socket, false);
}

io_status io_attach_udp(io_port *port, io_socket socket)
{
    assert(socket != IO_SOCKET_NONE);
    return port->backend->attach(port, socket, true);
}

io_status io_accept(io_port *port, io_accept_op *op, io_socket listener)
{
    begin(&op->op, IO_ACCEPT, listener);
    op->listener = listener;
    op->accepted = IO_SOCKET_NONE;
    return submitted(port, &op->op, port->backend->accept(port, op, listener));
}

io_status io_connect(io_port *port, io_op *op, io_socket socket, const net_addr *peer)
{
    assert(net_addr_bytes(peer) > 0);
    begin(op, IO_CONNECT, socket);
    return submitted(port, op, port->backend->connect(port, op, socket, peer));
}

io_status io_recv(io_port *port, io_op *op, io_socket socket)
{
    begin(op, IO_RECV, socket);
    return submitted(port, op, port->backend->recv(port, op, socket, NULL, 0));
}

io_status io_recv_into(io_port *port, io_op *op, io_socket socket, void *buffer, size_t len)
{
    assert(buffer != NULL && len > 0 && len <= INT32_MAX);
    begin(op, IO_RECV, socket);
    return submitted(port, op, port->backend->recv(port, op, socket, buffer, len));
}

io_status io_readable(io_port *port, io_op *op, io_socket socket)
{
    begin(op, IO_READABLE, socket);
    return submitted(port, op, port->backend->readable(port, op, socket));
}

io_status io_send(io_port *port, io_op *op, io_socket socket, const io_buf *bufs, uint32_t count)
{
    assert(count > 0 && count <= IO_BUFS_MAX);
    for (uint32_t i = 0; i < count; i++) assert(bufs[i].len > 0);
    begin(op, IO_SEND, socket);
    return submitted(port, op, port->backend->send(port, op, socket, bufs, count));
}

io_status io_send_now(io_port *port, io_socket socket, const io_buf *bufs, uint32_t count, size_t *bytes)
{
    assert(socket != IO_SOCKET_NONE);
    assert(count > 0 && count <= IO_BUFS_MAX);
    *bytes = 0;
    if (port->backend->send_now == NULL) return IO_AGAIN;
    return port->backend->send_now(port, socket, bufs, count, bytes);
}

io_status io_recv_from(io_port *port, io_datagram_op *op, io_socket socket)
{
    if (port->datagram == NULL) port->datagram = mem_alloc(IO_DATAGRAM_BYTES);
    if (port->datagram == NULL) return IO_LIMIT;
    begin(&op->op, IO_RECV_FROM, socket);
    op->peer = (net_addr){{0}};
    return submitted(port, &op->op, port->backend->recv_from(port, op, socket));
}

io_status io_send_to(io_port *port, io_datagram_op *op, io_socket socket, const void *data, size_t len)
{
    assert(data != NULL && len <= IO_DATAGRAM_MAX);
    begin(&op->op, IO_SEND_TO, socket);
    return submitted(port, &op->op, port->backend->send_to(port, op, socket, data, len));
}

io_status io_draw(io_port *port, io_socket socket, void *buffer, size_t len, size_t *bytes)
{
    assert(socket != IO_SOCKET_NONE);
    assert(buffer != NULL && len > 0);
    *bytes = 0;
    return port->backend->draw(port, socket, buffer, len, bytes);
}

void io_cancel(io_port *port, io_socket socket)
{
    assert(socket != IO_SOCKET_NONE);
    port->backend->cancel(port, socket);
}

io_status io_shutdown(io_port *port, io_socket socket)
{
    assert(socket != IO_SOCKET_NONE);
    return port->backend->shutdown(port, socket);
}

void io_close(io_port *port, io_socket socket, bool abort)
{
    assert(socket != IO_SOCKET_NONE);
    port->backend->close_socket(port, socket, abort);
}

void io_port_post(io_port *port, io_op *op)
{
    assert(op->kind == IO_IDLE);
    op->kind = IO_POST;
    op->socket = IO_SOCKET_NONE;
    op->next = NULL;
    port->backend->post(port, op);
}

io_status io_port_wait(io_port *port, int64_t timeout_ns)
{
    return port->backend->wait(port, timeout_ns);
}

bool io_port_next(io_port *port, io_packet *packet)
{
    packet->op = NULL;
    packet->kind = IO_IDLE;
    packet->status = IO_OK;
    packet->native = 0;
    packet->bytes = 0;
    packet->data = NULL;
    packet->accepted = IO_SOCKET_NONE;
    if (!port->backend->next(port, packet)) return false;
    assert(packet->op != NULL);
    assert(packet->op->kind != IO_IDLE);
    packet->kind = (io_kind)packet->op->kind;
    packet->op->kind = IO_IDLE;
    if (packet->kind != IO_POST) {
        assert(port->pending > 0);
        port->pending--;
    }
    return true;
}
