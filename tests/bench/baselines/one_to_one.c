/* one_to_one.c - the first of the classic servers: blocking calls and one client at a time. Who connects meanwhile waits in the
 * listener's queue until the client before has gone.
 *
 *   one_to_one      listens on 127.0.0.1, prints the address, echoes until it is killed
 */
#include "sockets.h"

static void serve(socket_handle client)
{
    char buffer[4096];
    for (;;) {
        long long got = recv(client, buffer, sizeof buffer, 0);
        if (got <= 0 || !socket_send_all(client, buffer, (size_t)got)) return;
    }
}

int main(void)
{
    socket_start();
    socket_handle listening = socket_listen();
    for (;;) {
        socket_handle client = socket_accept(listening);
        if (client == SOCKET_NONE) continue;
        serve(client);
        socket_close(client);
    }
}
