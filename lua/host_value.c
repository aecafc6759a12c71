/* host_value.c - plain values on their way from one Lua state to another, as bytes.
 *
 * A value is a tag and what follows: 8 bytes for numbers, a length and text for strings, two counts and so many pairs
 * for tables. Tables and long strings are numbered in the order in which they are first met, by the writer and, if
 * anything is shared at all, by the reader; another place where the same object stands has its number.
 *
 * Writing asks Lua for nothing that could raise: what is to be remembered is in C. So whatever happens, there is one
 * place where it is freed.
 */
#include "host_value.h"

#include "base.h"
#include "lua_steps.h"
#include "mem.h"

#include <assert.h>
#include <ctype.h>
#include <lauxlib.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    TAG_NIL,
    TAG_FALSE,
    TAG_TRUE,
    TAG_INTEGER,
    TAG_FLOAT,
    TAG_STRING, /* len, bytes */
    TAG_LONG,   /* the same, and it has a number */
    TAG_TABLE,  /* a table_head, pairs */
    TAG_KNOWN   /* the number of an object that came before */
};

enum {
    WHOLE = 0, /* the first byte of a value: nothing is shared … */
    SHARED = 1 /* … or something is */
};

typedef struct table_head {
    size_t pairs;
    size_t list; /* how many of them are 1, 2, 3 … */
} table_head;

/* ---- Objects that have been met ---- */

typedef struct met {
    const void *object; /* NULL: free */
    size_t number;
} met;

/* A hash table by address, with linear probing, at most half full. */
typedef struct met_set {
    met *places;
    size_t room; /* a power of two, or 0 */
    size_t count;
} met_set;

static met *met_place(const met_set *set, const void *object)
{
    uint64_t hash = (uint64_t)(uintptr_t)object * UINT64_C(0x9e3779b97f4a7c15);
    size_t i = (size_t)(hash >> 32) & (set->room - 1);
    while (set->places[i].object != NULL && set->places[i].object != object) i = (i + 1) & (set->room - 1);
    return &set->places[i];
}

static bool met_grow(met_set *set)
{
    enum { ROOM_FIRST = 16 };
    met_set larger = {.room = set->room == 0 ? ROOM_FIRST : set->room * 2, .count = set->count};
    if (larger.room > SIZE_MAX / sizeof(met)) return false;
    larger.places = mem_zalloc(larger.room * sizeof(met));
    if (larger.places == NULL) return false;
    for (size_t i = 0; i < set->room; i++) {
        if (set->places[i].object != NULL) *met_place(&larger, set->places[i].object) = set->places[i];
    }
    mem_free(set->places);
    *set = larger;
    return true;
}

/* ---- Writing ---- */

typedef struct writer {
    lua_State *L;
    host_value out;
    met_set met;
    bool shared;
    bool has_steps; /* may be ended on the way: LUA_STEP() raises */
    const char *root;
    char wrong[512]; /* where and why, once it has failed */
} writer;

/* The way to a value: the keys, each on Lua's stack, from the innermost up to the root. */
typedef struct way {
    const struct way *up;
    int key;
} way;

/* Appends to text, as much as fits. */
static void append(char *text, size_t size, const char *format, ...) PRINTF_LIKE(3, 4);
static void append(char *text, size_t size, const char *format, ...)
{
    size_t len = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + len, size - len, format, arguments);
    va_end(arguments);
}

static bool is_name(const char *text, size_t len)
{
    if (len == 0 || isdigit((unsigned char)text[0])) return false;
    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)text[i]) && text[i] != '_') return false;
    }
    return true;
}

