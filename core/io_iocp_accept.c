/* io_iocp_accept.c - accepting, by AcceptEx on sockets made ahead. */
#include "io_iocp.h"

#include <string.h>

enum { ADDRESS_BYTES = 144 }; /* what AcceptEx wants for one address: 16 more than the largest */

_Static_assert(sizeof(((io_accept_op *)0)->addresses) == 2 * ADDRESS_BYTES, "room for AcceptEx");
_Static_assert(ADDRESS_BYTES >= sizeof(SOCKADDR_STORAGE) + 16, "AcceptEx: 16 bytes more than the address");

static void drop_accepted(io_accept_op *op)
{
    net_close(op->accepted);
    op->accepted = IO_SOCKET_NONE;
}

/* Never with room for data: then the accept would wait for the peer's first bytes, and silent peers could hold all
 * accepts of a listener. */
io_status iocp_accept(io_port *common, io_accept_op *op, io_socket listener)
{
    iocp_port *port = iocp_of(common);
    net_addr local;
    DWORD bytes = 0;
    io_status status = net_local(&local, listener);
    if (status != IO_OK) return status;
    SOCKET socket = WSASocketW(net_addr_family(&local), SOCK_STREAM, IPPROTO_TCP, NULL, 0,
                               WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (socket == INVALID_SOCKET) return net_map_error(WSAGetLastError());
    op->accepted = (io_socket)socket;
    OVERLAPPED *overlapped = iocp_prepare(&op->op, NULL);
    bool success =
        port->accept_ex((SOCKET)listener, socket, op->addresses, 0, ADDRESS_BYTES, ADDRESS_BYTES, &bytes, overlapped);
    status = iocp_submitted(port, &op->op, success, bytes);
    if (status != IO_OK) drop_accepted(op);
    return status;
}

/* Gives the accepted socket the listener's context, without which shutdown() and getpeername() fail on it (Wine 8
 * does without, so only Windows notices when this is forgotten). Fails when the peer has already gone; that is this
 * connection's affair and not the listener's. Returns a native code. */
static DWORD adopt(const io_accept_op *op)
{
    u_long on = 1;
    SOCKET socket = (SOCKET)op->accepted;
    SOCKET listener = (SOCKET)op->listener;
    if (setsockopt(socket, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, (const char *)&listener, sizeof listener) != 0 ||
        ioctlsocket(socket, (long)FIONBIO, &on) != 0) {
        return (DWORD)WSAGetLastError();
    }
    (void)net_set_nodelay(op->accepted, true);
    return NO_ERROR;
}

DWORD iocp_finish_accept(iocp_port *port, io_accept_op *op, io_packet *packet, DWORD code)
{
    struct sockaddr *local = NULL;
    struct sockaddr *peer = NULL;
    int local_bytes = 0;
    int peer_bytes = 0;
    op->peer = (net_addr){{0}};
    op->peer_bytes = 0;
    if (code == NO_ERROR) code = adopt(op);
    if (code != NO_ERROR) {
        drop_accepted(op);
        return code;
    }
    port->accept_ex_addresses(op->addresses, 0, ADDRESS_BYTES, ADDRESS_BYTES, &local, &local_bytes, &peer, &peer_bytes);
    if (peer != NULL && peer_bytes > 0 && (size_t)peer_bytes <= sizeof op->peer) {
        memcpy(&op->peer, peer, (size_t)peer_bytes);
        op->peer_bytes = (uint32_t)peer_bytes;
    }
    packet->accepted = op->accepted;
    op->accepted = IO_SOCKET_NONE;
    return NO_ERROR;
}
