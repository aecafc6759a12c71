/* host_frame.c - frames as scripts declare them: a name, a table or a function. Most become a rule that core/frame.c decodes. Two
 * need Lua: a function that says how long the first message in a buffer is, and a header in string.pack's language. Of
 * these a userdata holds what Lua has to do; the rule has their `max`.
 */
#include "host_internal.h"

#include <assert.h>
#include <lualib.h>
#include <string.h>

/* User value 1: a function that says how long a message is, or nil; 2: the format of the header, or, when there is none, a
 * function that makes bytes of a message, or nil. */
struct host_custom {
    uint32_t header;  /* bytes; 0: there is none */
    uint32_t max;     /* bytes of a message behind the header */
    int fields;       /* that string.unpack makes of a header */
    int length_field; /* which of them is the length; 0: the function is asked */
};

enum { HEADER_MAX = 1024, FIELDS_MAX = 32 };

/* Where the registry has string's functions, which scripts may replace. */
static const char pack_key, packsize_key, unpack_key;

void host_frame_library(lua_State *L)
{
    static const struct {
        const char *name;
        const void *key;
    } functions[] = {{"pack", &pack_key}, {"packsize", &packsize_key}, {"unpack", &unpack_key}};
    host_of(L)->frame_ref = LUA_NOREF;
    lua_getglobal(L, LUA_STRLIBNAME);
    for (size_t i = 0; i < array_count(functions); i++) {
        lua_getfield(L, -1, functions[i].name);
        lua_rawsetp(L, LUA_REGISTRYINDEX, functions[i].key);
    }
    lua_pop(L, 1);
}

/* ---- Reading a declaration ---- */

/* What is being read. The table is at index `table`. */
typedef struct reading {
    lua_State *L;
    frame_rule *rule;
    int table;
    uint32_t known; /* fields of the table that have been looked at */
    const char *wrong;
} reading;

/* The first five are those of frame_type, in its order. */
enum { TYPE_PACK = FRAME_CUSTOM, TYPE_FUNCTION };
static const char *const type_names[] = {"raw", "line", "netstring", "length", "fixed", "pack", "function", NULL};
static_assert(FRAME_CUSTOM == 5, "type_names follows frame_type");

/* Field by field, which types have it. Bit: the place in type_names. */
enum {
    LINE = 1 << FRAME_LINE,
    NETSTRING = 1 << FRAME_NETSTRING,
    LENGTH = 1 << FRAME_LENGTH,
    FIXED = 1 << FRAME_FIXED,
    PACK = 1 << TYPE_PACK,
    FUNCTION = 1 << TYPE_FUNCTION,
    ALL = (1 << (TYPE_FUNCTION + 1)) - 1
};
static const struct {
    const char *name;
    unsigned types;
} fields_known[] = {
    {"type", ALL},
    {"sep", LINE},
    {"keep", LINE},
    {"max", ALL & ~(FIXED | 1 << FRAME_RAW)},
    {"size", LENGTH | FIXED},
    {"endian", LENGTH},
    {"offset", LENGTH},
    {"adjust", LENGTH},
    {"strip", LENGTH},
    {"header", PACK},
    {"body", PACK},
    {"decode", FUNCTION},
    {"encode", FUNCTION},
};

/* Notes the first thing that is wrong: "frame.size: 1, 2, 3, 4 or 8 expected, got 5", the value at -1. raises */
static void refuse(reading *r, const char *name, const char *expected)
{
    lua_State *L = r->L;
    int top = lua_gettop(L);
    if (r->wrong != NULL) return;
    const char *found = luaL_typename(L, -1);
    if (lua_type(L, -1) == LUA_TNUMBER) found = luaL_tolstring(L, -1, NULL);
    else if (lua_type(L, -1) == LUA_TSTRING) found = lua_pushfstring(L, "'%s'", lua_tostring(L, -1));
    r->wrong = lua_pushfstring(L, "frame.%s: %s expected, got %s", name, expected, found);
    lua_replace(L, r->table + 1); /* anchored */
    lua_settop(L, top);
}

/* Leaves the field on the stack. False: it is nil. */
static bool get(reading *r, const char *name)
{
    lua_pushstring(r->L, name);
    return lua_rawget(r->L, r->table) != LUA_TNIL;
}

static lua_Integer read_whole(reading *r, const char *name, lua_Integer least, lua_Integer most, lua_Integer otherwise,
                              const char *expected)
{
    lua_Integer value = otherwise;
    int whole = 1;
    if (get(r, name)) value = lua_type(r->L, -1) == LUA_TNUMBER ? lua_tointegerx(r->L, -1, &whole) : least - 1;
    if (!whole || value < least || value > most) refuse(r, name, expected);
    lua_pop(r->L, 1);
    return value;
}

