/* host_stream.c - reading from a connection as if it were a file: conn:read and its kin, which wait for what they want, and
 * the waits for its send queue.
 *
 * What is wanted is a wish: a number of bytes, a line, a message. It is looked for in what the connection holds
 * (conn_input); if it is not there, the task waits for input, and each time bytes have come the wish is looked at again,
 * in C; only when it is fulfilled, or cannot be any more, does the task go on. (A frame that is decoded in Lua is looked
 * at by the task itself.) Its coroutine then makes the string, so what can raise is protected. Nothing of this belongs to the state but the waiting task: bytes that are left stay with
 * the connection.
 */
#include "host_internal.h"

#include <string.h>

/* What came of looking. */
typedef enum finding {
    NOT_YET, /* also when nobody has looked */
    FOUND,
    AT_EOF,
    TOO_LONG,
    NO_MESSAGE, /* the bytes are none, by the frame's rule */
    STOPPING,   /* the server is, and nothing has begun to come */
    IS_OVER     /* the connection is */
} finding;

/* ---- Looking ---- */

/* The peer owes us nothing that it has begun with: between two requests. For a number of bytes that may be in the midst of
 * one, of which the length was read before, so there we must have said the last word. */
static bool is_idle(const host_wish *w, const host_task *t, size_t len)
{
    if (len > 0 || (t->c != NULL && t->c != w->c)) return false;
    return w->kind != HOST_WISH_COUNT || w->c->answered;
}

/* L is the thread of the task that runs, for a frame that needs it; NULL: it does not run. raises with L */
static finding look_for_message(lua_State *L, host_wish *w, const frame_rule *rule, const uint8_t *data, size_t len)
{
    frame_found found = {.need = 0};
    if (len == 0 || len < w->need) return NOT_YET;
    if (rule->type == FRAME_CUSTOM && L == NULL) return FOUND; /* perhaps */
    switch (rule->type == FRAME_CUSTOM ? host_frame_decode(L, w->c, &found, data, len)
                                       : frame_decode(&found, rule, data, len, w->seen)) {
    case FRAME_MESSAGE:
        w->start = found.start;
        w->len = found.len;
        w->used = found.used;
        return FOUND;
    case FRAME_MORE:
        w->seen = len;
        w->need = found.need;
        return NOT_YET;
    case FRAME_LIMIT:
        w->fault = (uint8_t)found.fault;
        return TOO_LONG;
    case FRAME_WRONG:
    default:
        w->fault = (uint8_t)found.fault;
        return NO_MESSAGE;
    }
}

/* In what is there. */
static finding look_at(lua_State *L, host_wish *w, const uint8_t *data, size_t len)
{
    const conn *c = w->c;
    w->start = 0;
    switch ((host_wish_kind)w->kind) {
    case HOST_WISH_COUNT:
        w->len = w->used = w->count;
        return len >= w->count ? FOUND : NOT_YET;
    case HOST_WISH_SOME:
        w->len = w->used = len < w->count ? len : w->count;
        return len > 0 ? FOUND : NOT_YET;
    case HOST_WISH_ALL:
        w->len = w->used = len;
        if (len > w->rule.max) return TOO_LONG;
        return c->eof_seen ? FOUND : NOT_YET;
    case HOST_WISH_LINE:
        return look_for_message(L, w, &w->rule, data, len);
    case HOST_WISH_MESSAGE:
    default:
        return look_for_message(L, w, &c->limits->frame, data, len);
    }
}

static finding look(lua_State *L, host_wish *w, const host_task *t)
{
    const uint8_t *data;
    const conn *c = w->c;
    size_t len = c->state == CONN_OPEN ? conn_input(c, &data) : 0;
    finding f = c->state == CONN_OPEN ? look_at(L, w, data, len) : IS_OVER;
    if (f != NOT_YET) return f;
    if (c->eof_seen) return AT_EOF;
    return c->shutdown_due && is_idle(w, t, len) ? STOPPING : NOT_YET;
}

/* ---- Results ---- */

int host_push_over(lua_State *L, const conn *c)
{
    if (c != NULL && c->reason == CONN_RESET) return host_push_failure(L, "connection reset", "reset");
    if (c != NULL && c->reason == CONN_SHUTDOWN) return host_push_failure(L, host_why_over(host_of(L)), "shutdown");
    return host_push_failure(L, "closed", "closed");
}

