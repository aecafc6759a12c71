-- kv.lua - a key-value store that Redis's clients take for Redis.
--
--   portico --listen tcp://127.0.0.1:6379 scripts/kv.lua
--   redis-cli set greeting hello
--
-- It has strings, counters, lists, hashes, expiry, and what portico.resp brings along: MULTI, publish and subscribe. What is
-- stored survives every reload of this file, and ends with the process; --shared-memory bounds it.

local resp = require "portico.resp"
local keyspace = require "portico.keyspace"

local keys = assert(keyspace.open("kv"))
local integer = keyspace.integer

local OK <const> = { ok = "OK" }
local NOT_INTEGER <const> = { err = "ERR value is not an integer or out of range" }

local function set(_, args)
  local ttl, condition
  local i = 4
  while args[i] do
    local word = args[i]:upper()
    if (word == "EX" or word == "PX") and not ttl and args[i + 1] then
      local number = integer(args[i + 1])
      if not number then return NOT_INTEGER end
      ttl = number / (word == "EX" and 1 or 1000)
      i = i + 1
    elseif (word == "NX" or word == "XX") and not condition then
      condition = word
    else
      return { err = "ERR syntax error" }
    end
    i = i + 1
  end
  if condition and (condition == "NX") == (keys:type(args[2]) ~= nil) then
    return nil
  end
  local done, message, code = keys:set(args[2], args[3], ttl)
  return done and OK, message, code
end

local function set_all(_, args)
  for i = 2, #args, 2 do
    local done, message, code = keys:set(args[i], args[i + 1])
    if not done then return nil, message, code end
  end
  return OK
end

local function get_all(_, args)
  local found = { n = #args - 1 }
  for i = 1, found.n do found[i] = keys:get(args[i + 1]) end
  return found
end

local function position(text)
  local index = integer(text)
  return index and (index < 0 and index or math.min(index, 1 << 40) + 1) -- Redis counts from 0 on, Lua from 1 on
end

local function range(_, args)
  local first, last = position(args[3]), position(args[4])
  if not first or not last then return NOT_INTEGER end
  return keys:range(args[2], first, last)
end

local function expire(_, args)
  local seconds = integer(args[3])
  if not seconds then return NOT_INTEGER end
  local done, message, code = keys:expire(args[2], seconds)
  return done and 1 or not message and 0, message, code
end

local function get_fields(_, args)
  local fields, message, code = keys:hash(args[2])
  return fields and { map = fields }, message, code
end

local function left(_, args)
  local ttl = keys:ttl(args[2])
  return not ttl and -2 or ttl == math.huge and -1 or math.ceil(ttl)
end

-- Of how many keys that is true.
local function count(f)
  return function(_, args)
    local sum = 0
    for i = 2, #args do sum = sum + (f(keys, args[i]) and 1 or 0) end
    return sum
  end
end

return resp.server {
  workers = 1, -- all would see the same data; but what stands between MULTI and EXEC is to happen at once
  commands = {
    ["GET key"] = function(_, args) return keys:get(args[2]) end,
    ["SET key value [option ...]"] = set,
    ["APPEND key value"] = function(_, args) return keys:append(args[2], args[3]) end,
    ["STRLEN key"] = function(_, args) return keys:strlen(args[2]) end,
    ["MSET key value [key value ...]"] = set_all,
    ["MGET key [key ...]"] = get_all,
    ["INCR key"] = function(_, args) return keys:incr(args[2], 1) end,
    ["DECR key"] = function(_, args) return keys:incr(args[2], -1) end,
    ["INCRBY key amount"] = function(_, args) return keys:incr(args[2], args[3]) end,
    ["RPUSH key value [value ...]"] = function(_, args) return keys:push(args[2], "right", args, 3) end,
    ["LPUSH key value [value ...]"] = function(_, args) return keys:push(args[2], "left", args, 3) end,
    ["RPOP key"] = function(_, args) return keys:pop(args[2], "right") end,
    ["LPOP key"] = function(_, args) return keys:pop(args[2], "left") end,
    ["LLEN key"] = function(_, args) return keys:len(args[2]) end,
    ["LRANGE key first last"] = range,
    ["HSET key field value [field value ...]"] = function(_, args) return keys:hash_set(args[2], args, 3) end,
    ["HDEL key field [field ...]"] = function(_, args) return keys:hash_delete(args[2], args, 3) end,
    ["HGET key field"] = function(_, args) return keys:hash_get(args[2], args[3]) end,
    ["HLEN key"] = function(_, args) return keys:hash_len(args[2]) end,
    ["HGETALL key"] = get_fields,
    ["EXISTS key [key ...]"] = count(keys.type),
    ["DEL key [key ...]"] = count(keys.delete),
    ["TYPE key"] = function(_, args) return { ok = keys:type(args[2]) or "none" } end,
    ["EXPIRE key seconds"] = expire,
    ["TTL key"] = left,
    ["PERSIST key"] = function(_, args) return left(_, args) >= 0 and keys:expire(args[2]) and 1 or 0 end,
    ["KEYS glob"] = function(_, args) return keys:keys(resp.glob(args[2])) end,
    ["DBSIZE"] = function() return keys:count() end,
    ["FLUSHALL"] = function() return keys:flush() and OK end,
  },
}
