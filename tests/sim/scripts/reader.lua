-- Reads its stream in all the ways there are, and sends back what it read.
math.randomseed(tonumber(portico.args[1]))

-- Each returns the bytes that are to be sent, or nil and the code.
local ways = {
  function(c) return c:read(-4096) end,
  function(c) return c:read(math.random(1, 40), math.random() * 0.02) end,
  function(c) return c:read("L", math.random() * 0.02) end,
  function(c) return c:read_until("\0", { keep = true, timeout = math.random() * 0.02 }) end,
  function(c) return c:read(-100, 0) end,
  function(c)
    local seen, message, code, partial = c:peek(math.random(1, 20), math.random() * 0.02)
    local data = seen or partial
    if not data or data == "" then return nil, message, code end
    local read = c:read(#data, 0)
    if read ~= data then error("ORACLE what was peeked at is not what is read", 0) end
    return read
  end,
  function(c)
    local data, message, code, partial = c:read(math.random(2, 60), math.random() * 0.02)
    if not data then return data, message, code, partial end
    local half = #data // 2
    if not c:unread(data:sub(half + 1)) then return nil, "closed", "closed", data:sub(1, half) end
    return data:sub(1, half)
  end,
}

return {
  on_stream = function(c)
    while true do
      local data, _, code, partial = ways[math.random(#ways)](c)
      data = data or partial
      if data and data ~= "" then
        if not c:send(data) then return end
      end
      if code == "eof" then
        local rest = c:read("a")
        if rest and rest ~= "" then c:send(rest) end
        return
      end
      if code and code ~= "timeout" and code ~= "limit" then return end
      if math.random(10) == 1 then portico.sleep(math.random() * 0.1) end
    end
  end,
}
