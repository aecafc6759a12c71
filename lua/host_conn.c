/* host_conn.c - conn, the userdata through which scripts see a connection.
 *
 * One per connection, made when a handler first needs it, and anchored in the registry for as long as the connection
 * lives. When on_close is over the slot gives up its id: the userdata is stale, and a method on it returns nil,
 * "closed".
 */
#include "host_internal.h"
#include "host_value.h"

#include "net.h"
#include "os.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* What only a conn begins with. */
static const char conn_tag;

/* A userdata of that size with that tag is a conn: two calls, where comparing metatables takes five. */
const host_conn *host_conn_test(lua_State *L, int index)
{
    const host_conn *hc = lua_touserdata(L, index);
    return hc != NULL && lua_rawlen(L, index) == sizeof(*hc) && hc->tag == &conn_tag ? hc : NULL;
}

static host_conn *check_at(lua_State *L, int arg)
{
    host_conn *hc = lua_touserdata(L, arg);
    if (hc == NULL || lua_rawlen(L, arg) != sizeof(*hc) || hc->tag != &conn_tag) luaL_typeerror(L, arg, "conn");
    return hc;
}

static host_conn *check(lua_State *L)
{
    return check_at(L, 1);
}

conn *host_conn_check(lua_State *L, int arg)
{
    return host_conn_get(check_at(L, arg));
}

/* NULL: it is over. */
static conn *check_conn(lua_State *L)
{
    return host_conn_get(check(L));
}

static int push_closed(lua_State *L)
{
    return host_push_failure(L, "closed", "closed");
}

static int push_true(lua_State *L)
{
    lua_pushboolean(L, true);
    return 1;
}

/* ---- Life ---- */

static host_conn *make(lua_State *L, int user_values)
{
    host_conn *hc = lua_newuserdatauv(L, sizeof(*hc), user_values);
    *hc = (host_conn){.tag = &conn_tag, .ref = LUA_NOREF, .frame_ref = LUA_NOREF};
    lua_rawgeti(L, LUA_REGISTRYINDEX, host_of(L)->conn_meta_ref);
    lua_setmetatable(L, -2);
    return hc;
}

host_conn *host_conn_new(lua_State *L, int user_values)
{
    host_conn *hc = make(L, user_values);
    lua_pushvalue(L, -1);
    hc->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return hc;
}

/* One that another host serves: moved, or shown to a visitor. raises */
static void push_other(lua_State *L, conn *c)
{
    host *h = host_of(L);
    if (h == h->seat->current && host_is_movable(c) && host_move(c) == h) {
        host_conn_push(L, c);
        return;
    }
    host_conn *hc = make(L, 1); /* not anchored: the script alone keeps it */
    hc->c = c;
    hc->id = c->id;
}

void host_conn_push(lua_State *L, conn *c)
{
    if (host_of_conn(c) != host_of(L)) {
        push_other(L, c);
        return;
    }
    if (c->user != NULL) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, ((const host_conn *)c->user)->ref);
        return;
    }
    host_conn *hc = host_conn_new(L, 1);
    hc->c = c;
    hc->id = c->id;
    c->user = hc;
}

void host_conn_unanchor(host *h, host_conn *hc)
{
    luaL_unref(h->L, LUA_REGISTRYINDEX, hc->ref);
    luaL_unref(h->L, LUA_REGISTRYINDEX, hc->frame_ref);
    hc->ref = hc->frame_ref = LUA_NOREF;
}

void host_conn_drop(host *h, host_conn *hc)
{
    lua_State *L = h->L;
    hc->c = NULL;
    lua_rawgeti(L, LUA_REGISTRYINDEX, hc->ref);
    for (int value = 1; value <= 3; value++) {
        lua_pushnil(L);
        lua_setiuservalue(L, -2, value); /* one that it does not have: nothing happens */
    }
    lua_pop(L, 1);
    host_conn_unanchor(h, hc);
}

void host_conn_detach(host *h, conn *c)
{
    host_conn *hc = c->user;
    if (hc == NULL) return;
    host *fallback = h->seat->fallback;
    if (hc->before != NULL && fallback != NULL && hc->before_generation == fallback->generation->number) {
        host_conn_drop(fallback, hc->before);
    }
    host_conn_drop(h, hc);
    c->user = NULL;
}

/* ---- Methods ---- */

