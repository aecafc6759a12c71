-- websocket_chat.lua - a chat room in the browser: the page and its WebSocket on one port.
--
--   portico --listen tcp://127.0.0.1:8080 scripts/websocket_chat.lua
--   then open http://127.0.0.1:8080/ in two windows

local websocket = require "portico.websocket"

local PAGE <const> = [[
<!DOCTYPE html>
<meta charset="utf-8">
<title>Chat</title>
<style>
  body { font-family: sans-serif; max-width: 40em; margin: 1em auto }
  #lines { white-space: pre-wrap; border: 1px solid #ccc; padding: .5em; min-height: 10em }
  input { width: 100%; box-sizing: border-box; padding: .5em }
</style>
<h1>Chat</h1>
<div id="lines"></div>
<form><input placeholder="Say something, or /name NAME" autocomplete="off" autofocus></form>
<script>
  const lines = document.getElementById("lines"), input = document.querySelector("input")
  const socket = new WebSocket(location.href.replace(/^http/, "ws"))
  const show = text => { lines.textContent += text + "\n" }
  socket.onmessage = event => show(event.data)
  socket.onclose = event => show("-- disconnected (" + event.code + ")")
  document.querySelector("form").onsubmit = event => {
    event.preventDefault()
    socket.send(input.value)
    input.value = ""
  }
</script>
]]

-- To everybody, whichever worker serves them.
local function say(text)
  repeat
    local _, _, code = portico.publish("chat", text)
    if code == "limit" then
      portico.sleep(0.01) -- more is said than can be told: who says it waits
    end
  until code ~= "limit"
end

portico.subscribe("chat", function(text)
  for ws in websocket.each() do
    ws:send(text)
  end
end)

return websocket.server {
  on_request = function(req)
    if req.path ~= "/" then
      return 404, "There is nothing at " .. req.path .. "\n"
    end
    return 200, PAGE, { ["Content-Type"] = "text/html; charset=utf-8" }
  end,

  on_open = function(ws)
    ws.state.name = "guest " .. ws.id
    say("-- " .. ws.state.name .. " is here")
  end,

  on_message = function(ws, text, is_binary)
    local state = ws.state
    local name = not is_binary and text:match("^/name (%g+)$")
    if is_binary then
      ws:close(1003, "text only")
    elseif name then
      say("-- " .. state.name .. " is now " .. name)
      state.name = name
    else
      say(state.name .. ": " .. text)
    end
  end,

  on_close = function(ws)
    say("-- " .. ws.state.name .. " is gone")
  end,
}