static void append_key(writer *w, int key)
{
    enum { KEY_MAX = 40 }; /* of a key's bytes are shown */
    lua_State *L = w->L;
    switch (lua_type(L, key)) {
    case LUA_TSTRING: {
        size_t len;
        const char *text = lua_tolstring(L, key, &len);
        int shown = len < KEY_MAX ? (int)len : KEY_MAX;
        if (len <= KEY_MAX && is_name(text, len)) append(w->wrong, sizeof(w->wrong), ".%s", text);
        else append(w->wrong, sizeof(w->wrong), "[\"%.*s%s\"]", shown, text, len > KEY_MAX ? "..." : "");
        break;
    }
    case LUA_TNUMBER:
        if (lua_isinteger(L, key)) append(w->wrong, sizeof(w->wrong), "[" LUA_INTEGER_FMT "]", lua_tointeger(L, key));
        else append(w->wrong, sizeof(w->wrong), "[%.14g]", lua_tonumber(L, key));
        break;
    case LUA_TBOOLEAN:
        append(w->wrong, sizeof(w->wrong), "[%s]", lua_toboolean(L, key) ? "true" : "false");
        break;
    default:
        append(w->wrong, sizeof(w->wrong), "[a %s]", lua_typename(L, lua_type(L, key)));
    }
}

static void append_way(writer *w, const way *at)
{
    if (at == NULL) return;
    append_way(w, at->up);
    append_key(w, at->key);
}

static const char *type_text(int type)
{
    switch (type) {
    case LUA_TFUNCTION:
        return "a function";
    case LUA_TTHREAD:
        return "a coroutine";
    default:
        return "a userdata";
    }
}

static bool refuse(writer *w, const way *at, const char *what, const char *why)
{
    enum { WHY_ROOM = 80 }; /* kept for it behind a long way */
    w->wrong[0] = '\0';
    append(w->wrong, sizeof(w->wrong), "%s", w->root);
    append_way(w, at);
    if (strlen(w->wrong) > sizeof(w->wrong) - WHY_ROOM) strcpy(w->wrong + sizeof(w->wrong) - WHY_ROOM, "...");
    append(w->wrong, sizeof(w->wrong), ": %s%s", what, why);
    return false;
}

static bool refuse_memory(writer *w)
{
    strcpy(w->wrong, "out of memory");
    return false;
}

/* Room for so many bytes more, which are the caller's to fill in; NULL: no memory. */
static uint8_t *extend(writer *w, size_t bytes)
{
    enum { SIZE_FIRST = 64 };
    host_value *out = &w->out;
    if (bytes > SIZE_MAX / 4 || out->len > SIZE_MAX / 4) return NULL;
    if (out->len + bytes > out->size) {
        size_t size = out->size == 0 ? SIZE_FIRST : out->size;
        while (size < out->len + bytes) size *= 2;
        uint8_t *moved = mem_realloc(out->bytes, size);
        if (moved == NULL) return NULL;
        out->bytes = moved;
        out->size = size;
    }
    uint8_t *place = out->bytes + out->len;
    out->len += bytes;
    return place;
}

/* A tag and what is fixed in size behind it. */
static bool put(writer *w, uint8_t tag, const void *data, size_t bytes)
{
    uint8_t *place = extend(w, 1 + bytes);
    if (place == NULL) return refuse_memory(w);
    place[0] = tag;
    if (bytes > 0) memcpy(place + 1, data, bytes);
    return true;
}

typedef enum meeting { MET_FIRST, MET_AGAIN, MET_FAILED } meeting;

/* Writes the number of an object that has been met; gives one to a new one. */
static meeting meet(writer *w, const void *object)
{
    met_set *set = &w->met;
    if (set->count * 2 >= set->room && !met_grow(set)) {
        refuse_memory(w);
        return MET_FAILED;
    }
    met *m = met_place(set, object);
    if (m->object != NULL) {
        w->shared = true;
        return put(w, TAG_KNOWN, &m->number, sizeof(m->number)) ? MET_AGAIN : MET_FAILED;
    }
    *m = (met){.object = object, .number = ++set->count};
    return MET_FIRST;
}

static bool put_string(writer *w, int index)
{
    size_t len;
    const char *text = lua_tolstring(w->L, index, &len);
    bool is_long = len > HOST_VALUE_SHORT;
    if (is_long) {
        meeting m = meet(w, lua_topointer(w->L, index));
        if (m != MET_FIRST) return m == MET_AGAIN;
    }
    if (!put(w, is_long ? TAG_LONG : TAG_STRING, &len, sizeof(len))) return false;
    if (len == 0) return true;
    uint8_t *place = extend(w, len);
    if (place == NULL) return refuse_memory(w);
    memcpy(place, text, len);
    return true;
}

