/* control_posix.c - control_system.h for POSIX: a Unix socket.
 *
 * The usual place is PID.sock in a directory that only its owner can enter: portico in $XDG_RUNTIME_DIR or in
 * /run/user/UID, else /tmp/portico-UID; where $PORTICO_RUNTIME_DIR is set, portico in that and nowhere else. The socket
 * itself is its owner's only, and the kernel says who has connected.
 */
#define _GNU_SOURCE 1

#include "control_system.h"

#include "mem.h"
#include "os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    PLACES_MAX = 3,
    ADDRESS_BYTES = sizeof(((struct sockaddr_un *)0)->sun_path),
    REST_NS = 100000000,      /* after a client could not be let in */
    NANOSECONDS = 1000000000, /* in a second */
    MICROSECOND = 1000        /* in nanoseconds */
};

static const char suffix[] = ".sock";
static const char prescribing[] = "PORTICO_RUNTIME_DIR";

struct control_server {
    int listen_fd;
    int wake_fd;
    int client_fds[CONTROL_CLIENTS_MAX]; /* -1: the exchange of that number is free */
    struct sockaddr_un address;
    dev_t device; /* of the socket's name, so that we remove no other */
    ino_t inode;
    int64_t rest_ns; /* nobody is let in before that */
};

static bool fail(char *error, size_t error_size, const char *where, const char *why)
{
    snprintf(error, error_size, "%s: %s", where, why);
    return false;
}

/* ---- The usual place ---- */

/* "portico" below the directory that the environment names; empty: it names none that could be used. */
static void place_below(char place[CONTROL_WHERE_MAX], const char *directory)
{
    bool good = directory != NULL && directory[0] == '/';
    int len = good ? snprintf(place, CONTROL_WHERE_MAX, "%s/portico", directory) : CONTROL_WHERE_MAX;
    if (len >= CONTROL_WHERE_MAX) place[0] = '\0';
}

/* The directories that may be the usual place, best first. Returns how many there are. */
static size_t list_places(char places[PLACES_MAX][CONTROL_WHERE_MAX])
{
    unsigned long user = (unsigned long)geteuid();
    const char *prescribed = getenv(prescribing);
    if (prescribed != NULL && prescribed[0] != '\0') {
        place_below(places[0], prescribed);
        return places[0][0] != '\0' ? 1 : 0;
    }
    place_below(places[0], getenv("XDG_RUNTIME_DIR"));
    size_t count = places[0][0] != '\0' ? 1 : 0;
    snprintf(places[count], CONTROL_WHERE_MAX, "/run/user/%lu/portico", user);
    if (count == 0 || strcmp(places[0], places[1]) != 0) count++;
    snprintf(places[count++], CONTROL_WHERE_MAX, "/tmp/portico-%lu", user);
    return count;
}

/* It is a directory, ours, and nobody else can enter it. */
static bool is_ours_alone(const char *directory)
{
    struct stat status;
    if (lstat(directory, &status) != 0) return false;
    return S_ISDIR(status.st_mode) && status.st_uid == geteuid() && (status.st_mode & 077) == 0;
}

bool control_usual_place(char *place, char *error, size_t error_size)
{
    char places[PLACES_MAX][CONTROL_WHERE_MAX];
    size_t count = list_places(places);
    if (count == 0) return fail(error, error_size, prescribing, "is not an absolute path, or is too long");
    for (size_t i = 0; i < count; i++) {
        int len = snprintf(place, CONTROL_WHERE_MAX, "%s/%ld%s", places[i], (long)getpid(), suffix);
        if (len >= ADDRESS_BYTES) {
            fail(error, error_size, places[i], "the path is too long for a socket");
            continue;
        }
        bool made = mkdir(places[i], 0700) == 0 || errno == EEXIST;
        if (!made) fail(error, error_size, places[i], strerror(errno));
        else if (!is_ours_alone(places[i])) fail(error, error_size, places[i], "is not a directory of ours alone");
        else return true;
    }
    return false;
}

/* ---- Names of sockets ---- */

