-- websocket.lua - frames and messages, well-formed and not; see check.lua.
local check = require "check"
local codec = require "portico.codec"
local http1 = require "portico.http1"
local websocket = require "portico.websocket"

-- A frame, made by hand: the first byte, the payload, and what else is to be different.
local function frame(first, payload, how)
  how = how or {}
  local size = how.size or #payload
  local bit = how.unmasked and 0 or 128
  local head
  if how.long == 8 or not how.long and size > 65535 then
    head = string.pack(">BBI8", first, bit + 127, size)
  elseif how.long == 2 or not how.long and size > 125 then
    head = string.pack(">BBI2", first, bit + 126, size)
  else
    head = string.pack("BB", first, bit + size)
  end
  return head .. (how.unmasked and payload or "\1\2\3\4" .. codec.mask(payload, "\1\2\3\4"))
end

local function read(pieces, role)
  local d, found = websocket.decoder { role = role, max_message = 1000 }, {}
  for _, piece in ipairs(pieces) do
    websocket.feed(d, piece)
    while not found.wrong do
      local what, value, more = websocket.next(d)
      if not what then
        found.wrong = value
        break
      end
      found[#found + 1] = what == "close" and ("close %d %s"):format(value, more) or what .. " " .. value
    end
  end
  return found
end

local TEXT <const>, BINARY <const>, MORE <const>, CLOSE <const>, PING <const>, PONG <const> = 1, 2, 0, 8, 9, 10
local LAST <const> = 128
local CASES <const> = {
  { frame(LAST + TEXT, "hello") .. frame(LAST + TEXT, ""), { "text hello", "text " } },
  { frame(LAST + BINARY, "\0\255"), { "binary \0\255" } },
  { frame(LAST + TEXT, ("x"):rep(125)) .. frame(LAST + TEXT, ("x"):rep(126)), { "text " .. ("x"):rep(125), "text " .. ("x"):rep(126) } },
  { frame(TEXT, "one ") .. frame(MORE, "") .. frame(LAST + PING, "p") .. frame(LAST + MORE, "two"), { "ping p", "text one two" } },
  { frame(TEXT, "\xc3") .. frame(LAST + MORE, "\xb6"), { "text ö" } },
  { frame(LAST + PONG, "") .. frame(LAST + PING, ("p"):rep(125)), { "pong ", "ping " .. ("p"):rep(125) } },
  { frame(LAST + CLOSE, ""), { "close 1005 " } },
  { frame(LAST + CLOSE, "\3\232bye"), { "close 1000 bye" } },
  { frame(LAST + CLOSE, "\x0f\xa0"), { "close 4000 " } },
  { frame(LAST + TEXT, "hello"):sub(1, -2), {} },
  { frame(LAST + TEXT, "a", { unmasked = true }), { wrong = 1002 } },
  { frame(LAST + 64 + TEXT, "a"), { wrong = 1002 } },
  { frame(LAST + 3, "a"), { wrong = 1002 } },
  { frame(LAST + 11, "a"), { wrong = 1002 } },
  { frame(PING, "a"), { wrong = 1002 } },
  { frame(LAST + PING, ("p"):rep(126)), { wrong = 1002 } },
  { frame(LAST + MORE, "a"), { wrong = 1002 } },
  { frame(TEXT, "a") .. frame(LAST + TEXT, "b"), { wrong = 1002 } },
  { frame(TEXT, "a") .. frame(BINARY, "b"), { wrong = 1002 } },
  { frame(LAST + TEXT, "a", { long = 2 }), { wrong = 1002 } },
  { frame(LAST + TEXT, ("a"):rep(200), { long = 8 }), { wrong = 1002 } },
  { frame(LAST + TEXT, "", { long = 8, size = math.mininteger }), { wrong = 1002 } },
  { frame(LAST + TEXT, "", { long = 8, size = math.maxinteger }), { wrong = 1009 } },
  { frame(LAST + TEXT, ("a"):rep(1001)), { wrong = 1009 } },
  { frame(TEXT, ("a"):rep(600)) .. frame(LAST + MORE, ("a"):rep(600)), { wrong = 1009 } },
  { frame(LAST + TEXT, "\xff"), { wrong = 1007 } },
  { frame(LAST + TEXT, "\xed\xa0\x80"), { wrong = 1007 } },
  { frame(LAST + TEXT, "\xf4\x90\x80\x80"), { wrong = 1007 } },
  { frame(TEXT, "\xc3") .. frame(LAST + MORE, "a"), { wrong = 1007 } },
  { frame(LAST + CLOSE, "\3"), { wrong = 1002 } },
  { frame(LAST + CLOSE, "\3\231"), { wrong = 1002 } },
  { frame(LAST + CLOSE, "\3\237"), { wrong = 1002 } },
  { frame(LAST + CLOSE, "\3\232\xff"), { wrong = 1007 } },
  { "GET / HTTP/1.1\r\n\r\n", { wrong = 1002 } },
}

local function read_server(pieces) return read(pieces, "server") end

return check.run(function()
  -- The codec, by what the standards say.
  local function hex(text) return (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end
  check.equal(hex(codec.sha1("")), "da39a3ee5e6b4b0d3255bfef95601890afd80709", "SHA-1 of nothing")
  check.equal(hex(codec.sha1("abc")), "a9993e364706816aba3e25717850c26c9cd0d89d", "SHA-1 of abc")
  check.equal(hex(codec.sha1("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")), "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
    "SHA-1 of two blocks")
  check.equal(hex(codec.sha1(("a"):rep(1000000))), "34aa973cd4c4daa4f61eeb2bdbad27316534016f", "SHA-1 of a million")
  for i, pair in ipairs { { "", "" }, { "f", "Zg==" }, { "fo", "Zm8=" }, { "foo", "Zm9v" }, { "foobar", "Zm9vYmFy" }, { "\0\255\254", "AP/+" } } do
    check.equal(codec.base64(pair[1]), pair[2], "base64 " .. i)
    check.equal(codec.unbase64(pair[2]), pair[1], "from base64 " .. i)
  end
  for _, text in ipairs { "a", "====", "Zg=", "Zh==", "Zm9=", "Zg==Zg==", "Z\0==", "Zg\n=" } do
    check.equal(codec.unbase64(text), nil, "not base64: " .. text)
  end
  for size = 0, 20 do
    local text, key = ("abcdefghijklmnopqrstuvwxyz"):sub(1, size), "\1\128\255\0"
    local want = text:gsub("()(.)", function(at, c) return string.char(c:byte() ~ key:byte((at - 1) % 4 + 1)) end)
    check.equal(codec.mask(text, key), want, "mask " .. size)
  end
  check.raises("key of 4 bytes expected", "mask with 3 bytes", codec.mask, "a", "123")
  check.equal(#codec.random(16) == 16 and codec.random(16) ~= codec.random(16), true, "random")

  for i, case in ipairs(CASES) do
    check.equal(check.splits(case[1], read_server, "frames " .. i), case[2], "frames " .. i)
  end
  check.equal(read({ frame(LAST + TEXT, "a", { unmasked = true }), frame(LAST + TEXT, "a") }, "client"), { "text a", wrong = 1002 },
    "what a client reads")

  -- Handshake, by the example in RFC 6455, section 1.3.
  check.equal(websocket.accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "accept key")
  local bytes, key = websocket.request("h", "/x")
  local d = http1.decoder()
  http1.feed(d, bytes)
  local _, request = http1.next(d)
  check.equal({ request.upgrade, request.headers["sec-websocket-key"], request.target }, { "websocket", key, "/x" }, "a request")
  local response = { status = 101, reason = "", upgrade = "websocket", headers = { ["sec-websocket-accept"] = websocket.accept_key(key) } }
  check.equal(websocket.check_response(response, key), true, "an answer")
  response.headers["sec-websocket-protocol"] = "b"
  check.equal(websocket.check_response(response, key), true, "a protocol, not looked at")
  check.equal(websocket.check_response(response, key, "a, b"), true, "a protocol that was offered")
  check.equal({ websocket.check_response(response, key, "a, B") }, { nil, "the server wants a protocol that was not offered: b" }, "another")
  response.headers["sec-websocket-protocol"] = nil
  check.equal(select(2, websocket.request("h", "/", { host = "other" }):lower():gsub("host: other\r\n", "")), 1, "a host of one's own")
  check.equal(select(2, websocket.request("h", "/", { host = "other" }):lower():gsub("host:", "")), 1, "one host")
  response.headers["sec-websocket-accept"] = "x"
  check.equal(websocket.check_response(response, key), nil, "a wrong answer")

  for _, size in ipairs { 0, 1, 125, 126, 1000 } do
    local text = ("é"):rep(size // 2)
    check.equal(read({ websocket.frame("text", text, { masked = true }) }, "server"), { "text " .. text }, "there and back, masked")
    check.equal(read({ websocket.frame("binary", text) }, "client"), { "binary " .. text }, "there and back")
  end
  check.equal(websocket.frame("text", "a", { last = false }), "\1\1a", "a first fragment")
  check.equal(#websocket.frame("binary", ("x"):rep(65536)), 65546, "a long frame")
  check.raises("kind: text", "a frame of no kind", websocket.frame, "txt", "a")
  check.raises("125 bytes", "a long ping", websocket.frame, "ping", ("x"):rep(126))
  check.raises("in one part", "a part of a ping", websocket.frame, "ping", "x", { last = false })
  check.raises("payload: string expected, got number", "a number", websocket.frame, "text", 5)
  check.raises("a text is UTF%-8", "a text that is none", websocket.frame, "text", "\xff")
  check.equal(websocket.frame("text", "\xc3", { last = false }), "\1\1\xc3", "half a character before the last part")
  check.equal(websocket.frame("continuation", "\xb6"), "\x80\1\xb6", "the other half")
  check.equal(websocket.frame("close", websocket.close_payload(1000, ("x"):rep(123))):sub(1, 4), "\x88\125\3\232", "a long reason")
  check.equal(websocket.frame("close", websocket.close_payload()), "\x88\0", "a close without a code")
  for _, payload in ipairs { "\3", "\3\237", "\3\232\xff" } do
    check.raises("close_payload expected", "a wrong close", websocket.frame, "close", payload)
  end
  for _, code in ipairs { 999, 1004, 1005, 1006, 1015, 2000, 5000, 1000.5, "1000", 66536 } do
    check.raises("close_payload: code: one that may be sent expected", "a wrong code", websocket.close_payload, code)
  end
  for _, reason in ipairs { ("x"):rep(124), "\xff", 5 } do
    check.raises("close_payload: reason: at most 123 bytes of UTF%-8", "a wrong reason", websocket.close_payload, 1000, reason)
  end

  check.linear(function(n)
    local text = websocket.frame("binary", ("x"):rep(n), { masked = true })
    local decoder, kind, message = websocket.decoder(), nil, nil
    for i = 1, #text do
      if websocket.feed(decoder, text:sub(i, i)) then
        kind, message = websocket.next(decoder)
      end
    end
    check.equal(kind and #message, n, "a message byte by byte")
  end, 20000, 200000, "a message byte by byte")
  check.linear(function(n)
    local decoder = websocket.decoder()
    websocket.feed(decoder, frame(BINARY, "x") .. frame(MORE, "x"):rep(n) .. frame(LAST + MORE, "x"))
    check.equal(#select(2, websocket.next(decoder)), n + 2, "many fragments")
  end, 20000, 200000, "many fragments")

  local samples = {}
  for _, case in ipairs(CASES) do
    samples[#samples + 1] = case[1]
  end
  check.fuzz(samples, read_server, "frames")
end)