/* What send and write return. */
static int push_sent(lua_State *L, conn *c, io_status status)
{
    if (status == IO_OK) {
        if (conn_is_high(c) && host_stream_sends_wait(L, c)) return host_stream_send_waits(L, c);
        lua_pushboolean(L, !conn_is_high(c));
        return 1;
    }
    if (status == IO_CLOSED) return push_closed(L);
    if (c->reason == CONN_OVERFLOW && c->state != CONN_OPEN) return host_push_failure(L, "overflow", "overflow");
    return host_push_failure(L, "out of memory", "limit");
}

static void check_strings(lua_State *L)
{
    int top = lua_gettop(L);
    for (int i = 2; i <= top; i++) { /* all of it, or nothing */
        if (lua_type(L, i) != LUA_TSTRING) luaL_checkstring(L, i);
    }
}

/* The arguments are strings, and the connection is there. */
static int write_strings(lua_State *L, conn *c)
{
    int top = lua_gettop(L);
    io_status status = c->state == CONN_OPEN ? IO_OK : IO_CLOSED;
    for (int i = 2; i <= top && status == IO_OK; i++) {
        size_t len;
        const char *data = lua_tolstring(L, i, &len);
        status = conn_send(c, data, len);
    }
    return push_sent(L, c, status);
}

/* As it is, whatever the frame. */
static int method_write(lua_State *L)
{
    conn *c = check_conn(L);
    check_strings(L);
    return c != NULL ? write_strings(L, c) : push_closed(L);
}

/* As one message. */
static int method_send(lua_State *L)
{
    conn *c = check_conn(L);
    unsigned type = c != NULL ? c->limits->frame.type : FRAME_RAW;
    if (type != FRAME_CUSTOM) check_strings(L); /* a FRAME_CUSTOM has its own ideas */
    if (c == NULL || c->state != CONN_OPEN) return push_closed(L);
    if (type == FRAME_RAW) return write_strings(L, c);
    io_status status = host_message_send_any(L, c, 2);
    return push_sent(L, c, status);
}

static int method_recv(lua_State *L)
{
    host *h = host_of(L);
    conn *c = check_conn(L);
    lua_Integer max = luaL_optinteger(L, 2, HOST_DRAW_DEFAULT);
    luaL_argcheck(L, max > 0, 2, "a number of bytes above 0 expected");
    if (c == NULL) return push_closed(L);
    if (c->receive != CONN_READY && !c->paused) {
        return luaL_error(L, "conn:recv is for scripts with on_readable, and for paused connections");
    }
    if (conn_is_read(c)) return luaL_error(L, "conn:recv: somebody else is reading this connection");
    size_t bytes;
    io_status status = conn_draw(c, h->seat->scratch, max < HOST_DRAW_MAX ? (size_t)max : HOST_DRAW_MAX, &bytes);
    if (status == IO_OK && bytes > 0) {
        lua_pushlstring(L, (const char *)h->seat->scratch, bytes);
        return 1;
    }
    if (status == IO_OK) return host_push_failure(L, "eof", "eof");
    if (status == IO_AGAIN) return host_push_failure(L, "again", "again");
    if (status == IO_CLOSED) return push_closed(L);
    return host_push_failure(L, io_status_text(status), io_status_name(status));
}

static int method_pause(lua_State *L)
{
    conn *c = check_conn(L);
    if (c == NULL) return push_closed(L);
    conn_pause(c);
    return push_true(L);
}

static int method_resume(lua_State *L)
{
    conn *c = check_conn(L);
    if (c == NULL) return push_closed(L);
    conn_resume(c);
    return push_true(L);
}

static int method_shutdown(lua_State *L)
{
    static const char *const ways[] = {"w", NULL};
    conn *c = check_conn(L);
    luaL_checkoption(L, 2, "w", ways);
    if (c == NULL || c->state != CONN_OPEN) return push_closed(L);
    conn_shutdown(c);
    return push_true(L);
}

static int method_close(lua_State *L)
{
    conn *c = check_conn(L);
    if (c == NULL) return push_closed(L);
    conn_close(c, CONN_LOCAL);
    return push_true(L);
}

static int method_abort(lua_State *L)
{
    conn *c = check_conn(L);
    if (c == NULL) return push_closed(L);
    conn_abort(c, CONN_LOCAL, IO_OK);
    return push_true(L);
}

/* ---- set{…} ---- */

