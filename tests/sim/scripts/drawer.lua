-- Told that there is something, it draws or reads all of it or a little, and sends that back.
math.randomseed(tonumber(portico.args[1]))

local ways = {
  function(c) return c:recv() end,
  function(c) return c:recv(math.random(1, 100)) end,
  function(c) return c:read(-4096, 0.01) end,
  function(c) return c:read(-math.random(1, 100)) end,
}

return {
  on_readable = function(c)
    local data = ways[math.random(#ways)](c)
    if data then c:send(data) end
  end,
}
