/* control.c - what is said over the channel for commands, and how it reaches those whom it concerns. */
#include "control.h"

#include "control_system.h"
#include "mem.h"
#include "os.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define MS INT64_C(1000000) /* in nanoseconds */

enum { CLOSING_MS = 1000 }; /* for answers that are under way when the channel is closed */

struct control_request {
    control_request *next;
    control *control;
    size_t index; /* of the exchange */
    uint32_t serial;
    bool done;
    bool lost;  /* there was no memory for the reply */
    char *text; /* the reply */
    char line[];
};

typedef struct request_list {
    control_request *first;
    control_request *last;
} request_list;

struct control {
    void (*asked)(void *context);
    void *context;
    char where[CONTROL_WHERE_MAX];
    control_server *server;
    os_thread *thread;
    os_mutex *mutex;
    request_list requests; /* guarded by the mutex, like the next two lines */
    request_list replies;
    bool closing;
    bool ending; /* the rest is the thread's own: it has seen that the channel closes */
    exchange exchanges[CONTROL_CLIENTS_MAX];
};

/* ---- Requests ---- */

static void list_push(request_list *list, control_request *request)
{
    request->next = NULL;
    if (list->last != NULL) list->last->next = request;
    else list->first = request;
    list->last = request;
}

static control_request *list_pop(request_list *list)
{
    control_request *request = list->first;
    if (request == NULL) return NULL;
    list->first = request->next;
    if (list->first == NULL) list->last = NULL;
    return request;
}

static void request_free(control_request *request)
{
    mem_free(request->text);
    mem_free(request);
}

control_request *control_take(control *c)
{
    os_mutex_lock(c->mutex);
    control_request *request = list_pop(&c->requests);
    os_mutex_unlock(c->mutex);
    return request;
}

const char *control_line(const control_request *request)
{
    return request->line;
}

void control_reply(control_request *request, bool done, const char *text)
{
    control *c = request->control;
    request->done = done;
    request->text = text != NULL ? mem_strdup(text) : NULL;
    request->lost = text != NULL && request->text == NULL;
    os_mutex_lock(c->mutex);
    list_push(&c->replies, request);
    os_mutex_unlock(c->mutex);
    control_server_wake(c->server);
}

/* ---- Exchanges ---- */

static void set_deadline(exchange *e, int64_t ms)
{
    e->deadline_ns = os_monotonic_ns() + ms * MS;
}

void exchange_begin(exchange *e)
{
    assert(e->state == EXCHANGE_FREE);
    e->state = EXCHANGE_READING;
    e->serial++;
    e->line_len = 0;
    set_deadline(e, CONTROL_PATIENCE_MS);
}

void exchange_end(exchange *e)
{
    mem_free(e->answer);
    e->answer = NULL;
    e->state = EXCHANGE_FREE;
    e->deadline_ns = INT64_MAX;
}

char *exchange_room(exchange *e, size_t *room)
{
    assert(e->state == EXCHANGE_READING);
    *room = sizeof(e->line) - e->line_len;
    assert(*room > 0);
    return e->line + e->line_len;
}

static void answer(exchange *e, bool done, const char *text)
{
    char head[64];
    size_t text_len = text != NULL ? strlen(text) : 0;
    if (text_len > CONTROL_TEXT_MAX) text_len = CONTROL_TEXT_MAX;
    int head_len = snprintf(head, sizeof(head), "%s %zu\n", done ? "ok" : "failed", text_len);
    e->answer_len = (size_t)head_len + text_len;
    e->answer = mem_alloc(e->answer_len);
    if (e->answer == NULL) {
        exchange_end(e);
        return;
    }
    memcpy(e->answer, head, (size_t)head_len);
    if (text_len > 0) memcpy(e->answer + head_len, text, text_len);
    e->sent = 0;
    e->state = EXCHANGE_ANSWERING;
    set_deadline(e, CONTROL_PATIENCE_MS);
}

/* The line in the exchange, of len bytes, goes to whoever answers. */
static void ask(control *c, exchange *e, size_t len)
{
    control_request *request = mem_alloc(sizeof(*request) + len + 1);
    if (request == NULL) {
        answer(e, false, "out of memory");
        return;
    }
    *request = (control_request){.control = c, .index = (size_t)(e - c->exchanges), .serial = e->serial};
    memcpy(request->line, e->line, len);
    request->line[len] = '\0';
    e->state = EXCHANGE_ASKED;
    e->deadline_ns = INT64_MAX;
    os_mutex_lock(c->mutex);
    list_push(&c->requests, request);
    os_mutex_unlock(c->mutex);
    c->asked(c->context);
}

