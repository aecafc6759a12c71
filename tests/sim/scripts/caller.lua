-- Whichever worker is asked sends back what came to another.
math.randomseed(tonumber(portico.args[1]))

return {
  on_load = function()
    portico.worker.serve("echo", function(data)
      if math.random(4) == 1 then portico.sleep(math.random() * 0.05) end
      return data
    end)
  end,
  on_message = function(conn, data)
    local answer = portico.worker.call(math.random(0, portico.worker.count - 1), "echo", data)
    conn:send(answer or data)
  end,
}
