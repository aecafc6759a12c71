/* Goal: however a file is saved, it is notified, it is seen by looking, and it is told once things have settled; what is
 * not the file's is not told.
 * Method: the ways of saving that editors have and every system knows, on files in the working directory. */
#include "check.h"
#include "file.h"
#include "watch_rig.h"

#include <string.h>

#define NAME "watch_test_script.lua"
#define LETTERS "watch_test_\xc3\xa4\xe2\x82\xac.lua"
#define OTHER "watch_test_other.tmp"

static void append(const char *path)
{
    FILE *file = fopen(path, "ab");
    check(file != NULL);
    check(fputs("more", file) >= 0);
    content_len += 4;
    check_eq(fclose(file), 0);
}

static void write_aside_and_rename_over(const char *path)
{
    static const char text[256];
    char error[128];
    content_len++;
    check(content_len <= sizeof(text));
    if (!file_write(path, text, content_len, error, sizeof(error))) fail("%s: %s", path, error);
}

static void rename_away_and_create(const char *path)
{
    (void)remove(OTHER);
    check_eq(rename(path, OTHER), 0);
    write_content(path);
    check_eq(remove(OTHER), 0);
}

static void remove_and_create(const char *path)
{
    check_eq(remove(path), 0);
    write_content(path);
}

static void remove_it(const char *path)
{
    check_eq(remove(path), 0);
}

static void remove_any(const char *path)
{
    (void)remove(path);
}

static const way ways[] = {
    {"truncate and write", write_content, write_content},
    {"append", write_content, append},
    {"write aside and rename over", write_content, write_aside_and_rename_over},
    {"rename away and create", write_content, rename_away_and_create},
    {"remove and create", write_content, remove_and_create},
    {"remove", write_content, remove_it},
    {"create what was missing", remove_any, write_content},
};

static void every_way_is_seen(void)
{
    check_ways(NAME, ways, array_count(ways));
    (void)remove(NAME);
}

static void a_name_of_any_letters_is_seen(void)
{
    static const way one = {"rename over", write_aside_and_rename_over, write_aside_and_rename_over};
    check_ways(LETTERS, &one, 1);
}

/* What is told for this file comes from notifications: looks are two seconds apart, and see nothing. */
static void other_files_are_not_told(void)
{
    write_content(NAME);
    watch *w = open_watch(WATCH_NOTIFIED, NAME);
    check(was_told(PATIENCE_S * SECOND));
    write_content(OTHER);
    check(!was_told(SECOND / 4));
    write_content(NAME);
    check(was_told(PATIENCE_S * SECOND));
    close_watch(w);
    (void)remove(NAME);
    (void)remove(OTHER);
}

/* Notifications that come together are walked to the last. Those of a name with an odd number of letters come first: Wine puts
 * what follows them at no multiple of four. */
static void it_is_seen_behind_changes_of_others(void)
{
    watch_system *s = watch_system_open(false);
    check(s != NULL);
    check_eq(strlen(NAME) % 2, 1);
    write_content(OTHER);
    look_at(s, OTHER);
    for (int i = 0; i < 5; i++) write_content(NAME);
    write_content(OTHER);
    check_eq(watch_system_wait(s, PATIENCE_S * SECOND), WATCH_TOUCHED);
    watch_system_close(s);
    (void)remove(NAME);
    (void)remove(OTHER);
}

/* Which a second thread writes for as long as it is wanted. */
static struct {
    os_mutex *mutex;
    bool over;
} stream;

static bool stream_is_over(void)
{
    os_mutex_lock(stream.mutex);
    bool over = stream.over;
    os_mutex_unlock(stream.mutex);
    return over;
}

static void write_stream(void *argument)
{
    os_cond *never = os_cond_open();
    os_mutex *mutex = os_mutex_open();
    while (!stream_is_over()) {
        write_content(argument);
        os_mutex_lock(mutex);
        (void)os_cond_wait(never, mutex, SECOND / 100); /* a fifth of the time in which things settle */
        os_mutex_unlock(mutex);
    }
    os_cond_close(never);
    os_mutex_close(mutex);
}

static void a_stream_of_changes_does_not_put_it_off_for_ever(void)
{
    static char path[] = NAME;
    write_content(path);
    watch *w = open_watch(WATCH_NOTIFIED, path);
    check(was_told(PATIENCE_S * SECOND));
    stream.over = false;
    stream.mutex = os_mutex_open();
    os_thread *writer = os_thread_start("stream", write_stream, path);
    check(writer != NULL);
    for (int i = 0; i < 3; i++) check(was_told(PATIENCE_S * SECOND));
    os_mutex_lock(stream.mutex);
    stream.over = true;
    os_mutex_unlock(stream.mutex);
    os_thread_join(writer);
    os_mutex_close(stream.mutex);
    close_watch(w);
    (void)remove(NAME);
}

static void a_new_set_replaces_the_old_one_and_is_told(void)
{
    static const char *const both[] = {NAME, OTHER};
    write_content(NAME);
    write_content(OTHER);
    watch *w = open_watch(WATCH_NOTIFIED, NAME);
    check(was_told(PATIENCE_S * SECOND));
    check(watch_set(w, both, 2));
    check(was_told(PATIENCE_S * SECOND));
    write_content(OTHER);
    check(was_told(PATIENCE_S * SECOND));
    check(watch_set(w, both + 1, 1));
    check(was_told(PATIENCE_S * SECOND));
    write_content(NAME);
    check(!was_told(SECOND / 4));
    check(!watch_set(w, NULL, WATCH_FILES_MAX + 1));
    check(watch_set(w, NULL, 0));
    check(was_told(PATIENCE_S * SECOND));
    close_watch(w);
    (void)remove(NAME);
    (void)remove(OTHER);
}

static void it_can_be_closed_at_once(void)
{
    watch *w = open_watch(WATCH_NOTIFIED, NAME);
    close_watch(w);
    w = open_watch(WATCH_POLL, NAME);
    close_watch(w);
    watch_close(NULL);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(every_way_is_seen);
    check_run(a_name_of_any_letters_is_seen);
    check_run(other_files_are_not_told);
    check_run(it_is_seen_behind_changes_of_others);
    check_run(a_stream_of_changes_does_not_put_it_off_for_ever);
    check_run(a_new_set_replaces_the_old_one_and_is_told);
    check_run(it_can_be_closed_at_once);
    return check_end();
}
