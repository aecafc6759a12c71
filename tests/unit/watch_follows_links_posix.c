/* Goal: a file is seen to change when what leads to it changes: links, directories, other names of it. Without
 * notifications it goes on by looking.
 * Method: a small tree below the working directory, changed in each way. */
#include "check.h"
#include "watch_rig.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOP "watch_test_tree"

static void make(const char *directory)
{
    if (mkdir(directory, 0755) != 0) check_eq(errno, EEXIST);
}

static void link_to(const char *path, const char *target)
{
    (void)unlink(path);
    if (symlink(target, path) != 0) fail("%s -> %s: %s", path, target, strerror(errno));
}

/* Replaces a link in one step. */
static void swap_link(const char *path, const char *target)
{
    link_to(TOP "/new", target);
    check_eq(rename(TOP "/new", path), 0);
}

static void clear(void)
{
    check_eq(system("rm -rf " TOP), 0);
}

/*  releases/1/script.lua, releases/2/script.lua, current -> releases/1 (or absolute), entry.lua -> current/script.lua */
static void plant(const char *path)
{
    (void)path;
    clear();
    make(TOP);
    make(TOP "/releases");
    make(TOP "/releases/1");
    make(TOP "/releases/2");
    write_content(TOP "/releases/1/script.lua");
    write_content(TOP "/releases/2/script.lua");
    link_to(TOP "/current", "releases/1");
    link_to(TOP "/entry.lua", "./current//script.lua");
}

static void write_through_the_links(const char *path)
{
    write_content(path);
}

static void write_the_target(const char *path)
{
    (void)path;
    write_content(TOP "/releases/1/script.lua");
}

static void swap_the_link_of_a_directory(const char *path)
{
    (void)path;
    swap_link(TOP "/current", "releases/2");
}

static void swap_for_an_absolute_link(const char *path)
{
    char target[4096];
    char here[2048];
    (void)path;
    check(getcwd(here, sizeof(here)) != NULL);
    snprintf(target, sizeof(target), "%s/%s/releases/../releases/2", here, TOP);
    swap_link(TOP "/current", target);
}

static void swap_the_link_of_the_file(const char *path)
{
    (void)path;
    swap_link(TOP "/entry.lua", "releases/2/script.lua");
}

static void remove_a_link(const char *path)
{
    (void)path;
    check_eq(unlink(TOP "/current"), 0);
}

static void swap_a_hard_link(const char *path)
{
    (void)path;
    check_eq(link(TOP "/releases/2/script.lua", TOP "/new"), 0);
    check_eq(rename(TOP "/new", TOP "/releases/1/script.lua"), 0);
}

static void remove_the_directory(const char *path)
{
    (void)path;
    check_eq(unlink(TOP "/releases/1/script.lua"), 0);
    check_eq(rmdir(TOP "/releases/1"), 0);
}

static void rename_the_directory(const char *path)
{
    (void)path;
    check_eq(rename(TOP "/releases/1", TOP "/releases/0"), 0);
}

static void exchange_the_directory(const char *path)
{
    rename_the_directory(path);
    check_eq(rename(TOP "/releases/2", TOP "/releases/1"), 0);
}

static void plant_without_the_directory(const char *path)
{
    plant(path);
    remove_the_directory(path);
}

static void make_the_directory(const char *path)
{
    (void)path;
    make(TOP "/releases/1");
    write_content(TOP "/releases/1/script.lua");
}

static void plant_nothing(const char *path)
{
    (void)path;
    clear();
}

static const way ways[] = {
    {"write through the links", plant, write_through_the_links},
    {"write the target", plant, write_the_target},
    {"swap the link of a directory", plant, swap_the_link_of_a_directory},
    {"swap it for an absolute one", plant, swap_for_an_absolute_link},
    {"swap the link of the file", plant, swap_the_link_of_the_file},
    {"remove a link", plant, remove_a_link},
    {"swap a hard link", plant, swap_a_hard_link},
    {"remove the directory", plant, remove_the_directory},
    {"rename the directory", plant, rename_the_directory},
    {"exchange the directory", plant, exchange_the_directory},
    {"make the directory", plant_without_the_directory, make_the_directory},
    {"make everything", plant_nothing, plant},
};

static void whatever_leads_to_it_is_seen(void)
{
    check_ways(TOP "/entry.lua", ways, array_count(ways));
    clear();
}

static void a_changed_directory_above_is_seen_by_looking(void)
{
    plant(NULL);
    watch *w = open_watch(WATCH_NOTIFIED, TOP "/releases/1/script.lua");
    check(was_told(PATIENCE_S * SECOND));
    check_eq(rename(TOP "/releases", TOP "/elsewhere"), 0);
    check(was_told(PATIENCE_S * SECOND));
    close_watch(w);
    clear();
}

