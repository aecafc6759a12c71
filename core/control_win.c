/* control_win.c - control_system.h on Windows: a named pipe with an instance for each client.
 *
 * The usual name is \\.\pipe\portico-PID. The pipe is for the user who runs the server and for the system, from this
 * machine only; nobody else can have made a pipe of that name before, since ours must be its first instance (Wine 8 does
 * not look). A client lets the server know who it is, but not act in its name.
 */
#include "control_system.h"

#include "mem.h"
#include "os.h"

#include <windows.h>
#include <sddl.h>
#include <tlhelp32.h>

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

enum {
    BUFFER_BYTES = 4096, /* of a pipe, each way */
    SDDL_UNITS = 256,    /* of the text that says who may do what */
    TOKEN_BYTES = 256,   /* of what tells the user: a SID has 68 at most */
    BUSY_WAIT_MS = 50    /* between two looks whether the pipe has an instance for us */
};

static const char prefix[] = "\\\\.\\pipe\\";

/* What is under way on an instance. */
typedef enum instance_op { INSTANCE_IDLE, INSTANCE_CONNECT, INSTANCE_READ, INSTANCE_WRITE, INSTANCE_PART } instance_op;

typedef struct instance {
    HANDLE pipe;
    OVERLAPPED overlapped; /* with an event of its own */
    instance_op op;        /* the system's until its result has been taken */
    char scrap[16];        /* what a client sends behind its line */
} instance;

struct control_server {
    wchar_t name[CONTROL_WHERE_MAX];
    SECURITY_ATTRIBUTES security;
    HANDLE wake; /* an event */
    instance instances[CONTROL_CLIENTS_MAX];
};

static void fail_with(char *error, size_t error_size, const char *where, DWORD code)
{
    switch (code) {
    case ERROR_FILE_NOT_FOUND:
        snprintf(error, error_size, "%s: no portico there", where);
        break;
    case ERROR_ACCESS_DENIED:
        snprintf(error, error_size, "%s: access denied", where);
        break;
    case ERROR_SEM_TIMEOUT:
        snprintf(error, error_size, "%s: no answer in time", where);
        break;
    case ERROR_INVALID_NAME:
        snprintf(error, error_size, "%s: not the name of a pipe", where);
        break;
    default:
        snprintf(error, error_size, "%s: Windows error %lu", where, (unsigned long)code);
        break;
    }
}

/* The name in full, from "NAME" or "\\.\pipe\NAME"; NULL: that of this process. False: too long, or not UTF-8. */
static bool set_name(wchar_t *wide, char *name, const char *where)
{
    int len;
    bool whole = where != NULL && strncmp(where, prefix, sizeof(prefix) - 1) == 0;
    if (where == NULL) len = snprintf(name, CONTROL_WHERE_MAX, "%sportico-%lu", prefix, os_pid());
    else len = snprintf(name, CONTROL_WHERE_MAX, "%s%s", whole ? "" : prefix, where);
    if (len >= CONTROL_WHERE_MAX) return false;
    return MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, name, -1, wide, CONTROL_WHERE_MAX) > 0;
}

bool control_usual_place(char *place, char *error, size_t error_size)
{
    wchar_t wide[CONTROL_WHERE_MAX];
    if (set_name(wide, place, NULL)) return true;
    snprintf(error, error_size, "the name of the pipe is too long");
    return false;
}

/* ---- Opening the server ---- */

/* Whoever runs the server, and the system. */
static DWORD allow_owner(SECURITY_ATTRIBUTES *security)
{
    HANDLE token;
    _Alignas(TOKEN_USER) char bytes[TOKEN_BYTES];
    DWORD len;
    wchar_t *user = NULL;
    wchar_t text[SDDL_UNITS];
    if (!OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &token)) return GetLastError();
    bool good = GetTokenInformation(token, TokenUser, bytes, sizeof(bytes), &len) &&
                ConvertSidToStringSidW(((TOKEN_USER *)(void *)bytes)->User.Sid, &user);
    DWORD code = good ? ERROR_SUCCESS : GetLastError();
    CloseHandle(token);
    if (!good) return code;
    /* D:P: this list and no inherited one. GA: everything. SY: the system. */
    _snwprintf(text, SDDL_UNITS, L"D:P(A;;GA;;;%ls)(A;;GA;;;SY)", user);
    LocalFree(user);
    *security = (SECURITY_ATTRIBUTES){.nLength = sizeof(*security)};
    good = ConvertStringSecurityDescriptorToSecurityDescriptorW(text, SDDL_REVISION_1, &security->lpSecurityDescriptor,
                                                                NULL);
    return good ? ERROR_SUCCESS : GetLastError();
}

