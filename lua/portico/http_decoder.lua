-- http_decoder.lua - bytes of HTTP/1.1 and 1.0 become requests or responses. http1 hands these functions on.
--
-- A decoder is a table of plain data, to be kept in conn.state. It is strict where leniency has let requests
-- be smuggled past other servers (RFC 9112, sections 2.2, 5, 6 and 11.2): lines end with CRLF; no blanks
-- before a colon, no folded lines, no control characters; one Content-Length of digits, or chunked as the
-- only coding, not both.

local buffer = require "portico.buffer"
local check_all = require("portico.options").check_all

local byte, find, lower, match, sub = string.byte, string.find, string.lower, string.match, string.sub
local tointeger = math.tointeger
local want, want_mark = buffer.want, buffer.want_mark

local decoder = {}

local LIMITS <const> = { max_head = 16384, max_headers = 100, max_body = 1 << 20 }
local OPTIONS <const> = { role = "string", max_head = "number", max_headers = "number", max_body = "number" }
local CHUNK_LINE_MAX <const> = 256 -- bytes of a chunk's size and extensions
local CHUNK_DIGITS_MAX <const> = 8
local EMPTY_LINES_MAX <const> = 4 -- before a message

local TOKEN <const> = "[%w!#$%%&'*+%-.^_`|~]+"
local HEADER <const> = "^(" .. TOKEN .. "): ?([^%c]*)$"
local REQUEST <const> = "^(" .. TOKEN .. ") ([\33-\126\128-\255]+) HTTP/1%.(%d)$"
local HOST <const> = "^[%w%-._~!$&'()*+,;=:%%%[%]]*$" -- RFC 3986, sections 3.2.2 and 3.2.3
local RESPONSE <const> = "^HTTP/1%.(%d) (%d%d%d) ?([^%c]*)$"

-- options: role "request" (what a server reads, the default) or "response"; max_head bytes of request line
-- and headers (16 KiB), max_headers (100), max_body bytes of one body (1 MiB).
function decoder.new(options)
  local d = buffer.new()
  if options then
    check_all("http1.decoder", options, OPTIONS)
  end
  for name, default in pairs(LIMITS) do
    d[name] = options and options[name] or default
  end
  d.role = options and options.role or "request"
  d.mode = "head"
  return d
end

-- Adds bytes that came. True when it is worth calling next.
decoder.feed = buffer.feed

local function fail(d, status, text)
  d.mode, d.status, d.reason = "failed", status, text
  return nil, status, text
end

local function trim(value)
  local last = #value
  while last > 0 and find(value, "^[ \t]", last) do
    last = last - 1
  end
  return sub(value, find(value, "[^ \t]") or 1, last)
end

-- Lines come again and again, and to look for one costs less than to read it. So what was read of a line is kept, by its text. When
-- that is full it begins anew; who sends other lines all the time is served as without it.
local KNOWN_MAX <const>, KNOWN_SIZE <const> = 512, 200 -- lines, and bytes of one

local function new_memory()
  return { lines = {}, count = 0 }
end

local function remember(memory, line, value)
  if #line > KNOWN_SIZE then
    return
  elseif memory.count == KNOWN_MAX then
    memory.lines, memory.count = {}, 0
  end
  memory.lines[line], memory.count = value, memory.count + 1
end

local known_headers, known_requests = new_memory(), new_memory()
local SECRET <const> = { authorization = true, cookie = true, ["proxy-authorization"] = true, ["set-cookie"] = true } -- not kept

-- Reads a header line, without its end. Returns { name in lower case, value }; or nil, what is wrong.
local function read_header(line)
  local name, value = match(line, HEADER)
  if not name then
    name, value = match(line, "^(" .. TOKEN .. "):([^\r\n]*)$")
    if find(line, "^[ \t]") then
      return nil, "folded header line"
    elseif not name then
      return nil, "malformed header line"
    elseif find(value, "[\0-\8\10-\31\127]") then
      return nil, "control character in a header"
    end
  end
  local head, tail = byte(value), byte(value, -1)
  if head == 32 or tail == 32 or head == 9 or tail == 9 then
    value = trim(value)
  end
  name = lower(name)
  if name == "host" and not find(value, HOST) then
    return nil, "malformed Host"
  end
  local header = { name, value }
  if not SECRET[name] then
    remember(known_headers, line, header)
  end
  return header
