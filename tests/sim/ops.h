/* ops.h - operations of the simulated kernel while they are pending, and the port they are pending on. */
#ifndef PORTICO_TESTS_SIM_OPS_H
#define PORTICO_TESTS_SIM_OPS_H

#include "fiber.h"
#include "io_backend.h"
#include "kernel.h"

enum {
    SIM_READY_MAX = 8192, /* packets that wait on one port */
    SIM_POISON = 0xdd     /* what is in buffers that are nobody's, or the kernel's */
};

/* An operation that is pending. */
struct sim_op {
    uint64_t serial; /* changes with every use */
    sim_port *port;
    sim_socket *socket;
    io_op *op;
    sim_op *next;    /* accepts of one listener; free ones of the port */
    uint8_t *buffer; /* receive: the caller's, or NULL */
    size_t len;
    io_buf bufs[IO_BUFS_MAX]; /* send */
    uint32_t buf_count;
    uint8_t *snapshot; /* send: what the buffers held at the submit */
    size_t total;
    size_t moved;
    uint8_t *lent; /* SIM_RING, lent receive: a buffer of ours that holds the bytes; else NULL */
    io_status status;
    io_socket accepted;
    net_addr peer;
    net_addr target; /* connect */
    bool ready;      /* on the port's list of packets */
    bool attempt;    /* … but what it brings is found out when it is taken */
    bool canceled;   /* a cancel is on its way */
};

struct sim_port {
    io_port head;
    fiber *owner;
    sim_op *ready[SIM_READY_MAX];
    uint32_t ready_count;
    io_queue posts;
    sim_op *free;
    uint32_t round;  /* packets that this round may still give */
    uint32_t loaned; /* SIM_RING: completions that hold bytes */
    uint32_t pending;
    int64_t slow_again_ns;
    bool starving; /* SIM_RING: a receive waits for a buffer */
    uint32_t recv_bytes;
    uint8_t *scratch; /* what is lent */
    size_t scratch_len;
};

/* The pending operation of op on s; the caller puts it where it belongs. */
sim_op *sim_op_begin(sim_port *port, io_op *op, sim_socket *s);
/* Its packet is ready. */
void sim_op_finish(sim_op *o, io_status status);
/* Its packet has been taken. */
void sim_op_end(sim_op *o);
/* Goes on with what its socket has, if it can. */
void sim_op_try_in(sim_op *o);
void sim_op_try_out(sim_op *o);
/* When the packet of a receive is taken that was only tried for. False: in vain, and it is pending again. */
bool sim_op_attempt(sim_op *o);
/* Takes what there is. False: nothing. */
bool sim_op_receive(sim_end *end, void *buffer, size_t len, size_t *moved, io_status *status);
/* The program's bytes are those of the submit. */
void sim_op_check_snapshot(const sim_op *o);
/* A send writes what there is room for, or less. */
void sim_op_push(sim_op *o);
/* A connect will be answered. */
void sim_op_connect(sim_op *o);
void sim_op_cancel(sim_op *o);
/* free()d with the operation. */
void *sim_op_alloc(size_t bytes);
/* On all ports. */
uint32_t sim_ops_pending(void);

#endif
