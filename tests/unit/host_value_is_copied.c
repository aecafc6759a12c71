/* Goal: a plain value comes out of its bytes as it went in, in another state, too; what is not plain is refused by the
 * name of the field; nothing is left behind whatever fails. Method: values are written in Lua, copied from one state to
 * another and judged there by Lua; random trees are described as text on both sides. */
#include "check.h"

#include "host_value.h"

#include <lauxlib.h>
#include <lualib.h>

static uint64_t seed;

static lua_State *open_lua(void)
{
    lua_State *L = luaL_newstate();
    check(L != NULL);
    luaL_openlibs(L);
    return L;
}

/* Runs a chunk with the arguments on top of the stack; leaves its results. */
static void run_lua(lua_State *L, const char *source, int arguments, int results)
{
    check_eq(luaL_loadstring(L, source), LUA_OK);
    lua_insert(L, -(arguments + 1));
    if (lua_pcall(L, arguments, results, 0) != LUA_OK) fail("%s", lua_tostring(L, -1));
}

/* What the source returns goes through bytes into a new state, where the judge gets it, and has to return true. */
static void copies(const char *source, const char *judge)
{
    lua_State *from = open_lua();
    lua_State *to = open_lua();
    host_value v;
    run_lua(from, source, 0, 1);
    int top = lua_gettop(from);
    if (!host_value_encode(from, -1, "value", &v)) fail("%s: %s", source, lua_tostring(from, -1));
    check_eq(lua_gettop(from), top);
    lua_close(from);
    host_value_decode(to, &v);
    host_value_free(&v);
    check_eq(lua_gettop(to), 1);
    run_lua(to, judge, 1, 1);
    if (!lua_toboolean(to, -1)) fail("%s: not so afterwards: %s", source, judge);
    lua_close(to);
}

static void refuses(const char *source, const char *expected)
{
    lua_State *L = open_lua();
    host_value v;
    run_lua(L, source, 0, 1);
    int top = lua_gettop(L);
    check(!host_value_encode(L, top, "state", &v));
    check_eq(lua_gettop(L), top + 1);
    check(v.bytes == NULL && v.len == 0);
    check_str(lua_tostring(L, -1), expected);
    host_value_free(&v);
    lua_close(L);
}

static void single_values(void)
{
    copies("return nil", "return select('#', ...) == 1 and ... == nil");
    copies("return true", "return ... == true");
    copies("return false", "return ... == false");
    copies("return 7", "return math.type(...) == 'integer' and ... == 7");
    copies("return math.mininteger", "return ... == math.mininteger and math.type(...) == 'integer'");
    copies("return math.maxinteger", "return ... == math.maxinteger");
    copies("return 7.0", "return math.type(...) == 'float' and ... == 7");
    copies("return -0.0", "return 1 / ... == -math.huge");
    copies("return 1 / 0", "return ... == math.huge");
    copies("return -1 / 0", "return ... == -math.huge");
    copies("return 0 / 0", "return ... ~= ...");
    copies("return 2^-1074", "return ... == 2^-1074 and ... > 0");
    copies("return ''", "return ... == ''");
    copies("return 'a\\0b'", "return ... == 'a\\0b'");
    copies("return ('x'):rep(40)", "return ... == ('x'):rep(40)");
    copies("return ('x'):rep(41)", "return ... == ('x'):rep(41)");
    copies("return ('x\\0'):rep(1 << 20)", "return ... == ('x\\0'):rep(1 << 20)");
    copies("return {}", "return type(...) == 'table' and next(...) == nil");
}

static void tables(void)
{
    copies("return { 1, 'two', { 3 }, n = { m = false }, [2.5] = 'f', [true] = 'b' }",
           "local t = ... return t[1] == 1 and t[2] == 'two' and t[3][1] == 3 and t.n.m == false and t[2.5] == 'f' and "
           "t[true] == 'b'");
    copies("local t = {} for i = 1, 100000 do t[i] = i end return t",
           "local t = ... for i = 1, 100000 do if t[i] ~= i then return false end end return #t == 100000");
    copies("return { nil, nil, 3 }", "local t = ... return t[1] == nil and t[3] == 3");
    copies("local k = { 'key' } return { [k] = 'v', k = k }", "local t = ... return t[t.k] == 'v' and t.k[1] == 'key'");
    copies("local t = {} for i = 1, 200 do t = { t } end return t[1]",
           "local t, n = ..., 0 while t[1] do t, n = t[1], n + 1 end return n == 199");
}

