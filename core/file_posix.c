/* file_posix.c - file.h for POSIX systems. */
#define _GNU_SOURCE 1

#include "file.h"

#include "mem.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FILE_FIRST_BYTES = 16384 }; /* room to begin with, when the size is not known */

static bool fail(char *error, size_t error_size, int code)
{
    switch (code) {
    case ENOENT:
        snprintf(error, error_size, "no such file or directory");
        break;
    case EISDIR:
        snprintf(error, error_size, "is a directory");
        break;
    case EINTR:
        snprintf(error, error_size, "interrupted");
        break;
    case ENOMEM:
        snprintf(error, error_size, "out of memory");
        break;
    case EFBIG:
        snprintf(error, error_size, "larger than %d MiB", FILE_BYTES_MAX >> 20);
        break;
    default:
        snprintf(error, error_size, "%s", strerror(code));
        break;
    }
    return false;
}

/* Returns 0, or an errno. */
static int read_all(int fd, char **data, size_t *len)
{
    size_t room = FILE_FIRST_BYTES;
    size_t count = 0;
    char *bytes = mem_alloc(room + 1);
    if (bytes == NULL) return ENOMEM;
    for (;;) {
        if (count == room) {
            char *more = mem_realloc(bytes, room * 2 + 1);
            if (more == NULL) {
                mem_free(bytes);
                return ENOMEM;
            }
            bytes = more;
            room *= 2;
        }
        /* poll() because a signal ends it, whatever SA_RESTART says (signal(7)): somebody wants us to stop while we
         * wait for a terminal. */
        struct pollfd wanted = {.fd = fd, .events = POLLIN};
        ssize_t got = poll(&wanted, 1, -1) < 0 ? -1 : read(fd, bytes + count, room - count);
        int code = got < 0 ? errno : 0;
        if (got > 0) count += (size_t)got;
        if (code == 0 && count > FILE_BYTES_MAX) code = EFBIG;
        if (code != 0) {
            mem_free(bytes);
            return code;
        }
        if (got == 0) break;
    }
    bytes[count] = '\0';
    *data = bytes;
    *len = count;
    return 0;
}

bool file_read(char **data, size_t *len, const char *path, char *error, size_t error_size)
{
    /* O_NONBLOCK: a FIFO is waited for in poll(), which a signal ends, and not in open(). */
    int fd = path == NULL ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return fail(error, error_size, errno);
    int code = read_all(fd, data, len);
    if (path != NULL) close(fd);
    return code == 0 || fail(error, error_size, code);
}

bool file_read_ordinary(char **data, size_t *len, const char *path, bool *missing, char *error, size_t error_size)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    *missing = fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG);
    if (fd < 0) return fail(error, error_size, errno);
    bool is_readable = fstat(fd, &status) != 0 || S_ISREG(status.st_mode) || S_ISDIR(status.st_mode);
    int code = is_readable ? read_all(fd, data, len) : 0;
    close(fd);
    if (!is_readable) snprintf(error, error_size, "is a pipe or a device, and no ordinary file");
    return is_readable && (code == 0 || fail(error, error_size, code));
}

bool file_is_ordinary(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

/* Returns 0, or an errno. */
static int write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t written = write(fd, data, len);
        if (written < 0 && errno != EINTR) return errno;
        if (written < 0) continue;
        data += written;
        len -= (size_t)written;
    }
    return 0;
}

/* Returns 0, or an errno. */
static int write_new(const char *path, int flags, const char *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0666);
    if (fd < 0) return errno;
    int code = write_all(fd, data, len);
    if (close(fd) != 0 && code == 0) code = errno;
    return code;
}

/* Its links lead through one of those that only look like links, such as /proc/self/fd/1: they stand for an open file,
 * which is to be written, whatever name it has. A kernel without openat2() does not tell (before Linux 5.6). */
static bool leads_to_open_file(const char *path)
{
    const struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS};
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
    if (fd >= 0) close(fd);
    return fd < 0 && errno == ELOOP;
}

/* Returns 0, or an errno. */
static int replace(const char *path, const char *data, size_t len)
{
    size_t size = strlen(path) + 32;
    char *temporary = mem_alloc(size);
    if (temporary == NULL) return ENOMEM;
    snprintf(temporary, size, "%s.%ld.tmp", path, (long)getpid());
    unlink(temporary); /* of an earlier process with our number that was killed half-way */
    int code = write_new(temporary, O_CREAT | O_EXCL, data, len);
    if (code == 0 && rename(temporary, path) != 0) code = errno;
    if (code != 0) unlink(temporary);
    mem_free(temporary);
    return code;
}

bool file_write(const char *path, const char *data, size_t len, char *error, size_t error_size)
{
    struct stat there;
    char target[PATH_MAX]; /* a link stays, and what it leads to is written */
    bool exists = stat(path, &there) == 0;
    bool is_link = !exists && lstat(path, &there) == 0;
    int code;
    if (exists && S_ISDIR(there.st_mode)) code = EISDIR;
    else if (exists && !S_ISREG(there.st_mode)) code = write_new(path, 0, data, len);
    else if (is_link || (exists && leads_to_open_file(path))) code = write_new(path, O_CREAT | O_TRUNC, data, len);
    else if (exists && realpath(path, target) == NULL) code = errno;
    else code = replace(exists ? target : path, data, len);
    return code == 0 || fail(error, error_size, code);
}

static bool is_separator(char c)
{
    return c == '/';
}

char *file_directory(const char *path)
{
    size_t len = strlen(path);
    while (len > 0 && !is_separator(path[len - 1])) len--;
    while (len > 1 && is_separator(path[len - 1])) len--;
    if (len == 0) return mem_strdup(".");
    char *directory = mem_alloc(len + 1);
    if (directory == NULL) return NULL;
    memcpy(directory, path, len);
    directory[len] = '\0';
    return directory;
}

bool file_write_stdout(const char *data, size_t len)
{
    return write_all(STDOUT_FILENO, data, len) == 0;
}

void file_guard_standard(void)
{
    /* The wrong way round on purpose: what was closed stays unusable, but its number is taken. */
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
        if (open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0) return;
    }
}
