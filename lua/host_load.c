/* host_load.c - from text to functions: load, loadfile, dofile, and what the host compiles itself.
 *
 * Text only: the loader of Lua 5.4 can be crashed by altered bytecode. The compiler gets its text in pieces and is asked
 * between them whether the budget is over, since it runs no hook: 20 MB take it half a second. With --sandbox strict files are
 * those below the script's directory.
 */
#include "host_internal.h"

#include "file.h"
#include "lua_steps.h"

#include <stdio.h>
#include <string.h>

enum {
    PIECE_BYTES = 4096,
    KEPT_PLACE = 5 /* load's stack: where the piece that is read is anchored */
};

/* ---- Texts ---- */

typedef struct source {
    const char *text;
    size_t len;
} source;

/* A lua_Reader. raises, which lua_load() catches */
static const char *read_piece(lua_State *L, void *context, size_t *len)
{
    source *s = context;
    const char *piece = s->text;
    (void)L;
    LUA_STEP();
    *len = s->len < PIECE_BYTES ? s->len : PIECE_BYTES;
    s->text += *len;
    s->len -= *len;
    return piece;
}

int host_load_text(lua_State *L, const char *text, size_t len, const char *chunk_name)
{
    source s = {text, len};
    return lua_load(L, read_piece, &s, chunk_name, "t"); /* is protected: it does not raise */
}

/* Leaves out a byte order mark, and a first line that begins with '#', but not its end: line numbers stay right. */
static void skip_first_line(const char **text, size_t *len)
{
    if (*len >= 3 && memcmp(*text, "\xEF\xBB\xBF", 3) == 0) {
        *text += 3;
        *len -= 3;
    }
    if (*len == 0 || **text != '#') return;
    const char *end = memchr(*text, '\n', *len);
    *len = end == NULL ? 0 : *len - (size_t)(end - *text);
    if (end != NULL) *text = end;
}

/* True for bytecode: Lua's own words for it do not name the file. */
static bool is_bytecode(const char *text, size_t len)
{
    return len > 0 && text[0] == LUA_SIGNATURE[0];
}

int host_compile(lua_State *L, const generation_file *file, const char *chunk_name)
{
    const char *text = file->text;
    size_t len = file->len;
    skip_first_line(&text, &len);
    if (is_bytecode(text, len)) {
        lua_pushfstring(L, "%s: only text can be loaded, not bytecode", chunk_name + 1);
        return LUA_ERRSYNTAX;
    }
    return host_load_text(L, text, len, chunk_name);
}

/* ---- Files ---- */

/* A path that leads out of the directory it starts from, or may. */
static bool leads_out(const char *path)
{
    if (path[0] == '/' || path[0] == '\\' || strchr(path, ':') != NULL) return true;
    for (const char *step = path; *step != '\0'; step += strspn(step, "/\\")) {
        size_t len = strcspn(step, "/\\");
        if (len == 2 && step[0] == '.' && step[1] == '.') return true;
        step += len;
    }
    return false;
}

/* Pushes the path that is meant, or why it is refused. raises */
static bool push_path(lua_State *L, const char *path)
{
    const host_config *config = host_of(L)->config;
    if (config->sandbox < HOST_SANDBOX_STRICT) {
        lua_pushstring(L, path);
        return true;
    }
    if (config->script_dir == NULL || leads_out(path)) {
        lua_pushfstring(L, "cannot open %s: with --sandbox strict only files below the script's directory", path);
        return false;
    }
    lua_pushfstring(L, "%s/%s", config->script_dir, path);
    return true;
}

int host_load_file(lua_State *L, const char *path)
{
    char *text, why[128];
    size_t len;
    lua_pushfstring(L, "@%s", path);
    if (!file_read(&text, &len, path, why, sizeof(why))) {
        lua_pushfstring(L, "cannot open %s: %s", path, why);
        lua_remove(L, -2);
        return LUA_ERRFILE;
    }
    const char *code = text;
    size_t code_len = len;
    skip_first_line(&code, &code_len);
    int status = LUA_ERRSYNTAX;
    bool is_text = !is_bytecode(code, code_len);
    if (is_text) status = host_load_text(L, code, code_len, lua_tostring(L, -1));
    mem_free(text);
    if (!is_text) lua_pushfstring(L, "%s: only text can be loaded, not bytecode", path);
    lua_remove(L, -2);
    return status;
}

/* ---- The functions ---- */

/* The argument `mode` allows text. If not, pushes what is returned then. raises */
static bool allows_text(lua_State *L, int arg)
{
    if (strchr(luaL_optstring(L, arg, "t"), 't') != NULL) return true;
    host_push_failure(L, "only text can be loaded, not bytecode", "denied");
    return false;
}

/* What load and loadfile return: the function on top, with the environment at `env`, or nil and the message. */
static int loaded(lua_State *L, int status, int env)
{
    if (status == LUA_ERRMEM) host_memory_caught(host_of(L), L);
    if (status != LUA_OK) {
        luaL_pushfail(L);
        lua_insert(L, -2);
        return 2;
    }
    if (env != 0) {
        lua_pushvalue(L, env);
        if (lua_setupvalue(L, -2, 1) == NULL) lua_pop(L, 1); /* it has no use for an environment */
    }
    return 1;
}

/* A lua_Reader that asks the function at 1. raises, which lua_load() catches */
static const char *ask_piece(lua_State *L, void *context, size_t *len)
{
    (void)context;
    luaL_checkstack(L, 2, "too many nested functions");
    lua_pushvalue(L, 1);
    lua_call(L, 0, 1);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        *len = 0;
        return NULL;
    }
    if (!lua_isstring(L, -1)) luaL_error(L, "reader function must return a string");
    lua_replace(L, KEPT_PLACE);
    return lua_tolstring(L, KEPT_PLACE, len);
}

/* load(chunk, name, mode, env) */
static int load_chunk(lua_State *L)
{
    int env = lua_isnone(L, 4) ? 0 : 4;
    if (!allows_text(L, 3)) return 3;
    lua_settop(L, KEPT_PLACE);
    size_t len;
    const char *text = lua_tolstring(L, 1, &len);
    if (text != NULL) return loaded(L, host_load_text(L, text, len, luaL_optstring(L, 2, text)), env);
    const char *name = luaL_optstring(L, 2, "=(load)");
    luaL_checktype(L, 1, LUA_TFUNCTION);
    return loaded(L, lua_load(L, ask_piece, NULL, name, "t"), env);
}

/* loadfile(name, mode, env) */
static int load_file(lua_State *L)
{
    int env = lua_isnone(L, 3) ? 0 : 3;
    const char *name = luaL_checkstring(L, 1);
    if (!allows_text(L, 2)) return 3;
    if (!push_path(L, name)) return loaded(L, LUA_ERRFILE, 0);
    return loaded(L, host_load_file(L, lua_tostring(L, -1)), env);
}

static int do_file_over(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    (void)context;
    return lua_gettop(L) - 1;
}

/* dofile(name) */
static int do_file(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    lua_settop(L, 1);
    if (!push_path(L, name) || host_load_file(L, lua_tostring(L, 2)) != LUA_OK) return lua_error(L);
    lua_remove(L, 2);
    lua_callk(L, 0, LUA_MULTRET, 0, do_file_over);
    return do_file_over(L, LUA_OK, 0);
}

void host_load_library(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"load", load_chunk}, {"loadfile", load_file}, {"dofile", do_file}, {NULL, NULL}};
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    luaL_setfuncs(L, functions, 0);
    lua_pop(L, 1);
}
