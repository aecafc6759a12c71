/* lua_target.c - runs a target that is written in Lua: the file FUZZ_SCRIPT returns a function of a string, which raises
 * when something is not as it should be. The modules of lua/portico/ are there, those of tests/batteries/ and tests/fuzz/,
 * and `fuzz`:
 *
 *   fuzz.copy(value)   through host_value.h and back: the copy, or nil, message
 *   fuzz.hash(string)  an integer
 *
 * libFuzzer cannot see into Lua by itself: a hook counts which line of Lua follows which, as extra counters
 * (https://llvm.org/docs/LibFuzzer.html), and these lead it as the edges of C do. What a call keeps alive is bounded:
 * MEMORY_MORE above what the modules take, and Lua runs out of memory, which is a find.
 */
#include "embedded.h"
#include "fuzz.h"
#include "host_internal.h"
#include "host_value.h"

#include <lualib.h>

enum { COUNTERS = 1 << 15, MEMORY_MORE = 4 << 20 };

__attribute__((used, section("__libfuzzer_extra_counters"))) static uint8_t counters[COUNTERS];

static struct {
    lua_State *L; /* its stack holds the message handler and the target's function */
    size_t bytes;
    size_t bytes_max;
    uint32_t last_line;
} own = {.bytes_max = SIZE_MAX};

static void *allocate(void *context, void *block, size_t old_bytes, size_t bytes)
{
    (void)context;
    size_t old = block == NULL ? 0 : old_bytes;
    if (bytes == 0) {
        own.bytes -= old;
        free(block);
        return NULL;
    }
    if (bytes > old && bytes - old > own.bytes_max - own.bytes) return NULL;
    void *result = realloc(block, bytes);
    if (result != NULL) own.bytes += bytes - old;
    return result;
}

static void count_line(lua_State *L, lua_Debug *event)
{
    (void)L;
    uint32_t line = (uint32_t)event->currentline * 2654435761u; /* the file would cost more than all else */
    uint8_t *counter = &counters[(line ^ own.last_line) % COUNTERS];
    if (*counter < UINT8_MAX) ++*counter;
    own.last_line = line >> 1;
}

/* ---- What targets find ---- */

static int search_embedded(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    if (strcmp(name, "portico.codec") == 0) {
        lua_pushcfunction(L, host_codec_open);
        return 1;
    }
    const char *file = luaL_gsub(L, name, ".", "/");
    for (size_t i = 0; i < embedded_count; i++) {
        const embedded_file *e = &embedded_files[i];
        size_t len = strlen(file);
        if (strncmp(e->name, file, len) != 0 || strcmp(e->name + len, ".lua") != 0) continue;
        if (luaL_loadbufferx(L, e->data, e->size, lua_pushfstring(L, "@%s", e->name), "t") != LUA_OK) lua_error(L);
        return 1;
    }
    return 0;
}

static int fuzz_lua_copy(lua_State *L)
{
    host_value value;
    luaL_checkany(L, 1);
    if (!host_value_encode(L, 1, "value", &value)) {
        lua_pushnil(L);
        lua_insert(L, -2);
        return 2;
    }
    lua_pushcfunction(L, host_value_push);
    lua_pushlightuserdata(L, &value);
    int status = lua_pcall(L, 1, 1, 0);
    host_value_free(&value);
    return status == LUA_OK ? 1 : lua_error(L);
}

static int fuzz_lua_hash(lua_State *L)
{
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    lua_pushinteger(L, (lua_Integer)fuzz_hash((const uint8_t *)text, len));
    return 1;
}

static int explain(lua_State *L)
{
    luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
    return 1;
}

static void call(int arguments, int results)
{
    if (lua_pcall(own.L, arguments, results, 1) == LUA_OK) return;
    const char *message = lua_tostring(own.L, -1);
    fuzz_fail("%s", message != NULL ? message : "an error that is not a text");
}

static void open_target(void)
{
    static const luaL_Reg functions[] = {{"copy", fuzz_lua_copy}, {"hash", fuzz_lua_hash}, {NULL, NULL}};
    static const char begin[] = "package.path = ...\n"
                                "arg = {}\n"
                                "package.searchers[2], package.searchers[3] = select(2, ...), package.searchers[2]\n";
    lua_State *L = own.L = lua_newstate(allocate, NULL);
    if (L == NULL) abort();
    lua_pushcfunction(L, explain);
    luaL_openlibs(L);
    luaL_newlib(L, functions);
    lua_setglobal(L, "fuzz");
    if (luaL_loadstring(L, begin) != LUA_OK) abort();
    lua_pushliteral(L, FUZZ_FOLDER "/?.lua;" FUZZ_FOLDER "/../batteries/?.lua");
    lua_pushcfunction(L, search_embedded);
    call(2, 0);
    if (luaL_loadfile(L, FUZZ_SCRIPT) != LUA_OK) fuzz_fail("%s", lua_tostring(L, -1));
    call(0, 1);
    lua_gc(L, LUA_GCCOLLECT);
    own.bytes_max = own.bytes + MEMORY_MORE;
    lua_sethook(L, count_line, LUA_MASKLINE, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (own.L == NULL) open_target();
    own.last_line = 0;
    lua_pushvalue(own.L, 2);
    lua_pushlstring(own.L, (const char *)data, size);
    call(1, 0);
    return 0;
}
