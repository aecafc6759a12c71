/* net_inet.h - what is the same about socket addresses on every system, but declared by headers of different names. Included
 * by net_posix.c and net_win.c alone, after their system's headers: it holds definitions.
 */
#ifndef PORTICO_NET_INET_H
#define PORTICO_NET_INET_H

#include "net_system.h"

#include <stdio.h>
#include <string.h>

void net_system_pack(net_addr *addr, const net_endpoint *endpoint)
{
    *addr = (net_addr){{0}};
    if (endpoint->version == 4) {
        struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(endpoint->port)};
        memcpy(&v4.sin_addr, endpoint->bytes, sizeof v4.sin_addr);
        memcpy(addr, &v4, sizeof v4);
    } else if (endpoint->version == 6) {
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(endpoint->port)};
        memcpy(&v6.sin6_addr, endpoint->bytes, sizeof v6.sin6_addr);
        memcpy(addr, &v6, sizeof v6);
    } else if (endpoint->version == NET_VERSION_UNIX) {
        const struct sockaddr local = {.sa_family = AF_UNIX};
        memcpy(addr, &local, sizeof local);
    }
}

void net_system_unpack(net_endpoint *endpoint, const net_addr *addr)
{
    *endpoint = (net_endpoint){{0}, 0, 0};
    if (net_addr_family(addr) == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, addr, sizeof v4);
        memcpy(endpoint->bytes, &v4.sin_addr, sizeof v4.sin_addr);
        endpoint->port = ntohs(v4.sin_port);
        endpoint->version = 4;
    } else if (net_addr_family(addr) == AF_INET6) {
        struct sockaddr_in6 v6;
        memcpy(&v6, addr, sizeof v6);
        memcpy(endpoint->bytes, &v6.sin6_addr, sizeof v6.sin6_addr);
        endpoint->port = ntohs(v6.sin6_port);
        endpoint->version = 6;
    } else if (net_addr_family(addr) == AF_UNIX) {
        endpoint->version = NET_VERSION_UNIX;
    }
}

bool net_system_read_host(net_endpoint *endpoint, uint8_t version, const char *host)
{
    if (inet_pton(version == 6 ? AF_INET6 : AF_INET, host, endpoint->bytes) != 1) return false;
    endpoint->version = version;
    return true;
}

size_t net_addr_bytes(const net_addr *addr)
{
    switch (net_addr_family(addr)) {
    case AF_INET:
        return sizeof(struct sockaddr_in);
    case AF_INET6:
        return sizeof(struct sockaddr_in6);
    default:
        return 0;
    }
}

static bool is_listed(const net_endpoint *endpoints, size_t count, const net_endpoint *wanted)
{
    for (size_t i = 0; i < count; i++) {
        if (endpoints[i].version == wanted->version &&
            memcmp(endpoints[i].bytes, wanted->bytes, sizeof wanted->bytes) == 0) {
            return true;
        }
    }
    return false;
}

/* Takes over what getaddrinfo() found, each address once, and frees it. The rest is net_system_resolve(). */
static io_status net_inet_take(net_endpoint *endpoints, size_t *count, struct addrinfo *list, char *why,
                               size_t why_size)
{
    size_t found = 0;
    for (const struct addrinfo *entry = list; entry != NULL && found < *count; entry = entry->ai_next) {
        net_addr addr = {{0}};
        net_endpoint endpoint;
        if (entry->ai_addrlen > sizeof addr) continue;
        memcpy(&addr, entry->ai_addr, entry->ai_addrlen);
        net_system_unpack(&endpoint, &addr);
        if (endpoint.version == 0 || is_listed(endpoints, found, &endpoint)) continue;
        endpoints[found++] = endpoint;
    }
    freeaddrinfo(list);
    if (found == 0) {
        (void)snprintf(why, why_size, "no IPv4 or IPv6 address");
        return IO_NOT_FOUND;
    }
    *count = found;
    return IO_OK;
}

#endif
