-- http_server.lua - a server for HTTP/1.1 on http1.lua: http1.server(options) returns what a script returns.
--
-- options:
--   on_request(req, res)   answers a request, whose body is in req.body. What it returns is the answer: body; or status, body, headers;
--                          or nothing, when it has used res
--   on_head(req, res)      called before the body is read, with the headers there: may answer, by return value or res; the body is
--                          not wanted then, and the connection ends after the answer
--   on_body(req, piece)    takes the pieces of bodies as they come; req.body stays nil. The script may add plain data to req
--   upgrade                other protocols by the name in the Upgrade header, see websocket_server.lua
--   decoder                limits, as for http1.decoder
--   patience               seconds in which a request must be whole, and one more for each 500 bytes of it; 20. Bodies that
--                          on_body takes are not counted
--   anything else goes into the script's table as it is
--
-- Requests on one connection are answered one after the other. A handler may wait.

local buffer = require "portico.buffer"
local http1 = require "portico.http1"
local note = require "portico.http_headers"
local options_of = require "portico.options"

local type, format, concat, mathtype = type, string.format, table.concat, math.type
local feed, gather, next_part = buffer.feed, buffer.gather, http1.next
local file_type = io and io.type or function() end -- with --sandbox strict there are no files

local PATIENCE <const>, RATE <const> = 20, 500 -- seconds, and bytes a second: who sends its head byte by byte holds a place
local PIECE <const> = 65536 -- bytes of a file that are read at once

-- ---- Answers ------------------------------------------------------------------------------------

local STATUS = {} -- "HTTP/1.1 200 OK\r\n" by number, of those that an answer can have
for status, reason in pairs(http1.REASONS) do
  STATUS[status] = status >= 200 and format("HTTP/1.1 %d %s\r\n", status, reason) or nil
end

local this_second, date_line = -1, nil
local dated = {} -- status line and Date of this second, by status

-- What an answer begins with.
local function first_lines(status, noted)
  local second = portico.now() // 1
  if second ~= this_second then
    this_second, date_line, dated = second, "Date: " .. http1.date(second) .. "\r\n", {}
  end
  local status_line = STATUS[status] or format("HTTP/1.1 %d \r\n", status)
  if noted.date then
    return status_line
  end
  local lines = dated[status] or status_line .. date_line
  dated[status] = lines
  return lines
end

local NOTHING <const> = { lines = "" }

-- The head of an answer without the empty line at its end. noted: what note() found in the headers. d.closes is then true if the
-- connection is to end after it.
local function start(d, req, status, noted)
  local said, connection = noted.connection, ""
  local closes = d.closes or not (req and req.keep_alive)
  if said and http1.has_word(said, "close") then
    closes = true
  elseif closes then
    connection = "Connection: close\r\n"
  elseif req.minor == 0 and not (said and http1.has_word(said, "keep-alive")) then
    connection = "Connection: keep-alive\r\n"
  end
  d.started, d.closes = true, closes
  return first_lines(status, noted) .. noted.lines .. connection
end

local function has_no_body(req, status)
  return req and req.method == "HEAD" or status == 204 or status == 304
end

-- Sends, and waits for a peer that takes less than it is sent. True, or nil, message, code.
local function put(conn, d, ...)
  local done, message, code = conn:send(...)
  if done == false then
    done, message, code = conn:flush()
  end
  d.broken = d.broken or done == nil
  return done, message, code
end

