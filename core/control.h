/* control.h - a channel for commands from this machine: "portico ctl" at one end, the running server at the other.
 *
 * A Unix socket, or on Windows a named pipe, that only its owner (and root, and the system) may use. A client sends one
 * line and gets one answer. A thread of the channel's own speaks with up to CONTROL_CLIENTS_MAX clients; what they ask for
 * is handed to whoever owns the channel, who takes it with control_take() and answers with control_reply(), at once or
 * later. A client that does not send its line, or does not take its answer, within CONTROL_PATIENCE_MS is cut off.
 *
 *   client  LINE "\n"
 *   server  "ok" or "failed", " ", number of bytes that follow, "\n", text
 */
#ifndef PORTICO_CONTROL_H
#define PORTICO_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CONTROL_CLIENTS_MAX = 16,    /* at a time; more wait */
    CONTROL_LINE_MAX = 4096,     /* bytes of a line, with its line feed */
    CONTROL_TEXT_MAX = 1 << 20,  /* of an answer; more is cut */
    CONTROL_PATIENCE_MS = 5000,  /* for a client, see above */
    CONTROL_WHERE_MAX = 256,     /* of the name of a place, NUL included */
    CONTROL_INSTANCES_MAX = 1024 /* that control_find() tells of */
};

/* ---- The server's end ---- */

typedef struct control control;
typedef struct control_request control_request;

/* Opens the channel and starts its thread.
 *
 * where    POSIX: the path of a socket; one that a dead server left is replaced, anything else that is there is not.
 *          Windows: "NAME" or "\\.\pipe\NAME". NULL: a place where control_find() finds it.
 * asked    called on the channel's thread when something can be taken; no call for each is promised.
 * error    of error_size bytes: why not, when the result is NULL. */
control *control_open(const char *where, void (*asked)(void *context), void *context, char *error, size_t error_size);

/* The place that control_open() takes when none is given, of CONTROL_WHERE_MAX bytes. On POSIX its directory is made. False: there is
 * none, and error, of error_size bytes, says why. */
bool control_usual_place(char *place, char *error, size_t error_size);

/* The place in full; valid while the channel is open. */
const char *control_where(const control *c);

/* Before this process becomes another user: that one may use the channel, like root. Windows: nobody becomes another. */
bool control_give(control *c, uint32_t user);

/* The next request, or NULL. It is the caller's until control_reply(). Any thread. */
control_request *control_take(control *c);
/* What was asked: one line, without its end, and without NUL. */
const char *control_line(const control_request *request);
/* Answers, and gives the request back. done: it was done, and text is the result; else text says why not. text is
 * copied; NULL: none. Any thread; before control_close(). */
void control_reply(control_request *request, bool done, const char *text);

/* Sends what has been replied, for at most a second, and ends the thread. What was not taken is answered with a refusal.
 * NULL is fine. */
void control_close(control *c);

/* ---- The client's end ---- */

typedef struct control_instance {
    unsigned long pid;
    char where[CONTROL_WHERE_MAX];
} control_instance;

/* The servers of this user that have a channel at the usual place, in no order. What dead servers left there is removed.
 * Returns how many there are; at most max are written. */
size_t control_find(control_instance *list, size_t max);

typedef enum control_result {
    CONTROL_DONE,
    CONTROL_FAILED,     /* the server refused, or could not */
    CONTROL_UNREACHABLE /* nobody there, no access, or no answer in time */
} control_result;

/* Asks and waits for the answer.
 *
 * text     the answer, or why there is none; from mem_alloc(), for the caller to free; NULL: out of memory.
 * line     without its end; less than CONTROL_LINE_MAX bytes. */
control_result control_ask(char **text, const char *where, const char *line, int64_t timeout_ns);

#endif