typedef struct settings {
    conn_limits limits;
    uint32_t given; /* HOST_LIMIT_* */
    bool has_nodelay, has_keepalive, has_receive, has_half_open, has_frame;
    bool nodelay;
    bool half_open;
    unsigned keepalive;
    conn_receive receive;
    frame_rule frame; /* its host_custom, or nil, is in CUSTOM_SLOT */
} settings;

enum { CUSTOM_SLOT = 3, KEY_SLOT };

static const char *const setting_names[] = {"idle",      "first_byte", "write",   "send_high", "send_low",
                                            "send_max",  "message",    "nodelay", "keepalive", "receive",
                                            "half_open", "frame",      NULL};

/* raises: the setting at index is wrong */
static void refuse(lua_State *L, const char *name, const char *expected, int index)
{
    luaL_argerror(L, 2, lua_pushfstring(L, "%s: %s expected, got %s", name, expected, luaL_typename(L, index)));
}

static conn_receive check_receive(lua_State *L, const conn *c, int index)
{
    const char *mode = lua_type(L, index) == LUA_TSTRING ? lua_tostring(L, index) : "";
    uint32_t handlers = c->outbound ? ((const host_conn *)c->user)->handlers : host_of_conn(c)->handlers;
    bool is_ready = strcmp(mode, "ready") == 0;
    if (!is_ready && strcmp(mode, "lent") != 0 && strcmp(mode, "posted") != 0) {
        refuse(L, "receive", "'lent', 'ready' or 'posted'", index);
    }
    if (is_ready && (handlers & HOST_BIT(HOST_ON_MESSAGE))) luaL_argerror(L, 2, "receive: 'ready' is for on_readable");
    if (!is_ready && (handlers & HOST_BIT(HOST_ON_READABLE))) luaL_argerror(L, 2, "receive: on_readable needs 'ready'");
    return is_ready ? CONN_READY : mode[0] == 'l' ? CONN_LENT : CONN_POSTED;
}

/* Reads one setting: its name at -2, its value at -1. raises */
static void read_setting(lua_State *L, settings *s, const conn *c)
{
    int value = lua_gettop(L);
    const char *name = host_option_name(L, 2, -2);
    uint32_t bit = host_limit_set(L, &s->limits, name, value);
    if (bit == HOST_LIMIT_WRONG) luaL_argerror(L, 2, lua_pushfstring(L, "%s: %s", name, lua_tostring(L, -1)));
    s->given |= bit;
    if (bit != 0) return;
    if (strcmp(name, "nodelay") == 0) {
        if (!lua_isboolean(L, value)) refuse(L, name, "boolean", value);
        s->nodelay = lua_toboolean(L, value);
        s->has_nodelay = true;
    } else if (strcmp(name, "half_open") == 0) {
        if (!lua_isboolean(L, value)) refuse(L, name, "boolean", value);
        s->half_open = lua_toboolean(L, value);
        s->has_half_open = true;
    } else if (strcmp(name, "keepalive") == 0) {
        bool is_off = lua_isboolean(L, value) && !lua_toboolean(L, value);
        lua_Number seconds = is_off ? 0 : lua_type(L, value) == LUA_TNUMBER ? lua_tonumber(L, value) : -1;
        if (!is_off && !(seconds >= 1 && seconds <= 32767))
            refuse(L, name, "seconds from 1 to 32767, or false,", value);
        s->keepalive = (unsigned)seconds;
        s->has_keepalive = true;
    } else if (strcmp(name, "frame") == 0) {
        const char *wrong = host_frame_read(L, &s->frame, value);
        if (wrong != NULL) luaL_argerror(L, 2, wrong);
        lua_replace(L, CUSTOM_SLOT);
        s->has_frame = true;
    } else if (strcmp(name, "receive") == 0) {
        s->receive = check_receive(L, c, value);
        s->has_receive = true;
    } else {
        host_push_hint(L, name, setting_names);
        luaL_argerror(L, 2, lua_pushfstring(L, "unknown setting '%s'%s", name, lua_tostring(L, -1)));
    }
}

