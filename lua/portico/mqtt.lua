-- mqtt.lua - MQTT 3.1.1 (OASIS, 29 October 2014): packets for both sides, topics, and a broker.
--
--   return require("portico.mqtt").broker { listen = "tcp://127.0.0.1:1883" }
--
-- A decoder is a table of plain data, to be kept in conn.state.

local buffer = require "portico.buffer"

local byte, char, find, sub = string.byte, string.char, string.find, string.sub
local pack, unpack = string.pack, string.unpack
local concat = table.concat
local want = buffer.want

local mqtt = {}

local PACKET_MAX <const> = 1 << 18
local STRING_MAX <const> = 65535
local LENGTH_MAX <const> = (1 << 28) - 1 -- what four digits of seven bits say
local LEVELS_MAX <const> = 128 -- of a topic

local NAMES <const> = { "connect", "connack", "publish", "puback", "pubrec", "pubrel", "pubcomp", "subscribe", "suback", "unsubscribe",
  "unsuback", "pingreq", "pingresp", "disconnect" }
local NUMBERS = {}
for number, name in ipairs(NAMES) do
  NUMBERS[name] = number
end

-- ---- Topics -------------------------------------------------------------------------------------

local function is_text(text)
  return #text <= STRING_MAX and utf8.len(text) and not find(text, "\0", 1, true)
end

local function levels_of(topic)
  local levels, count = {}, 0
  for level in (topic .. "/"):gmatch("([^/]*)/") do
    count = count + 1
    levels[count] = level
  end
  return levels, count
end

-- True for what a message can be published to.
function mqtt.is_topic(topic)
  return topic ~= "" and is_text(topic) and not find(topic, "[+#]") and select(2, levels_of(topic)) <= LEVELS_MAX
end

-- True for what can be subscribed to: "+" stands for one level, "#" at the end for all that follow.
function mqtt.is_filter(filter)
  if filter == "" or not is_text(filter) then
    return false
  end
  local levels, count = levels_of(filter)
  for i, level in ipairs(levels) do
    if level == "#" and i < count or level ~= "#" and level ~= "+" and find(level, "[+#]") then
      return false
    end
  end
  return count <= LEVELS_MAX
end

-- Subscriptions by filter: a tree with a node for each level. Each holds, for any number of subscribers, a value.
local Tree = {}
Tree.__index = Tree

local function new_tree()
  return setmetatable({ root = { children = {}, subscribers = {} } }, Tree)
end

function Tree:set(filter, subscriber, value)
  local path, node = { self.root }, self.root
  local levels, count = levels_of(filter)
  for i, level in ipairs(levels) do
    local child = node.children[level]
    if not child then
      if value == nil then
        return
      end
      child = { children = {}, subscribers = {} }
      node.children[level] = child
    end
    node = child
    path[i + 1] = node
  end
  node.subscribers[subscriber] = value
  for i = count, 1, -1 do -- nodes that nobody needs any more
    if next(path[i + 1].children) or next(path[i + 1].subscribers) then
      return
    end
    path[i].children[levels[i]] = nil
  end
end