static int push_timeout(lua_State *L)
{
    return host_push_failure(L, "timeout", "timeout");
}

static int push_found(lua_State *L, const host_wish *w)
{
    const uint8_t *data;
    conn_input(w->c, &data);
    lua_pushlstring(L, w->len == 0 ? "" : (const char *)data + w->start, w->len);
    int fields = w->kind == HOST_WISH_MESSAGE ? host_frame_push_fields(L, w->c, data + w->start) : 0;
    if (!w->peeks) conn_consume(w->c, w->used); /* not before it is safe with Lua */
    return 1 + fields;
}

/* Nothing more will come: what there is comes with the news. */
static int push_eof(lua_State *L, const host_wish *w)
{
    const uint8_t *data;
    size_t len = conn_input(w->c, &data);
    host_push_failure(L, "eof", "eof");
    if (len == 0) return 3;
    lua_pushlstring(L, (const char *)data, len);
    if (!w->peeks) conn_consume(w->c, len);
    return 4;
}

static int push_too_long(lua_State *L, const host_wish *w)
{
    if (w->kind == HOST_WISH_MESSAGE) {
        lua_pushnil(L);
        lua_pushstring(L, frame_fault_text((frame_fault)w->fault));
    } else {
        lua_pushnil(L);
        lua_pushfstring(L, "more than %d bytes%s", (int)w->rule.max,
                        w->kind == HOST_WISH_ALL ? ""
                        : w->rule.sep_len == 0   ? " without an end of the line"
                                                 : " without the separator");
    }
    lua_pushliteral(L, "limit");
    return 3;
}

/* raises */
static int push_finding(lua_State *L, const host_wish *w, finding f)
{
    switch (f) {
    case FOUND:
        return push_found(L, w);
    case AT_EOF:
        return push_eof(L, w);
    case TOO_LONG:
        return push_too_long(L, w);
    case NO_MESSAGE:
        return host_push_failure(L, frame_fault_text((frame_fault)w->fault), "frame");
    case STOPPING:
        return host_push_failure(L, "the server is stopping", "shutdown");
    case NOT_YET: /* its time is over */
        return push_timeout(L);
    case IS_OVER:
    default:
        return host_push_over(L, w->c);
    }
}

/* An iterator ends with the stream. What else there is to say is raised: nobody else would hear of it. */
static int end_iteration(lua_State *L, const host_wish *w, finding f, int results)
{
    if (f == FOUND) return results;
    if (f != TOO_LONG && f != NO_MESSAGE && f != NOT_YET) {
        lua_pushnil(L);
        return 1;
    }
    return luaL_error(L, "%s: %s", w->function, lua_tostring(L, 1 - results));
}

static int finish(lua_State *L, const host_wish *w, finding f)
{
    int results = push_finding(L, w, f);
    return w->iterates ? end_iteration(L, w, f, results) : results;
}

/* ---- Waiting ---- */

static void stop_waiting(host_task *t)
{
    timer_stop(&t->host->worker->timers, &t->wake);
    if (t->wish.holds) conn_unhold(t->wish.c);
    t->wish.holds = false;
}

static void timed_out(timer *clock, int64_t now_ns)
{
    host_task *t = container_of(clock, host_task, wake);
    (void)now_ns;
    t->wish.is_late = true;
    conn_wait_end(t->wish.c, &t->wish.wait);
    stop_waiting(t);
    host_task_wake(t);
}

void host_stream_abandon(host_task *t)
{
    conn_wait_end(t->wish.c, &t->wish.wait);
    stop_waiting(t);
}

/* The task that runs waits for what its wish wants, at most until its deadline. Returns what the calling C function has to return. raises */
static int wait_for(lua_State *L, host_wish *w, conn_want want, lua_KFunction k)
{
    host *h = host_of(L);
    host_task *t = h->task;
    t->wake.fire = timed_out;
    if (w->deadline_ns != INT64_MAX && !timer_start(&h->worker->timers, &t->wake, w->deadline_ns)) {
        return luaL_error(L, "%s: out of memory", w->function);
    }
    t->waiting = HOST_STREAMS;
    if (want == CONN_WANT_INPUT && t->c != w->c) { /* else it is held as the task's own */
        w->holds = true;
        conn_hold(w->c);
    }
    conn_wait_begin(w->c, &w->wait, want);
    return lua_yieldk(L, 0, (lua_KContext)t, k);
}

