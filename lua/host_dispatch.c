/* host_dispatch.c - from an event to the script's handler and back.
 *
 * Each handler runs in a pooled coroutine, whose stack holds the dispatcher in slot 1: a C closure that has the
 * script's handlers as upvalues. Per event it is copied to the top and resumed. Inside, all is protected: it pushes the
 * handler, the conn and the message, and calls, with a continuation, so that the handler may be suspended. What it
 * needs is in the task; a message's bytes are looked at before the handler runs, so never after a wait. An error of the
 * handler's ends at this call, too: it is logged there, and the coroutine goes back to the pool like any other.
 */
#include "host_internal.h"

#include <assert.h>
#include <string.h>

static const char *const kind_names[HOST_KINDS] = {
    [HOST_NOTHING] = "nothing",
    [HOST_ON_CONNECT] = "on_connect",
    [HOST_ON_MESSAGE] = "on_message",
    [HOST_ON_READABLE] = "on_readable",
    [HOST_ON_STREAM] = "on_stream",
    [HOST_ON_EOF] = "on_eof",
    [HOST_ON_DRAIN] = "on_drain",
    [HOST_ON_CLOSE] = "on_close",
    [HOST_ON_DATAGRAM] = "on_datagram",
    [HOST_ON_ERROR] = "on_error",
    [HOST_ON_LOAD] = "on_load",
    [HOST_ON_CHECK] = "on_check",
    [HOST_ON_UNLOAD] = "on_unload",
    [HOST_DATAGRAM] = "on_message",
    [HOST_AFTER] = "the function of portico.after",
    [HOST_EVERY] = "the function of portico.every",
    [HOST_SPAWN] = "the function of portico.spawn",
    [HOST_TOPIC] = "the function of portico.subscribe",
    [HOST_SERVED] = "the function of portico.worker.serve",
    [HOST_FRAME] = "the frame's function",
    [HOST_TOP] = "the script's top level",
    [HOST_MIGRATE] = "migrate",
    [HOST_CLEANUP] = "clearing up",
};

const char *host_kind_name(host_kind kind)
{
    assert(kind < HOST_KINDS);
    return kind_names[kind];
}

host_kind host_kind_find(const char *name)
{
    for (host_kind kind = HOST_ON_CONNECT; kind <= HOST_ON_UNLOAD; kind++) {
        if (strcmp(name, kind_names[kind]) == 0) return kind;
    }
    return HOST_NOTHING;
}

static uint32_t handlers_of(const host *h, const conn *c)
{
    return c->outbound ? ((const host_conn *)c->user)->handlers : h->handlers;
}

/* ---- Inside: what runs in the coroutine ---- */

static void push_handler(lua_State *L, host_task *t)
{
    if (t->kind == HOST_DATAGRAM && t->datagram.handler_ref == LUA_NOREF) {
        lua_pushvalue(L, lua_upvalueindex(HOST_ON_MESSAGE));
    } else if (t->kind == HOST_DATAGRAM) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, t->datagram.handler_ref);
        lua_getiuservalue(L, -1, 1);
    } else if (t->c != NULL && t->c->outbound && t->kind != HOST_ON_ERROR) {
        const host_conn *hc = t->c->user;
        lua_rawgeti(L, LUA_REGISTRYINDEX, hc->ref);
        lua_getiuservalue(L, -1, 2);
        lua_rawgeti(L, -1, t->kind);
    } else {
        lua_pushvalue(L, lua_upvalueindex(t->kind));
    }
}

