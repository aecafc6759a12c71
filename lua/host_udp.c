/* host_udp.c - datagrams: those of listeners, which go to the script's on_datagram (without one, to its on_message), and the
 * sockets of portico.udp.
 *
 * A datagram is on its own: each runs its handler at once, whatever others still wait, up to HOST_DATAGRAMS_HIGH of a
 * state; then no more are received until some of them have ended. What its handler sees of the peer is a userdata that can
 * send, and that may be kept: it holds the address, and finds out by itself when the socket is gone.
 *
 * A listener's sockets belong to the server, and what comes there goes to the host in force. A socket of portico.udp belongs
 * to the host that made it, and ends with it.
 */
#include "host_internal.h"

#include "log.h"
#include "net_udp.h"
#include "net_uri.h"

#include <stdio.h>
#include <string.h>

/* What scripts see as a socket. User value 1 is on_message. Anchored while it has that and is open. */
struct host_udp {
    const void *tag; /* &socket_tag */
    host *host;
    udp *udp; /* see open_udp() */
    uint64_t udp_id;
    host_queue waiters; /* in recv() */
    uint8_t *stash;     /* a datagram that has come for them, or for the next; else NULL */
    size_t stash_len;
    net_addr from;    /* who sent it */
    io_status status; /* why they were woken without one; what went wrong last */
    net_addr peer;    /* none: it is not connected */
    int ref;          /* LUA_NOREF: not anchored */
    bool has_handler;
    bool has_error; /* status is of a receive or a send, and the script has not been told yet */
};

/* What scripts see of who sent a datagram. */
typedef struct host_peer {
    const void *tag; /* &peer_tag */
    udp *udp;
    uint64_t udp_id;
    net_addr addr;
} host_peer;

/* What only these begin with; and the registry's keys of their metatables. */
static const char socket_tag;
static const char peer_tag;

static udp *open_udp(const host *h, udp *u, uint64_t id)
{
    return udp_is_open(&h->worker->udps, u, id) ? u : NULL;
}

/* ---- Sending ---- */

/* result  true; or nil, message, code. raises */
static int push_sent(lua_State *L, io_status status)
{
    if (status == IO_CLOSED) return host_push_failure(L, "closed", "closed");
    if (status == IO_LIMIT) return host_push_failure(L, "the send queue is full", "limit");
    lua_pushboolean(L, true);
    return 1;
}

/* The strings from first to last as one datagram. raises */
static int send_strings(lua_State *L, udp *u, const net_addr *to, int first, int last)
{
    size_t len;
    for (int i = first; i <= last; i++) luaL_checkstring(L, i);
    if (u == NULL) return push_sent(L, IO_CLOSED);
    lua_settop(L, last);
    if (last > first) lua_concat(L, last - first + 1);
    const char *data = lua_tolstring(L, first, &len);
    if (len > IO_DATAGRAM_MAX) {
        lua_pushfstring(L, "%d bytes do not fit in a datagram (%d at most)", (int)len, IO_DATAGRAM_MAX);
        return host_push_failure(L, lua_tostring(L, -1), "invalid");
    }
    return push_sent(L, udp_send(u, to, data, len));
}

void host_udp_reply(const host_task *t, const char *data, size_t len)
{
    udp *u = open_udp(t->host, t->datagram.udp, t->datagram.udp_id);
    if (len > IO_DATAGRAM_MAX) {
        static log_cause cause;
        log_rarely(&cause, LOG_WARN, "a reply was dropped: it does not fit in a datagram",
                   "a reply of %s is dropped: %zu bytes do not fit in a datagram (%d at most)",
                   host_kind_name((host_kind)t->kind), len, IO_DATAGRAM_MAX);
    } else if (u != NULL) {
        (void)udp_send(u, &t->datagram.peer, data, len); /* what finds no room is counted */
    }
}

/* ---- Peers ---- */

static host_peer *to_peer(lua_State *L, int index)
{
    host_peer *p = lua_touserdata(L, index);
    return p != NULL && lua_rawlen(L, index) == sizeof(*p) && p->tag == &peer_tag ? p : NULL;
}

static host_peer *check_peer(lua_State *L)
{
    host_peer *p = to_peer(L, 1);
    if (p == NULL) luaL_typeerror(L, 1, "peer");
    return p;
}

