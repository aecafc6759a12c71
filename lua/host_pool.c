/* host_pool.c - outbound connections that wait to be used again.
 *
 * conn:release() puts one there, and portico.connect() with `pool` takes the one that came last. Who had it has a stale conn
 * from then on; the next one gets another userdata for the same connection, and another id, since others (handlers, workers,
 * versions) may keep the one it had. What is idle is found by no script, and waits for input: bytes that nobody has asked for,
 * or the end, end it. A pool belongs to its host.
 */
#include "host_internal.h"

#include "mem.h"

#include <math.h>
#include <string.h>

enum {
    SIZE_DEFAULT = 8,            /* idle connections to one URI */
    IDLE_SECONDS = 60,           /* that one may be idle */
    TOTAL_MAX = 1024,            /* idle connections of one state */
    SIZE_PLACE = HOST_KINDS + 1, /* among a conn's handlers, */
    IDLE_PLACE                   /* … in ns */
};

struct host_idle {
    conn_wait wait; /* for input: there should be none */
    conn *c;
    host_idle *next;
    host_idle *prev;
};

/* ---- Options ---- */

void host_pool_read(lua_State *L, host_pool_options *options, int arg, int index)
{
    static const char *const names[] = {"size", "idle", NULL};
    bool is_table = lua_type(L, index) == LUA_TTABLE;
    if (!is_table && !lua_isboolean(L, index)) {
        luaL_argerror(L, arg, lua_pushfstring(L, "pool: table or boolean expected, got %s", luaL_typename(L, index)));
    }
    *options = (host_pool_options){.size = SIZE_DEFAULT, .idle_ns = INT64_C(1000000000) * IDLE_SECONDS};
    if (!is_table) {
        if (!lua_toboolean(L, index)) options->size = 0;
        return;
    }
    int key = lua_gettop(L) + 1;
    for (lua_pushnil(L); lua_next(L, index); lua_settop(L, key)) {
        const char *name = host_option_name(L, arg, key);
        lua_Number value = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : -1;
        if (strcmp(name, names[0]) == 0) {
            bool fits = lua_isinteger(L, -1) && value >= 1 && value <= TOTAL_MAX;
            if (!fits) luaL_argerror(L, arg, "pool.size: a number of connections from 1 to 1024 expected");
            options->size = (uint32_t)value;
        } else if (strcmp(name, names[1]) == 0) {
            bool fits = value > 0 && value <= (lua_Number)HOST_SECONDS_MAX;
            if (!fits) luaL_argerror(L, arg, "pool.idle: a number of seconds above 0 expected");
            options->idle_ns = (int64_t)ceil(value * 1e9);
        } else {
            host_option_unknown(L, arg, "pool.", name, names);
        }
    }
}

void host_pool_note(lua_State *L, const host_pool_options *options, int handlers)
{
    if (options->size == 0) return;
    lua_pushinteger(L, options->size);
    lua_rawseti(L, handlers, SIZE_PLACE);
    lua_pushinteger(L, options->idle_ns);
    lua_rawseti(L, handlers, IDLE_PLACE);
}

/* ---- Idle connections ---- */

static void forget(host *h, host_idle *idle)
{
    if (idle->prev != NULL) idle->prev->next = idle->next;
    else h->idle_conns = idle->next;
    if (idle->next != NULL) idle->next->prev = idle->prev;
    mem_free(idle);
}

/* Something has come, or it is being closed. */
static void disturbed(conn_wait *wait, conn *c)
{
    forget(host_of_conn(c), container_of(wait, host_idle, wait));
    conn_close(c, CONN_LOCAL);
}

static bool is_for(const host_idle *idle, const char *uri)
{
    return strcmp(idle->c->listener, uri) == 0;
}

static bool has_room(const host *h, const char *uri, uint32_t size)
{
    uint32_t same = 0;
    uint32_t total = 0;
    for (const host_idle *idle = h->idle_conns; idle != NULL; idle = idle->next) {
        total++;
        if (is_for(idle, uri)) same++;
    }
    return same < size && total < TOTAL_MAX;
}

