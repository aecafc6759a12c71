/* dir_win.c - dir.h for Windows: the wide calls, so that every name works. */
#include "dir.h"

#include "mem.h"
#include "wide_win.h"

#include <stdio.h>
#include <string.h>
#include <wchar.h>
#include <windows.h>

enum { DIR_FIRST_BYTES = 4096, DIR_NAME_BYTES_MAX = 3 * MAX_PATH + 1 };

static bool fail(char *error, size_t error_size, DWORD code)
{
    switch (code) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
    case ERROR_INVALID_NAME:
        snprintf(error, error_size, "no such file or directory");
        break;
    case ERROR_DIRECTORY:
        snprintf(error, error_size, "not a directory");
        break;
    case ERROR_ACCESS_DENIED:
        snprintf(error, error_size, "access denied");
        break;
    case ERROR_NOT_ENOUGH_MEMORY:
        snprintf(error, error_size, "out of memory");
        break;
    default:
        snprintf(error, error_size, "Windows error %lu", (unsigned long)code);
        break;
    }
    return false;
}

/* Returns ERROR_SUCCESS, or what went wrong. */
static DWORD read_names(HANDLE search, WIN32_FIND_DATAW *found, char **names, size_t *len)
{
    size_t room = DIR_FIRST_BYTES, count = 0;
    char *bytes = mem_alloc(room);
    DWORD code = bytes == NULL ? ERROR_NOT_ENOUGH_MEMORY : ERROR_SUCCESS;
    while (code == ERROR_SUCCESS) {
        bool is_dots = wcscmp(found->cFileName, L".") == 0 || wcscmp(found->cFileName, L"..") == 0;
        if (room - count < DIR_NAME_BYTES_MAX) {
            char *more = room * 2 > DIR_BYTES_MAX ? NULL : mem_realloc(bytes, room * 2);
            if (more == NULL) {
                code = room * 2 > DIR_BYTES_MAX ? ERROR_FILE_TOO_LARGE : ERROR_NOT_ENOUGH_MEMORY;
                break;
            }
            bytes = more;
            room *= 2;
        }
        if (!is_dots) { /* the size of what was written counts the NUL */
            count += (size_t)WideCharToMultiByte(CP_UTF8, 0, found->cFileName, -1, bytes + count, DIR_NAME_BYTES_MAX,
                                                 NULL, NULL);
        }
        if (!FindNextFileW(search, found)) code = GetLastError();
    }
    if (code != ERROR_NO_MORE_FILES) {
        mem_free(bytes);
        return code;
    }
    *names = bytes;
    *len = count;
    return ERROR_SUCCESS;
}

bool dir_list(char **names, size_t *len, const char *path, char *error, size_t error_size)
{
    WIN32_FIND_DATAW found;
    wchar_t *pattern = wide_from(path, L"\\*");
    if (pattern == NULL) return fail(error, error_size, ERROR_INVALID_NAME);
    HANDLE search = FindFirstFileW(pattern, &found);
    DWORD code = search == INVALID_HANDLE_VALUE ? GetLastError() : ERROR_SUCCESS;
    mem_free(pattern);
    if (code != ERROR_SUCCESS) return fail(error, error_size, code);
    code = read_names(search, &found, names, len);
    FindClose(search);
    return code == ERROR_SUCCESS || fail(error, error_size, code);
}

/* Through a handle and not by attributes: only that tells a file from a device such as CON, which is in every
 * directory. */
bool dir_look(dir_entry *entry, const char *path, char *error, size_t error_size)
{
    BY_HANDLE_FILE_INFORMATION info;
    wchar_t *wide = wide_from(path, L"");
    if (wide == NULL) return fail(error, error_size, ERROR_INVALID_NAME);
    HANDLE file = CreateFileW(wide, FILE_READ_ATTRIBUTES, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                              OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL);
    DWORD code = file == INVALID_HANDLE_VALUE ? GetLastError() : ERROR_SUCCESS;
    mem_free(wide);
    if (code != ERROR_SUCCESS) return fail(error, error_size, code);
    *entry = (dir_entry){.kind = DIR_OTHER};
    if (GetFileType(file) == FILE_TYPE_DISK) {
        if (GetFileInformationByHandle(file, &info)) {
            const uint64_t ticks_1970 = UINT64_C(116444736000000000); /* of 100 ns, since 1601 */
            uint64_t ticks = (uint64_t)info.ftLastWriteTime.dwHighDateTime << 32 | info.ftLastWriteTime.dwLowDateTime;
            entry->kind = info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY ? DIR_DIRECTORY : DIR_FILE;
            entry->bytes = (uint64_t)info.nFileSizeHigh << 32 | info.nFileSizeLow;
            entry->modified = ((double)ticks - (double)ticks_1970) / 1e7;
        } else {
            code = GetLastError();
        }
    }
    CloseHandle(file);
    return code == ERROR_SUCCESS || fail(error, error_size, code);
}
