/* host_move.c - a connection goes over from one host to another: its state as bytes, its settings, its events.
 *
 * It costs nothing for a connection without userdata, unless the layout of conn.state has changed: then the new script's
 * migrate() sees each connection, those that have no state yet, too. During probation the userdata in the old host stays
 * as it was, with the state as it was, and is used again if that host comes back into force, except for what its script calls
 * lasting: that is as it is.
 */
#include "host_internal.h"
#include "host_value.h"

#include "log.h"
#include "os.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { STATES_TRIED_MAX = 64 };

typedef struct passage {
    const conn *c;
    const host *from;
    host_conn *old;   /* in from, or NULL */
    host_conn *made;  /* in the other host; for give_lasting() there may be one before */
    host_value state; /* freed by the caller, whatever happens */
    bool back;        /* to an earlier generation: without migrate() a state of another layout is left behind */
    bool trial;       /* nothing is to be made */
} passage;

/* ---- Inside: protected ---- */

/* In the old host: the state becomes bytes. */
static int take_state(lua_State *L)
{
    passage *p = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, p->old->ref);
    if (lua_getiuservalue(L, -1, 1) == LUA_TNIL) return 0;
    if (!host_value_encode(L, -1, "state", &p->state)) return lua_error(L);
    return 0;
}

/* stack: …, state. Replaces it by what migrate() makes of it. */
static void migrate(lua_State *L, const host *to, lua_Integer from_version)
{
    host_value copy;
    lua_rawgeti(L, LUA_REGISTRYINDEX, to->migrate_ref);
    lua_insert(L, -2);
    lua_pushinteger(L, from_version);
    lua_call(L, 2, 1);
    bool is_table = lua_istable(L, -1);
    if (is_table && host_value_encode(L, -1, "the state that migrate() returned", &copy)) {
        host_value_free(&copy);
        return;
    }
    lua_Debug where;
    if (!is_table) lua_pushfstring(L, "migrate() returned a %s: a table expected", luaL_typename(L, -1));
    lua_rawgeti(L, LUA_REGISTRYINDEX, to->migrate_ref);
    lua_getinfo(L, ">S", &where);
    lua_pushfstring(L, "%s:%d: %s", where.short_src, where.linedefined, lua_tostring(L, -1));
    lua_error(L);
}

/* In the new host: bytes become a state, in a userdata. */
static int give_state(lua_State *L)
{
    passage *p = lua_touserdata(L, 1);
    const host *to = host_of(L);
    bool differs = to->version != p->from->version;
    bool migrates = differs && to->migrate_ref != LUA_NOREF;
    if (differs && !migrates && !p->back) {
        return luaL_error(L, "conn.state is of version %I, and the script, of version %I, has no migrate()",
                          (LUAI_UACINT)p->from->version, (LUAI_UACINT)to->version);
    }
    if (p->state.bytes != NULL && (migrates || !differs)) host_value_decode(L, &p->state);
    else if (migrates || p->state.bytes != NULL) lua_newtable(L);
    else lua_pushnil(L);
    if (migrates) migrate(L, to, p->from->version);
    if (p->trial) return 0;
    host_conn *hc = host_conn_new(L, 1); /* stack: …, state, conn */
    hc->c = (conn *)(uintptr_t)p->c;
    hc->id = p->c->id;
    lua_insert(L, -2);
    lua_setiuservalue(L, -2, 1);
    p->made = hc;
    return 0;
}

/* In the host that is gone back to: of what the state has become, the lasting part becomes the state's. */
static int give_lasting(lua_State *L)
{
    passage *p = lua_touserdata(L, 1);
    host_value_decode(L, &p->state); /* stack: passage, new */
    if (p->made == NULL) {
        p->made = host_conn_new(L, 1);
        p->made->c = (conn *)(uintptr_t)p->c;
        p->made->id = p->c->id;
    } else {
        lua_rawgeti(L, LUA_REGISTRYINDEX, p->made->ref);
    } /* stack: passage, new, conn */
    if (lua_getiuservalue(L, 3, 1) != LUA_TTABLE) {
        lua_newtable(L);
        lua_copy(L, -1, 4);
        lua_settop(L, 4);
        lua_pushvalue(L, 4);
        lua_setiuservalue(L, 3, 1);
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, host_of(L)->lasting_ref); /* stack: passage, new, conn, state, names */
    for (lua_pushnil(L); lua_next(L, 5); lua_settop(L, 6)) {
        lua_pushvalue(L, 6);
        lua_pushvalue(L, 6);
        lua_rawget(L, 2);
        lua_rawset(L, 4);
    }
    return 0;
}