static void push_addr(lua_State *L, const net_addr *addr)
{
    char text[NET_ADDR_TEXT_MAX];
    lua_pushstring(L, net_addr_format(addr, text, sizeof(text)));
}

static void push_local(lua_State *L, const udp *u)
{
    net_addr addr;
    if (u != NULL && net_local(&addr, udp_socket(u)) == IO_OK) push_addr(L, &addr);
    else lua_pushnil(L);
}

void host_udp_push_peer(lua_State *L, const host_datagram *d)
{
    host_peer *p = lua_newuserdatauv(L, sizeof(*p), 0);
    *p = (host_peer){.tag = &peer_tag, .udp = d->udp, .udp_id = d->udp_id, .addr = d->peer};
    lua_rawgetp(L, LUA_REGISTRYINDEX, &peer_tag);
    lua_setmetatable(L, -2);
}

static int peer_send(lua_State *L)
{
    const host_peer *p = check_peer(L);
    luaL_checkstring(L, 2);
    return send_strings(L, open_udp(host_of(L), p->udp, p->udp_id), &p->addr, 2, lua_gettop(L));
}

/* The methods of a conn that mean nothing here. */
static int peer_cannot(lua_State *L)
{
    check_peer(L);
    return host_push_failure(L, "a datagram's peer has no connection", "unsupported");
}

static int peer_index(lua_State *L)
{
    const host_peer *p = check_peer(L);
    const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
    const udp *u = open_udp(host_of(L), p->udp, p->udp_id);
    if (strcmp(name, "peer") == 0) {
        push_addr(L, &p->addr);
    } else if (strcmp(name, "addr") == 0) {
        push_local(L, u);
    } else if (strcmp(name, "listener") == 0) {
        lua_pushstring(L, u == NULL ? NULL : udp_listener_of(u));
    } else {
        lua_settop(L, 2);
        lua_rawget(L, lua_upvalueindex(1));
    }
    return 1;
}

static int peer_to_string(lua_State *L)
{
    lua_pushliteral(L, "peer ");
    push_addr(L, &check_peer(L)->addr);
    lua_concat(L, 2);
    return 1;
}

/* ---- Sockets ---- */

static host_udp *check_socket(lua_State *L)
{
    host_udp *s = lua_touserdata(L, 1);
    if (s == NULL || lua_rawlen(L, 1) != sizeof(*s) || s->tag != &socket_tag) luaL_typeerror(L, 1, "udp socket");
    return s;
}

static udp *udp_of(const host_udp *s)
{
    return open_udp(s->host, s->udp, s->udp_id);
}

static bool is_connected(const host_udp *s)
{
    return net_addr_bytes(&s->peer) > 0;
}

/* Reads the address at index, which is argument arg, or an option in it: "127.0.0.1:53", "udp://…", or a peer. option: its name
 * and ": ", or "". raises */
static net_addr read_address(lua_State *L, int index, int arg, const char *option)
{
    const host_peer *p = to_peer(L, index);
    char error[128];
    net_uri uri;
    net_transport transport;
    if (p != NULL) return p->addr;
    if (lua_type(L, index) != LUA_TSTRING) {
        luaL_argerror(L, arg,
                      lua_pushfstring(L, "%san address like \"127.0.0.1:53\", or a peer, expected, got %s", option,
                                      luaL_typename(L, index)));
    }
    const char *text = lua_tostring(L, index);
    const char *rest = net_uri_split(&transport, text);
    bool is_other = transport == NET_UNIX || (transport == NET_TCP && rest != text);
    const char *wrong = host_uri_wrong(L, index);
    if (is_other) wrong = "an address like \"127.0.0.1:53\" or \"udp://127.0.0.1:53\" expected";
    else if (wrong == NULL && net_uri_parse(&uri, text, error, sizeof(error)) != IO_OK) wrong = error;
    if (wrong != NULL) luaL_argerror(L, arg, lua_pushfstring(L, "%s%s", option, wrong));
    return uri.addr;
}

static net_addr check_address(lua_State *L, int arg)
{
    return read_address(L, arg, arg, "");
}