static DWORD open_instance(control_server *s, size_t index)
{
    instance *n = &s->instances[index];
    DWORD first = index == 0 ? FILE_FLAG_FIRST_PIPE_INSTANCE : 0;
    n->pipe = CreateNamedPipeW(s->name, PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | first,
                               PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS,
                               CONTROL_CLIENTS_MAX, BUFFER_BYTES, BUFFER_BYTES, 0, &s->security);
    if (n->pipe == INVALID_HANDLE_VALUE) return GetLastError();
    n->overlapped.hEvent = CreateEventW(NULL, TRUE, FALSE, NULL);
    return n->overlapped.hEvent != NULL ? ERROR_SUCCESS : GetLastError();
}

void control_server_close(control_server *s)
{
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        instance *n = &s->instances[i];
        assert(n->op == INSTANCE_IDLE);
        if (n->pipe != INVALID_HANDLE_VALUE) CloseHandle(n->pipe);
        if (n->overlapped.hEvent != NULL) CloseHandle(n->overlapped.hEvent);
    }
    if (s->wake != NULL) CloseHandle(s->wake);
    LocalFree(s->security.lpSecurityDescriptor);
    mem_free(s);
}

control_server *control_server_open(char *name, const char *where, char *error, size_t error_size)
{
    control_server *s = mem_zalloc(sizeof(*s));
    if (s == NULL) return NULL;
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) s->instances[i].pipe = INVALID_HANDLE_VALUE;
    DWORD code = set_name(s->name, name, where) ? ERROR_SUCCESS : ERROR_INVALID_NAME;
    if (code == ERROR_SUCCESS) code = allow_owner(&s->security);
    s->wake = CreateEventW(NULL, FALSE, FALSE, NULL);
    if (code == ERROR_SUCCESS && s->wake == NULL) code = GetLastError();
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX && code == ERROR_SUCCESS; i++) code = open_instance(s, i);
    if (code == ERROR_SUCCESS) return s;
    fail_with(error, error_size, where != NULL ? where : name, code);
    control_server_close(s);
    return NULL;
}

bool control_server_give(control_server *s, uint32_t user)
{
    (void)s;
    (void)user;
    return true;
}

void control_server_wake(control_server *s)
{
    (void)SetEvent(s->wake);
}

/* ---- Serving ---- */

/* Starts what the exchange is ready for. False: the client has gone. What is over at once sets the event, and its result
 * is taken like any other. */
static bool begin_op(instance *n, exchange *e)
{
    size_t len = 0;
    BOOL started = FALSE;
    OVERLAPPED *o = &n->overlapped;
    assert(n->op == INSTANCE_IDLE && e->state != EXCHANGE_ASKED);
    *o = (OVERLAPPED){.hEvent = o->hEvent};
    if (e->state == EXCHANGE_FREE) {
        n->op = INSTANCE_CONNECT;
        started = ConnectNamedPipe(n->pipe, o);
        /* The client was faster. This is no failure, but no operation either. */
        if (!started && GetLastError() == ERROR_PIPE_CONNECTED) {
            n->op = INSTANCE_IDLE;
            exchange_begin(e);
            return true;
        }
    } else if (e->state == EXCHANGE_READING) {
        char *room = exchange_room(e, &len);
        n->op = INSTANCE_READ;
        started = ReadFile(n->pipe, room, (DWORD)len, NULL, o);
    } else if (e->state == EXCHANGE_ANSWERING) {
        const char *rest = exchange_rest(e, &len);
        n->op = INSTANCE_WRITE;
        started = WriteFile(n->pipe, rest, (DWORD)len, NULL, o);
    } else { /* SENT. To disconnect would take away what the client has not read: it is to go first. */
        n->op = INSTANCE_PART;
        started = ReadFile(n->pipe, n->scrap, sizeof(n->scrap), NULL, o);
    }
    if (started || GetLastError() == ERROR_IO_PENDING) return true;
    n->op = INSTANCE_IDLE;
    return false;
}

