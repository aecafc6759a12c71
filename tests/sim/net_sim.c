/* net_sim.c - the functions of net.h that talk to the system, and the resolver: the linker puts them in place of those
 * of net_posix.c and net.c (--wrap). */
#include "fiber.h"
#include "kernel.h"
#include "sim.h"
#include "wraps.h"

#include <stdio.h>
#include <string.h>

enum { FIRST_PORT = 7000 };

/* So that a port is known before there is a socket. */
static uint16_t next_port = FIRST_PORT;

io_status __wrap_net_listen(io_socket *socket, const net_addr *addr, int *native)
{
    sim_socket *s = sim_socket_open(true);
    *native = 0;
    *socket = IO_SOCKET_NONE;
    if (s == NULL) return IO_LIMIT;
    s->listening = true;
    s->addr = *addr;
    if (net_addr_port(addr) == 0) {
        char text[32];
        (void)snprintf(text, sizeof(text), "127.0.0.1:%u", (unsigned)next_port++);
        s->addr = sim_addr(text);
    }
    *socket = s->number;
    return IO_OK;
}

io_status __wrap_net_open_stream(io_socket *socket, const net_addr *peer, int *native)
{
    (void)peer;
    *native = 0;
    *socket = IO_SOCKET_NONE;
    sim_socket *s = sim_socket_open(false);
    if (s == NULL) return IO_LIMIT;
    s->addr = sim_addr("127.0.0.1:40000");
    *socket = s->number;
    return IO_OK;
}

io_status __wrap_net_local(net_addr *addr, io_socket socket)
{
    *addr = sim_socket_find(socket)->addr;
    return IO_OK;
}

io_status __wrap_net_set_nodelay(io_socket socket, bool on)
{
    (void)sim_socket_find(socket);
    (void)on;
    return IO_OK;
}

io_status __wrap_net_set_keepalive(io_socket socket, unsigned seconds)
{
    (void)sim_socket_find(socket);
    (void)seconds;
    return IO_OK;
}

void __wrap_net_close(io_socket socket)
{
    sim_socket_close(sim_socket_find(socket), false);
}

/* Names end in ".sim"; "nowhere.sim" does not resolve, "two.sim" has two addresses, of which the first refuses. */
io_status __wrap_net_addr_resolve(net_addr *addrs, size_t *count, const char *uri, char *error, size_t error_size)
{
    char text[64];
    const char *port = strrchr(uri, ':');
    /* Shorter than the resolver's patience with look-ups that are under way when it is closed. */
    fiber_sleep(sim_between(SIM_NETWORK, SIM_MS, 600 * SIM_MS));
    if (port == NULL || strstr(uri, "nowhere.sim") != NULL || sim_fault_drawn(SIM_NAME_LOST)) {
        (void)snprintf(error, error_size, "%s: no such name", uri);
        return IO_NOT_FOUND;
    }
    size_t room = *count;
    *count = 0;
    if (strstr(uri, "two.sim") != NULL && room > 1) addrs[(*count)++] = sim_addr("10.0.0.1:9002");
    (void)snprintf(text, sizeof(text), "10.0.0.1%s", port);
    addrs[(*count)++] = sim_addr(text);
    return IO_OK;
}

void sim_net_open(void)
{
    next_port = FIRST_PORT;
}
