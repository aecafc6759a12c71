-- http1.lua - requests and responses, well-formed and not; see check.lua.
local check = require "check"
local http1 = require "portico.http1"

local LIMITS <const> = { max_head = 500, max_headers = 10, max_body = 1000 }

-- What the pieces mean, in short: "GET /x", its body in brackets, and at the end the status of what is wrong, or "…" when something
-- is incomplete. finish: the stream ends there.
local function read(pieces, role, finish, methods)
  local d = http1.decoder { role = role, max_head = LIMITS.max_head, max_headers = LIMITS.max_headers, max_body = LIMITS.max_body }
  local found, body, message, wrong = {}, nil, nil, nil
  d.methods = methods
  local function finished(trailers)
    local text = message.method and message.method .. " " .. message.target or tostring(message.status)
    for _, name in ipairs { "x", "y", "cookie" } do
      text = text .. (message.headers[name] and (" %s=%s"):format(name, message.headers[name]) or "")
    end
    text = text .. (message.keep_alive and "" or " close") .. (message.upgrade and " upgrade" or "")
    text = text .. (body and #body > 0 and (" [%s]"):format(table.concat(body)) or "")
    found[#found + 1] = text .. (trailers and " trailer=" .. tostring(trailers.t) or "")
    message = nil
  end
  for _, piece in ipairs(pieces) do
    http1.feed(d, piece)
    while not wrong do
      local what, value = http1.next(d)
      if what == "head" then
        message, body = value, {}
        if value.interim then
          found[#found + 1] = tostring(value.status)
          message = nil
        end
      elseif what == "data" then
        body[#body + 1] = value
      elseif what == "end" then
        finished(value)
      elseif what == nil then
        wrong = value
      else
        break
      end
    end
  end
  if finish and not wrong then
    local what, status = http1.finish(d)
    if what == "end" then
      finished()
    end
    wrong = status
  end
  if message and not wrong then
    found[#found + 1] = "…"
  end
  found[#found + 1] = wrong
  return found
end

local H <const> = " HTTP/1.1\r\nHost: h\r\n"

local REQUESTS <const> = {
  { "GET /" .. H .. "\r\n", "GET /" },
  { "\r\n\r\nGET /a?b" .. H .. "X: 1\r\n\r\nHEAD /" .. H .. "\r\n", "GET /a?b x=1", "HEAD /" },
  { "GET / HTTP/1.0\r\n\r\n", "GET / close" },
  { "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "GET /" },
  { "GET /" .. H .. "Connection: x, Close\r\n\r\n", "GET / close" },
  { "GET /" .. H .. "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "GET / upgrade" },
  { "GET / HTTP/1.7\r\nHost:h\r\n\r\n", "GET /" },
  { "GET http://h:1/x?y HTTP/1.1\r\nHost: h\r\n\r\nOPTIONS *" .. H .. "\r\n", "GET http://h:1/x?y", "OPTIONS *" },
  { "GET /" .. H .. "x:   two words \t \r\nY:\r\nX: again\r\n\r\n", "GET / x=two words, again y=" },
  { "GET /" .. H .. "X: a\tb\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n", "GET / x=a\tb cookie=a=1; b=2" },
  { "POST /" .. H .. "Content-Length: 5\r\n\r\nab\r\nc" .. "GET /" .. H .. "\r\n", "POST / [ab\r\nc]", "GET /" },
  { "POST /" .. H .. "Content-Length: 0\r\n\r\nGET /" .. H .. "\r\n", "POST /", "GET /" },
  { "POST /" .. H .. "Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0A;x=y\r\n0123456789\r\n0\r\n\r\nGET /" .. H .. "\r\n",
    "POST / [abc0123456789]", "GET /" },
  { "POST /" .. H .. "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nT: v\r\nU: w\r\n\r\n", "POST / [a] trailer=v" },
  { "GET /" .. H },
  { "POST /" .. H .. "Content-Length: 5\r\n\r\nab", "…" },
  -- not HTTP
  { ("\r\n"):rep(5), 400 },
  { "GET /" .. H .. "\r\n" .. ("\r\n"):rep(4) .. "GET /" .. H .. "\r\n" .. ("\r\n"):rep(4), "GET /", "GET /" },
  { "\22\3\1\2\0\1\0\1\252\3\3", 400 },
  { "GET /\r\n\r\n", 400 },
  { "GET  /" .. H .. "\r\n", 400 },
  { "GET / " .. H .. "\r\n", 400 },
  { "GET /\0" .. H .. "\r\n", 400 },
  { "GET / HTTP/1.1\n\n", 400 },
  { "GET /" .. H .. "X: 1\nY: 2\r\n\r\n", 400 },
  { "GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505 },
  { "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505 },
  { "GET x" .. H .. "\r\n", 400 },
  { "GET *" .. H .. "\r\n", 400 },
  { "GET / HTTP/1.1\r\n\r\n", 400 },
  { "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400 },
  { "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400 },
  { "GET / HTTP/1.0\r\nHost: a/b\r\n\r\n", 400 },
  { "GET / HTTP/1.1\r\nHost: \r\n\r\nGET /2 HTTP/1.1\r\nHost: [::1]:80\r\n\r\nGET /3 HTTP/1.1\r\nHost: x-y_z.example:8%30\r\n\r\n",
    "GET /", "GET /2", "GET /3" },
  { "GET /" .. H .. "Expect: 200-ok\r\n\r\n", 417 },
  -- what has let requests be smuggled
  { "GET /" .. H .. "X : 1\r\n\r\n", 400 },
  { "GET /" .. H .. "X: 1\r\n folded\r\n\r\n", 400 },
  { "GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400 },
  { "GET /" .. H .. ": 1\r\n\r\n", 400 },
  { "GET /" .. H .. "X\r\n\r\n", 400 },
  { "GET /" .. H .. "X: a\rb\r\n\r\n", 400 },
  { "GET /" .. H .. "X: a\0b\r\n\r\n", 400 },
  { "GET /" .. H .. "X: a\tb\127\r\n\r\n", 400 },
  { "POST /" .. H .. "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400 },
  { "POST /" .. H .. "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400 },
  { "POST /" .. H .. "Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400 },
  { "POST /" .. H .. "Content-Length: 1, 1\r\n\r\na", 400 },
  { "POST /" .. H .. "Content-Length: +1\r\n\r\na", 400 },
  { "POST /" .. H .. "Content-Length: 0x1\r\n\r\na", 400 },
  { "POST /" .. H .. "Content-Length:\r\n\r\na", 400 },
  { "POST /" .. H .. "Content-Length: 99999999999999999999\r\n\r\na", 400 },
  { "POST /" .. H .. "Content-Length: 1001\r\n\r\na", 413 },
  { "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400 },
  { "POST /" .. H .. "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400 },
  { "POST /" .. H .. "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501 },
  { "POST /" .. H .. "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501 },
  { "POST /" .. H .. "Transfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n", "…", 400 },
  { "POST /" .. H .. "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", "…", 400 },
  { "POST /" .. H .. "Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n", "…", 400 },
  { "POST /" .. H .. "Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", "…", 400 },
  { "POST /" .. H .. "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", "…", 400 },
  { "POST /" .. H .. "Transfer-Encoding: chunked\r\n\r\n100000000000\r\na", "…", 400 },
  { "POST /" .. H .. "Transfer-Encoding: chunked\r\n\r\n3e9\r\na", "…", 413 },
  { "POST /" .. H .. "Transfer-Encoding: chunked\r\n\r\n1;" .. ("x"):rep(300) .. "\r\na\r\n0\r\n\r\n", "…", 400 },
  -- too much
  { "GET /" .. ("x"):rep(600) .. H .. "\r\n", 414 },
  { "GET /" .. H .. "X: " .. ("x"):rep(600) .. "\r\n\r\n", 431 },
  { "GET /" .. H .. ("X: 1\r\n"):rep(10) .. "\r\n", 431 },
  { "POST /" .. H .. "Transfer-Encoding: chunked\r\n\r\n0\r\nX: " .. ("x"):rep(600) .. "\r\n\r\n", "…", 431 },
}

local RESPONSES <const> = { -- with the end of the stream behind each
  { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", "200 [ab]" },
  { "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "200" },
  { "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n", "100", "204", "304" },
  { "HTTP/1.1 200 OK\r\n\r\nto the end", "200 [to the end]" },
  { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", "200 [ab]" },
  { "HTTP/1.0 200 OK\r\n\r\nx", "200 close [x]" },
  { "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", 502 },
  { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", 502 },
  { "HTTP/1.1 200 O", 502 },
  { "SSH-2.0-x\r\n\r\n", 502 },
  { "HTTP/1.1 20 OK\r\n\r\n", 502 },
  { "", },
}

local function read_requests(pieces) return read(pieces, "request") end
local function read_responses(pieces) return read(pieces, "response", true) end

-- For random input: that something is wrong, but not which of two faults was seen first.
local function blurred(reader)
  return function(pieces)
    local found = reader(pieces)
    if type(found[#found]) == "number" then
      found[#found] = "wrong"
    end
    return found
  end
end

return check.run(function()
  local function cases(list, reader, what)
    for i, case in ipairs(list) do
      local want = table.move(case, 2, #case, 1, {})
      if want[#want] and type(want[#want]) == "number" and want[#want - 1] == "…" then
        table.remove(want, #want - 1) -- a head, and then nonsense: only the status is left
      end
      local name = ("%s %d %q"):format(what, i, case[1]:sub(1, 60))
      check.equal(check.splits(case[1], reader, name), want, name)
    end
  end
  cases(REQUESTS, read_requests, "request")
  cases(RESPONSES, read_responses, "response")
  check.equal(read({ "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx" }, "response", true,
    { "HEAD", "GET" }), { "200", "200 [x]" }, "a response to HEAD")

  check.equal(http1.request("GET", "/", { Host = "h" }), "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "encode a request")
  check.equal(http1.request("POST", "/", { Host = "h" }, "ab"), "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab", "with a body")
  check.equal(http1.response(200, { ["Set-Cookie"] = { "a=1", "b=2" } }, "ab"),
    "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nab", "encode a response")
  check.equal(http1.response(204), "HTTP/1.1 204 No Content\r\n\r\n", "no content")
  check.equal(http1.chunk("ab") .. http1.chunk("") .. http1.last_chunk { T = "v" }, "2\r\nab\r\n0\r\nT: v\r\n\r\n", "encode chunks")
  check.raises("line end", "a line feed in a header", http1.response, 200, { X = "a\r\nSet-Cookie: x" })
  check.raises("no name", "a colon in a name", http1.response, 200, { ["X: y"] = "a" })
  check.raises("target", "a blank in a target", http1.request, "GET", "/ HTTP/1.1")
  for _, name in ipairs { "Content-Length", "content-length" } do
    check.equal(http1.response(200, { [name] = 2 }, "ab"), "HTTP/1.1 200 OK\r\n" .. name .. ": 2\r\n\r\nab", "a length that is given")
    check.equal(http1.request("PUT", "/", { [name] = "2" }, "ab"), "PUT / HTTP/1.1\r\n" .. name .. ": 2\r\n\r\nab", "in a request")
    for _, status in ipairs { 200, 304 } do
      check.equal(http1.response(status, { [name] = 30 }):match("\r\n(.*)"), name .. ": 30\r\n\r\n", "what GET would have got")
    end
  end
  check.equal(http1.response(200, { ["Transfer-Encoding"] = "chunked" }), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "chunks follow")
  check.equal(http1.request("PUT", "/", { ["Content-Length"] = 2 }), "PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\n", "a body follows")
  for _, case in ipairs {
    { { ["Content-Length"] = 3 }, "Content%-Length: 2 as of the body expected, got 3" },
    { { ["content-length"] = 3 }, "Content%-Length: 2 as of the body expected, got 3" },
    { { ["Content-Length"] = "2, 2" }, "Content%-Length: digits expected, got 2, 2" },
    { { ["Content-Length"] = { 2, 2 } }, "Content%-Length: digits expected, got 2,2" },
    { { ["Content-Length"] = 2.0 }, "Content%-Length: digits expected, got 2.0" },
    { { ["Content-Length"] = 2, ["content-length"] = 2 }, "more than one [Cc]ontent%-[Ll]ength" },
    { { ["Content-Length"] = 2, ["transfer-encoding"] = "chunked" }, "both Content%-Length and Transfer%-Encoding" },
    { { ["Transfer-Encoding"] = "chunked" }, "Transfer%-Encoding: a body that is a string has a Content%-Length" },
  } do
    check.raises("^[^ ]*batteries/http1.lua:%d+: http1.response: " .. case[2], "a response with " .. check.show(case[1], 1),
      function() http1.response(200, case[1], "ab") end)
    check.raises("^[^ ]*batteries/http1.lua:%d+: http1.request: " .. case[2], "a request with " .. check.show(case[1], 1),
      function() http1.request("POST", "/", case[1], "ab") end)
  end
  check.equal(http1.unescape("a%20b%2F+"), "a b/+", "unescape")
  check.equal(http1.unescape("a%2"), nil, "unescape half")
  check.equal(http1.unescape("a%zz"), nil, "unescape nonsense")
  check.equal(http1.escape("a b/ü"), "a%20b%2F%C3%BC", "escape")
  check.equal(http1.escape("a b/", "/"), "a%20b/", "escape a path")
  check.equal(http1.fields("a=1&b=two+words&c&d=%41"), { a = "1", b = "two words", c = "", d = "A" }, "fields")
  check.equal(http1.date(784111777), "Sun, 06 Nov 1994 08:49:37 GMT", "date")

  check.linear(function(n)
    local d, text = http1.decoder { max_body = n }, "POST /" .. H .. "Content-Length: " .. n .. "\r\n\r\n" .. ("x"):rep(n)
    local size = 0
    for i = 1, #text do
      if http1.feed(d, text:sub(i, i)) then
        local what, value
        repeat
          what, value = http1.next(d)
          size = size + (what == "data" and #value or 0)
        until not what
      end
    end
    check.equal(size, n, "a body byte by byte")
  end, 20000, 200000, "a body byte by byte")
  -- Values that would make a careless pattern try again and again.
  for _, value in ipairs { (" "):rep(15000) .. "\1", (" "):rep(7000) .. "x" .. (" "):rep(7000), ("\t "):rep(7000) .. "\r" } do
    local d, start = http1.decoder(), os.clock()
    http1.feed(d, "GET /" .. H .. "X: " .. value .. "\r\n\r\n")
    http1.next(d)
    check.equal(os.clock() - start < 0.05, true, "a value of blanks is read at once")
  end

  -- Lines that were seen before are looked up. What a script does to a request is not seen by the next that has the same.
  for _, target in ipairs { "/a", "/a", "/a?b", "/a?b" } do
    local d = http1.decoder()
    http1.feed(d, "GET " .. target .. H .. "X: 1\r\n\r\n")
    local _, message = http1.next(d)
    check.equal({ message.method, message.target, message.path, message.query or "none", message.headers },
      { "GET", target, "/a", target == "/a" and "none" or "b", { host = "h", x = "1" } }, "seen before")
    message.method, message.target, message.path, message.query, message.headers.x = "PUT", "/c", "/c", "d", "2"
  end
  local before = collectgarbage "count"
  for i = 1, 20000 do
    local d = http1.decoder()
    http1.feed(d, ("GET /%d%s%s: %d\r\nX-%d: 1\r\nY: %s\r\n\r\n"):format(i, H, i % 2 == 0 and "A" or "B", i // 3, i, ("y"):rep(i % 400)))
    local _, message = http1.next(d)
    check.equal({ message.target, message.headers[i % 2 == 0 and "a" or "b"], message.headers["x-" .. i], #message.headers.y },
      { "/" .. i, tostring(i // 3), "1", i % 400 }, "the line of request " .. i)
  end
  for i = 1, 2000 do
    check.equal(http1.response_head(204, { ["X-" .. i] = i }), ("HTTP/1.1 204 No Content\r\nX-%d: %d\r\n"):format(i, i), "name " .. i)
  end
  collectgarbage()
  check.equal(collectgarbage "count" - before < 1024, true, "few lines and names are kept")
  check.equal({ read { "GET /" .. H .. "X : 1\r\n\r\n" }, read { "GET /" .. H .. "X : 1\r\n\r\n" } }, { { 400 }, { 400 } }, "wrong both times")
  check.equal(read { "Host: h\r\nHost: h\r\n\r\n" }, { 400 }, "a header in place of the request line")

  local samples = {}
  for _, case in ipairs(REQUESTS) do
    samples[#samples + 1] = case[1]
  end
  check.fuzz(samples, blurred(read_requests), "requests")
  samples = {}
  for _, case in ipairs(RESPONSES) do
    samples[#samples + 1] = case[1]
  end
  check.fuzz(samples, blurred(read_responses), "responses")
end)