static void push_context(lua_State *L, const host *h)
{
    lua_createtable(L, 0, 5);
    lua_createtable(L, h->config->arg_count, 0);
    for (int i = 0; i < h->config->arg_count; i++) {
        lua_pushstring(L, h->config->args[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "args");
    lua_pushinteger(L, h->worker->id);
    lua_setfield(L, -2, "worker");
    lua_pushinteger(L, h->worker->count);
    lua_setfield(L, -2, "workers");
    lua_pushinteger(L, (lua_Integer)h->generation->number);
    lua_setfield(L, -2, "generation");
    lua_pushboolean(L, h->generation->number > 1);
    lua_setfield(L, -2, "reload");
}

/* What a FRAME_CUSTOM is asked, and its answer. */
struct host_question {
    const uint8_t *data;
    size_t len;
    frame_found *found;
    frame_status status;
};

/* The handler of HOST_FRAME. */
static int answer(lua_State *L)
{
    const host_task *t = host_of(L)->task;
    host_question *q = t->question;
    q->status = host_frame_decode(L, t->c, q->found, q->data, q->len);
    return 0;
}

/* Pushes what on_close gets behind the connection; returns how many. */
static int push_end(lua_State *L, const host_task *t)
{
    const conn *c = t->c;
    lua_pushstring(L, conn_reason_name((conn_reason)t->reason));
    if (t->status != IO_OK) lua_pushstring(L, io_status_text(t->status));
    else if (c->fault != FRAME_FAULT_NONE) lua_pushstring(L, frame_fault_text((frame_fault)c->fault));
    else if (t->reason == CONN_EOF && conn_truncated(c) > 0) lua_pushliteral(L, "truncated message");
    else return 1;
    return 2;
}

/* Pushes the handler's arguments; returns how many. */
static int push_arguments(lua_State *L, host_task *t)
{
    switch ((host_kind)t->kind) {
    case HOST_ON_MESSAGE:
        host_conn_push(L, t->c);
        lua_pushlstring(L, t->data, t->len);
        return 2 + host_frame_push_fields(L, t->c, t->data);
    case HOST_ON_DATAGRAM:
    case HOST_DATAGRAM:
        host_udp_push_peer(L, &t->datagram);
        lua_pushlstring(L, t->data, t->len);
        return 2;
    case HOST_ON_CONNECT:
    case HOST_ON_READABLE:
    case HOST_ON_STREAM:
    case HOST_ON_EOF:
    case HOST_ON_DRAIN:
        host_conn_push(L, t->c);
        return 1;
    case HOST_ON_CLOSE:
        host_conn_push(L, t->c);
        return 1 + push_end(L, t);
    case HOST_ON_ERROR: /* the error's table came as the coroutine's argument, unless there was no memory for it */
        if (t->c != NULL) host_conn_push(L, t->c);
        else lua_pushnil(L);
        if (lua_type(L, 1) == LUA_TTABLE) lua_pushvalue(L, 1);
        else host_push_memory_error(L);
        return 2;
    case HOST_ON_LOAD:
    case HOST_ON_CHECK:
    case HOST_ON_UNLOAD:
        push_context(L, t->host);
        return 1;
    case HOST_NOTHING:
    case HOST_AFTER:
    case HOST_EVERY:
    case HOST_SPAWN:
    case HOST_TOPIC:
    case HOST_SERVED:
    case HOST_FRAME:
    case HOST_TOP:
    case HOST_MIGRATE:
    case HOST_CLEANUP:
    case HOST_KINDS:
    default:
        assert(false && "not a handler");
        return 0;
    }
}

/* The error is on top. Leaves it for on_error, if there is one. */
static int take_error(lua_State *L, host *h, host_task *t, int status)
{
    t->failed = (uint8_t)status;
    if (t->errand != NULL && t->errand->keep_error != NULL && status != LUA_ERRMEM) {
        t->quiet = t->errand->keep_error(L, t);
        if (t->quiet) return 0;
    }
    host_count_error(h);
    if (status == LUA_ERRMEM) {
        host_reserve(h, false);
        host_report_memory(h, (host_kind)t->kind, t->c);
        return 0;
    }
    host_report(L, t);
    return host_wants_on_error(h, t) ? 1 : 0;
}

/* Where the function on top begins; takes it. Returns text. */
static const char *place_of(lua_State *L, char *text, size_t size)
{
    lua_Debug place;
    lua_getinfo(L, ">S", &place);
    snprintf(text, size, "%s:%d", place.short_src, place.linedefined);
    return text;
}

/* A handler returns what does not go to a peer. It may be no mistake, as of one that ends with `return object:method()`. */
static void note_unsent(lua_State *L, host_task *t)
{
    static log_cause cause;
    char place[LUA_IDSIZE + 16];
    const char *type = luaL_typename(L, -1);
    push_handler(L, t);
    log_rarely(&cause, LOG_WARN, "a handler returned what cannot be sent",
               "%s: %s returned a %s, which is not sent: a string or a number is", place_of(L, place, sizeof(place)),
               host_kind_name((host_kind)t->kind), type);
}

/* What a handler of messages returned, on top: is it to be sent? */
static inline bool is_message(lua_State *L, host_task *t)
{
    switch (lua_type(L, -1)) {
    case LUA_TSTRING:
    case LUA_TNUMBER:
        return true;
    case LUA_TNIL:
    case LUA_TBOOLEAN: /* `return conn:send(…)` */
        return false;
    case LUA_TTABLE:
        if (t->c != NULL && host_frame_encodes(L, t->c)) return true;
        break;
    default:
        break;
    }
    note_unsent(L, t);
    return false;
}

/* Protected: sends the message at 1, which the handler at 2 has returned. */
static int reply(lua_State *L)
{
    conn *c = host_of(L)->task->c;
    char place[LUA_IDSIZE + 16];
    size_t len;
    io_status sent;
    place_of(L, place, sizeof(place));
    if (c->limits->frame.type == FRAME_CUSTOM) {
        host_message_send_any(L, c, 1);
        return 0;
    }
    const char *bytes = lua_tolstring(L, 1, &len);
    const char *wrong = host_message_send(&sent, c, bytes, len);
    return wrong == NULL ? 0 : luaL_error(L, "%s: what on_message returned cannot be sent: %s", place, wrong);
}

/* Sends what on_message returned, on top. Returns a status of Lua's; if it is not LUA_OK, the error is on top. */
static int send_reply(lua_State *L, host_task *t)
{
    conn *c = t->c;
    size_t len;
    const char *bytes = lua_tolstring(L, -1, &len); /* NULL: a table, for a frame that encodes it */
    io_status sent;
    if (c->state != CONN_OPEN) return LUA_OK; /* closed meanwhile: nobody to tell */
    switch (c->limits->frame.type) {
    case FRAME_RAW:
        /* A queue that ran over has ended the connection already. */
        if (conn_send_last(c, bytes, len) == IO_LIMIT) conn_abort(c, CONN_LIMIT, IO_LIMIT);
        return LUA_OK;
    case FRAME_CUSTOM:
        break;
    default:
        if (host_message_send(&sent, c, bytes, len) == NULL) return LUA_OK;
    }
    lua_pushcfunction(L, host_make_error);
    lua_pushcfunction(L, reply);
    lua_pushvalue(L, -3);
    push_handler(L, t);
    return lua_pcall(L, 2, 0, -4);
}

/* The handler has returned, its first result or the error on top. */
static int take_result(lua_State *L, int status, lua_KContext context)
{
    host_task *t = (host_task *)context;
    if (status != LUA_OK && status != LUA_YIELD) return take_error(L, t->host, t, status);
    if (t->errand != NULL) {
        if (t->errand->keep != NULL) t->errand->keep(L, t, 2); /* 1 is the message handler */
        return 0;
    }
    switch ((host_kind)t->kind) {
    case HOST_ON_MESSAGE:
        if (is_message(L, t)) status = send_reply(L, t);
        if (status != LUA_OK && status != LUA_YIELD) return take_error(L, t->host, t, status);
        break;
    case HOST_ON_DATAGRAM:
    case HOST_DATAGRAM:
        if (is_message(L, t)) {
            size_t len;
            const char *bytes = lua_tolstring(L, -1, &len);
            host_udp_reply(t, bytes, len);
        }
        break;
    case HOST_ON_CONNECT:
        if (lua_isboolean(L, -1) && !lua_toboolean(L, -1)) conn_close(t->c, CONN_LOCAL);
        break;
    case HOST_ON_ERROR:
        t->keep = lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), "keep") == 0;
        break;
    default:
        break;
    }
    return 0;
}

