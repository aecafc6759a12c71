-- kv.lua - a key-value store that Redis's clients take for Redis: strings, counters, lists, hashes, expiry,
-- MULTI, publish and subscribe. What is stored lives in the memory of one worker, up to --lua-memory, and
-- ends with this version of the script: what has to outlive a reload belongs into portico.shared.
--
--   portico --workers 1 --listen tcp://127.0.0.1:6379 scripts/kv.lua
--   redis-cli set greeting hello

local resp = require "portico.resp"

local OK <const>, QUEUED <const> = { ok = "OK" }, { ok = "QUEUED" }
local WRONG_TYPE <const> = { err = "WRONGTYPE Operation against a key holding the wrong kind of value" }
local ANY <const>, MANY <const> = "any", math.huge

local values = {} -- by key: a string, { kind = "list", first =, last =, [i] = … } or { kind = "hash", count =, map = … }
local deadlines = {} -- of keys that expire, as portico.now()
local channels = {} -- by name: the connections that have subscribed to it, as a set
local commands = {} -- by name: f(conn, args, state)

local function refuse(text) return { err = "ERR " .. text } end
local function wrong_number(name) return refuse("wrong number of arguments for '" .. name:lower() .. "' command") end
local NOT_INTEGER <const> = refuse("value is not an integer or out of range")

local function put(key, value) values[key], deadlines[key] = value, nil end

local function find(key)
  local deadline = deadlines[key]
  if deadline and deadline <= portico.now() then put(key, nil) end
  return values[key]
end

local function integer(text) return text and text:find("^[+-]?%d+$") and math.tointeger(tonumber(text)) end

