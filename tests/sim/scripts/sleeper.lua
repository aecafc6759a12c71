-- Handlers that wait: what comes meanwhile must wait, too.
math.randomseed(tonumber(portico.args[1]))

local function nap()
  if math.random(3) == 1 then portico.sleep(math.random() * 0.3) end
end

-- The handler has begun. A stop that is cut off ends it while it waits.
local function begin(conn, event)
  local state = conn.state
  state.phase = event
  return setmetatable({}, { __close = function() state.phase = "idle" end })
end

local function check(conn, event)
  if conn.state.phase ~= "idle" then error("ORACLE " .. event .. " while " .. tostring(conn.state.phase), 0) end
end

return {
  on_connect = function(conn)
    if conn.state.phase then error("ORACLE on_connect twice", 0) end
    local _ <close> = begin(conn, "on_connect")
    nap()
  end,
  on_message = function(conn, data)
    check(conn, "on_message")
    local _ <close> = begin(conn, "on_message")
    local half = #data // 2
    nap()
    conn:send(data:sub(1, half))
    nap()
    conn:send(data:sub(half + 1))
  end,
  on_close = function(conn)
    check(conn, "on_close")
    conn.state.phase = "over"
    nap()
    if conn:send("late") then error("ORACLE a message was taken after the end", 0) end
  end,
}