/* ---- Outside ---- */

/* What an error has left on top of a stack, as text; it is popped. Returns text. */
static char *take_error(lua_State *L, int status, char *text, size_t size)
{
    if (L == NULL || status == LUA_ERRMEM || lua_type(L, -1) != LUA_TSTRING) snprintf(text, size, "not enough memory");
    else snprintf(text, size, "%s", lua_tostring(L, -1));
    if (L != NULL) lua_pop(L, 1);
    return text;
}

/* Carries the state over into `to`. False: it cannot be, and why is in error. */
static bool carry(passage *p, host *from, host *to, char *error, size_t size)
{
    lua_State *L;
    int status = LUA_OK;
    if (p->old != NULL) status = host_call(from, HOST_CLEANUP, take_state, p, &L);
    if (status == LUA_OK) status = host_call(to, HOST_MIGRATE, give_state, p, &L);
    host_value_free(&p->state);
    if (status == LUA_OK) return true;
    take_error(L, status, error, size);
    return false;
}

/* The connection is that host's from here on. made: its userdata there, or NULL. */
static void settle_in(conn *c, host *from, host *to, host_conn *made)
{
    bool wants_ready = to->receive == CONN_READY;
    conn_config config = {
        .events = &to->events, .limits = &to->limits, .receive = to->receive, .half_open = to->half_open};
    if (wants_ready != (c->receive == CONN_READY)) c->own_receive = false; /* it would not fit the handlers */
    c->user = made;
    /* A frame of its own with functions stays behind with the state that has them. */
    if (c->limits->frame.type == FRAME_CUSTOM) c->own_frame = false;
    conn_move(c, &config);
    if (!c->open_told) return;
    if (to->handlers & HOST_BIT(HOST_ON_STREAM)) conn_turn(c); /* its stream begins */
    to->conns++;
    from->conns--;
    host_loosen(from);
}

/* It could not be moved. During probation that is the new version's fault, which goes back; later the connection's. */
static void fail(conn *c, host *from, host *to, const char *error)
{
    host_seat *seat = from->seat;
    if (c->state == CONN_CLOSED) return; /* it only wants to hear of its end */
    if (seat->fallback != NULL) {
        seat->frozen = true;
        if (atomic_exchange(&to->generation->move_failed, true)) return;
        log_write(LOG_ERROR, "conn %" PRIu64 " cannot go over to generation %" PRIu64 ": %s", c->id,
                  to->generation->number, error);
        os_news_post(OS_NEWS_WAKE);
        return;
    }
    log_write(LOG_ERROR, "conn %" PRIu64 " cannot go over to generation %" PRIu64 " and is closed: %s", c->id,
              to->generation->number, error);
    host_count_error(to);
    conn_abort(c, CONN_ERROR, IO_OK);
}

/* What goes back with a connection whatever becomes of the rest: where a decoder stands in the stream, above all. before: its
 * userdata there, or NULL. Returns that, or a new one. */
static host_conn *take_along(const conn *c, host *from, host *to, host_conn *before)
{
    char error[512];
    lua_State *L;
    passage p = {.c = c, .from = from, .old = c->user, .made = before};
    if (p.old == NULL || to->lasting_ref == LUA_NOREF) return before;
    int status = host_call(from, HOST_CLEANUP, take_state, &p, &L);
    if (status == LUA_OK && p.state.bytes != NULL) status = host_call(to, HOST_MIGRATE, give_lasting, &p, &L);
    host_value_free(&p.state);
    if (status != LUA_OK) {
        log_write(LOG_WARN, "conn %" PRIu64 " goes back without what is lasting in its state: %s", c->id,
                  take_error(L, status, error, sizeof(error)));
    }
    return p.made;
}

