-- One coroutine owns the connection: it reads in all ways there are, and sends back what it gets.
math.randomseed(tonumber(portico.args[1]))

-- Each returns bytes; or nil and why not, and what there was.
local ways = {
  function(c) return c:read(-math.random(5000)) end,
  function(c) return c:read(math.random(300), 0) end,
  function(c) return c:read(math.random(300), math.random() * 0.04) end,
  function(c) return c:read("L", math.random() * 0.02) end,
  function(c) return c:read_until("\n", { keep = true, max = 50, timeout = 0.01 }) end,
  function(c)
    local seen = c:peek(math.random(20), 0.02)
    local data, message, code, rest = c:read(-30, 0.02)
    if seen and (data or "") ~= seen:sub(1, #(data or "")) and #(data or "") <= #seen then
      error("ORACLE what was peeked at is not what is read", 0)
    end
    return data, message, code, rest
  end,
  function(c)
    portico.sleep(math.random() * 0.02)
    return "", nil, nil
  end,
}

local known = { eof = true, timeout = true, limit = true, closed = true, reset = true, shutdown = true }

return {
  on_connect = function(conn) conn.state.phase = "connected" end,
  on_stream = function(conn)
    local phase = conn.state.phase
    -- "over": a generation was ended in it, or the one before had another script.
    if phase == "reading" then error("ORACLE a stream begins while another one reads", 0) end
    conn.state.phase = "reading"
    local _ <close> = setmetatable({}, { __close = function() conn.state.phase = "over" end })
    while true do
      local data, _, code, rest = ways[math.random(#ways)](conn)
      if not data and not known[code] then error("ORACLE a read fails for " .. tostring(code), 0) end
      if data then conn:send(data) end
      if rest then conn:send(rest) end
      if math.random(20) == 1 then conn:flush(math.random()) end
      if code and code ~= "timeout" and code ~= "limit" then return end
    end
  end,
  on_close = function(conn)
    if conn.state.phase == "reading" then error("ORACLE on_close comes while the stream runs", 0) end
  end,
}
