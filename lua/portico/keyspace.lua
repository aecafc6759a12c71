-- keyspace.lua - strings, counters, lists and hashes by key, with expiry: what portico.shared has, and hashes. All workers see
-- the same, and it survives every reload of the script.
--
--   local keys = assert(require("portico.keyspace").open("sessions"))
--   keys:set("ann", "hello", 60)
--
-- What does not work returns nil, message, code: "type" when the key holds another kind of value, "invalid" for a string
-- that is no integer or a key of more than 65535 bytes, "range" for a sum that is none, "limit" when there is no room
-- (--shared-memory). A hash is kept as one string, so that each change costs what all of it has.

local pack, unpack = string.pack, string.unpack
local tointeger = math.tointeger

local ALL <const> = 0x7fffffff -- of the keys
local SECONDS_MAX <const> = 1000000000
local KEY_MAX <const> = 65535 -- bytes, as in portico.shared

local WITHOUT_KEY <const> = { keys = true, count = true, flush = true }

local Keyspace = {}

local keyspace = {}

-- The keyspace of that name, or nil, message, code.
function keyspace.open(name)
  if type(name) ~= "string" then
    error("keyspace.open: name: string expected, got " .. type(name), 2)
  end
  local values, message, code = portico.shared(name .. ".values") -- strings, integers and lists
  if not values then
    return nil, message, code
  end
  local hashes
  hashes, message, code = portico.shared(name .. ".hashes")
  if not hashes then
    return nil, message, code
  end
  return setmetatable({ values = values, hashes = hashes }, { __index = Keyspace })
end

local function not_integer() return nil, "value is not an integer or out of range", "invalid" end
local function wrong_type() return nil, "the key holds another kind of value", "type" end

-- The integer that a text is, written as tostring would, or nil.
local function integer(text)
  local number = tointeger(text)
  return number and tostring(number) == text and number or nil
end
keyspace.integer = integer

-- A number as the text that it is stored as; anything else as it is.
local function as_text(value)
  return type(value) == "number" and tostring(value) or value
end

-- The texts that came as arguments, or as one list with the index of the first; and that index.
local function listed(texts, ...)
  if type(texts) == "table" then
    return texts, ... or 1
  end
  return { texts, ... }, 1
end

-- ---- Strings ------------------------------------------------------------------------------------

function Keyspace:get(key)
  local value, message, code = self.values:get(key)
  if value then
    return tostring(value)
  elseif not code and self.hashes:ttl(key) then
    return wrong_type()
  end
  return nil, message, code
end

-- ttl in seconds; without it for ever. The value that was there may be of any kind. Returns true.
function Keyspace:set(key, text, ttl)
  if ttl and not (ttl > 0 and ttl <= SECONDS_MAX) then
    return nil, "invalid expire time", "invalid"
  end
  text = as_text(text)
  local done, message, code = self.values:set(key, integer(text) or text, ttl)
  if done then
    self.hashes:delete(key)
  end
  return done, message, code
end