static bool read_boolean(reading *r, const char *name, bool otherwise)
{
    bool value = otherwise;
    if (get(r, name)) value = lua_toboolean(r->L, -1);
    if (!lua_isnil(r->L, -1) && !lua_isboolean(r->L, -1)) refuse(r, name, "boolean");
    lua_pop(r->L, 1);
    return value;
}

static uint32_t read_max(reading *r)
{
    return (uint32_t)read_whole(r, "max", 1, FRAME_BYTES_MAX, FRAME_MAX_DEFAULT,
                                "bytes, a whole number from 1 to 1073741824,");
}

static void read_line(reading *r)
{
    frame_rule *rule = r->rule;
    rule->max = read_max(r);
    rule->keep = read_boolean(r, "keep", false);
    if (get(r, "sep")) {
        size_t len = 0;
        const char *sep = lua_type(r->L, -1) == LUA_TSTRING ? lua_tolstring(r->L, -1, &len) : NULL;
        if (len == 0 || len > FRAME_SEP_MAX) {
            refuse(r, "sep", "a string of 1 to 16 bytes");
        } else {
            memcpy(rule->sep, sep, len);
            rule->sep_len = (uint8_t)len;
        }
    }
    lua_pop(r->L, 1);
}

static void read_length(reading *r)
{
    frame_rule *rule = r->rule;
    const char *sizes = "1, 2, 3, 4 or 8";
    lua_Integer size = read_whole(r, "size", 1, 8, 0, sizes);
    if (size > 4 && size < 8) {
        lua_pushinteger(r->L, size);
        refuse(r, "size", sizes);
        lua_pop(r->L, 1);
    }
    rule->size = (uint8_t)size;
    rule->max = read_max(r);
    rule->offset = (uint8_t)read_whole(r, "offset", 0, FRAME_OFFSET_MAX, 0, "bytes before the length, 0 to 64,");
    rule->adjust = (int32_t)read_whole(r, "adjust", -FRAME_ADJUST_MAX, FRAME_ADJUST_MAX, 0, "a whole number of bytes");
    rule->strip = read_boolean(r, "strip", rule->offset == 0);
    if (rule->strip && rule->offset > 0) {
        lua_pushboolean(r->L, true);
        refuse(r, "strip", "with an offset a message keeps its header: false");
        lua_pop(r->L, 1);
    }
    if (get(r, "endian")) {
        const char *endian = lua_type(r->L, -1) == LUA_TSTRING ? lua_tostring(r->L, -1) : "";
        rule->little = strcmp(endian, "little") == 0;
        if (!rule->little && strcmp(endian, "big") != 0) refuse(r, "endian", "'big' or 'little'");
    }
    lua_pop(r->L, 1);
}

/* Calls one of string's functions with what is above its place. Returns whether it did not raise; results, or the error's
 * text, are on top. raises when there is no memory */
static bool call_string(lua_State *L, const void *key, int arguments, int results)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, key);
    lua_insert(L, -1 - arguments);
    int status = lua_pcall(L, arguments, results, 0);
    if (status == LUA_ERRMEM) lua_error(L);
    return status == LUA_OK;
}

/* Counts what a header unpacks to. The format is on top, and stays. Returns 0 when it is no fixed number of bytes. */
static void read_header(reading *r, host_custom *custom)
{
    lua_State *L = r->L;
    static const char zeros[HEADER_MAX];
    lua_pushvalue(L, -1);
    bool ok = call_string(L, &packsize_key, 1, 1);
    lua_Integer bytes = ok ? lua_tointeger(L, -1) : 0;
    lua_pop(L, 1);
    if (bytes < 1 || bytes > HEADER_MAX) {
        refuse(r, "header", "a format of string.pack for 1 to 1024 bytes, always as many,");
        return;
    }
    int top = lua_gettop(L);
    lua_pushvalue(L, -1);
    lua_pushlstring(L, zeros, (size_t)bytes);
    luaL_checkstack(L, FIELDS_MAX, NULL);
    ok = call_string(L, &unpack_key, 2, LUA_MULTRET);
    custom->header = (uint32_t)bytes;
    custom->fields = lua_gettop(L) - top - 1;
    lua_settop(L, top);
    if (!ok || custom->fields < 1 || custom->fields > FIELDS_MAX) refuse(r, "header", "a format with 1 to 32 values");
}

