/* Goal: a file comes back as it was written, replacing leaves nothing beside it, and what is wrong is said in words.
 * Method: files in the working directory, with a name that is not ASCII. */
#include "check.h"
#include "file.h"

#include <stdio.h>

#define NAME "file_test_\xc3\xa4\xe2\x82\xac.tmp"

static char error[128];

static void check_content(const char *path, const char *data, size_t len)
{
    char *read = NULL;
    size_t read_len = 0;
    if (!file_read(&read, &read_len, path, error, sizeof error)) fail("%s: %s", path, error);
    check_eq(read_len, len);
    check_mem(read, data, len);
    check_eq(read[len], 0);
    mem_free(read);
}

static void bytes_come_back_as_they_were(void)
{
    static const char data[] = "a\r\nb\0c\n\x1a\xff";
    check(file_write(NAME, data, sizeof data - 1, error, sizeof error));
    check_content(NAME, data, sizeof data - 1);
    check(file_write(NAME, "shorter", 7, error, sizeof error));
    check_content(NAME, "shorter", 7);
    check(file_write(NAME, "", 0, error, sizeof error));
    check_content(NAME, "", 0);
}

static void large_files_come_back_as_they_were(void)
{
    size_t len = 300001;
    char *data = mem_alloc(len);
    for (size_t i = 0; i < len; i++) data[i] = (char)(i * 7 + i / 251);
    check(file_write(NAME, data, len, error, sizeof error));
    check_content(NAME, data, len);
    mem_free(data);
}

static void what_cannot_be_read_is_explained(void)
{
    char *data = NULL;
    size_t len = 0;
    check(!file_read(&data, &len, "no_such_file.lua", error, sizeof error));
    check_str(error, "no such file or directory");
    check(!file_read(&data, &len, "no_such_directory/x.lua", error, sizeof error));
    check_str(error, "no such file or directory");
    check(!file_read(&data, &len, "", error, sizeof error));
    check_str(error, "no such file or directory");
    check(!file_read(&data, &len, ".", error, sizeof error));
    check_str(error, "is a directory");
}

static void what_cannot_be_written_is_explained(void)
{
    check(!file_write("no_such_directory/x", "x", 1, error, sizeof error));
    check_str(error, "no such file or directory");
    check(!file_write(".", "x", 1, error, sizeof error));
    check_str(error, "is a directory");
    check(!file_write("", "x", 1, error, sizeof error));
    check(error[0] != '\0');
}

static void check_directory(const char *path, const char *directory)
{
    char *text = file_directory(path);
    check_str(text, directory);
    mem_free(text);
}

static void the_directory_is_what_is_before_the_last_separator(void)
{
    check_directory("chat.lua", ".");
    check_directory("", ".");
    check_directory("scripts/chat.lua", "scripts");
    check_directory("/srv/lua//chat.lua", "/srv/lua");
    check_directory("/chat.lua", "/");
    check_directory("./chat.lua", ".");
    check_directory("../a/b.lua", "../a");
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(bytes_come_back_as_they_were);
    check_run(large_files_come_back_as_they_were);
    check_run(what_cannot_be_read_is_explained);
    check_run(what_cannot_be_written_is_explained);
    check_run(the_directory_is_what_is_before_the_last_separator);
    remove(NAME); /* Where names are not UTF-8 for the C library, it stays. */
    return check_end();
}
