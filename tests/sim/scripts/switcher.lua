-- Changes how it receives, and its limits, again and again.
math.randomseed(tonumber(portico.args[1]))
local modes = { "lent", "posted" }
return {
  on_message = function(conn, data)
    conn:send(data)
    if math.random(3) == 1 then conn:set { receive = modes[math.random(2)] } end
    if math.random(5) == 1 then conn:set { idle = math.random(5, 30), send_high = math.random(100, 100000) } end
    if math.random(7) == 1 then conn:set { half_open = false, nodelay = true } end
  end,
}