/* Leaves the userdata on the stack. */
static void read_pack(reading *r)
{
    lua_State *L = r->L;
    host_custom *custom = lua_newuserdatauv(L, sizeof(*custom), 2);
    int made = lua_gettop(L);
    *custom = (host_custom){.max = read_max(r)};
    r->rule->max = custom->max;
    get(r, "header");
    if (lua_type(L, -1) == LUA_TSTRING) read_header(r, custom);
    else refuse(r, "header", "a format of string.pack");
    lua_setiuservalue(L, made, 2);
    if (!get(r, "body")) {
        custom->length_field = custom->fields; /* the last one */
    } else if (lua_isfunction(L, -1)) {
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, made, 1);
    } else {
        int whole = 0;
        lua_Integer field = lua_type(L, -1) == LUA_TNUMBER ? lua_tointegerx(L, -1, &whole) : 0;
        if (!whole || field < 1 || field > custom->fields) {
            refuse(r, "body", "which of the header's values is the length, or a function,");
        }
        custom->length_field = (int)field;
    }
    lua_settop(L, made);
}

/* Fields that the type has not, and misspelt ones. */
static void check_fields(reading *r, unsigned type)
{
    lua_State *L = r->L;
    const char *names[array_count(fields_known) + 1];
    size_t count = 0;
    for (size_t i = 0; i < array_count(fields_known); i++) {
        if (fields_known[i].types & 1u << type) names[count++] = fields_known[i].name;
    }
    names[count] = NULL;
    int top = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, r->table) && r->wrong == NULL; lua_settop(L, top + 1)) {
        const char *name = lua_type(L, top + 1) == LUA_TSTRING ? lua_tostring(L, top + 1) : NULL;
        size_t i = 0;
        while (name != NULL && i < count && strcmp(names[i], name) != 0) i++;
        if (name != NULL && i < count) continue;
        if (name == NULL) {
            r->wrong = lua_pushfstring(L, "frame: %s", host_push_nameless(L, top + 1));
        } else {
            host_push_hint(L, name, names);
            r->wrong = lua_pushfstring(L, "frame.%s: a frame of type '%s' has no such field%s", name, type_names[type],
                                       lua_tostring(L, -1));
        }
        lua_replace(L, r->table + 1);
    }
    lua_settop(L, top);
}

static bool find_type(unsigned *type, const char *name)
{
    for (*type = 0; type_names[*type] != NULL; ++*type) {
        if (strcmp(type_names[*type], name) == 0) return true;
    }
    return false;
}

/* The same. */
static void read_functions(reading *r)
{
    lua_State *L = r->L;
    host_custom *custom = lua_newuserdatauv(L, sizeof(*custom), 2);
    int made = lua_gettop(L);
    *custom = (host_custom){.max = read_max(r)};
    get(r, "decode");
    if (!lua_isfunction(L, -1)) refuse(r, "decode", "function");
    lua_setiuservalue(L, made, 1);
    if (get(r, "encode") && !lua_isfunction(L, -1)) refuse(r, "encode", "function");
    lua_setiuservalue(L, made, 2);
}

/* A mere function, which decodes. */
static void read_function(lua_State *L, frame_rule *rule, int index)
{
    *rule = (frame_rule){.type = FRAME_CUSTOM, .max = FRAME_MAX_DEFAULT};
    host_custom *custom = lua_newuserdatauv(L, sizeof(*custom), 2);
    *custom = (host_custom){.max = FRAME_MAX_DEFAULT};
    lua_pushvalue(L, index);
    lua_setiuservalue(L, -2, 1);
}

static const char *wrong_type(lua_State *L, int index)
{
    const char *name = lua_type(L, index) == LUA_TSTRING ? lua_tostring(L, index) : "";
    host_push_hint(L, name, type_names);
    return lua_pushfstring(L, "frame.type: the name of a type, such as 'line' or 'length', expected, got %s%s",
                           name[0] != '\0' ? name : luaL_typename(L, index), lua_tostring(L, -1));
}

/* stack at the end: the userdata or nil, at r->table + 2. */
static void read_table(reading *r)
{
    lua_State *L = r->L;
    unsigned type;
    get(r, "type");
    if (lua_type(L, -1) != LUA_TSTRING || !find_type(&type, lua_tostring(L, -1))) {
        r->wrong = wrong_type(L, lua_gettop(L));
        lua_replace(L, r->table + 1);
        return;
    }
    lua_settop(L, r->table + 1);
    check_fields(r, type);
    r->rule->type = type < FRAME_CUSTOM ? (uint8_t)type : FRAME_CUSTOM;
    switch (type) {
    case FRAME_LINE:
        read_line(r);
        break;
    case FRAME_NETSTRING:
        r->rule->max = read_max(r);
        break;
    case FRAME_LENGTH:
        read_length(r);
        break;
    case FRAME_FIXED:
        r->rule->max =
            (uint32_t)read_whole(r, "size", 1, FRAME_BYTES_MAX, 0, "bytes, a whole number from 1 to 1073741824,");
        break;
    case TYPE_PACK:
        read_pack(r);
        return;
    case TYPE_FUNCTION:
        read_functions(r);
        return;
    default:
        break;
    }
    lua_pushnil(L);
}