static void what_is_shared_stays_so(void)
{
    copies("local s = { 1 } return { a = s, b = s, c = { s } }",
           "local t = ... t.a[1] = 2 return rawequal(t.a, t.b) and rawequal(t.a, t.c[1]) and t.b[1] == 2");
    copies("local t = {} t.self = t t[1] = { up = t } return t",
           "local t = ... return rawequal(t.self, t) and rawequal(t[1].up, t)");
    copies("local a, b = {}, {} a.b = b b.a = a return a", "local a = ... return rawequal(a.b.a, a)");
    copies("local t = {} t[t] = t return t", "local t = ... return rawequal(t[t], t)");
    copies("local s = ('x'):rep(1000) return { s, { s }, s }",
           "local t = ... return t[1] == ('x'):rep(1000) and t[2][1] == t[1] and t[3] == t[1]");
    copies("local list for i = 1, 100 do list = { next = list, 'item' } end return { list, list.next }",
           "local t = ... return rawequal(t[1].next, t[2])");
}

static void a_long_string_is_written_once(void)
{
    lua_State *L = open_lua();
    host_value v;
    run_lua(L, "local s, t = ('x'):rep(100000), {} for i = 1, 1000 do t[i] = s end return t", 0, 1);
    check(host_value_encode(L, -1, "value", &v));
    check(v.len < 200000);
    host_value_free(&v);
    lua_close(L);
}

static void what_is_not_plain_is_named(void)
{
    refuses("return print", "state: a function cannot be copied");
    refuses("return { list = { 1, 2, { cb = print } } }", "state.list[3].cb: a function cannot be copied");
    refuses("return { ['a b'] = { [1.5] = { [true] = io.stdout } } }",
            "state[\"a b\"][1.5][true]: a userdata cannot be copied");
    refuses("return { c = coroutine.create(print) }", "state.c: a coroutine cannot be copied");
    refuses("return { o = setmetatable({}, {}) }", "state.o: a table with a metatable cannot be copied");
    refuses("return setmetatable({}, { __pairs = error, __index = error, __len = error, __metatable = 1 })",
            "state: a table with a metatable cannot be copied");
    refuses("return { a = { [print] = 1 } }", "state.a: a function as a key cannot be copied");
    refuses("return { [{ f = print }] = 1 }", "state[a table].f: a function cannot be copied");
    refuses("return { [('k'):rep(50)] = print }",
            "state[\"kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk...\"]: a function cannot be copied");
}

static void depth_has_a_bound(void)
{
    lua_State *L = open_lua();
    host_value v;
    run_lua(L, "local t = {} for i = 1, 100000 do t = { t } end return t", 0, 1);
    check(!host_value_encode(L, -1, "state", &v));
    const char *text = lua_tostring(L, -1);
    check(strncmp(text, "state[1][1][1]", 14) == 0);
    check(strstr(text, "...: a table in 200 others cannot be copied") != NULL);
    lua_close(L);
}

/* ---- Random trees ---- */

static const char describe[] =
    "local root = ...\n"
    "local out, seen, count = {}, {}, 0\n"
    "local function walk(v)\n"
    "  if type(v) ~= 'table' then\n"
    "    out[#out + 1] = math.type(v) == 'float' and ('%a'):format(v) or ('%s %q'):format(math.type(v), v)\n"
    "    return\n"
    "  end\n"
    "  if seen[v] then out[#out + 1] = 'again ' .. seen[v] return end\n"
    "  count = count + 1\n"
    "  seen[v] = count\n"
    "  local keys = {}\n"
    "  for k in pairs(v) do keys[#keys + 1] = k end\n"
    "  table.sort(keys, function(a, b)\n"
    "    if type(a) ~= type(b) then return type(a) < type(b) end\n"
    "    if type(a) == 'boolean' then return not a and b end\n"
    "    return a < b\n"
    "  end)\n"
    "  out[#out + 1] = '{'\n"
    "  for _, k in ipairs(keys) do walk(k) walk(v[k]) end\n"
    "  out[#out + 1] = '}'\n"
    "end\n"
    "walk(root)\n"
    "return table.concat(out, ' ')\n";

