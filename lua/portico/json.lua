-- json.lua - JSON (RFC 8259): dkjson, with a stricter door.
--
--   local json = require "portico.json"
--   local value, message = json.decode(text)
--   local text = json.encode({ name = "Ann", tags = { "a", "b" } })
--
-- dkjson (https://dkolf.de/dkjson-lua, MIT licence) builds and writes the values. It reads more than JSON,
-- such as comments and lists without commas, and deeper than a server should; so what it is to read is looked
-- through before. And it would write numbers with 14 digits, and take any number n for a list's length.

local byte, find, format, match, sub = string.byte, string.find, string.format, string.match, string.sub
local abs, huge = math.abs, math.huge
local plain_text, plain_pairs = tostring, pairs

local DEPTH_MAX <const> = 100
local HOLES_MAX <const> = 10 -- and as many as there are values: a peer's {"n":1000000000} is not to become so many nulls
local DIGITS_SAFE <const> = 300 -- so many digits without an exponent are no infinite number

-- A number with as many digits as it takes to read the same back.
local function number_text(value)
  if math.type(value) ~= "float" then
    return plain_text(value)
  end
  local text = format("%.15g", value)
  if tonumber(text) ~= value then
    text = format("%.17g", value)
  end
  return find(text, "[%.eEn]") and text or text .. ".0"
end

local function is_no_number(value)
  return math.type(value) == "float" and (value ~= value or abs(value) == huge)
end

-- Whether the number in a table's field n is its length, as that of table.pack.
local function is_length(t, n)
  local meta = getmetatable(t)
  if math.type(n) ~= "integer" or n < 0 or type(meta) == "table" and meta.__jsontype == "object" then
    return false
  end
  local count = 0
  for key in plain_pairs(t) do
    count = count + (type(key) == "number" and 1 or 0)
  end
  return n - count <= math.max(HOLES_MAX, count)
end

-- pairs for dkjson, to which a number n is a list's length: another is shown as a value that is none, and so makes an object.
local function pairs_of_json(t)
  local n = rawget(t, "n")
  local step, state, first = plain_pairs(t)
  if type(n) ~= "number" or is_length(t, n) then
    return step, state, first
  end
  local shown = setmetatable({}, { __tojson = function() return is_no_number(n) and "null" or number_text(n) end })
  return function(_, key)
    local next_key, value = step(state, key)
    return next_key, next_key == "n" and shown or value
  end, state, first
end

-- dkjson takes its functions while it is loaded, and then these are to be ours. Who requires it gets one of his own.
local function load_dkjson()
  tostring, pairs = number_text, pairs_of_json
  return require "portico.dkjson"
end
local theirs = package.loaded["portico.dkjson"]
package.loaded["portico.dkjson"] = nil
local loaded, dkjson = pcall(load_dkjson)
tostring, pairs, package.loaded["portico.dkjson"] = plain_text, plain_pairs, theirs
if not loaded then
  error(dkjson, 0)
end

local json = { null = dkjson.null }

-- ---- What is JSON -------------------------------------------------------------------------------

-- The place behind the string that begins at pos; or nil, where it is wrong, and why.
local function check_string(text, pos)
  local from = pos + 1
  while true do
    local at = find(text, '["\\%c]', from)
    local c = at and byte(text, at)
    if not at then
      return nil, pos, "unterminated string"
    elseif c == 34 then
      return at + 1
    elseif c == 92 then
      local digits = match(text, "^u(%x%x%x%x)", at + 1)
      local code = digits and tonumber(digits, 16)
      if not digits and not find(text, '^["\\/bfnrt]', at + 1) then
        return nil, at, "unknown escape"
      elseif code and code >= 0xD800 and code <= 0xDFFF then -- the first half of a pair, or no character
        if code > 0xDBFF or not find(text, "^\\u[dD][c-fC-F]%x%x", at + 6) then
          return nil, at, "half a surrogate pair"
        end
        from = at + 12
      else
        from = at + (digits and 6 or 2)
      end
    elseif c < 32 then
      return nil, at, "control character in a string"
    else
      from = at + 1
    end
  end
end

local function check_number(text, pos)
  local _, last = find(text, "^%-?%d+", pos)
  if not last or find(text, "^%-?0%d", pos) then
    return nil, pos, "wrong number"
  end
  local _, fraction = find(text, "^%.%d+", last + 1)
  last = fraction or last
  local _, exponent = find(text, "^[eE][+-]?%d+", last + 1)
  last = exponent or last
  if find(text, "^[%w%.]", last + 1) then
    return nil, pos, "wrong number"
  elseif (exponent or last - pos > DIGITS_SAFE) and abs(tonumber(sub(text, pos, last))) == huge then
    return nil, pos, "number too large"
  end
  return last + 1
end

local LITERALS <const> = { ["true"] = true, ["false"] = true, null = true }

-- Nil; or where the text is not JSON, and why.
local function check(text, depth_max)
  local depth, closers, is_key, wants_value = 0, {}, false, true
  local pos, after, at, why = 1, nil, nil, nil
  while true do
    pos = find(text, "[^ \t\r\n]", pos)
    local c = pos and byte(text, pos)
    if not pos then
      if depth > 0 or wants_value then
        return #text + 1, "unexpected end"
      end
      return nil
    elseif wants_value then
      if c == 34 then -- "
        after, at, why = check_string(text, pos)
        if not after then
          return at, why
        end
        if is_key then
          after = find(text, "[^ \t\r\n]", after)
          if not after or byte(text, after) ~= 58 then
            return after or #text + 1, "':' expected"
          end
          pos, is_key = after + 1, false
        else
          pos, wants_value = after, false
        end
      elseif is_key then
        return pos, "name expected"
      elseif c == 123 or c == 91 then -- { [
        depth = depth + 1
        if depth > depth_max then
          return pos, "too deep"
        end
        local closer = c + 2
        closers[depth] = closer
        local inner = find(text, "[^ \t\r\n]", pos + 1)
        if inner and byte(text, inner) == closer then
          depth, pos, wants_value = depth - 1, inner + 1, false
        else
          pos, is_key = pos + 1, c == 123
        end
      elseif c == 45 or c >= 48 and c <= 57 then
        after, at, why = check_number(text, pos)
        if not after then
          return at, why
        end
        pos, wants_value = after, false
      else
        local word = match(text, "^%a+", pos)
        if not LITERALS[word] then
          return pos, "value expected"
        end
        pos, wants_value = pos + #word, false
      end
    elseif depth == 0 then
      return pos, "the end expected"
    elseif c == 44 then -- ,
      pos, wants_value, is_key = pos + 1, true, closers[depth] == 125
    elseif c == closers[depth] then
      depth, pos = depth - 1, pos + 1
    else
      return pos, format("',' or '%c' expected", closers[depth])
    end
  end
end

-- ---- The module ---------------------------------------------------------------------------------

-- The value of a JSON text; or nil, message, "json". options: null, what null becomes (nil; json.null keeps
-- places in lists), and depth of lists and objects in each other (100). Integers stay integers as far as 64
-- bits go. Tables have no metatables.
function json.decode(text, options)
  if type(text) ~= "string" then
    error("json.decode: text: string expected, got " .. type(text), 2)
  end
  local at, why
  local _, wrong = utf8.len(text)
  if wrong then
    at, why = wrong, "not UTF-8"
  else
    at, why = check(text, options and options.depth or DEPTH_MAX)
  end
  if at then
    local _, line = sub(text, 1, at - 1):gsub("\n", "")
    return nil, format("%s at byte %d, line %d", why, at, line + 1), "json"
  end
  return (dkjson.decode(text, 1, options and options.null, nil, nil))
end

-- The way from a value to what is_wrong in it, like "value.a[2]"; nil: nothing is.
local function find_wrong(value, is_wrong, way, seen)
  if is_wrong(value) then
    return way
  end
  local meta = type(value) == "table" and getmetatable(value)
  if type(value) ~= "table" or seen[value] or type(meta) == "table" and meta.__tojson then
    return nil
  end
  seen[value] = true
  for key, item in pairs(value) do
    if type(key) == "string" and is_wrong(key) then
      return "a name in " .. way
    end
    local found = find_wrong(item, is_wrong, format(type(key) == "number" and "%s[%s]" or "%s.%s", way, key), seen)
    if found then
      return found
    end
  end
  return nil
end

local function is_no_text(value)
  return type(value) == "string" and not utf8.len(value)
end

local FOREIGN <const> = { ["function"] = true, userdata = true, thread = true }

local function is_foreign(value)
  return FOREIGN[type(value)]
end

-- What dkjson cannot write is noted, so that it is told from what others raise.
local function refuse(_, _, state, message)
  state.problem = message
  return nil, message
end

-- A value as JSON. A table is a list if its keys are 1, 2, 3, … (or it is empty), perhaps with their number n, else an object;
-- json.object(t) makes it one. What JSON cannot say (functions, circles, keys that are tables, numbers that are infinite or none,
-- strings that are not UTF-8) raises. options: indent = true for people; order, a list of names that come first.
function json.encode(value, options)
  local state = { indent = options and options.indent, keyorder = options and options.order, exception = refuse }
  local done, text = pcall(dkjson.encode, value, state)
  if not done then
    local problem = state.problem or type(text) == "string" and match(text, "^type '%a+' is not supported as a key by JSON%.$")
    if not problem then
      error(text, 0)
    end
    error(format("json.encode: %s: %s", find_wrong(value, is_foreign, "value", {}) or "value", problem), 2)
  end
  -- dkjson writes null for what is no number, and the bytes of strings as they are. Who looks for that in the text, has only to
  -- look into the value when there is something to find.
  local way = find(text, "null", 1, true) and find_wrong(value, is_no_number, "value", {})
  if way then
    error(format("json.encode: %s: a number that is infinite or none cannot be said in JSON", way), 2)
  elseif not utf8.len(text) then
    error(format("json.encode: %s: not UTF-8", find_wrong(value, is_no_text, "value", {}) or "value"), 2)
  end
  return text
end

-- The table, marked as an object even when it is empty.
function json.object(t)
  return setmetatable(t or {}, { __jsontype = "object" })
end

return json