/* Bytes have come, or the end has. */
static void input_came(conn_wait *wait, conn *c)
{
    host_task *t = container_of(wait, host_task, wish.wait);
    finding f = look(NULL, &t->wish, t);
    t->wish.finding = (uint8_t)f;
    if (f == NOT_YET) {
        conn_wait_begin(c, wait, CONN_WANT_INPUT);
        return;
    }
    stop_waiting(t);
    host_task_wake(t);
}

static int input_looked_at(lua_State *L, int status, lua_KContext context)
{
    host_task *t = (host_task *)context;
    host_wish *w = &t->wish;
    (void)status;
    bool asks_lua = w->kind == HOST_WISH_MESSAGE && w->c->limits->frame.type == FRAME_CUSTOM;
    finding f = asks_lua ? look(L, w, t) : (finding)w->finding;
    if (f == NOT_YET && !w->is_late) return wait_for(L, w, CONN_WANT_INPUT, input_looked_at);
    return finish(L, w, f);
}

static int64_t deadline_after(lua_State *L, int64_t timeout_ns)
{
    return timeout_ns == INT64_MAX ? INT64_MAX : io_port_now(host_of(L)->worker->port) + timeout_ns;
}

/* raises */
static int fulfil(lua_State *L, host_wish *w, int64_t timeout_ns)
{
    finding f = look(L, w, host_of(L)->task);
    if (f == NOT_YET && timeout_ns == 0) return finish(L, w, f);
    /* Also when it is there: it would come out of the middle of what the other one waits for. */
    if (conn_is_read(w->c)) return luaL_error(L, "%s: somebody else is reading this connection", w->function);
    if (f != NOT_YET) return finish(L, w, f);
    host_check_wait(L, w->function);
    w->wait.wake = input_came;
    w->deadline_ns = deadline_after(L, timeout_ns);
    return wait_for(L, w, CONN_WANT_INPUT, input_looked_at);
}

/* ---- Arguments ---- */

/* raises */
static void read_number(lua_State *L, int arg, host_wish *w)
{
    const uint32_t max = w->rule.max;
    lua_Integer n = luaL_checkinteger(L, arg);
    if (n > (lua_Integer)max) {
        luaL_argerror(
            L, arg, lua_pushfstring(L, "at most %d bytes (limits.message) expected, got %I", (int)max, (LUAI_UACINT)n));
    }
    w->kind = n < 0 ? HOST_WISH_SOME : HOST_WISH_COUNT;
    w->count = n >= 0 ? (size_t)n : n < -(lua_Integer)max ? max : (size_t)-n;
}

/* What is wanted, in the argument: a number, or a letter. raises */
static void read_format(lua_State *L, int arg, host_wish *w)
{
    if (lua_type(L, arg) == LUA_TNUMBER) {
        read_number(L, arg, w);
        return;
    }
    bool is_default = lua_isnoneornil(L, arg);
    if (!is_default && lua_type(L, arg) != LUA_TSTRING)
        luaL_typeerror(L, arg, "a number of bytes, 'l', 'L', 'a' or 'm'");
    size_t len = 1;
    const char *format = is_default ? "l" : lua_tolstring(L, arg, &len);
    char letter = len == 1 ? format[0] : '?';
    if (letter == 'l' || letter == 'L') w->kind = HOST_WISH_LINE;
    else if (letter == 'a') w->kind = HOST_WISH_ALL;
    else if (letter == 'm') w->kind = HOST_WISH_MESSAGE;
    else
        luaL_argerror(L, arg, lua_pushfstring(L, "a number of bytes, 'l', 'L', 'a' or 'm' expected, got '%s'", format));
    w->rule.keep = letter == 'L';
}

