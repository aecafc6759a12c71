/* host_connect.c - portico.connect: a connection to somebody else, with handlers of its own or none.
 *
 * A Unix socket is connected at once, or, when the listener's queue is full, tried again every RETRY_NS.
 * A name is looked up first, by the resolver's threads; then its addresses are tried in turn, until one answers or the
 * deadline, which is one for all of it, has passed. The task waits meanwhile.
 */
#include "host_internal.h"

#include "net_uri.h"
#include "resolver.h"
#include "server.h"

#include <stdio.h>
#include <string.h>

#define RETRY_NS INT64_C(10000000)

/* What it is doing, in a userdata on the stack of who called it. */
struct host_attempt {
    host_task *task;       /* that waits */
    resolver_query *query; /* under way; else NULL */
    host_conn *conn;       /* that is being connected; else NULL */
    int64_t deadline_ns;   /* INT64_MAX: none */
    uint32_t handlers;     /* HOST_BIT() of those given */
    io_status status;      /* how the last step went */
    size_t count;          /* addresses … */
    size_t next;           /* … and the one to try next */
    net_uri target;        /* what is tried now */
    frame_rule frame;
    net_addr addrs[RESOLVER_ADDRS_MAX];
    char error[256]; /* more about status; "" when its own text says it all */
};

enum { FRAME_PLACE = HOST_KINDS }; /* among the handlers, which stand at their kinds */
enum { URI_SLOT = 1, OPTIONS_SLOT, HANDLERS_SLOT, ATTEMPT_SLOT, CONN_SLOT };

static const char *const option_names[] = {"timeout",     "on_connect", "on_message", "on_stream", "on_close",
                                           "on_readable", "on_eof",     "on_drain",   "frame",     NULL};

/* ---- Options ---- */

/* Reads one: its name at -2, its value at -1. raises */
static void read_option(lua_State *L, host_attempt *a, int64_t *timeout_ns)
{
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2);
    host_kind kind = host_kind_find(name);
    if (strcmp(name, "timeout") == 0) {
        lua_Number seconds = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : -1;
        if (!(seconds > 0 && seconds <= (lua_Number)HOST_SECONDS_MAX)) {
            luaL_argerror(L, OPTIONS_SLOT, "timeout: a number of seconds above 0 expected");
        }
        *timeout_ns = (int64_t)(seconds * 1e9);
    } else if (strcmp(name, "frame") == 0) {
        const char *wrong = host_frame_read(L, &a->frame, lua_gettop(L));
        if (wrong != NULL) luaL_argerror(L, OPTIONS_SLOT, wrong);
        lua_rawseti(L, HANDLERS_SLOT, FRAME_PLACE);
    } else if (kind >= HOST_ON_CONNECT && kind <= HOST_ON_CLOSE) {
        if (lua_type(L, -1) != LUA_TFUNCTION) {
            const char *found = luaL_typename(L, -1);
            luaL_argerror(L, OPTIONS_SLOT, lua_pushfstring(L, "%s: function expected, got %s", name, found));
        }
        lua_rawseti(L, HANDLERS_SLOT, (lua_Integer)kind);
        a->handlers |= HOST_BIT(kind);
    } else {
        host_push_hint(L, name, option_names);
        luaL_argerror(L, OPTIONS_SLOT, lua_pushfstring(L, "unknown option '%s'%s", name, lua_tostring(L, -1)));
    }
}

/* Returns how long it may take, in ns; 0: no limit. raises */
static int64_t read_options(lua_State *L, host_attempt *a)
{
    int64_t timeout_ns = host_of(L)->limits.connect_ns;
    if (lua_isnil(L, OPTIONS_SLOT)) return timeout_ns;
    luaL_checktype(L, OPTIONS_SLOT, LUA_TTABLE);
    int key = lua_gettop(L) + 1;
    for (lua_pushnil(L); lua_next(L, OPTIONS_SLOT); lua_settop(L, key)) read_option(L, a, &timeout_ns);
    const char *wrong = host_handlers_wrong(a->handlers);
    if (wrong != NULL) luaL_argerror(L, OPTIONS_SLOT, wrong);
    return timeout_ns;
}

/* ---- Connecting ---- */

static int fail(lua_State *L, const host_attempt *a)
{
    return host_push_failure(L, a->error[0] != '\0' ? a->error : io_status_text(a->status), io_status_name(a->status));
}

