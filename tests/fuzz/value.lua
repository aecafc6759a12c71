-- value.lua - an input says how to build a value, byte by byte: the copy that another state would get has the same shape,
-- with what is shared shared, and circles closed.

local function builder(text)
  local pos, known = 1, {}
  local function byte()
    local b = text:byte(pos) or 0
    pos = pos + 1
    return b
  end
  local build

  local function fill(t, level)
    for i = 1, byte() % 8 do
      local how = byte()
      local key = how % 3 == 0 and i or build(level + 1)
      local value = build(level + 1)
      if key ~= nil and key == key then
        t[key] = value
      end
    end
    return t
  end

  function build(level)
    local kind = byte() % 14
    if kind == 0 then return nil
    elseif kind == 1 then return true
    elseif kind == 2 then return false
    elseif kind == 3 then return byte() - 128
    elseif kind == 4 then return math.mininteger >> byte() % 64
    elseif kind == 5 then return byte() / 7
    elseif kind == 6 then return ({ 0 / 0, 1 / 0, -1 / 0, -0.0, 2.0 ^ 53, 5e-324 })[byte() % 6 + 1]
    elseif kind == 7 then return text:sub(pos, pos + byte() % 8)
    elseif kind == 8 then
      known[#known + 1] = (string.char(byte())):rep(byte())
      return known[#known]
    elseif kind == 9 then return known[byte() % (#known + 1)]
    elseif kind == 10 and byte() == 77 then return print -- cannot be copied
    elseif kind == 11 and byte() == 77 then return setmetatable({}, {})
    end
    local t = {}
    known[#known + 1] = t
    if kind == 12 then -- deep
      local depth, at = byte(), t
      for _ = 1, depth do
        at[1] = {}
        at = at[1]
      end
      known[#known + 1] = at
      return t
    end
    return level > 20 and t or fill(t, level)
  end
  return build
end

local function plain(v)
  return type(v) ~= "table"
end

-- Pairs both graphs: pairs[a] is what stands for a in the copy. Keys that are tables are paired in the order of the traversal of the
-- copy, if all else about them is the same.
local function same(a, b, pairing, seen)
  if plain(a) then
    return rawequal(a, b) and math.type(a) == math.type(b) and (a ~= 0 or 1 / a == 1 / b) or a ~= a and b ~= b
  elseif plain(b) then
    return false
  elseif pairing[a] or seen[b] then
    return pairing[a] == b
  end
  pairing[a], seen[b] = b, true
  local count = 0
  for k, v in pairs(a) do
    count = count + 1
    if plain(k) and not same(v, b[k], pairing, seen) then
      return false
    end
  end
  for _ in pairs(b) do
    count = count - 1
  end
  return count == 0 and getmetatable(b) == nil
end

return function(text)
  local value = builder(text)(0)
  local copy, message = fuzz.copy(value)
  if message ~= nil then
    assert(copy == nil and message:find("^value"), "refused without a word: " .. tostring(message))
    return
  end
  assert(same(value, copy, {}, {}), "the copy is another")
end