static int socket_send(lua_State *L)
{
    host_udp *s = check_socket(L);
    net_addr to = s->peer;
    luaL_checkstring(L, 2);
    if (!is_connected(s)) to = check_address(L, 3);
    else luaL_argcheck(L, lua_isnoneornil(L, 3), 3, "this socket sends to its peer only: no address expected");
    lua_settop(L, 2);
    bool has_news = s->has_handler && s->has_error; /* else recv() tells */
    int results = send_strings(L, udp_of(s), is_connected(s) ? NULL : &to, 2, 2);
    if (!has_news || results > 1) return results;
    s->has_error = false;
    lua_pushstring(L, io_status_text(s->status));
    lua_pushstring(L, io_status_name(s->status));
    return 3; /* true, message, code */
}

/* Pushes the datagram that has come, and its sender. raises */
static int take_stash(lua_State *L, host_udp *s)
{
    udp *u = udp_of(s);
    lua_pushlstring(L, (const char *)s->stash, s->stash_len);
    push_addr(L, &s->from);
    mem_free(s->stash);
    s->stash = NULL;
    if (u != NULL && s->waiters.count > 0) udp_resume(u);
    return 2;
}

/* Tells what went wrong before; a datagram that is there, too, is for who comes next. raises */
static int take_error(lua_State *L, host_udp *s)
{
    s->has_error = false;
    if (s->stash != NULL && s->waiters.woken == 0) host_queue_wake(&s->waiters);
    return host_push_failure(L, io_status_text(s->status), io_status_name(s->status));
}

static int received(lua_State *L, int yielded, lua_KContext context)
{
    host_udp *s = (host_udp *)context;
    (void)yielded;
    if (s->has_error && host_of(L)->task->woken) return take_error(L, s);
    if (s->stash != NULL && host_of(L)->task->woken) return take_stash(L, s);
    io_status status = host_of(L)->task->woken ? s->status : IO_TIMEOUT;
    return host_push_failure(L, io_status_text(status), io_status_name(status));
}

static int socket_recv(lua_State *L)
{
    host_udp *s = check_socket(L);
    udp *u = udp_of(s);
    int64_t timeout_ns = host_check_timeout(L, 2);
    if (s->has_handler) return luaL_error(L, "recv is not for sockets with on_message");
    if (u == NULL) return host_push_failure(L, "closed", "closed");
    if (s->has_error && s->waiters.woken == 0) return take_error(L, s);
    if (s->stash != NULL && s->waiters.woken == 0) return take_stash(L, s);
    if (timeout_ns != 0) host_check_wait(L, "recv");
    if (s->stash == NULL) udp_resume(u);
    /* A timeout of 0 gives what lies in the system's buffer a turn to come. Without turns it comes for the next call. */
    if (timeout_ns == 0 && !host_can_wait(L)) return host_push_failure(L, "timeout", "timeout");
    return host_wait_in(L, &s->waiters, timeout_ns, (lua_KContext)s, received);
}

/* Who has been woken is gone without having taken what is there. */
static void left(host_queue *q, host_task *t)
{
    const host_udp *s = container_of(q, host_udp, waiters);
    (void)t;
    if ((s->stash != NULL || s->has_error) && q->woken == 0) host_queue_wake(q);
}

static void forget_anchor(host *h, host_udp *s)
{
    luaL_unref(h->L, LUA_REGISTRYINDEX, s->ref);
    s->ref = LUA_NOREF;
}

static void shut(host_udp *s)
{
    udp *u = udp_of(s);
    if (u != NULL) udp_close(u);
    mem_free(s->stash);
    s->stash = NULL;
    s->udp = NULL;
}

static int socket_close(lua_State *L)
{
    host_udp *s = check_socket(L);
    if (udp_of(s) == NULL) return host_push_failure(L, "closed", "closed");
    shut(s);
    forget_anchor(s->host, s);
    s->status = IO_CLOSED;
    s->has_error = false;
    while (host_queue_wake(&s->waiters)) continue;
    lua_pushboolean(L, true);
    return 1;
}

/* Nobody refers to it any more, or the state is being closed. */
static int socket_collect(lua_State *L)
{
    shut(check_socket(L));
    return 0;
}

static int socket_index(lua_State *L)
{
    const host_udp *s = check_socket(L);
    const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
    if (strcmp(name, "addr") == 0) {
        push_local(L, udp_of(s));
    } else if (strcmp(name, "peer") == 0) {
        if (is_connected(s)) push_addr(L, &s->peer);
        else lua_pushnil(L);
    } else {
        lua_settop(L, 2);
        lua_rawget(L, lua_upvalueindex(1));
    }
    return 1;
}

