-- Talks by itself: timers, and as much as the queue takes.
math.randomseed(tonumber(portico.args[1]))

local function fill(conn)
  local state = conn.state
  state.fills = (state.fills or 0) + 1
  for i = 1, state.fills < 10 and 10 or 0 do
    if not conn:send(("%06d"):format(i), ("x"):rep(math.random(0, 1000))) then return end
  end
end

return {
  on_load = function()
    portico.every(0.25, function()
      for conn in portico.conns() do conn:send("tick\n") end
    end)
    local last
    portico.every(0.1, function()
      if last then last:cancel() end
      last = portico.after(math.random() * 0.2, function()
        last = nil
        for conn in portico.conns() do fill(conn) end
      end)
    end)
  end,
  on_connect = fill,
  on_drain = function(conn)
    if math.random(2) == 1 then portico.sleep(math.random() * 0.2) end
    fill(conn)
  end,
  on_message = function(conn, data)
    if #data > 2000 then conn:close() end
  end,
}
