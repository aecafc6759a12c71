/* Goal: the socket is its owner's alone; what a dead server left is replaced, and nothing else is; what cannot be had is
 * said in words.
 * Method: sockets below the working directory, with whatever may stand in their way. Other users are played by a child
 * process, where the test runs as root. */
#include "check.h"
#include "control.h"
#include "control_system.h"
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)
#define PLACE "control_test.sock"

enum { NOBODY = 65534 };

static char error[512];

static void ignore(void *context)
{
    (void)context;
}

static control *open_at(const char *where)
{
    control *c = control_open(where, ignore, NULL, error, sizeof(error));
    if (c == NULL) fail("%s", error);
    return c;
}

static void check_refused(const char *where, const char *why)
{
    control *c = control_open(where, ignore, NULL, error, sizeof(error));
    if (c != NULL) fail("%s was opened", control_where(c));
    if (strstr(error, why) == NULL) fail("\"%s\" does not say \"%s\"", error, why);
}

static mode_t mode_of(const char *path)
{
    struct stat status;
    check_eq(lstat(path, &status), 0);
    return status.st_mode;
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static void it_is_the_owners_alone_and_goes_with_the_server(void)
{
    mode_t mask = umask(0);
    control *c = open_at(PLACE);
    check_str(control_where(c), PLACE);
    check_eq(mode_of(PLACE) & 0777, 0600);
    control_close(c);
    check(!exists(PLACE));
    umask(mask);
}

static void the_usual_place_is_private(void)
{
    char runtime[] = "control_test_XXXXXX";
    char place[CONTROL_WHERE_MAX];
    check(mkdtemp(runtime) != NULL);
    char *full = realpath(runtime, NULL);
    check(full != NULL);
    snprintf(place, sizeof(place), "%s/portico", full);
    check_eq(setenv("XDG_RUNTIME_DIR", full, 1), 0);
    mode_t mask = umask(0);
    control *c = open_at(NULL);
    umask(mask);
    if (strlen(place) + 20 < sizeof(((struct sockaddr_un *)0)->sun_path)) {
        check(strncmp(control_where(c), place, strlen(place)) == 0);
        check_eq(mode_of(place) & 0777, 0700);
    }
    control_close(c);
    /* A directory that others can enter is not used: the next place is. */
    check_eq(chmod(place, 0755), 0);
    c = open_at(NULL);
    check(strncmp(control_where(c), place, strlen(place)) != 0);
    control_close(c);
    /* Where the place is prescribed, there is no other. */
    check_eq(setenv("PORTICO_RUNTIME_DIR", full, 1), 0);
    check_refused(NULL, "is not a directory of ours alone");
    check_eq(control_find(NULL, 0), 0);
    check_eq(unsetenv("PORTICO_RUNTIME_DIR"), 0);
    check_eq(unsetenv("XDG_RUNTIME_DIR"), 0);
    rmdir(place);
    rmdir(full);
    free(full);
}

/* What a server leaves that is killed. */
static void leave_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    check_eq(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    check_eq(listen(fd, 1), 0);
    close(fd);
    check(exists(path));
}

static void what_a_dead_server_left_is_replaced(void)
{
    leave_socket(PLACE);
    control *c = open_at(PLACE);
    control_close(c);
    check(!exists(PLACE));
}

static void what_is_not_a_dead_server_stays(void)
{
    char *text = NULL;
    control *c = open_at(PLACE);
    check_refused(PLACE, "already in use");
    check_eq(control_ask(&text, PLACE, "x", SECOND / 10),
             CONTROL_UNREACHABLE); /* it is still served: by nobody who answers */
    check_str(text, "no answer in time");
    mem_free(text);
    control_close(c);
    int fd = open(PLACE, O_CREAT | O_WRONLY, 0600);
    check(fd >= 0);
    close(fd);
    check_refused(PLACE, "there is a file of that name, and it is no socket");
    check(exists(PLACE));
    check_eq(unlink(PLACE), 0);
}

static void another_servers_socket_is_not_removed(void)
{
    control *first = open_at(PLACE);
    check_eq(unlink(PLACE), 0);
    control *second = open_at(PLACE);
    control_close(first);
    check(exists(PLACE));
    control_close(second);
    check(!exists(PLACE));
}

static void bad_places_are_refused_in_words(void)
{
    char place[CONTROL_WHERE_MAX + 10];
    check_refused("control_test_missing/x.sock", "No such file or directory");
    memset(place, 'a', sizeof(place) - 1);
    place[sizeof(place) - 1] = '\0';
    check_refused(place, "the path is too long");
    place[110] = '\0';
    check_refused(place, "more than 107 bytes");
}

/* The server of a process that was killed is forgotten; one that lives is not. */
static void the_sockets_of_the_dead_are_removed(void)
{
    static control_instance list[CONTROL_INSTANCES_MAX];
    char place[CONTROL_WHERE_MAX];
    char left[CONTROL_WHERE_MAX];
    control *c = open_at(NULL);
    snprintf(place, sizeof(place), "%s", control_where(c));
    *strrchr(place, '/') = '\0';
    pid_t child = fork();
    check(child >= 0);
    if (child == 0) _exit(0);
    check_eq(waitpid(child, NULL, 0), child);
    snprintf(left, sizeof(left), "%.200s/%ld.sock", place, (long)child);
    leave_socket(left);
    size_t count = control_find(list, CONTROL_INSTANCES_MAX);
    bool found = false;
    for (size_t i = 0; i < count; i++) {
        check(list[i].pid != (unsigned long)child);
        found = found || list[i].pid == os_pid();
    }
    check(found);
    check(!exists(left));
    check(control_find(NULL, 0) >= 1);
    control_close(c);
}

/* As another user, in a process of its own: 0 when it did not get in. */
static int try_as_nobody(void)
{
    pid_t child = fork();
    check(child >= 0);
    if (child == 0) {
        char *text = NULL;
        if (setgid(NOBODY) != 0 || setuid(NOBODY) != 0) _exit(3);
        control_result result = control_ask(&text, PLACE, "x", SECOND);
        _exit(result == CONTROL_UNREACHABLE ? 0 : 1);
    }
    int status = 0;
    check_eq(waitpid(child, &status, 0), child);
    check(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void another_user_is_refused(void)
{
    if (geteuid() != 0) {
        check_skip("only root can be another user");
        return;
    }
    char before[4096];
    char top[] = "/tmp/control_test_XXXXXX";
    check(getcwd(before, sizeof(before)) != NULL && mkdtemp(top) != NULL);
    check_eq(chmod(top, 0755), 0);
    check_eq(chdir(top), 0);
    control *c = open_at(PLACE);
    check_eq(try_as_nobody(), 0);
    /* Even if the file lets them in: the kernel says who they are. */
    check_eq(chmod(PLACE, 0666), 0);
    check_eq(try_as_nobody(), 0);
    control_close(c);
    check_eq(chdir(before), 0);
    check_eq(rmdir(top), 0);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(it_is_the_owners_alone_and_goes_with_the_server);
    check_run(the_usual_place_is_private);
    check_run(what_a_dead_server_left_is_replaced);
    check_run(what_is_not_a_dead_server_stays);
    check_run(another_servers_socket_is_not_removed);
    check_run(bad_places_are_refused_in_words);
    check_run(the_sockets_of_the_dead_are_removed);
    check_run(another_user_is_refused);
    return check_end();
}
