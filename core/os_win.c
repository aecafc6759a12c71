/* os_win.c - os.h on Windows: threads, slim locks, the performance counter, and console events turned into news. */
#include "os.h"

#include "base.h"
#include "mem.h"

#include <windows.h>
#include <bcrypt.h>
#include <process.h>

#include <assert.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NS_PER_SECOND = 1000000000,
    NS_PER_MS = 1000000,
    FILETIME_NS = 100,         /* unit of a FILETIME */
    STACK_BYTES = 8 << 20,     /* of a thread, as on Linux; only what is touched costs memory */
    NAME_MAX = 15,             /* characters of a thread's name */
    WRITE_BYTES_MAX = 1 << 20, /* of one WriteFile() */
    NEWS_MAX = 64              /* unread news; one more changes nothing */
};

/* From 1601-01-01, where a FILETIME begins, to 1970-01-01, in units of FILETIME_NS. */
#define FILETIME_UNIX INT64_C(116444736000000000)

/* ---- Functions that not every system has, or that no header declares ---- */

static FARPROC find_function(const wchar_t *library, const char *name)
{
    HMODULE module = GetModuleHandleW(library);
    return module != NULL ? GetProcAddress(module, name) : NULL;
}

/* "8.0" under Wine, else NULL. */
static const char *wine_version(void)
{
    const char *(CDECL * get)(void) = NULL;
    FARPROC found = find_function(L"ntdll.dll", "wine_get_version");
    if (found == NULL) return NULL;
    memcpy(&get, &found, sizeof get);
    return get();
}

bool os_is_wine(void)
{
    return wine_version() != NULL;
}

char *os_describe(char *text, size_t size)
{
    LONG(WINAPI * get)(OSVERSIONINFOW * version) = NULL; /* the documented call lies to programs without a manifest */
    OSVERSIONINFOW version = {.dwOSVersionInfoSize = sizeof version};
    FARPROC found = find_function(L"ntdll.dll", "RtlGetVersion");
    const char *wine = wine_version();
    memcpy(&get, &found, sizeof get);
    if (get == NULL || get(&version) != 0) {
        (void)snprintf(text, size, "Windows");
        return text;
    }
    (void)snprintf(text, size, "Windows %lu.%lu.%lu%s%s%s", version.dwMajorVersion, version.dwMinorVersion,
                   version.dwBuildNumber, wine != NULL ? " (Wine " : "", wine != NULL ? wine : "",
                   wine != NULL ? ")" : "");
    return text;
}

/* ---- Clocks and the machine ---- */

int64_t os_monotonic_ns(void)
{
    static _Atomic int64_t frequency; /* ticks a second; fixed at boot */
    LARGE_INTEGER ticks;
    int64_t per_second = atomic_load_explicit(&frequency, memory_order_relaxed);
    if (per_second == 0) {
        (void)QueryPerformanceFrequency(&ticks);
        per_second = ticks.QuadPart;
        atomic_store_explicit(&frequency, per_second, memory_order_relaxed);
    }
    (void)QueryPerformanceCounter(&ticks);
    /* In two parts, since ticks times a billion overflow after a quarter of an hour at 10 MHz. */
    return ticks.QuadPart / per_second * NS_PER_SECOND + ticks.QuadPart % per_second * NS_PER_SECOND / per_second;
}

int64_t os_realtime_ns(void)
{
    FILETIME now;
    GetSystemTimePreciseAsFileTime(&now);
    int64_t units = (int64_t)((uint64_t)now.dwHighDateTime << 32 | now.dwLowDateTime);
    return (units - FILETIME_UNIX) * FILETIME_NS;
}

unsigned os_cpu_count(void)
{
    DWORD_PTR mine = 0;
    DWORD_PTR all = 0;
    unsigned count = 0;
    bool asked = GetProcessAffinityMask(GetCurrentProcess(), &mine, &all);
    /* The masks speak of one group of up to 64 processors, and are 0 for a process that was put in several. */
    if (!asked || mine == all) count = GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    else
        for (; mine != 0; mine &= mine - 1) count++;
    return count > 0 ? count : 1;
}

unsigned long os_pid(void)
{
    return GetCurrentProcessId();
}

