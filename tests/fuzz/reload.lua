-- reload.lua - an input is a row of versions of a script: each generation takes its own eight bytes, which say what it has, how it
-- refuses itself, and what it leaves in conn.state and to timers. INPUT is the input; sim_target.c runs this over the simulated
-- kernel, which saves the file now and then, sometimes with faults of its own, and whose oracles look on.

local at = (portico.generation - 1) % 16 * 8

local function byte(i)
  return INPUT:byte(at + i) or 0
end

local function bit(i, n)
  return byte(i) >> n & 1 == 1
end

if byte(1) % 16 == 15 then
  error("on purpose, while it is loaded")
end

local version = byte(2) % 4
local script = { version = version, limits = {} }

-- The state says who wrote it: what a handler finds must have come through every migration between.
if bit(3, 0) then
  function script.migrate(state, from)
    if byte(3) % 16 == 15 then
      error("on purpose, in migrate")
    elseif bit(3, 4) then
      return nil
    end
    state.migrated = (state.migrated or 0) + 1
    state.from = from
    return state
  end
end

local function touch(conn)
  local state = conn.state
  if type(state) ~= "table" then
    conn.state = { list = {} }
    state = conn.state
  end
  state.count = (state.count or 0) + 1
  state.list = state.list or {}
  state.list[state.count % 5 + 1] = state.list -- a circle
  if bit(4, 0) then
    state.text = ("x"):rep(byte(4))
  end
  if byte(4) % 32 == 31 then
    pcall(function() state.bad = print end)
  end
end

local function wait()
  local kind = byte(5) % 8
  if kind == 1 then portico.sleep(byte(5) / 100)
  elseif kind == 2 then portico.spawn(function() portico.sleep(byte(5) / 50) end):join(0.5)
  elseif kind == 3 then portico.timeout(0.1, portico.sleep, 1)
  elseif kind == 4 then portico.after(byte(5) / 100, function() portico.sleep(0.1) end)
  elseif kind == 5 then
    local conn = portico.connect("10.0.0.1:9001", { timeout = 1, pool = bit(5, 7) or nil })
    if conn then
      conn:send("x")
      portico.sleep(0.1)
      conn:release()
    end
  elseif kind == 6 then portico.publish("topic", { byte(5) })
  elseif kind == 7 then portico.worker.call(0, "work", byte(5))
  end
end

local reader = byte(6) % 3
if reader == 0 then
  function script.on_message(conn, data)
    touch(conn)
    wait()
    if byte(6) % 8 == 7 then
      error("on purpose, in on_message")
    end
    conn:send(data)
  end
elseif reader == 1 then
  function script.on_stream(conn)
    touch(conn)
    for data in conn:lines(-100, bit(6, 7) and 1 or nil) do
      wait()
      conn:send(data)
    end
  end
else
  function script.on_readable(conn)
    touch(conn)
    wait()
    local data = conn:recv()
    if data then
      conn:send(data)
    end
  end
end

if bit(7, 0) then script.frame = ({ "line", { type = "length", size = 2 }, { type = "fixed", size = 3 }, function(b) return #b > 0 and 1 or nil end })[byte(7) >> 1 & 3] end
if bit(7, 3) then function script.on_eof(conn) wait() conn:close() end end
if bit(7, 4) then function script.on_close() wait() end end
if bit(7, 5) then function script.on_connect(conn) touch(conn) return byte(7) % 32 ~= 0 end end
if bit(7, 6) then function script.on_drain(conn) touch(conn) end end
if bit(7, 7) then function script.on_error() return "keep" end end

function script.on_load()
  if byte(1) % 16 == 14 then error("on purpose, in on_load") end
  portico.worker.serve("work", function(n) portico.sleep(0.01) return n end)
  portico.subscribe("topic", function() portico.sleep(0.01) end)
  if bit(8, 0) then
    portico.every(0.05 + byte(8) / 100, function()
      for conn in portico.conns() do
        touch(conn)
        if bit(8, 1) then conn:pause() end
        if bit(8, 2) then conn:resume() end
        if byte(8) % 32 == 31 then conn:close() end
      end
    end)
  end
  if bit(8, 3) then portico.spawn(function() while true do portico.sleep(0.2) end end) end
end
if bit(1, 4) then function script.on_check() if bit(1, 5) then error("on purpose, in on_check") end end end
if bit(1, 6) then function script.on_unload() wait() end end

return script
