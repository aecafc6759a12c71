/* net_unix_posix.c - Unix sockets on Linux. */
#define _GNU_SOURCE 1

#include "net_unix.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

_Static_assert(NET_PATH_MAX == sizeof(((struct sockaddr_un *)0)->sun_path) - 1, "a path is as long as it may be");

static bool is_abstract(const net_uri *uri)
{
    return uri->path[0] == '@';
}

/* An abstract name begins with a NUL and ends where the length says: unix(7). */
static socklen_t to_sockaddr(struct sockaddr_un *to, const net_uri *uri)
{
    size_t len = strlen(uri->path);
    *to = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(to->sun_path, uri->path, len);
    if (is_abstract(uri)) to->sun_path[0] = '\0';
    else len++;
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
}

static int open_socket(void)
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/* Returns 0 or an errno. */
static int connect_to(int fd, const net_uri *uri)
{
    struct sockaddr_un to;
    socklen_t bytes = to_sockaddr(&to, uri);
    while (connect(fd, (const struct sockaddr *)&to, bytes) != 0) {
        if (errno != EINTR) return errno;
    }
    return 0;
}

/* ---- Listening ---- */

/* Keeps other starting processes from looking at a socket that is bound and does not listen yet, which would seem
 * stale, or from replacing the same stale one. A directory that may not be read cannot be locked, and whoever may read
 * it can keep it locked for ever: then there is only luck. Returns a descriptor for close(), or -1. */
static int lock_directory(const char *path)
{
    enum { TURNS = 120, TURN_MS = 10 }; /* a little longer than probe() may take */
    char directory[NET_PATH_MAX + 2] = ".";
    const char *slash = strrchr(path, '/');
    if (slash != NULL) (void)snprintf(directory, sizeof directory, "%.*s/", (int)(slash - path), path);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int turn = 0; fd >= 0 && turn < TURNS && flock(fd, LOCK_EX | LOCK_NB) != 0; turn++) {
        if (errno != EWOULDBLOCK && errno != EINTR) break;
        (void)poll(NULL, 0, TURN_MS);
    }
    return fd;
}

/* The process that called listen() is gone (credentials of the peer: unix(7)). */
static bool is_orphaned(int fd)
{
    struct ucred peer = {.pid = 0};
    socklen_t bytes = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0 || peer.pid <= 0) return false;
    return kill(peer.pid, 0) != 0 && errno == ESRCH;
}

/* Returns what connecting says. The kernel closes the sockets of a process that died with an io_uring some time after
 * its end (Linux 6.18: accepts that are pending hold them), and until then they take connections. So an orphan is
 * asked again for a while; but one may also have been inherited by a child that serves it. */
static int probe(const net_uri *uri)
{
    enum { TURNS = 100, TURN_MS = 10 };
    int code = 0;
    for (int turn = 0; turn < TURNS; turn++) {
        int fd = open_socket();
        if (fd < 0) return errno;
        code = connect_to(fd, uri);
        bool again = code == 0 && is_orphaned(fd);
        (void)close(fd);
        if (!again) break;
        (void)poll(NULL, 0, TURN_MS);
    }
    return code;
}

/* The name is taken. Returns 0 when it is free now, else an errno: EADDRINUSE; ENOTSOCK: it is another kind of file. */
static int replace_stale(const net_uri *uri)
{
    struct stat found;
    if (lstat(uri->path, &found) != 0) return errno == ENOENT ? 0 : errno;
    if (!S_ISSOCK(found.st_mode)) return ENOTSOCK;
    int code = probe(uri);
    /* EAGAIN: its queue is full, so there is one. EACCES: it is somebody else's. EPROTOTYPE: no stream, but alive. */
    if (code != ECONNREFUSED) return EADDRINUSE;
    return unlink(uri->path) == 0 || errno == ENOENT ? 0 : errno;
}

static int bind_to(int fd, const net_uri *uri)
{
    struct sockaddr_un to;
    socklen_t bytes = to_sockaddr(&to, uri);
    return bind(fd, (const struct sockaddr *)&to, bytes) == 0 ? 0 : errno;
}

static int remember(net_unix_file *file, const net_uri *uri)
{
    struct stat made;
    if (lstat(uri->path, &made) != 0) return errno;
    *file = (net_unix_file){.made = true,
                            .mode = (int16_t)(made.st_mode & 0777),
                            .device = (uint64_t)made.st_dev,
                            .inode = (uint64_t)made.st_ino};
    return 0;
}

/* Returns 0 or an errno. */
static int bind_and_listen(int fd, const net_uri *uri, net_unix_file *file)
{
    int code = bind_to(fd, uri);
    if (code == EADDRINUSE && !is_abstract(uri)) {
        code = replace_stale(uri);
        if (code == 0) code = bind_to(fd, uri);
    }
    if (code != 0) return code;
    if (!is_abstract(uri)) code = remember(file, uri);
    /* Nobody can connect before listen(). */
    if (code == 0 && uri->mode != NET_MODE_NONE && chmod(uri->path, (mode_t)uri->mode) != 0) code = errno;
    if (code == 0 && listen(fd, NET_BACKLOG) != 0) code = errno;
    return code;
}

/* What an errno means here. */
static io_status map(int code)
{
    if (code == ENOENT || code == ENOTDIR) return IO_NOT_FOUND;
    if (code == EROFS) return IO_DENIED;
    return net_map_error(code);
}

io_status net_unix_listen(io_socket *opened, const net_uri *uri, net_unix_file *file, int *native)
{
    *opened = IO_SOCKET_NONE;
    *native = 0;
    *file = (net_unix_file){.made = false};
    int fd = open_socket();
    if (fd < 0) {
        *native = errno;
        return net_map_error(errno);
    }
    int lock = is_abstract(uri) ? -1 : lock_directory(uri->path);
    *native = bind_and_listen(fd, uri, file);
    if (*native != 0) net_unix_remove(uri, file);
    if (lock >= 0) (void)close(lock);
    if (*native == 0) *opened = fd;
    else (void)close(fd);
    return map(*native);
}

/* The file is there, and still the one that was made. */
static bool is_there(const net_uri *uri, const net_unix_file *file)
{
    struct stat found;
    return lstat(uri->path, &found) == 0 && (uint64_t)found.st_dev == file->device &&
           (uint64_t)found.st_ino == file->inode;
}

io_status net_unix_set_mode(const net_uri *uri, const net_unix_file *file, int16_t mode, int *native)
{
    *native = 0;
    if (is_abstract(uri)) return IO_OK;
    if (!is_there(uri, file)) *native = ENOENT;
    else if (chmod(uri->path, (mode_t)(mode == NET_MODE_NONE ? file->mode : mode)) != 0) *native = errno;
    return map(*native);
}

void net_unix_remove(const net_uri *uri, net_unix_file *file)
{
    if (!file->made) return;
    file->made = false;
    if (is_there(uri, file)) (void)unlink(uri->path);
}

/* ---- Connecting ---- */

io_status net_unix_connect(io_socket *opened, const net_uri *uri, int *native)
{
    *opened = IO_SOCKET_NONE;
    int fd = open_socket();
    *native = fd < 0 ? errno : connect_to(fd, uri);
    if (*native == 0) *opened = fd;
    else if (fd >= 0) (void)close(fd);
    if (*native == ECONNREFUSED && is_abstract(uri)) return IO_NOT_FOUND; /* it ends with its socket: there is none */
    return map(*native);
}
