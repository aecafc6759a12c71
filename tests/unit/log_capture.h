/* log_capture.h - standard error into a file and back, for the tests of the log. */
#ifndef PORTICO_TESTS_LOG_CAPTURE_H
#define PORTICO_TESTS_LOG_CAPTURE_H

#include "check.h"
#include "os.h"

#include <unistd.h>

enum { CAPTURE_MAX = 8 << 20 };

static struct {
    int real; /* the real standard error */
    char path[64];
    char text[CAPTURE_MAX + 1]; /* what was written, from capture_end() on; ends in NUL */
    size_t len;
} capture;

static inline void capture_begin(void)
{
    snprintf(capture.path, sizeof(capture.path), "log_capture_%lu.tmp", os_pid());
    FILE *file = fopen(capture.path, "wb");
    check(file != NULL);
    capture.real = dup(STDERR_FILENO);
    check(capture.real >= 0);
    check(dup2(fileno(file), STDERR_FILENO) >= 0);
    fclose(file);
}

static inline void capture_end(void)
{
    check(dup2(capture.real, STDERR_FILENO) >= 0);
    close(capture.real);
    FILE *file = fopen(capture.path, "rb");
    check(file != NULL);
    capture.len = fread(capture.text, 1, CAPTURE_MAX, file);
    check(capture.len < CAPTURE_MAX);
    capture.text[capture.len] = '\0';
    fclose(file);
    remove(capture.path);
}

#endif