void os_random(void *bytes, size_t len)
{
    unsigned char *next = bytes;
    while (len > 0) {
        ULONG piece = len < ULONG_MAX ? (ULONG)len : ULONG_MAX;
        if (BCryptGenRandom(NULL, next, piece, BCRYPT_USE_SYSTEM_PREFERRED_RNG) < 0) {
            abort(); /* Weak randomness would be worse than no server. */
        }
        next += piece;
        len -= piece;
    }
}

uint64_t os_raise_descriptor_limit(void)
{
    return 0; /* handles are limited by memory only */
}

bool os_write_stderr(const char *bytes, size_t len)
{
    HANDLE handle = GetStdHandle(STD_ERROR_HANDLE);
    while (len > 0) {
        DWORD written = 0;
        DWORD piece = len < WRITE_BYTES_MAX ? (DWORD)len : WRITE_BYTES_MAX;
        if (!WriteFile(handle, bytes, piece, &written, NULL) || written == 0) return false;
        bytes += written;
        len -= written;
    }
    return true;
}

bool os_stderr_is_terminal(void)
{
    DWORD mode;
    return GetConsoleMode(GetStdHandle(STD_ERROR_HANDLE), &mode);
}

/* ExitProcess() would wait for locks of the loader that a thread may hold. */
_Noreturn void os_end_now(int code)
{
    (void)TerminateProcess(GetCurrentProcess(), (UINT)code);
    abort(); /* it does not return */
}

/* Milliseconds, rounded up; negative is for ever. */
static DWORD wait_ms(int64_t timeout_ns)
{
    if (timeout_ns < 0) return INFINITE;
    int64_t ms = timeout_ns / NS_PER_MS + (timeout_ns % NS_PER_MS != 0);
    return ms < INFINITE ? (DWORD)ms : INFINITE - 1;
}

/* ---- Threads ---- */

struct os_thread {
    HANDLE handle;
    unsigned id;
    SRWLOCK interrupters; /* one at a time */
    void (*run)(void *argument);
    void *argument;
};

static unsigned __stdcall thread_main(void *argument)
{
    os_thread *thread = argument;
    thread->run(thread->argument);
    return 0;
}

/* Since Windows 10 1607. */
static void name_thread(HANDLE thread, const char *name)
{
    HRESULT(WINAPI * set)(HANDLE thread, PCWSTR name) = NULL;
    wchar_t wide[NAME_MAX + 1] = {0};
    FARPROC found = find_function(L"kernelbase.dll", "SetThreadDescription");
    if (found == NULL) return;
    memcpy(&set, &found, sizeof set);
    for (size_t i = 0; i < NAME_MAX && name[i] != '\0'; i++) wide[i] = (unsigned char)name[i];
    (void)set(thread, wide);
}

os_thread *os_thread_start(const char *name, void (*run)(void *argument), void *argument)
{
    os_thread *thread = mem_zalloc(sizeof *thread);
    if (thread == NULL) return NULL;
    assert(strlen(name) <= NAME_MAX);
    thread->run = run;
    thread->argument = argument;
    InitializeSRWLock(&thread->interrupters);
    thread->handle = (HANDLE)_beginthreadex(NULL, STACK_BYTES, thread_main, thread,
                                            CREATE_SUSPENDED | STACK_SIZE_PARAM_IS_A_RESERVATION, &thread->id);
    if (thread->handle == NULL) {
        mem_free(thread);
        return NULL;
    }
    name_thread(thread->handle, name);
    (void)ResumeThread(thread->handle);
    return thread;
}

void os_thread_join(os_thread *thread)
{
    DWORD result = WaitForSingleObject(thread->handle, INFINITE);
    assert(result == WAIT_OBJECT_0);
    (void)result;
    (void)CloseHandle(thread->handle);
    mem_free(thread);
}

void os_thread_interrupt(os_thread *thread, void (*interrupt)(void *argument), void *argument)
{
    CONTEXT context = {.ContextFlags = CONTEXT_CONTROL};
    if (GetCurrentThreadId() == thread->id) {
        interrupt(argument);
        return;
    }
    AcquireSRWLockExclusive(&thread->interrupters);
    /* Fails when the thread has ended. */
    if (SuspendThread(thread->handle) != (DWORD)-1) {
        /* SuspendThread() only asks; the context can be had only once the thread stands still. */
        if (GetThreadContext(thread->handle, &context)) interrupt(argument);
        (void)ResumeThread(thread->handle);
    }
    ReleaseSRWLockExclusive(&thread->interrupters);
}

