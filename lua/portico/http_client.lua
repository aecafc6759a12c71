-- http_client.lua - http1.fetch(url, options): one request over a connection of its own, and its response.
--
-- options: method ("GET", or "POST" with a body), headers, body, timeout in seconds for all of it (30),
-- max_body (16 MiB), connect = function(address) that returns a connection, instead of portico.connect.
--
-- Returns the response, as http1.next does, with body and without the headers that were for the connection only; or nil, message,
-- code. It waits, so it is for handlers, timers and tasks. Redirects are not followed; https is not spoken.

local http1 = require "portico.http1"
local gather = require("portico.buffer").gather
local check_all = require("portico.options").check_all

local TIMEOUT <const>, BODY_MAX <const> = 30, 16 << 20

local OPTIONS <const> = { method = "string", headers = "table", body = "string", timeout = "number", max_body = "number",
  connect = "function" }
local OURS <const> = { host = "Host", connection = "Connection" } -- headers that are there, and may be given, too
local PASSING <const> = { "connection", "keep-alive", "proxy-connection", "transfer-encoding", "trailer" }

-- Host, port and target of a URL; nil for what is none.
local function parse(url)
  local scheme, authority, target = url:match("^(%a[%w+.-]*)://([^/?#]+)([^#]*)")
  if not scheme or scheme:lower() ~= "http" then
    return nil, scheme and scheme .. " is not spoken, only http" or "not a URL: " .. url
  end
  local host, port = authority:match("^(%[[%x:.]+%]):?(%d*)$")
  if not host then
    host, port = authority:match("^([^:@]+):?(%d*)$")
  end
  if not host then
    return nil, "not the authority of a URL: " .. authority
  end
  return host, port ~= "" and port or "80", target:find("^/") and target or "/" .. target, authority
end

local function receive(conn, d)
  local response, parts = nil, {}
  while true do
    local what, value, text = http1.next(d)
    if what == false then
      local data, message, code = conn:read(-65536)
      if data then
        http1.feed(d, data)
      elseif code ~= "eof" then
        return nil, message, code
      else
        what, value, text = http1.finish(d)
        if not what then
          return nil, text or "the server has closed without an answer", "eof"
        end
      end
    end
    if what == "head" then
      response = not value.interim and value or response
    elseif what == "data" then
      gather(parts, value)
    elseif what == "end" and response then
      response.body, response.trailers = table.concat(parts), value
      for _, name in ipairs(PASSING) do
        response.headers[name] = nil -- it is whole now: who passes it on is not to say that it comes in chunks
      end
      return response
    elseif what == nil then
      return nil, text, "protocol"
    end
  end
end

return function(url, options)
  options = options or {}
  if type(url) ~= "string" then
    error("http1.fetch: url: string expected, got " .. type(url), 0)
  end
  check_all("http1.fetch", options, OPTIONS)
  local host, port, target, authority = parse(url)
  if not host then
    return nil, port, "invalid"
  end
  local method = options.method or options.body and "POST" or "GET"
  local headers = { Host = authority, Connection = "close" }
  for name, value in pairs(options.headers or {}) do
    headers[OURS[tostring(name):lower()] or name] = value
  end
  local request = http1.request(method, target, headers, options.body)
  return portico.timeout(options.timeout or TIMEOUT, function()
    local conn <close>, message, code = (options.connect or portico.connect)("tcp://" .. host .. ":" .. port)
    if not conn then
      return nil, message, code
    end
    local sent, why, cause = conn:send(request)
    if sent == false then
      conn:flush() -- if the server closes meanwhile, it may have said why
    elseif not sent then
      return nil, why, cause
    end
    local d = http1.decoder { role = "response", max_body = options.max_body or BODY_MAX }
    http1.sent(d, method)
    return receive(conn, d)
  end)
end
