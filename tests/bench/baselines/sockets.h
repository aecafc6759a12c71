/* sockets.h - what differs between the systems' sockets, as far as the baselines need it. All functions end the program when the
 * system refuses at start; later failures are their callers'.
 */
#ifndef BASELINES_SOCKETS_H
#define BASELINES_SOCKETS_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>

typedef SOCKET socket_handle;
typedef int socket_size; /* the type of lengths: of addresses, and given to send() */
#define SOCKET_NONE INVALID_SOCKET
#define SEND_FLAGS 0

static inline void socket_start(void)
{
    WSADATA data;
    if (WSAStartup(MAKEWORD(2, 2), &data) != 0) exit(1);
}

static inline void socket_close(socket_handle s)
{
    closesocket(s);
}
#else
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

typedef int socket_handle;
typedef size_t socket_size;
#define SOCKET_NONE (-1)
#define SEND_FLAGS MSG_NOSIGNAL

static inline void socket_start(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static inline void socket_close(socket_handle s)
{
    close(s);
}
#endif

/* Listens on 127.0.0.1, on a port of the system's choice, and prints the address. */
static inline socket_handle socket_listen(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET};
    socklen_t len = sizeof addr;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socket_handle s = socket(AF_INET, SOCK_STREAM, 0);
    if (s == SOCKET_NONE || bind(s, (struct sockaddr *)&addr, sizeof addr) != 0 || listen(s, SOMAXCONN) != 0 ||
        getsockname(s, (struct sockaddr *)&addr, &len) != 0) {
        fprintf(stderr, "cannot listen\n");
        exit(1);
    }
    printf("tcp://127.0.0.1:%d\n", ntohs(addr.sin_port));
    fflush(stdout);
    return s;
}

/* The next client; SOCKET_NONE if that one failed. Answers are sent at once, as Portico sends them. */
static inline socket_handle socket_accept(socket_handle listening)
{
    int one = 1;
    socket_handle s = accept(listening, NULL, NULL);
    if (s != SOCKET_NONE) setsockopt(s, IPPROTO_TCP, TCP_NODELAY, (const char *)&one, sizeof one);
    return s;
}

/* Sends all bytes, in as many pieces as it takes. */
static inline bool socket_send_all(socket_handle s, const char *bytes, size_t len)
{
    while (len > 0) {
        long long sent = send(s, bytes, (socket_size)len, SEND_FLAGS);
        if (sent <= 0) return false;
        bytes += sent;
        len -= (size_t)sent;
    }
    return true;
}

#endif
