/* rig.h - what the contract tests of io.h share: a port of the backend named by argv[1] with a listener on it, pairs
 * of connected sockets, packets taken with a deadline, and plain peers that no port knows of.
 *
 * A behaviour opens a rig, does its work, closes what it opened and then the rig, which checks that nothing is
 * pending, no packet is left and no descriptor was lost. Everything here fails the test instead of returning an
 * error. Nothing sleeps: what should happen is waited for until RIG_PATIENCE_NS, what should not happen is looked
 * for during RIG_QUIET_NS.
 */
#ifndef PORTICO_TESTS_RIG_H
#define PORTICO_TESTS_RIG_H

#include "check.h"
#include "io.h"

#define RIG_PATIENCE_NS INT64_C(20000000000) /* longer than anything that works takes */
#define RIG_QUIET_NS INT64_C(40000000)       /* nothing has come for so long: nothing will */

typedef struct rig {
    io_port *port;
    io_socket listener; /* attached, with nothing pending between the calls below */
    net_addr address;   /* where it listens: 127.0.0.1, a port the system chose */
    uint64_t waits;     /* io_port_wait() so far */
    long descriptors;   /* of the process when the rig was opened, -1 when the system does not tell */
} rig;

/* First in main(). Ends the executable with 77 when this system has no such backend. */
void rig_begin(int argc, char **argv);
/* Last in main(). */
static inline int rig_end(void)
{
    net_stop();
    return check_end();
}
const io_backend *rig_backend(void);

void rig_open(rig *r, const io_options *options);
void rig_close(rig *r);

/* The next packet of any op, or false when deadline (of os_monotonic_ns()) has passed. Honours the contract:
 * io_port_wait() only after io_port_next() has said false. Checks what is true of every packet. */
bool rig_next(rig *r, io_packet *packet, int64_t deadline);
/* The next packet of any op, which must come. */
io_packet rig_take_at(rig *r, const char *file, int line);
#define take(r) rig_take_at(r, __FILE__, __LINE__)
/* The next packet, which must come and must be op's. */
io_packet rig_expect_at(rig *r, const io_op *op, const char *file, int line);
#define expect(r, op) rig_expect_at(r, op, __FILE__, __LINE__)
/* One packet of each of the ops, in any order; packets[i] is that of ops[i]. Lent data is gone. */
void rig_expect_all_at(rig *r, io_packet *packets, io_op *const *ops, size_t count, const char *file, int line);
#define expect_all(r, packets, ops, count) rig_expect_all_at(r, packets, ops, count, __FILE__, __LINE__)
/* No packet comes during RIG_QUIET_NS. */
void rig_quiet_at(rig *r, const char *file, int line);
#define expect_nothing(r) rig_quiet_at(r, __FILE__, __LINE__)

/* A connection to the rig's listener: ours is accepted through the port and attached, peer is a plain one. */
void rig_pair(rig *r, io_socket *ours, io_socket *peer);
/* A rig with one such connection, and its end. */
void rig_open_pair(rig *r, io_socket *ours, io_socket *peer);
void rig_close_pair(rig *r, io_socket ours, io_socket peer);
/* Many such connections, and the end of them and of the rig. */
void rig_pairs(rig *r, io_socket *ours, io_socket *peers, uint32_t count);
void rig_close_pairs(rig *r, const io_socket *ours, const io_socket *peers, uint32_t count);
/* A connection with both ends attached to the port: connected by io_connect() and accepted by io_accept(). For what
 * only a peer with an op pending can see, a reset under Wine above all. */
void rig_pair_on_port(rig *r, io_socket *accepted, io_socket *connected);
/* One accept through the port, not attached. */
io_socket rig_accept(rig *r);
/* An unconnected socket, attached, for io_connect() to addr. */
io_socket rig_stream(rig *r, const net_addr *addr);

/* Sends all of it, from op, through the port, resuming short counts. The peer need not read only when it fits the
 * kernel's buffers. */
void rig_send(rig *r, io_op *op, io_socket socket, const void *bytes, size_t len);

/* Sends the stream key from its start until a send stays pending because the peer does not read. Returns the bytes
 * that packets reported; op is pending and owns FILL_BYTES of the stream from there on, in a buffer of the rig's: more
 * than a kernel takes at once, so that it is half done where the system does that. */
enum { FILL_BYTES = 1 << 23 };
uint64_t rig_fill(rig *r, io_op *op, io_socket socket, uint32_t key);

/* For a thread that is to act while another one sleeps in io_port_wait(): without it the test would be right as well,
 * but test less. */
void rig_delay(int64_t ns);

/* ---- Streams whose every byte says where it belongs ---- */

/* Byte number position of the stream key. */
static inline uint8_t pattern_byte(uint32_t key, uint64_t position)
{
    uint64_t x = position * 0x9e3779b1u + (position >> 12) + (uint64_t)key * 0x85ebca77u;
    return (uint8_t)((x >> 24) ^ (x >> 8) ^ x);
}
void pattern_fill(void *bytes, size_t len, uint32_t key, uint64_t position);
void pattern_check_at(const void *bytes, size_t len, uint32_t key, uint64_t position, const char *file, int line);
#define check_pattern(bytes, len, key, position) pattern_check_at(bytes, len, key, position, __FILE__, __LINE__)

/* ---- The peer: a plain socket, used without a port ---- */

enum { PEER_AGAIN = -1, PEER_RESET = -2 };

/* Connects, waiting for it. */
io_socket peer_connect(const net_addr *addr);
/* Begins to connect and does not look whether it works. */
io_socket peer_connect_begin(const net_addr *addr);
/* Listens on 127.0.0.1 (or ::1 for IPv6) with the smallest queue there is, and says where. */
io_socket peer_listen(net_addr *addr);
io_socket peer_accept(io_socket listener);
/* What the kernel takes or has now. Bytes moved; PEER_AGAIN; PEER_RESET. 0 from peer_recv_now(): end of stream. */
long peer_send_now(io_socket socket, const void *bytes, size_t len);
long peer_recv_now(io_socket socket, void *bytes, size_t len);
/* All of it, waiting where needed. */
void peer_send(io_socket socket, const void *bytes, size_t len);
/* Exactly len bytes, or fewer when the stream ends before. */
size_t peer_recv(io_socket socket, void *bytes, size_t len);
/* True when it can receive (or send) without waiting; waits for it until then. */
bool peer_ready(io_socket socket, bool to_send, int64_t timeout_ns);
/* A small receive buffer, for a peer that is to be slow; before it connects or on a listener only hints. */
void peer_small_buffers(io_socket socket);
void peer_shutdown(io_socket socket);
void peer_close(io_socket socket);
/* Closes with RST. */
void peer_reset(io_socket socket);

/* 127.0.0.1 with a port that nobody listens on. */
net_addr address_nobody(void);
/* False when this machine has no IPv6 loopback. */
bool rig_has_ipv6(void);

/* ---- Descriptors: rig_posix.c, rig_win.c ---- */

/* Open descriptors of this process; -1 when the system does not tell. */
long descriptors_count(void);
/* Takes all that are left, after lowering the limit so that this is quick. False when there is no such limit. */
bool descriptors_exhaust(void);
/* Gives back one of those taken. */
void descriptors_free_one(void);
/* Gives back all, and the limit. */
void descriptors_restore(void);

#endif