static int dispatch(lua_State *L)
{
    host_task *t = host_of(L)->task;
    int arguments, results = 1;
    int handler = t->kind == HOST_ON_ERROR ? lua_gettop(L) + 1 : 1; /* of errors; above the error's table */
    lua_pushcfunction(L, host_make_error);                          /* without upvalues: no allocation */
    if (t->errand != NULL) {
        arguments = t->errand->push(L, t);
        if (t->errand->keep != NULL) results = LUA_MULTRET;
    } else if (t->kind == HOST_FRAME) {
        lua_pushcfunction(L, answer);
        arguments = 0;
    } else {
        push_handler(L, t);
        arguments = push_arguments(L, t);
    }
    int status = lua_pcallk(L, arguments, results, handler, (lua_KContext)t, take_result);
    return take_result(L, status, (lua_KContext)t);
}

void host_dispatcher_push(lua_State *L)
{
    lua_pushcclosure(L, dispatch, HOST_ON_UNLOAD);
}

/* ---- Events ---- */

/* The host that is to serve an event of the connection: the one in force, to which it moves before. */
static inline host *serve(conn *c)
{
    host *h = host_of_conn(c);
    return h == h->seat->current || c->outbound ? h : host_move(c);
}

static void call(host *h, host_kind kind, conn *c)
{
    host_task *t = host_task_take(h, kind, c);
    if (t != NULL) host_task_start(h, t);
    else conn_abort(c, CONN_ERROR, IO_LIMIT);
}

static void on_open(conn *c, io_status status)
{
    host *h = serve(c);
    if (!c->outbound) h->conns++;
    else if (status == IO_OK) host_connect_won(c);
    if (c->outbound && status != IO_OK) host_connect_opened(h, c, status);
    else if (handlers_of(h, c) & HOST_BIT(HOST_ON_CONNECT)) call(h, HOST_ON_CONNECT, c);
    if (status == IO_OK && (handlers_of(h, c) & HOST_BIT(HOST_ON_STREAM))) conn_turn(c); /* when on_connect is over */
    if (c->outbound && status == IO_OK) host_connect_opened(h, c, status);
}

static void on_turn(conn *c)
{
    host *h = serve(c);
    if (handlers_of(h, c) & HOST_BIT(HOST_ON_STREAM)) call(h, HOST_ON_STREAM, c);
}

