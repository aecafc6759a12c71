-- Connects to others on behalf of its clients, and relays, with back-pressure both ways.
math.randomseed(tonumber(portico.args[1]))
local targets = {
  "tcp://10.0.0.1:9001", "tcp://10.0.0.1:9001", "tcp://10.0.0.1:9001", "tcp://10.0.0.1:9002", "tcp://10.0.0.1:9003",
  "tcp://10.0.0.1:9004", "tcp://10.0.0.1:9005", "tcp://10.0.0.1:9006", "tcp://echo.sim:9001", "tcp://two.sim:9001",
  "tcp://nowhere.sim:9001", "tcp://127.0.0.1:7999",
}
if tonumber(portico.args[1]) % 4 == 0 then -- names only: the resolver is busy
  targets = { "tcp://echo.sim:9001", "tcp://two.sim:9001", "tcp://nowhere.sim:9001" }
end

local upstreams = {} -- by the client's id; a client of an older version of this script has none

local function relay(from, to, data)
  local more = to and to:send(data)
  if more == nil then
    from:close()
  elseif not more then
    from:pause()
  end
end

return {
  on_connect = function(client)
    local upstream, _, code = portico.connect(targets[math.random(#targets)], {
      timeout = math.random() * 3 + 0.05,
      on_message = function(other, data) relay(other, client, data) end,
      on_drain = function() client:resume() end,
      on_close = function() client:close() end,
    })
    if not upstream then
      if code == nil then error("ORACLE a failure without a code", 0) end
      return false
    end
    upstreams[client.id] = upstream
  end,
  on_message = function(client, data) relay(client, upstreams[client.id], data) end,
  on_drain = function(client)
    local upstream = upstreams[client.id]
    if upstream then upstream:resume() end
  end,
  on_close = function(client)
    local upstream = upstreams[client.id]
    upstreams[client.id] = nil
    if upstream then upstream:close() end
  end,
}
