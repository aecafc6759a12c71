/* net_uri.h - what a URI names: a transport, and where.
 *
 *   tcp://HOST:PORT, HOST:PORT   a stream over IPv4 or IPv6
 *   udp://HOST:PORT              datagrams over IPv4 or IPv6
 *   unix:PATH[?mode=0660]        a stream over a Unix socket: a file's name, absolute or relative (unix:///run/x is
 *                                /run/x). mode: the permissions of the file that a listener makes
 *   unix:@NAME                   the same in Linux's abstract namespace: no file
 *
 * thread  any.
 */
#ifndef PORTICO_NET_URI_H
#define PORTICO_NET_URI_H

#include "net.h"

#include <stddef.h>
#include <stdint.h>

typedef enum net_transport { NET_TCP, NET_UDP, NET_UNIX } net_transport;

enum {
    NET_PATH_MAX = 107,                 /* bytes of a Unix socket's name: sun_path less its NUL, or the one before it */
    NET_MODE_NONE = -1,                 /* the system's default: what the umask leaves */
    NET_URI_TEXT_MAX = NET_PATH_MAX + 8 /* "unix:", a path and a NUL fit, and so does "tcp://" with an address */
};

typedef struct net_uri {
    net_addr addr; /* NET_TCP, NET_UDP */
    uint8_t transport;
    int16_t mode;                /* NET_UNIX: permission bits, or NET_MODE_NONE */
    char path[NET_PATH_MAX + 1]; /* NET_UNIX: "@" begins an abstract name */
} net_uri;

/* Reads a URI whose host is numeric, as net_addr_parse() does. On IO_INVALID, error (of error_size bytes) says what is
 * wrong in words. */
io_status net_uri_parse(net_uri *uri, const char *text, char *error, size_t error_size);

/* The transport that a text begins with, right or wrong otherwise. Returns what follows "tcp://", "udp://" or "unix:",
 * or all of it when none of them is there. */
const char *net_uri_split(net_transport *transport, const char *text);

/* "tcp://127.0.0.1:7777", "udp://[::1]:53", "unix:/run/portico.sock", "unix:@portico". Returns text. size at least
 * NET_URI_TEXT_MAX. */
char *net_uri_format(const net_uri *uri, char *text, size_t size);

static inline net_uri net_uri_tcp(const net_addr *addr)
{
    return (net_uri){.addr = *addr, .transport = NET_TCP, .mode = NET_MODE_NONE};
}

#endif