/* Bytes for a stream that has not begun: the connection has just come from another generation. */
static void begin_stream(host *h, conn *c, size_t len)
{
    conn_offer(c, len);
    call(h, HOST_ON_STREAM, c);
    size_t rest = conn_offered(c);
    if (rest > 0) conn_keep(c, rest, 0);
}

frame_status host_call_frame(host *h, conn *c, frame_found *found, const uint8_t *data, size_t len)
{
    host_question question = {.data = data, .len = len, .found = found, .status = FRAME_MORE};
    host_task *t = host_task_take(h, HOST_FRAME, c);
    found->need = len + 1;
    if (t != NULL) t->question = &question;
    /* on_error may want to keep the connection, but where its next message begins nobody knows. */
    if (t == NULL || !host_task_start(h, t)) conn_abort(c, CONN_ERROR, IO_OK);
    return question.status;
}

void host_call_message(host *h, conn *c, const uint8_t *data, size_t len)
{
    host_task *t = host_task_take(h, HOST_ON_MESSAGE, c);
    if (t == NULL) {
        conn_abort(c, CONN_ERROR, IO_LIMIT);
        return;
    }
    t->data = data;
    t->len = len;
    host_task_start(h, t);
}

static void on_data(conn *c, const uint8_t *data, size_t len)
{
    __builtin_prefetch(c->user); /* for host_conn_push() */
    host *h = serve(c);
    uint32_t handlers = handlers_of(h, c);
    if (handlers & HOST_BIT(HOST_ON_STREAM)) begin_stream(h, c, len);
    if (!(handlers & HOST_BIT(HOST_ON_MESSAGE))) {
        bool draws = (handlers & HOST_BIT(HOST_ON_READABLE)) != 0; /* it has just come from a script that does not */
        if (draws && c->state == CONN_OPEN) conn_keep(c, len, 0);
        return;
    }
    if (c->limits->frame.type == FRAME_RAW) host_call_message(h, c, data, len);
    else host_messages(h, c, data, len);
}

static void on_readable(conn *c)
{
    host *h = serve(c);
    if (handlers_of(h, c) & HOST_BIT(HOST_ON_READABLE)) call(h, HOST_ON_READABLE, c);
}

static void on_eof(conn *c)
{
    host *h = serve(c);
    if (handlers_of(h, c) & HOST_BIT(HOST_ON_EOF)) call(h, HOST_ON_EOF, c);
}

/* Whether FIN ends it is for the script in force to say. */
static void on_fin(conn *c)
{
    (void)serve(c);
}

static void on_drain(conn *c)
{
    host *h = serve(c);
    if (handlers_of(h, c) & HOST_BIT(HOST_ON_DRAIN)) call(h, HOST_ON_DRAIN, c);
}

static void on_close(conn *c, conn_reason reason, io_status status)
{
    host *h = serve(c);
    host_task *t = NULL;
    if (reason == CONN_EOF && conn_truncated(c) > 0) host_note_truncated(c);
    if (handlers_of(h, c) & HOST_BIT(HOST_ON_CLOSE)) t = host_task_take(h, HOST_ON_CLOSE, c);
    if (t == NULL) {
        host_end_conn(h, c);
        return;
    }
    t->reason = (uint8_t)reason;
    t->status = status;
    host_task_start(h, t);
}

const conn_events host_events = {on_open, on_data, on_readable, on_eof, on_drain, on_close, on_turn, on_fin};

/* ---- Other calls ---- */

bool host_call_load(host *h, host_kind kind)
{
    if (!(h->handlers & HOST_BIT(kind))) return true;
    host_task *t = host_task_take(h, kind, NULL);
    return t != NULL && host_task_start(h, t);
}

void host_call_unload(host *h)
{
    if (!(h->handlers & HOST_BIT(HOST_ON_UNLOAD))) return;
    host_task *t = host_task_take(h, HOST_ON_UNLOAD, NULL);
    if (t != NULL) host_task_start(h, t);
}

bool host_call_errand(host *h, host_kind kind, const host_errand *errand, void *subject)
{
    host_task *t = host_task_take(h, kind, NULL);
    if (t == NULL) return false;
    t->errand = errand;
    t->subject = subject;
    host_task_start(h, t);
    return true;
}

void host_call_datagram(host *h, const host_datagram *d, const void *data, size_t len)
{
    bool has_own = d->handler_ref == LUA_NOREF && (h->handlers & HOST_BIT(HOST_ON_DATAGRAM));
    host_task *t = host_task_take(h, has_own ? HOST_ON_DATAGRAM : HOST_DATAGRAM, NULL);
    if (t == NULL) return; /* one datagram is lost */
    t->datagram = *d;
    t->data = data;
    t->len = len;
    host_task_start(h, t);
}
