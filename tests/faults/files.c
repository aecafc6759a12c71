/* Goal: whatever call fails while files are read, written, listed and watched, and commands are taken, it is told in words
 * or goes unnoticed, and nothing is left behind or half done.
 * Method: each call fails, one after the other, with each of its errors. */
#include "inject.h"

#include "check.h"
#include "control.h"
#include "dir.h"
#include "file.h"
#include "os.h"
#include "watch.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME "faults_test.tmp"
#define FOLDER "faults_test.dir"
#define SECOND INT64_C(1000000000)

static char error[512];

static bool explained(bool done)
{
    check(done || error[0] != '\0');
    error[0] = '\0';
    return done;
}

/* ---- Whole files ---- */

static void read_back(void)
{
    char *data;
    size_t len;
    if (!explained(file_read(&data, &len, NAME, error, sizeof(error)))) return;
    check_eq(len, 20000);
    mem_free(data);
}

static void replace(void)
{
    static char text[20000];
    inject_pause();
    memset(text, 'a', sizeof(text));
    check(file_write(NAME, text, sizeof(text), error, sizeof(error)));
    memset(text, 'b', sizeof(text));
    inject_resume();
    bool done = explained(file_write(NAME, text, sizeof(text), error, sizeof(error)));
    inject_pause();
    char *data;
    size_t len;
    check(file_read(&data, &len, NAME, error, sizeof(error)));
    check_eq(len, sizeof(text));
    for (size_t i = 0; i < len; i++) check(data[i] == data[0]); /* one or the other */
    if (done) check_eq(data[0], 'b');
    mem_free(data);
    check_eq(unlink(NAME), 0);
    inject_resume();
}

static void a_file_is_read_whole_or_not_at_all(void)
{
    static char text[20000];
    check(file_write(NAME, text, sizeof(text), error, sizeof(error)));
    inject_sweep(read_back);
    check_eq(unlink(NAME), 0);
}

static void a_file_is_replaced_whole_or_not_at_all(void)
{
    inject_sweep(replace);
}

static void find_directories(void)
{
    static const char *const paths[] = {"name", "a//name", "/name"};
    for (size_t i = 0; i < array_count(paths); i++) mem_free(file_directory(paths[i]));
}

static void a_directory_is_named_or_memory_is_short(void)
{
    inject_sweep(find_directories);
}

/* ---- Directories ---- */

static void list(void)
{
    char *names;
    size_t len;
    if (explained(dir_list(&names, &len, FOLDER, error, sizeof(error)))) {
        check(len > 5000);
        mem_free(names);
    }
    dir_entry entry;
    if (explained(dir_look(&entry, FOLDER, error, sizeof(error)))) check_eq(entry.kind, DIR_DIRECTORY);
}

static void a_directory_is_listed_whole_or_not_at_all(void)
{
    enum { FILES = 30 };
    char name[256];
    check_eq(mkdir(FOLDER, 0700), 0);
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof(name), FOLDER "/%0200d", i);
        check(file_write(name, "", 0, error, sizeof(error)));
    }
    inject_sweep(list);
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof(name), FOLDER "/%0200d", i);
        check_eq(unlink(name), 0);
    }
    check_eq(rmdir(FOLDER), 0);
}

/* ---- Watching ---- */

static struct {
    os_mutex *mutex;
    os_cond *cond;
    int count;
} told;

static void tell(void *context)
{
    (void)context;
    os_mutex_lock(told.mutex);
    told.count++;
    os_cond_signal(told.cond);
    os_mutex_unlock(told.mutex);
}

/* The set is told of, whatever fails; that takes a look at the files at the worst. */
static void watch_one(void)
{
    static const char *const path = NAME;
    told.count = 0;
    watch *w = watch_open(WATCH_NOTIFIED, tell, &told);
    if (w == NULL) return;
    if (watch_set(w, &path, 1)) {
        int64_t deadline_ns = os_monotonic_ns() + 20 * SECOND;
        os_mutex_lock(told.mutex);
        while (told.count == 0) {
            check(os_monotonic_ns() < deadline_ns);
            (void)os_cond_wait(told.cond, told.mutex, SECOND / 10);
        }
        os_mutex_unlock(told.mutex);
    }
    watch_close(w);
}

static void a_watch_tells_of_its_files(void)
{
    told.mutex = os_mutex_open();
    told.cond = os_cond_open();
    check(file_write(NAME, "x", 1, error, sizeof(error)));
    inject_sweep(watch_one);
    check_eq(unlink(NAME), 0);
    os_cond_close(told.cond);
    os_mutex_close(told.mutex);
}

/* ---- Commands ---- */

static char where[CONTROL_WHERE_MAX];

static void on_asked(void *context)
{
    control *c = *(control **)context;
    control_request *request;
    while (c != NULL && (request = control_take(c)) != NULL) control_reply(request, true, control_line(request));
}

/* A client has its answer, or a refusal in words. */
static void ask(void)
{
    static control *channel;
    char *text = NULL;
    channel = NULL;
    control *c = control_open(where, on_asked, &channel, error, sizeof(error));
    if (!explained(c != NULL)) return;
    channel = c;
    control_result result = control_ask(&text, control_where(c), "hello", 3 * SECOND);
    if (result == CONTROL_DONE && text != NULL) check_str(text, "hello");
    if (result != CONTROL_DONE && text != NULL) check(text[0] != '\0');
    mem_free(text);
    control_close(c);
}

static void find(void)
{
    control_instance instances[2];
    char place[CONTROL_WHERE_MAX];
    (void)explained(control_usual_place(place, error, sizeof(error)));
    check(control_find(instances, array_count(instances)) <= CONTROL_INSTANCES_MAX);
}

static void who_asks_is_answered_or_refused_in_words(void)
{
    snprintf(where, sizeof(where), "faults_control_%lu", os_pid());
    inject_sweep(ask);
}

static void servers_are_found_as_far_as_the_system_tells(void)
{
    check_eq(mkdir(FOLDER, 0700), 0);
    char path[512];
    check(getcwd(path, sizeof(path) - sizeof(FOLDER) - 1) != NULL);
    strcat(path, "/" FOLDER);
    check_eq(setenv("PORTICO_RUNTIME_DIR", path, 1), 0);
    char error_[64];
    char place[CONTROL_WHERE_MAX];
    if (!control_usual_place(place, error_, sizeof(error_))) {
        check_skip("%s", error_);
    } else {
        control *c = control_open(NULL, on_asked, &(control *){NULL}, error, sizeof(error));
        check(c != NULL);
        inject_sweep(find);
        control_close(c);
    }
    check_eq(rmdir(FOLDER "/portico"), 0);
    check_eq(rmdir(FOLDER), 0);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_eq(system("rm -rf " FOLDER), 0); /* what a run that failed has left */
    check_run(a_file_is_read_whole_or_not_at_all);
    check_run(a_file_is_replaced_whole_or_not_at_all);
    check_run(a_directory_is_named_or_memory_is_short);
    check_run(a_directory_is_listed_whole_or_not_at_all);
    check_run(a_watch_tells_of_its_files);
    check_run(who_asks_is_answered_or_refused_in_words);
    check_run(servers_are_found_as_far_as_the_system_tells);
    return check_end();
}
