/* thread_per_connection.c - the second of the classic servers: blocking calls, and a thread of its own for every client.
 *
 *   thread_per_connection        listens on 127.0.0.1, prints the address, echoes until it is killed
 *   thread_per_connection ack    answers whatever one recv() brings with the acknowledgement instead
 *
 * A client for which the system has no thread is told by its connection's end, and standard error says so once.
 */
#include "sockets.h"

#include <stdint.h>

#ifndef _WIN32
#include <pthread.h>
#endif

#define ACKNOWLEDGEMENT "Message received successfully"

static bool acknowledge;

static void serve(socket_handle client)
{
    char buffer[4096];
    bool good = true;
    while (good) {
        long long got = recv(client, buffer, sizeof buffer, 0);
        if (got <= 0) break;
        good = acknowledge ? socket_send_all(client, ACKNOWLEDGEMENT, strlen(ACKNOWLEDGEMENT))
                           : socket_send_all(client, buffer, (size_t)got);
    }
    socket_close(client);
}

#ifdef _WIN32
static DWORD WINAPI run(void *client)
{
    serve((socket_handle)(uintptr_t)client);
    return 0;
}

static bool start(socket_handle client)
{
    HANDLE thread = CreateThread(NULL, 0, run, (void *)(uintptr_t)client, 0, NULL);
    if (thread != NULL) CloseHandle(thread);
    return thread != NULL;
}
#else
static void *run(void *client)
{
    serve((socket_handle)(intptr_t)client);
    return NULL;
}

static bool start(socket_handle client)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, (void *)(intptr_t)client) != 0) return false;
    pthread_detach(thread);
    return true;
}
#endif

int main(int argc, char **argv)
{
    bool told = false;
    acknowledge = argc == 2 && strcmp(argv[1], "ack") == 0;
    if (argc > 1 && !acknowledge) {
        fprintf(stderr, "usage: thread_per_connection [ack]\n");
        return 2;
    }
    socket_start();
    socket_handle listening = socket_listen();
    for (unsigned started = 0;;) {
        socket_handle client = socket_accept(listening);
        if (client == SOCKET_NONE) continue;
        if (start(client)) {
            started++;
            continue;
        }
        socket_close(client);
        if (!told) fprintf(stderr, "no more threads after %u\n", started);
        told = true;
    }
}