-- A table of who gets a message: subscriber = the largest value of its filters that match the topic.
function Tree:find(topic)
  local found, levels, count = {}, levels_of(topic)
  local hides_wildcards = find(topic, "^%$") -- section 4.7.2
  local function collect(node)
    for subscriber, value in pairs(node.subscribers) do
      found[subscriber] = math.max(found[subscriber] or value, value)
    end
  end
  local nodes = { self.root }
  for i = 1, count do
    local following = {}
    for _, node in ipairs(nodes) do
      local children = node.children
      if i > 1 or not hides_wildcards then
        if children["#"] then
          collect(children["#"])
        end
        following[#following + 1] = children["+"]
      end
      following[#following + 1] = children[levels[i]]
    end
    nodes = following
  end
  for _, node in ipairs(nodes) do
    collect(node)
    if node.children["#"] then -- "a/#" matches "a" too
      collect(node.children["#"])
    end
  end
  return found
end

-- True when a filter that is_filter matches a topic that is_topic.
function mqtt.matches(filter, topic)
  local tree = new_tree()
  tree:set(filter, 1, 0)
  return tree:find(topic)[1] ~= nil
end

-- ---- Decoding -----------------------------------------------------------------------------------

-- options: max_packet bytes (256 KiB).
function mqtt.decoder(options)
  local d = buffer.new()
  d.max_packet = options and options.max_packet or PACKET_MAX
  return d
end

-- Adds bytes that came. True when it is worth calling mqtt.next.
mqtt.feed = buffer.feed

-- Readers of what follows the fixed header: body, flags, packet. They return what is wrong, or nil.
local readers = {}

local function read_string(body, pos)
  if #body < pos + 1 then
    return nil
  end
  local size = unpack(">I2", body, pos)
  if #body < pos + 1 + size then
    return nil
  end
  return sub(body, pos + 2, pos + 1 + size), pos + 2 + size
end

local function read_text(body, pos)
  local text, after = read_string(body, pos)
  if not text or not is_text(text) then
    return nil
  end
  return text, after
end

function readers.connect(body, _, packet)
  local name, pos = read_text(body, 1)
  if name ~= "MQTT" and name ~= "MQIsdp" or #body < pos then
    return "not MQTT"
  end
  packet.level = byte(body, pos)
  if packet.level ~= 4 or name ~= "MQTT" then
    packet.level = packet.level == 4 and 0 or packet.level
    return nil -- another version: the rest may be laid out in another way
  elseif #body < pos + 3 then
    return "truncated"
  end
  local flags = byte(body, pos + 1)
  packet.clean, packet.keep_alive = flags & 2 ~= 0, unpack(">I2", body, pos + 2)
  local has_will, will_qos = flags & 4 ~= 0, flags >> 3 & 3
  if flags & 1 ~= 0 or will_qos == 3 or not has_will and flags & 0x38 ~= 0 or flags & 0xc0 == 0x40 then
    return "wrong flags"
  end
  packet.client_id, pos = read_text(body, pos + 4)
  if not packet.client_id then
    return "wrong client identifier"
  end
  if has_will then
    local will = { qos = will_qos, retain = flags & 0x20 ~= 0 }
    will.topic, pos = read_text(body, pos)
    if not will.topic or not mqtt.is_topic(will.topic) then
      return "wrong topic of the will"
    end
    will.payload, pos = read_string(body, pos)
    if not will.payload then
      return "truncated"
    end
    packet.will = will
  end
  if flags & 0x80 ~= 0 then
    packet.username, pos = read_text(body, pos)
    if not packet.username then
      return "wrong user name"
    end
  end
  if flags & 0x40 ~= 0 then
    packet.password, pos = read_string(body, pos)
    if not packet.password then
      return "truncated"
    end
  end
  return pos ~= #body + 1 and "too long" or nil
end

function readers.connack(body, _, packet)
  if #body ~= 2 or byte(body) > 1 then
    return "malformed"
  end
  packet.session_present, packet.code = byte(body) == 1, byte(body, 2)
end

function readers.publish(body, flags, packet)
  local topic, pos = read_text(body, 1)
  packet.qos, packet.retain, packet.dup = flags >> 1 & 3, flags & 1 == 1, flags & 8 ~= 0
  if packet.qos == 3 or packet.qos == 0 and packet.dup then
    return "wrong flags"
  elseif not topic or not mqtt.is_topic(topic) then
    return "wrong topic"
  end
  if packet.qos > 0 then
    if #body < pos + 1 then
      return "truncated"
    end
    packet.id = unpack(">I2", body, pos)
    pos = pos + 2
    if packet.id == 0 then
      return "packet identifier 0"
    end
  end
  packet.topic, packet.payload = topic, sub(body, pos)
end

local function read_id(body, _, packet)
  if #body ~= 2 then
    return "malformed"
  end
  packet.id = unpack(">I2", body)
  return packet.id == 0 and "packet identifier 0" or nil
end
readers.puback, readers.pubrec, readers.pubrel, readers.pubcomp, readers.unsuback = read_id, read_id, read_id, read_id, read_id

-- The list of filters in a subscribe (with a quality of service each) or unsubscribe.
local function read_filters(has_qos)
  return function(body, _, packet)
    if #body < 2 then
      return "truncated"
    end
    packet.id, packet.filters = unpack(">I2", body), {}
    local pos = 3
    while pos <= #body do
      local filter, after = read_text(body, pos)
      if not filter then
        return "wrong filter"
      end
      local entry = { topic = filter }
      if has_qos then
        entry.qos = byte(body, after)
        if not entry.qos or entry.qos > 2 then
          return "wrong quality of service"
        end
        after = after + 1
      end
      packet.filters[#packet.filters + 1] = entry
      pos = after
    end
    return packet.id == 0 and "packet identifier 0" or #packet.filters == 0 and "no filter" or nil
  end
end
readers.subscribe, readers.unsubscribe = read_filters(true), read_filters(false)

function readers.suback(body, _, packet)
  if #body < 3 then
    return "truncated"
  end
  packet.id, packet.codes = unpack(">I2", body), {}
  for i = 3, #body do
    local code = byte(body, i)
    packet.codes[i - 2] = code
    if code > 2 and code ~= 128 then
      return "wrong code"
    end
  end
  return packet.id == 0 and "packet identifier 0" or nil
end

local function read_nothing(body)
  return body ~= "" and "too long" or nil
end
readers.pingreq, readers.pingresp, readers.disconnect = read_nothing, read_nothing, read_nothing

local function fail(d, text)
  d.failed = text
  return nil, text
end

-- The next packet: a table with type ("connect", "publish", …) and what that has; false: more bytes are
-- needed; nil, message: this is not MQTT, close.
function mqtt.next(d)
  if d.failed then
    return nil, d.failed
  end
  local data, pos = d.data, d.pos
  local first = byte(data, pos)
  if not first then
    return want(d, 1)
  end
  local name, flags = NAMES[first >> 4], first & 15
  if not name then
    return fail(d, "no such packet")
  elseif name ~= "publish" and flags ~= ((name == "pubrel" or name == "subscribe" or name == "unsubscribe") and 2 or 0) then
    return fail(d, name .. ": wrong flags")
  end
  local size, digit, shift = 0, nil, 0
  local start = pos + 1
  repeat
    digit = byte(data, start)
    if not digit then
      return want(d, start - pos + 1)
    elseif shift > 21 then
      return fail(d, "length of more than four bytes")
    end
    size = size | (digit & 127) << shift
    shift, start = shift + 7, start + 1
  until digit < 128
  if size > d.max_packet then
    return fail(d, "packet too large")
  elseif #data < start + size - 1 then
    return want(d, start + size - pos)
  end
  local packet = { type = name }
  local wrong = readers[name](sub(data, start, start + size - 1), flags, packet)
  if wrong then
    return fail(d, name .. ": " .. wrong)
  end
  d.pos = start + size
  return packet
end

-- ---- Encoding -----------------------------------------------------------------------------------

local function text(value, what)
  if type(value) ~= "string" or #value > STRING_MAX then
    error("mqtt.encode: " .. what .. ": a string of at most 65535 bytes expected", 0)
  end
  return pack(">s2", value)
end

local function check_qos(qos, what)
  if qos ~= 0 and qos ~= 1 and qos ~= 2 then
    error("mqtt.encode: " .. what .. ": 0, 1 or 2 expected, got " .. tostring(qos), 0)
  end
  return qos
end

local function identifier(packet)
  local id = packet.id
  if math.type(id) ~= "integer" or id < 1 or id > 65535 then
    error("mqtt.encode: id: an integer from 1 to 65535 expected, got " .. tostring(id), 0)
  end
  return pack(">I2", id)
end

-- Writers return flags and what follows the fixed header.
local writers = {}

function writers.connect(packet)
  local will = packet.will
  local flags = (packet.clean ~= false and 2 or 0) | (packet.username and 128 or 0) | (packet.password and 64 or 0)
  if will then
    flags = flags | 4 | check_qos(will.qos or 0, "will.qos") << 3 | (will.retain and 32 or 0)
  end
  return 0, concat { text("MQTT", ""), char(4, flags), pack(">I2", packet.keep_alive or 60), text(packet.client_id or "", "client_id"),
    will and text(will.topic, "will.topic") .. text(will.payload or "", "will.payload") or "",
    packet.username and text(packet.username, "username") or "", packet.password and text(packet.password, "password") or "" }
end

function writers.connack(packet)
  return 0, char(packet.session_present and 1 or 0, packet.code or 0)
end

function writers.publish(packet)
  local qos = check_qos(packet.qos or 0, "qos")
  if not mqtt.is_topic(packet.topic) then
    error("mqtt.encode: topic: not one that can be published to: " .. tostring(packet.topic), 0)
  elseif packet.dup and qos == 0 then
    error("mqtt.encode: dup: nothing is sent again with a quality of service of 0", 0)
  end
  return (packet.dup and 8 or 0) | qos << 1 | (packet.retain and 1 or 0),
    text(packet.topic, "topic") .. (qos > 0 and identifier(packet) or "") .. packet.payload
end

local function write_id(packet)
  return packet.type == "pubrel" and 2 or 0, identifier(packet)
end
writers.puback, writers.pubrec, writers.pubrel, writers.pubcomp, writers.unsuback = write_id, write_id, write_id, write_id, write_id

local function write_filters(packet)
  local parts = { identifier(packet) }
  for _, entry in ipairs(packet.filters) do
    parts[#parts + 1] = text(entry.topic, "filters") .. (packet.type == "subscribe" and char(check_qos(entry.qos or 0, "filters: qos")) or "")
  end
  return 2, concat(parts)
end
writers.subscribe, writers.unsubscribe = write_filters, write_filters

function writers.suback(packet)
  return 0, identifier(packet) .. char(table.unpack(packet.codes))
end

local function write_nothing()
  return 0, ""
end
writers.pingreq, writers.pingresp, writers.disconnect = write_nothing, write_nothing, write_nothing

-- A packet, as mqtt.next returns it, as bytes. Raises what mqtt.next would refuse.
function mqtt.encode(packet)
  local number = NUMBERS[packet.type]
  if not number then
    error("mqtt.encode: type: one of " .. concat(NAMES, ", ") .. " expected, got " .. tostring(packet.type), 2)
  end
  local flags, body = writers[packet.type](packet)
  local wrong = packet.type ~= "publish" and readers[packet.type](body, flags, {}) -- that has been checked, and may be large
  if wrong then
    error("mqtt.encode: " .. packet.type .. ": " .. wrong, 2)
  elseif #body > LENGTH_MAX then
    error("mqtt.encode: " .. packet.type .. ": too large, at most " .. LENGTH_MAX .. " bytes can be said", 2)
  end
  local size, digits = #body, ""
  repeat
    local digit = size & 127
    size = size >> 7
    digits = digits .. char(size > 0 and digit | 128 or digit)
  until size == 0
  return char(number << 4 | flags) .. digits .. body
end

mqtt.new_tree = new_tree

-- See mqtt_broker.lua.
function mqtt.broker(options)
  return require("portico.mqtt_broker")(options or {})
end

return mqtt
