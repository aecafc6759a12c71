-- websocket_server.lua - the server's side on http1.lua: websocket.server(options), websocket.protocol(options), websocket.each().

local codec = require "portico.codec"
local frames = require "portico.websocket_frames"
local http1 = require "portico.http1"
local options_of = require "portico.options"
local websocket = require "portico.websocket"

local encode, feed, next_message = frames.encode, frames.feed, frames.next

local server = {}

local FAREWELL <const> = 5 -- seconds for the peer to answer a close

local Socket = {}

-- ws.state is conn.state: plain data of the script's own, but for the names websocket and http1.
local meta = {
  __index = function(ws, name)
    if name == "state" then
      return ws.conn.state
    end
    return Socket[name]
  end,
}

-- By connection; made again when they are missing, as after a reload.
local sockets = setmetatable({}, { __mode = "k" })

local function socket_of(conn)
  local ws = sockets[conn]
  if not ws then
    ws = setmetatable({ conn = conn, id = conn.id }, meta)
    sockets[conn] = ws
  end
  return ws
end

local function send(ws, kind, data)
  local state = ws.conn.state
  local d = state and state.websocket
  if not d or d.closing then
    return nil, "closed", "closed"
  end
  local is_low, message, code = ws.conn:send(encode(kind, data))
  d.full = is_low == false or nil
  return is_low, message, code
end

-- Sends a text, which must be UTF-8. Result as of conn:send: false says that the peer is slow.
function Socket:send(text)
  if type(text) ~= "string" or not utf8.len(text) then
    error("ws:send: a string of UTF-8 expected; use ws:send_binary for others", 2)
  end
  return send(self, "text", text)
end

function Socket:send_binary(bytes)
  frames.check("ws:send_binary", "binary", bytes)
  return send(self, "binary", bytes)
end

function Socket:ping(payload)
  payload = payload or ""
  frames.check("ws:ping", "ping", payload)
  return send(self, "ping", payload)
end

-- Begins the closing handshake: nothing more is sent, and what comes is no longer told.
function Socket:close(code, reason)
  code = code or 1000
  local payload = frames.close_payload("ws:close", code, reason)
  local conn = self.conn
  if not send(self, "close", payload) and not conn.state then
    return nil, "closed", "closed"
  end
  local d = conn.state.websocket
  if not d.closing then
    d.closing, d.close_code, d.close_reason = true, code, reason or ""
    d.close_by = portico.monotonic() + FAREWELL -- for who goes on sending; no timer, since that ends with this version of the script
    conn:set { idle = FAREWELL } -- for who is silent
  end
  return true
end

-- Iterates over the clients of this worker that have not begun to close.
function server.each()
  local next_conn = portico.conns()
  return function()
    for conn in next_conn do
      local d = conn.state and conn.state.websocket
      if d and not d.closing then
        return socket_of(conn)
      end
    end
  end
end

-- The end: with the peer's code, or for a fault of the peer's with ours.
local function finish(conn, d, code, reason, is_fault)
  if not d.closing then
    local payload = frames.close_payload("websocket", code ~= 1005 and code or nil, is_fault and reason or "")
    conn:send(encode("close", payload))
    d.closing, d.close_code, d.close_reason = true, code, reason
  end
  conn:close()
end

local function choose_protocol(options, req)
  local offered = req.headers["sec-websocket-protocol"]
  for _, wanted in ipairs(offered and options.protocols or {}) do
    for name in offered:gmatch("[^%s,]+") do
      if name == wanted then
        return name
      end
    end
  end
end

local OWN <const> = { on_open = "function", on_message = "function", on_close = "function", check = "function",
  protocols = "table", max_message = "number", ping = "number" }
local ALL <const> = {} -- of websocket.server
for _, kinds in ipairs { OWN, options_of.HTTP_SERVER } do
  for name, kind in pairs(kinds) do
    ALL[name] = kind
  end
end

