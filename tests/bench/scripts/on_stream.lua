-- One coroutine owns the connection and reads what is there.
return {
    on_stream = function(conn)
        for data in conn:lines(-16384) do conn:send(data) end
    end,
}