void exchange_received(control *c, exchange *e, size_t bytes)
{
    assert(e->state == EXCHANGE_READING && bytes <= sizeof(e->line) - e->line_len);
    char *fresh = e->line + e->line_len;
    char *end = memchr(fresh, '\n', bytes);
    e->line_len += bytes;
    if (end != NULL) {
        size_t len = (size_t)(end - e->line);
        if (len > 0 && e->line[len - 1] == '\r') len--;
        if (memchr(e->line, '\0', len) != NULL) answer(e, false, "the line has a NUL in it");
        else ask(c, e, len);
    } else if (e->line_len == sizeof(e->line)) {
        answer(e, false, "the line is too long");
    }
}

const char *exchange_rest(const exchange *e, size_t *len)
{
    assert(e->state == EXCHANGE_ANSWERING && e->sent < e->answer_len);
    *len = e->answer_len - e->sent;
    return e->answer + e->sent;
}

void exchange_sent(exchange *e, size_t bytes)
{
    assert(e->state == EXCHANGE_ANSWERING && bytes <= e->answer_len - e->sent);
    e->sent += bytes;
    if (e->sent == e->answer_len) e->state = EXCHANGE_SENT;
}

/* ---- The thread's view ---- */

exchange *control_exchange(control *c, size_t index)
{
    assert(index < CONTROL_CLIENTS_MAX);
    return &c->exchanges[index];
}

bool control_closing(const control *c)
{
    return c->ending;
}

static bool is_busy(const control *c)
{
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        if (c->exchanges[i].state != EXCHANGE_FREE) return true;
    }
    return false;
}

int64_t control_deadline(const control *c)
{
    int64_t deadline_ns = c->ending && !is_busy(c) ? 0 : INT64_MAX;
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        if (c->exchanges[i].deadline_ns < deadline_ns) deadline_ns = c->exchanges[i].deadline_ns;
    }
    return deadline_ns;
}

/* Who has not asked is not heard any more; who has is refused, unless the answer is there already. */
static void begin_to_end(control *c)
{
    c->ending = true;
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        exchange *e = &c->exchanges[i];
        if (e->state == EXCHANGE_READING) exchange_end(e);
        else if (e->state == EXCHANGE_ASKED) answer(e, false, "the server is ending");
        if (e->state != EXCHANGE_FREE) set_deadline(e, CLOSING_MS);
    }
}

bool control_deliver(control *c)
{
    os_mutex_lock(c->mutex);
    request_list replies = c->replies;
    c->replies = (request_list){0};
    bool closing = c->closing;
    os_mutex_unlock(c->mutex);
    for (control_request *r = list_pop(&replies); r != NULL; r = list_pop(&replies)) {
        exchange *e = &c->exchanges[r->index];
        if (e->state == EXCHANGE_ASKED && e->serial == r->serial) {
            if (r->lost) answer(e, false, "out of memory for the answer; what was asked for may have been done");
            else answer(e, r->done, r->text);
        }
        request_free(r);
    }
    if (closing && !c->ending) begin_to_end(c);
    return !c->ending || is_busy(c);
}

static void run(void *argument)
{
    control *c = argument;
    control_server_run(c->server, c);
}

/* ---- Opening and closing ---- */

static void control_free(control *c)
{
    control_request *request;
    while ((request = list_pop(&c->requests)) != NULL) request_free(request);
    while ((request = list_pop(&c->replies)) != NULL) request_free(request);
    if (c->server != NULL) control_server_close(c->server);
    if (c->mutex != NULL) os_mutex_close(c->mutex);
    mem_free(c);
}

control *control_open(const char *where, void (*asked)(void *context), void *context, char *error, size_t error_size)
{
    control *c = mem_zalloc(sizeof(*c));
    snprintf(error, error_size, "out of memory");
    if (c == NULL) return NULL;
    c->asked = asked;
    c->context = context;
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) c->exchanges[i].deadline_ns = INT64_MAX;
    c->mutex = os_mutex_open();
    if (c->mutex == NULL) goto fail;
    c->server = control_server_open(c->where, where, error, error_size);
    if (c->server == NULL) goto fail;
    c->thread = os_thread_start("control", run, c);
    if (c->thread != NULL) return c;
    snprintf(error, error_size, "the system has no thread for it");
fail:
    control_free(c);
    return NULL;
}

const char *control_where(const control *c)
{
    return c->where;
}

bool control_give(control *c, uint32_t user)
{
    return control_server_give(c->server, user);
}

void control_close(control *c)
{
    if (c == NULL) return;
    os_mutex_lock(c->mutex);
    c->closing = true;
    os_mutex_unlock(c->mutex);
    control_server_wake(c->server);
    os_thread_join(c->thread);
    control_free(c);
}