static bool put_value(writer *w, int index, const way *at, int depth);

static bool put_table(writer *w, int index, const way *at, int depth)
{
    lua_State *L = w->L;
    if (lua_getmetatable(L, index)) return refuse(w, at, "a table", " with a metatable cannot be copied");
    meeting m = meet(w, lua_topointer(L, index));
    if (m != MET_FIRST) return m == MET_AGAIN;
    if (depth == HOST_VALUE_DEPTH_MAX) return refuse(w, at, "a table", " in 200 others cannot be copied");
    table_head head = {.pairs = 0, .list = (size_t)lua_rawlen(L, index)};
    size_t place = w->out.len + 1;
    if (!put(w, TAG_TABLE, &head, sizeof(head))) return false;
    int key = lua_gettop(L) + 1;
    way below = {.up = at, .key = key};
    for (lua_pushnil(L); lua_next(L, index); lua_settop(L, key)) {
        if (w->has_steps) LUA_STEP();
        int type = lua_type(L, key);
        if (type == LUA_TFUNCTION || type == LUA_TUSERDATA || type == LUA_TLIGHTUSERDATA || type == LUA_TTHREAD)
            return refuse(w, at, type_text(type), " as a key cannot be copied");
        if (!put_value(w, key, &below, depth + 1) || !put_value(w, key + 1, &below, depth + 1)) return false;
        head.pairs++;
    }
    memcpy(w->out.bytes + place, &head, sizeof(head));
    return true;
}

/* index is absolute. On failure Lua's stack is left as it is then. */
static bool put_value(writer *w, int index, const way *at, int depth)
{
    lua_State *L = w->L;
    if (!lua_checkstack(L, 4)) return refuse_memory(w);
    switch (lua_type(L, index)) {
    case LUA_TNIL:
        return put(w, TAG_NIL, NULL, 0);
    case LUA_TBOOLEAN:
        return put(w, lua_toboolean(L, index) ? TAG_TRUE : TAG_FALSE, NULL, 0);
    case LUA_TNUMBER:
        if (lua_isinteger(L, index)) {
            lua_Integer integer = lua_tointeger(L, index);
            return put(w, TAG_INTEGER, &integer, sizeof(integer));
        } else {
            lua_Number number = lua_tonumber(L, index);
            return put(w, TAG_FLOAT, &number, sizeof(number));
        }
    case LUA_TSTRING:
        return put_string(w, index);
    case LUA_TTABLE:
        return put_table(w, index, at, depth);
    default:
        return refuse(w, at, type_text(lua_type(L, index)), " cannot be copied");
    }
}

static bool write_root(writer *w, int index)
{
    return extend(w, 1) != NULL ? put_value(w, index, NULL, 0) : refuse_memory(w);
}

/* What has been written is the value, or there is none, and why is pushed. raises */
static bool finish(writer *w, bool ok, int top, host_value *v)
{
    mem_free(w->met.places);
    lua_settop(w->L, top);
    if (ok) {
        w->out.bytes[0] = w->shared ? SHARED : WHOLE;
        *v = w->out;
        return true;
    }
    *v = (host_value){0};
    mem_free(w->out.bytes);
    lua_pushstring(w->L, w->wrong);
    return false;
}

bool host_value_encode(lua_State *L, int index, const char *root, host_value *v)
{
    writer w = {.L = L, .root = root};
    int top = lua_gettop(L);
    return finish(&w, write_root(&w, lua_absindex(L, index)), top, v);
}

/* Protected: the value, and the writer. Returns whether it has gone well. */
static int write_in_steps(lua_State *L)
{
    lua_pushboolean(L, write_root(lua_touserdata(L, 2), 1));
    return 1;
}