-- What the headers of an answer say, see note(); or nil, what is wrong with it. body: nil when it follows.
local function judge(req, status, body, headers)
  if not headers and STATUS[status] and type(body) == "string" then
    return NOTHING
  end
  local noted, problem = NOTHING, nil
  if mathtype(status) ~= "integer" or status < 200 or status > 599 then
    return nil, "status: an integer from 200 to 599 expected, got " .. (type(status) == "number" and status or type(status))
  elseif body ~= nil and type(body) ~= "string" and type(body) ~= "function" and file_type(body) ~= "file" then
    return nil, "body: string, open file or function expected, got " .. type(body)
  elseif headers ~= nil and type(headers) ~= "table" then
    return nil, "headers: table expected, got " .. type(headers)
  elseif headers then
    noted, problem = note(headers)
  end
  local length = noted and noted["content-length"]
  if not noted then
    return nil, problem
  elseif noted["transfer-encoding"] then
    return nil, "Transfer-Encoding is the server's own"
  elseif length and type(body) == "string" and #body ~= length and not (body == "" and has_no_body(req, status)) then
    return nil, format("Content-Length: %d as of the body expected, got %d", #body, length)
  end
  return noted
end

-- An answer whose body is a string.
local function answer(conn, d, req, status, body, noted)
  local head, kind, length = start(d, req, status, noted), "", "\r\n"
  if not noted["content-type"] and body ~= "" then
    kind = "Content-Type: text/plain; charset=utf-8\r\n"
  end
  if status ~= 204 and status ~= 304 and not noted["content-length"] then
    length = "Content-Length: " .. #body .. "\r\n\r\n"
  end
  d.finished = true
  return put(conn, d, head .. kind .. length, has_no_body(req, status) and "" or body)
end

-- The head of an answer whose body follows.
local function begin_answer(res, status, noted)
  local conn, d, req = res.conn, res.d, res.req
  d.chunked, d.bodiless, d.unwritten = false, has_no_body(req, status), noted["content-length"]
  if not noted["content-length"] and not d.bodiless then
    d.chunked = req.minor > 0
    d.closes = d.closes or not d.chunked
  end
  local head = start(d, req, status, noted)
  return put(conn, d, head, d.chunked and "Transfer-Encoding: chunked\r\n\r\n" or "\r\n")
end

-- The whole answer.
local function deliver(res, status, body, noted)
  if type(body) == "string" then
    return answer(res.conn, res.d, res.req, status, body, noted)
  end
  begin_answer(res, status, noted)
  local done, message, code = true, nil, nil
  if not res.d.bodiless then
    done, message, code = res:stream(body, noted["content-length"])
  end
  if file_type(body) then
    body:close()
  end
  if not done then
    return nil, message, code
  end
  return res:finish()
end

local Response = {}
Response.__index = Response

-- A body as it is sent: none is an empty one.
local function plain(body)
  if type(body) == "string" then
    return body
  elseif type(body) == "number" or body == nil then
    return body and tostring(body) or ""
  end
  return body
end

-- Sends the whole answer. body: a string; a file, which is read from where it stands, as far as the
-- Content-Length in headers says or to its end, and closed; or a function, which is called for a piece
-- whenever the peer can take one, until it returns nil. A body that is no string is chunked, unless headers
-- has its Content-Length. True; or nil, message, code: the connection is over.
function Response:send(status, body, headers)
  body = plain(body)
  local noted, problem = judge(self.req, status, body, headers)
  if not noted then
    error("res:send: " .. problem, 2)
  elseif self.d.started then
    error("res:send: the answer has begun already", 2)
  end
  return deliver(self, status, body, noted)
end

-- Sends what the source gives, up to so many bytes, if size is given. True, or nil, message, code.
function Response:stream(source, size)
  local left = size or math.huge
  while left > 0 do
    local piece
    if type(source) == "function" then
      piece = source()
    else
      piece = source:read(math.min(PIECE, left))
    end
    if piece == nil then
      break
    end
    left = left - #piece
    if left < 0 then
      break
    end
    local done, message, code = self:write(piece)
    if not done then
      return nil, message, code
    end
  end
  if size and left ~= 0 then
    self.conn:abort() -- what was promised has not come, and there is no other way to say so
    return nil, "the body does not have the length that was announced", "length"
  end
  return true
end

-- Begins an answer whose body follows with res:write and ends with res:finish. Without a Content-Length in
-- headers it is chunked, or, for HTTP/1.0, ends with the connection.
function Response:start(status, headers)
  local noted, problem = judge(self.req, status, nil, headers)
  if not noted then
    error("res:start: " .. problem, 2)
  elseif self.d.started then
    error("res:start: the answer has begun already", 2)
  end
  return begin_answer(self, status, noted)
end

-- Sends a piece of the body, and waits if the peer is slow. True; or nil, message, code: the connection is over.
-- The answers to HEAD and those of 204 and 304 have no body, and it goes nowhere.
function Response:write(bytes)
  local d = self.d
  bytes = plain(bytes)
  if type(bytes) ~= "string" then
    error("res:write: string expected, got " .. type(bytes), 2)
  elseif not d.started or d.finished then
    error("res:write: " .. (d.finished and "the answer has ended" or "res:start comes first"), 2)
  elseif d.bodiless then
    return true
  elseif d.unwritten and #bytes > d.unwritten then
    error(format("res:write: %d bytes, and the Content-Length leaves room for %d", #bytes, d.unwritten), 2)
  end
  d.unwritten = d.unwritten and d.unwritten - #bytes
  return put(self.conn, d, d.chunked and http1.chunk(bytes) or bytes)
end

-- Ends the body.
function Response:finish(trailers)
  local d = self.d
  if not d.started or d.finished then
    error("res:finish: " .. (d.finished and "the answer has ended" or "res:start comes first"), 2)
  end
  if d.unwritten and d.unwritten > 0 and not d.bodiless and not d.broken then
    error(format("res:finish: %d bytes of the Content-Length have not been written", d.unwritten), 2)
  end
  d.finished = true
  return put(self.conn, d, d.chunked and http1.last_chunk(trailers) or "")
end

-- ---- The server ---------------------------------------------------------------------------------

local OWN <const> = options_of.HTTP_SERVER

return function(options)
  options_of.check_server("http1.server", options, OWN)
  local on_request, on_head, on_body = options.on_request, options.on_head, options.on_body
  local upgrades = options.upgrade or {}
  local patience = options.patience or PATIENCE
  if type(on_request) ~= "function" then
    error("http1.server: on_request: function expected, got " .. type(on_request), 3)
  end
  http1.decoder(options.decoder) -- so that what is wrong with it is told now

  -- What the script's function has returned, as the answer: true and false are what the methods of res
  -- return. False: none has begun.
  local function take_answer(name, conn, d, req, res, first, body, headers)
    if first == nil or type(first) == "boolean" then
      return d.started
    elseif d.started then
      error(format("%s returned an answer to %s %s, which has begun already", name, req.method, req.target), 0)
    end
    local status = first
    if type(first) == "string" then
      status, body, headers = 200, first, body
    end
    body = plain(body)
    local noted, problem = judge(req, status, body, headers)
    if not noted then
      error(format("%s returned a wrong answer to %s %s: %s (it is body, headers; or status, body, headers)", name, req.method,
        req.target, problem), 0)
    end
    deliver(res, status, body, noted)
    return true
  end

  local function respond(conn, d, req)
    local res = setmetatable({ conn = conn, d = d, req = req }, Response)
    if not take_answer("on_request", conn, d, req, res, on_request(req, res)) then
      error("on_request has not answered " .. req.method .. " " .. req.target, 0)
    elseif not d.finished and not d.broken and conn.state then -- a peer may go as it likes
      error("on_request has not finished its answer to " .. req.method .. " " .. req.target, 0)
    end
  end

  local function refuse(conn, d, status, text)
    d.closes = true
    answer(conn, d, d.req, status, text .. "\n", NOTHING)
    conn:close()
  end

  -- A head has come. False: the connection ends.
  local function begin(conn, d, req)
    d.req, d.pieces, d.started, d.finished = req, nil, nil, nil
    if req.method == "CONNECT" then
      refuse(conn, d, 501, "no tunnels here")
      return false
    end
    if on_head then
      local closes = d.closes
      d.closes = true
      local res = setmetatable({ conn = conn, d = d, req = req }, Response)
      if take_answer("on_head", conn, d, req, res, on_head(req, res)) then
        conn:close()
        return false
      end
      d.closes = closes
    end
    if req.expects and d.mode ~= "end" and buffer.unread(d) == 0 then
      conn:send("HTTP/1.1 100 Continue\r\n\r\n")
    end
    return true
  end

  -- The end of a request's answer. False: the connection ends.
  local function over(conn, d)
    d.req = nil
    if d.broken or not conn.state then -- nobody is there for the next answer
      return false
    elseif not d.closes then
      return true
    end
    conn:close()
    return false
  end

  -- The first of the protocols that a request would rather speak and that we know: its name; or nil.
  local function wanted_protocol(req)
    for name in req.upgrade:gmatch("[^,%s]+") do
      if upgrades[name] then
        return name
      end
    end
    return nil
  end

  local function upgrade(conn, d, req)
    local name = wanted_protocol(req)
    if not name or req.chunked or (req.length or 0) > 0 then
      return false
    end
    local protocol = upgrades[name]
    local res = setmetatable({ conn = conn, d = d, req = req }, Response)
    d.protocol = name
    if not protocol.accept(conn, req, res) then
      d.protocol = nil
    else
      d.req = nil
      local rest = buffer.take(d)
      if rest ~= "" then
        protocol.on_message(conn, rest)
      end
    end
    return true
  end

  -- More is needed of what was sent so far: does it take too long?
  local function check_pace(conn, d)
    if d.req and on_body or not d.req and buffer.unread(d) == 0 then
      d.since = nil
    elseif not d.since then
      d.since, d.came = portico.monotonic(), 0
    elseif portico.monotonic() - d.since > patience + d.came / RATE then
      refuse(conn, d, 408, "the request comes too slowly")
    end
  end

  -- Answers what is there.
  local function serve(conn, d)
    while true do
      local what, value, text = next_part(d)
      if what == "head" then
        d.since = nil
        if not begin(conn, d, value) then
          return
        end
      elseif what == "data" then
        if on_body then
          on_body(d.req, value)
        else
          d.pieces = d.pieces or {}
          gather(d.pieces, value)
        end
      elseif what == "end" then
        local req = d.req
        d.since = nil
        req.trailers = value
        if not on_body then
          req.body = d.pieces and concat(d.pieces) or ""
        end
        d.pieces = nil
        if req.upgrade and upgrade(conn, d, req) then
          if d.protocol then
            return
          end
        else
          respond(conn, d, req)
        end
        if not over(conn, d) then
          return
        end
      elseif what == false then
        return check_pace(conn, d)
      else
        return refuse(conn, d, value, text)
      end
    end
  end

  -- What a connection was upgraded to. Nil: a version before this one had it, and the connection ends.
  local has_warned = false
  local function protocol_of(conn, d)
    local protocol = upgrades[d.protocol]
    if not protocol then
      if not has_warned then
        has_warned = true
        portico.log.warn(format("http1.server: connections that were upgraded to %s are closed: this version has no upgrade of that name",
          d.protocol))
      end
      conn:close()
    end
    return protocol
  end

  local script = {}
  for key, value in pairs(options) do
    script[key] = not OWN[key] and value or nil
  end
  script.lasting = { "http1", options.lasting }
  for _, protocol in pairs(upgrades) do
    table.insert(script.lasting, protocol.lasting)
  end

  function script.on_message(conn, data)
    local state = conn.state
    local d = state.http1
    if not d then
      d = http1.decoder(options.decoder)
      state.http1 = d
    elseif d.protocol then
      local protocol = protocol_of(conn, d)
      return protocol and protocol.on_message(conn, data)
    end
    d.came = d.since and d.came + #data
    if feed(d, data) then
      return serve(conn, d)
    end
    return check_pace(conn, d)
  end

  function script.on_close(conn, reason, err)
    local d = conn.state.http1
    local protocol = d and upgrades[d.protocol]
    if protocol and protocol.on_close then
      protocol.on_close(conn, reason, err)
    end
    if options.on_close then
      options.on_close(conn, reason, err)
    end
  end

  -- A handler has raised, or was ended while it waited, which has been logged.
  script.on_error = options.on_error or function(conn, err)
    local d = conn and conn.state.http1
    if d and d.protocol then
      local protocol = upgrades[d.protocol]
      return protocol and protocol.on_error and protocol.on_error(conn, err)
    elseif d and d.req and not d.started then
      refuse(conn, d, 500, "internal error")
      return "keep"
    elseif d and d.req and d.finished and not d.broken then
      conn:close() -- when all of the answer has been sent
      return "keep"
    end
  end
  return script
end