static bool set_address(struct sockaddr_un *address, const char *path, char *error, size_t error_size)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address->sun_path)) {
        char why[64];
        snprintf(why, sizeof(why), "the path has more than %zu bytes", sizeof(address->sun_path) - 1);
        return fail(error, error_size, path, why);
    }
    memcpy(address->sun_path, path, strlen(path) + 1);
    return true;
}

/* errno of a try to connect; 0: somebody is there. */
static int probe(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return errno;
    int code = connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ? 0 : errno;
    close(fd);
    return code == EAGAIN ? 0 : code; /* its queue is full: unix(7) */
}

/* Removes a socket that nobody serves. Anything else stays. */
static void remove_stale(const struct sockaddr_un *address)
{
    struct stat status;
    if (lstat(address->sun_path, &status) != 0 || !S_ISSOCK(status.st_mode)) return;
    if (probe(address) == ECONNREFUSED) (void)unlink(address->sun_path);
}

static const char *why_taken(const struct sockaddr_un *address)
{
    struct stat status;
    bool is_other = lstat(address->sun_path, &status) == 0 && !S_ISSOCK(status.st_mode);
    return is_other ? "there is a file of that name, and it is no socket" : "already in use";
}

static bool bind_and_listen(control_server *s)
{
    /* A socket's file takes the mode of the socket, less the umask: unix_bind_bsd() in net/unix/af_unix.c of Linux. */
    if (fchmod(s->listen_fd, 0600) != 0) return false;
    if (bind(s->listen_fd, (const struct sockaddr *)&s->address, sizeof(s->address)) != 0) return false;
    struct stat status;
    if (lstat(s->address.sun_path, &status) == 0) {
        s->device = status.st_dev;
        s->inode = status.st_ino;
    }
    return listen(s->listen_fd, CONTROL_CLIENTS_MAX) == 0;
}

/* ---- The server ---- */

void control_server_close(control_server *s)
{
    struct stat status;
    bool there = s->inode != 0 && lstat(s->address.sun_path, &status) == 0;
    if (there && status.st_dev == s->device && status.st_ino == s->inode) (void)unlink(s->address.sun_path);
    /* Whoever had not asked yet when the channel was closed. */
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        if (s->client_fds[i] >= 0) close(s->client_fds[i]);
    }
    if (s->listen_fd >= 0) close(s->listen_fd);
    if (s->wake_fd >= 0) close(s->wake_fd);
    mem_free(s);
}

control_server *control_server_open(char *name, const char *where, char *error, size_t error_size)
{
    control_server *s = mem_zalloc(sizeof(*s));
    if (s == NULL) return NULL;
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) s->client_fds[i] = -1;
    s->listen_fd = -1;
    s->wake_fd = -1;
    if (where != NULL && strlen(where) >= CONTROL_WHERE_MAX) {
        fail(error, error_size, where, "the path is too long");
        goto fail;
    }
    if (where != NULL) memcpy(name, where, strlen(where) + 1);
    else if (!control_usual_place(name, error, error_size)) goto fail;
    if (!set_address(&s->address, name, error, error_size)) goto fail;
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->wake_fd < 0 || s->listen_fd < 0) goto fail_system;
    remove_stale(&s->address);
    if (bind_and_listen(s)) return s;
fail_system:
    fail(error, error_size, name, errno == EADDRINUSE ? why_taken(&s->address) : strerror(errno));
fail:
    control_server_close(s);
    return NULL;
}

/* By descriptor: whoever may write to the directory could put another file in the socket's place meanwhile. */
bool control_server_give(control_server *s, uint32_t user)
{
    struct stat status;
    int fd = open(s->address.sun_path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return false;
    bool is_ours = fstat(fd, &status) == 0 && status.st_dev == s->device && status.st_ino == s->inode;
    bool given = is_ours && fchownat(fd, "", user, (gid_t)-1, AT_EMPTY_PATH) == 0;
    close(fd);
    return given;
}

void control_server_wake(control_server *s)
{
    const uint64_t one = 1;
    /* Fails for good only when it is already as loud as can be. */
    while (write(s->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR) continue;
}

static void drop_client(control_server *s, exchange *e, size_t index)
{
    exchange_end(e);
    close(s->client_fds[index]);
    s->client_fds[index] = -1;
}

/* The kernel says who it was that connected. */
static bool may_ask(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0) return false;
    return peer.uid == geteuid() || peer.uid == 0;
}

/* There is room for one more. */
static void let_in(control_server *s, control *c)
{
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        /* The next wait would end at once if there are no descriptors left. */
        bool gone = errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
        s->rest_ns = gone ? 0 : os_monotonic_ns() + REST_NS;
        return;
    }
    size_t index = 0;
    while (s->client_fds[index] >= 0) index++;
    if (may_ask(fd)) {
        s->client_fds[index] = fd;
        exchange_begin(control_exchange(c, index));
    } else {
        close(fd);
    }
}