static void another_name_of_the_file_is_seen_by_looking(void)
{
    plant(NULL);
    check_eq(link(TOP "/releases/1/script.lua", TOP "/other_name"), 0);
    watch *w = open_watch(WATCH_NOTIFIED, TOP "/releases/1/script.lua");
    check(was_told(PATIENCE_S * SECOND));
    write_content(TOP "/other_name");
    check(was_told(PATIENCE_S * SECOND));
    close_watch(w);
    clear();
}

static void a_circle_of_links_is_looked_at_until_it_is_mended(void)
{
    plant(NULL);
    swap_link(TOP "/current", "current");
    watch *w = open_watch(WATCH_NOTIFIED, TOP "/entry.lua");
    check(was_told(PATIENCE_S * SECOND));
    swap_link(TOP "/current", "releases/2");
    check(was_told(PATIENCE_S * SECOND));
    close_watch(w);
    clear();
}

static void a_file_that_is_written_slowly_is_told_when_it_is_closed(void)
{
    static const char piece[] = "piece";
    os_mutex *mutex = os_mutex_open();
    os_cond *never = os_cond_open();
    plant(NULL);
    watch *w = open_watch(WATCH_NOTIFIED, TOP "/entry.lua");
    check(was_told(PATIENCE_S * SECOND));
    int fd = open(TOP "/releases/1/script.lua", O_WRONLY | O_TRUNC);
    check(fd >= 0);
    int64_t start_ns = os_monotonic_ns();
    os_mutex_lock(mutex);
    for (int i = 0; i < 8; i++) { /* each pause is longer than what settles */
        check_eq(write(fd, piece, sizeof(piece)), sizeof(piece));
        (void)os_cond_wait(never, mutex, 2 * WATCH_SETTLE_MS * SECOND / 1000);
    }
    os_mutex_unlock(mutex);
    /* On a machine so slow that the patience is over, nothing can be said. */
    bool in_time = os_monotonic_ns() - start_ns < WATCH_WRITER_MS * SECOND / 1000;
    check(!in_time || !was_told(0));
    close(fd);
    check(was_told(PATIENCE_S * SECOND));
    close_watch(w);
    os_mutex_close(mutex);
    os_cond_close(never);
    clear();
}

static void a_file_that_stays_open_is_told_all_the_same(void)
{
    plant(NULL);
    watch *w = open_watch(WATCH_NOTIFIED, TOP "/entry.lua");
    check(was_told(PATIENCE_S * SECOND));
    int fd = open(TOP "/releases/1/script.lua", O_WRONLY | O_APPEND);
    check(fd >= 0);
    check_eq(write(fd, "x", 1), 1);
    check(was_told(PATIENCE_S * SECOND));
    close(fd);
    check(was_told(PATIENCE_S * SECOND));
    close_watch(w);
    clear();
}

static int lowest_free_descriptor(void)
{
    int fd = dup(STDOUT_FILENO);
    check(fd >= 0);
    close(fd);
    return fd;
}

static void without_notifications_it_looks(void)
{
    struct rlimit limit;
    plant(NULL);
    check_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    struct rlimit low = {.rlim_cur = (rlim_t)lowest_free_descriptor() + 1, .rlim_max = limit.rlim_max};
    check_eq(setrlimit(RLIMIT_NOFILE, &low), 0); /* one is left, for waking */
    watch *w = open_watch(WATCH_NOTIFIED, TOP "/entry.lua");
    check_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    check(was_told(PATIENCE_S * SECOND));
    write_content(TOP "/entry.lua");
    check(was_told(PATIENCE_S * SECOND));
    close_watch(w);
    clear();
}

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    DIR *directory = opendir("/proc/self/fd");
    check(directory != NULL);
    while (readdir(directory) != NULL) count++;
    closedir(directory);
    return count;
}

static void no_descriptor_is_left(void)
{
    plant(NULL);
    unsigned before = open_descriptors();
    for (int i = 0; i < 10; i++) close_watch(open_watch(WATCH_NOTIFIED, TOP "/entry.lua"));
    check_eq(open_descriptors(), before);
    clear();
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(whatever_leads_to_it_is_seen);
    check_run(a_changed_directory_above_is_seen_by_looking);
    check_run(another_name_of_the_file_is_seen_by_looking);
    check_run(a_circle_of_links_is_looked_at_until_it_is_mended);
    check_run(a_file_that_is_written_slowly_is_told_when_it_is_closed);
    check_run(a_file_that_stays_open_is_told_all_the_same);
    check_run(without_notifications_it_looks);
    check_run(no_descriptor_is_left);
    return check_end();
}
