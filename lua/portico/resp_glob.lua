-- resp_glob.lua - the globs of Redis, as KEYS takes them: * any bytes, ? one, [a-c] and [^a-c] one of these or none of
-- these, \ takes the next byte as it is. See resp.glob.
--
-- What stands between two * is looked for once, from left to right. So a hostile glob costs no more than another:
-- at worst the length of the text times that of the glob.

local find, gsub, sub = string.find, string.gsub, string.sub

local function escape(text)
  return (gsub(text, "%W", "%%%0"))
end

-- A [class] at pos, as a class of Lua's patterns, and where it ends.
local function class(glob, pos)
  local negated = sub(glob, pos + 1, pos + 1) == "^"
  local parts, at = {}, pos + (negated and 2 or 1)
  while at <= #glob and sub(glob, at, at) ~= "]" do
    if sub(glob, at, at) == "\\" and at < #glob then
      at = at + 1
    end
    local first, last = sub(glob, at, at), sub(glob, at + 2, at + 2)
    if sub(glob, at + 1, at + 1) == "-" and last ~= "" and last ~= "]" then
      if first > last then
        first, last = last, first
      end
      for code = first:byte(), last:byte() do
        parts[#parts + 1] = escape(string.char(code))
      end
      at = at + 3
    else
      parts[#parts + 1] = escape(first)
      at = at + 1
    end
  end
  at = math.min(at, #glob) -- one that has no end goes to that of the glob
  local set = table.concat(parts)
  if set == "" then
    return negated and "." or "[^\0-\255]", at
  end
  return (negated and "[^" or "[") .. set .. "]", at
end

-- The glob as a list of Lua's patterns, each for a fixed number of bytes, which is in sizes; any bytes may stand
-- between them.
local function compile(glob)
  local patterns, sizes, pattern, size, pos = {}, {}, {}, 0, 1
  while pos <= #glob + 1 do
    local c = sub(glob, pos, pos)
    if c == "*" or c == "" then
      patterns[#patterns + 1], sizes[#sizes + 1] = table.concat(pattern), size
      pattern, size = {}, 0
    else
      local item
      if c == "?" then
        item = "."
      elseif c == "[" then
        item, pos = class(glob, pos)
      elseif c == "\\" and pos < #glob then
        pos = pos + 1
        item = escape(sub(glob, pos, pos))
      else
        item = escape(c)
      end
      pattern[#pattern + 1], size = item, size + 1
    end
    pos = pos + 1
  end
  return patterns, sizes
end

-- Returns a function of a text: true when the glob matches all of it.
return function(glob)
  local patterns, sizes = compile(glob)
  local count = #patterns
  patterns[1] = "^" .. patterns[1]
  if count == 1 then
    local whole = patterns[1] .. "$"
    return function(text) return find(text, whole) ~= nil end
  end
  local tail, tail_size = patterns[count] .. "$", sizes[count]
  return function(text)
    local pos = 1
    for i = 1, count - 1 do
      local _, last = find(text, patterns[i], pos)
      if not last then
        return false
      end
      pos = last + 1
    end
    local start = #text - tail_size + 1
    return start >= pos and find(text, tail, start) ~= nil
  end
end
