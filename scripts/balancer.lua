-- balancer.lua - spreads connections over several servers: each goes to the healthy one with the fewest.
--
--   portico --listen tcp://127.0.0.1:8000 scripts/balancer.lua 127.0.0.1:8001 127.0.0.1:8002     (the two by default)
--
-- Every second each server is connected to; one that does not answer gets no connections until it does. A
-- client whose server turns out to be gone is taken to the next one. All workers count together, and so do
-- the versions of this file.

local CHECK_EVERY <const> = 1 -- seconds
local CONNECT_TIMEOUT <const> = 2

local counts = assert(portico.shared("balancer")) -- by address: how many connections a server has
local servers = {}
for i, address in ipairs(#arg > 0 and arg or { "127.0.0.1:8001", "127.0.0.1:8002" }) do
  servers[i] = { address = address, healthy = true }
end

local function mark(server, healthy, why)
  if server.healthy ~= healthy then
    portico.log.warn(server.address, healthy and "is back" or "is out: " .. why)
  end
  server.healthy = healthy
end

for _, server in ipairs(servers) do -- each by itself: one that is slow to answer does not keep the others waiting
  portico.every(CHECK_EVERY, function()
    local conn <close>, message = portico.connect(server.address, { timeout = CONNECT_TIMEOUT })
    mark(server, conn ~= nil, message)
  end, { first = 0 })
end

-- The healthy server with the fewest connections, without those that were tried.
local function choose(tried)
  local best, least
  for _, server in ipairs(servers) do
    local count = counts:get(server.address) or 0
    if server.healthy and not tried[server] and (not best or count < least) then
      best, least = server, count
    end
  end
  return best
end

local Counted = { __close = function(self) counts:incr(self.address, -1) end }

return {
  on_stream = function(client)
    if client.state.is_connected then -- by a version whose time is over: the connection to the server has ended with it
      client:abort()
      return
    end
    local tried = {}
    while true do
      local server = choose(tried)
      if not server then
        portico.log.warn(client, "no server is there")
        return
      end
      counts:incr(server.address) -- before the wait, so that others see it
      local counted <close> = setmetatable({ address = server.address }, Counted)
      local conn <close>, message = portico.connect(server.address, { timeout = CONNECT_TIMEOUT })
      if conn then
        client.state.is_connected = true
        client:pipe(conn, { both = true })
        return
      end
      tried[server] = true
      mark(server, false, message)
    end
  end,
}
