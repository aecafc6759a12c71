/* control_client.c - the client's end of the channel for commands: one line out, one answer back. */
#include "control.h"

#include "control_system.h"
#include "mem.h"
#include "os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_MAX = 32 }; /* of "failed 1048576\n" */

/* Reads until len bytes are there. */
static bool read_exactly(control_link *l, char *bytes, size_t len, int64_t deadline_ns)
{
    while (len > 0) {
        int got = control_link_read(l, bytes, len, deadline_ns);
        if (got <= 0) return false;
        bytes += got;
        len -= (size_t)got;
    }
    return true;
}

/* The first line of an answer. */
static bool read_head(control_link *l, bool *done, size_t *len, int64_t deadline_ns)
{
    char head[HEAD_MAX];
    char word[8];
    size_t count = 0;
    do {
        if (count == sizeof(head) - 1 || !read_exactly(l, head + count, 1, deadline_ns)) return false;
    } while (head[count++] != '\n');
    head[count] = '\0';
    if (sscanf(head, "%7s %zu", word, len) != 2 || *len > CONTROL_TEXT_MAX) return false;
    *done = strcmp(word, "ok") == 0;
    return *done || strcmp(word, "failed") == 0;
}

/* NULL: no whole answer. */
static char *read_answer(control_link *l, bool *done, int64_t deadline_ns)
{
    size_t len = 0;
    if (!read_head(l, done, &len, deadline_ns)) return NULL;
    char *text = mem_alloc(len + 1);
    if (text == NULL) return NULL;
    text[len] = '\0';
    if (read_exactly(l, text, len, deadline_ns)) return text;
    mem_free(text);
    return NULL;
}

control_result control_ask(char **text, const char *where, const char *line, int64_t timeout_ns)
{
    char error[256];
    char bytes[CONTROL_LINE_MAX + 1]; /* and a NUL */
    bool done = false;
    int64_t deadline_ns = os_monotonic_ns() + timeout_ns;
    int len = snprintf(bytes, sizeof(bytes), "%s\n", line);
    if ((size_t)len >= sizeof(bytes)) {
        *text = mem_strdup("the line is too long");
        return CONTROL_FAILED;
    }
    control_link *l = control_link_open(where, deadline_ns, error, sizeof(error));
    if (l == NULL) {
        *text = mem_strdup(error);
        return CONTROL_UNREACHABLE;
    }
    bool asked = control_link_write(l, bytes, (size_t)len, deadline_ns);
    *text = asked ? read_answer(l, &done, deadline_ns) : NULL;
    control_link_close(l);
    if (*text != NULL) return done ? CONTROL_DONE : CONTROL_FAILED;
    bool late = os_monotonic_ns() >= deadline_ns;
    *text = mem_strdup(late ? "no answer in time" : "the server closed the channel without an answer");
    return CONTROL_UNREACHABLE;
}
