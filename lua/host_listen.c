/* host_listen.c - what a script wants to be listened on: the `listen` of its table, and portico.listen.
 *
 * While a script loads, these are wishes: they are bound when it has loaded on all workers, and one that cannot be had
 * refuses it. Later portico.listen binds at once. What was bound belongs to the generation, whether its handle is kept or not.
 */
#include "host_internal.h"

#include "listening.h"
#include "server.h"

#include <string.h>

/* What scripts see of one. User value 1 is its name, or nil. */
typedef struct handle {
    const void *tag; /* &handle_tag */
    uint64_t id;     /* of the wish */
} handle;

/* What only these begin with; and the registry's key of their metatable. */
static const char handle_tag;

static const char *const option_names[] = {"uri", "name", NULL};

/* ---- What is wanted ---- */

/* A name can be told from an address, and stands in a line of the log. */
static bool is_name(const char *name, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)name[i] <= ' ' || name[i] == ':' || name[i] == 0x7f) return false;
    }
    return len > 0 && len <= LISTENING_NAME_MAX;
}

/* Reads "tcp://…" or {uri = "tcp://…", name = "x"} at index. The name's string stays on the stack. NULL, or what is wrong, on top of
 * the stack. raises */
static const char *read_wish(lua_State *L, int index, listening_wish *wish)
{
    char why[256];
    bool is_table = lua_type(L, index) == LUA_TTABLE;
    size_t len;
    if (is_table) {
        for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
            if (lua_type(L, -2) != LUA_TSTRING) return host_push_nameless(L, -2);
            const char *key = lua_tostring(L, -2);
            if (strcmp(key, "uri") == 0 || strcmp(key, "name") == 0) continue;
            host_push_hint(L, key, option_names);
            return lua_pushfstring(L, "unknown option '%s'%s", key, lua_tostring(L, -1));
        }
        lua_getfield(L, index, "name");
        lua_getfield(L, index, "uri");
    } else {
        lua_pushnil(L);
        lua_pushvalue(L, index);
    } /* stack: …, name, uri */
    if (lua_type(L, -1) != LUA_TSTRING) {
        return lua_pushfstring(
            L, "%sa string like \"tcp://127.0.0.1:7777\" or \"unix:/run/my.sock\"%s expected, got %s",
            is_table ? "uri: " : "", is_table ? "" : ", or {uri = …, name = …}", luaL_typename(L, -1));
    }
    const char *wrong = host_uri_wrong(L, -1);
    if (wrong == NULL && net_uri_parse(&wish->uri, lua_tostring(L, -1), why, sizeof(why)) != IO_OK) wrong = why;
    if (wrong != NULL) {
        return lua_pushfstring(L, "cannot use '%s' in `listen` as an address: %s", lua_tostring(L, -1), wrong);
    }
    lua_pop(L, 1);
    if (lua_isnil(L, -1)) return NULL;
    if (lua_type(L, -1) != LUA_TSTRING) {
        return lua_pushfstring(L, "name: string expected, got %s", luaL_typename(L, -1));
    }
    wish->name = lua_tolstring(L, -1, &len);
    if (is_name(wish->name, len)) return NULL;
    return lua_pushfstring(L, "name: 1 to %d bytes without blanks and colons expected, got '%s'", LISTENING_NAME_MAX,
                           wish->name);
}

static listening_wish new_wish(const host *h)
{
    return (listening_wish){.generation = h->generation->number, .worker = h->worker->id, .loads = h->loading};
}

/* One entry of the list, on top of the stack, which is left as it was when there is nothing wrong. */
static const char *read_entry(lua_State *L, const host *h)
{
    listening_wish wish = new_wish(h);
    listening *l = h->config->listening;
    char error[512];
    int top = lua_gettop(L);
    uint64_t id;
    io_status status;
    const char *wrong = read_wish(L, top, &wish);
    if (wrong != NULL) return lua_pushfstring(L, "listen: %s", wrong);
    if (l != NULL && !listening_is_given(l) &&
        listening_want(l, &wish, &id, &status, error, sizeof(error)) != LISTENING_OK) {
        return lua_pushfstring(L, "listen: %s", error);
    }
    lua_settop(L, top);
    return NULL;
}

