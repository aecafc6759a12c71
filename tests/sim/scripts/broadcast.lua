-- What one says all hear, until somebody does not listen.
return {
  on_message = function(conn, data)
    for other in portico.conns() do
      if other:send(data) == false and other ~= conn then other:close() end
    end
  end,
}