/* Nothing is left of its last use. */
static bool is_clean(const conn *c)
{
    const uint8_t *data;
    return c->state == CONN_OPEN && !c->eof_seen && !c->fin_wanted && conn_queued(c) == 0 && conn_input(c, &data) == 0;
}

/* False: out of memory. */
static bool put(host *h, conn *c, int64_t idle_ns)
{
    host_idle *idle = mem_zalloc(sizeof(*idle));
    conn_limits *limits = idle != NULL ? conn_own_limits(c) : NULL;
    if (limits == NULL || !conn_set_frame(c, &frame_raw)) {
        mem_free(idle);
        return false;
    }
    *limits = h->limits;
    limits->frame = frame_raw;
    limits->idle_ns = idle_ns;
    conn_limits_changed(c);
    conn_set_receive(c, CONN_LENT);
    conn_pause(c);
    c->half_open = false;
    ((host_conn *)c->user)->pooled = true;
    idle->c = c;
    idle->wait.wake = disturbed;
    idle->next = h->idle_conns;
    if (idle->next != NULL) idle->next->prev = idle;
    h->idle_conns = idle;
    conn_wait_begin(c, &idle->wait, CONN_WANT_INPUT);
    return true;
}

conn *host_pool_take(host *h, const char *uri)
{
    host_idle *idle = h->idle_conns;
    /* One that has ended may not have been told so yet. */
    while (idle != NULL && (!is_for(idle, uri) || !is_clean(idle->c))) idle = idle->next;
    if (idle == NULL) return NULL;
    conn *c = idle->c;
    conn_wait_end(c, &idle->wait);
    forget(h, idle);
    ((host_conn *)c->user)->pooled = false;
    conn_limits *limits = conn_own_limits(c); /* has its own already */
    *limits = h->limits;
    limits->frame = frame_raw;
    conn_limits_changed(c);
    return c;
}

void host_pool_close(host *h)
{
    while (h->idle_conns != NULL) {
        conn *c = h->idle_conns->c;
        conn_wait_end(c, &h->idle_conns->wait);
        forget(h, h->idle_conns);
        conn_close(c, CONN_LOCAL);
    }
}

/* ---- conn:release ---- */

int host_conn_release(lua_State *L)
{
    host *h = host_of(L);
    conn *c = host_conn_check(L, 1);
    lua_settop(L, 1);
    if (c == NULL || c->state != CONN_OPEN) return host_push_failure(L, "closed", "closed");
    if (!c->outbound || host_of_conn(c) != h || lua_getiuservalue(L, 1, 2) != LUA_TTABLE ||
        lua_rawgeti(L, 2, SIZE_PLACE) != LUA_TNUMBER) {
        return luaL_error(L, "conn:release is for connections that were made by portico.connect with `pool`");
    }
    lua_rawgeti(L, 2, IDLE_PLACE);
    uint32_t size = (uint32_t)lua_tointeger(L, 3);
    int64_t idle_ns = lua_tointeger(L, 4);
    if ((h->task != NULL && h->task->c == c) || c->waits != NULL || c->holds > 0) {
        return luaL_error(L, "conn:release: one of the connection's handlers runs, or somebody waits for it");
    }
    bool keeps = is_clean(c) && has_room(h, c->listener, size) && h == h->seat->current && !h->worker->draining;
    if (keeps) {
        /* Another userdata, made before anything is changed, since that may raise. */
        host_conn *fresh = host_conn_new(L, 3); /* at 5 */
        lua_getiuservalue(L, 1, 3);
        lua_setiuservalue(L, 5, 3); /* c->listener is that string's */
        host_conn_drop(h, c->user);
        conn_renew_id(c);
        fresh->c = c;
        fresh->id = c->id;
        c->user = fresh;
        keeps = put(h, c, idle_ns);
    }
    if (!keeps) conn_close(c, CONN_LOCAL);
    lua_pushboolean(L, keeps);
    return 1;
}
