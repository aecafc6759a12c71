-- websocket.lua - WebSocket (RFC 6455): frames and messages for both sides, the handshake, a server on http1.
--
--   local websocket = require "portico.websocket"
--   return websocket.server { on_message = function(ws, data) ws:send(data) end }
--
-- A decoder is a table of plain data, to be kept in conn.state. Extensions (permessage-deflate) are declined
-- by not being mentioned in the answer.

local buffer = require "portico.buffer"
local codec = require "portico.codec"
local http1 = require "portico.http1"
local options_of = require "portico.options"

local byte, sub, pack, unpack = string.byte, string.sub, string.pack, string.unpack
local concat = table.concat
local feed, want = buffer.feed, buffer.want
local mask = codec.mask

local websocket = {}

local GUID <const> = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
local MESSAGE_MAX <const> = 1 << 20
local CONTROL_MAX <const> = 125
local REASON_MAX <const> = CONTROL_MAX - 2 -- the code is before it
local PARTS_MAX <const> = 4096 -- pieces of a message that are kept apart
local FAREWELL <const> = 5 -- seconds for the peer to answer a close

local OPCODES <const> = { continuation = 0, text = 1, binary = 2, close = 8, ping = 9, pong = 10 }
local CONTROLS <const> = { [8] = "close", [9] = "ping", [10] = "pong" }

-- ---- Decoding -----------------------------------------------------------------------------------

-- options: role "server" (what a server reads: masked frames; the default) or "client"; max_message bytes (1 MiB).
function websocket.decoder(options)
  local d = buffer.new()
  d.masked = (options and options.role or "server") == "server"
  d.max_message = options and options.max_message or MESSAGE_MAX
  return d
end

-- Adds bytes that came. True when it is worth calling websocket.next.
websocket.feed = feed

local function fail(d, code, text)
  d.code, d.why = code, text
  return nil, code, text
end

-- A code that may stand in a close frame: RFC 6455, section 7.4, and the registry of IANA.
local function is_code(code)
  return code >= 1000 and code <= 1003 or code >= 1007 and code <= 1014 or code >= 3000 and code <= 4999
end

local function take_close(d, payload)
  if payload == "" then
    return "close", 1005, ""
  elseif #payload == 1 then
    return fail(d, 1002, "half a close code")
  end
  local code, reason = unpack(">I2", payload), sub(payload, 3)
  if not is_code(code) then
    return fail(d, 1002, "wrong close code")
  elseif not utf8.len(reason) then
    return fail(d, 1007, "close reason is not UTF-8")
  end
  return "close", code, reason
end

local function take_message(d, kind, data)
  if kind == 1 then
    if not utf8.len(data) then
      return fail(d, 1007, "text is not UTF-8")
    end
    return "text", data
  end
  return "binary", data
end