-- A command of least to most words behind its name. With a kind, args[2] is a key of that kind, and f(value,
-- args) gets what is stored there, or nil; without one f(conn, args, state) is called.
local function define(name, kind, least, most, f)
  commands[name] = function(conn, args, state)
    local count = #args - 1
    if count < least or count > most then
      return wrong_number(name)
    elseif state.queue and name ~= "EXEC" and name ~= "DISCARD" and name ~= "MULTI" then
      state.queue[#state.queue + 1] = args
      return QUEUED
    elseif not kind then
      return f(conn, args, state)
    end
    local value = find(args[2])
    if value and kind ~= ANY and (type(value) == "string" and "string" or value.kind) ~= kind then return WRONG_TYPE end
    return f(value, args)
  end
end

-- ---- Strings ------------------------------------------------------------------------------------

local function add(value, key, amount)
  local number = integer(value or "0")
  if not number or not amount then return NOT_INTEGER end
  local sum = number + amount
  if (sum < number) ~= (amount < 0) then return refuse("increment or decrement would overflow") end
  values[key] = tostring(sum) -- it keeps its deadline
  return sum
end

define("GET", "string", 1, 1, function(value) return value end)
define("STRLEN", "string", 1, 1, function(value) return #(value or "") end)
define("INCR", "string", 1, 1, function(value, args) return add(value, args[2], 1) end)
define("DECR", "string", 1, 1, function(value, args) return add(value, args[2], -1) end)
define("INCRBY", "string", 2, 2, function(value, args) return add(value, args[2], integer(args[3])) end)
define("APPEND", "string", 2, 2, function(value, args)
  values[args[2]] = (value or "") .. args[3]
  return #values[args[2]]
end)
define("SET", ANY, 2, 5, function(old, args)
  local deadline, i = nil, 4
  while args[i] do
    local word = args[i]:upper()
    if word == "EX" or word == "PX" then
      i = i + 1
      local time = integer(args[i])
      if not time or time <= 0 then return refuse("invalid expire time in 'set' command") end
      deadline = portico.now() + time / (word == "EX" and 1 or 1000)
    elseif word ~= "NX" and word ~= "XX" then
      return refuse("syntax error")
    elseif (word == "NX") == (old ~= nil) then
      return nil
    end
    i = i + 1
  end
  values[args[2]], deadlines[args[2]] = args[3], deadline
  return OK
end)
define("MSET", nil, 2, MANY, function(_, args)
  if #args % 2 == 0 then return wrong_number("MSET") end
  for i = 2, #args, 2 do put(args[i], args[i + 1]) end
  return OK
end)
define("MGET", nil, 1, MANY, function(_, args)
  local found = { n = #args - 1 }
  for i = 1, found.n do
    local value = find(args[i + 1])
    found[i] = type(value) == "string" and value or nil
  end
  return found
end)

-- ---- Lists and hashes ---------------------------------------------------------------------------

local function push(side, step)
  return function(list, args)
    if not list then
      list = { kind = "list", first = 1, last = 0 }
      put(args[2], list)
    end
    for i = 3, #args do
      list[side] = list[side] + step
      list[list[side]] = args[i]
    end
    return list.last - list.first + 1
  end
end

local function pop(side, step)
  return function(list, args)
    if not list then return nil end
    local index = list[side]
    local value = list[index]
    list[index], list[side] = nil, index + step
    if list.first > list.last then put(args[2], nil) end
    return value
  end
end

define("RPUSH", "list", 2, MANY, push("last", 1))
define("LPUSH", "list", 2, MANY, push("first", -1))
define("RPOP", "list", 1, 1, pop("last", -1))
define("LPOP", "list", 1, 1, pop("first", 1))
define("LLEN", "list", 1, 1, function(list) return list and list.last - list.first + 1 or 0 end)
define("LRANGE", "list", 3, 3, function(list, args)
  local from, to = integer(args[3]), integer(args[4])
  if not from or not to then return NOT_INTEGER end
  local count = list and list.last - list.first + 1 or 0
  from = math.max(from < 0 and from + count or from, 0)
  to = math.min(to < 0 and to + count or to, count - 1)
  return from > to and {} or table.move(list, list.first + from, list.first + to, 1, {})
end)

define("HSET", "hash", 3, MANY, function(hash, args)
  if #args % 2 == 1 then return wrong_number("HSET") end
  if not hash then
    hash = { kind = "hash", count = 0, map = {} }
    put(args[2], hash)
  end
  local before = hash.count
  for i = 3, #args, 2 do
    hash.count = hash.count + (hash.map[args[i]] and 0 or 1)
    hash.map[args[i]] = args[i + 1]
  end
  return hash.count - before
end)
define("HDEL", "hash", 2, MANY, function(hash, args)
  if not hash then return 0 end
  local before = hash.count
  for i = 3, #args do
    hash.count = hash.count - (hash.map[args[i]] and 1 or 0)
    hash.map[args[i]] = nil
  end
  if hash.count == 0 then put(args[2], nil) end
  return before - hash.count
end)
define("HGET", "hash", 2, 2, function(hash, args) return hash and hash.map[args[3]] end)
define("HLEN", "hash", 1, 1, function(hash) return hash and hash.count or 0 end)
define("HGETALL", "hash", 1, 1, function(hash) return { map = hash and hash.map or {} } end)

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

local function kind_of(value) return type(value) == "table" and value.kind or value and "string" or "none" end

define("EXISTS", nil, 1, MANY, function(_, args) return count_keys(args, false) end)
define("DEL", nil, 1, MANY, function(_, args) return count_keys(args, true) end)
define("TYPE", ANY, 1, 1, function(value) return { ok = kind_of(value) } end)
define("EXPIRE", ANY, 2, 2, function(value, args)
  local seconds = integer(args[3])
  if not seconds then return NOT_INTEGER end
  if value then deadlines[args[2]] = portico.now() + seconds end
  return value and 1 or 0
end)
define("TTL", ANY, 1, 1, function(value, args)
  local deadline = deadlines[args[2]]
  return deadline and math.ceil(deadline - portico.now()) or value and -1 or -2
end)
define("PERSIST", ANY, 1, 1, function(_, args)
  local had = deadlines[args[2]]
  deadlines[args[2]] = nil
  return had and 1 or 0
end)
-- True when a key is what the glob means, of which * and ? are known. What stands between two * is looked for
-- once, from left to right: so a hostile glob costs no more than another.
local function matches(key, parts)
  local pos = 1
  for i, part in ipairs(parts) do
    local first, last = key:find((i == 1 and "^" or "") .. part, pos)
    if i > 1 and i == #parts then first, last = key:find(part .. "$", math.max(pos, #key - parts.last + 1)) end
    if not first then return false end
    pos = last + 1
  end
  return #parts > 1 or pos == #key + 1
end

define("KEYS", nil, 1, 1, function(_, args)
  local parts, keys = {}, {}
  for part in (args[2] .. "*"):gmatch("([^*]*)%*") do
    parts.last = #part
    parts[#parts + 1] = part:gsub("[%^%$%(%)%%%.%[%]%+%-]", "%%%0"):gsub("%?", ".")
  end
  for key in pairs(values) do
    if find(key) and matches(key, parts) then keys[#keys + 1] = key end
  end
  return keys
end)
define("DBSIZE", nil, 0, 0, function()
  local count = 0
  for key in pairs(values) do count = count + (find(key) and 1 or 0) end
  return count
end)
define("FLUSHALL", nil, 0, 1, function()
  values, deadlines = {}, {}
  return OK
end)

portico.every(1, function() -- who is not asked for expires, too
  for key in pairs(deadlines) do find(key) end
end)

-- ---- MULTI, publish and subscribe, and what clients ask for at the start ---------------------------

define("MULTI", nil, 0, 0, function(_, _, state)
  if state.queue then return refuse("MULTI calls can not be nested") end
  state.queue = {}
  return OK
end)
define("DISCARD", nil, 0, 0, function(_, _, state)
  if not state.queue then return refuse("DISCARD without MULTI") end
  state.queue = nil
  return OK
end)
define("EXEC", nil, 0, 0, function(conn, _, state)
  local queue = state.queue
  if not queue then return refuse("EXEC without MULTI") end
  state.queue = nil
  local replies = { n = #queue }
  for i, args in ipairs(queue) do replies[i] = commands[args[1]:upper()](conn, args, state) end
  return replies
end)

local function leave(conn, name)
  local set = channels[name]
  if set then set[conn] = nil end
  if set and not next(set) then channels[name] = nil end
end

-- SUBSCRIBE, and UNSUBSCRIBE; each channel has a reply of its own.
local function subscription(kind, wanted)
  return function(conn, args, state)
    state.subscribed = state.subscribed or {}
    local names = table.move(args, 2, #args, 1, {})
    if #args == 1 then
      for name in pairs(state.subscribed) do names[#names + 1] = name end
    end
    for _, name in ipairs(names) do
      state.subscribed[name] = wanted
      if wanted then channels[name] = channels[name] or {} end
      if wanted then channels[name][conn] = true else leave(conn, name) end
      local count = 0
      for _ in pairs(state.subscribed) do count = count + 1 end
      conn:send(resp.encode({ push = { kind, name, count } }, state.protocol))
    end
    return resp.NO_REPLY
  end
end

define("SUBSCRIBE", nil, 1, MANY, subscription("subscribe", true))
define("UNSUBSCRIBE", nil, 0, MANY, subscription("unsubscribe", nil))
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
define("SELECT", nil, 1, 1, function(_, args) return args[2] == "0" and OK or refuse("DB index is out of range") end)
define("COMMAND", nil, 0, MANY, function() return {} end)
define("CLIENT", nil, 1, MANY, function() return OK end)
define("CONFIG", nil, 1, MANY, function(_, args)
  return args[2]:upper() == "GET" and args[3] and { map = { [args[3]] = "" } } or refuse("there is nothing to configure")
end)

return resp.server {
  commands = commands,
  on_close = function(conn)
    for name in pairs(conn.state.subscribed or {}) do leave(conn, name) end
  end,
}
