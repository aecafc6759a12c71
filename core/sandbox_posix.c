/* sandbox_posix.c - sandbox.h for Linux: seccomp and Landlock, by the system calls themselves.
 *
 * sources  seccomp(2), Documentation/userspace-api/seccomp_filter.rst and landlock.rst of the kernel.
 */
#include "sandbox.h"

#include "base.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- seccomp ---- */

/* Refused with EPERM. What some processor does not have is not in its headers. */
static const uint32_t refused[] = {
    /* programs and processes */
    __NR_execve,
    __NR_execveat,
#ifdef __NR_fork
    __NR_fork,
    __NR_vfork,
#endif
    __NR_kill,
    __NR_tkill,
    __NR_rt_sigqueueinfo,
    __NR_rt_tgsigqueueinfo,
    __NR_pidfd_open,
    __NR_pidfd_getfd,
    __NR_pidfd_send_signal,
    __NR_ptrace,
    __NR_process_vm_readv,
    __NR_process_vm_writev,
    __NR_kcmp,
    __NR_personality,
    __NR_memfd_create,
    /* namespaces and file systems */
    __NR_unshare,
    __NR_setns,
    __NR_mount,
    __NR_umount2,
    __NR_move_mount,
    __NR_open_tree,
    __NR_fsopen,
    __NR_fsconfig,
    __NR_fsmount,
    __NR_fspick,
    __NR_mount_setattr,
    __NR_pivot_root,
    __NR_chroot,
    __NR_open_by_handle_at,
    __NR_swapon,
    __NR_swapoff,
    __NR_quotactl,
    /* the system */
    __NR_reboot,
    __NR_kexec_load,
#ifdef __NR_kexec_file_load
    __NR_kexec_file_load,
#endif
    __NR_init_module,
    __NR_finit_module,
    __NR_delete_module,
    __NR_acct,
    __NR_syslog,
    __NR_sethostname,
    __NR_setdomainname,
    __NR_settimeofday,
    __NR_clock_settime,
    __NR_clock_adjtime,
    __NR_adjtimex,
#ifdef __NR_iopl
    __NR_iopl,
    __NR_ioperm,
    __NR_modify_ldt,
#endif
    /* what has often been a way into the kernel */
    __NR_bpf,
    __NR_perf_event_open,
    __NR_userfaultfd,
    __NR_keyctl,
    __NR_add_key,
    __NR_request_key,
};

static const uint32_t families[] = {AF_UNIX, AF_INET, AF_INET6,
                                    AF_NETLINK}; /* the last: getaddrinfo() asks for addresses */

#if defined(__x86_64__)
#define FILTER_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define FILTER_ARCH AUDIT_ARCH_AARCH64
#else
#define FILTER_ARCH 0 /* no filter for this processor */
#endif

enum {
    X32_BIT = 0x40000000, /* in the numbers of x86-64's second set of system calls */
    PROGRAM_MAX = 256     /* jumps reach no further */
};

#define ALLOW SECCOMP_RET_ALLOW
#define REFUSE (SECCOMP_RET_ERRNO | EPERM)
#define UNKNOWN (SECCOMP_RET_ERRNO | ENOSYS)
/* Arguments are 64 bits, and both processors have the low half first. */
#define ARGUMENT(i) ((uint32_t)(offsetof(struct seccomp_data, args) + 8 * (i)))

typedef struct program {
    struct sock_filter code[PROGRAM_MAX];
    unsigned short len;
} program;

static void emit(program *p, uint16_t code, uint32_t k, uint8_t if_true, uint8_t if_false)
{
    p->code[p->len++] = (struct sock_filter){.code = code, .jt = if_true, .jf = if_false, .k = k};
}

static void load(program *p, uint32_t offset)
{
    emit(p, BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
}

static void answer(program *p, uint32_t what)
{
    emit(p, BPF_RET | BPF_K, what, 0, 0);
}

/* If the number, or argument, that is loaded equals the value: that answer. */
static void answer_if(program *p, uint32_t value, uint32_t what)
{
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
    answer(p, what);
}

/* The system call `number` is allowed if its argument equals one of the values, else refused. */
static void restrict_argument(program *p, uint32_t number, unsigned argument, const uint32_t *values, size_t count)
{
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, number, 0, (uint8_t)(2 + 2 * count));
    load(p, ARGUMENT(argument));
    for (size_t i = 0; i < count; i++) answer_if(p, values[i], ALLOW);
    answer(p, REFUSE);
}

static void write_filter(program *p)
{
    const uint32_t own_pid = (uint32_t)getpid();
    load(p, offsetof(struct seccomp_data, arch));
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, FILTER_ARCH, 1, 0);
    answer(p, REFUSE); /* 32-bit system calls have other numbers */
    load(p, offsetof(struct seccomp_data, nr));
    if (FILTER_ARCH == AUDIT_ARCH_X86_64) {
        emit(p, BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
        answer(p, REFUSE);
    }
    /* Threads, but not processes. clone3 has its flags in memory, where no filter can look: without it glibc uses clone. */
    answer_if(p, __NR_clone3, UNKNOWN);
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, __NR_clone, 0, 4);
    load(p, ARGUMENT(0));
    emit(p, BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 0, 1);
    answer(p, ALLOW);
    answer(p, REFUSE);
    /* Signals only to itself. */
    restrict_argument(p, __NR_tgkill, 0, &own_pid, 1);
    restrict_argument(p, __NR_socket, 0, families, array_count(families));
    for (size_t i = 0; i < array_count(refused); i++) answer_if(p, refused[i], REFUSE);
    answer(p, ALLOW);
}

