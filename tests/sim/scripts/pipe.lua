-- Connects to others on behalf of its clients, and leaves the rest to conn:pipe.
math.randomseed(tonumber(portico.args[1]))
local targets = {
  "tcp://10.0.0.1:9001", "tcp://10.0.0.1:9001", "tcp://10.0.0.1:9001", "tcp://10.0.0.1:9002", "tcp://10.0.0.1:9003",
  "tcp://10.0.0.1:9004", "tcp://10.0.0.1:9005", "tcp://10.0.0.1:9006", "tcp://127.0.0.1:7999",
}
local codes = { closed = true, reset = true, shutdown = true, eof = true }

local function check(client, up, there, message, code, conn, ...)
  if there then
    if there < 0 then error("ORACLE a negative count", 0) end
    return
  end
  if not codes[code] then error("ORACLE a pipe fails for " .. tostring(code), 0) end
  if conn ~= client and conn ~= up then error("ORACLE a pipe fails and does not say who: " .. tostring(message), 0) end
  for _, count in ipairs { ... } do
    if math.type(count) ~= "integer" then error("ORACLE no count", 0) end
  end
end

return {
  on_stream = function(client)
    local up <close> = portico.connect(targets[math.random(#targets)], { timeout = math.random() * 3 + 0.05 })
    if not up then return end
    local way = math.random(6)
    if way == 1 then
      check(client, up, client:pipe(up))
    elseif way == 2 then
      check(client, up, client:pipe(up, { count = math.random(3000) }))
    elseif way == 3 then
      portico.timeout(math.random(), function() check(client, up, client:pipe(up, { both = true })) end)
    elseif way == 4 then
      check(client, client, client:pipe(client))
    else
      check(client, up, client:pipe(up, { both = true }))
    end
  end,
}
