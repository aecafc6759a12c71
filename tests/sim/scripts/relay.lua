-- Pipes to a service and back.
math.randomseed(tonumber(portico.args[1]))
return {
  on_stream = function(c)
    local up <close> = portico.connect("tcp://10.0.0.1:" .. math.random(9001, 9006), { timeout = 1 })
    if not up then return end
    if math.random(3) == 1 then
      c:pipe(up, { count = math.random(1, 2000) })
    else
      portico.timeout(10, function() return c:pipe(up, { both = true }) end)
    end
  end,
}
