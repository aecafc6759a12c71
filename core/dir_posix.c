/* dir_posix.c - dir.h for POSIX systems. */
#include "dir.h"

#include "mem.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { DIR_FIRST_BYTES = 4096 }; /* room for names to begin with */

static bool fail(char *error, size_t error_size, int code)
{
    snprintf(error, error_size, "%s", code == ENOENT ? "no such file or directory" : strerror(code));
    return false;
}

/* Returns 0, or an errno. */
static int read_names(DIR *dir, char **names, size_t *len)
{
    size_t room = DIR_FIRST_BYTES, count = 0;
    char *bytes = mem_alloc(room);
    if (bytes == NULL) return ENOMEM;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (entry == NULL) break;
        size_t size = strlen(entry->d_name) + 1;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (room - count < size) {
            char *more = room * 2 > DIR_BYTES_MAX ? NULL : mem_realloc(bytes, room * 2);
            if (more == NULL) {
                mem_free(bytes);
                return room * 2 > DIR_BYTES_MAX ? EFBIG : ENOMEM;
            }
            bytes = more;
            room *= 2;
        }
        memcpy(bytes + count, entry->d_name, size);
        count += size;
    }
    if (errno != 0) {
        int code = errno;
        mem_free(bytes);
        return code;
    }
    *names = bytes;
    *len = count;
    return 0;
}

bool dir_list(char **names, size_t *len, const char *path, char *error, size_t error_size)
{
    DIR *dir = opendir(path);
    if (dir == NULL) return fail(error, error_size, errno);
    int code = read_names(dir, names, len);
    closedir(dir);
    return code == 0 || fail(error, error_size, code);
}

bool dir_look(dir_entry *entry, const char *path, char *error, size_t error_size)
{
    struct stat st;
    if (stat(path, &st) != 0) return fail(error, error_size, errno);
    *entry = (dir_entry){
        .kind = S_ISREG(st.st_mode)   ? DIR_FILE
                : S_ISDIR(st.st_mode) ? DIR_DIRECTORY
                                      : DIR_OTHER,
        .bytes = (uint64_t)st.st_size,
        .modified = (double)st.st_mtim.tv_sec + (double)st.st_mtim.tv_nsec / 1e9,
    };
    return true;
}