/* raises, and then nothing has changed */
static bool set_frame(lua_State *L, conn *c, const frame_rule *rule)
{
    host_conn *hc = lua_touserdata(L, 1);
    if (rule->type == FRAME_CUSTOM && hc != c->user) {
        luaL_argerror(
            L, 2,
            "frame: another generation of the script serves the connection: it has to set a frame with functions");
    }
    lua_pushvalue(L, CUSTOM_SLOT);
    int ref = luaL_ref(L, LUA_REGISTRYINDEX); /* LUA_REFNIL for nil */
    bool ok = conn_set_frame(c, rule);
    if (ok) {
        luaL_unref(L, LUA_REGISTRYINDEX, hc->frame_ref);
        hc->frame_ref = ref;
    } else {
        luaL_unref(L, LUA_REGISTRYINDEX, ref);
    }
    return ok;
}

static int method_set(lua_State *L)
{
    conn *c = check_conn(L);
    luaL_checktype(L, 2, LUA_TTABLE);
    if (c == NULL || c->socket == IO_SOCKET_NONE) return push_closed(L);
    settings s = {.limits = *c->limits};
    lua_settop(L, CUSTOM_SLOT);
    for (lua_pushnil(L); lua_next(L, 2); lua_settop(L, KEY_SLOT)) read_setting(L, &s, c);
    if (s.given != 0) {
        const char *wrong = host_limits_settle(&s.limits, s.given);
        if (wrong != NULL) luaL_argerror(L, 2, wrong);
        conn_limits *own = conn_own_limits(c);
        if (own == NULL) return host_push_failure(L, "out of memory", "limit");
        *own = s.limits;
        conn_limits_changed(c);
    }
    if (s.has_frame && !set_frame(L, c, &s.frame)) return host_push_failure(L, "out of memory", "limit");
    io_status status = IO_OK;
    if (s.has_receive) {
        conn_set_receive(c, s.receive);
        c->own_receive = true;
    }
    if (s.has_half_open) {
        c->half_open = s.half_open;
        c->own_half_open = true;
    }
    if (s.has_nodelay) status = net_set_nodelay(c->socket, s.nodelay);
    if (s.has_keepalive && status == IO_OK) status = net_set_keepalive(c->socket, s.keepalive);
    if (status != IO_OK) return host_push_failure(L, io_status_text(status), io_status_name(status));
    return push_true(L);
}

/* ---- Fields ---- */

typedef enum field {
    FIELD_ID = 1,
    FIELD_PEER,
    FIELD_ADDR,
    FIELD_LISTENER,
    FIELD_STATE,
    FIELD_STATS,
    FIELD_GENERATION
} field;

static void push_addr(lua_State *L, const net_addr *addr)
{
    char text[NET_ADDR_TEXT_MAX];
    lua_pushstring(L, net_addr_format(addr, text, sizeof(text)));
}

static void push_local(lua_State *L, const conn *c)
{
    net_addr addr;
    if (net_addr_is_unix(&c->peer)) lua_pushstring(L, c->outbound ? "unix" : c->listener);
    else if (c->socket != IO_SOCKET_NONE && net_local(&addr, c->socket) == IO_OK) push_addr(L, &addr);
    else lua_pushnil(L);
}

static void push_state(lua_State *L, const host_conn *hc, const conn *c)
{
    if (lua_getiuservalue(L, 1, 1) != LUA_TNIL) return;
    lua_pop(L, 1);
    if (hc != c->user && host_of_conn(c) != host_of(L)) host_push_state_copy(L, c); /* a visitor's */
    else lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, 1, 1);
}

static void push_stats(lua_State *L, const host *h, const conn *c)
{
    int64_t age_ns = io_port_now(h->worker->port) - c->opened_ns;
    lua_createtable(L, 0, 5);
    lua_pushinteger(L, (lua_Integer)c->received);
    lua_setfield(L, -2, "received");
    lua_pushinteger(L, (lua_Integer)c->sent);
    lua_setfield(L, -2, "sent");
    lua_pushinteger(L, c->messages);
    lua_setfield(L, -2, "messages");
    lua_pushinteger(L, (lua_Integer)conn_queued(c));
    lua_setfield(L, -2, "queued");
    lua_pushnumber(L, (lua_Number)(os_realtime_ns() - age_ns) / 1e9);
    lua_setfield(L, -2, "opened");
}