/* Reads or writes what can be. False: the client is to be dropped. */
static bool serve_client(control *c, exchange *e, int fd)
{
    size_t len;
    if (e->state == EXCHANGE_READING) {
        char *room = exchange_room(e, &len);
        ssize_t got = recv(fd, room, len, 0);
        if (got > 0) exchange_received(c, e, (size_t)got);
        return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
    }
    const char *rest = exchange_rest(e, &len);
    ssize_t sent = send(fd, rest, len, MSG_NOSIGNAL);
    if (sent > 0) exchange_sent(e, (size_t)sent);
    if (e->state == EXCHANGE_SENT) return false; /* what was sent is kept for the client: unix(7) knows no reset here */
    return sent > 0 || (sent < 0 && (errno == EAGAIN || errno == EINTR));
}

static short wanted_events(const exchange *e)
{
    if (e->state == EXCHANGE_READING) return POLLIN;
    return e->state == EXCHANGE_ANSWERING ? POLLOUT : 0;
}

static void wait_for(struct pollfd *list, nfds_t count, int64_t deadline_ns)
{
    int64_t left_ns = deadline_ns == INT64_MAX ? 0 : deadline_ns - os_monotonic_ns();
    if (left_ns < 0) left_ns = 0;
    struct timespec timeout = {.tv_sec = left_ns / NANOSECONDS, .tv_nsec = left_ns % NANOSECONDS};
    if (ppoll(list, count, deadline_ns == INT64_MAX ? NULL : &timeout, NULL) >= 0) return;
    for (nfds_t i = 0; i < count; i++) list[i].revents = 0; /* a signal */
}

/* One wait, and what it brought. */
static void turn(control_server *s, control *c)
{
    enum { WAKE, LISTEN, CLIENTS };
    struct pollfd list[CLIENTS + CONTROL_CLIENTS_MAX];
    bool room = false;
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        short events = wanted_events(control_exchange(c, i));
        room = room || s->client_fds[i] < 0;
        list[CLIENTS + i] = (struct pollfd){.fd = events != 0 ? s->client_fds[i] : -1, .events = events};
    }
    list[WAKE] = (struct pollfd){.fd = s->wake_fd, .events = POLLIN};
    bool resting = os_monotonic_ns() < s->rest_ns;
    bool open = room && !resting && !control_closing(c);
    list[LISTEN] = (struct pollfd){.fd = open ? s->listen_fd : -1, .events = POLLIN};
    int64_t deadline_ns = control_deadline(c);
    wait_for(list, CLIENTS + CONTROL_CLIENTS_MAX, resting && s->rest_ns < deadline_ns ? s->rest_ns : deadline_ns);
    uint64_t count;
    if (list[WAKE].revents != 0) (void)!read(s->wake_fd, &count, sizeof(count));
    int64_t now_ns = os_monotonic_ns();
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        exchange *e = control_exchange(c, i);
        if (s->client_fds[i] < 0) continue;
        bool good = now_ns < e->deadline_ns && (list[CLIENTS + i].revents == 0 || serve_client(c, e, s->client_fds[i]));
        if (!good) drop_client(s, e, i);
    }
    if (list[LISTEN].revents != 0) let_in(s, c);
}

void control_server_run(control_server *s, control *c)
{
    while (control_deliver(c)) {
        for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
            if (s->client_fds[i] >= 0 && control_exchange(c, i)->state == EXCHANGE_FREE) {
                close(s->client_fds[i]);
                s->client_fds[i] = -1;
            }
        }
        turn(s, c);
    }
}

/* ---- The client ---- */

struct control_link {
    int fd;
};