static int try_addresses(lua_State *L, host_attempt *a);

/* One address has answered, or not. */
static int connected(lua_State *L, int yielded, lua_KContext context)
{
    host_attempt *a = (host_attempt *)context;
    (void)yielded;
    lua_settop(L, CONN_SLOT);
    return a->status == IO_OK ? 1 : try_addresses(L, a);
}

/* The frame that was asked for: the listeners' is not for it. The conn is in its slot. False: out of memory. raises */
static bool set_frame(lua_State *L, const host_attempt *a, conn *c)
{
    host_conn *hc = c->user;
    if (a->frame.type == FRAME_CUSTOM) {
        lua_rawgeti(L, HANDLERS_SLOT, FRAME_PLACE);
        hc->frame_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    return conn_set_frame(c, &a->frame);
}

/* Begins to connect to the next address. The conn is in its slot. raises */
static io_status begin(lua_State *L, host_attempt *a, int64_t now_ns)
{
    host *h = host_of(L);
    io_status status;
    lua_settop(L, ATTEMPT_SLOT);
    host_conn *hc = host_conn_new(L, 3);
    lua_pushvalue(L, HANDLERS_SLOT);
    lua_setiuservalue(L, CONN_SLOT, 2);
    lua_pushvalue(L, URI_SLOT);
    lua_setiuservalue(L, CONN_SLOT, 3);
    hc->handlers = a->handlers;
    conn_config config = {
        .events = &h->events,
        .limits = &h->limits,
        .listener = lua_tostring(L, URI_SLOT), /* user value 3 keeps it, where it is */
        .user = hc,
        .receive = (a->handlers & HOST_BIT(HOST_ON_READABLE)) ? CONN_READY : CONN_LENT,
        .half_open = (a->handlers & HOST_BIT(HOST_ON_EOF)) != 0,
    };
    if (a->target.transport == NET_TCP) a->target.addr = a->addrs[a->next];
    a->next++;
    conn *c = worker_connect(h->worker, &a->target, &config, &status);
    if (c == NULL) {
        host_conn_drop(h, hc);
        return status;
    }
    h->conns++;
    hc->c = c;
    hc->id = c->id;
    hc->attempt = a;
    a->conn = hc;
    if (!(a->handlers & HOST_READERS)) conn_pause(c); /* for conn:read and conn:recv */
    if (!set_frame(L, a, c)) conn_abort(c, CONN_LIMIT, IO_LIMIT);
    if (a->deadline_ns != INT64_MAX) {
        conn_limits *own = conn_own_limits(c);
        if (own != NULL) own->connect_ns = a->deadline_ns - now_ns;
        else conn_abort(c, CONN_LIMIT, IO_LIMIT);
        conn_limits_changed(c);
    }
    return IO_OK;
}

static void try_again(timer *clock, int64_t now_ns)
{
    (void)now_ns;
    host_task_wake(container_of(clock, host_task, wake));
}

/* The queue of a Unix listener is full: it is tried again later. IO_LIMIT when out of memory. */
static io_status wait_for_room(host *h, host_attempt *a, int64_t now_ns)
{
    int64_t retry_ns = now_ns + RETRY_NS;
    a->next--;
    h->task->wake.fire = try_again;
    if (!timer_start(&h->worker->timers, &h->task->wake, retry_ns < a->deadline_ns ? retry_ns : a->deadline_ns)) {
        return IO_LIMIT;
    }
    return IO_AGAIN;
}

/* raises */
static int try_addresses(lua_State *L, host_attempt *a)
{
    host *h = host_of(L);
    while (a->next < a->count) {
        int64_t now_ns = io_port_now(h->worker->port);
        if (now_ns >= a->deadline_ns) {
            a->status = IO_TIMEOUT;
            break;
        }
        a->status = begin(L, a, now_ns);
        if (a->status == IO_AGAIN) a->status = wait_for_room(h, a, now_ns);
        else if (a->status != IO_OK) continue;
        if (a->status == IO_LIMIT) break;
        a->task = h->task;
        h->task->attempt = a;
        h->task->waiting = HOST_CONNECTS;
        return lua_yieldk(L, 0, (lua_KContext)a, connected);
    }
    return fail(L, a);
}

void host_connect_opened(host *h, conn *c, io_status status)
{
    host_conn *hc = c->user;
    host_attempt *a = hc->attempt;
    hc->attempt = NULL;
    if (status != IO_OK) { /* the slot is free when this event is over */
        host_conn_detach(h, c);
        h->conns--;
    }
    if (a == NULL) return;
    a->conn = NULL;
    a->status = status;
    host_task_wake(a->task);
}

/* ---- Looking a name up ---- */

static void answered(worker *w, resolver_query *query)
{
    host_attempt *a = query->user;
    if (a != NULL) {
        a->query = NULL;
        a->status = query->status;
        a->count = query->status == IO_OK ? query->count : 0;
        memcpy(a->addrs, query->addrs, a->count * sizeof(a->addrs[0]));
        if (query->status != IO_OK) snprintf(a->error, sizeof(a->error), "%s", query->error);
        timer_stop(&w->timers, &a->task->wake);
    }
    mem_free(query);
    if (a != NULL) host_task_wake(a->task);
}

static void forget_query(host_attempt *a)
{
    if (a->query != NULL) a->query->user = NULL;
    a->query = NULL;
}

static void look_up_timed_out(timer *clock, int64_t now_ns)
{
    host_task *t = container_of(clock, host_task, wake);
    (void)now_ns;
    forget_query(t->attempt);
    t->attempt->status = IO_TIMEOUT;
    host_task_wake(t);
}

static int looked_up(lua_State *L, int yielded, lua_KContext context)
{
    host_attempt *a = (host_attempt *)context;
    (void)yielded;
    return a->status == IO_OK ? try_addresses(L, a) : fail(L, a);
}

/* raises */
static int look_up(lua_State *L, host_attempt *a, const char *uri)
{
    host *h = host_of(L);
    resolver_query *query = mem_zalloc(sizeof(*query)); /* nothing below raises while we own it */
    a->status = IO_LIMIT;
    if (query == NULL) return fail(L, a);
    snprintf(query->uri, sizeof(query->uri), "%s", uri);
    query->answer = answered;
    query->user = a;
    h->task->wake.fire = look_up_timed_out;
    if (a->deadline_ns != INT64_MAX && !timer_start(&h->worker->timers, &h->task->wake, a->deadline_ns)) {
        mem_free(query);
        return fail(L, a);
    }
    a->status = resolver_ask(server_resolver(h->worker->server), h->worker, query);
    if (a->status != IO_OK) {
        timer_stop(&h->worker->timers, &h->task->wake);
        mem_free(query);
        return fail(L, a);
    }
    a->query = query;
    a->task = h->task;
    h->task->attempt = a;
    h->task->waiting = HOST_CONNECTS;
    return lua_yieldk(L, 0, (lua_KContext)a, looked_up);
}

void host_connect_abandon(host_attempt *a)
{
    forget_query(a);
    if (a->conn == NULL) return;
    a->conn->attempt = NULL;
    conn_close(a->conn->c, CONN_LOCAL);
}

int host_api_connect(lua_State *L)
{
    const char *uri = luaL_checkstring(L, URI_SLOT);
    lua_settop(L, OPTIONS_SLOT);
    lua_newtable(L);
    host_attempt *a = lua_newuserdatauv(L, sizeof(*a), 0);
    memset(a, 0, sizeof(*a));
    a->frame = frame_raw;
    a->deadline_ns = INT64_MAX;
    int64_t timeout_ns = read_options(L, a);
    host_check_wait(L, "portico.connect");
    if (timeout_ns > 0) a->deadline_ns = io_port_now(host_of(L)->worker->port) + timeout_ns;
    net_transport transport;
    net_uri_split(&transport, uri);
    luaL_argcheck(L, transport != NET_UDP, URI_SLOT, "tcp:// or unix: expected; for udp:// there is portico.udp");
    a->status = net_uri_parse(&a->target, uri, a->error, sizeof(a->error));
    if (a->status == IO_OK) {
        if (a->target.mode != NET_MODE_NONE) luaL_argerror(L, URI_SLOT, "mode: only a listener makes a file");
        a->addrs[0] = a->target.addr;
        a->count = 1;
        return try_addresses(L, a);
    }
    if (transport != NET_TCP || strlen(uri) >= RESOLVER_URI_MAX) return fail(L, a);
    a->error[0] = '\0';
    return look_up(L, a, uri);
}
