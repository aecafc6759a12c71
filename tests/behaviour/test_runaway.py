"""Runaway scripts: each ends at its budget, or is refused, and whoever else is on the worker is served meanwhile.

The figures of the table in docs/testing.md: run this file with -s.
"""

import signal

import pytest

from rig import ECHO, Settings, dawdle, until
from runaways import let_loose

RECURSION = "local function f() f() end f()"
DEEP = "local function f(n) if n > 0 then f(n - 1) return end"

# What runs; how it ends: "budget", "memory" (the second time), "either" as the machine is fast, "overflow" of the stack, or the text of an error that comes at once.
RUNAWAYS = {
    # Loops in Lua.
    "while true": ("while true do end", "budget"),
    "pcall in a loop": ("while true do pcall(function() while true do end end) end", "budget"),
    "calls that catch their errors": ("local function f() while true do pcall(f) end end f()", "budget"),
    "xpcall, handler loops": ("xpcall(error, function() while true do end end)", "budget"),
    "xpcall in sort, handler loops": (
        "table.sort({3, 2, 1}, function() xpcall(error, function() while true do end end) while true do end end)", "budget"),
    "coroutine made at load": ("coroutine.resume(loader)", "budget"),
    "coroutines in pcall": ("while true do pcall(coroutine.wrap(function() while true do end end)) end", "budget"),
    "coroutine.close": ("""local co = coroutine.create(function()
        local x <close> = setmetatable({}, {__close = function() while true do end end}) coroutine.yield() end)
        coroutine.resume(co) coroutine.close(co)""", "budget"),
    "__close": ("local x <close> = setmetatable({}, {__close = function() while true do end end})", "budget"),
    "__close after an error": (
        "local x <close> = setmetatable({}, {__close = function() while true do end end}) error('x')", "budget"),
    "__close behind the budget": (
        "local x <close> = setmetatable({}, {__close = function() while true do end end}) while true do end", "budget"),
    "10,000 __close behind the budget": (
        """local meta = {__close = function() while true do end end}
        local function f(n) local x <close> = setmetatable({}, meta) if n > 0 then f(n - 1) end while true do end end f(10000)""", "budget"),
    "__gc of a file": (
        "getmetatable(io.stdout).__gc = function() while true do end end", "attempt to index a string value"),
    "__close that re-enters itself": (
        "local function f(x) local y <close> = x error('x') end local x <close> = setmetatable({}, {__close = f})", "budget"),
    "__index": ("local x = setmetatable({}, {__index = function() while true do end end}).y", "budget"),
    "__tostring, print": ("print(setmetatable({}, {__tostring = function() while true do end end}))", "budget"),
    "sort comparator": ("table.sort({3, 2, 1}, function() while true do end end)", "budget"),
    "gsub replacement": ("string.gsub('xxx', 'x', function() while true do end end)", "budget"),
    "load reader": ("load(function() return ' ' end)", "budget"),
    "require cycle of loads": ("while true do pcall(require, 'nowhere') end", "budget"),
    "collect 10^6 objects, again and again": (
        "local t = {} for i = 1, 2e5 do t[i] = {} end while true do collectgarbage() end", "budget"),
    "collectgarbage('step')": ("local t = {} for i = 1, 1e5 do t[i] = {} end while true do collectgarbage('step', 1000) end", "budget"),
    # Deep in a stack, where all that walks it takes long.
    "15,000 deep, coroutines": (f"{DEEP} while true do coroutine.wrap(function() for i = 1, 9 do end end)() end end f(15000)", "budget"),
    "15,000 deep, tracebacks": (f"{DEEP} while true do debug.traceback() end end f(15000)", "budget"),
    "14,000 __close, in a coroutine": (
        """local meta = {__close = function() while true do end end}
        local function f(n) local x <close> = setmetatable({}, meta) if n > 0 then f(n - 1) end while true do end end
        coroutine.wrap(f)(14000)""", "budget"),
    # Refused. The second recursion, and those after it, find memory that the first has left scattered.
    "recursion": (RECURSION, "overflow"),
    "recursion, again": (RECURSION, "overflow"),
    "recursion, for the third time": (RECURSION, "overflow"),
    "__gc": ("setmetatable({}, {__gc = function() while true do end end}) collectgarbage()", "__gc is not there"),
    "error with a looping __tostring": (
        "error(setmetatable({}, {__tostring = function() while true do end end}))", "budget"),
    # Long calls of C functions.
    "find, 30 times a*": ("string.find(('a'):rep(30), ('a*'):rep(30) .. 'b')", "budget"),
    "find, .-.-b": ("string.find(('x'):rep(20000), '.-.-b')", "budget"),
    "find, .-.-b, in pcall for ever": ("while true do pcall(string.find, ('x'):rep(20000), '.-.-b') end", "budget"),
    "match, a back reference": ("string.match(('x'):rep(20000), '(.*).*%1y')", "budget"),
    "gmatch": ("for _ in ('x'):rep(20000):gmatch('.-.-b') do end", "budget"),
    "gsub, (a*)*b": ("string.gsub(('a'):rep(5000000), '(a*)*b', '')", "budget"),
    "gsub, one letter": ("local s = ('x'):rep(5000000) for i = 1, 100 do string.gsub(s, 'x', 'y') end", "budget"),
    "plain find, long needle": ("string.find(('a'):rep(1000000), ('a'):rep(500000) .. 'b', 1, true)", "budget"),
    "%f frontier": ("string.find(('x'):rep(20000), '.-%f[%w].-y')", "budget"),
    "%b in a loop": ("string.find(('('):rep(100000), '%b()')", "budget"),
    "rep, 50 MB of one byte": ("while true do pcall(string.rep, 'x', 50000000) end", "budget"),
    "lower, 12 MB": ("local s = ('X'):rep(12000000) while true do s:lower() end", "budget"),
    "reverse, 12 MB": ("local s = ('x'):rep(12000000) while true do s:reverse() end", "budget"),
    "utf8.len, 30 MB": ("local s = ('x'):rep(30000000) while true do utf8.len(s) end", "budget"),
    "utf8.offset, 30 MB": ("local s = ('x'):rep(30000000) while true do utf8.offset(s, 29999999) end", "budget"),
    "comparing zero bytes": ("local s = ('\\0'):rep(25000000) local t = s .. 'x' while true do local b = s < t end", "budget"),
    "string.format": ("while true do pcall(string.format, ('%%'):rep(1000000)) end", "budget"),
    "string.pack": ("while true do pcall(string.pack, ('x'):rep(1000000)) end", "budget"),
    "string.byte, unpack": ("local s = ('x'):rep(65536) while true do pcall(string.byte, s, 1, -1) end", "budget"),
    "os.date": ("os.date(('%c'):rep(2000000))", "budget"),
    "table.concat": ("local t = {} for i = 1, 500000 do t[i] = 'x' end while true do table.concat(t) end", "budget"),
    "table.sort of numbers": (
        "local t = {} for i = 1, 400000 do t[i] = i * 7919 % 400009 end while true do table.sort(t) t[1] = 1e9 end", "budget"),
    "table.move to maxinteger": ("table.move({}, 1, math.maxinteger - 1, 2)", "budget"),
    "table.move, __index, __newindex": (
        "local t = setmetatable({}, {__index = {}, __newindex = {}}) table.move(t, 1, 1 << 40, 2)", "budget"),
    "table.remove, fake __len": ("table.remove(setmetatable({}, {__len = function() return 1 << 31 end}), 1)", "budget"),
    "table.insert, fake __len": ("table.insert(setmetatable({}, {__len = function() return 1 << 31 end}), 1, 1)", "budget"),
    "table.concat, fake __len": (
        "table.concat(setmetatable({}, {__len = function() return 1 << 40 end, __index = function() return '' end}))", "budget"),
    "table.unpack, fake __len": (
        "table.unpack(setmetatable({}, {__len = function() return 1 << 30 end}))", "too many results to unpack"),
    "load, 20 MB": ("load(('x = 1 '):rep(3400000))", "budget"),
    "load, one string of 8 MB": ("while true do load('return \"' .. ('x'):rep(8000000) .. '\"') end", "budget"),
    "portico.codec": ("local s, c = ('x'):rep(15000000), require 'portico.codec' while true do c.sha1(s) end", "budget"),
    # Memory.
    "rep, 10^9, in pcall": ("while true do pcall(string.rep, 'x', 10^9 // 1 | 0) end", "memory"),
    "rep, 10^9, in coroutines": (
        "while true do coroutine.resume(coroutine.create(function() string.rep('x', 1000000000) end)) end", "memory"),
    "concat, in pcall": ("local s = 'x' while true do pcall(function() while true do s = s .. s end end) end", "memory"),
    "table, in pcall": (
        "while true do pcall(function() local t = {} while true do t[#t + 1] = ('x'):rep(1 << 20) end end) end", "either"),
    # What stays: the last.
    "_G.__index": ("setmetatable(_G, {__index = function() while true do end end}) nowhere()", "budget"),
}


