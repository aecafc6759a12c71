"""Every function of Lua's libraries and of portico.codec, again and again with arguments as large as memory allows: none holds a worker
up for long behind its budget. A function that is new must be put to one of the lists."""

import pytest

from rig import Settings
from runaways import let_loose

# What takes the same time whatever it is given, or only as long as the functions that it calls.
CONSTANT = {
    "_G": "collectgarbage dofile getmetatable ipairs loadfile next pairs pcall rawequal rawget rawlen rawset setmetatable type xpcall",
    "coroutine": "create isyieldable resume running status wrap yield",
    "debug": "getinfo",
    "math": "abs acos asin atan ceil cos deg exp floor fmod log modf rad random randomseed sin sqrt tan tointeger type ult",
    "os": "clock difftime exit",
    "portico.codec": "random",
    "string": "len",
}

# Function, "," and more if it has several rows -> what comes before, the call.
CALLS = {
    "assert": ("local s = ('x'):rep(12000000)", "assert(false, s)"),
    "error": ("local s = ('x'):rep(12000000)", "error(s .. 'y', 2)"),
    "load": ("local s = '--' .. ('x'):rep(12000000)", "load(s)"),
    "load, its name": ("local s = ('x'):rep(12000000)", "load('error()', s)"),
    "load, a number": ("local s = 'return ' .. ('1'):rep(8000000)", "load(s)"),
    "print": ("local s = ('x'):rep(12000000)", "print(s)"),
    "require": ("local s = ('.'):rep(300000)", "require(s)"),
    "select": ("local t = {} for i = 1, 65536 do t[i] = i end", "select(-1, table.unpack(t))"),
    "tonumber": ("local s = '0x' .. ('f'):rep(20000000)", "tonumber(s)"),
    "tonumber, zeros": ("local s = ('0'):rep(20000000)", "tonumber(s)"),
    "tonumber, a fraction": ("local s = '.' .. ('1'):rep(20000000)", "tonumber(s)"),
    "tonumber, with a base": ("local s = ('z'):rep(20000000)", "tonumber(s, 36)"),
    "tostring": ("local s = ('x'):rep(12000000) local t = setmetatable({}, {__tostring = function() return s .. 'y' end})", "tostring(t)"),
    "warn": ("local s = ('x'):rep(12000000)", "warn(s)"),
    "coroutine.close": (
        "", """local co = coroutine.create(function()
            local function f(n) local x <close> = setmetatable({}, {__close = type}) if n > 0 then f(n - 1) end coroutine.yield() end
            f(12000) end)
        coroutine.resume(co) coroutine.close(co)"""),
    "debug.traceback": ("local s = ('x'):rep(12000000)", "debug.traceback(s)"),
    "debug.traceback, deep": ("", "local function f(n) if n == 0 then return debug.traceback() end return (f(n - 1)) end f(15000)"),
    "math.max": ("local t = {} for i = 1, 65536 do t[i] = i end", "math.max(table.unpack(t))"),
    "math.min": ("local t = {} for i = 1, 65536 do t[i] = i end", "math.min(table.unpack(t))"),
    "os.date": ("local s = ('x'):rep(8000000)", "os.date(s)"),
    "os.date, %c": ("local s = ('%c'):rep(1000000)", "os.date(s)"),
    "os.getenv": ("local s = ('x'):rep(12000000)", "os.getenv(s)"),
    "os.remove": ("local s = ('x'):rep(12000000)", "os.remove(s)"),
    "os.rename": ("local s = ('x'):rep(12000000)", "os.rename(s, s)"),
    "os.time": ("local t = {year = ('0'):rep(20000000) .. '1', month = 1, day = 1}", "os.time(t)"),
    "portico.codec.base64": ("local s = ('x'):rep(10000000)", "codec.base64(s)"),
    "portico.codec.mask": ("local s = ('x'):rep(12000000)", "codec.mask(s, 'abcd')"),
    "portico.codec.sha1": ("local s = ('x'):rep(12000000)", "codec.sha1(s)"),
    "portico.codec.unbase64": ("local s = ('AAAA'):rep(3000000)", "codec.unbase64(s)"),
    "string.byte": ("local s = ('x'):rep(65536)", "s:byte(1, -1)"),
    "string.char": ("local t = {} for i = 1, 65536 do t[i] = 65 end", "string.char(table.unpack(t))"),
    "string.find": ("local s = ('xz'):rep(10000000)", "s:find('xy', 1, true)"),
    "string.find, a long pattern": ("local s = ('x'):rep(12000000) local p = '^' .. ('x'):rep(8000000)", "s:find(p)"),
    "string.format": ("local s = ('%%'):rep(6000000)", "string.format(s)"),
    "string.format, %s": ("local s = ('x'):rep(12000000)", "string.format('%s', s)"),
    "string.format, %q": ("local s = ('\\n'):rep(6000000)", "string.format('%q', s)"),
    "string.gmatch": ("local s = ('x'):rep(12000000)", "s:gmatch('.-.-b')()"),
    "string.gsub": ("local s = ('x'):rep(8000000)", "s:gsub('x', '%0')"),
    "string.lower": ("local s = ('X'):rep(12000000)", "s:lower()"),
    "string.match": ("local s = ('x'):rep(12000000)", "s:match('.-()y')"),
    "string.pack": ("local s = ('x'):rep(12000000)", "string.pack('s4', s)"),
    "string.pack, a long format": ("local s = ('!1'):rep(10000000)", "string.pack(s)"),
    "string.packsize": ("local s = ('b'):rep(20000000)", "string.packsize(s)"),
    "string.rep": ("", "('x'):rep(15000000)"),
    "string.rep, long pieces": ("local s = ('x'):rep(1000000)", "s:rep(15)"),
    "string.reverse": ("local s = ('x'):rep(12000000)", "s:reverse()"),
    "string.sub": ("local s = ('x'):rep(20000000)", "local t = s:sub(2)"),
    "string.unpack": ("local s = ('x'):rep(12000000) .. '\\0'", "string.unpack('z', s)"),
    "string.unpack, a long format": ("local s = ('!1'):rep(10000000)", "string.unpack(s, '')"),
    "string.upper": ("local s = ('x'):rep(12000000)", "s:upper()"),
    "table.concat": ("local t = {} for i = 1, 1000000 do t[i] = 'xx' end", "table.concat(t)"),
    "table.insert": ("local t = {} for i = 1, 1000000 do t[i] = i end", "table.insert(t, 1, 1)"),
    "table.move": ("local t = {} for i = 1, 1000000 do t[i] = i end", "table.move(t, 1, 1000000, 2)"),
    "table.pack": ("local t = {} for i = 1, 65536 do t[i] = i end", "table.pack(table.unpack(t))"),
    "table.remove": ("local t = {} for i = 1, 1000000 do t[i] = i end", "table.remove(t, 1) t[#t + 1] = 1"),
    "table.sort": ("local t = {} for i = 1, 400000 do t[i] = i * 7919 % 400009 end", "table.sort(t) t[1] = 1e9"),
    "table.unpack": ("local t = {} for i = 1, 65536 do t[i] = i end", "table.unpack(t)"),
    "utf8.char": ("local t = {} for i = 1, 65536 do t[i] = 0x10ffff end", "utf8.char(table.unpack(t))"),
    "utf8.codepoint": ("local s = ('x'):rep(65536)", "utf8.codepoint(s, 1, -1)"),
    "utf8.codes": ("local s = ('x'):rep(20000000)", "for _ in utf8.codes(s) do end"),
    "utf8.len": ("local s = ('x'):rep(30000000)", "utf8.len(s)"),
    "utf8.offset": ("local s = ('\\x80'):rep(30000000)", "utf8.offset(s, 0, 30000000)"),
    # No functions.
    "concatenation": ("local s = ('x'):rep(12000000)", "local t = s .. s"),
    "comparison": ("local s = ('x'):rep(8000000) local t, u = s .. 'x', s .. 'y'", "local v = t < u or t == u"),
    "arithmetic": ("local s = '0x' .. ('f'):rep(20000000)", "return s + 1"),
    "a key": ("local s = ('x'):rep(12000000)", "local t = {[s .. 'y'] = 1}"),
    "a key, old": ("local t = {} for i = 1, 500000 do t[i + 0.5] = i end for k in pairs(t) do t[k] = nil end", "next(t)"),
    "a new key": ("", "local t = {} for i = 1, 600000 do t[i] = i end"),
    "conn.state": ("local t = {} for i = 1, 200000 do t[i] = {} end", "conn.state = t"),
    "conn:send": ("local s = ('x'):rep(12000000)", "conn:send(s)"),
    "portico.log": ("local s = ('\\n'):rep(12000000)", "portico.log.info(s)"),
    "portico.publish": ("local t = {} for i = 1, 200000 do t[i] = {} end", "portico.publish('topic', t)"),
    "portico.shared": ("local d, s = portico.shared('d'), ('x'):rep(12000000)", "d:set('k', s) d:get('k')"),
    "portico.shared, keys": ("local d = portico.shared('d') for i = 1, 30000 do d:set('k' .. i, i) end", "d:keys('', 30000)"),
}

