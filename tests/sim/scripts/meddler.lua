-- Sends back what it gets, while a timer pauses and resumes connections in the middle of whatever they are at.
math.randomseed(tonumber(portico.args[1]))

local function go_on(conn)
  while math.random(3) > 1 do
    local is_paused, data = pcall(conn.recv, conn, math.random(1, 3000))
    if not is_paused then return end -- another call of this was quicker
    if not data then break end
    conn:send(data)
  end
  conn:resume()
end

return {
  on_load = function()
    portico.every(0.02, function()
      for conn in portico.conns() do
        local choice = math.random(8)
        if choice == 1 then
          conn:pause()
          portico.after(math.random() * 0.1, go_on, conn)
        elseif choice == 2 then
          conn:set { receive = math.random(2) == 1 and "posted" or "lent" }
        end
      end
    end)
  end,
  on_message = function(conn, data)
    conn:send(data)
  end,
}
