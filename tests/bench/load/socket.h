/* socket.h - sockets to the server, from as many source addresses as were asked for. */
#ifndef LOAD_SOCKET_H
#define LOAD_SOCKET_H

/* flags: SOCK_NONBLOCK or 0. Returns the descriptor, or -1 with errno. Any thread. */
int tcp_socket(int flags);

#endif