-- Adds to the end of a string, or makes one. Returns how long it is.
function Keyspace:append(key, text)
  local value, message, code = self.values:get(key)
  if code then
    return nil, message, code
  elseif self.hashes:ttl(key) then
    return wrong_type()
  end
  text = tostring(value or "") .. text
  local done
  done, message, code = self.values:cas(key, value, integer(text) or text)
  if done == false then
    return self:append(key, text:sub(#tostring(value or "") + 1)) -- another worker has changed it
  end
  return done and #text, message, code
end

-- How long a string is; 0 when there is no such key.
function Keyspace:strlen(key)
  local text, message, code = self:get(key)
  return not code and #(text or "") or nil, message, code
end

-- Adds an integer, or a text that is one, to a string that is one, too (0 when there is none). Returns the sum.
function Keyspace:incr(key, by)
  if by ~= nil then
    by = type(by) == "number" and tointeger(by) or integer(by)
    if not by then
      return not_integer()
    end
  end
  local sum, message, code = self.values:incr(key, by)
  if code == "type" and not self.values:len(key) then
    return not_integer()
  elseif sum == by and self.hashes:ttl(key) then -- it is new, and should not be
    self.values:delete(key)
    return wrong_type()
  end
  return sum, message, code
end

-- ---- Lists --------------------------------------------------------------------------------------

-- Puts texts at one end, "left" or "right", one after the other; they may come as a list and the index of the first. Returns
-- how many the list has. When there is no room for all, there is none of them.
function Keyspace:push(key, side, ...)
  local texts, first = listed(...)
  if first > #texts then
    return self:len(key)
  end
  local count, message, code
  for i = first, #texts do
    count, message, code = self.values:push(key, as_text(texts[i]), side)
    if count == 1 and self.hashes:ttl(key) then -- it is new, and should not be
      self.values:delete(key)
      return wrong_type()
    elseif not count then
      for _ = first + 1, i do
        self.values:pop(key, side)
      end
      return nil, message, code
    end
  end
  return count
end

-- Returns the text, or nil.
function Keyspace:pop(key, side)
  local text, message, code = self.values:pop(key, side)
  if text == nil and not code and self.hashes:ttl(key) then
    return wrong_type()
  end
  return text, message, code
end

function Keyspace:len(key)
  if self.hashes:ttl(key) then
    return wrong_type()
  end
  return self.values:len(key)
end

-- The values from first (1) to last (-1), counted as string.sub counts.
function Keyspace:range(key, first, last)
  if self.hashes:ttl(key) then
    return wrong_type()
  end
  return self.values:range(key, first, last)
end

-- ---- Hashes -------------------------------------------------------------------------------------

-- Returns the fields, and what they were read from.
local function read(self, key)
  local fields, pos, packed = {}, 1, self.hashes:get(key)
  if not packed and self.values:ttl(key) then
    return wrong_type()
  end
  while packed and pos <= #packed do
    local field, value
    field, value, pos = unpack("s4s4", packed, pos)
    fields[field] = value
  end
  return fields, packed
end

-- Changes the fields by change(fields), which returns what this does, until no other worker has changed them meanwhile.
local function update(self, key, change)
  while true do
    local fields, before, code = read(self, key)
    if not fields then
      return nil, before, code
    end
    local parts, result = {}, change(fields)
    for field, value in pairs(fields) do
      parts[#parts + 1] = pack("s4s4", field, value)
    end
    local done, message
    done, message, code = self.hashes:cas(key, before, parts[1] and table.concat(parts))
    if done then
      return result
    elseif done == nil then
      return nil, message, code
    end
  end
end

-- A table of all fields; empty when there is no such key.
function Keyspace:hash(key)
  local fields, message, code = read(self, key)
  return fields, not fields and message or nil, code
end

function Keyspace:hash_get(key, field)
  local fields, message, code = self:hash(key)
  return fields and fields[as_text(field)], message, code
end

function Keyspace:hash_len(key)
  local fields, message, code = self:hash(key)
  local count = 0
  for _ in pairs(fields or {}) do
    count = count + 1
  end
  return fields and count, message, code
end

-- Sets fields: field, value, field, value, …, also as a list and the index of the first. Returns how many are new.
function Keyspace:hash_set(key, ...)
  local wanted, first = listed(...)
  if (#wanted - first) % 2 == 0 then
    error("hash_set: a field without a value", 2)
  end
  return update(self, key, function(fields)
    local count = 0
    for i = first, #wanted, 2 do
      local field = as_text(wanted[i])
      count = count + (fields[field] and 0 or 1)
      fields[field] = as_text(wanted[i + 1])
    end
    return count
  end)
end

-- Deletes fields, which may come as a list and the index of the first, too. Returns how many there were.
function Keyspace:hash_delete(key, ...)
  local names, first = listed(...)
  return update(self, key, function(fields)
    local count = 0
    for i = first, #names do
      local field = as_text(names[i])
      count = count + (fields[field] and 1 or 0)
      fields[field] = nil
    end
    return count
  end)
end

-- ---- Keys ---------------------------------------------------------------------------------------

-- "string", "list" or "hash"; nil when there is no such key.
function Keyspace:type(key)
  if self.hashes:ttl(key) then
    return "hash"
  end
  return self.values:ttl(key) and (self.values:len(key) and "list" or "string") or nil
end

-- True if there was one.
function Keyspace:delete(key)
  return self.values:delete(key) or self.hashes:delete(key)
end

-- Seconds to live from now on, none if that is 0 or less; nil: for ever. False when there is no such key.
function Keyspace:expire(key, ttl)
  if ttl and ttl <= 0 then
    return self:delete(key)
  elseif ttl and not (ttl <= SECONDS_MAX) then
    return nil, "invalid expire time", "invalid"
  end
  return self.values:expire(key, ttl) or self.hashes:expire(key, ttl)
end

-- The seconds that are left, math.huge for ever; nil when there is no such key.
function Keyspace:ttl(key)
  return self.values:ttl(key) or self.hashes:ttl(key) or nil
end

-- A list of all keys, or of those for which accept(key) is true.
function Keyspace:keys(accept)
  local keys = {}
  for _, dictionary in ipairs { self.values, self.hashes } do
    local some, message, code = dictionary:keys("", ALL)
    if not some then
      return nil, message, code
    end
    for _, key in ipairs(some) do
      keys[#keys + 1] = (not accept or accept(key)) and key or nil
    end
  end
  return keys
end

function Keyspace:count()
  return self.values:count() + self.hashes:count()
end

function Keyspace:flush()
  return self.values:flush() and self.hashes:flush()
end

-- portico.shared raises for a key that is too long, but most keys are not the script's: they are what a client has sent.
for name, method in pairs(Keyspace) do
  if not WITHOUT_KEY[name] then
    Keyspace[name] = function(self, key, ...)
      if type(key) == "string" and #key > KEY_MAX then
        return nil, "the key is longer than 65535 bytes", "invalid"
      end
      return method(self, key, ...)
    end
  end
end

return keyspace
