/* Goal: every name in a directory is told, of any length and alphabet, and a path is told for what it leads to.
 * Method: files in the working directory, more than the first buffer holds. */
#include "check.h"
#include "dir.h"
#include "file.h"

#include <stdio.h>
#include <string.h>

#define FOREIGN "dir_test_\xc3\xa4\xe2\x82\xac.tmp" /* stays: remove() knows it by another name on Windows */

enum { FILES = 200 };

static char error[128];

static void name_of(char *name, size_t size, int i)
{
    snprintf(name, size, "dir_test_%d_%0*d.tmp", i, i, i);
}

static void every_name_is_told(void)
{
    char name[300], *names;
    size_t len;
    for (int i = 0; i < FILES; i++) {
        name_of(name, sizeof name, i);
        check(file_write(name, "12345", 5, error, sizeof error));
    }
    check(file_write(FOREIGN, "", 0, error, sizeof error));
    if (!dir_list(&names, &len, ".", error, sizeof error)) check_fail_at(__FILE__, __LINE__, "%s", error);
    int found = 0, foreign = 0;
    for (size_t at = 0; at < len; at += strlen(names + at) + 1) {
        check(strcmp(names + at, ".") != 0 && strcmp(names + at, "..") != 0);
        int i = -1;
        foreign += strcmp(names + at, FOREIGN) == 0;
        if (sscanf(names + at, "dir_test_%d_", &i) != 1) continue;
        name_of(name, sizeof name, i);
        check_str(names + at, name);
        found++;
    }
    mem_free(names);
    check_eq(found, FILES);
    check_eq(foreign, 1);
    for (int i = 0; i < FILES; i++) {
        name_of(name, sizeof name, i);
        check_eq(remove(name), 0);
    }
}

static void a_path_is_told_for_what_it_is(void)
{
    dir_entry entry;
    check(file_write("dir_test.tmp", "12345", 5, error, sizeof error));
    check(dir_look(&entry, "dir_test.tmp", error, sizeof error));
    check_eq(entry.kind, DIR_FILE);
    check_eq(entry.bytes, 5);
    check(entry.modified > 1600000000);
    check_eq(remove("dir_test.tmp"), 0);
    check(dir_look(&entry, ".", error, sizeof error));
    check_eq(entry.kind, DIR_DIRECTORY);
}

static void what_is_not_there_is_explained(void)
{
    dir_entry entry;
    char *names;
    size_t len;
    check(!dir_look(&entry, "no_such_directory/x", error, sizeof error));
    check_str(error, "no such file or directory");
    check(!dir_list(&names, &len, "no_such_directory", error, sizeof error));
    check_str(error, "no such file or directory");
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(every_name_is_told);
    check_run(a_path_is_told_for_what_it_is);
    check_run(what_is_not_there_is_explained);
    return check_end();
}
