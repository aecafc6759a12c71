-- pieces.lua - for targets that decode: what comes out must not depend on how the bytes were cut.
--
--   return pieces(decode, …)
--
-- decode(pieces) is given a text as a list of pieces: in one, byte by byte, and in a way that the text's hash chooses. It
-- returns what it found, which must be the same each time, and raises nothing.

local check = require "check"

local function cut(text, size_max)
  local list, pos = {}, 1
  while pos <= #text do
    local size = math.random(size_max)
    list[#list + 1] = text:sub(pos, pos + size - 1)
    pos = pos + size
  end
  return list
end

return function(...)
  local decoders = { ... }
  return function(text)
    math.randomseed(fuzz.hash(text))
    local ways = { cut(text, 1), cut(text, math.random(2, 2 + #text)) }
    for i, decode in ipairs(decoders) do
      local whole = decode { text }
      for _, list in ipairs(ways) do
        local found = decode(list)
        if not check.same(whole, found) then
          error(("decoder %d finds %s in one piece, and in %d of them %s"):format(i, check.show(whole, 6), #list, check.show(found, 6)))
        end
      end
    end
  end
end
