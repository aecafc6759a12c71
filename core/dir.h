/* dir.h - what lies in a directory, and what a path leads to. dir_posix.c and dir_win.c implement it. Paths and names
 * are UTF-8 on every system.
 *
 * thread  any. Every call may wait for the disk.
 */
#ifndef PORTICO_DIR_H
#define PORTICO_DIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DIR_BYTES_MAX = 16 << 20 }; /* of all names of one directory */

/* Reads the names in a directory, but for "." and "..", in the order in which the system has them.
 *
 * names   allocated with mem_alloc(), for the caller to free: each with a NUL behind it. len is the bytes of all.
 * error   of error_size bytes: why not, when the result is false. */
bool dir_list(char **names, size_t *len, const char *path, char *error, size_t error_size);

typedef enum dir_kind { DIR_FILE, DIR_DIRECTORY, DIR_OTHER } dir_kind;

typedef struct dir_entry {
    dir_kind kind;
    uint64_t bytes;  /* of a file */
    double modified; /* seconds since 1970 */
} dir_entry;

/* Looks at what is there; links are followed. error as above. */
bool dir_look(dir_entry *entry, const char *path, char *error, size_t error_size);

#endif
