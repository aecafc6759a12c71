-- api.lua - an input is calls: of which function of `portico` or method of an object, with which arguments, of types and numbers
-- that fit or do not, on objects that are alive or over. Each may raise, and nothing else may happen. INPUT is the input;
-- sim_target.c runs this over the simulated kernel, whose oracles look on.

local pos = 1

local function byte()
  local b = INPUT:byte(pos)
  pos = pos + 1
  return b or 0
end

local TEXTS <const> = { "", "x", "hello\n", "5:hello,", "a\0b", "*", "n", "m", "l", "line", "netstring", "raw", "length", "lent", "posted", "ready", "big",
  "name", "left", "127.0.0.1:7000", "tcp://10.0.0.1:9001", "nowhere.sim:1", "two.sim:9002", "udp://127.0.0.1:0", "unix:/nowhere/x", "10.0.0.1:99999",
  ("y"):rep(200):rep(100) }
local NUMBERS <const> = { 0, 1, 2, 3, -1, 7, 100, 65536, 1 << 31, 1 << 32, 1 << 53, math.maxinteger, math.mininteger, 0.0, 0.001, 0.5, -0.5, 1.5, 1e9, 1e10, 1e308,
  math.huge, -math.huge, 0 / 0 }
local KEYS <const> = { "timeout", "frame", "max", "type", "size", "endian", "offset", "adjust", "strip", "sep", "keep", "decode", "encode", "header", "body", "pool", "idle",
  "first_byte", "write", "send_high", "send_low", "send_max", "message", "nodelay", "keepalive", "half_open", "receive", "first", "name", "on_message",
  "on_close", "on_connect", "on_eof", "except", "limits", "group", "listen", "broadcast", "to", "n" }
local METHODS <const> = { "send", "write", "recv", "pause", "resume", "shutdown", "close", "abort", "release", "set", "read", "read_until", "lines", "messages", "peek",
  "unread", "pipe", "flush", "join", "cancel", "status", "len", "acquire", "free", "get", "add", "incr", "cas", "delete", "ttl", "expire", "push", "pop", "keys",
  "count" }
local FIELDS <const> = { "id", "peer", "addr", "listener", "state", "stats", "generation", "no such field" }

-- What calls have returned, newest first: alive or not.
local objects = {}
local function keep(...)
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    if type(value) == "userdata" or type(value) == "function" or type(value) == "thread" then
      table.insert(objects, 1, value)
      objects[24] = nil
    end
  end
  return ...
end

local act

local FUNCTIONS <const> = {
  function(...) return ... end,
  function(...) keep(...) act() end,
  function() error("on purpose") end,
  function() error() end,
  function() portico.sleep(0.01) return 1 end,
  function(...) coroutine.yield(...) end,
  function() return -1, 1 << 40, {} end,
  print, coroutine.wrap(function() portico.sleep(1) end),
}

local function value(level)
  local kind = byte() % 16
  if kind == 0 then return nil
  elseif kind == 1 then return byte() % 2 == 0
  elseif kind <= 4 then return NUMBERS[byte() % #NUMBERS + 1]
  elseif kind <= 7 then return TEXTS[byte() % #TEXTS + 1]
  elseif kind <= 9 then return FUNCTIONS[byte() % #FUNCTIONS + 1]
  elseif kind == 10 then return byte()
  elseif kind == 11 then return coroutine.create(FUNCTIONS[byte() % #FUNCTIONS + 1])
  elseif kind == 12 and level < 4 then
    local t = {}
    for i = 1, byte() % 5 do
      local key = byte() % 4 == 0 and i or KEYS[byte() % #KEYS + 1]
      t[key] = value(level + 1)
    end
    return t
  elseif kind == 13 then return setmetatable({}, { __index = error, __len = error, __tostring = error, __name = "odd" })
  end
  return objects[byte() % (#objects + 1)]
end

local function arguments()
  local list = { n = byte() % 5 }
  for i = 1, list.n do
    list[i] = value(0)
  end
  return list
end

-- All functions of `portico`, in one order.
local functions = {}
local function collect(t)
  local names = {}
  for name in pairs(t) do
    names[#names + 1] = tostring(name)
  end
  table.sort(names)
  for _, name in ipairs(names) do
    if type(t[name]) == "function" then
      functions[#functions + 1] = t[name]
    elseif type(t[name]) == "table" then
      collect(t[name])
    end
  end
end
collect(portico)

local function call(f, ...)
  if f == portico.shutdown and byte() ~= 77 then -- there would be little left to do
    return
  elseif f == portico.reload and portico.generation > 1 then -- each generation reads INPUT from its beginning: there would be no end
    return
  end
  return keep(f(...))
end

-- Does what the next bytes say, as long as there are some.
function act()
  for _ = 1, 1 + byte() % 8 do
    if pos > #INPUT then
      return
    end
    local kind, object = byte() % 8, objects[1 + byte() % math.max(1, #objects)]
    if kind < 3 then
      local list = arguments()
      pcall(call, functions[byte() % #functions + 1], table.unpack(list, 1, list.n))
    elseif kind < 6 then
      local list, name = arguments(), METHODS[byte() % #METHODS + 1]
      local known, method = pcall(function() return object[name] end)
      if known and type(method) == "function" then
        if byte() % 8 > 0 then
          pcall(call, method, object, table.unpack(list, 1, list.n))
        else -- without the object
          pcall(call, method, table.unpack(list, 1, list.n))
        end
      end
    elseif kind == 6 then
      local name, new = FIELDS[byte() % #FIELDS + 1], value(0)
      pcall(function() return object[name], tostring(object), #object end)
      pcall(function() object[name] = new end)
    else
      pcall(FUNCTIONS[byte() % #FUNCTIONS + 1])
      if byte() % 16 == 0 then
        collectgarbage()
      end
    end
  end
end

local script = { workers = nil }
local function handler(name)
  script[name] = function(...)
    keep(...)
    act()
    if name == "on_message" and byte() % 2 == 0 then
      return select(2, ...)
    end
  end
end
local READERS <const> = { "on_message", "on_stream", "on_readable" }
local set = byte()
handler(READERS[set % 3 + 1])
for i, name in ipairs { "on_connect", "on_eof", "on_drain", "on_close", "on_error", "on_load", "on_unload" } do
  if set >> i & 1 == 1 then
    handler(name)
  end
end
act()
return script