const char *host_listen_read(lua_State *L, int index)
{
    host *h = host_of(L);
    const char *wrong = NULL;
    bool is_list = lua_type(L, index) == LUA_TTABLE;
    size_t count = is_list ? (size_t)lua_rawlen(L, index) : 1;
    luaL_checkstack(L, 8, NULL);
    if (is_list && count == 0) {
        lua_pushnil(L);
        if (lua_next(L, index) != 0) { /* no empty list, but one entry: {uri = "…"} */
            lua_pop(L, 2);
            is_list = false;
            count = 1;
        }
    }
    if (count > SERVER_LISTENERS_MAX) {
        return lua_pushfstring(L, "listen: a list of at most %d addresses expected", SERVER_LISTENERS_MAX);
    }
    if (h->config->listening != NULL) listening_say(h->config->listening, h->generation->number);
    h->is_client = count == 0;
    for (size_t i = 0; i < count && wrong == NULL; i++) {
        if (is_list) lua_rawgeti(L, index, (lua_Integer)i + 1);
        else lua_pushvalue(L, index);
        wrong = read_entry(L, h);
        if (wrong == NULL) lua_pop(L, 1);
    }
    return wrong;
}

/* ---- portico.listen ---- */

int host_api_listen(lua_State *L)
{
    const host *h = host_of(L);
    listening_wish wish = new_wish(h);
    char error[512];
    io_status status = IO_OK;
    lua_settop(L, 1);
    const char *wrong = read_wish(L, 1, &wish); /* stack: options, name */
    if (wrong != NULL) return luaL_argerror(L, 1, wrong);
    if (h->config->listening == NULL) return host_push_failure(L, "nobody listens here", "unsupported");
    if (h->closing || (!h->loading && h != h->seat->current)) {
        return host_push_failure(L, "this version of the script is not in force", "closed");
    }
    handle *made = lua_newuserdatauv(L, sizeof(*made), 1); /* before there is a listener: this may raise */
    *made = (handle){.tag = &handle_tag};
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, -2, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &handle_tag);
    lua_setmetatable(L, -2);
    switch (listening_want(h->config->listening, &wish, &made->id, &status, error, sizeof(error))) {
    case LISTENING_OK:
        return 1;
    case LISTENING_CONTRADICTS:
        return luaL_argerror(L, 1, error);
    case LISTENING_FAILED:
        break;
    }
    return host_push_failure(L, error, io_status_name(status));
}

/* ---- Its handle ---- */

static handle *check(lua_State *L)
{
    handle *one = lua_touserdata(L, 1);
    if (one == NULL || lua_rawlen(L, 1) != sizeof(*one) || one->tag != &handle_tag) luaL_typeerror(L, 1, "listener");
    return one;
}

static int method_close(lua_State *L)
{
    const handle *one = check(L);
    if (!listening_forget(host_of(L)->config->listening, one->id)) return host_push_failure(L, "closed", "closed");
    lua_pushboolean(L, true);
    return 1;
}

/* Pushes where it is, or nil when it is over. raises */
static void push_address(lua_State *L, const handle *one)
{
    char text[NET_URI_TEXT_MAX];
    bool is_there = listening_address(host_of(L)->config->listening, one->id, text);
    lua_pushstring(L, is_there ? text : NULL);
}

static int get(lua_State *L)
{
    const handle *one = check(L);
    const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
    bool is_name_wanted = strcmp(key, "name") == 0;
    if (is_name_wanted && lua_getiuservalue(L, 1, 1) != LUA_TNIL) return 1;
    if (is_name_wanted || strcmp(key, "uri") == 0) {
        push_address(L, one);
        return 1;
    }
    lua_settop(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    return 1;
}

static int to_string(lua_State *L)
{
    const handle *one = check(L);
    push_address(L, one);
    lua_pushfstring(L, "listener (%s)", lua_isnil(L, -1) ? "closed" : lua_tostring(L, -1));
    return 1;
}

void host_listen_library(lua_State *L)
{
    static const luaL_Reg methods[] = {{"close", method_close}, {NULL, NULL}};
    static const luaL_Reg metamethods[] = {{"__close", method_close}, {"__tostring", to_string}, {NULL, NULL}};
    host_metatable(L, "listener", &handle_tag, methods, metamethods);
    host_metatable_reads(L, &handle_tag, get);
}
