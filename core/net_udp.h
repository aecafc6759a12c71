/* net_udp.h - UDP sockets. net_udp_posix.c and net_udp_win.c implement it.
 *
 * All are bound and non-blocking, may send to broadcast addresses, and are not inherited by child processes.
 *
 * thread  any.
 */
#ifndef PORTICO_NET_UDP_H
#define PORTICO_NET_UDP_H

#include "net.h"

/* Opens a socket bound to addr. An IPv6 wildcard takes IPv6 only. A multicast address (224.0.0.0/4, ff00::/8) is joined, on
 * the interface that the system chooses, and its port may be shared with other programs that do the same.
 * native  the system's code on failure. */
io_status net_udp_open(io_socket *opened, const net_addr *addr, int *native);

/* Opens count sockets bound to the same address, among which the system deals datagrams, those of one peer always to the
 * same one. addr: as above; port 0 is chosen once. count > 1: IO_UNSUPPORTED where the system does not deal
 * (net_udp_deals()). On failure none is open. */
io_status net_udp_open_group(io_socket *opened, uint32_t count, const net_addr *addr, int *native);
/* False: one socket has to do. */
bool net_udp_deals(void);

/* Opens a socket that sends to peer and receives from peer alone; bound to addr, or with NULL to what the system
 * chooses. */
io_status net_udp_connect(io_socket *opened, const net_addr *addr, const net_addr *peer, int *native);

#endif