const char *host_frame_read(lua_State *L, frame_rule *rule, int index)
{
    unsigned type;
    *rule = (frame_rule){.type = FRAME_RAW, .max = FRAME_MAX_DEFAULT};
    if (lua_isfunction(L, index)) {
        read_function(L, rule, index);
        return NULL;
    }
    if (lua_type(L, index) == LUA_TSTRING && find_type(&type, lua_tostring(L, index)) && type <= FRAME_NETSTRING) {
        rule->type = (uint8_t)type;
        lua_pushnil(L);
        return NULL;
    }
    if (lua_type(L, index) == LUA_TSTRING && find_type(&type, lua_tostring(L, index))) {
        return lua_pushfstring(L, "frame: '%s' needs a table, {type = \"%s\", ...}", type_names[type],
                               type_names[type]);
    }
    if (lua_type(L, index) != LUA_TTABLE) {
        const char *name = lua_type(L, index) == LUA_TSTRING ? lua_tostring(L, index) : "";
        host_push_hint(L, name, type_names);
        return lua_pushfstring(L, "frame: 'raw', 'line', 'netstring', a table or a function expected, got %s%s",
                               name[0] != '\0' ? name : luaL_typename(L, index), lua_tostring(L, -1));
    }
    lua_pushvalue(L, index);
    reading r = {.L = L, .rule = rule, .table = lua_gettop(L)};
    lua_pushnil(L); /* for what is wrong */
    read_table(&r);
    if (r.wrong != NULL) lua_settop(L, r.table + 1);
    return r.wrong;
}

/* ---- Decoding with Lua ---- */

/* Pushes the userdata of a connection's FRAME_CUSTOM. raises */
static host_custom *push_custom(lua_State *L, const conn *c)
{
    const host *h = host_of_conn(c);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->own_frame ? ((const host_conn *)c->user)->frame_ref : h->frame_ref);
    return lua_touserdata(L, -1);
}

static frame_status is_more(frame_found *found, size_t need)
{
    found->need = need;
    return FRAME_MORE;
}

static frame_status is_refused(frame_found *found, frame_fault fault)
{
    found->fault = fault;
    return fault == FRAME_FAULT_LENGTH_SMALL ? FRAME_WRONG : FRAME_LIMIT;
}

static frame_status is_message(frame_found *found, size_t header, size_t len)
{
    found->start = header;
    found->len = len;
    found->used = header + len;
    return FRAME_MESSAGE;
}

/* Whole numbers only; raises for what else a script's function returns. */
static lua_Integer check_whole(lua_State *L, const char *who)
{
    int whole = 0;
    lua_Integer value = lua_type(L, -1) == LUA_TNUMBER ? lua_tointegerx(L, -1, &whole) : 0;
    if (!whole) {
        const char *found = host_push_found(L, -1);
        luaL_error(L, "%s: a whole number of bytes expected, got %s", who, found);
    }
    return value;
}

static frame_status decode_pack(lua_State *L, const host_custom *custom, frame_found *found, const uint8_t *data,
                                size_t len)
{
    if (len < custom->header) return is_more(found, custom->header);
    int top = lua_gettop(L);
    luaL_checkstack(L, FIELDS_MAX + 4, NULL);
    lua_getiuservalue(L, top, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &unpack_key);
    lua_getiuservalue(L, top, 2);
    lua_pushlstring(L, (const char *)data, custom->header);
    lua_call(L, 2, custom->fields);
    if (custom->length_field > 0) lua_pushvalue(L, top + 1 + custom->length_field);
    else lua_call(L, custom->fields, 1);
    lua_Integer bytes = check_whole(L, custom->length_field > 0 ? "frame.body: the header's value"
                                                                : "frame.body: what the function returned");
    lua_settop(L, top);
    if (bytes < 0) return is_refused(found, FRAME_FAULT_LENGTH_SMALL);
    if ((lua_Unsigned)bytes > custom->max) return is_refused(found, FRAME_FAULT_LENGTH_LARGE);
    size_t total = custom->header + (size_t)bytes;
    return len < total ? is_more(found, total) : is_message(found, custom->header, (size_t)bytes);
}

