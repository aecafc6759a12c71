/* watch_win.c - watch_system.h on Windows: ReadDirectoryChangesW() on directories, all on one completion port.
 *
 * Of each file two directories are watched: the one that its path names, and the one in which it really lies when links
 * lead elsewhere. That a link or a directory further up is swapped is seen at the next look.
 *
 * source  the documentation of ReadDirectoryChangesW; Wine 8 tells of changes by Linux programs, too, often twice.
 */
#include "watch_system.h"

#include "base.h"
#include "log.h"
#include "mem.h"
#include "wide_win.h"
#include "os.h"

#include <windows.h>

#include <assert.h>
#include <limits.h>
#include <string.h>
#include <wchar.h>

enum {
    DIRECTORIES_MAX = 4096, /* more are left to looking */
    EVENTS_BYTES = 16384,   /* of one directory; 64 KiB is the most that network drives take */
    CROWD_PAUSE_MS = 10,    /* between two reads of a directory where much happens that is not ours */
    PATH_UNITS = 32768      /* of the longest path, NUL included */
};

static const DWORD event_mask = FILE_NOTIFY_CHANGE_FILE_NAME | FILE_NOTIFY_CHANGE_DIR_NAME |
                                FILE_NOTIFY_CHANGE_ATTRIBUTES | FILE_NOTIFY_CHANGE_SIZE |
                                FILE_NOTIFY_CHANGE_LAST_WRITE | FILE_NOTIFY_CHANGE_CREATION;

/* What tells one file or directory from all others. */
typedef struct watch_identity {
    DWORD volume;
    DWORD index_high;
    DWORD index_low;
} watch_identity;

typedef struct watch_name {
    struct watch_name *next;
    wchar_t text[]; /* in a directory */
} watch_name;

/* A directory that is watched. From the read until its packet it belongs to the port, so it is freed by the packet. */
typedef struct watch_directory {
    OVERLAPPED overlapped;
    struct watch_directory *next;
    HANDLE handle;
    watch_identity identity;
    watch_name *names;
    bool pending; /* a read is under way */
    bool met;     /* in this round; else it is closed at the end of it */
    _Alignas(DWORD) char events[EVENTS_BYTES];
} watch_directory;

struct watch_system {
    HANDLE port;
    bool polling;
    bool covered; /* in this round */
    watch_directory *directories;
    uint32_t count;   /* of those in the list */
    uint32_t pending; /* reads under way, also of directories that have left the list */
};

/* ---- Directories ---- */

static void names_free(watch_directory *d)
{
    while (d->names != NULL) {
        watch_name *name = d->names;
        d->names = name->next;
        mem_free(name);
    }
}

static bool names_have(const watch_directory *d, const wchar_t *text, size_t units)
{
    for (const watch_name *name = d->names; name != NULL; name = name->next) {
        if (CompareStringOrdinal(name->text, -1, text, (int)units, TRUE) == CSTR_EQUAL) return true;
    }
    return false;
}

static bool names_add(watch_directory *d, const wchar_t *text)
{
    size_t units = wcslen(text);
    if (names_have(d, text, units)) return true;
    watch_name *name = mem_alloc(sizeof(*name) + (units + 1) * sizeof(*text));
    if (name == NULL) return false;
    memcpy(name->text, text, (units + 1) * sizeof(*text));
    name->next = d->names;
    d->names = name;
    return true;
}

static bool read_events(watch_system *s, watch_directory *d)
{
    d->overlapped = (OVERLAPPED){0};
    d->pending = ReadDirectoryChangesW(d->handle, d->events, sizeof(d->events), FALSE, event_mask, NULL, &d->overlapped,
                                       NULL) != 0;
    if (d->pending) s->pending++;
    return d->pending;
}

static void directory_free(watch_directory *d)
{
    assert(!d->pending);
    CloseHandle(d->handle);
    names_free(d);
    mem_free(d);
}

/* Takes it out of the list. Where a read is under way, its packet frees it. */
static void directory_drop(watch_system *s, watch_directory *d)
{
    watch_directory **link = &s->directories;
    while (*link != d) link = &(*link)->next;
    *link = d->next;
    s->count--;
    d->next = NULL;
    d->met = false;
    if (d->pending) CancelIoEx(d->handle, &d->overlapped);
    else directory_free(d);
}

static bool identify(watch_identity *identity, HANDLE handle)
{
    BY_HANDLE_FILE_INFORMATION facts;
    if (!GetFileInformationByHandle(handle, &facts)) return false;
    *identity = (watch_identity){facts.dwVolumeSerialNumber, facts.nFileIndexHigh, facts.nFileIndexLow};
    return true;
}

