-- websocket.lua - WebSocket (RFC 6455): frames and messages for both sides, the handshake, and, in files of their own, a client and
-- a server on http1.
--
--   local websocket = require "portico.websocket"
--   return websocket.server { on_message = function(ws, data) ws:send(data) end }
--
-- Extensions (permessage-deflate) are declined by not being mentioned in the answer.

local codec = require "portico.codec"
local frames = require "portico.websocket_frames"
local http1 = require "portico.http1"

local websocket = {}

local GUID <const> = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

-- ---- Frames -------------------------------------------------------------------------------------

-- See websocket_frames.lua.
websocket.decoder, websocket.feed, websocket.next = frames.decoder, frames.feed, frames.next

-- A frame as bytes. kind: "text", "binary", "ping", "pong", "close", or "continuation". options: masked (true
-- for a client), last (false when a continuation will follow). Raises for what a peer would refuse.
function websocket.frame(kind, payload, options)
  local is_part = options and options.last == false
  frames.check("websocket.frame", kind, payload, is_part)
  return frames.encode(kind, payload, options and options.masked, is_part)
end

-- The payload of a close frame. Raises for a code or a reason that may not be sent.
function websocket.close_payload(code, reason)
  return (frames.close_payload("websocket.close_payload", code, reason))
end

-- ---- The handshake ------------------------------------------------------------------------------

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

-- ---- Clients and servers ------------------------------------------------------------------------

-- See websocket_client.lua.
function websocket.connect(url, options)
  return require("portico.websocket_client")(url, options)
end

-- For these see websocket_server.lua.
function websocket.protocol(options)
  return require("portico.websocket_server").protocol(options)
end

function websocket.server(options)
  return require("portico.websocket_server").server(options)
end

function websocket.each()
  return require("portico.websocket_server").each()
end

return websocket
