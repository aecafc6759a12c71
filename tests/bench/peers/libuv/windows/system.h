/* system.h - what echo.c needs of Windows. Sockets that share a port do not share its connections there: one loop only. */
#include <winsock2.h>
#include <ws2tcpip.h>
#include <stdio.h>
#include <stdlib.h>

typedef SOCKET system_socket;

static void raise_descriptors(void)
{
}

static system_socket listening_socket(int shared)
{
    if (shared) {
        fprintf(stderr, "one worker only\n");
        exit(2);
    }
    return socket(AF_INET, SOCK_STREAM, 0);
}