/* The task's wish, without a kind yet. Without a connection any number of bytes will do. raises */
static host_wish *wish_for(lua_State *L, conn *c, const char *function)
{
    host_task *t = host_of(L)->task;
    if (t == NULL) luaL_error(L, "%s: no handler runs", function);
    uint32_t max = c != NULL ? c->limits->message_max : UINT32_MAX;
    t->wish = (host_wish){.c = c, .function = function, .rule = {.type = FRAME_LINE, .max = max}};
    return &t->wish;
}

/* ---- Methods ---- */

/* The connection is at 1, what is wanted at format, the time-out at timeout. raises */
static int read_as(lua_State *L, int format, int timeout, const char *function, bool iterates)
{
    conn *c = host_conn_check(L, 1);
    host_wish *w = wish_for(L, c, function);
    w->iterates = iterates;
    read_format(L, format, w);
    int64_t timeout_ns = host_check_timeout(L, timeout);
    if (c != NULL) return fulfil(L, w, timeout_ns);
    if (!iterates) return host_push_over(L, NULL);
    lua_pushnil(L);
    return 1;
}

static int method_read(lua_State *L)
{
    return read_as(L, 2, 3, "conn:read", false);
}

/* The iterator of lines and messages: upvalues 1 conn, 2 format, 3 time-out, 4 the name. */
static int next_piece(lua_State *L)
{
    lua_settop(L, 0);
    for (int i = 1; i <= 3; i++) lua_pushvalue(L, lua_upvalueindex(i));
    return read_as(L, 2, 3, lua_tostring(L, lua_upvalueindex(4)), true);
}

/* stack: conn, format, time-out */
static int push_iterator(lua_State *L, const char *function)
{
    host_wish *w = wish_for(L, host_conn_check(L, 1), function);
    read_format(L, 2, w); /* what is wrong is raised here, and not in the loop's first turn */
    host_check_timeout(L, 3);
    lua_pushstring(L, function);
    lua_pushcclosure(L, next_piece, 4);
    return 1;
}

static int method_lines(lua_State *L)
{
    lua_settop(L, 3);
    return push_iterator(L, "conn:lines");
}

static int method_messages(lua_State *L)
{
    lua_settop(L, 2);
    (void)host_check_timeout(L, 2); /* where it has its true place */
    lua_pushliteral(L, "m");
    lua_insert(L, 2);
    return push_iterator(L, "conn:messages");
}

/* The options of read_until. raises */
static int64_t read_until_options(lua_State *L, host_wish *w)
{
    static const char *const names[] = {"max", "keep", "timeout", NULL};
    int64_t timeout_ns = INT64_MAX;
    if (lua_isnoneornil(L, 3)) return timeout_ns;
    luaL_checktype(L, 3, LUA_TTABLE);
    lua_settop(L, 3);
    for (lua_pushnil(L); lua_next(L, 3); lua_settop(L, 4)) {
        const char *name = host_option_name(L, 3, 4);
        const char *wrong = NULL;
        int whole = 0;
        lua_Integer max = lua_type(L, 5) == LUA_TNUMBER ? lua_tointegerx(L, 5, &whole) : 0;
        if (strcmp(name, "max") == 0) {
            if (!whole || max < 1 || max > (lua_Integer)w->rule.max)
                wrong = lua_pushfstring(L, "bytes, a whole number from 1 to %d (limits.message), expected",
                                        (int)w->rule.max);
            else w->rule.max = (uint32_t)max;
        } else if (strcmp(name, "keep") == 0) {
            if (!lua_isboolean(L, 5)) wrong = "boolean expected";
            w->rule.keep = lua_toboolean(L, 5);
        } else if (strcmp(name, "timeout") == 0) {
            timeout_ns = host_option_seconds(L, 3, name, 5);
        } else {
            host_option_unknown(L, 3, "", name, names);
        }
        if (wrong != NULL)
            luaL_argerror(L, 3, lua_pushfstring(L, "%s: %s, got %s", name, wrong, host_push_found(L, 5)));
    }
    return timeout_ns;
}

static int method_read_until(lua_State *L)
{
    size_t len;
    conn *c = host_conn_check(L, 1);
    const char *sep = luaL_checklstring(L, 2, &len);
    luaL_argcheck(L, len >= 1 && len <= FRAME_SEP_MAX, 2, "a separator of 1 to 16 bytes expected");
    host_wish *w = wish_for(L, c, "conn:read_until");
    w->kind = HOST_WISH_LINE;
    memcpy(w->rule.sep, sep, len);
    w->rule.sep_len = (uint8_t)len;
    int64_t timeout_ns = read_until_options(L, w);
    return c != NULL ? fulfil(L, w, timeout_ns) : host_push_over(L, NULL);
}