static const char grow[] = "math.randomseed(...)\n"
                           "local r, made = math.random, {}\n"
                           "local function leaf()\n"
                           "  local which = r(8)\n"
                           "  if which == 1 then return r(0) elseif which == 2 then return r(0) * 1.5\n"
                           "  elseif which == 3 then return r() elseif which == 4 then return r(2) == 1\n"
                           "  elseif which == 5 then return ('s'):rep(r(100)) .. r(9)\n"
                           "  else return string.char(r(0, 255), r(0, 255)) end\n"
                           "end\n"
                           "local function tree(depth)\n"
                           "  if depth == 0 or #made == 200 or r(4) == 1 then return leaf() end\n"
                           "  if #made > 0 and r(6) == 1 then return made[r(#made)] end\n"
                           "  local t = {}\n"
                           "  made[#made + 1] = t\n"
                           "  for i = 1, r(0, 8) do t[i] = tree(depth - 1) end\n"
                           "  for i = 1, r(0, 4) do t[leaf()] = tree(depth - 1) end\n"
                           "  return t\n"
                           "end\n"
                           "return { tree(r(8)) }\n";

static void random_trees_survive(void)
{
    lua_State *from = open_lua();
    lua_State *to = open_lua();
    uint64_t state = seed;
    for (int round = 0; round < 200; round++) {
        host_value v;
        lua_pushinteger(from, (lua_Integer)check_random(&state));
        run_lua(from, grow, 1, 1);
        check(host_value_encode(from, -1, "tree", &v));
        host_value_decode(to, &v);
        host_value_free(&v);
        run_lua(from, describe, 1, 1);
        run_lua(to, describe, 1, 1);
        check_str(lua_tostring(to, -1), lua_tostring(from, -1));
        lua_settop(from, 0);
        lua_settop(to, 0);
    }
    lua_close(from);
    lua_close(to);
}

/* ---- Want of memory ---- */

static long long allowed; /* allocations that succeed from now on */

static void *allocate(void *context, void *block, size_t old_bytes, size_t bytes)
{
    (void)context;
    (void)old_bytes;
    if (bytes == 0) {
        free(block);
        return NULL;
    }
    if ((block == NULL || bytes > old_bytes) && allowed-- <= 0) return NULL;
    return realloc(block, bytes);
}

static int decode(lua_State *L)
{
    host_value_decode(L, lua_touserdata(L, 1));
    return 1;
}

static int encode(lua_State *L)
{
    host_value *v = lua_touserdata(L, 2);
    lua_pushboolean(L, host_value_encode(L, 1, "state", v));
    return 1;
}

static void every_allocation_of_the_reader_may_fail(void)
{
    lua_State *from = open_lua();
    host_value v;
    run_lua(from, "local s = { ('x'):rep(100), n = 1 } return { s, s, { { 'deep' } }, [7.5] = true }", 0, 1);
    check(host_value_encode(from, -1, "value", &v));
    lua_close(from);
    int failures = 0;
    for (int budget = 0;; budget++) {
        allowed = INT64_MAX;
        lua_State *to = lua_newstate(allocate, NULL);
        check(to != NULL);
        lua_pushcfunction(to, decode);
        lua_pushlightuserdata(to, &v);
        lua_gc(to, LUA_GCSTOP);
        allowed = budget;
        int status = lua_pcall(to, 1, 1, 0);
        allowed = INT64_MAX;
        lua_close(to);
        if (status == LUA_OK) break;
        check_eq(status, LUA_ERRMEM);
        failures++;
    }
    check(failures > 4);
    host_value_free(&v);
}

static void a_refusal_without_memory_for_its_text_leaves_nothing(void)
{
    for (int budget = 0; budget < 3; budget++) {
        allowed = INT64_MAX;
        lua_State *L = lua_newstate(allocate, NULL);
        host_value v = {0}; /* the call itself may already lack memory */
        check(L != NULL);
        lua_pushcfunction(L, encode);
        lua_createtable(L, 0, 1);
        lua_pushcfunction(L, encode);
        lua_setfield(L, -2, "a_name_that_is_long_enough_to_need_memory_in_the_message");
        lua_pushlightuserdata(L, &v);
        lua_gc(L, LUA_GCSTOP);
        allowed = budget;
        int status = lua_pcall(L, 2, 1, 0);
        allowed = INT64_MAX;
        if (budget == 0) check_eq(status, LUA_ERRMEM);
        else if (status == LUA_OK) check(!lua_toboolean(L, -1));
        check(v.bytes == NULL);
        lua_close(L);
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    seed = check_seed(argc, argv, 1, 20261122);
    check_run(single_values);
    check_run(tables);
    check_run(what_is_shared_stays_so);
    check_run(a_long_string_is_written_once);
    check_run(what_is_not_plain_is_named);
    check_run(depth_has_a_bound);
    check_run(random_trees_survive);
    check_run(every_allocation_of_the_reader_may_fail);
    check_run(a_refusal_without_memory_for_its_text_leaves_nothing);
    return check_end();
}
