/* io_uring.h - what the files of the io_uring backend share: the port, its table of sockets, its buffers. Included by
 * io_uring*.c only. Not the kernel's header of that name: that one is <linux/io_uring.h>, and comes with <liburing.h>.
 */
#ifndef PORTICO_IO_URING_H
#define PORTICO_IO_URING_H

#include "io_backend.h"
#include "io_posix.h"
#include "io_slots.h"

#include <assert.h>
#include <liburing.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { URING_ARENA_BYTES = 1 << 16, URING_ARENA_ALIGN = 16 };

/* User data: an op's address, or one of these in the low bits; URING_CANCEL and URING_STREAM with the descriptor and its
 * generation above them, see uring_tag(). */
enum { URING_WAKE = 1, URING_CANCEL = 2, URING_STREAM = 3, URING_IGNORED = 4, URING_TAG_MASK = 7 };

/* Words of op->native. */
enum {
    URING_BUFFER, /* receive: the caller's buffer, 0 for a lent one; datagram: its bytes */
    URING_LEN     /* the size of that; send: the bytes asked for */
};

/* Bits of uring_slot.flags. */
enum {
    URING_WARM = 1,     /* a lent receive has brought bytes: the next one may be a multishot one */
    URING_ARMED = 2,    /* a multishot receive is with the kernel */
    URING_STOPPING = 4, /* … and has been asked to end, since nobody wants its bytes now */
    URING_CANCELED = 8, /* the op that waits for it has been canceled */
    URING_HOLDING = 16, /* it has brought bytes for nobody */
    URING_EMPTY = 32    /* the last receive left the socket empty, so that trying at once is in vain */
};

/* Bytes that nobody has asked for yet. */
typedef struct uring_chunk {
    struct uring_chunk *next;
    size_t start; /* bytes before it have been drawn */
    size_t end;
    uint8_t bytes[];
} uring_chunk;

/* What the port knows of a socket that is attached to it. Every idle connection has one. */
typedef struct uring_slot {
    union {
        io_op *waiting;    /* the op that gets the next news of the multishot receive; NULL: nobody wants it */
        uring_chunk *held; /* instead, with URING_HOLDING: what comes first */
    };
    uint32_t generation; /* of this port only: tells late completions from those of the descriptor's next owner */
    uint8_t cancels;     /* submitted, completion not seen. Until then a receive that found no buffer, which the
                            cancel did not find, must not be submitted again. */
    uint8_t error;       /* see io_error_keep() */
    uint8_t flags;
} uring_slot;

_Static_assert(sizeof(uring_slot) == 16, "an idle connection costs one of these, and its descriptor's number");

_Static_assert(_Alignof(io_op) > URING_TAG_MASK, "an op's address is told from the other user data by its low bits");

typedef struct uring_port {
    io_port head;
    struct io_uring ring;
    struct io_uring_buf_ring *buf_ring; /* followed by the buffers, in one mapping */
    size_t mapping_bytes;
    uint8_t *bufs;
    uint32_t buf_bytes;
    uint32_t buf_count;
    int lent;          /* the buffer that the last packet lent, or -1 */
    uring_chunk *loan; /* … or the chunk */
    uint32_t taken;    /* packets of this round */
    io_queue ready;    /* posts, and ops completed without the kernel: op->result is final */
    io_queue served;   /* receives whose bytes are held */
    io_queue starved;  /* ops to be submitted again */
    io_queue attempts; /* datagrams to be attempted */
    io_mailbox mailbox;
    bool wake_armed;     /* a multishot poll watches the mailbox's eventfd */
    bool multishot;      /* receives may be multishot ones */
    io_slots attached;   /* of uring_slots */
    uint32_t arena_used; /* bytes */
    _Alignas(URING_ARENA_ALIGN) uint8_t arena[URING_ARENA_BYTES];
} uring_port;

static inline uring_port *uring_of(io_port *port)
{
    return (uring_port *)(void *)port;
}

/* NULL: it is not attached to this port. */
static inline uring_slot *uring_slot_find(const uring_port *port, io_socket socket)
{
    return io_slots_find(&port->attached, socket, sizeof(uring_slot));
}

