-- Sends back whole messages of seven bytes, whatever pieces they come in.
math.randomseed(tonumber(portico.args[1]))
return {
  frame = { type = "fixed", size = 7 },
  on_message = function(conn, message)
    if math.random(20) == 1 then portico.sleep(math.random() * 0.1) end
    if math.random(20) == 1 then
      conn:pause()
      portico.after(math.random() * 0.05, conn.resume, conn)
    end
    return message
  end,
}
