/* net_system.h - the few verbs that net.c needs from the system: what a sockaddr looks like, numeric addresses as
 * text, and the resolver. net_posix.c and net_win.c implement them, and those verbs of net.h that net.c does not.
 * Included by net*.c only.
 *
 * net.c has: net_addr_parse, net_addr_resolve, net_addr_format, net_addr_port, io_status_name, io_status_text.
 */
#ifndef PORTICO_NET_SYSTEM_H
#define PORTICO_NET_SYSTEM_H

#include "base.h"
#include "net.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An address in the open: the same on every system. */
typedef struct net_endpoint {
    uint8_t bytes[16]; /* network order; IPv4 uses the first four */
    uint16_t port;     /* host order */
    uint8_t version;   /* 4, 6, NET_VERSION_UNIX, or 0: none, or a family that we do not know */
} net_endpoint;

enum { NET_VERSION_UNIX = 1 }; /* a Unix socket, whose address a net_addr does not hold */

enum { NET_HOST_TEXT_MAX = 46 }; /* INET6_ADDRSTRLEN on both systems */

/* Between a sockaddr_in or sockaddr_in6 and the open form. Packing writes all of addr, padding as zeros. */
void net_system_pack(net_addr *addr, const net_endpoint *endpoint);
void net_system_unpack(net_endpoint *endpoint, const net_addr *addr);

/* Reads a numeric host of that version (inet_pton); sets version and bytes, not port. False: it is not one. */
bool net_system_read_host(net_endpoint *endpoint, uint8_t version, const char *host);
/* Writes the host part, NUL included (inet_ntop). version is 4 or 6; size at least NET_HOST_TEXT_MAX. */
void net_system_write_host(const net_endpoint *endpoint, char *text, size_t size);

/* Asks the resolver for stream addresses; may block. Ports are left 0.
 * count   in: room; out: found. No address twice.
 * why     on failure: the resolver's words, of why_size bytes.
 * result  IO_OK with at least one; IO_NOT_FOUND, also when the resolver could not be asked; IO_LIMIT. */
io_status net_system_resolve(net_endpoint *endpoints, size_t *count, const char *host, char *why, size_t why_size);

/* Writes what is wrong with an address. Returns IO_INVALID. */
/* Schemes are read in any case: RFC 3986, 3.1. */
bool net_has_scheme(const char *text, const char *scheme);
io_status net_invalid(char *error, size_t error_size, const char *format, ...) PRINTF_LIKE(3, 4);

#endif
