/* guard_win.c - what turns the programs of the build windows-checked into ones that fault at the first wrong access.
 *
 * The linker puts these in the place of functions of mem.h and io.h (--wrap, see CMakeLists.txt): a call of NAME reaches
 * __wrap_NAME, __real_NAME is the function itself.
 *
 *   a block   of mem_alloc() and its like ends where a page ends, and the page behind it is inaccessible. Freed, all of it is,
 *             until KEPT_MAX others have been freed. Lua's heaps, and what is more than GUARDED_MAX blocks, are left as they are
 *   an op     is given to the port as a copy in a block of its own. With the packet the copy goes back to its owner's op, which
 *             faults when that was freed meanwhile; then the copy is freed, so that the system, or the backend, that still
 *             has the op after its packet faults as well
 *
 * For the IOCP backend, which no sanitizer can watch: there is none for Windows programs under Wine.
 */
#include "base.h"
#include "io.h"
#include "mem.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

enum {
    PAGE_BYTES = 4096,
    ALIGNMENT = 16,
    RESERVED_BYTES = 65536, /* Windows gives addresses in these */
    GUARDED_MAX = 8192, /* blocks at a time, since Linux counts the areas of a process (65,530): more are as always */
    KEPT_MAX = 16384    /* freed blocks that stay inaccessible */
};

void *__wrap_mem_alloc(size_t bytes);
void *__wrap_mem_zalloc(size_t bytes);
void *__wrap_mem_realloc(void *block, size_t bytes);
void __wrap_mem_free(void *block);
char *__wrap_mem_strdup(const char *text);
int64_t __wrap_mem_live(void);
int64_t __real_mem_live(void);
io_status __wrap_io_accept(io_port *port, io_accept_op *op, io_socket listener);
io_status __real_io_accept(io_port *port, io_accept_op *op, io_socket listener);
io_status __wrap_io_connect(io_port *port, io_op *op, io_socket socket, const net_addr *peer);
io_status __real_io_connect(io_port *port, io_op *op, io_socket socket, const net_addr *peer);
io_status __wrap_io_recv(io_port *port, io_op *op, io_socket socket);
io_status __real_io_recv(io_port *port, io_op *op, io_socket socket);
io_status __wrap_io_recv_into(io_port *port, io_op *op, io_socket socket, void *buffer, size_t len);
io_status __real_io_recv_into(io_port *port, io_op *op, io_socket socket, void *buffer, size_t len);
io_status __wrap_io_readable(io_port *port, io_op *op, io_socket socket);
io_status __real_io_readable(io_port *port, io_op *op, io_socket socket);
io_status __wrap_io_send(io_port *port, io_op *op, io_socket socket, const io_buf *bufs, uint32_t count);
io_status __real_io_send(io_port *port, io_op *op, io_socket socket, const io_buf *bufs, uint32_t count);
io_status __wrap_io_recv_from(io_port *port, io_datagram_op *op, io_socket socket);
io_status __real_io_recv_from(io_port *port, io_datagram_op *op, io_socket socket);
io_status __wrap_io_send_to(io_port *port, io_datagram_op *op, io_socket socket, const void *data, size_t len);
io_status __real_io_send_to(io_port *port, io_datagram_op *op, io_socket socket, const void *data, size_t len);
void __wrap_io_port_post(io_port *port, io_op *op);
void __real_io_port_post(io_port *port, io_op *op);
bool __wrap_io_port_next(io_port *port, io_packet *packet);
bool __real_io_port_next(io_port *port, io_packet *packet);

/* ---- Blocks ---- */

/* In front of a block. */
typedef struct block_head {
    _Alignas(ALIGNMENT) size_t bytes; /* of the block */
    void *first;                      /* of its pages; NULL: it is not guarded, since too many are */
} block_head;

static struct {
    SRWLOCK lock;
    void *ring[KEPT_MAX]; /* the first pages of freed blocks */
    size_t next;
} kept = {.lock = SRWLOCK_INIT};

static atomic_llong guarded; /* blocks now */

static block_head *head_of(void *block)
{
    return (block_head *)block - 1;
}

