/* udp_listener.c - sockets that wait for their workers. */
#include "udp_listener.h"

#include "mem.h"
#include "net_udp.h"

#include <assert.h>

struct udp_listener {
    char name[NET_URI_TEXT_MAX];
    uint32_t count;
    io_socket sockets[];
};

io_status udp_listener_open(udp_listener **out, const net_uri *uri, uint32_t workers, int *native)
{
    net_uri bound = *uri;
    uint32_t count = net_udp_deals() ? workers : 1;
    *out = NULL;
    *native = 0;
    udp_listener *l = mem_zalloc(sizeof(*l) + count * sizeof(l->sockets[0]));
    if (l == NULL) return IO_LIMIT;
    io_status status = net_udp_open_group(l->sockets, count, &uri->addr, native);
    if (status != IO_OK) {
        mem_free(l);
        return status;
    }
    l->count = count;
    if (net_addr_port(&uri->addr) == 0) (void)net_local(&bound.addr, l->sockets[0]);
    net_uri_format(&bound, l->name, sizeof(l->name));
    *out = l;
    return IO_OK;
}

void udp_listener_close(udp_listener *l)
{
    if (l == NULL) return;
    for (uint32_t i = 0; i < l->count; i++) {
        if (l->sockets[i] != IO_SOCKET_NONE) net_close(l->sockets[i]);
    }
    mem_free(l);
}

const char *udp_listener_name(const udp_listener *l)
{
    return l->name;
}

io_socket udp_listener_take(udp_listener *l, uint32_t worker)
{
    if (worker >= l->count) return IO_SOCKET_NONE;
    io_socket socket = l->sockets[worker];
    l->sockets[worker] = IO_SOCKET_NONE;
    return socket;
}
