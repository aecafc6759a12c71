-- proxy.lua - stands between clients and a server, and shows what they say to each other.
--
--   portico scripts/proxy.lua [HOST:PORT [BYTES]]
--   nc 127.0.0.1 8000          … and talk to the server
--
-- HOST:PORT is 127.0.0.1:7777 unless given; of each piece at most BYTES (256) are shown.

local hexdump = require "portico.hexdump"

local target <const>, shown_max <const> = arg[1] or "127.0.0.1:7777", math.tointeger(arg[2] or 256)
if not shown_max then
  error("usage: portico proxy.lua HOST:PORT [BYTES]", 0)
end

-- Passes on what comes until it ends, and then the end.
local function pass(from, to, name)
  local offset = 0
  for data in from:lines(-65536) do
    portico.log.info(("%s, %d bytes:\n%s"):format(name, #data, hexdump(data, { offset = offset, max = shown_max })))
    offset = offset + #data
    local sent = to:send(data)
    if sent == false then
      sent = to:flush() -- it is slower: wait for it
    end
    if not sent then
      break
    end
  end
  to:shutdown()
end

return {
  listen = "tcp://127.0.0.1:8000", -- not where the server is, or it would be connected to itself

  on_stream = function(client)
    if client.state.is_connected then -- by a version whose time is over: the connection to the server has ended with it
      client:abort()
      return
    end
    local server <close>, message = portico.connect(target, { timeout = 1 })
    if not server then
      portico.log.warn(client, "cannot reach", target .. ":", message)
      return
    end
    client.state.is_connected = true
    portico.log.info(client, "is connected to", target)
    local back = portico.spawn(pass, server, client, ("%d <- %s"):format(client.id, target))
    pass(client, server, ("%d -> %s"):format(client.id, target))
    back:join()
  end,

  on_close = function(client, reason)
    portico.log.info(client, "is over:", reason)
  end,
}
