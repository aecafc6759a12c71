/* trips_win.c - does one thing that must not be done, named by the first argument, and succeeds when that faults where it
 * should: so that it is known that guard_win.c and the undefined-behaviour sanitizer are there and see.
 */
#include "base.h"
#include "io.h"
#include "mem.h"
#include "net.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

static DWORD expected;            /* the exception */
static const char *expected_from; /* where the wrong access is to be, … */
static const char *expected_to;   /* … and the end of that; both NULL: anywhere */

static LONG WINAPI on_exception(EXCEPTION_POINTERS *told)
{
    const EXCEPTION_RECORD *e = told->ExceptionRecord;
    if (e->ExceptionCode != expected) return EXCEPTION_CONTINUE_SEARCH;
    const char *where = e->NumberParameters >= 2 ? (const char *)e->ExceptionInformation[1] : NULL;
    if (expected_from != NULL && (where < expected_from || where >= expected_to)) return EXCEPTION_CONTINUE_SEARCH;
    ExitProcess(EXIT_SUCCESS);
}

static void expect_access(const void *block, size_t bytes)
{
    expected = EXCEPTION_ACCESS_VIOLATION;
    expected_from = block;
    expected_to = expected_from + bytes;
}

/* A packet whose op is gone. */
static void late_packet(void)
{
    char why[256];
    io_port *port = NULL;
    io_packet packet;
    const io_backend *backend = net_start() == IO_OK ? io_backend_find("iocp", why, sizeof why) : NULL;
    io_op *op = mem_zalloc(sizeof *op);
    if (backend == NULL || op == NULL || io_port_open(&port, backend, NULL) != IO_OK) return;
    io_port_post(port, op);
    expect_access(op, sizeof *op);
    mem_free(op);
    while (io_port_wait(port, -1) == IO_OK && !io_port_next(port, &packet)) continue;
}

static void behind_block(void)
{
    char *block = mem_alloc(100);
    if (block == NULL) return;
    expect_access(block + 100, 100);
    memset(block, 1, 128); /* the end is rounded up to a multiple of 16 */
}

static void freed_block(void)
{
    volatile char *block = mem_alloc(100);
    if (block == NULL) return;
    expect_access((const void *)(uintptr_t)block, 100);
    mem_free((void *)(uintptr_t)block);
    (void)block[50];
}

static void overflow(void)
{
    volatile int most = INT_MAX;
    expected = EXCEPTION_ILLEGAL_INSTRUCTION;
    most = most + 1;
}

static const struct {
    const char *name;
    void (*run)(void);
} trips[] = {
    {"late_packet", late_packet},
    {"behind_block", behind_block},
    {"freed_block", freed_block},
    {"overflow", overflow},
};

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    (void)AddVectoredExceptionHandler(1, on_exception);
    for (size_t i = 0; i < array_count(trips); i++) {
        if (strcmp(trips[i].name, name) != 0) continue;
        trips[i].run();
        fprintf(stderr, "%s: nothing has faulted\n", name);
        return EXIT_FAILURE;
    }
    fprintf(stderr, "there is no trip '%s'\n", name);
    return EXIT_FAILURE;
}
