/* udp_listener.h - an address for datagrams that a server listens on, with a socket for each worker where the system deals
 * datagrams among sockets (then one peer's always go to the same worker), else for worker 0 alone.
 *
 * thread  open, close: the main thread, while no worker takes. udp_listener_take(): each worker for itself.
 */
#ifndef PORTICO_UDP_LISTENER_H
#define PORTICO_UDP_LISTENER_H

#include "net_uri.h"

#include <stdint.h>

typedef struct udp_listener udp_listener;

/* native: the system's code on failure. */
io_status udp_listener_open(udp_listener **out, const net_uri *uri, uint32_t workers, int *native);
void udp_listener_close(udp_listener *l); /* closes what nobody took; NULL is fine */

/* "udp://127.0.0.1:5353", with the port that the system chose. */
const char *udp_listener_name(const udp_listener *l);

/* That worker's socket, which is the caller's from here on; IO_SOCKET_NONE: it has none. */
io_socket udp_listener_take(udp_listener *l, uint32_t worker);

#endif
