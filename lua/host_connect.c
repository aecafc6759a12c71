/* host_connect.c - portico.connect: a connection to somebody else, with handlers of its own or none.
 *
 * A Unix socket is connected at once, or, when the listener's queue is full, tried again every RETRY_NS.
 * A name is looked up first, by the resolver's threads; then its addresses are tried, the families by turns. The next one
 * begins when one has failed, or has not answered within STAGGER_NS, and the first that answers wins: RFC 8305, "Happy
 * Eyeballs", sections 4 and 5. One deadline is for all of it. The task waits meanwhile.
 *
 * With `pool`, one that waits idle for that URI is taken instead: see host_pool.c.
 */
#include "host_internal.h"

#include "net_uri.h"
#include "resolver.h"
#include "server.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define RETRY_NS INT64_C(10000000)
#define STAGGER_NS INT64_C(250000000) /* the "Connection Attempt Delay" of RFC 8305, section 5 */

/* What it is doing, in a userdata on the stack of who called it. */
struct host_attempt {
    host_task *task;                      /* that waits */
    resolver_query *query;                /* under way; else NULL */
    host_conn *conns[RESOLVER_ADDRS_MAX]; /* that are being connected, */
    size_t pending;                       /* … so many */
    host_conn *winner;                    /* that is connected; else NULL */
    bool due;                             /* the next one may begin */
    int64_t deadline_ns;                  /* INT64_MAX: none */
    uint32_t handlers;                    /* HOST_BIT() of those given */
    io_status status;                     /* how the last step went */
    size_t count;                         /* addresses … */
    size_t next;                          /* … and the one to try next */
    net_uri target;                       /* what is tried now */
    frame_rule frame;
    host_pool_options pool;
    net_addr addrs[RESOLVER_ADDRS_MAX];
    char error[256]; /* more about status; "" when its own text says it all */
};

enum { FRAME_PLACE = HOST_KINDS }; /* among the handlers, which stand at their kinds */
enum { URI_SLOT = 1, OPTIONS_SLOT, HANDLERS_SLOT, ATTEMPT_SLOT, CONN_SLOT };

static const char *const option_names[] = {"timeout",  "on_connect",  "on_message", "on_stream",
                                           "on_close", "on_readable", "on_eof",     "on_drain",
                                           "frame",    "pool",        NULL};

/* ---- Options ---- */