static int method_peek(lua_State *L)
{
    conn *c = host_conn_check(L, 1);
    host_wish *w = wish_for(L, c, "conn:peek");
    w->peeks = true;
    lua_settop(L, 3);
    if (lua_isnil(L, 2)) {
        w->kind = HOST_WISH_SOME;
        w->count = w->rule.max;
    } else {
        read_number(L, 2, w);
    }
    int64_t timeout_ns = host_check_timeout(L, 3);
    return c != NULL ? fulfil(L, w, timeout_ns) : host_push_over(L, NULL);
}

static int method_unread(lua_State *L)
{
    size_t len;
    const uint8_t *there;
    conn *c = host_conn_check(L, 1);
    const char *data = luaL_checklstring(L, 2, &len);
    if (c == NULL || c->state != CONN_OPEN) return host_push_over(L, c);
    size_t most = (size_t)c->limits->message_max + IO_RECV_BYTES; /* all of a read and what came with it */
    if (len + conn_input(c, &there) > most) return host_push_failure(L, "more than limits.message", "limit");
    if (conn_unread(c, data, len) != IO_OK) return host_push_failure(L, "out of memory", "limit");
    lua_pushboolean(L, true);
    return 1;
}

/* ---- The send queue ---- */

static bool has_emptied(const conn *c)
{
    return c->out.bytes == 0 && (c->state == CONN_OPEN || c->state == CONN_DRAINING);
}

static void queue_fell(conn_wait *wait, conn *c)
{
    host_task *t = container_of(wait, host_task, wish.wait);
    (void)c;
    stop_waiting(t);
    host_task_wake(t);
}

static int flushed(lua_State *L, int status, lua_KContext context)
{
    const conn *c = ((host_task *)context)->wish.c; /* not held, but waiting ends before the connection does */
    (void)status;
    if (c->state != CONN_OPEN && c->state != CONN_DRAINING) return host_push_over(L, c);
    if (!has_emptied(c)) return push_timeout(L);
    lua_pushboolean(L, true);
    return 1;
}

static int method_flush(lua_State *L)
{
    conn *c = host_conn_check(L, 1);
    int64_t timeout_ns = host_check_timeout(L, 2);
    if (c == NULL || (c->state != CONN_OPEN && c->state != CONN_DRAINING)) return host_push_over(L, c);
    if (has_emptied(c)) {
        lua_pushboolean(L, true);
        return 1;
    }
    if (timeout_ns == 0) return push_timeout(L);
    host_check_wait(L, "conn:flush");
    host_wish *w = wish_for(L, c, "conn:flush");
    w->wait.wake = queue_fell;
    w->deadline_ns = deadline_after(L, timeout_ns);
    return wait_for(L, w, CONN_WANT_EMPTY, flushed);
}

static int sent(lua_State *L, int status, lua_KContext context)
{
    const conn *c = ((host_task *)context)->wish.c; /* held, being the task's own */
    (void)status;
    if (c->state != CONN_OPEN) return host_push_over(L, c);
    lua_pushboolean(L, true);
    return 1;
}

bool host_stream_sends_wait(lua_State *L, const conn *c)
{
    const host *h = host_of(L);
    const host_task *t = h->task;
    return t != NULL && t->kind == HOST_ON_STREAM && t->c == c && !h->cut && !h->blocked && lua_isyieldable(L);
}

int host_stream_send_waits(lua_State *L, conn *c)
{
    host_wish *w = wish_for(L, c, "conn:send");
    w->wait.wake = queue_fell;
    w->deadline_ns = INT64_MAX;
    return wait_for(L, w, CONN_WANT_LOW, sent);
}

const luaL_Reg host_stream_methods[] = {
    {"read", method_read}, {"read_until", method_read_until}, {"lines", method_lines}, {"messages", method_messages},
    {"peek", method_peek}, {"unread", method_unread},         {"flush", method_flush}, {NULL, NULL},
};