@pytest.mark.packets("both")
@pytest.mark.budget
def test_runaways_are_ended_and_others_are_served(server):
    let_loose(server, RUNAWAYS)


@pytest.mark.budget
@pytest.mark.no_wine("how often a thread waits is read from /proc")
def test_the_watchdog_sleeps_while_nothing_runs_and_is_roused(server):
    one = server("return { on_message = function() while true do end end }", "--workers", "1", "--callback-budget", "0.1")

    def sleeps():
        before = one.thread_waits("watchdog")
        dawdle(0.5, "what is counted is per time: 50 while it watches, 2 while it sleeps")
        return one.thread_waits("watchdog") - before <= 5

    for _ in range(2):
        until(sleeps, what="the watchdog's sleep")
        with one.connect(seconds=60) as client:
            spent = one.thread_seconds("worker 0")
            client.send("x")
            assert client.is_over()
            assert one.thread_seconds("worker 0") - spent < 0.1 + 0.25 + 0.1 * Settings.patience
    one.wait_log("callback budget of 0.1 s exceeded", 2)


def test_buffers_near_the_cap_collect_garbage_first(server):
    """string.rep asks for its buffer by a way that, in Lua, does not collect."""
    one = server("""return { on_message = function(conn, data)
      local s = ("x"):rep(4 << 20)
      for i = 1, 20 do
        local twice = s .. i .. s
        twice = nil
        local t = ("x"):rep(5 << 20)
      end
      return "fine"
    end }""", "--workers", "1", "--lua-memory", "16M")
    with one.connect() as client:
        assert client.send("x").take(4) == b"fine"


