/* stingy.c - what turns portico into portico_stingy: a port that moves 1 to 3 bytes at a time and lets every send wait.
 *
 * The linker puts these in the place of the functions of io.h (--wrap, see CMakeLists.txt): a call of NAME reaches
 * __wrap_NAME, __real_NAME is the function itself. The real backend does the work below, so what a network does once in
 * a while happens here with every transfer:
 *
 *   a receive   lends at most BYTES_MAX, from very few buffers; a receive into a buffer and a draw bring 1 to BYTES_MAX
 *   a send      is put off until the port waits, so that it is pending for the rest of the round. Every other one then
 *               ends with "0 bytes, submit again"; the rest move 1 to BYTES_MAX
 *
 * After STINGY_TRANSFERS on one port most sends, draws and receives into buffers move more, so that tests of volumes end.
 * With PORTICO_STINGY=sends in the environment receives are left as they are, with PORTICO_STINGY=nothing sends as well: for tests
 * that take what one packet brings for a message. Which of these is drawn from a generator with a fixed seed per thread.
 * Datagrams are moved whole, as they have to be.
 */
#include "base.h"
#include "io_backend.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    BYTES_MAX = 3,
    STINGY_TRANSFERS = 10000,
    VOLUME_FACTOR = 1 << 16,
    BUFFERS = 4 /* io_uring runs out of them whenever five connections have news */
};

/* Words of op->native and states in op->flags of a send that is put off: nobody else has the op then. */
enum { WORD_BASE, WORD_LEN };
enum { SEND_WAITS, SEND_CANCELED };

/* The port of this thread: a worker has one. */
static _Thread_local io_queue put_off; /* sends that the backend has not seen yet */
static _Thread_local io_queue ended;   /* sends whose packets come from here */
static _Thread_local uint32_t drawn = 1;
static _Thread_local uint32_t transfers; /* counted up to STINGY_TRANSFERS */
static _Thread_local bool sends;         /* are stingy */
static _Thread_local bool receives;      /* are it, too */

io_status __wrap_io_port_open(io_port **port, const io_backend *backend, const io_options *options);
io_status __real_io_port_open(io_port **port, const io_backend *backend, const io_options *options);
io_status __wrap_io_recv_into(io_port *port, io_op *op, io_socket socket, void *buffer, size_t len);
io_status __real_io_recv_into(io_port *port, io_op *op, io_socket socket, void *buffer, size_t len);
io_status __wrap_io_draw(io_port *port, io_socket socket, void *buffer, size_t len, size_t *bytes);
io_status __real_io_draw(io_port *port, io_socket socket, void *buffer, size_t len, size_t *bytes);
io_status __wrap_io_send(io_port *port, io_op *op, io_socket socket, const io_buf *bufs, uint32_t count);
io_status __real_io_send(io_port *port, io_op *op, io_socket socket, const io_buf *bufs, uint32_t count);
io_status __wrap_io_send_now(io_port *port, io_socket socket, const io_buf *bufs, uint32_t count, size_t *bytes);
io_status __real_io_send_now(io_port *port, io_socket socket, const io_buf *bufs, uint32_t count, size_t *bytes);
void __wrap_io_cancel(io_port *port, io_socket socket);
void __real_io_cancel(io_port *port, io_socket socket);
io_status __wrap_io_port_wait(io_port *port, int64_t timeout_ns);
io_status __real_io_port_wait(io_port *port, int64_t timeout_ns);
bool __wrap_io_port_next(io_port *port, io_packet *packet);
bool __real_io_port_next(io_port *port, io_packet *packet);

/* 0 to count - 1. */
static uint32_t draw(uint32_t count)
{
    drawn = drawn * 1664525u + 1013904223u;
    return (drawn >> 16) % count;
}

/* How much of len is moved. */
static size_t few(size_t len)
{
    size_t most = 1 + draw(BYTES_MAX);
    if (transfers < STINGY_TRANSFERS) transfers++;
    else if (draw(8) > 0) most *= VOLUME_FACTOR;
    return len < most ? len : most;
}

