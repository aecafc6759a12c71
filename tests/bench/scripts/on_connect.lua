-- For idle connections: the script is told of each, and keeps nothing.
return {
    on_connect = function(conn) end,
    on_message = function(conn, data) return data end,
}
