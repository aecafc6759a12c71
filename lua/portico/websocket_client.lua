-- websocket_client.lua - websocket.connect(url, options): connects to "ws://HOST:PORT/PATH" and shakes hands.
--
-- options: headers, timeout of both together in seconds (10), max_message (1 MiB).
--
-- Returns a client, with the protocol that the server has chosen, if any; or nil, message, code. It waits, so it is for handlers,
-- timers and tasks.

local frames = require "portico.websocket_frames"
local http1 = require "portico.http1"
local websocket = require "portico.websocket"
local check_all = require("portico.options").check_all

local Client = {}
Client.__index = Client

-- Sends a message. kind: "text" (the default), "binary", "ping". Result as of conn:send.
function Client:send(data, kind)
  kind = kind or "text"
  frames.check("client:send", kind, data)
  return self.conn:send(frames.encode(kind, data, true))
end

-- Waits for the next message, and at most so many seconds: the data, and "text" or "binary"; or nil, message, code: "timeout", "closed"
-- with the close code and reason behind it, or what conn:read says. Pings are answered meanwhile.
function Client:receive(timeout)
  local deadline, left = timeout and portico.monotonic() + timeout, timeout
  while true do
    if self.closed then -- what comes behind a close does not count
      return nil, "closed", "closed"
    end
    local what, value, reason = frames.next(self.decoder)
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
      frames.feed(self.decoder, data)
      left = deadline and deadline - portico.monotonic()
    end
  end
end

-- Says farewell, and closes.
function Client:close(code, reason)
  local payload = frames.close_payload("client:close", code, reason)
  if not self.closed then
    self.closed = true
    self.conn:send(frames.encode("close", payload, true))
    self.conn:close()
  end
end
Client.__close = function(ws) ws:close(1000) end

-- The protocols that a request's headers offer.
local function offered_in(headers)
  for name, value in pairs(headers or {}) do
    if name:lower() == "sec-websocket-protocol" then
      return type(value) == "table" and table.concat(value, ",") or value
    end
  end
  return ""
end

return function(url, options)
  options = options or {}
  check_all("websocket.connect", options, { headers = "table", timeout = "number", max_message = "number" })
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
  local d = frames.decoder { role = "client", max_message = options.max_message }
  return setmetatable({ conn = conn, decoder = d, protocol = protocol }, Client)
end