static watch_directory *find_directory(watch_system *s, const watch_identity *identity)
{
    watch_directory *d = s->directories;
    while (d != NULL && memcmp(&d->identity, identity, sizeof(*identity)) != 0) d = d->next;
    return d;
}

/* The handle is the directory's from here on, or closed. */
static watch_directory *add_directory(watch_system *s, HANDLE handle, const watch_identity *identity)
{
    watch_directory *d = s->count < DIRECTORIES_MAX ? mem_zalloc(sizeof(*d)) : NULL;
    if (d == NULL || CreateIoCompletionPort(handle, s->port, 0, 0) == NULL) goto fail;
    d->handle = handle;
    d->identity = *identity;
    if (!read_events(s, d)) goto fail; /* not every file system tells */
    d->next = s->directories;
    s->directories = d;
    s->count++;
    return d;
fail:
    CloseHandle(handle);
    mem_free(d);
    return NULL;
}

static HANDLE open_path(const wchar_t *path, DWORD access, DWORD flags)
{
    return CreateFileW(path, access, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, OPEN_EXISTING,
                       FILE_FLAG_BACKUP_SEMANTICS | flags, NULL);
}

/* Wants to hear about what a path names in its directory. The path is changed on the way and put together again. */
static bool notify_of(watch_system *s, wchar_t *path)
{
    wchar_t *name = path + wcslen(path);
    while (name > path && name[-1] != L'\\' && name[-1] != L'/' && name[-1] != L':') name--;
    wchar_t first = *name;
    *name = L'\0';
    HANDLE handle = open_path(path[0] != L'\0' ? path : L".", FILE_LIST_DIRECTORY, FILE_FLAG_OVERLAPPED);
    *name = first;
    if (handle == INVALID_HANDLE_VALUE) return false;
    watch_identity identity;
    if (!identify(&identity, handle)) {
        CloseHandle(handle);
        return false;
    }
    watch_directory *d = find_directory(s, &identity);
    if (d != NULL) CloseHandle(handle);
    else d = add_directory(s, handle, &identity);
    if (d == NULL) return false;
    if (!d->met) names_free(d); /* those of earlier rounds */
    d->met = true;
    return names_add(d, name);
}

/* ---- Looking ---- */

/* The directory in which an open file really lies. */
static bool notify_of_target(watch_system *s, HANDLE file)
{
    wchar_t *path = mem_alloc(PATH_UNITS * sizeof(*path));
    if (path == NULL) return false;
    DWORD units = GetFinalPathNameByHandleW(file, path, PATH_UNITS, FILE_NAME_NORMALIZED | VOLUME_NAME_DOS);
    bool good = units > 0 && units < PATH_UNITS && notify_of(s, path);
    mem_free(path);
    return good;
}

static uint64_t mix_facts(uint64_t stamp, const BY_HANDLE_FILE_INFORMATION *facts)
{
    const DWORD chosen[] = {facts->dwVolumeSerialNumber,
                            facts->nFileIndexHigh,
                            facts->nFileIndexLow,
                            facts->nFileSizeHigh,
                            facts->nFileSizeLow,
                            facts->dwFileAttributes,
                            facts->ftLastWriteTime.dwHighDateTime,
                            facts->ftLastWriteTime.dwLowDateTime,
                            facts->ftCreationTime.dwHighDateTime,
                            facts->ftCreationTime.dwLowDateTime};
    return watch_stamp_mix(stamp, chosen, sizeof(chosen));
}

uint64_t watch_system_look(watch_system *s, const char *path)
{
    wchar_t *wide = wide_from(path, L"");
    if (wide == NULL) {
        s->covered = false;
        return WATCH_STAMP_FIRST;
    }
    /* What is to be stamped is looked at after it is watched: nothing can happen between. */
    if (!s->polling && !notify_of(s, wide)) s->covered = false;
    BY_HANDLE_FILE_INFORMATION facts;
    uint64_t stamp = WATCH_STAMP_FIRST;
    HANDLE file = open_path(wide, FILE_READ_ATTRIBUTES, 0);
    bool there = file != INVALID_HANDLE_VALUE && GetFileInformationByHandle(file, &facts);
    DWORD code = there ? ERROR_SUCCESS : GetLastError();
    if (there && !s->polling && !notify_of_target(s, file)) s->covered = false;
    stamp = there ? mix_facts(stamp, &facts) : watch_stamp_mix(stamp, &code, sizeof(code));
    if (file != INVALID_HANDLE_VALUE) CloseHandle(file);
    mem_free(wide);
    return stamp;
}

