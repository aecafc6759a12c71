/* host_remote.c - connections of any worker: portico.conn(id), portico.broadcast(data).
 *
 * The ids of connections interleave, so whose a connection is follows from its id. Whether it is still there does not:
 * what comes for one that is gone is dropped.
 */
#include "host_internal.h"

#include "log.h"
#include "server.h"

#include <inttypes.h>
#include <string.h>

/* A connection of another worker. */
typedef struct remote {
    const void *tag; /* &remote_tag */
    uint64_t id;
} remote;

/* What only a remote begins with; and the registry's key of its metatable. */
static const char remote_tag;

typedef enum verb { SEND, WRITE, CLOSE, ABORT } verb;

/* A mail's data: for one connection, or for all of a worker's. */
typedef struct order {
    uint64_t id;     /* of the connection, or of the one that is left out; 0: none */
    size_t len;      /* SEND, WRITE: of the bytes … */
    size_t listener; /* broadcast: of the listener's name, behind them; 0: every listener */
    uint8_t what;
    uint8_t bytes[];
} order;

static mail *make_order(verb what, uint64_t id, const void *data, size_t len, const char *listener, uint32_t workers,
                        void (*deliver)(worker *w, mail *m))
{
    size_t listener_len = listener != NULL ? strlen(listener) : 0;
    if (len > MAIL_BYTES_MAX) return NULL;
    mail *m = mail_open(workers, offsetof(order, bytes) + len + listener_len, 0, deliver, NULL);
    if (m == NULL) return NULL;
    order *o = m->data;
    o->id = id;
    o->len = len;
    o->listener = listener_len;
    o->what = (uint8_t)what;
    if (len > 0) memcpy(o->bytes, data, len);
    if (listener_len > 0) memcpy(o->bytes + len, listener, listener_len);
    return m;
}

/* ---- On the worker that has the connection ---- */

static void send_to(conn *c, const order *o)
{
    io_status status;
    const char *wrong = NULL;
    if (o->what == WRITE || c->limits->frame.type == FRAME_RAW || c->limits->frame.type == FRAME_CUSTOM) {
        status = conn_send(c, o->bytes, o->len);
    } else {
        wrong = host_message_send(&status, c, o->bytes, o->len);
    }
    if (wrong != NULL) {
        static log_cause cause;
        log_rarely(&cause, LOG_WARN, "what was posted to a connection is dropped",
                   "conn %" PRIu64 ": what was posted to it is dropped: %s", c->id, wrong);
    } else if (status == IO_LIMIT) {
        conn_abort(c, CONN_LIMIT, IO_LIMIT); /* a queue that ran over has ended it already */
    }
}

static void deliver_one(worker *w, mail *m)
{
    const order *o = m->data;
    conn *c = conn_find(&w->conns, o->id);
    if (c == NULL || !c->open_told || c->close_told || host_conn_is_pooled(c)) return;
    switch ((verb)o->what) {
    case SEND:
    case WRITE:
        if (c->state == CONN_OPEN) send_to(c, o);
        break;
    case CLOSE:
        conn_close(c, CONN_LOCAL);
        break;
    case ABORT:
    default:
        conn_abort(c, CONN_LOCAL, IO_OK);
    }
}

static bool is_meant(const conn *c, const order *o)
{
    if (c->outbound || c->state != CONN_OPEN || !c->open_told || c->id == o->id) return false;
    return o->listener == 0 ||
           (strlen(c->listener) == o->listener && memcmp(c->listener, o->bytes + o->len, o->listener) == 0);
}

static void deliver_all(worker *w, mail *m)
{
    for (conn *c = w->conns.live; c != NULL; c = c->live_next) {
        if (is_meant(c, m->data)) send_to(c, m->data);
    }
}

/* ---- portico.conn ---- */

static remote *check(lua_State *L)
{
    remote *r = lua_touserdata(L, 1);
    if (r == NULL || lua_rawlen(L, 1) != sizeof(*r) || r->tag != &remote_tag) luaL_typeerror(L, 1, "remote conn");
    return r;
}

static uint32_t owner_of(const host *h, uint64_t id)
{
    return (uint32_t)((id - 1) % h->worker->count);
}

static int post_bytes(lua_State *L, verb what)
{
    const remote *r = check(L);
    size_t len;
    int top = lua_gettop(L);
    for (int i = 2; i <= top; i++) luaL_checkstring(L, i);
    if (top == 1) lua_pushliteral(L, "");
    lua_concat(L, lua_gettop(L) - 1);
    const char *data = lua_tolstring(L, -1, &len);
    if (len > MAIL_BYTES_MAX / 2) return host_push_failure(L, "more than 8 MiB at once", "limit");
    return host_mail_post(L, make_order(what, r->id, data, len, NULL, 1, deliver_one), owner_of(host_of(L), r->id));
}

