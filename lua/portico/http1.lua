-- http1.lua - HTTP/1.1 and 1.0: decoding and encoding of messages, for servers and clients. http_decoder.lua decodes, http_server.lua
-- builds a server on it, which http1.server returns, and http_client.lua a client, http1.fetch.
--
--   local http1 = require "portico.http1"
--   return http1.server { on_request = function(req) return "You asked for " .. req.target .. "\n" end }

local decoder = require "portico.http_decoder"
local note = require "portico.http_headers"

local find, format = string.find, string.format

local http1 = {}

-- ---- Decoding -----------------------------------------------------------------------------------

-- See http_decoder.lua.
http1.decoder, http1.feed, http1.next, http1.sent, http1.finish = decoder.new, decoder.feed, decoder.next, decoder.sent, decoder.finish
http1.has_word = decoder.has_word

-- ---- Encoding -----------------------------------------------------------------------------------

http1.REASONS = {
  [100] = "Continue", [101] = "Switching Protocols", [200] = "OK", [201] = "Created", [202] = "Accepted",
  [204] = "No Content", [206] = "Partial Content", [301] = "Moved Permanently", [302] = "Found", [303] = "See Other",
  [304] = "Not Modified", [307] = "Temporary Redirect", [308] = "Permanent Redirect", [400] = "Bad Request",
  [401] = "Unauthorized", [403] = "Forbidden", [404] = "Not Found", [405] = "Method Not Allowed", [406] = "Not Acceptable",
  [408] = "Request Timeout", [409] = "Conflict", [410] = "Gone", [411] = "Length Required", [412] = "Precondition Failed",
  [413] = "Content Too Large", [414] = "URI Too Long", [415] = "Unsupported Media Type", [416] = "Range Not Satisfiable",
  [417] = "Expectation Failed", [421] = "Misdirected Request", [422] = "Unprocessable Content", [426] = "Upgrade Required",
  [429] = "Too Many Requests", [431] = "Request Header Fields Too Large", [500] = "Internal Server Error",
  [501] = "Not Implemented", [502] = "Bad Gateway", [503] = "Service Unavailable", [504] = "Gateway Timeout",
  [505] = "HTTP Version Not Supported",
}

-- The lines of headers, which may be nil, and of a body's length; and what note() found. Raises when they contradict each other. No
-- body is one that the headers may announce: it follows, or HEAD does not want it.
local function head_lines(where, headers, body)
  local noted, problem = note(headers or {})
  if not noted then
    error(where .. ": " .. problem, 3)
  elseif body and noted["transfer-encoding"] then
    error(where .. ": Transfer-Encoding: a body that is a string has a Content-Length", 3)
  elseif body and (noted["content-length"] or #body) ~= #body then
    error(format("%s: Content-Length: %d as of the body expected, got %d", where, #body, noted["content-length"]), 3)
  end
  local is_told = not body or noted["content-length"]
  return is_told and noted.lines or noted.lines .. "Content-Length: " .. #body .. "\r\n", noted
end

local function status_line(status)
  return format("HTTP/1.1 %d %s\r\n", status, http1.REASONS[status] or "")
end

-- The head of a response, up to the empty line, which is not there yet.
function http1.response_head(status, headers)
  return status_line(status) .. (head_lines("http1.response_head", headers))
end

local function check_line(where, name, text, pattern)
  if type(text) ~= "string" or not find(text, pattern) then
    error(format("%s: %s: %s is not possible there", where, name, tostring(text)), 3)
  end
end

-- A request as bytes. headers and body may be nil; Content-Length is added to a body.
function http1.request(method, target, headers, body)
  check_line("http1.request", "method", method, "^[%w!#$%%&'*+%-.^_`|~]+$")
  check_line("http1.request", "target", target, "^[\33-\126\128-\255]+$")
  local lines = head_lines("http1.request", headers, body)
  return method .. " " .. target .. " HTTP/1.1\r\n" .. lines .. "\r\n" .. (body or "")
end

-- A response as bytes, with its Content-Length.
function http1.response(status, headers, body)
  if math.type(status) ~= "integer" then
    error("http1.response: status: integer expected, got " .. type(status), 2)
  elseif body ~= nil and type(body) ~= "string" then
    error("http1.response: body: string expected, got " .. type(body), 2)
  end
  local has_body = status >= 200 and status ~= 204 and status ~= 304
  local lines, noted = head_lines("http1.response", headers, has_body and body)
  if has_body and not body and not noted["content-length"] and not noted["transfer-encoding"] then
    lines = lines .. "Content-Length: 0\r\n"
  end
  return status_line(status) .. lines .. "\r\n" .. (has_body and body or "")
end

-- A piece of a chunked body; an empty one is nothing, since it would end the body.
function http1.chunk(bytes)
  return bytes == "" and "" or format("%x\r\n%s\r\n", #bytes, bytes)
end

-- The end of a chunked body.
function http1.last_chunk(trailers)
  return "0\r\n" .. head_lines("http1.last_chunk", trailers) .. "\r\n"
end

-- ---- Text in targets ----------------------------------------------------------------------------

-- "%41" becomes "A". Nil when a % is not followed by two digits.
function http1.unescape(text)
  if find(text, "%%%X") or find(text, "%%%x%X") or find(text, "%%%x?$") then
    return nil
  end
  return (text:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

-- All but letters, digits and -._~ become %XX; keep is a set of further bytes to keep, as in "/".
function http1.escape(text, keep)
  return (text:gsub("[^%w%-._~" .. (keep or ""):gsub("%W", "%%%0") .. "]", function(c) return format("%%%02X", c:byte()) end))
end

-- The fields of a query ("a=1&b=two+words") or a form, by name; of a name that comes more than once the last.
function http1.fields(text)
  local fields = {}
  for name, value in (text or ""):gmatch("([^&=]+)=?([^&]*)") do
    name, value = http1.unescape((name:gsub("+", " "))), http1.unescape((value:gsub("+", " ")))
    if name and value then
      fields[name] = value
    end
  end
  return fields
end

-- Seconds since 1970 as HTTP writes dates.
function http1.date(time)
  return os.date("!%a, %d %b %Y %H:%M:%S GMT", math.tointeger(time // 1))
end

-- See http_server.lua.
function http1.server(options)
  return require("portico.http_server")(options)
end

-- See http_client.lua.
function http1.fetch(url, options)
  return require("portico.http_client")(url, options)
end

return http1