void watch_system_begin(watch_system *s)
{
    s->covered = !s->polling;
    for (watch_directory *d = s->directories; d != NULL; d = d->next) d->met = false;
}

bool watch_system_end(watch_system *s)
{
    watch_directory *next;
    for (watch_directory *d = s->directories; d != NULL; d = next) {
        next = d->next;
        if (!d->met) directory_drop(s, d);
    }
    return s->covered;
}

/* ---- Waiting ---- */

/* True when something of ours is among what came. bytes 0: it was too much to be told. Windows puts records at multiples of
 * four, Wine one right behind the other (source: notify-rs/notify#647), so they are copied out; a name's letters need only two. */
static bool has_ours(const watch_directory *d, DWORD bytes)
{
    if (bytes == 0) return true;
    for (DWORD at = 0;;) {
        FILE_NOTIFY_INFORMATION event;
        memcpy(&event, d->events + at, offsetof(FILE_NOTIFY_INFORMATION, FileName));
        const void *name = d->events + at + offsetof(FILE_NOTIFY_INFORMATION, FileName);
        if (names_have(d, name, event.FileNameLength / sizeof(wchar_t))) return true;
        if (event.NextEntryOffset == 0) return false;
        at += event.NextEntryOffset;
    }
}

static bool is_listed(const watch_system *s, const watch_directory *wanted)
{
    const watch_directory *d = s->directories;
    while (d != NULL && d != wanted) d = d->next;
    return d != NULL;
}

/* A packet of a directory. True when something of ours happened. */
static bool take_events(watch_system *s, watch_directory *d, bool good, DWORD bytes)
{
    d->pending = false;
    s->pending--;
    if (!is_listed(s, d)) {
        directory_free(d); /* it was dropped, and this is the packet of the cancelled read */
        return false;
    }
    bool ours = !good || has_ours(d, bytes);
    /* The directory has gone, or its drive. The look that follows opens what is there by then. */
    if (!good || !read_events(s, d)) {
        directory_drop(s, d);
        return true;
    }
    return ours;
}

static DWORD milliseconds(int64_t ns)
{
    int64_t ms = (ns + 999999) / 1000000;
    return ms < INT_MAX ? (DWORD)ms : (DWORD)INT_MAX;
}

watch_news watch_system_wait(watch_system *s, int64_t timeout_ns)
{
    int64_t deadline_ns = os_monotonic_ns() + timeout_ns;
    for (;;) {
        DWORD bytes = 0;
        ULONG_PTR key = 0;
        OVERLAPPED *overlapped = NULL;
        bool good = GetQueuedCompletionStatus(s->port, &bytes, &key, &overlapped, milliseconds(timeout_ns)) != 0;
        if (good && overlapped == NULL) return WATCH_WOKEN;
        if (overlapped != NULL) {
            if (take_events(s, container_of(overlapped, watch_directory, overlapped), good, bytes))
                return WATCH_TOUCHED;
            Sleep(CROWD_PAUSE_MS);
        }
        timeout_ns = deadline_ns - os_monotonic_ns();
        if (timeout_ns <= 0) return WATCH_TIME_OVER;
    }
}

bool watch_system_writing(const watch_system *s)
{
    (void)s;
    return false; /* to find out would mean to stand in the writer's way for a moment */
}

void watch_system_wake(watch_system *s)
{
    (void)PostQueuedCompletionStatus(s->port, 0, 0, NULL);
}

/* ---- Opening and closing ---- */

watch_system *watch_system_open(bool poll)
{
    watch_system *s = mem_zalloc(sizeof(*s));
    if (s == NULL) return NULL;
    s->polling = poll;
    s->port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1);
    if (s->port != NULL) return s;
    mem_free(s);
    return NULL;
}

void watch_system_close(watch_system *s)
{
    while (s->directories != NULL) directory_drop(s, s->directories);
    while (s->pending > 0) {
        DWORD bytes;
        ULONG_PTR key;
        OVERLAPPED *overlapped = NULL;
        (void)GetQueuedCompletionStatus(s->port, &bytes, &key, &overlapped, INFINITE);
        if (overlapped != NULL) (void)take_events(s, container_of(overlapped, watch_directory, overlapped), false, 0);
    }
    CloseHandle(s->port);
    mem_free(s);
}