@pytest.mark.budget
@pytest.mark.no_wine("there is no HUP")
def test_a_new_version_that_hangs_in_c_is_refused_at_the_load_budget(server):
    one = server(ECHO, "--workers", "1", "--load-budget", "0.3")
    one.script_path("string.find(('x'):rep(20000), '.-.-b') " + ECHO)
    with one.connect(seconds=60) as client:
        assert client.ask("x") == b"x"
        one.signal(signal.SIGHUP)
        one.wait_log("load budget of 0.3 s exceeded")
        one.wait_log("reload refused, generation 1 .* serves on")
        assert client.ask("y") == b"y"


@pytest.mark.packets("both")
def test_a_deep_stack_has_a_short_traceback_and_room_for_each_byte_of_a_message(server):
    one = server("""
    local function deeper(n) if n == 0 then error("the bottom") end deeper(n - 1) end
    return { on_message = function(conn, data)
      if #data == 4 then deeper(5000) end
      return tostring(select("#", string.byte(("x"):rep(65536), 1, -1)))
    end }""", "--workers", "1")
    with one.connect() as client:
        assert client.send("x").take(5) == b"65536"
        assert client.send("deep").is_over()
    one.wait_log(r"script\.lua:\d+: the bottom")
    one.wait_log(r"skipping 977 levels")
    one.wait_log(r"more than 1000 levels")


CROWDS = {
    "spawned": "portico.spawn(forever)",
    "timers": "portico.after(0, forever)",
    "messages": "portico.publish('crowd', 1)",
    "tasks out of memory": "portico.spawn(fill)",
}


@pytest.mark.budget
@pytest.mark.parametrize("way", CROWDS)
def test_a_crowd_of_runaways_lets_others_be_served_in_between(server, way):
    """Each has its budget, and they may be many: what another connection asks is answered between two of them."""
    one = server("""local begun = 0
      local function forever() begun = begun + 1 while true do end end
      local function fill() begun = begun + 1 local t = {} while true do t[#t + 1] = ('x'):rep(1 << 20) end end
      portico.subscribe("crowd", forever)
      return { on_message = function(conn, data)
        if data == "go" then for _ = 1, 30 do WAY end end
        return string.format("%4d", begun)
      end }""".replace("WAY", CROWDS[way]), "--workers", "1", "--callback-budget", "0.05", "--lua-memory", "16M")
    with one.connect() as bad, one.connect() as good:
        assert good.send("?").take(4) == b"   0"
        assert bad.send("go").take(4) == b"   0"
        for _ in range(5):
            answer = int(good.send("?").take(4))
        assert answer < 20, "of 30, when five questions had been answered one after the other"
        until(lambda: int(good.send("?").take(4)) == 30, 60, "the end of all")
