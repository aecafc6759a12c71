/* file_win.c - file.h for Windows: the wide calls, so that every name works. */
#include "file.h"

#include "mem.h"
#include "wide_win.h"

#include <stdio.h>
#include <string.h>
#include <windows.h>

enum { FILE_FIRST_BYTES = 16384 }; /* room to begin with, when the size is not known */

static bool fail(char *error, size_t error_size, DWORD code)
{
    switch (code) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
    case ERROR_INVALID_NAME:
        snprintf(error, error_size, "no such file or directory");
        break;
    case ERROR_DIRECTORY:
        snprintf(error, error_size, "is a directory");
        break;
    case ERROR_BAD_FILE_TYPE:
        snprintf(error, error_size, "is a pipe or a device, and no ordinary file");
        break;
    case ERROR_ACCESS_DENIED:
        snprintf(error, error_size, "access denied");
        break;
    case ERROR_SHARING_VIOLATION:
        snprintf(error, error_size, "in use by another program");
        break;
    case ERROR_NOT_ENOUGH_MEMORY:
        snprintf(error, error_size, "out of memory");
        break;
    case ERROR_FILE_TOO_LARGE:
        snprintf(error, error_size, "larger than %d MiB", FILE_BYTES_MAX >> 20);
        break;
    default:
        snprintf(error, error_size, "Windows error %lu", (unsigned long)code);
        break;
    }
    return false;
}

/* Returns ERROR_SUCCESS, or what went wrong. */
static DWORD read_all(HANDLE file, char **data, size_t *len)
{
    size_t room = FILE_FIRST_BYTES;
    size_t count = 0;
    char *bytes = mem_alloc(room + 1);
    if (bytes == NULL) return ERROR_NOT_ENOUGH_MEMORY;
    for (;;) {
        if (count == room) {
            char *more = mem_realloc(bytes, room * 2 + 1);
            if (more == NULL) {
                mem_free(bytes);
                return ERROR_NOT_ENOUGH_MEMORY;
            }
            bytes = more;
            room *= 2;
        }
        DWORD got = 0;
        DWORD code = ReadFile(file, bytes + count, (DWORD)(room - count), &got, NULL) ? ERROR_SUCCESS : GetLastError();
        if (code == ERROR_BROKEN_PIPE || code == ERROR_HANDLE_EOF) break; /* the end of a pipe */
        count += got;
        if (code == ERROR_SUCCESS && count > FILE_BYTES_MAX) code = ERROR_FILE_TOO_LARGE;
        if (code != ERROR_SUCCESS) {
            mem_free(bytes);
            return code;
        }
        if (got == 0) break;
    }
    bytes[count] = '\0';
    *data = bytes;
    *len = count;
    return ERROR_SUCCESS;
}

/* Returns ERROR_SUCCESS, or what went wrong: ERROR_BAD_FILE_TYPE when it is to be ordinary and is not. */
static DWORD read_path(char **data, size_t *len, const char *path, bool ordinary)
{
    wchar_t *wide = wide_from(path, L"");
    if (wide == NULL) return ERROR_INVALID_NAME;
    DWORD code = ERROR_SUCCESS;
    DWORD attributes = GetFileAttributesW(wide);
    if (attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY) != 0) code = ERROR_DIRECTORY;
    if (code == ERROR_SUCCESS) {
        HANDLE file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                                  OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
        if (file == INVALID_HANDLE_VALUE) code = GetLastError();
        else if (ordinary && GetFileType(file) != FILE_TYPE_DISK) code = ERROR_BAD_FILE_TYPE;
        else code = read_all(file, data, len);
        if (file != INVALID_HANDLE_VALUE) CloseHandle(file);
    }
    mem_free(wide);
    return code;
}

bool file_read(char **data, size_t *len, const char *path, char *error, size_t error_size)
{
    DWORD code = path == NULL ? read_all(GetStdHandle(STD_INPUT_HANDLE), data, len) : read_path(data, len, path, false);
    return code == ERROR_SUCCESS || fail(error, error_size, code);
}