/* The op has ended. False: the client has gone. */
static bool end_op(control *c, instance *n, exchange *e)
{
    DWORD bytes = 0;
    bool good = GetOverlappedResult(n->pipe, &n->overlapped, &bytes, TRUE);
    instance_op op = n->op;
    n->op = INSTANCE_IDLE;
    if (!good) return false;
    if (op == INSTANCE_CONNECT) exchange_begin(e);
    else if (op == INSTANCE_READ) exchange_received(c, e, bytes);
    else if (op == INSTANCE_WRITE) exchange_sent(e, bytes);
    return true;
}

/* Takes back what is under way, and makes the instance ready for the next client. */
static void drop_client(instance *n, exchange *e)
{
    DWORD bytes;
    if (n->op != INSTANCE_IDLE) {
        CancelIoEx(n->pipe, &n->overlapped);
        (void)GetOverlappedResult(n->pipe, &n->overlapped, &bytes, TRUE);
        n->op = INSTANCE_IDLE;
    }
    exchange_end(e);
    DisconnectNamedPipe(n->pipe);
}

/* Whatever can go on with one client goes on. */
static void serve_client(control *c, instance *n, exchange *e)
{
    bool ended = e->state == EXCHANGE_FREE && n->op != INSTANCE_IDLE && n->op != INSTANCE_CONNECT; /* by control.c */
    bool over = ended || os_monotonic_ns() >= e->deadline_ns;
    bool ready = n->op != INSTANCE_IDLE && WaitForSingleObject(n->overlapped.hEvent, 0) == WAIT_OBJECT_0;
    if (over || (ready && !end_op(c, n, e))) drop_client(n, e);
    /* Twice, since a client may be there already. If it goes on failing, the next turn tries again. */
    for (int i = 0; i < 2; i++) {
        bool waits = e->state == EXCHANGE_ASKED || (e->state == EXCHANGE_FREE && control_closing(c));
        if (n->op == INSTANCE_IDLE && !waits && !begin_op(n, e)) drop_client(n, e);
    }
}

static DWORD milliseconds_until(int64_t deadline_ns)
{
    if (deadline_ns == INT64_MAX) return INFINITE;
    int64_t left_ns = deadline_ns - os_monotonic_ns();
    int64_t ms = left_ns > 0 ? (left_ns + 999999) / 1000000 : 0;
    return ms < INT_MAX ? (DWORD)ms : (DWORD)INT_MAX;
}

void control_server_run(control_server *s, control *c)
{
    static_assert(CONTROL_CLIENTS_MAX + 1 <= MAXIMUM_WAIT_OBJECTS, "all can be waited for at once");
    while (control_deliver(c)) {
        HANDLE events[CONTROL_CLIENTS_MAX + 1] = {s->wake};
        DWORD count = 1;
        for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
            instance *n = &s->instances[i];
            serve_client(c, n, control_exchange(c, i));
            if (n->op != INSTANCE_IDLE) events[count++] = n->overlapped.hEvent;
        }
        (void)WaitForMultipleObjects(count, events, FALSE, milliseconds_until(control_deadline(c)));
    }
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) drop_client(&s->instances[i], control_exchange(c, i));
}

/* ---- The client ---- */

struct control_link {
    HANDLE pipe;
    OVERLAPPED overlapped; /* with an event of its own */
};

/* The pipe, or NULL and why not. While all instances are taken it is tried again. */
static HANDLE dial(const wchar_t *name, int64_t deadline_ns, DWORD *code)
{
    for (;;) {
        HANDLE pipe = CreateFileW(name, GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING,
                                  FILE_FLAG_OVERLAPPED | SECURITY_SQOS_PRESENT | SECURITY_IDENTIFICATION, NULL);
        *code = pipe == INVALID_HANDLE_VALUE ? GetLastError() : ERROR_SUCCESS;
        if (*code == ERROR_SUCCESS) return pipe;
        if (*code != ERROR_PIPE_BUSY) return NULL;
        if (os_monotonic_ns() >= deadline_ns) {
            *code = ERROR_SEM_TIMEOUT;
            return NULL;
        }
        (void)WaitNamedPipeW(name, BUSY_WAIT_MS);
    }
}

