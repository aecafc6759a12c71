-- kv.lua - a key-value store that Redis's clients take for Redis: strings, counters, lists, hashes, expiry, MULTI, publish
-- and subscribe. What is stored lives in the memory of one worker, up to --lua-memory, and ends with it.
--
--   portico --workers 1 --listen tcp://127.0.0.1:6379 scripts/kv.lua
--   redis-cli set greeting hello

local resp = require "portico.resp"

local OK <const>, QUEUED <const> = { ok = "OK" }, { ok = "QUEUED" }
local values = {} -- by key: a string, { kind = "list", first =, last =, [i] = … } or { kind = "hash", count =, map = … }
local deadlines = {} -- of keys that expire, as portico.now()
local channels = {} -- by name: the connections that have subscribed to it, as a set
local commands = {} -- by name: f(conn, args, state)

local function refuse(text, ...) return { err = "ERR " .. text:format(...) } end

local function put(key, value) values[key], deadlines[key] = value, nil end

local function find(key)
  if deadlines[key] and deadlines[key] <= portico.now() then put(key, nil) end
  return values[key]
end

local function integer(text) return text and text:find("^[+-]?%d+$") and math.tointeger(tonumber(text)) end

-- A command of least to most words behind its name. With a kind, the first word is a key of that kind, and f is called with what
-- is stored there, or nil, and all the words; without one with the connection, the words as a table, and conn.state.
local function define(name, kind, least, most, f)
  commands[name] = function(conn, args, state)
    if #args - 1 < least or #args - 1 > most then
      return refuse("wrong number of arguments for '%s' command", name:lower())
    elseif state.queue and name ~= "EXEC" and name ~= "DISCARD" and name ~= "MULTI" then
      state.queue[#state.queue + 1] = args
      return QUEUED
    elseif not kind then
      return f(conn, args, state)
    end
    local value = find(args[2])
    if value and kind ~= "any" and (type(value) == "string" and "string" or value.kind) ~= kind then
      return { err = "WRONGTYPE Operation against a key holding the wrong kind of value" }
    end
    return f(value, table.unpack(args, 2))
  end
end

-- ---- Strings ------------------------------------------------------------------------------------

local function add(value, key, amount)
  local number = integer(value or "0")
  if not number or not amount then return refuse "value is not an integer or out of range" end
  if (number + amount < number) ~= (amount < 0) then return refuse "increment or decrement would overflow" end
  values[key] = tostring(number + amount)
  return number + amount
end

define("GET", "string", 1, 1, function(value) return value end)
define("STRLEN", "string", 1, 1, function(value) return #(value or "") end)
define("INCR", "string", 1, 1, function(value, key) return add(value, key, 1) end)
define("DECR", "string", 1, 1, function(value, key) return add(value, key, -1) end)
define("INCRBY", "string", 2, 2, function(value, key, amount) return add(value, key, integer(amount)) end)
define("APPEND", "string", 2, 2, function(value, key, more)
  values[key] = (value or "") .. more
  return #values[key]
end)
define("SET", "any", 2, 5, function(old, key, value, ...)
  local words, deadline, i = { ... }, nil, 1
  while words[i] do
    local word = words[i]:upper()
    if word == "EX" or word == "PX" then
      i = i + 1
      local time = integer(words[i])
      if not time or time <= 0 then return refuse "invalid expire time in 'set' command" end
      deadline = portico.now() + time / (word == "EX" and 1 or 1000)
    elseif word ~= "NX" and word ~= "XX" then
      return refuse "syntax error"
    elseif (word == "NX") == (old ~= nil) then
      return nil
    end
    i = i + 1
  end
  values[key], deadlines[key] = value, deadline
  return OK
end)
define("MSET", nil, 2, math.huge, function(_, args)
  if #args % 2 == 0 then return refuse "wrong number of arguments for 'mset' command" end
  for i = 2, #args, 2 do put(args[i], args[i + 1]) end
  return OK
end)
define("MGET", nil, 1, math.huge, function(_, args)
  local found = { n = #args - 1 }
  for i = 1, found.n do
    local value = find(args[i + 1])
    found[i] = type(value) == "string" and value or nil
  end
  return found
end)

-- ---- Keys ---------------------------------------------------------------------------------------

local function count_keys(args, take)
  local count = 0
  for i = 2, #args do
    if find(args[i]) then
      count = count + 1
      if take then put(args[i], nil) end
    end
  end
  return count
end

define("EXISTS", nil, 1, math.huge, function(_, args) return count_keys(args, false) end)
define("DEL", nil, 1, math.huge, function(_, args) return count_keys(args, true) end)
define("TYPE", "any", 1, 1, function(value)
  return { ok = type(value) == "table" and value.kind or value and "string" or "none" }
end)
define("EXPIRE", "any", 2, 2, function(value, key, seconds)
  seconds = integer(seconds)
  if not seconds then return refuse "value is not an integer or out of range" end
  if value then deadlines[key] = portico.now() + seconds end
  return value and 1 or 0
end)
define("TTL", "any", 1, 1, function(value, key)
  return deadlines[key] and math.ceil(deadlines[key] - portico.now()) or value and -1 or -2
end)
define("PERSIST", "any", 1, 1, function(_, key)
  local had = deadlines[key]
  deadlines[key] = nil
  return had and 1 or 0
end)
define("DBSIZE", nil, 0, 0, function()
  local count = 0
  for key in pairs(values) do count = count + (find(key) and 1 or 0) end
  return count
end)
define("KEYS", nil, 1, 1, function(_, args) -- of globs, * and ? are known
  local pattern, keys = args[2]:gsub("[%^%$%(%)%%%.%[%]%+%-]", "%%%0"):gsub("%*+", ".*"):gsub("%?", "."), {}
  for key in pairs(values) do
    if find(key) and key:find("^" .. pattern .. "$") then keys[#keys + 1] = key end
  end
  return keys
end)
define("FLUSHALL", nil, 0, 1, function()
  values, deadlines = {}, {}
  return OK
end)

-- ---- Lists and hashes ---------------------------------------------------------------------------

local function push(step)
  return function(list, key, ...)
    if not list then
      list = { kind = "list", first = 1, last = 0 }
      put(key, list)
    end
    local side = step > 0 and "last" or "first"
    for _, value in ipairs { ... } do
      list[side] = list[side] + step
      list[list[side]] = value
    end
    return list.last - list.first + 1
  end
end

local function pop(side, step)
  return function(list, key)
    if not list then return nil end
    local index = list[side]
    local value = list[index]
    list[index], list[side] = nil, index + step
    if list.first > list.last then put(key, nil) end
    return value
  end
end

define("RPUSH", "list", 2, math.huge, push(1))
define("LPUSH", "list", 2, math.huge, push(-1))
define("RPOP", "list", 1, 1, pop("last", -1))
define("LPOP", "list", 1, 1, pop("first", 1))
define("LLEN", "list", 1, 1, function(list) return list and list.last - list.first + 1 or 0 end)
define("LRANGE", "list", 3, 3, function(list, _, from, to)
  from, to = integer(from), integer(to)
  if not from or not to then return refuse "value is not an integer or out of range" end
  local count = list and list.last - list.first + 1 or 0
  from = math.max(from < 0 and from + count or from, 0)
  to = math.min(to < 0 and to + count or to, count - 1)
  return from > to and {} or table.move(list, list.first + from, list.first + to, 1, {})
end)

define("HSET", "hash", 3, math.huge, function(hash, key, ...)
  local words, added = { ... }, 0
  if #words % 2 == 1 then return refuse "wrong number of arguments for 'hset' command" end
  if not hash then
    hash = { kind = "hash", count = 0, map = {} }
    put(key, hash)
  end
  for i = 1, #words, 2 do
    added = added + (hash.map[words[i]] and 0 or 1)
    hash.map[words[i]] = words[i + 1]
  end
  hash.count = hash.count + added
  return added
end)
define("HDEL", "hash", 2, math.huge, function(hash, key, ...)
  local removed = 0
  for _, field in ipairs(hash and { ... } or {}) do
    removed = removed + (hash.map[field] and 1 or 0)
    hash.map[field] = nil
  end
  if hash then
    hash.count = hash.count - removed
    if hash.count == 0 then put(key, nil) end
  end
  return removed
end)
define("HGET", "hash", 2, 2, function(hash, _, field) return hash and hash.map[field] end)
define("HLEN", "hash", 1, 1, function(hash) return hash and hash.count or 0 end)
define("HGETALL", "hash", 1, 1, function(hash) return { map = hash and hash.map or {} } end)

-- ---- MULTI, publish and subscribe, and what clients ask for at the start ---------------------------

define("MULTI", nil, 0, 0, function(_, _, state)
  if state.queue then return refuse "MULTI calls can not be nested" end
  state.queue = {}
  return OK
end)
define("DISCARD", nil, 0, 0, function(_, _, state)
  if not state.queue then return refuse "DISCARD without MULTI" end
  state.queue = nil
  return OK
end)
define("EXEC", nil, 0, 0, function(conn, _, state)
  local queue = state.queue
  if not queue then return refuse "EXEC without MULTI" end
  state.queue = nil
  local replies = { n = #queue }
  for i, args in ipairs(queue) do replies[i] = commands[args[1]:upper()](conn, args, state) end
  return replies
end)

local function unsubscribe(conn, name)
  local set = channels[name]
  if not set then return end
  set[conn] = nil
  if not next(set) then channels[name] = nil end
end

-- What SUBSCRIBE and UNSUBSCRIBE have in common: each channel has a reply of its own.
local function subscription(kind, change)
  return function(conn, args, state)
    local subscribed = state.subscribed or {}
    state.subscribed = subscribed
    local names = table.move(args, 2, #args, 1, {})
    if #args == 1 then
      for name in pairs(subscribed) do names[#names + 1] = name end
    end
    for _, name in ipairs(names) do
      change(conn, name, subscribed)
      local count = 0
      for _ in pairs(subscribed) do count = count + 1 end
      conn:send(resp.encode({ push = { kind, name, count } }, state.protocol))
    end
    return resp.NO_REPLY
  end
end

define("SUBSCRIBE", nil, 1, math.huge, subscription("subscribe", function(conn, name, subscribed)
  subscribed[name] = true
  channels[name] = channels[name] or {}
  channels[name][conn] = true
end))
define("UNSUBSCRIBE", nil, 0, math.huge, subscription("unsubscribe", function(conn, name, subscribed)
  subscribed[name] = nil
  unsubscribe(conn, name)
end))
define("PUBLISH", nil, 2, 2, function(_, args)
  local count = 0
  for conn in pairs(channels[args[2]] or {}) do
    conn:send(resp.encode({ push = { "message", args[2], args[3] } }, conn.state.protocol))
    count = count + 1
  end
  return count
end)

define("PING", nil, 0, 1, function(_, args) return args[2] or { ok = "PONG" } end)
define("ECHO", nil, 1, 1, function(_, args) return args[2] end)
define("SELECT", nil, 1, 1, function(_, args) return args[2] == "0" and OK or refuse "DB index is out of range" end)
define("COMMAND", nil, 0, math.huge, function() return {} end)
define("CONFIG", nil, 1, math.huge, function(_, args)
  return args[2]:upper() == "GET" and args[3] and { map = { [args[3]] = "" } } or refuse "there is nothing to configure"
end)
define("CLIENT", nil, 1, math.huge, function() return OK end)

portico.every(1, function() -- who is not asked for expires, too
  for key in pairs(deadlines) do find(key) end
end)

return resp.server {
  commands = commands,
  on_close = function(conn)
    for name in pairs(conn.state.subscribed or {}) do unsubscribe(conn, name) end
  end,
}
