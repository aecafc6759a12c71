-- http1.lua - an input is what an HTTP client sends, and what a server does.
local http1 = require "portico.http1"
local pieces = require "pieces"

local LIMITS <const> = { max_head = 500, max_headers = 10, max_body = 1000 }

local function reader(role)
  return function(list)
    local d = http1.decoder { role = role, max_head = LIMITS.max_head, max_headers = LIMITS.max_headers, max_body = LIMITS.max_body }
    local found, body = {}, nil
    local function take(what, value)
      if what == "head" then
        found[#found + 1] = value
        body = {}
      elseif what == "data" then
        body[#body + 1] = value
        assert(value ~= "", "an empty piece of a body")
        assert(#table.concat(body) <= LIMITS.max_body, "a body above max_body")
      elseif what == "end" then
        found[#found + 1] = { body = table.concat(body), trailers = value }
      end
    end
    for _, piece in ipairs(list) do
      http1.feed(d, piece)
      repeat
        local what, value = http1.next(d)
        if what == nil then
          assert(math.type(value) == "integer" and value >= 400 and value < 600, "no status")
          found.wrong = true -- which of two faults is seen first may depend on what is there
        elseif what then
          take(what, value)
        end
      until not what
      if found.wrong then
        break
      end
    end
    if role == "response" and not found.wrong then
      local what, value = http1.finish(d)
      take(what, value)
      found.wrong = what == nil
    end
    if found.wrong and body then
      found.partial = nil
    end
    return found
  end
end

local function texts(list)
  local text = table.concat(list)
  local plain = http1.unescape(text)
  assert(http1.unescape(http1.escape(text)) == text, "escaped and back it is another")
  http1.fields(text)
  return plain
end

return pieces(reader "request", reader "response", texts)