/* Reads one: its name at -2, its value at -1. raises */
static void read_option(lua_State *L, host_attempt *a, int64_t *timeout_ns)
{
    const char *name = host_option_name(L, OPTIONS_SLOT, -2);
    host_kind kind = host_kind_find(name);
    if (strcmp(name, "timeout") == 0) {
        lua_Number seconds = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : -1;
        if (!(seconds > 0 && seconds <= (lua_Number)HOST_SECONDS_MAX)) {
            luaL_argerror(L, OPTIONS_SLOT, "timeout: a number of seconds above 0 expected");
        }
        *timeout_ns = (int64_t)ceil(seconds * 1e9); /* 0 would be no limit */
    } else if (strcmp(name, "frame") == 0) {
        const char *wrong = host_frame_read(L, &a->frame, lua_gettop(L));
        if (wrong != NULL) luaL_argerror(L, OPTIONS_SLOT, wrong);
        lua_rawseti(L, HANDLERS_SLOT, FRAME_PLACE);
    } else if (strcmp(name, "pool") == 0) {
        host_pool_read(L, &a->pool, OPTIONS_SLOT, lua_gettop(L));
    } else if (kind >= HOST_ON_CONNECT && kind <= HOST_ON_CLOSE) {
        if (lua_type(L, -1) != LUA_TFUNCTION) {
            const char *found = luaL_typename(L, -1);
            luaL_argerror(L, OPTIONS_SLOT, lua_pushfstring(L, "%s: function expected, got %s", name, found));
        }
        lua_rawseti(L, HANDLERS_SLOT, (lua_Integer)kind);
        a->handlers |= HOST_BIT(kind);
    } else {
        host_option_unknown(L, OPTIONS_SLOT, "", name, option_names);
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

/* What the options say of a connection, new or from the pool. The conn is in its slot. raises */
static void configure(lua_State *L, const host_attempt *a, conn *c)
{
    host_conn *hc = c->user;
    lua_pushvalue(L, HANDLERS_SLOT);
    lua_setiuservalue(L, CONN_SLOT, 2);
    hc->handlers = a->handlers;
    if (!(a->handlers & HOST_READERS)) conn_pause(c); /* for conn:read and conn:recv */
    if (!set_frame(L, a, c)) conn_abort(c, CONN_LIMIT, IO_LIMIT);
}

/* Begins to connect to the next address. raises */
static io_status begin(lua_State *L, host_attempt *a, int64_t now_ns)
{
    host *h = host_of(L);
    io_status status;
    lua_settop(L, ATTEMPT_SLOT);
    host_conn *hc = host_conn_new(L, 3);
    lua_pushvalue(L, URI_SLOT);
    lua_setiuservalue(L, CONN_SLOT, 3);
    conn_config config = {
        .events = &h->events,
        .limits = &h->limits,
        .listener = lua_tostring(L, URI_SLOT), /* user value 3 keeps it, where it is */
        .user = hc,
        .receive = (a->handlers & HOST_BIT(HOST_ON_READABLE)) ? CONN_READY : CONN_LENT,
        .half_open = (a->handlers & HOST_BIT(HOST_ON_EOF)) != 0,
    };
    if (a->target.transport == NET_TCP) a->target.addr = a->addrs[a->next];
    conn *c = worker_connect(h->worker, &a->target, &config, &status);
    if (status != IO_AGAIN) a->next++;
    if (c == NULL) {
        host_conn_drop(h, hc);
        return status;
    }
    h->conns++;
    hc->c = c;
    hc->id = c->id;
    hc->attempt = a;
    a->conns[a->pending++] = hc;
    configure(L, a, c);
    if (a->deadline_ns != INT64_MAX) {
        conn_limits *own = conn_own_limits(c);
        if (own != NULL) own->connect_ns = a->deadline_ns - now_ns;
        else conn_abort(c, CONN_LIMIT, IO_LIMIT);
        conn_limits_changed(c);
    }
    return IO_OK;
}

/* It is time to try another address, or the same Unix socket again. */
static void try_more(timer *clock, int64_t now_ns)
{
    host_task *t = container_of(clock, host_task, wake);
    (void)now_ns;
    t->attempt->due = true;
    host_task_wake(t);
}

static int go_on(lua_State *L, int yielded, lua_KContext context);

/* raises */
static int try_addresses(lua_State *L, host_attempt *a)
{
    host *h = host_of(L);
    int64_t now_ns = io_port_now(h->worker->port);
    while (a->next < a->count && a->due) {
        io_status status = now_ns < a->deadline_ns ? begin(L, a, now_ns) : IO_TIMEOUT;
        a->due = status != IO_OK && status != IO_AGAIN && status != IO_TIMEOUT;
        if (status != IO_OK) a->status = status;
        if (status == IO_TIMEOUT) a->next = a->count;
    }
    bool again = a->pending == 0 && a->next < a->count; /* a Unix listener's queue is full */
    if (a->pending == 0 && !again) return fail(L, a);
    if (a->next < a->count) {
        int64_t due_ns = now_ns + (again ? RETRY_NS : STAGGER_NS);
        h->task->wake.fire = try_more;
        /* Without memory the next address is tried when this one has failed. */
        bool timed = timer_start(&h->worker->timers, &h->task->wake, due_ns < a->deadline_ns ? due_ns : a->deadline_ns);
        if (!timed && again) {
            a->status = IO_LIMIT;
            return fail(L, a);
        }
    }
    a->task = h->task;
    h->task->attempt = a;
    h->task->waiting = HOST_CONNECTS;
    return lua_yieldk(L, 0, (lua_KContext)a, go_on);
}

/* One address has answered, or not, or it is time for the next. */
static int go_on(lua_State *L, int yielded, lua_KContext context)
{
    host_attempt *a = (host_attempt *)context;
    (void)yielded;
    if (a->winner == NULL) return try_addresses(L, a);
    lua_rawgeti(L, LUA_REGISTRYINDEX, a->winner->ref);
    return 1;
}

/* Gives up all that are being connected, but for one. */
static void give_up(host_attempt *a, const host_conn *but)
{
    for (size_t i = 0; i < a->pending; i++) {
        host_conn *hc = a->conns[i];
        if (hc == but) continue;
        hc->attempt = NULL;
        conn_abort(hc->c, CONN_LOCAL, IO_OK);
    }
    a->pending = 0;
}

void host_connect_won(conn *c)
{
    host_conn *hc = c->user;
    host_attempt *a = hc->attempt;
    if (a == NULL) return;
    give_up(a, hc);
    a->winner = hc;
    timer_stop(&a->task->host->worker->timers, &a->task->wake);
}

static void remove_conn(host_attempt *a, const host_conn *hc)
{
    size_t i = 0;
    while (a->conns[i] != hc) i++;
    a->conns[i] = a->conns[--a->pending];
}

void host_connect_opened(host *h, conn *c, io_status status)
{
    host_conn *hc = c->user;
    host_attempt *a = hc->attempt;
    hc->attempt = NULL;
    if (status != IO_OK) { /* the slot is free when this event is over */
        if (a != NULL) remove_conn(a, hc);
        host_conn_detach(h, c);
        h->conns--;
        host_loosen(h);
    }
    if (a == NULL) return;
    if (status != IO_OK) {
        a->status = status;
        if (a->next == a->count && a->pending > 0) return; /* others may still answer */
        a->due = true;
        timer_stop(&h->worker->timers, &a->task->wake);
    }
    host_task_wake(a->task);
}

/* ---- Looking a name up ---- */

/* The families by turns, each in the resolver's order: RFC 8305, section 4. */
static void interleave(net_addr *to, const net_addr *from, size_t count)
{
    size_t places[2] = {0, 0}; /* of the first one's family, of the others */
    for (size_t i = 0; i < count; i++) {
        size_t turn = i % 2;
        for (size_t tries = 0; tries < 2; tries++, turn = 1 - turn) {
            size_t *place = &places[turn];
            while (*place < count && (net_addr_family(&from[*place]) == net_addr_family(&from[0])) != (turn == 0)) {
                (*place)++;
            }
            if (*place == count) continue;
            to[i] = from[(*place)++];
            break;
        }
    }
}

static void answered(worker *w, resolver_query *query)
{
    host_attempt *a = query->user;
    if (a != NULL) {
        a->query = NULL;
        a->status = query->status;
        a->count = query->status == IO_OK ? query->count : 0;
        interleave(a->addrs, query->addrs, a->count);
        if (query->status != IO_OK) snprintf(a->error, sizeof(a->error), "%s", query->error);
        timer_stop(&w->timers, &a->task->wake);
    }
    mem_free(query);
    if (a != NULL) host_task_wake(a->task);
}

static void forget_query(host_attempt *a)
{
    if (a->query == NULL) return;
    a->query->user = NULL;
    resolver_forget(a->query);
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
    give_up(a, NULL);
    if (a->winner == NULL) return;
    a->winner->attempt = NULL;
    conn_close(a->winner->c, CONN_LOCAL);
}

/* One from the pool. False: there is none. raises */
static bool take_pooled(lua_State *L, const host_attempt *a, const char *uri)
{
    host *h = host_of(L);
    conn *c = a->pool.size > 0 ? host_pool_take(h, uri) : NULL;
    if (c == NULL) return false;
    host_conn *hc = c->user;
    lua_rawgeti(L, LUA_REGISTRYINDEX, hc->ref); /* at CONN_SLOT */
    configure(L, a, c);
    conn_set_receive(c, (a->handlers & HOST_BIT(HOST_ON_READABLE)) ? CONN_READY : CONN_LENT);
    c->half_open = (a->handlers & HOST_BIT(HOST_ON_EOF)) != 0;
    if (a->handlers & HOST_READERS) conn_resume(c);
    if (a->handlers & HOST_BIT(HOST_ON_STREAM)) conn_turn(c);
    return true;
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
    a->due = true;
    int64_t timeout_ns = read_options(L, a);
    host_pool_note(L, &a->pool, HANDLERS_SLOT);
    host_check_wait(L, "portico.connect");
    if (timeout_ns > 0) a->deadline_ns = io_port_now(host_of(L)->worker->port) + timeout_ns;
    net_transport transport;
    const char *wrong = host_uri_wrong(L, URI_SLOT);
    if (wrong != NULL) return host_push_failure(L, wrong, io_status_name(IO_INVALID));
    net_uri_split(&transport, uri);
    luaL_argcheck(L, transport != NET_UDP, URI_SLOT, "tcp:// or unix: expected; for udp:// there is portico.udp");
    a->status = net_uri_parse(&a->target, uri, a->error, sizeof(a->error));
    if (a->status == IO_OK) {
        if (a->target.mode != NET_MODE_NONE) luaL_argerror(L, URI_SLOT, "mode: only a listener makes a file");
        a->addrs[0] = a->target.addr;
        a->count = 1;
        return take_pooled(L, a, uri) ? 1 : try_addresses(L, a);
    }
    if (transport != NET_TCP || strlen(uri) >= RESOLVER_URI_MAX) return fail(L, a);
    a->error[0] = '\0';
    return take_pooled(L, a, uri) ? 1 : look_up(L, a, uri);
}
