-- chat.lua - a chat room for lines of text; everybody hears everybody, whichever worker serves them.
--
--   portico scripts/chat.lua
--   nc 127.0.0.1 7777          … and again in another terminal
--
-- The first line is one's name. /who lists who is there, /quit leaves. Saving this file changes the rules
-- while people talk.

local NAME_MAX <const>, LINE_MAX <const> = 20, 1000

local names = portico.shared("chat-names") -- those in use, on all workers; a name is a key

local function tell_all(text)
  repeat
    local _, _, code = portico.publish("chat", text)
    if code == "limit" then
      portico.sleep(0.01) -- more is said than can be told: who says it waits
    end
  until code ~= "limit"
end

portico.subscribe("chat", function(text)
  for conn in portico.conns() do
    if conn.state.name then
      conn:send(text) -- who takes too little is disconnected in the end: limits.send_max
    end
  end
end)

local function enter(conn, name)
  if not utf8.len(name) or name:find("%c") or not name:find("%S") or #name > NAME_MAX then
    return "That is no name. Another one?"
  elseif not names:add(name, conn.id) then
    return "Somebody has this name. Another one?"
  end
  conn.state.name = name
  tell_all("* " .. name .. " is here")
end

return {
  frame = { type = "line", max = LINE_MAX },
  limits = { first_byte = 60, send_max = 1 << 20 },
  lasting = "name", -- as the names in use, which no version that is undone takes back

  on_connect = function(conn)
    conn:send("Who are you?")
  end,

  on_message = function(conn, line)
    local name = conn.state.name
    if not name then
      return enter(conn, line)
    elseif line == "/who" then
      local list = names:keys("")
      table.sort(list)
      return "* here: " .. table.concat(list, ", ")
    elseif line == "/quit" then
      conn:close()
    elseif line:find("%S") then
      tell_all(name .. ": " .. line:gsub("%c", "?"))
    end
  end,

  on_close = function(conn)
    local name = conn.state.name
    if name then
      names:delete(name)
      tell_all("* " .. name .. " is gone")
    end
  end,
}