-- websocket.protocol() with options that have been looked at.
local function make_protocol(options)
  if not options.on_message then
    error("websocket: on_message: function expected, got nil", 0)
  end
  local on_message, on_open, on_close = options.on_message, options.on_open, options.on_close
  local protocol = { lasting = "websocket" }

  function protocol.accept(conn, req, res)
    local key = req.headers["sec-websocket-key"]
    if req.method ~= "GET" or not key or #(codec.unbase64(key) or "") ~= 16 then
      res:send(400, "not a WebSocket handshake\n")
      return false
    elseif req.headers["sec-websocket-version"] ~= "13" then
      res:send(426, "WebSocket version 13 is spoken here\n", { ["Sec-WebSocket-Version"] = "13" })
      return false
    elseif options.check and not options.check(req) then
      res:send(403, "not allowed\n")
      return false
    end
    conn:send(http1.response_head(101, {
      Upgrade = "websocket", Connection = "Upgrade", ["Sec-WebSocket-Accept"] = websocket.accept_key(key),
      ["Sec-WebSocket-Protocol"] = choose_protocol(options, req),
    }), "\r\n")
    conn.state.websocket = frames.decoder { max_message = options.max_message }
    if on_open then
      on_open(socket_of(conn), req)
    end
    return true
  end

  local function serve(conn, d)
    local ws = socket_of(conn)
    while true do
      local what, value, text = next_message(d)
      if not what then
        if what == nil then
          finish(conn, d, value, text, true)
        end
        return
      elseif what == "close" then
        return finish(conn, d, value, text)
      elseif not d.closing then
        if what == "ping" then
          send(ws, "pong", value)
        elseif what ~= "pong" then
          on_message(ws, value, what == "binary")
        end
        if d.full then
          d.full = nil
          if not conn:flush() then -- the peer takes less than it is sent: wait for it
            return
          end
        end
      end
    end
  end

  function protocol.on_message(conn, data)
    local d = conn.state.websocket
    if d.close_by and portico.monotonic() > d.close_by then
      conn:close()
    elseif feed(d, data) then
      serve(conn, d)
    end
  end

  function protocol.on_close(conn)
    local d = conn.state.websocket
    local ws = socket_of(conn)
    sockets[conn] = nil
    if on_close and d then
      on_close(ws, d.close_code or 1006, d.close_reason or "")
    end
  end

  -- A handler has raised, or was ended while it waited, which has been logged.
  function protocol.on_error(conn)
    local d = conn.state.websocket
    if d and not d.closing then
      finish(conn, d, 1011, "internal error", true)
      return "keep"
    end
  end

  if options.ping then
    portico.every(options.ping, function()
      for ws in server.each() do
        ws:ping()
      end
    end)
  end
  return protocol
end

-- What http1.server takes in its option upgrade: { websocket = websocket.protocol { … } }. options:
--   on_open(ws, req)               a client is there, which asked with that request
--   on_message(ws, data, binary)   a message; binary is true or false
--   on_close(ws, code, reason)     once; 1005: no code was given, 1006: the connection ended without a farewell
--   check(req)                     before that: false refuses with 403, as for an Origin that has no business here
--   protocols                      names for Sec-WebSocket-Protocol, in the order in which they are preferred
--   max_message                    bytes (1 MiB)
--   ping                           seconds between pings to every client (none), so that an idle limit spares the living
function server.protocol(options)
  options_of.check_server("websocket", options, OWN)
  return make_protocol(options)
end

-- A script for WebSocket, options as for websocket.protocol; other requests go to options.on_request, as of
-- http1.server; without one they are answered with 426.
function server.server(options)
  options_of.check_server("websocket", options, ALL)
  local script = { upgrade = { websocket = make_protocol(options) } }
  for key, value in pairs(options) do
    if not OWN[key] then
      script[key] = value
    end
  end
  script.on_request = script.on_request or function()
    return 426, "This is for WebSocket.\n", { Upgrade = "websocket", Connection = "Upgrade" }
  end
  return http1.server(script)
end

return server