static inline uring_slot *uring_slot_of(const uring_port *port, io_socket socket)
{
    return io_slots_of(&port->attached, socket, sizeof(uring_slot));
}

/* A receive has brought bytes; flags are the completion's. */
static inline void uring_note_rest(uring_slot *s, unsigned flags)
{
    if (flags & IORING_CQE_F_SOCK_NONEMPTY) s->flags &= (uint8_t)~URING_EMPTY;
    else s->flags |= URING_EMPTY;
}

static inline void uring_note_error(uring_slot *s, int native)
{
    s->error = (uint8_t)io_error_keep(s->error, native);
}

/* User data that names a descriptor: at most 2^24 or so, fs.nr_open. */
static inline uint64_t uring_tag(uint64_t tag, io_socket socket, const uring_slot *s)
{
    return tag | (uint64_t)(uint32_t)socket << 3 | (uint64_t)s->generation << 35;
}
/* The slot that such user data is about; NULL: the descriptor has been closed since. */
static inline uring_slot *uring_slot_tagged(uring_port *port, uint64_t data)
{
    uring_slot *s = uring_slot_find(port, (io_socket)(uint32_t)(data >> 3));
    return s != NULL && data >> 35 == (s->generation & ((UINT64_C(1) << 29) - 1)) ? s : NULL;
}

/* A result that says only: not now. */
static inline bool uring_is_passing(int result)
{
    return result == -ENOBUFS || result == -EAGAIN || result == -EINTR;
}

/* ---- io_uring.c ---- */
/* A submission entry; NULL: the ring is full and the kernel takes nothing now. */
struct io_uring_sqe *uring_entry(uring_port *port);
/* Hands all entries to the kernel. What it does not take stays in the ring. */
void uring_submit_all(uring_port *port);
/* step: what failed, for people; native: its errno, 0 when memory ran out. */
uring_port *uring_open_port(const io_options *options, const char **step, int *native);
void uring_close(io_port *head);
io_status uring_attach(io_port *head, io_socket socket, bool is_udp);
void uring_cancel(io_port *head, io_socket socket);
io_status uring_wait(io_port *head, int64_t timeout_ns);
bool uring_next(io_port *head, io_packet *packet);

/* ---- io_uring_recv.c: bytes of streams ---- */
/* Returns 0 or an errno. */
int uring_open_bufs(uring_port *port);
void uring_close_bufs(uring_port *port);
/* Asks the kernel whether receives may be multishot ones. */
bool uring_knows_streams(uring_port *port);
void uring_take_back_loan(uring_port *port);
bool uring_prepare_recv(uring_port *port, io_op *op);
bool uring_prepare_readable(uring_port *port, io_op *op);
io_status uring_recv(io_port *head, io_op *op, io_socket socket, void *buffer, size_t len);
io_status uring_readable(io_port *head, io_op *op, io_socket socket);
io_status uring_draw(io_port *head, io_socket socket, void *buffer, size_t len, size_t *bytes);
/* Completions. False: there is no packet. */
bool uring_on_recv(uring_port *port, io_op *op, int result, unsigned flags, io_packet *packet);
bool uring_on_readable(uring_port *port, io_op *op, int result, io_packet *packet);
bool uring_on_stream(uring_port *port, uint64_t data, int result, unsigned flags, io_packet *packet);
/* The packet of an op from port->served. */
void uring_serve(uring_port *port, io_op *op, io_packet *packet);
/* The descriptor is about to be closed: ends its multishot receive, and forgets what it has brought. */
void uring_end_stream(uring_port *port, io_socket socket);

/* ---- io_uring_send.c ---- */
bool uring_prepare_send_to(uring_port *port, io_op *op);
io_status uring_send(io_port *head, io_op *op, io_socket socket, const io_buf *bufs, uint32_t count);
io_status uring_send_now(io_port *head, io_socket socket, const io_buf *bufs, uint32_t count, size_t *bytes);
/* A completion. False: there is no packet. */
bool uring_on_send(uring_port *port, io_op *op, int result, io_packet *packet);

/* ---- io_uring_probe.c ---- */
bool uring_probe(char *why, size_t why_size);

#endif