bool file_read_ordinary(char **data, size_t *len, const char *path, bool *missing, char *error, size_t error_size)
{
    DWORD code = read_path(data, len, path, true);
    *missing = code == ERROR_FILE_NOT_FOUND || code == ERROR_PATH_NOT_FOUND || code == ERROR_INVALID_NAME;
    return code == ERROR_SUCCESS || fail(error, error_size, code);
}

/* "\\\\.\\pipe\\NAME", "\\\\.\\COM1" */
static bool is_device(const wchar_t *path)
{
    return wcsncmp(path, L"\\\\.\\", 4) == 0;
}

bool file_is_ordinary(const char *path)
{
    wchar_t *wide = wide_from(path, L"");
    if (wide == NULL) return false;
    DWORD attributes = is_device(wide) ? INVALID_FILE_ATTRIBUTES : GetFileAttributesW(wide);
    mem_free(wide);
    return attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY) == 0;
}

/* Returns ERROR_SUCCESS, or what went wrong. */
static DWORD write_all(HANDLE file, const char *data, size_t len)
{
    while (len > 0) {
        DWORD part = len > (1 << 20) ? (DWORD)(1 << 20) : (DWORD)len;
        DWORD written = 0;
        if (!WriteFile(file, data, part, &written, NULL)) return GetLastError();
        if (written == 0) return ERROR_WRITE_FAULT;
        data += written;
        len -= written;
    }
    return ERROR_SUCCESS;
}

/* Returns ERROR_SUCCESS, or what went wrong. */
static DWORD write_new(const wchar_t *path, DWORD creation, const char *data, size_t len)
{
    HANDLE file = CreateFileW(path, GENERIC_WRITE, FILE_SHARE_READ, NULL, creation, FILE_ATTRIBUTE_NORMAL, NULL);
    if (file == INVALID_HANDLE_VALUE) return GetLastError();
    DWORD code = write_all(file, data, len);
    CloseHandle(file);
    return code;
}

/* Through a temporary beside it. Returns ERROR_SUCCESS, or what went wrong. */
static DWORD replace(const wchar_t *path, const char *data, size_t len)
{
    size_t units = wcslen(path) + 32;
    wchar_t *temporary = mem_alloc(units * sizeof *temporary);
    if (temporary == NULL) return ERROR_NOT_ENOUGH_MEMORY;
    _snwprintf(temporary, units, L"%ls.%lu.tmp", path, (unsigned long)GetCurrentProcessId());
    DWORD code = write_new(temporary, CREATE_ALWAYS, data, len);
    if (code == ERROR_SUCCESS && !MoveFileExW(temporary, path, MOVEFILE_REPLACE_EXISTING)) code = GetLastError();
    if (code != ERROR_SUCCESS) DeleteFileW(temporary);
    mem_free(temporary);
    return code;
}

bool file_write(const char *path, const char *data, size_t len, char *error, size_t error_size)
{
    wchar_t *wide = wide_from(path, L"");
    if (wide == NULL) return fail(error, error_size, ERROR_INVALID_NAME);
    DWORD code = ERROR_SUCCESS;
    DWORD attributes = GetFileAttributesW(wide);
    if (attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY) != 0) code = ERROR_DIRECTORY;
    else if (is_device(wide)) code = write_new(wide, OPEN_EXISTING, data, len); /* a pipe, a device */
    else if (attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_REPARSE_POINT) != 0)
        code = write_new(wide, CREATE_ALWAYS, data, len); /* what the link leads to */
    else code = replace(wide, data, len);
    mem_free(wide);
    return code == ERROR_SUCCESS || fail(error, error_size, code);
}

static bool is_separator(char c)
{
    return c == '/' || c == '\\';
}

char *file_directory(const char *path)
{
    size_t len = strlen(path);
    while (len > 0 && !is_separator(path[len - 1])) len--;
    while (len > 1 && is_separator(path[len - 1])) len--;
    if (len == 0) return mem_strdup(".");
    char *directory = mem_alloc(len + 1);
    if (directory == NULL) return NULL;
    memcpy(directory, path, len);
    directory[len] = '\0';
    return directory;
}

bool file_write_stdout(const char *data, size_t len)
{
    return write_all(GetStdHandle(STD_OUTPUT_HANDLE), data, len) == ERROR_SUCCESS;
}

void file_guard_standard(void)
{
    /* Windows does not hand the numbers of closed standard handles to sockets. */
}