static int method_send(lua_State *L)
{
    return post_bytes(L, SEND);
}

static int method_write(lua_State *L)
{
    return post_bytes(L, WRITE);
}

static int post_end(lua_State *L, verb what)
{
    const remote *r = check(L);
    return host_mail_post(L, make_order(what, r->id, NULL, 0, NULL, 1, deliver_one), owner_of(host_of(L), r->id));
}

static int method_close(lua_State *L)
{
    return post_end(L, CLOSE);
}

static int method_abort(lua_State *L)
{
    return post_end(L, ABORT);
}

/* __index: upvalue 1 is the table of methods. */
static int read_member(lua_State *L)
{
    const remote *r = check(L);
    lua_settop(L, 2);
    if (lua_type(L, 2) == LUA_TSTRING && strcmp(lua_tostring(L, 2), "id") == 0) {
        lua_pushinteger(L, (lua_Integer)r->id);
    } else {
        lua_rawget(L, lua_upvalueindex(1));
    }
    return 1;
}

static int to_string(lua_State *L)
{
    const remote *r = check(L);
    lua_pushfstring(L, "conn %I (of worker %d)", (LUAI_UACINT)r->id, (int)owner_of(host_of(L), r->id));
    return 1;
}

int host_api_conn(lua_State *L)
{
    host *h = host_of(L);
    lua_Integer id = luaL_checkinteger(L, 1);
    luaL_argcheck(L, id > 0, 1, "the id of a connection expected");
    if (owner_of(h, (uint64_t)id) == h->worker->id) {
        conn *c = host_is_candidate(h) ? NULL : conn_find(&h->worker->conns, (uint64_t)id);
        if (c == NULL || !c->open_told || c->close_told || host_conn_is_pooled(c)) {
            return host_push_failure(L, "closed", "closed");
        }
        host_conn_push(L, c);
        return 1;
    }
    remote *r = lua_newuserdatauv(L, sizeof(*r), 0);
    *r = (remote){.tag = &remote_tag, .id = (uint64_t)id};
    lua_rawgetp(L, LUA_REGISTRYINDEX, &remote_tag);
    lua_setmetatable(L, -2);
    return 1;
}

/* ---- portico.broadcast ---- */

/* The id of a conn of either kind, or the number that it is. raises */
static uint64_t check_except(lua_State *L, int value)
{
    if (lua_isinteger(L, value) && lua_tointeger(L, value) > 0) return (uint64_t)lua_tointeger(L, value);
    const remote *r = lua_touserdata(L, value);
    if (r != NULL && lua_rawlen(L, value) == sizeof(*r) && r->tag == &remote_tag) return r->id;
    const host_conn *hc = host_conn_test(L, value);
    if (hc == NULL) {
        luaL_argerror(L, 2, lua_pushfstring(L, "except: conn expected, or its id, got %s", luaL_typename(L, value)));
        return 0;
    }
    return hc->id;
}

int host_api_broadcast(lua_State *L)
{
    static const char *const names[] = {"listener", "except", NULL};
    size_t len;
    uint64_t except = 0;
    const char *listener = NULL;
    const char *data = luaL_checklstring(L, 1, &len);
    lua_settop(L, 2);
    if (!lua_isnil(L, 2)) {
        luaL_checktype(L, 2, LUA_TTABLE);
        for (lua_pushnil(L); lua_next(L, 2); lua_settop(L, 3)) {
            const char *name = host_option_name(L, 2, 3);
            if (strcmp(name, names[0]) == 0) {
                if (lua_type(L, 4) != LUA_TSTRING) {
                    const char *found = luaL_typename(L, 4);
                    luaL_argerror(L, 2, lua_pushfstring(L, "listener: string expected, got %s", found));
                }
                listener = lua_tostring(L, 4); /* the table keeps it */
            } else if (strcmp(name, names[1]) == 0) {
                except = check_except(L, 4);
            } else {
                host_option_unknown(L, 2, "", name, names);
            }
        }
    }
    if (len > MAIL_BYTES_MAX / 2) return host_push_failure(L, "more than 8 MiB at once", "limit");
    uint32_t workers = host_of(L)->worker->count;
    return host_mail_post(L, make_order(SEND, except, data, len, listener, workers, deliver_all), HOST_MAIL_ALL);
}

void host_remote_library(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"send", method_send}, {"write", method_write}, {"close", method_close}, {"abort", method_abort}, {NULL, NULL}};
    static const luaL_Reg metamethods[] = {{"__tostring", to_string}, {NULL, NULL}};
    host_metatable(L, "remote conn", &remote_tag, methods, metamethods);
    host_metatable_reads(L, &remote_tag, read_member);
}
