/* file.h - the little that the program does with files: a script is read, the address file is written. file_posix.c
 * and file_win.c implement it. Paths are UTF-8 on every system.
 *
 * thread  any.
 */
#ifndef PORTICO_FILE_H
#define PORTICO_FILE_H

#include <stdbool.h>
#include <stddef.h>

enum { FILE_BYTES_MAX = 64 << 20 }; /* of one file that is read */

/* Reads a whole file, byte by byte as it is.
 *
 * data    allocated with mem_alloc(), for the caller to free; a NUL that is not counted in *len follows the bytes.
 * path    NULL: standard input.
 * error   of error_size bytes: why not ("no such file", "is a directory", …), when the result is false. */
bool file_read(char **data, size_t *len, const char *path, char *error, size_t error_size);

/* The same of an ordinary file: of a pipe or a device, which may never end, nothing is read.
 *
 * missing  no such file; when the result is false. */
bool file_read_ordinary(char **data, size_t *len, const char *path, bool *missing, char *error, size_t error_size);

/* It is an ordinary file, which is there to be read again: no pipe, no device. Links are followed. */
bool file_is_ordinary(const char *path);

/* Replaces the content of a file in one step, so that a reader sees all of it or what was there before: writes a
 * temporary in the same directory and renames it. A link stays, and what it leads to is replaced. What exists and is
 * not an ordinary file (a pipe, a device), and what a link leads to that is not there yet or is an open file
 * (/dev/stdout), is written to as it is; on Windows whatever a link leads to. error as above. */
bool file_write(const char *path, const char *data, size_t len, char *error, size_t error_size);

/* The directory that a path leads into, allocated with mem_alloc(): what is before its last separator, "." when there
 * is none. NULL: out of memory. */
char *file_directory(const char *path);

/* Writes all bytes to standard output. False: it is closed, or full, or its reader has gone. */
bool file_write_stdout(const char *data, size_t len);

/* Takes the place of standard input, output and error where they were closed by whoever started us, so that no
 * socket gets their number and the log does not end up with a client. First thing in the process. */
void file_guard_standard(void);

#endif