/* Back to the host from which it came: what it had there is as it was, but for what is lasting. */
static bool restore(conn *c, host *from, host *to)
{
    host_conn *hc = c->user;
    if (hc != NULL && hc->before != NULL && hc->before_generation == to->generation->number) {
        host_conn *before = take_along(c, from, to, hc->before);
        host_conn_unanchor(from, hc);
        settle_in(c, from, to, before);
        return true;
    }
    /* It came later, or from elsewhere, or waited in a generation that is older than the one that was undone. */
    bool was_elsewhere = from->generation->number != from->seat->undone;
    if (was_elsewhere || c->id > from->seat->committed_id || (hc != NULL && hc->carried)) return false;
    host_conn *made = take_along(c, from, to, NULL); /* it had no userdata there */
    if (hc != NULL) host_conn_unanchor(from, hc);
    settle_in(c, from, to, made);
    return true;
}

host *host_move(conn *c)
{
    char error[512];
    host *from = host_of_conn(c);
    host_seat *seat = from->seat;
    host *to = seat->current;
    passage p = {.c = c, .from = from, .old = c->user, .back = to->generation->number < from->generation->number};
    if (seat->frozen || from == to) return from;
    if (p.back && restore(c, from, to)) return to;
    bool migrates = to->version != from->version && to->migrate_ref != LUA_NOREF;
    if (p.old != NULL || migrates) {
        if (!carry(&p, from, to, error, sizeof(error))) {
            if (!p.back) {
                fail(c, from, to, error);
                return from;
            }
            log_write(LOG_WARN, "conn %" PRIu64 " goes back without its state: %s", c->id, error);
        }
        if (p.old != NULL && p.made != NULL && from == seat->fallback) {
            p.made->before = p.old;
            p.made->before_generation = from->generation->number;
        } else {
            if (p.made != NULL) p.made->carried = !p.back && from != seat->fallback;
            if (p.old != NULL) host_conn_unanchor(from, p.old);
        }
    }
    settle_in(c, from, to, p.made);
    return to;
}

void host_push_state_copy(lua_State *L, const conn *c)
{
    char error[512];
    host *from = host_of_conn(c);
    passage p = {.c = c, .from = from, .old = c->user};
    lua_State *used;
    if (p.old == NULL) {
        lua_pushnil(L);
        return;
    }
    /* Nothing of that host's runs while another one's does, so this is a call on its main thread. */
    int status = host_call(from, HOST_CLEANUP, take_state, &p, &used);
    if (status != LUA_OK) {
        host_value_free(&p.state);
        luaL_error(L, "conn.state: %s", take_error(used, status, error, sizeof(error)));
    }
    if (p.state.bytes == NULL) {
        lua_pushnil(L);
        return;
    }
    lua_pushcfunction(L, host_value_push);
    lua_pushlightuserdata(L, &p.state);
    status = lua_pcall(L, 1, 1, 0);
    host_value_free(&p.state);
    if (status != LUA_OK) lua_error(L);
}

/* ---- Before the commit ---- */

static void refuse_version(host *to, const host *from)
{
    char text[512];
    int len = snprintf(text, sizeof(text),
                       "%s: `version` is %" PRId64 " and was %" PRId64
                       ": the script needs a function migrate(state, from_version)",
                       to->config->script, (int64_t)to->version, (int64_t)from->version);
    host_refuse(to, text, (size_t)len < sizeof(text) ? (size_t)len : sizeof(text) - 1);
}

bool host_try_states(host *to)
{
    char error[512], text[640];
    host *from = to->seat->current;
    int tried = 0;
    if (to->version != from->version && to->migrate_ref == LUA_NOREF) {
        refuse_version(to, from);
        return false;
    }
    for (conn *c = to->worker->conns.live; c != NULL && tried < STATES_TRIED_MAX; c = c->live_next) {
        passage p = {.c = c, .from = from, .old = c->user, .trial = true};
        if (c->outbound || c->user == NULL || c->close_told || host_of_conn(c) != from) continue;
        tried++;
        if (carry(&p, from, to, error, sizeof(error))) continue;
        int len = snprintf(text, sizeof(text), "the state of conn %" PRIu64 " cannot be taken over: %s", c->id, error);
        host_refuse(to, text, (size_t)len < sizeof(text) ? (size_t)len : sizeof(text) - 1);
        return false;
    }
    return true;
}
