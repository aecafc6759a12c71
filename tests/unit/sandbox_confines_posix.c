/* Goal: a confined process has the files it was given and no others, can start threads and no processes, and still finds
 * names. Method: a child confines itself and tries; what it finds out is in memory that both see. */
#include "check.h"
#include "file.h"
#include "os.h"
#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a child has tried, and what came of it: an errno, 0 when it went well. */
typedef struct findings {
    char told[SANDBOX_TOLD_BYTES];
    bool whole;
    int read_own, read_below, list_own, write_own, read_other, list_other, write_sockets, make_socket, remove_there,
        replace;
    int read_link, passwd, hosts;
    int fork, exec, kill_other, kill_self, packet, inet, local;
    bool thread_ran, name_found;
} findings;

static char root[] = "sandbox_XXXXXX";

static const char *at(const char *name)
{
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

static void write_text(const char *path)
{
    char why[128];
    check(file_write(path, "x", 1, why, sizeof why));
}

static int try_open(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);
    if (fd < 0) return errno;
    close(fd);
    return 0;
}

static int try_socket(int family, int type)
{
    int fd = socket(family, type | SOCK_CLOEXEC, 0);
    if (fd < 0) return errno;
    close(fd);
    return 0;
}

static int try_bind(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int code = bind(fd, (struct sockaddr *)&address, sizeof address) == 0 ? 0 : errno;
    close(fd);
    return code;
}

static int try_fork(void)
{
    pid_t child = fork();
    if (child < 0) return errno;
    if (child == 0) _exit(0);
    waitpid(child, NULL, 0);
    return 0;
}

static void run_thread(void *argument)
{
    *(bool *)argument = true;
}

static void confine_and_try(findings *f)
{
    char *const words[] = {(char[]){"true"}, NULL};
    char script[256], sockets[256], replaced[256], why[128];
    snprintf(script, sizeof script, "%s", at("link/script"));
    snprintf(sockets, sizeof sockets, "%s", at("sockets/any"));
    snprintf(replaced, sizeof replaced, "%s", at("replace/file"));
    const sandbox_path paths[] = {
        {script, SANDBOX_READ}, {sockets, SANDBOX_SOCKETS}, {replaced, SANDBOX_REPLACE}, {"/nowhere/x", SANDBOX_READ}};
    f->whole = sandbox_confine(paths, 4, f->told);
    f->read_own = try_open(at("link/other"), O_RDONLY);
    f->read_below = try_open(at("link/below/file"), O_RDONLY);
    f->read_link = try_open(script, O_RDONLY); /* leads to target/script */
    f->list_own = try_open(at("link"), O_RDONLY | O_DIRECTORY);
    f->write_own = try_open(at("link/other"), O_WRONLY);
    f->read_other = try_open(at("elsewhere/file"), O_RDONLY);
    f->list_other = try_open(at("elsewhere"), O_RDONLY | O_DIRECTORY);
    f->passwd = try_open("/etc/passwd", O_RDONLY);
    f->hosts = try_open("/etc/hosts", O_RDONLY);
    f->make_socket = try_bind(at("sockets/one"));
    f->remove_there = unlink(at("sockets/one")) == 0 ? 0 : errno;
    f->write_sockets = try_open(at("sockets/file"), O_WRONLY | O_CREAT);
    f->replace = file_write(replaced, "y", 1, why, sizeof why) ? 0 : EACCES;
    f->fork = try_fork();
    (void)execv("/bin/true", words);
    f->exec = errno;
    f->kill_other = kill(getppid(), 0) == 0 ? 0 : errno;
    f->kill_self = raise(0) == 0 ? 0 : errno;
    f->packet = try_socket(AF_PACKET, SOCK_RAW);
    f->inet = try_socket(AF_INET, SOCK_STREAM);
    f->local = try_socket(AF_UNIX, SOCK_STREAM);
    os_thread *thread = os_thread_start("test", run_thread, &f->thread_ran);
    if (thread != NULL) os_thread_join(thread);
    struct addrinfo *found = NULL;
    f->name_found = getaddrinfo("localhost", NULL, NULL, &found) == 0;
    if (found != NULL) freeaddrinfo(found);
}

static void make_files(void)
{
    check(mkdtemp(root) != NULL);
    const char *const directories[] = {"link", "link/below", "target", "elsewhere", "sockets", "replace"};
    for (size_t i = 0; i < array_count(directories); i++) check(mkdir(at(directories[i]), 0700) == 0);
    const char *const files[] = {"link/other", "link/below/file", "target/script", "elsewhere/file", "replace/file"};
    for (size_t i = 0; i < array_count(files); i++) write_text(at(files[i]));
    check(symlink("../target/script", at("link/script")) == 0);
}

static void remove_files(void)
{
    const char *const files[] = {"link/other",    "link/below/file", "link/script",
                                 "target/script", "elsewhere/file",  "replace/file"};
    for (size_t i = 0; i < array_count(files); i++) check(unlink(at(files[i])) == 0);
    const char *const directories[] = {"link/below", "link", "target", "elsewhere", "sockets", "replace"};
    for (size_t i = 0; i < array_count(directories); i++) check(rmdir(at(directories[i])) == 0);
    check(rmdir(root) == 0);
}

static void a_confined_process_has_what_it_was_given(void)
{
    int status = -1;
    findings *f = mmap(NULL, sizeof *f, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(f != MAP_FAILED);
    make_files();
    pid_t child = fork();
    check(child >= 0);
    if (child == 0) {
        confine_and_try(f);
        _exit(0);
    }
    check(waitpid(child, &status, 0) == child);
    check(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    remove_files();
    bool has_seccomp = strstr(f->told, ", seccomp") != NULL, has_landlock = strstr(f->told, ", Landlock") != NULL;
    printf("%s\n", f->told);
    check(f->whole == (has_seccomp && has_landlock));
    check(f->read_own == 0 && f->read_below == 0 && f->read_link == 0 && f->list_own == 0 && f->hosts == 0);
    check(f->make_socket == 0 && f->remove_there == 0 && f->replace == 0);
    check(f->kill_self == 0 && f->inet == 0 && f->local == 0 && f->thread_ran && f->name_found);
    if (has_landlock) {
        check(f->write_own == EACCES && f->read_other == EACCES && f->list_other == EACCES);
        check(f->passwd == EACCES && f->write_sockets == EACCES);
    }
    if (has_seccomp) check(f->fork == EPERM && f->exec == EPERM && f->kill_other == EPERM && f->packet == EPERM);
    check(munmap(f, sizeof *f) == 0);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(a_confined_process_has_what_it_was_given);
    return check_end();
}