int64_t os_thread_cpu_ns(os_thread *thread)
{
    FILETIME created, ended, kernel, user;
    if (!GetThreadTimes(thread->handle, &created, &ended, &kernel, &user)) return 0;
    uint64_t ticks = ((uint64_t)kernel.dwHighDateTime << 32 | kernel.dwLowDateTime) +
                     ((uint64_t)user.dwHighDateTime << 32 | user.dwLowDateTime);
    return (int64_t)(ticks * 100); /* a tick is 100 ns */
}

/* ---- Locks ---- */

struct os_mutex {
    SRWLOCK native;
};

struct os_cond {
    CONDITION_VARIABLE native;
};

os_mutex *os_mutex_open(void)
{
    os_mutex *mutex = mem_alloc(sizeof *mutex);
    if (mutex != NULL) InitializeSRWLock(&mutex->native);
    return mutex;
}

void os_mutex_close(os_mutex *mutex)
{
    mem_free(mutex);
}

void os_mutex_lock(os_mutex *mutex)
{
    AcquireSRWLockExclusive(&mutex->native);
}

void os_mutex_unlock(os_mutex *mutex)
{
    ReleaseSRWLockExclusive(&mutex->native);
}

os_cond *os_cond_open(void)
{
    os_cond *cond = mem_alloc(sizeof *cond);
    if (cond != NULL) InitializeConditionVariable(&cond->native);
    return cond;
}

void os_cond_close(os_cond *cond)
{
    mem_free(cond);
}

bool os_cond_wait(os_cond *cond, os_mutex *mutex, int64_t timeout_ns)
{
    if (SleepConditionVariableSRW(&cond->native, &mutex->native, wait_ms(timeout_ns), 0)) return true;
    assert(GetLastError() == ERROR_TIMEOUT);
    return false;
}

void os_cond_signal(os_cond *cond)
{
    WakeConditionVariable(&cond->native);
}

void os_cond_broadcast(os_cond *cond)
{
    WakeAllConditionVariable(&cond->native);
}

/* ---- News ---- */

static struct {
    SRWLOCK lock;
    CONDITION_VARIABLE arrived;
    os_news ring[NEWS_MAX];
    unsigned first;
    unsigned count;
} unread = {.lock = SRWLOCK_INIT, .arrived = CONDITION_VARIABLE_INIT};

void os_news_post(os_news news)
{
    AcquireSRWLockExclusive(&unread.lock);
    if (unread.count < NEWS_MAX) unread.ring[(unread.first + unread.count++) % NEWS_MAX] = news;
    ReleaseSRWLockExclusive(&unread.lock);
    WakeConditionVariable(&unread.arrived);
}

/* Runs on a thread that the system makes for each event. */
static BOOL WINAPI on_console_event(DWORD event)
{
    os_news_post(OS_NEWS_STOP);
    /* After these Windows kills the process as soon as the handler returns, and some seconds later anyway: the main
     * thread ends it before that. */
    if (event == CTRL_CLOSE_EVENT || event == CTRL_LOGOFF_EVENT || event == CTRL_SHUTDOWN_EVENT) Sleep(INFINITE);
    return TRUE;
}

bool os_news_open(void)
{
    return SetConsoleCtrlHandler(on_console_event, TRUE);
}

os_news os_news_wait(int64_t timeout_ns)
{
    int64_t start_ns = os_monotonic_ns();
    os_news news = OS_NEWS_WAKE;
    AcquireSRWLockExclusive(&unread.lock);
    while (unread.count == 0) {
        int64_t left_ns = timeout_ns < 0 ? -1 : timeout_ns - (os_monotonic_ns() - start_ns);
        if (timeout_ns >= 0 && left_ns <= 0) break;
        (void)SleepConditionVariableSRW(&unread.arrived, &unread.lock, wait_ms(left_ns), 0);
    }
    if (unread.count > 0) {
        news = unread.ring[unread.first];
        unread.first = (unread.first + 1) % NEWS_MAX;
        unread.count--;
    }
    ReleaseSRWLockExclusive(&unread.lock);
    return news;
}
