/* net_unix_win.c - Windows 10 has Unix sockets, but nothing here has been seen to work with them: Wine has none (its
 * socket() says 10047), and the completion port would need AcceptEx and zero-byte reads on them. So they are refused, in
 * words, instead of being tried on users.
 */
#include "net_unix.h"

#include <winsock2.h>
#include <windows.h>

static io_status refuse(io_socket *opened, int *native)
{
    *opened = IO_SOCKET_NONE;
    *native = WSAEAFNOSUPPORT;
    return IO_UNSUPPORTED;
}

io_status net_unix_listen(io_socket *opened, const net_uri *uri, net_unix_file *file, int *native)
{
    (void)uri;
    *file = (net_unix_file){.made = false};
    return refuse(opened, native);
}

io_status net_unix_set_mode(const net_uri *uri, const net_unix_file *file, int16_t mode, int *native)
{
    (void)uri;
    (void)file;
    (void)mode;
    *native = 0;
    return IO_OK;
}

void net_unix_remove(const net_uri *uri, net_unix_file *file)
{
    (void)uri;
    file->made = false;
}

io_status net_unix_connect(io_socket *opened, const net_uri *uri, int *native)
{
    (void)uri;
    return refuse(opened, native);
}