static int push_field(lua_State *L, const host_conn *hc, field which)
{
    const conn *c = host_conn_get(hc);
    if (which == FIELD_ID) {
        lua_pushinteger(L, (lua_Integer)hc->id);
        return 1;
    }
    if (c == NULL) return 0;
    switch (which) {
    case FIELD_PEER:
        push_addr(L, &c->peer);
        break;
    case FIELD_ADDR:
        push_local(L, c);
        break;
    case FIELD_LISTENER:
        lua_pushstring(L, c->listener);
        break;
    case FIELD_STATE:
        push_state(L, hc, c);
        break;
    case FIELD_STATS:
        push_stats(L, host_of(L), c);
        break;
    case FIELD_GENERATION:
        lua_pushinteger(L, (lua_Integer)host_of_conn(c)->generation->number);
        break;
    case FIELD_ID:
    default:
        return 0;
    }
    return 1;
}

/* __index: one lookup in a table that has methods as functions and fields as numbers. */
static int read_member(lua_State *L)
{
    const host_conn *hc = check(L);
    lua_settop(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    if (lua_type(L, 2) != LUA_TNUMBER) return 1;
    return push_field(L, hc, (field)lua_tointeger(L, 2));
}

/* What the next version of the script could not be given is refused now, and not then. The value is at 3. raises */
static void check_plain(lua_State *L)
{
    host_value copy;
    if (lua_type(L, 3) <= LUA_TSTRING && lua_type(L, 3) != LUA_TLIGHTUSERDATA) return;
    if (!host_value_encode_in_budget(L, 3, "state", &copy)) {
        luaL_error(L, "conn.state holds plain data, which the next version of the script can be given: %s",
                   lua_tostring(L, -1));
    }
    host_value_free(&copy);
}

static int write_member(lua_State *L)
{
    const host_conn *hc = check(L);
    if (lua_type(L, 2) != LUA_TSTRING || strcmp(lua_tostring(L, 2), "state") != 0) {
        return luaL_error(L, "conn.%s cannot be assigned to; conn.state holds what is yours",
                          lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : luaL_typename(L, 2));
    }
    if (host_conn_get(hc) == NULL) return 0;
    lua_settop(L, 3);
    check_plain(L);
    lua_setiuservalue(L, 1, 1);
    return 0;
}

static int to_string(lua_State *L)
{
    const host_conn *hc = check(L);
    char peer[NET_ADDR_TEXT_MAX] = "closed";
    char text[NET_ADDR_TEXT_MAX + 32];
    const conn *c = host_conn_get(hc);
    if (c != NULL) net_addr_format(&c->peer, peer, sizeof(peer));
    snprintf(text, sizeof(text), "conn %" PRIu64 " (%s)", hc->id, peer);
    lua_pushstring(L, text);
    return 1;
}

void host_conn_library(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"send", method_send},
        {"recv", method_recv},
        {"pause", method_pause},
        {"resume", method_resume},
        {"shutdown", method_shutdown},
        {"close", method_close},
        {"release", host_conn_release},
        {"abort", method_abort},
        {"set", method_set},
        {"write", method_write},
        {NULL, NULL},
    };
    static const struct {
        const char *name;
        field which;
    } fields[] = {
        {"id", FIELD_ID},
        {"peer", FIELD_PEER},
        {"addr", FIELD_ADDR},
        {"listener", FIELD_LISTENER},
        {"state", FIELD_STATE},
        {"stats", FIELD_STATS},
        {"generation", FIELD_GENERATION},
    };
    host *h = host_of(L);
    lua_createtable(L, 0, 6); /* stack: metatable */
    lua_createtable(L, 0, (int)(array_count(methods) + array_count(fields)));
    luaL_setfuncs(L, methods, 0);
    luaL_setfuncs(L, host_stream_methods, 0);
    luaL_setfuncs(L, host_pipe_methods, 0);
    for (size_t i = 0; i < array_count(fields); i++) {
        lua_pushinteger(L, fields[i].which);
        lua_setfield(L, -2, fields[i].name);
    }
    lua_pushcclosure(L, read_member, 1); /* stack: metatable, __index */
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, write_member);
    lua_setfield(L, -2, "__newindex");
    lua_pushcfunction(L, to_string);
    lua_setfield(L, -2, "__tostring");
    lua_pushcfunction(L, method_close);
    lua_setfield(L, -2, "__close");
    lua_pushliteral(L, "conn");
    lua_setfield(L, -2, "__name");
    lua_pushliteral(L, "conn"); /* what getmetatable() says */
    lua_setfield(L, -2, "__metatable");
    h->conn_meta_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}