static int socket_to_string(lua_State *L)
{
    const host_udp *s = check_socket(L);
    lua_pushliteral(L, "udp socket (");
    if (udp_of(s) == NULL) lua_pushliteral(L, "closed");
    else push_local(L, udp_of(s));
    lua_pushliteral(L, ")");
    lua_concat(L, 3);
    return 1;
}

/* ---- What comes ---- */

#define TAKERS (HOST_BIT(HOST_ON_DATAGRAM) | HOST_BIT(HOST_ON_MESSAGE))

static void call_handler(host *h, udp *u, host_udp *s, const net_addr *peer, const uint8_t *data, size_t len)
{
    const host_datagram d = {
        .udp = u, .udp_id = udp_id(u), .handler_ref = s == NULL ? LUA_NOREF : s->ref, .peer = *peer};
    host_call_datagram(h, &d, data, len);
    if (h->datagrams >= HOST_DATAGRAMS_HIGH && udp_is_open(&h->worker->udps, d.udp, d.udp_id)) udp_pause(u);
}

void host_udp_resume(host *h)
{
    udp_set *set = &h->worker->udps;
    for (udp *u = set->live; u != NULL; u = udp_next(u)) {
        if (udp_listener_of(u) != NULL || ((const host_udp *)udp_user(u))->has_handler) udp_resume(u);
    }
}

static void on_listener_datagram(udp *u, const net_addr *peer, const uint8_t *data, size_t len)
{
    host *h = ((const host_seat *)udp_user(u))->current;
    if (h->handlers & TAKERS) call_handler(h, u, NULL, peer, data, len);
}

static void on_socket_datagram(udp *u, const net_addr *peer, const uint8_t *data, size_t len)
{
    host_udp *s = udp_user(u);
    if (s->has_handler) {
        call_handler(s->host, u, s, peer, data, len);
        return;
    }
    udp_pause(u); /* until the next recv(): the system's buffer is the queue */
    if (s->stash != NULL) return;
    s->stash = mem_alloc(len + 1);
    if (s->stash == NULL) return; /* as if the network had lost it */
    if (len > 0) memcpy(s->stash, data, len);
    s->stash_len = len;
    s->from = *peer;
    host_queue_wake(&s->waiters);
}

static void on_listener_error(udp *u, io_status status)
{
    log_write(LOG_DEBUG, "%s: %s", udp_listener_of(u), io_status_text(status));
}

static void on_socket_error(udp *u, io_status status)
{
    host_udp *s = udp_user(u);
    s->status = status;
    s->has_error = true; /* until the next recv(), when nobody waits in one; or with on_message, the next send() */
    host_queue_wake(&s->waiters);
}

static const udp_events listener_events_of_host = {on_listener_datagram, on_listener_error};
static const udp_events socket_events = {on_socket_datagram, on_socket_error};

void host_udp_take(worker *w, io_socket socket, const char *listener)
{
    host_seat *seat = w->app_state;
    if (udp_open(&w->udps, socket, &listener_events_of_host, seat, listener, false) == NULL) {
        log_write(LOG_ERROR, "%s: worker %u takes no datagrams: out of memory", listener, w->id);
    } else if (!(seat->current->handlers & TAKERS) && w->id == 0) {
        log_write(LOG_WARN, "%s: neither on_datagram nor on_message is there: datagrams are dropped", listener);
    }
}

/* ---- portico.udp ---- */

typedef struct udp_options {
    net_addr bind; /* none: not given */
    bool has_handler;
} udp_options;

enum { OPTIONS_SLOT = 2, HANDLER_SLOT };

