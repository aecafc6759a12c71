/* net.h - addresses, listening sockets and socket options: everything about sockets that is not an
 * operation. net.c is common; net_posix.c and net_win.c hold what differs, including the one table
 * that maps native error codes.
 *
 * thread  any, on different sockets.
 */
#ifndef PORTICO_NET_H
#define PORTICO_NET_H

#include "io_types.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A sockaddr_in or sockaddr_in6, opaque to everyone but net_*.c and io_*.c. All zero: none. Of a Unix socket it holds
 * the family alone: clients have no name there, and a server's is in its net_uri. */
typedef struct net_addr {
    uint32_t words[7];
} net_addr;

enum {
    NET_ADDR_TEXT_MAX = 64, /* "[ffff:…:255.255.255.255%scope]:65535" and its NUL fit */
    NET_BACKLOG = 4096      /* connections the kernel may queue before they are accepted; it caps this itself */
};

/* Once per process, before and after everything else here (WSAStartup; ignores SIGPIPE elsewhere). */
io_status net_start(void);
void net_stop(void);

/* Reads "tcp://HOST:PORT", "HOST:PORT" or "[V6]:PORT", numeric only ("localhost" is 127.0.0.1; "*" is
 * every IPv4 address; an IPv4-mapped IPv6 address is the IPv4 one). Port 0 to 65535 must be given. On
 * IO_INVALID, error (of error_size bytes) says what is wrong in words. */
io_status net_addr_parse(net_addr *addr, const char *uri, char *error, size_t error_size);

/* Resolves names as well, with the system's resolver: it may block for seconds.
 * count  in: room in addrs; out: addresses found, in the resolver's order of preference.
 * result IO_OK with at least one; IO_NOT_FOUND; IO_INVALID; error as above. */
io_status net_addr_resolve(net_addr *addrs, size_t *count, const char *uri, char *error, size_t error_size);

/* "127.0.0.1:7777", "[::1]:7777"; "unix"; "-" for none. Returns text. size at least NET_ADDR_TEXT_MAX. */
char *net_addr_format(const net_addr *addr, char *text, size_t size);
uint16_t net_addr_port(const net_addr *addr);
/* AF_INET, AF_INET6, AF_UNIX or 0. */
int net_addr_family(const net_addr *addr);
bool net_addr_is_unix(const net_addr *addr);
net_addr net_addr_unix(void);
/* What stands for whoever is behind an address: an IPv4 address, or the first 64 bits of an IPv6 one, as a number; 0: a Unix
 * socket, or none. *loopback: it is this machine's own. */
uint64_t net_addr_site(const net_addr *addr, bool *loopback);
/* Size of the sockaddr inside, in bytes; 0 for none and for a Unix socket's. */
size_t net_addr_bytes(const net_addr *addr);

/* All stream sockets here, accepted ones included, have TCP_NODELAY on: the engine gathers what one handler sends, and there is
 * nothing to be gained by the kernel's waiting for more.
 */

/* Opens a bound, listening, non-blocking socket that a child process does not inherit. An IPv6
 * wildcard takes IPv6 only, so that [::]:P and 0.0.0.0:P can be given side by side. Nobody else can
 * take the port while it is open (SO_EXCLUSIVEADDRUSE on Windows; SO_REUSEADDR elsewhere, which
 * there only skips TIME_WAIT).
 * native  the system's code on failure, for the log. */
io_status net_listen(io_socket *socket, const net_addr *addr, int *native);

/* An unconnected stream socket fit for io_connect(): overlapped and bound on Windows, non-blocking
 * elsewhere. */
io_status net_open_stream(io_socket *socket, const net_addr *peer, int *native);

/* The address of this end; a mapped error and a zero address when the system will not tell. */
io_status net_local(net_addr *addr, io_socket socket);

/* The options answer IO_OK or a mapped error; callers may ignore it. */
io_status net_set_nodelay(io_socket socket, bool on);
/* seconds of silence before the first probe; 0 switches keep-alive off. */
io_status net_set_keepalive(io_socket socket, unsigned seconds);
/* The next close sends RST and drops what is queued (SO_LINGER {1, 0}). */
io_status net_set_abort(io_socket socket);

/* FIN after what the kernel still holds. Receiving goes on. */
io_status net_shutdown_send(io_socket socket);
void net_close(io_socket socket);

/* errno, a Winsock or a Win32 code to our status. IO_UNEXPECTED for codes not in the table. */
io_status net_map_error(int native);

#endif