NAMES = """
local codec = require "portico.codec"
return { on_message = function(conn)
  local names = {}
  for _, library in ipairs { "_G", "coroutine", "debug", "math", "os", "portico.codec", "string", "table", "utf8" } do
    for name, f in pairs(library == "portico.codec" and codec or _G[library]) do
      if type(f) == "function" then names[#names + 1] = (library == "_G" and "" or library .. ".") .. name end
    end
  end
  return table.concat(names, " ") .. "\\n"
end }
"""


def test_the_lists_are_complete(server):
    constant = {name if library == "_G" else f"{library}.{name}" for library, names in CONSTANT.items() for name in names.split()}
    called = {row.split(",")[0] for row in CALLS}
    one = server(NAMES, "--workers", "1")
    with one.connect() as client:
        client.send("x")
        text = b""
        while not text.endswith(b"\n"):
            text += client.take(1)
        names = set(text.decode().split())
    assert names > constant and not constant & called
    assert names - constant - called == set()


@pytest.mark.budget
def test_each_call_is_ended(server):
    if Settings.backend == "io_uring":
        pytest.skip("the backend makes no difference here: tried with epoll")
    rows = {}
    for name, (before, call) in CALLS.items():
        rows[name] = (f"local codec = require 'portico.codec' {before} while true do pcall(function() {call} end) end", "budget")
    let_loose(server, rows, 0.05)
