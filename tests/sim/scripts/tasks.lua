-- What comes in goes through a channel to a task of the connection's own, which sends it back.
math.randomseed(tonumber(portico.args[1]))
local channels = {}

local function serve(conn, channel)
  for data in channel do
    if math.random(4) == 1 then portico.sleep(math.random() * 0.05) end
    conn:send(data)
  end
  conn:close()
end

return {
  on_connect = function(conn)
    local channel = portico.channel(math.random(0, 3))
    channels[conn.id] = channel
    portico.spawn(serve, conn, channel)
  end,
  on_message = function(conn, data)
    channels[conn.id]:send(data)
  end,
  on_eof = function(conn)
    channels[conn.id]:close()
  end,
  on_close = function(conn)
    channels[conn.id]:close()
    channels[conn.id] = nil
  end,
}
