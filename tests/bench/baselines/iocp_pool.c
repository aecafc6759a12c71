/* iocp_pool.c - the third of the classic servers: one completion port, shared by two threads per processor. Windows only.
 *
 *   iocp_pool          listens on 127.0.0.1, prints the address, echoes until it is killed
 *   iocp_pool print    also prints what it receives
 *
 * The main thread accepts, ties each client to the port and begins the first receive; whichever thread takes a packet begins the
 * next operation. A client alternates between its two operations, so that at most one is pending, and the thread that holds
 * its packet is alone with the client. From this follows what is mended here of the design as it was published:
 *
 *   - The kind of an operation is in its own record, not in a field of the client that changes under it.
 *   - A send that was taken in part goes on from the number of bytes sent in all, counted from the buffer's beginning; moving the
 *     buffer's pointer by that sum each time skips bytes from the second rest on.
 *   - What was received has a length and no zero byte at its end; it is printed by its length.
 *   - A client is freed by the thread that took its last packet. Nothing waits in a loop for an operation to end.
 *   - There is no list of clients under one lock, to be searched at each farewell: the packet's key is the client.
 *   - The key has the width of a pointer.
 */
#include "sockets.h"

enum { BUFFER = 4096, THREADS_PER_PROCESSOR = 2 };

typedef enum direction { RECEIVE, SEND } direction;

typedef struct operation {
    OVERLAPPED overlapped; /* first, so that its address is the operation's */
    direction direction;
} operation;

typedef struct client {
    SOCKET socket;
    operation receive;
    operation send;
    DWORD received; /* bytes in the buffer */
    DWORD sent;     /* of these */
    char buffer[BUFFER];
} client;

static HANDLE port;
static bool print;

static void leave(client *c)
{
    closesocket(c->socket);
    free(c);
}

/* Begins an operation. When it cannot begin there will be no packet, and the client ends here. A result that is there at once
 * comes as a packet all the same. */
static void begin(client *c, operation *op)
{
    WSABUF buffer = {BUFFER, c->buffer};
    DWORD flags = 0;
    int result;
    memset(&op->overlapped, 0, sizeof op->overlapped);
    if (op->direction == RECEIVE) {
        result = WSARecv(c->socket, &buffer, 1, NULL, &flags, &op->overlapped, NULL);
    } else {
        buffer.buf = c->buffer + c->sent;
        buffer.len = c->received - c->sent;
        result = WSASend(c->socket, &buffer, 1, NULL, 0, &op->overlapped, NULL);
    }
    if (result != 0 && WSAGetLastError() != WSA_IO_PENDING) leave(c);
}

static void on_received(client *c, DWORD bytes)
{
    if (print) printf("%.*s\n", (int)bytes, c->buffer);
    c->received = bytes;
    c->sent = 0;
    begin(c, &c->send);
}

static void on_sent(client *c, DWORD bytes)
{
    c->sent += bytes;
    begin(c, c->sent < c->received ? &c->send : &c->receive);
}

static DWORD WINAPI work(void *unused)
{
    (void)unused;
    for (;;) {
        DWORD bytes = 0;
        ULONG_PTR key = 0;
        OVERLAPPED *overlapped = NULL;
        BOOL good = GetQueuedCompletionStatus(port, &bytes, &key, &overlapped, INFINITE);
        if (overlapped == NULL) return 1; /* not a packet: the port is gone */
        client *c = (client *)key;
        operation *op = (operation *)overlapped;
        if (!good || bytes == 0) leave(c);
        else if (op->direction == RECEIVE) on_received(c, bytes);
        else on_sent(c, bytes);
    }
}

static void welcome(SOCKET socket)
{
    client *c = calloc(1, sizeof *c);
    if (c == NULL) {
        closesocket(socket);
        return;
    }
    c->socket = socket;
    c->receive.direction = RECEIVE;
    c->send.direction = SEND;
    if (CreateIoCompletionPort((HANDLE)socket, port, (ULONG_PTR)c, 0) == NULL) leave(c);
    else begin(c, &c->receive);
}

int main(int argc, char **argv)
{
    SYSTEM_INFO system;
    print = argc == 2 && strcmp(argv[1], "print") == 0;
    if (argc > 1 && !print) {
        fprintf(stderr, "usage: iocp_pool [print]\n");
        return 2;
    }
    socket_start();
    GetSystemInfo(&system);
    port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 0);
    if (port == NULL) {
        fprintf(stderr, "no completion port\n");
        return 1;
    }
    for (DWORD i = 0; i < system.dwNumberOfProcessors * THREADS_PER_PROCESSOR; i++) {
        HANDLE thread = CreateThread(NULL, 0, work, NULL, 0, NULL);
        if (thread == NULL) {
            fprintf(stderr, "no thread\n");
            return 1;
        }
        CloseHandle(thread);
    }
    /* socket() makes overlapped sockets, and accept() sockets like the listening one. */
    SOCKET listening = socket_listen();
    for (;;) {
        SOCKET socket = socket_accept(listening);
        if (socket != INVALID_SOCKET) welcome(socket);
    }
}