/* The pages of a block and its head. */
static size_t pages_bytes(size_t bytes)
{
    return (sizeof(block_head) + bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

static void *page_end_take(size_t bytes)
{
    size_t pages = pages_bytes(bytes);
    size_t reserved = (pages / RESERVED_BYTES + 1) * RESERVED_BYTES; /* at least a page behind it */
    char *first = VirtualAlloc(NULL, reserved, MEM_RESERVE, PAGE_NOACCESS);
    if (first == NULL) return NULL;
    if (VirtualAlloc(first, pages, MEM_COMMIT, PAGE_READWRITE) == NULL) {
        (void)VirtualFree(first, 0, MEM_RELEASE);
        return NULL;
    }
    void *block = first + pages - bytes;
    head_of(block)->first = first;
    atomic_fetch_add(&guarded, 1);
    return block;
}

static void *plain_take(size_t bytes)
{
    block_head *head = calloc(1, sizeof *head + bytes);
    return head != NULL ? head + 1 : NULL;
}

/* Zeroed; NULL when out of memory. */
static void *block_take(size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return NULL;
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *block = atomic_load(&guarded) < GUARDED_MAX ? page_end_take(rounded) : plain_take(rounded);
    if (block != NULL) head_of(block)->bytes = rounded;
    return block;
}

static void block_give(void *block)
{
    block_head *head = head_of(block);
    void *first = head->first;
    if (first == NULL) {
        free(head);
        return;
    }
    BOOL done = VirtualFree(first, pages_bytes(head->bytes), MEM_DECOMMIT);
    assert(done);
    (void)done;
    atomic_fetch_sub(&guarded, 1);
    AcquireSRWLockExclusive(&kept.lock);
    void *oldest = kept.ring[kept.next];
    kept.ring[kept.next] = first;
    kept.next = (kept.next + 1) % KEPT_MAX;
    ReleaseSRWLockExclusive(&kept.lock);
    if (oldest != NULL) (void)VirtualFree(oldest, 0, MEM_RELEASE);
}

/* ---- mem.h ---- */

static atomic_llong live; /* blocks handed out, guarded or not */

void *__wrap_mem_zalloc(size_t bytes)
{
    assert(bytes > 0);
    void *block = block_take(bytes);
    if (block != NULL) atomic_fetch_add(&live, 1);
    return block;
}

/* Not zeroed, so that who relies on it is found. */
void *__wrap_mem_alloc(size_t bytes)
{
    void *block = __wrap_mem_zalloc(bytes);
    if (block != NULL) memset(block, 0xA5, bytes);
    return block;
}

void *__wrap_mem_realloc(void *block, size_t bytes)
{
    void *made = __wrap_mem_alloc(bytes);
    if (made == NULL || block == NULL) return made;
    size_t old = head_of(block)->bytes;
    memcpy(made, block, old < bytes ? old : bytes);
    __wrap_mem_free(block);
    return made;
}

void __wrap_mem_free(void *block)
{
    if (block == NULL) return;
    block_give(block);
    atomic_fetch_sub(&live, 1);
}

char *__wrap_mem_strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = __wrap_mem_alloc(size);
    if (copy != NULL) memcpy(copy, text, size);
    return copy;
}

int64_t __wrap_mem_live(void)
{
    return atomic_load(&live) + __real_mem_live(); /* heaps are counted there */
}

/* ---- io.h ---- */

/* An op that the port has instead of its owner's. */
typedef struct stand_in {
    io_op *owners;
    size_t bytes;
    union {
        io_op op;
        io_accept_op accept;
        io_datagram_op datagram;
    } copy;
} stand_in;

static stand_in *stand_in_of(io_op *op)
{
    return (stand_in *)(void *)((char *)op - offsetof(stand_in, copy));
}

/* The copy, which ends where its page ends. bytes: of the owner's struct, which begins with the op. */
static void *begin(io_op *owners, size_t bytes)
{
    assert(owners->kind == IO_IDLE);
    stand_in *s = block_take(offsetof(stand_in, copy) + bytes);
    if (s == NULL) abort();
    s->owners = owners;
    s->bytes = bytes;
    memcpy(&s->copy, owners, bytes);
    return &s->copy;
}

static io_status submitted(void *copy, io_kind kind, io_status status)
{
    stand_in *s = stand_in_of(copy);
    if (status == IO_OK) {
        s->owners->kind = (uint8_t)kind;
    } else {
        memcpy(s->owners, copy, s->bytes);
        block_give(s);
    }
    return status;
}

io_status __wrap_io_accept(io_port *port, io_accept_op *op, io_socket listener)
{
    io_accept_op *copy = begin(&op->op, sizeof *op);
    return submitted(copy, IO_ACCEPT, __real_io_accept(port, copy, listener));
}

io_status __wrap_io_connect(io_port *port, io_op *op, io_socket socket, const net_addr *peer)
{
    io_op *copy = begin(op, sizeof *op);
    return submitted(copy, IO_CONNECT, __real_io_connect(port, copy, socket, peer));
}

io_status __wrap_io_recv(io_port *port, io_op *op, io_socket socket)
{
    io_op *copy = begin(op, sizeof *op);
    return submitted(copy, IO_RECV, __real_io_recv(port, copy, socket));
}

io_status __wrap_io_recv_into(io_port *port, io_op *op, io_socket socket, void *buffer, size_t len)
{
    io_op *copy = begin(op, sizeof *op);
    return submitted(copy, IO_RECV, __real_io_recv_into(port, copy, socket, buffer, len));
}

io_status __wrap_io_readable(io_port *port, io_op *op, io_socket socket)
{
    io_op *copy = begin(op, sizeof *op);
    return submitted(copy, IO_READABLE, __real_io_readable(port, copy, socket));
}

io_status __wrap_io_send(io_port *port, io_op *op, io_socket socket, const io_buf *bufs, uint32_t count)
{
    io_op *copy = begin(op, sizeof *op);
    return submitted(copy, IO_SEND, __real_io_send(port, copy, socket, bufs, count));
}

io_status __wrap_io_recv_from(io_port *port, io_datagram_op *op, io_socket socket)
{
    io_datagram_op *copy = begin(&op->op, sizeof *op);
    return submitted(copy, IO_RECV_FROM, __real_io_recv_from(port, copy, socket));
}

io_status __wrap_io_send_to(io_port *port, io_datagram_op *op, io_socket socket, const void *data, size_t len)
{
    io_datagram_op *copy = begin(&op->op, sizeof *op);
    return submitted(copy, IO_SEND_TO, __real_io_send_to(port, copy, socket, data, len));
}

/* The owner of the port may take the packet, and free the op, before the call returns. */
void __wrap_io_port_post(io_port *port, io_op *op)
{
    io_op *copy = begin(op, sizeof *op);
    op->kind = IO_POST;
    __real_io_port_post(port, copy);
}

bool __wrap_io_port_next(io_port *port, io_packet *packet)
{
    if (!__real_io_port_next(port, packet)) return false;
    stand_in *s = stand_in_of(packet->op);
    packet->op = s->owners;
    memcpy(s->owners, &s->copy, s->bytes);
    block_give(s);
    return true;
}
