#include "processor.h"

#include "clock.h"
#include "options.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Reads a small file of the kernel's into text. Returns whether there was any. */
static bool read_file(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, text, size - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0;
}

static void add_scheduled(struct processor *p, int pid)
{
    char path[320], text[128];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *threads = opendir(path);
    if (!threads) return;
    for (struct dirent *e; (e = readdir(threads));) {
        unsigned long long on = 0, slices = 0; /* time on a processor in ns, time waited, times scheduled */
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pid, e->d_name);
        if (!read_file(path, text, sizeof text)) continue;
        sscanf(text, "%llu %*u %llu", &on, &slices);
        p->server_ns += on;
        p->server_runs += slices;
    }
    closedir(threads);
}

static void add_ticks(struct processor *p, int pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (!read_file(path, text, sizeof text)) return;
    const char *fields = strrchr(text, ')');
    unsigned long long user = 0, system = 0;
    if (fields) sscanf(fields + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system);
    p->server_user += user;
    p->server_system += system;
}

static void read_core(struct processor *p, int core)
{
    char line[512], name[16];
    FILE *f = fopen("/proc/stat", "r");
    if (!f) return;
    snprintf(name, sizeof name, "cpu%d ", core);
    while (fgets(line, sizeof line, f)) {
        unsigned long long v[8] = {0}; /* user, nice, system, idle, iowait, irq, softirq, steal */
        if (strncmp(line, name, strlen(name)) != 0) continue;
        sscanf(line + strlen(name), "%llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5],
               &v[6], &v[7]);
        p->busy = v[0] + v[1] + v[2] + v[5] + v[6];
        p->idle = v[3] + v[4];
    }
    fclose(f);
}

void processor_sample(struct processor *p)
{
    struct rusage self;
    memset(p, 0, sizeof *p);
    getrusage(RUSAGE_SELF, &self);
    p->self_us = (uint64_t)(self.ru_utime.tv_sec + self.ru_stime.tv_sec) * 1000000u +
                 (uint64_t)(self.ru_utime.tv_usec + self.ru_stime.tv_usec);
    for (int i = 0; i < options.pid_count; i++) {
        add_scheduled(p, options.pids[i]);
        add_ticks(p, options.pids[i]);
    }
    if (options.core >= 0) read_core(p, options.core);
    p->wall_ns = now_ns();
}
