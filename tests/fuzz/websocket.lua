-- websocket.lua - an input is frames, as a client sends them, and as a server does. Messages are written and read again.
local pieces = require "pieces"
local websocket = require "portico.websocket"

local MAX <const> = 1000

local function decode(list, role, found)
  local d = websocket.decoder { role = role, max_message = MAX }
  for _, piece in ipairs(list) do
    websocket.feed(d, piece)
    while not found.wrong do
      local what, value, more = websocket.next(d)
      if not what then
        found.wrong = value
        break
      end
      found[#found + 1] = { what, value, more }
      assert(what == "close" or #value <= MAX, "a message above max_message")
    end
  end
  return found
end

local function reader(role)
  return function(list)
    local found = decode(list, role, {})
    for _, message in ipairs(#list == 1 and found or {}) do
      local kind, value = message[1], message[2]
      if kind ~= "close" then
        local again = decode({ websocket.frame(kind, value, { masked = role == "server" }) }, role, {})
        assert(#again == 1 and again[1][1] == kind and again[1][2] == value, "a message that is written is read as another")
      end
    end
    return found
  end
end

return pieces(reader "server", reader "client")