static bool set_timeout(int fd, int option, int64_t deadline_ns)
{
    int64_t left_ns = deadline_ns - os_monotonic_ns();
    if (left_ns <= 0) return false;
    struct timeval left = {.tv_sec = left_ns / NANOSECONDS, .tv_usec = left_ns % NANOSECONDS / MICROSECOND};
    if (left.tv_sec == 0 && left.tv_usec == 0) left.tv_usec = 1; /* 0 would be for ever */
    return setsockopt(fd, SOL_SOCKET, option, &left, sizeof(left)) == 0;
}

control_link *control_link_open(const char *where, int64_t deadline_ns, char *error, size_t error_size)
{
    struct sockaddr_un address;
    if (!set_address(&address, where, error, error_size)) return NULL;
    control_link *l = mem_alloc(sizeof(*l));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int code = l == NULL ? ENOMEM : fd < 0 ? errno : 0;
    /* The time to send is the time to connect, too: socket(7), unix(7). */
    if (code == 0 && !set_timeout(fd, SO_SNDTIMEO, deadline_ns)) code = ETIMEDOUT;
    if (code == 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) code = errno;
    if (code == 0) {
        l->fd = fd;
        return l;
    }
    const char *why = code == ECONNREFUSED || code == ENOENT ? "no portico there"
                      : code == EAGAIN                       ? "no answer in time"
                                                             : strerror(code);
    fail(error, error_size, where, why);
    if (fd >= 0) close(fd);
    mem_free(l);
    return NULL;
}

bool control_link_write(control_link *l, const char *bytes, size_t len, int64_t deadline_ns)
{
    while (len > 0) {
        ssize_t sent = set_timeout(l->fd, SO_SNDTIMEO, deadline_ns) ? send(l->fd, bytes, len, MSG_NOSIGNAL) : 0;
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        bytes += sent;
        len -= (size_t)sent;
    }
    return true;
}

int control_link_read(control_link *l, char *bytes, size_t room, int64_t deadline_ns)
{
    ssize_t got;
    do {
        if (!set_timeout(l->fd, SO_RCVTIMEO, deadline_ns)) return -1;
        got = recv(l->fd, bytes, room, 0);
    } while (got < 0 && errno == EINTR);
    return (int)got;
}

void control_link_close(control_link *l)
{
    close(l->fd);
    mem_free(l);
}

/* ---- Finding servers ---- */

/* The number in "1234.sock"; 0: it is no such name. */
static unsigned long pid_of(const char *name)
{
    char *end;
    if (name[0] < '1' || name[0] > '9') return 0;
    unsigned long pid = strtoul(name, &end, 10);
    return strcmp(end, suffix) == 0 ? pid : 0;
}

/* Somebody is there. What a dead server left is removed; a refusal alone does not say so, since a server binds its socket
 * a moment before it listens. */
static bool is_served(const char *path, unsigned long pid)
{
    char error[256];
    struct sockaddr_un address;
    if (!set_address(&address, path, error, sizeof(error))) return false;
    int code = probe(&address);
    if (code == ECONNREFUSED && kill((pid_t)pid, 0) != 0 && errno == ESRCH) (void)unlink(path);
    return code == 0;
}

static size_t find_in(const char *place, control_instance *list, size_t max, size_t count)
{
    DIR *directory = is_ours_alone(place) ? opendir(place) : NULL;
    if (directory == NULL) return count;
    for (struct dirent *entry = readdir(directory); entry != NULL && count < CONTROL_INSTANCES_MAX;
         entry = readdir(directory)) {
        control_instance found = {.pid = pid_of(entry->d_name)};
        int len = snprintf(found.where, sizeof(found.where), "%s/%s", place, entry->d_name);
        if (found.pid == 0 || (size_t)len >= sizeof(found.where) || !is_served(found.where, found.pid)) continue;
        if (count < max) list[count] = found;
        count++;
    }
    closedir(directory);
    return count;
}

size_t control_find(control_instance *list, size_t max)
{
    char places[PLACES_MAX][CONTROL_WHERE_MAX];
    size_t place_count = list_places(places);
    size_t count = 0;
    for (size_t i = 0; i < place_count; i++) count = find_in(places[i], list, max, count);
    return count;
}