-- A piece of a fragmented message.
local function take_part(d, data, is_last)
  local parts = d.fragments
  d.fragments_size = d.fragments_size + #data
  if data ~= "" then
    parts[#parts + 1] = data
    if #parts >= PARTS_MAX then
      d.fragments = { concat(parts) }
    end
  end
  if not is_last then
    return true
  end
  local kind, whole = d.fragmented, concat(parts)
  d.fragmented, d.fragments, d.fragments_size = nil, nil, nil
  return take_message(d, kind, whole)
end

-- Reads one frame. Like websocket.next; or true: on to the next.
local function read_frame(d)
  local data, pos = d.data, d.pos
  local first, second = byte(data, pos, pos + 1)
  if not second then
    return want(d, 2)
  end
  local opcode, is_last, size = first & 15, first >= 128, second & 127
  local is_masked = second >= 128
  if first & 0x70 ~= 0 then
    return fail(d, 1002, "reserved bits are set")
  elseif is_masked ~= d.masked then
    return fail(d, 1002, is_masked and "frame of a server is masked" or "frame of a client is not masked")
  elseif opcode > 10 or opcode > 2 and opcode < 8 then
    return fail(d, 1002, "unknown opcode")
  elseif opcode >= 8 and (not is_last or size > CONTROL_MAX) then
    return fail(d, 1002, "control frame is fragmented or too long")
  elseif opcode == 0 and not d.fragmented then
    return fail(d, 1002, "nothing to continue")
  elseif (opcode == 1 or opcode == 2) and d.fragmented then
    return fail(d, 1002, "the message before is not complete")
  end
  local head = 2 + (size == 126 and 2 or size == 127 and 8 or 0) + (is_masked and 4 or 0)
  local there = #data - pos + 1
  if there < head then
    return want(d, head)
  end
  if size == 126 then
    size = unpack(">I2", data, pos + 2)
    if size < 126 then
      return fail(d, 1002, "length is not as short as it could be")
    end
  elseif size == 127 then
    size = unpack(">i8", data, pos + 2)
    if size < 65536 then
      return fail(d, 1002, "length is not as short as it could be")
    end
  end
  if opcode < 8 and size + (d.fragments_size or 0) > d.max_message then
    return fail(d, 1009, "message too large")
  elseif there < head + size then
    return want(d, head + size)
  end
  local start = pos + head
  local payload = sub(data, start, start + size - 1)
  if is_masked then
    payload = mask(payload, sub(data, start - 4, start - 1))
  end
  d.pos = start + size
  if opcode >= 8 then
    if opcode == 8 then
      return take_close(d, payload)
    end
    return CONTROLS[opcode], payload
  elseif is_last and opcode ~= 0 then
    return take_message(d, opcode, payload)
  elseif opcode ~= 0 then
    d.fragmented, d.fragments, d.fragments_size = opcode, {}, 0
  end
  return take_part(d, payload, is_last)
end

-- The next message or control frame: "text", string; "binary", string; "ping", string; "pong", string;
-- "close", code, reason (1005 when there was no code); false: more bytes are needed; nil, code, text: it is
-- wrong, close with that code.
function websocket.next(d)
  if d.code then
    return nil, d.code, d.why
  end
  local what, value, text
  repeat
    what, value, text = read_frame(d)
  until what ~= true
  return what, value, text
end

-- ---- Encoding -----------------------------------------------------------------------------------

-- Raises when that is nothing to send. where: the function that the script has called; is_part: more of the message is to follow.
local function check_frame(where, kind, payload, is_part)
  local opcode = OPCODES[kind]
  if not opcode then
    error(where .. ": kind: text, binary, ping, pong, close or continuation expected, got " .. tostring(kind), 3)
  elseif type(payload) ~= "string" then
    error(where .. ": payload: string expected, got " .. type(payload), 3)
  elseif opcode >= 8 and (is_part or #payload > CONTROL_MAX) then
    error(where .. ": at most 125 bytes expected in a control frame, in one part", 3)
  elseif opcode == 1 and not is_part and not utf8.len(payload) then
    error(where .. ": a text is UTF-8; other bytes are sent as binary", 3)
  elseif opcode == 8 and not take_close({}, payload) then
    error(where .. ": payload: one as of websocket.close_payload expected", 3)
  end
end

-- A frame that has been checked.
local function encode(kind, payload, is_masked, is_part)
  local size, first, bit = #payload, OPCODES[kind] + (is_part and 0 or 128), is_masked and 128 or 0
  local head
  if size < 126 then
    head = pack("BB", first, bit + size)
  elseif size < 65536 then
    head = pack(">BBI2", first, bit + 126, size)
  else
    head = pack(">BBI8", first, bit + 127, size)
  end
  if not is_masked then
    return head .. payload
  end
  local key = codec.random(4)
  return head .. key .. mask(payload, key)
end

-- A frame as bytes. kind: "text", "binary", "ping", "pong", "close", or "continuation". options: masked (true
-- for a client), last (false when a continuation will follow). Raises for what a peer would refuse.
function websocket.frame(kind, payload, options)
  local is_part = options and options.last == false
  check_frame("websocket.frame", kind, payload, is_part)
  return encode(kind, payload, options and options.masked, is_part)
end

local function close_payload(where, code, reason)
  if code == nil then
    return ""
  elseif math.type(code) ~= "integer" or not is_code(code) then
    error(where .. ": code: one that may be sent expected (1000, 1001, 3000 to 4999, …), got " .. tostring(code), 3)
  elseif reason ~= nil and (type(reason) ~= "string" or #reason > REASON_MAX or not utf8.len(reason)) then
    error(where .. ": reason: at most 123 bytes of UTF-8 expected", 3)
  end
  return pack(">I2", code) .. (reason or "")
end

-- The payload of a close frame. Raises for a code or a reason that may not be sent.
function websocket.close_payload(code, reason)
  return (close_payload("websocket.close_payload", code, reason))
end

-- What Sec-WebSocket-Accept must be for a key.
function websocket.accept_key(key)
  return codec.base64(codec.sha1(key .. GUID))
end

-- A client's handshake: the bytes, and the key by which websocket.check_response knows the answer.
function websocket.request(host, target, headers)
  local key = codec.base64(codec.random(16))
  local all = { Host = host, Upgrade = "websocket", Connection = "Upgrade", ["Sec-WebSocket-Key"] = key,
    ["Sec-WebSocket-Version"] = "13" }
  for name, value in pairs(headers or {}) do
    for own in pairs(all) do
      name = tostring(name):lower() == own:lower() and own or name
    end
    all[name] = value
  end
  return http1.request("GET", target, all), key
end

local function is_among(name, list)
  for item in list:gmatch("[^%s,]+") do
    if item == name then
      return true
    end
  end
  return false
end

-- True when a response (of http1) accepts the handshake; else nil and why. offered: the names of protocols that were asked for,
-- separated by commas; without it the server's choice is not looked at.
function websocket.check_response(response, key, offered)
  local protocol = response.headers["sec-websocket-protocol"]
  if response.status ~= 101 or response.upgrade ~= "websocket" then
    return nil, "the server does not upgrade: " .. response.status .. " " .. response.reason
  elseif response.headers["sec-websocket-accept"] ~= websocket.accept_key(key) then
    return nil, "the server's key is wrong"
  elseif response.headers["sec-websocket-extensions"] then
    return nil, "the server wants an extension"
  elseif protocol and offered and not is_among(protocol, offered) then
    return nil, "the server wants a protocol that was not offered: " .. protocol
  end
  return true
end

-- ---- A client -----------------------------------------------------------------------------------

local Client = {}
Client.__index = Client

-- The protocols that a request's headers offer.
local function offered_in(headers)
  for name, value in pairs(headers or {}) do
    if name:lower() == "sec-websocket-protocol" then
      return type(value) == "table" and concat(value, ",") or value
    end
  end
  return ""
end

-- Connects to "ws://HOST:PORT/PATH" and shakes hands. Returns a client, with the protocol that the server has chosen, if any, or nil, message, code. options:
-- headers, timeout of both together in seconds (10), max_message (1 MiB).
function websocket.connect(url, options)
  options = options or {}
  options_of.check_all("websocket.connect", options, { headers = "table", timeout = "number", max_message = "number" })
  local authority, target = url:match("^ws://([^/?#]+)([^#]*)$")
  if not authority then
    return nil, "not a URL that begins with ws://: " .. url, "invalid"
  end
  local address = authority:find(":%d+$") and authority or authority .. ":80"
  local timeout = options.timeout or 10
  local deadline = portico.monotonic() + timeout
  local conn, message, code = portico.connect("tcp://" .. address, { timeout = timeout })
  if not conn then
    return nil, message, code
  end
  local request, key = websocket.request(authority, target:find("^/") and target or "/" .. target, options.headers)
  conn:send(request)
  local head, protocol
  head, message, code = conn:read_until("\r\n\r\n", { max = 16384, timeout = math.max(deadline - portico.monotonic(), 0) })
  local ok = false
  if head then
    local d = http1.decoder { role = "response" }
    http1.feed(d, head .. "\r\n\r\n")
    local what, response = http1.next(d)
    ok, message = nil, "the server does not speak HTTP"
    if what == "head" then
      ok, message = websocket.check_response(response, key, offered_in(options.headers))
      protocol = response.headers["sec-websocket-protocol"]
    end
    code = "protocol"
  end
  if not ok then
    conn:abort()
    return nil, message, code
  end
  local d = websocket.decoder { role = "client", max_message = options.max_message }
  return setmetatable({ conn = conn, decoder = d, protocol = protocol }, Client)
end

-- Sends a message. kind: "text" (the default), "binary", "ping". Result as of conn:send.
function Client:send(data, kind)
  kind = kind or "text"
  check_frame("client:send", kind, data)
  return self.conn:send(encode(kind, data, true))
end

-- Waits for the next message, and at most so many seconds: the data, and "text" or "binary"; or nil, message, code: "timeout", "closed"
-- with the close code and reason behind it, or what conn:read says. Pings are answered meanwhile.
function Client:receive(timeout)
  local deadline, left = timeout and portico.monotonic() + timeout, timeout
  while true do
    if self.closed then -- what comes behind a close does not count
      return nil, "closed", "closed"
    end
    local what, value, reason = websocket.next(self.decoder)
    if what == "text" or what == "binary" then
      return value, what
    elseif what == "ping" then
      self:send(value, "pong")
    elseif what == "close" then
      self:close(value ~= 1005 and value or nil)
      return nil, "closed by the server", "closed", value, reason
    elseif what == nil then
      self:close(value)
      return nil, reason, "protocol"
    elseif not what then
      if left and left < 0 then
        return nil, "timeout", "timeout"
      end
      local data, message, code = self.conn:read(-65536, left)
      if not data then
        return nil, message, code
      end
      feed(self.decoder, data)
      left = deadline and deadline - portico.monotonic()
    end
  end
end

-- Says farewell, and closes.
function Client:close(code, reason)
  local payload = close_payload("client:close", code, reason)
  if not self.closed then
    self.closed = true
    self.conn:send(encode("close", payload, true))
    self.conn:close()
  end
end
Client.__close = function(ws) ws:close(1000) end

-- ---- A server -----------------------------------------------------------------------------------

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
  check_frame("ws:send_binary", "binary", bytes)
  return send(self, "binary", bytes)
end

function Socket:ping(payload)
  payload = payload or ""
  check_frame("ws:ping", "ping", payload)
  return send(self, "ping", payload)
end

-- Begins the closing handshake: nothing more is sent, and what comes is no longer told.
function Socket:close(code, reason)
  code = code or 1000
  local payload = close_payload("ws:close", code, reason)
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
function websocket.each()
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
    local payload = close_payload("websocket", code ~= 1005 and code or nil, is_fault and reason or "")
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
  local next_message = websocket.next
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
    conn.state.websocket = websocket.decoder { max_message = options.max_message }
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

  -- A handler has raised, which has been logged.
  function protocol.on_error(conn)
    local d = conn.state.websocket
    if d and not d.closing then
      finish(conn, d, 1011, "internal error", true)
      return "keep"
    end
  end

  if options.ping then
    portico.every(options.ping, function()
      for ws in websocket.each() do
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
function websocket.protocol(options)
  options_of.check_server("websocket", options, OWN)
  return make_protocol(options)
end

-- A script for WebSocket, options as for websocket.protocol; other requests go to options.on_request, as of
-- http1.server; without one they are answered with 426.
function websocket.server(options)
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

return websocket