control_link *control_link_open(const char *where, int64_t deadline_ns, char *error, size_t error_size)
{
    char name[CONTROL_WHERE_MAX];
    wchar_t wide[CONTROL_WHERE_MAX];
    DWORD code = ERROR_INVALID_NAME;
    control_link *l = mem_zalloc(sizeof(*l));
    if (l == NULL) {
        snprintf(error, error_size, "out of memory");
        return NULL;
    }
    if (set_name(wide, name, where)) l->pipe = dial(wide, deadline_ns, &code);
    if (l->pipe == NULL) goto fail;
    l->overlapped.hEvent = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (l->overlapped.hEvent != NULL) return l;
    code = GetLastError();
    CloseHandle(l->pipe);
fail:
    fail_with(error, error_size, where, code);
    mem_free(l);
    return NULL;
}

/* The result of what was started: bytes, 0 for the end, or negative. */
static int finish(control_link *l, BOOL started, int64_t deadline_ns)
{
    DWORD bytes = 0;
    DWORD code = started ? ERROR_SUCCESS : GetLastError();
    if (code == ERROR_BROKEN_PIPE) return 0;
    if (code != ERROR_SUCCESS && code != ERROR_IO_PENDING) return -1;
    if (WaitForSingleObject(l->overlapped.hEvent, milliseconds_until(deadline_ns)) != WAIT_OBJECT_0) {
        CancelIoEx(l->pipe, &l->overlapped);
    }
    if (GetOverlappedResult(l->pipe, &l->overlapped, &bytes, TRUE)) return (int)bytes;
    return GetLastError() == ERROR_BROKEN_PIPE ? 0 : -1;
}

bool control_link_write(control_link *l, const char *bytes, size_t len, int64_t deadline_ns)
{
    while (len > 0) {
        DWORD part = len < BUFFER_BYTES ? (DWORD)len : BUFFER_BYTES;
        int written = finish(l, WriteFile(l->pipe, bytes, part, NULL, &l->overlapped), deadline_ns);
        if (written <= 0) return false;
        bytes += written;
        len -= (size_t)written;
    }
    return true;
}

int control_link_read(control_link *l, char *bytes, size_t room, int64_t deadline_ns)
{
    DWORD part = room < BUFFER_BYTES ? (DWORD)room : BUFFER_BYTES;
    return finish(l, ReadFile(l->pipe, bytes, part, NULL, &l->overlapped), deadline_ns);
}

void control_link_close(control_link *l)
{
    CloseHandle(l->pipe);
    CloseHandle(l->overlapped.hEvent);
    mem_free(l);
}

/* ---- Finding servers ---- */

/* Somebody serves it, and lets us in. The server sees a client that goes without a word. */
static bool is_served(const char *where)
{
    wchar_t wide[CONTROL_WHERE_MAX];
    char name[CONTROL_WHERE_MAX];
    if (!set_name(wide, name, where)) return false;
    DWORD code;
    HANDLE pipe = dial(wide, 0, &code);
    if (pipe != NULL) CloseHandle(pipe);
    return pipe != NULL || code == ERROR_SEM_TIMEOUT;
}

/* Every process is asked: pipes cannot be listed under Wine 8, and leave nothing behind that could mislead. */
size_t control_find(control_instance *list, size_t max)
{
    size_t count = 0;
    HANDLE snapshot = CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0);
    PROCESSENTRY32W entry = {.dwSize = sizeof(entry)};
    if (snapshot == INVALID_HANDLE_VALUE) return 0;
    for (BOOL more = Process32FirstW(snapshot, &entry); more && count < CONTROL_INSTANCES_MAX;
         more = Process32NextW(snapshot, &entry)) {
        control_instance found = {.pid = entry.th32ProcessID};
        snprintf(found.where, sizeof(found.where), "%sportico-%lu", prefix, found.pid);
        if (!is_served(found.where)) continue;
        if (count < max) list[count] = found;
        count++;
    }
    CloseHandle(snapshot);
    return count;
}
