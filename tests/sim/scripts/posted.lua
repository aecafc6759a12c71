-- The same with a receive buffer of the connection's own.
return {
  on_connect = function(conn) conn:set { receive = "posted" } end,
  on_message = function(conn, data) conn:send(data) end,
}
