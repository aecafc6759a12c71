-- mqtt.lua - packets and topics, well-formed and not; see check.lua.
local check = require "check"
local mqtt = require "portico.mqtt"

local function read(pieces)
  local d, found = mqtt.decoder { max_packet = 1000 }, {}
  for _, piece in ipairs(pieces) do
    mqtt.feed(d, piece)
    while not found.wrong do
      local packet, message = mqtt.next(d)
      if not packet then
        found.wrong = message
        break
      end
      found[#found + 1] = packet
    end
  end
  return found
end

local CONNECT <const> = "\0\4MQTT\4\2\0\60\0\1a"

-- Packets as tables and as bytes, both ways.
local PACKETS <const> = {
  { { type = "connect", level = 4, clean = true, keep_alive = 60, client_id = "a" }, "\x10\x0d" .. CONNECT },
  { { type = "connect", level = 4, clean = false, keep_alive = 0, client_id = "", username = "u", password = "p\0",
    will = { topic = "t", payload = "gone", qos = 1, retain = true } },
    "\x10\x1c\0\4MQTT\4\xec\0\0\0\0\0\1t\0\4gone\0\1u\0\2p\0" },
  { { type = "connack", session_present = true, code = 0 }, "\x20\2\1\0" },
  { { type = "publish", topic = "a/b", payload = "x", qos = 0, retain = false, dup = false }, "\x30\6\0\3a/bx" },
  { { type = "publish", topic = "a", payload = "", qos = 1, retain = true, dup = true, id = 258 }, "\x3b\5\0\1a\1\2" },
  { { type = "publish", topic = "é", payload = ("x"):rep(200), qos = 0, retain = false, dup = false }, "\x30\xcc\1\0\2é" .. ("x"):rep(200) },
  { { type = "puback", id = 1 }, "\x40\2\0\1" },
  { { type = "pubrec", id = 1 }, "\x50\2\0\1" },
  { { type = "pubrel", id = 1 }, "\x62\2\0\1" },
  { { type = "pubcomp", id = 1 }, "\x70\2\0\1" },
  { { type = "subscribe", id = 5, filters = { { topic = "a/#", qos = 1 }, { topic = "+", qos = 0 } } }, "\x82\12\0\5\0\3a/#\1\0\1+\0" },
  { { type = "suback", id = 5, codes = { 1, 128 } }, "\x90\4\0\5\1\x80" },
  { { type = "unsubscribe", id = 5, filters = { { topic = "a" } } }, "\xa2\5\0\5\0\1a" },
  { { type = "unsuback", id = 5 }, "\xb0\2\0\5" },
  { { type = "pingreq" }, "\xc0\0" },
  { { type = "pingresp" }, "\xd0\0" },
  { { type = "disconnect" }, "\xe0\0" },
}

local WRONG <const> = {
  { "\0\0", "no such packet" },
  { "\xf0\0", "no such packet" },
  { "GET / HTTP/1.1\r\n", "puback: wrong flags" },
  { "\xc1\0", "pingreq: wrong flags" },
  { "\x80\5\0\1\0\1a\0", "subscribe: wrong flags" },
  { "\xc0\1x", "pingreq: too long" },
  { "\x30\xff\xff\xff\xff\1", "length of more than four bytes" },
  { "\x30\xff\xff\xff\x7f", "packet too large" },
  { "\x30\xe9\7", "packet too large" },
  { "\x36\6\0\3a/bx", "publish: wrong flags" },
  { "\x38\6\0\3a/bx", "publish: wrong flags" },
  { "\x30\1\0", "publish: wrong topic" },
  { "\x30\2\0\0", "publish: wrong topic" },
  { "\x30\4\0\9ab", "publish: wrong topic" },
  { "\x30\5\0\3a/+", "publish: wrong topic" },
  { "\x30\3\0\1\xff", "publish: wrong topic" },
  { "\x30\3\0\1\0", "publish: wrong topic" },
  { "\x32\4\0\1a\0", "publish: truncated" },
  { "\x32\5\0\1a\0\0", "publish: packet identifier 0" },
  { "\x40\2\0\0", "puback: packet identifier 0" },
  { "\x40\1\0", "puback: malformed" },
  { "\x82\2\0\1", "subscribe: no filter" },
  { "\x82\5\0\1\0\1a", "subscribe: wrong quality of service" },
  { "\x82\6\0\1\0\1a\3", "subscribe: wrong quality of service" },
  { "\x82\6\0\0\0\1a\0", "subscribe: packet identifier 0" },
  { "\x82\5\0\1\0\9a", "subscribe: wrong filter" },
  { "\x90\3\0\1\3", "suback: wrong code" },
  { "\x10\x0d\0\4HTTP\4\2\0\60\0\1a", "connect: not MQTT" },
  { "\x10\x0d\0\4MQTT\4\3\0\60\0\1a", "connect: wrong flags" },
  { "\x10\x0d\0\4MQTT\4\x42\0\60\0\1a", "connect: wrong flags" },
  { "\x10\x0d\0\4MQTT\4\x0a\0\60\0\1a", "connect: wrong flags" },
  { "\x10\x0e" .. CONNECT .. "x", "connect: too long" },
  { "\x10\x0c\0\4MQTT\4\2\0\60\0\1", "connect: wrong client identifier" },
  { "\x10\x10\0\4MQTT\4\6\0\60\0\1a\0\1#", "connect: wrong topic of the will" },
  { "\x10\x08\0\4MQTT\4\2", "connect: truncated" },
}

local MATCHES <const> = { -- from sections 4.7.1 and 4.7.2 of the standard
  { "sport/tennis/player1/#", "sport/tennis/player1", true },
  { "sport/tennis/player1/#", "sport/tennis/player1/ranking", true },
  { "sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true },
  { "sport/#", "sport", true },
  { "#", "a/b", true },
  { "sport/tennis/+", "sport/tennis/player1", true },
  { "sport/tennis/+", "sport/tennis/player1/ranking", false },
  { "sport/+", "sport", false },
  { "sport/+", "sport/", true },
  { "+/+", "/finance", true },
  { "/+", "/finance", true },
  { "+", "/finance", false },
  { "#", "$SYS/x", false },
  { "+/monitor/Clients", "$SYS/monitor/Clients", false },
  { "$SYS/#", "$SYS/x", true },
  { "a/+/c", "a/b/c", true },
  { "a//c", "a//c", true },
  { "a", "A", false },
}

return check.run(function()
  local samples = {}
  for i, case in ipairs(PACKETS) do
    check.equal(check.splits(case[2], read, "packet " .. i), { case[1] }, "packet " .. i)
    check.equal(mqtt.encode(case[1]), case[2], "bytes of packet " .. i)
    samples[#samples + 1] = case[2]
  end
  for i, case in ipairs(WRONG) do
    check.equal(check.splits(case[1], read, "wrong " .. i), { wrong = case[2] }, "wrong " .. i)
    samples[#samples + 1] = case[1]
  end
  check.equal(read { "\x10\x0d\0\4MQTT\5\2\0\60\0\0\0" }[1], { type = "connect", level = 5 }, "a connect of MQTT 5")
  check.raises("type: one of", "a packet of no type", mqtt.encode, { type = "x" })
  check.raises("topic", "publish to a wildcard", mqtt.encode, { type = "publish", topic = "#", payload = "" })
  local refused = { -- by mqtt.next, too, or other packets than these
    { "qos: 0, 1 or 2", { type = "publish", topic = "t", payload = "", qos = 8 } },
    { "dup: nothing", { type = "publish", topic = "t", payload = "", dup = true } },
    { "id: an integer", { type = "publish", topic = "t", payload = "", qos = 1 } },
    { "id: an integer", { type = "puback", id = 0 } },
    { "will.qos: 0, 1 or 2", { type = "connect", will = { topic = "t", qos = 4 } } },
    { "wrong topic of the will", { type = "connect", will = { topic = "#" } } },
    { "wrong flags", { type = "connect", password = "without a name" } },
    { "wrong client identifier", { type = "connect", client_id = "\xff" } },
    { "no filter", { type = "subscribe", id = 1, filters = {} } },
    { "filters: qos: 0, 1 or 2", { type = "subscribe", id = 1, filters = { { topic = "t", qos = 3 } } } },
    { "wrong filter", { type = "unsubscribe", id = 1, filters = { { topic = "\0" } } } },
    { "truncated", { type = "suback", id = 1, codes = {} } },
    { "wrong code", { type = "suback", id = 1, codes = { 3 } } },
  }
  for i, case in ipairs(refused) do
    check.raises(case[1], "refused packet " .. i, mqtt.encode, case[2])
  end

  for _, case in ipairs(MATCHES) do
    check.equal(mqtt.matches(case[1], case[2]), case[3], case[1] .. " and " .. case[2])
  end
  for _, filter in ipairs { "", "a#", "#/a", "a+", "a/b+/c", "\0", "\xff", ("a/"):rep(200) } do
    check.equal(mqtt.is_filter(filter) or false, false, "filter " .. filter:sub(1, 10))
  end
  local tree = mqtt.new_tree()
  for i, filter in ipairs { "a/b", "a/+", "a/#", "#", "b" } do
    tree:set(filter, "s" .. i, i)
    tree:set(filter, "all", i)
  end
  check.equal(tree:find("a/b"), { s1 = 1, s2 = 2, s3 = 3, s4 = 4, all = 4 }, "who gets a/b")
  for i, filter in ipairs { "a/b", "a/+", "a/#", "#", "b" } do
    tree:set(filter, "s" .. i, nil)
    tree:set(filter, "all", nil)
    tree:set(filter .. "/none", "all", nil)
  end
  check.equal(next(tree.root.children), nil, "a tree is empty when all have left")

  check.linear(function(n)
    local bytes = mqtt.encode { type = "publish", topic = "t", payload = ("x"):rep(n) }
    local d, packet = mqtt.decoder(), nil
    for i = 1, #bytes do
      if mqtt.feed(d, bytes:sub(i, i)) then
        packet = mqtt.next(d)
      end
    end
    check.equal(#packet.payload, n, "a packet byte by byte")
  end, 20000, 200000, "a packet byte by byte")
  check.fuzz(samples, read, "packets")
end)