static frame_status decode_function(lua_State *L, const host_custom *custom, frame_found *found, const uint8_t *data,
                                    size_t len)
{
    int top = lua_gettop(L);
    lua_getiuservalue(L, top, 1);
    lua_pushlstring(L, (const char *)data, len);
    lua_call(L, 1, 1);
    if (lua_isnil(L, -1)) {
        lua_settop(L, top);
        return len > custom->max ? is_refused(found, FRAME_FAULT_MESSAGE_LONG) : is_more(found, len + 1);
    }
    lua_Integer bytes = check_whole(L, "frame: what the function returned");
    if (bytes < 1)
        luaL_error(L, "frame: the function returned %I: bytes from 1 on, or nil, expected", (LUAI_UACINT)bytes);
    lua_settop(L, top);
    if ((lua_Unsigned)bytes > custom->max) return is_refused(found, FRAME_FAULT_MESSAGE_LONG);
    return (size_t)bytes > len ? is_more(found, (size_t)bytes) : is_message(found, 0, (size_t)bytes);
}

frame_status host_frame_decode(lua_State *L, const conn *c, frame_found *found, const uint8_t *data, size_t len)
{
    const host_custom *custom = push_custom(L, c);
    frame_status status =
        custom->header > 0 ? decode_pack(L, custom, found, data, len) : decode_function(L, custom, found, data, len);
    /* What was found is for this frame only: see host_frame_push_fields(). */
    if (c->limits->frame.type != FRAME_CUSTOM || push_custom(L, c) != custom) {
        luaL_error(L, "frame: its function has changed the frame of its own connection");
    }
    lua_pop(L, 2);
    return status;
}

int host_frame_push_fields(lua_State *L, const conn *c, const uint8_t *data)
{
    if (c->limits->frame.type != FRAME_CUSTOM) return 0;
    const host_custom *custom = push_custom(L, c);
    if (custom->header == 0) {
        lua_pop(L, 1);
        return 0;
    }
    luaL_checkstack(L, FIELDS_MAX + 4, NULL);
    int top = lua_gettop(L);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &unpack_key);
    lua_getiuservalue(L, top, 2);
    lua_pushlstring(L, (const char *)data - custom->header, custom->header);
    lua_call(L, 2, custom->fields);
    lua_remove(L, top);
    return custom->fields;
}

/* ---- Encoding with Lua ---- */

/* stack: …, message, fields, custom. Leaves header and message as one string on top. */
static void encode_pack(lua_State *L, const host_custom *custom, int message)
{
    int top = lua_gettop(L), given = top - message - 1;
    int expected = custom->length_field > 0 ? custom->fields - 1 : custom->fields;
    if (given != expected) {
        luaL_error(L, "send: behind the message %d of the header's values expected%s, got %d", expected,
                   custom->length_field > 0 ? ", all but the length" : "", given);
    }
    luaL_checkstack(L, FIELDS_MAX + 4, NULL);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &pack_key);
    lua_getiuservalue(L, top, 2);
    int from = message + 1;
    for (int i = 1; i <= custom->fields; i++) {
        if (i == custom->length_field) lua_pushinteger(L, (lua_Integer)lua_rawlen(L, message));
        else lua_pushvalue(L, from++);
    }
    lua_call(L, 1 + custom->fields, 1);
    lua_pushvalue(L, message);
    lua_concat(L, 2);
}

bool host_frame_encodes(lua_State *L, const conn *c)
{
    if (c->limits->frame.type != FRAME_CUSTOM) return false;
    const host_custom *custom = push_custom(L, c);
    bool encodes = lua_getiuservalue(L, -1, 2) != LUA_TNIL && custom->header == 0;
    lua_pop(L, 2);
    return encodes;
}

void host_frame_encode(lua_State *L, const conn *c, int message)
{
    const host_custom *custom = push_custom(L, c);
    int top = lua_gettop(L);
    if (custom->header > 0) {
        luaL_checkstring(L, message);
        encode_pack(L, custom, message);
    } else if (lua_getiuservalue(L, top, 2) == LUA_TNIL) { /* the script makes its messages itself */
        for (int i = message; i < top; i++) luaL_checkstring(L, i);
        lua_settop(L, top - 1);
        lua_concat(L, top - message);
    } else {
        luaL_checkstack(L, top, NULL);
        for (int i = message; i < top; i++) lua_pushvalue(L, i);
        lua_call(L, top - message, 1);
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "frame.encode: it returned a %s: a string expected", luaL_typename(L, -1));
    }
}