/* arg: which argument the script gave them as. raises */
static udp_options read_options(lua_State *L, int arg)
{
    static const char *const names[] = {"bind", "on_message", NULL};
    udp_options options = {.has_handler = false};
    lua_settop(L, OPTIONS_SLOT);
    lua_pushnil(L); /* HANDLER_SLOT */
    if (lua_isnil(L, OPTIONS_SLOT)) return options;
    luaL_checktype(L, OPTIONS_SLOT, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, OPTIONS_SLOT); lua_settop(L, HANDLER_SLOT + 1)) {
        const char *name = host_option_name(L, arg, -2);
        if (strcmp(name, "bind") == 0) {
            options.bind = read_address(L, lua_gettop(L), arg, "bind: ");
        } else if (strcmp(name, "on_message") == 0) {
            const char *found = luaL_typename(L, -1);
            if (lua_type(L, -1) != LUA_TFUNCTION) {
                luaL_argerror(L, arg, lua_pushfstring(L, "on_message: function expected, got %s", found));
            }
            lua_pushvalue(L, -1);
            lua_replace(L, HANDLER_SLOT);
            options.has_handler = true;
        } else {
            host_option_unknown(L, arg, "", name, names);
        }
    }
    return options;
}

static io_status open_socket(io_socket *socket, const net_addr *peer, const net_addr *local, int *native)
{
    net_addr any;
    char error[64];
    bool is_bound = net_addr_bytes(local) > 0;
    if (net_addr_bytes(peer) > 0) return net_udp_connect(socket, is_bound ? local : NULL, peer, native);
    (void)net_addr_parse(&any, "*:0", error, sizeof(error));
    return net_udp_open(socket, is_bound ? local : &any, native);
}

int host_api_udp(lua_State *L)
{
    host *h = host_of(L);
    net_addr peer = {{0}};
    int native = 0;
    io_socket socket;
    bool is_alone = lua_type(L, 1) == LUA_TTABLE;
    if (is_alone) { /* options without an address */
        lua_settop(L, 1);
        lua_pushnil(L);
        lua_insert(L, 1);
    }
    if (!lua_isnoneornil(L, 1)) peer = check_address(L, 1);
    const udp_options options = read_options(L, is_alone ? 1 : OPTIONS_SLOT);
    if (h->closing || h->worker->draining) return host_push_failure(L, "closed", "closed");
    host_udp *s = lua_newuserdatauv(L, sizeof(*s), 1);
    *s = (host_udp){.tag = &socket_tag,
                    .host = h,
                    .waiters = {.left = left},
                    .peer = peer,
                    .ref = LUA_NOREF,
                    .has_handler = options.has_handler};
    lua_pushvalue(L, HANDLER_SLOT);
    lua_setiuservalue(L, -2, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &socket_tag);
    lua_setmetatable(L, -2);
    if (s->has_handler) {
        lua_pushvalue(L, -1);
        s->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    io_status status = open_socket(&socket, &peer, &options.bind, &native);
    if (status == IO_OK) {
        s->udp = udp_open(&h->worker->udps, socket, &socket_events, s, NULL, !s->has_handler);
        if (s->udp == NULL) status = IO_LIMIT;
    }
    if (status != IO_OK) {
        forget_anchor(h, s);
        if (status == IO_IN_USE && h->loading && h->generation->number > 1) {
            return host_push_failure(
                L,
                "address already in use, and if it is by the version in force: such a socket ends with its version; "
                "what is in `listen` stays open",
                io_status_name(status));
        }
        return host_push_failure(L, io_status_text(status), io_status_name(status));
    }
    s->udp_id = udp_id(s->udp);
    return 1;
}

/* ---- Metatables ---- */

void host_udp_library(lua_State *L)
{
    static const luaL_Reg peer_methods[] = {
        {"send", peer_send},     {"recv", peer_cannot},     {"pause", peer_cannot},
        {"resume", peer_cannot}, {"shutdown", peer_cannot}, {"close", peer_cannot},
        {"abort", peer_cannot},  {"set", peer_cannot},      {NULL, NULL},
    };
    static const luaL_Reg peer_metamethods[] = {{"__tostring", peer_to_string}, {NULL, NULL}};
    static const luaL_Reg socket_methods[] = {
        {"send", socket_send}, {"recv", socket_recv}, {"close", socket_close}, {NULL, NULL}};
    static const luaL_Reg socket_metamethods[] = {
        {"__gc", socket_collect}, {"__close", socket_close}, {"__tostring", socket_to_string}, {NULL, NULL}};
    host_metatable(L, "peer", &peer_tag, peer_methods, peer_metamethods);
    host_metatable_reads(L, &peer_tag, peer_index);
    host_metatable(L, "udp socket", &socket_tag, socket_methods, socket_metamethods);
    host_metatable_reads(L, &socket_tag, socket_index);
}
