-- Ends connections in every way there is, from every handler, its own and those of others; and raises errors.
math.randomseed(tonumber(portico.args[1]))

local ways = {
  function(conn) conn:close() end,
  function(conn) conn:abort() end,
  function(conn) conn:shutdown("w") end,
  function(conn) conn:send("bye"); conn:close() end,
  function(conn) conn:close(); conn:abort() end,
  function(conn) conn:shutdown("w"); conn:close() end,
  function(conn) conn:pause(); conn:close() end,
  function() error("on purpose") end,
  function(conn) portico.sleep(math.random() * 0.2); conn:close() end,
  function(conn) portico.after(math.random() * 0.2, function() conn:abort() end) end,
  function(conn) conn:close(); portico.sleep(math.random() * 0.1) end,
  function(conn) conn:send(("z"):rep(math.random(1, 50000))) end,
  function()
    for other in portico.conns() do
      if math.random(3) == 1 then other:close() end
    end
  end,
  function() if math.random(30) == 1 then portico.shutdown() end end,
}

local function act(conn)
  if math.random(3) == 1 then ways[math.random(#ways)](conn) end
end

return {
  on_load = function()
    portico.every(0.05, function()
      local other = portico.connect("tcp://10.0.0.1:" .. math.random(9001, 9006), {
        timeout = 0.3,
        on_message = function(conn, data) conn:send(data) end,
      })
      if other then portico.sleep(math.random() * 0.1); other:abort() end
    end)
  end,
  on_connect = function(conn)
    conn.state.seen = true
    if math.random(10) == 1 then return false end
    act(conn)
  end,
  on_message = function(conn, data)
    if math.random(2) == 1 then conn:send(data) end
    act(conn)
  end,
  on_eof = function(conn)
    act(conn)
    conn:close()
  end,
  on_drain = act,
  on_close = function(conn, reason)
    if not conn.state.seen then error("ORACLE on_close without on_connect", 0) end
    conn.state.seen = nil
    if type(reason) ~= "string" then error("ORACLE a close without a reason", 0) end
    if math.random(3) == 1 then conn:resume() end
    if math.random(4) == 1 then portico.sleep(math.random() * 0.2) end
    if math.random(9) == 1 then error("on purpose, at the end") end
  end,
  on_error = function()
    if math.random(2) == 1 then return "keep" end
  end,
}
