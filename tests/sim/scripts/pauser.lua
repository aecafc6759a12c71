-- Pauses its connections, draws by hand meanwhile, and goes on later, in and out of handlers.
math.randomseed(tonumber(portico.args[1]))

local function go_on(conn)
  if math.random(2) == 1 then
    local is_paused, data = pcall(conn.recv, conn, math.random(1, 5000))
    if not is_paused then return end -- another call of this was quicker
    if data then conn:send(data) end
  end
  conn:resume()
end

return {
  on_connect = function(conn)
    if math.random(3) == 1 then
      conn:pause()
      portico.after(math.random() * 0.5, go_on, conn)
    end
  end,
  on_message = function(conn, data)
    conn:send(data)
    local choice = math.random(6)
    if choice == 1 then
      conn:pause()
      portico.after(math.random() * 0.2, go_on, conn)
    elseif choice == 2 then
      conn:pause()
      portico.sleep(math.random() * 0.1)
      go_on(conn)
    elseif choice == 3 then
      conn:pause()
      conn:resume()
    end
  end,
}