io_status __wrap_io_port_open(io_port **port, const io_backend *backend, const io_options *options)
{
    const char *what = getenv("PORTICO_STINGY");
    io_options chosen = {0};
    sends = what == NULL || strcmp(what, "nothing") != 0;
    receives = sends && (what == NULL || strcmp(what, "sends") != 0);
    if (!receives) return __real_io_port_open(port, backend, options);
    if (options != NULL) chosen = *options;
    chosen.recv_bytes = BYTES_MAX;
    chosen.recv_buffers = BUFFERS;
    return __real_io_port_open(port, backend, &chosen);
}

/* ---- Receiving ---- */

io_status __wrap_io_recv_into(io_port *port, io_op *op, io_socket socket, void *buffer, size_t len)
{
    return __real_io_recv_into(port, op, socket, buffer, receives ? few(len) : len);
}

io_status __wrap_io_draw(io_port *port, io_socket socket, void *buffer, size_t len, size_t *bytes)
{
    return __real_io_draw(port, socket, buffer, receives ? few(len) : len, bytes);
}

/* ---- Sending ---- */

io_status __wrap_io_send(io_port *port, io_op *op, io_socket socket, const io_buf *bufs, uint32_t count)
{
    if (!sends) return __real_io_send(port, op, socket, bufs, count);
    assert(op->kind == IO_IDLE && socket != IO_SOCKET_NONE && count > 0);
    op->kind = IO_SEND;
    op->socket = socket;
    op->flags = SEND_WAITS;
    op->result = IO_OK;
    op->native[WORD_BASE] = (uintptr_t)bufs[0].base;
    op->native[WORD_LEN] = few(bufs[0].len);
    io_queue_push(&put_off, op);
    return IO_OK;
}

/* Half of the times nothing, else a few bytes. */
io_status __wrap_io_send_now(io_port *port, io_socket socket, const io_buf *bufs, uint32_t count, size_t *bytes)
{
    if (!sends) return __real_io_send_now(port, socket, bufs, count, bytes);
    io_buf buf = {.base = bufs[0].base, .len = few(bufs[0].len)};
    *bytes = 0;
    return draw(2) == 0 ? __real_io_send_now(port, socket, &buf, 1, bytes) : IO_AGAIN;
}

/* The backend sees what was put off, or its owner is told to submit again. */
static void submit(io_port *port)
{
    io_op *op;
    while ((op = io_queue_pop(&put_off)) != NULL) {
        if (op->flags == SEND_WAITS && draw(2) == 0) {
            io_buf buf = {.base = (const void *)op->native[WORD_BASE], .len = op->native[WORD_LEN]};
            op->kind = IO_IDLE;
            io_status status = __real_io_send(port, op, op->socket, &buf, 1);
            if (status == IO_OK) continue; /* from here on the op is the backend's */
            op->kind = IO_SEND;
            op->result = status;
        }
        io_queue_push(&ended, op);
    }
}

void __wrap_io_cancel(io_port *port, io_socket socket)
{
    for (io_op *op = put_off.head; op != NULL; op = op->next) {
        if (op->socket != socket) continue;
        op->flags = SEND_CANCELED;
        op->result = IO_CANCELED;
    }
    __real_io_cancel(port, socket);
}

/* ---- Packets ---- */

io_status __wrap_io_port_wait(io_port *port, int64_t timeout_ns)
{
    submit(port);
    return __real_io_port_wait(port, ended.head != NULL ? 0 : timeout_ns);
}

bool __wrap_io_port_next(io_port *port, io_packet *packet)
{
    io_op *op = io_queue_pop(&ended);
    if (op == NULL) return __real_io_port_next(port, packet);
    *packet = (io_packet){.op = op, .kind = IO_SEND, .status = (io_status)op->result, .accepted = IO_SOCKET_NONE};
    op->kind = IO_IDLE;
    return true;
}