static_assert(40 + 2 * array_count(families) + 2 * array_count(refused) <= PROGRAM_MAX, "the filter fits its array");

/* Returns an errno. */
static int filter_calls(void)
{
    program p = {.len = 0};
    if (FILTER_ARCH == 0) return ENOSYS;
    write_filter(&p);
    const struct sock_fprog filter = {.len = p.len, .filter = p.code};
    return syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) == 0 ? 0 : errno;
}

/* ---- Landlock ---- */

/* By version of the interface, those that are newer than our headers by number. */
#define RIGHTS_V1 ((UINT64_C(1) << 13) - 1)
#define RIGHT_REFER (UINT64_C(1) << 13)     /* 2 */
#define RIGHT_TRUNCATE (UINT64_C(1) << 14)  /* 3 */
#define RIGHT_IOCTL_DEV (UINT64_C(1) << 15) /* 5 */
#define RIGHTS_OF_FILES \
    (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE | RIGHT_TRUNCATE | \
     RIGHT_IOCTL_DEV)

static const uint64_t rights_of[] = {
    [SANDBOX_READ] = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR,
    [SANDBOX_SOCKETS] = LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REMOVE_FILE,
    [SANDBOX_REPLACE] =
        LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE | RIGHT_TRUNCATE,
};

/* What getaddrinfo() and the clock of the time zone read. */
static const char *const system_files[] = {
    "/etc/hosts",    "/etc/resolv.conf", "/etc/nsswitch.conf",  "/etc/host.conf",   "/etc/gai.conf",
    "/etc/services", "/etc/localtime",   "/usr/share/zoneinfo", "/etc/ld.so.cache", "/lib",
    "/lib64",        "/usr/lib", /* the modules that nsswitch.conf names */
};

static uint64_t rights_of_version(long version)
{
    uint64_t rights = RIGHTS_V1;
    if (version >= 2) rights |= RIGHT_REFER;
    if (version >= 3) rights |= RIGHT_TRUNCATE;
    if (version >= 5) rights |= RIGHT_IOCTL_DEV;
    return rights;
}

/* Returns an errno. */
static int allow(int ruleset, const char *path, uint64_t rights)
{
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0) return 0; /* what is not there cannot be used */
    struct landlock_path_beneath_attr rule = {.allowed_access = rights, .parent_fd = fd};
    int code = syscall(__NR_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0 ? 0 : errno;
    if (code == EINVAL) { /* some rights are for directories only */
        rule.allowed_access &= RIGHTS_OF_FILES;
        code = syscall(__NR_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0 ? 0 : errno;
    }
    close(fd);
    return code;
}

/* These return an errno. */
static int allow_directory_of(int ruleset, const char *path, uint64_t rights)
{
    char directory[PATH_MAX];
    const char *end = strrchr(path, '/');
    size_t len = end == NULL ? 0 : end == path ? 1 : (size_t)(end - path);
    if (len >= sizeof directory) return ENAMETOOLONG;
    memcpy(directory, path, len);
    directory[len] = '\0';
    return allow(ruleset, len == 0 ? "." : directory, rights);
}

static int allow_path(int ruleset, const sandbox_path *path, uint64_t handled)
{
    char target[PATH_MAX];
    uint64_t rights = rights_of[path->right] & handled;
    int code = allow_directory_of(ruleset, path->path, rights);
    bool follows = code == 0 && path->right != SANDBOX_SOCKETS && realpath(path->path, target) != NULL;
    return follows ? allow_directory_of(ruleset, target, rights) : code;
}

/* Returns an errno. */
static int restrict_files(const sandbox_path *paths, size_t count, long *version)
{
    *version = syscall(__NR_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (*version < 1) return errno;
    const uint64_t handled = rights_of_version(*version);
    const struct landlock_ruleset_attr attributes = {.handled_access_fs = handled};
    int ruleset = (int)syscall(__NR_landlock_create_ruleset, &attributes, sizeof attributes, 0);
    if (ruleset < 0) return errno;
    int code = 0;
    for (size_t i = 0; i < count && code == 0; i++) {
        code = allow_path(ruleset, &paths[i], handled);
    }
    for (size_t i = 0; i < array_count(system_files) && code == 0; i++) {
        code = allow(ruleset, system_files[i], rights_of[SANDBOX_READ]);
    }
    if (code == 0 && syscall(__NR_landlock_restrict_self, ruleset, 0) != 0) code = errno;
    close(ruleset);
    return code;
}

bool sandbox_confine(const sandbox_path *paths, size_t count, char *told)
{
    long version = 0;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        snprintf(told, SANDBOX_TOLD_BYTES, "nothing: no_new_privs: %s", strerror(errno));
        return false;
    }
    int files = restrict_files(paths, count, &version);
    int calls = filter_calls();
    int len = snprintf(told, SANDBOX_TOLD_BYTES, "no new privileges");
    if (calls == 0) len += snprintf(told + len, SANDBOX_TOLD_BYTES - (size_t)len, ", seccomp");
    if (files == 0) len += snprintf(told + len, SANDBOX_TOLD_BYTES - (size_t)len, ", Landlock version %ld", version);
    if (calls != 0) len += snprintf(told + len, SANDBOX_TOLD_BYTES - (size_t)len, "; no seccomp (%s)", strerror(calls));
    if (files != 0) snprintf(told + len, SANDBOX_TOLD_BYTES - (size_t)len, "; no Landlock (%s)", strerror(files));
    return calls == 0 && files == 0;
}