end

-- Reads header lines from pos up to stop, where the empty line begins. Returns a table, or nil, status, text. message: the
-- response that they belong to, or nil.
local function read_headers(d, message, pos, stop)
  local data, headers, count, most, known = d.data, {}, 0, d.max_headers, known_headers.lines
  while pos < stop do
    local last = find(data, "\r\n", pos, true)
    local line = sub(data, pos, last - 1)
    local header, problem = known[line], nil
    if not header then
      header, problem = read_header(line)
      if not header then
        return fail(d, 400, problem)
      end
    end
    count = count + 1
    if count > most then
      return fail(d, 431, "too many headers")
    end
    local name, value = header[1], header[2]
    local before = headers[name]
    if not before then
      headers[name] = value
    elseif name == "host" or name == "content-length" then
      return fail(d, 400, "more than one " .. name)
    elseif name ~= "set-cookie" or not message then
      headers[name] = before .. (name == "cookie" and "; " or ", ") .. value
    end
    if name == "set-cookie" and message then -- the one list whose items may contain commas
      message.cookies = message.cookies or {}
      message.cookies[#message.cookies + 1] = value
    end
    pos = last + 2
  end
  return headers
end

-- True when the word is among the comma-separated ones of a header.
local function has_word(value, word)
  for item in value:gmatch("[^,%s]+") do
    if lower(item) == word then
      return true
    end
  end
  return false
end
decoder.has_word = has_word

-- What the headers say of the body. Sets d.mode for it.
local function frame_body(d, message)
  local headers = message.headers
  local coding, size = headers["transfer-encoding"], headers["content-length"]
  if coding and size then
    return fail(d, 400, "both Content-Length and Transfer-Encoding")
  elseif coding then
    if message.minor == 0 then
      return fail(d, 400, "Transfer-Encoding in HTTP/1.0")
    elseif lower(coding) ~= "chunked" then
      return fail(d, find(lower(coding), "chunked.*chunked") and 400 or 501, "unknown transfer coding")
    end
    message.chunked = true
    d.mode, d.size = "chunk", 0
  elseif size then
    local count = #size <= 15 and find(size, "^%d+$") and tointeger(size)
    if not count then
      return fail(d, 400, "malformed Content-Length")
    elseif count > d.max_body and not message.bodiless then
      return fail(d, 413, "body too large")
    end
    message.length = count
    d.mode, d.left, d.after = count > 0 and "data" or "end", count, "end"
  elseif d.role == "response" then
    d.mode, d.size = "rest", 0
  else
    d.mode = "end"
  end
  if message.bodiless then
    d.mode = "end"
  end
  return "head", message
end

-- What the Connection header says. A message of HTTP/1.1 without one keeps the connection.
local function read_connection(message, connection)
  if message.minor == 0 then
    message.keep_alive = has_word(connection, "keep-alive")
  elseif connection ~= "keep-alive" then
    message.keep_alive = not has_word(connection, "close")
    if has_word(connection, "upgrade") then
      message.upgrade = message.headers.upgrade and lower(message.headers.upgrade)
    end
  end
end

-- Reads a request line, without its end. Returns a table: method, target, path, query, authority, minor; or nil, status, text.
local function read_request_line(line)
  local method, target, minor = match(line, REQUEST)
  if not method then
    if find(line, "^" .. TOKEN .. " [\33-\126\128-\255]+ HTTP/%d%.%d$") then
      return nil, 505, "only HTTP/1.x is spoken here"
    end
    return nil, 400, "malformed request line"
  end
  local path, query, authority = target, nil, nil
  if byte(target) ~= 47 then -- not a path
    authority, path = match(target, "^%a[%w+.-]*://([^/?#]+)([^#]*)$")
    if path then
      path = find(path, "^/") and path or "/" .. path
    elseif target == "*" and method == "OPTIONS" or method == "CONNECT" then
      path = target
    else
      return nil, 400, "malformed request target"
    end
  end
  local question = find(path, "?", 1, true)
  if question then
    path, query = sub(path, 1, question - 1), sub(path, question + 1)
  end
  local request = { method = method, target = target, path = path, query = query, authority = authority,
    minor = minor == "0" and 0 or 1 }
  if not question then -- which may be secret, and seldom comes twice
    remember(known_requests, line, request)
  end
  return request
end

-- first: where the line ends; stop: where the empty line begins.
local function read_request(d, first, stop)
  local line = sub(d.data, d.pos, first - 1)
  local known, status, text = known_requests.lines[line], nil, nil
  if not known then
    known, status, text = read_request_line(line)
    if not known then
      return fail(d, status, text)
    end
  end
  local headers
  headers, status, text = read_headers(d, nil, first + 2, stop)
  if not headers then
    return nil, status, text
  end
  local minor = known.minor
  local request = { method = known.method, target = known.target, path = known.path, query = known.query, minor = minor,
    headers = headers, keep_alive = minor > 0, authority = known.authority }
  if minor > 0 and not headers.host then
    return fail(d, 400, "no Host")
  end
  if headers.expect then
    if lower(headers.expect) ~= "100-continue" then
      return fail(d, 417, "unknown expectation")
    end
    request.expects = minor > 0
  end
  if headers.connection then
    read_connection(request, headers.connection)
  end
  d.pos = stop + 2
  return frame_body(d, request)
end

local function read_response(d, first, stop)
  local minor, status, reason = match(sub(d.data, d.pos, first - 1), RESPONSE)
  if not minor then
    return fail(d, 502, "malformed status line")
  end
  local response = { status = tointeger(status), reason = reason, minor = minor == "0" and 0 or 1, keep_alive = minor ~= "0" }
  local headers, code, text = read_headers(d, response, first + 2, stop)
  if not headers then
    return nil, code, text
  end
  response.headers = headers
  if headers.connection then
    read_connection(response, headers.connection)
  end
  d.pos = stop + 2
  if response.status < 200 and response.status ~= 101 then -- more will follow
    response.interim, d.mode = true, "head"
    return "head", response
  end
  local method = d.methods and table.remove(d.methods, 1)
  response.bodiless = method == "HEAD" or response.status == 204 or response.status == 304 or response.status == 101 or nil
  if response.status == 101 then
    headers["content-length"], headers["transfer-encoding"] = nil, nil
  end
  return frame_body(d, response)
end

-- There is no empty line yet, or not within d.max_head: is what there is the beginning of a head?
local function read_start(d, first, stop)
  local data, pos = d.data, d.pos
  if stop or #data - pos + 1 >= d.max_head then
    if d.role == "request" and (not first or first - pos >= d.max_head) then
      return fail(d, 414, "request line too long")
    end
    return fail(d, 431, "head too large")
  elseif byte(data, pos) == 13 then
    if pos == #data then
      return want(d, 2)
    end
    return fail(d, 400, "bare CR")
  elseif not find(data, "^[%w!#$%%&'*+%-.^_`|~]", pos) then
    return fail(d, 400, "this is not HTTP")
  elseif find(data, "^\n", pos) or find(data, "[^\r]\n", pos) then
    return fail(d, 400, "a line feed without a carriage return")
  end
  return want_mark(d, "\n", d.max_head - 1)
end

local function read_head(d)
  local data, pos = d.data, d.pos
  if pos > #data then
    return want(d, 1)
  end
  local first = find(data, "\r\n", pos, true)
  while first == pos do -- an empty line before a message is let pass: RFC 9112, section 2.2
    pos = pos + 2
    d.pos, d.empty_lines = pos, (d.empty_lines or 0) + 1
    if d.empty_lines > EMPTY_LINES_MAX then
      return fail(d, 400, "nothing but empty lines")
    elseif pos > #data then
      return want(d, 1)
    end
    first = find(data, "\r\n", pos, true)
  end
  local stop = first and find(data, "\r\n\r\n", first, true)
  if not stop or stop + 4 - pos > d.max_head then
    return read_start(d, first, stop)
  end
  d.empty_lines = nil
  if d.role == "request" then
    return read_request(d, first, stop + 2)
  end
  return read_response(d, first, stop + 2)
end

-- Bytes of a body of which d.left are still to come.
local function read_data(d)
  local data, pos, left = d.data, d.pos, d.left
  local there = #data - pos + 1
  if there == 0 then
    return want(d, 1)
  elseif there >= left then
    d.pos, d.left, d.mode = pos + left, 0, d.after
    return "data", sub(data, pos, pos + left - 1)
  end
  d.pos, d.left = #data + 1, left - there
  return "data", sub(data, pos)
end

local function read_chunk(d)
  local data, pos = d.data, d.pos
  local stop = find(data, "\n", pos, true)
  if not stop or stop - pos > CHUNK_LINE_MAX then
    if stop or #data - pos >= CHUNK_LINE_MAX then
      return fail(d, 400, "chunk line too long")
    end
    return want_mark(d, "\n", CHUNK_LINE_MAX)
  end
  local _, last, digits, extension = find(data, "^(%x+)([^%c]*)\r\n", pos)
  if last ~= stop or #digits > CHUNK_DIGITS_MAX or extension ~= "" and byte(extension) ~= 59 then
    return fail(d, 400, "malformed chunk")
  end
  local size = tonumber(digits, 16)
  d.pos, d.size = last + 1, d.size + size
  if d.size > d.max_body then
    return fail(d, 413, "body too large")
  end
  d.left, d.after = size, "chunk end"
  d.mode = size > 0 and "data" or "trailers"
  return true
end

local function read_chunk_end(d)
  if #d.data < d.pos + 1 then
    return want(d, 2)
  elseif not find(d.data, "^\r\n", d.pos) then
    return fail(d, 400, "malformed chunk")
  end
  d.pos, d.mode = d.pos + 2, "chunk"
  return true
end

local function read_trailers(d)
  local data, pos = d.data, d.pos
  if #data < pos + 1 then
    return want(d, 2)
  elseif find(data, "^\r\n", pos) then
    d.pos, d.mode, d.trailers = pos + 2, "end", nil
    return true
  end
  local stop = find(data, "\r\n\r\n", pos, true)
  if not stop or stop + 4 - pos > d.max_head then
    if stop or #data - pos + 1 >= d.max_head then
      return fail(d, 431, "trailers too large")
    end
    return want_mark(d, "\n", d.max_head - 1)
  end
  local trailers, status, text = read_headers(d, nil, pos, stop + 2)
  if not trailers then
    return nil, status, text
  end
  d.pos, d.mode, d.trailers = stop + 4, "end", trailers
  return true
end

-- The body of a response that only the end of the stream ends.
local function read_rest(d)
  if d.pos > #d.data then
    return want(d, 1)
  end
  local piece = sub(d.data, d.pos)
  d.pos, d.size = #d.data + 1, d.size + #piece
  if d.size > d.max_body then
    return fail(d, 413, "body too large")
  end
  return "data", piece
end

local MODES <const> = {
  head = read_head,
  data = read_data,
  chunk = read_chunk,
  ["chunk end"] = read_chunk_end,
  trailers = read_trailers,
  rest = read_rest,
  failed = function(d)
    return nil, d.status, d.reason
  end,
}

-- The next part of the stream of messages:
--   "head", message   a request: method, target, path, query, minor (1 of HTTP/1.1), headers (names in lower case; what came more
--                     than once is joined with commas), keep_alive, length or chunked, expects, upgrade, authority;
--                     a response: status, reason, minor, headers, keep_alive, length or chunked, upgrade, cookies, interim
--   "data", bytes     of its body, as they come
--   "end", trailers   it is complete; a table if there were any
--   false             more bytes are needed
--   nil, status, text it is wrong: what a server answers before it closes
function decoder.next(d)
  while true do
    local mode = d.mode
    if mode == "end" then
      local trailers = d.trailers
      d.mode, d.trailers = "head", nil
      return "end", trailers
    end
    local what, value, text = MODES[mode](d)
    if what ~= true then
      return what, value, text
    end
  end
end

-- A client says what it has sent: a response to HEAD has no body.
function decoder.sent(d, method)
  d.methods = d.methods or {}
  d.methods[#d.methods + 1] = method
end

-- The peer's stream has ended. "end" when that completes a response, false when nothing was under way, nil,
-- status, text when it cuts a message off.
function decoder.finish(d)
  if d.mode == "rest" then
    d.mode = "head"
    return "end"
  elseif d.mode == "head" and buffer.unread(d) == 0 then
    return false
  end
  return fail(d, d.role == "request" and 400 or 502, "cut off")
end

return decoder
