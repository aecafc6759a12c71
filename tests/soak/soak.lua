-- The server of the soak: echoes, and counts what its handlers are called for. VERSION and PACE are written in by soak.py with every
-- save. A connection's first line names its trade: what follows is positional data, which comes back as it came.
local VERSION, PACE = 0, 0
local ledger = portico.shared("ledger")

local function count(name, conn)
    ledger:incr(name, 1, 0)
    -- No message before on_connect, none after on_close, and each of those once: the state travels with the connection.
    local state = conn.state
    if name == "connects" then
        if state.open ~= nil then ledger:incr("violations", 1, 0) end
        state.open, state.since = true, VERSION
    elseif not state.open then
        ledger:incr("violations", 1, 0)
    elseif name == "closes" then
        state.open = false
    end
end

local ticks = 0
portico.every(0.5, function() ticks = ticks + 1 end, { name = "ticks" })

return {
    version = VERSION,
    limits = { idle = 20, first_byte = 10, write = 5, send_max = 1 << 20 },
    migrate = function(state) return state end,
    on_connect = function(conn) count("connects", conn) end,
    on_message = function(conn, data)
        count("messages", conn)
        if PACE > 0 and #data % 7 == 0 then portico.sleep(PACE) end -- some are suspended when the script is replaced
        return data
    end,
    on_close = function(conn) count("closes", conn) end,
}