bool host_value_encode_in_budget(lua_State *L, int index, const char *root, host_value *v)
{
    enum { SLOTS = 4 };
    writer w = {.L = L, .root = root, .has_steps = true};
    int top = lua_gettop(L);
    index = lua_absindex(L, index);
    luaL_checkstack(L, SLOTS, "a value to be copied");
    lua_pushcfunction(L, write_in_steps);
    lua_pushvalue(L, index);
    lua_pushlightuserdata(L, &w);
    bool ended = lua_pcall(L, 2, 1, 0) != LUA_OK;
    if (!ended) return finish(&w, lua_toboolean(L, -1), top, v);
    *v = (host_value){0};
    mem_free(w.met.places);
    mem_free(w.out.bytes);
    lua_error(L);
    return false;
}

void host_value_free(host_value *v)
{
    mem_free(v->bytes);
    *v = (host_value){0};
}

/* ---- Reading ---- */

typedef struct reader {
    lua_State *L;
    const uint8_t *at;
    const uint8_t *end;
    int known;         /* where on the stack the table of the objects is; 0: nothing is shared */
    bool has_steps;    /* as a writer's */
    lua_Integer count; /* of objects so far */
} reader;

static void take(reader *r, void *data, size_t bytes)
{
    assert((size_t)(r->end - r->at) >= bytes);
    memcpy(data, r->at, bytes);
    r->at += bytes;
}

static size_t take_size(reader *r)
{
    size_t size;
    take(r, &size, sizeof(size));
    return size;
}

/* The object on top has the next number. */
static void remember(reader *r)
{
    if (r->known == 0) return;
    lua_pushvalue(r->L, -1);
    lua_rawseti(r->L, r->known, ++r->count);
}

static void push_string(reader *r)
{
    size_t len = take_size(r);
    assert((size_t)(r->end - r->at) >= len);
    lua_pushlstring(r->L, (const char *)r->at, len);
    r->at += len;
}

static int hint(size_t count)
{
    return count < INT_MAX ? (int)count : INT_MAX;
}

static void push_value(reader *r);

static void push_table(reader *r)
{
    table_head head;
    take(r, &head, sizeof(head));
    size_t list = head.list < head.pairs ? head.list : head.pairs;
    lua_createtable(r->L, hint(list), hint(head.pairs - list));
    remember(r);
    for (size_t i = 0; i < head.pairs; i++) {
        if (r->has_steps) LUA_STEP();
        push_value(r);
        push_value(r);
        lua_rawset(r->L, -3);
    }
}

static void push_value(reader *r)
{
    lua_State *L = r->L;
    luaL_checkstack(L, 4, "a copied value");
    uint8_t tag;
    take(r, &tag, 1);
    switch (tag) {
    case TAG_NIL:
        lua_pushnil(L);
        break;
    case TAG_FALSE:
    case TAG_TRUE:
        lua_pushboolean(L, tag == TAG_TRUE);
        break;
    case TAG_INTEGER: {
        lua_Integer integer;
        take(r, &integer, sizeof(integer));
        lua_pushinteger(L, integer);
        break;
    }
    case TAG_FLOAT: {
        lua_Number number;
        take(r, &number, sizeof(number));
        lua_pushnumber(L, number);
        break;
    }
    case TAG_STRING:
        push_string(r);
        break;
    case TAG_LONG:
        push_string(r);
        remember(r);
        break;
    case TAG_TABLE:
        push_table(r);
        break;
    case TAG_KNOWN:
        lua_rawgeti(L, r->known, (lua_Integer)take_size(r));
        break;
    default:
        assert(false && "not a tag");
    }
}

static void decode(lua_State *L, const host_value *v, bool has_steps)
{
    assert(v->len > 1);
    reader r = {.L = L, .has_steps = has_steps, .at = v->bytes + 1, .end = v->bytes + v->len};
    if (v->bytes[0] == SHARED) {
        luaL_checkstack(L, 2, "a copied value");
        lua_newtable(L);
        r.known = lua_gettop(L);
    }
    push_value(&r);
    assert(r.at == r.end);
    if (r.known != 0) lua_remove(L, r.known);
}

void host_value_decode(lua_State *L, const host_value *v)
{
    decode(L, v, true);
}

int host_value_push(lua_State *L)
{
    decode(L, lua_touserdata(L, 1), false);
    return 1;
}
