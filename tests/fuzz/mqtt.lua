-- mqtt.lua - an input is packets. What is found is written and read again; the input as a topic, and as a filter, too.
local check = require "check"
local mqtt = require "portico.mqtt"
local pieces = require "pieces"

local function decode(list)
  local d, found = mqtt.decoder { max_packet = 1000 }, {}
  for _, piece in ipairs(list) do
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

local function packets(list)
  local found = decode(list)
  for _, packet in ipairs(#list == 1 and found or {}) do
    if packet.type ~= "connect" or packet.level == 4 then
      local again = decode { mqtt.encode(packet) }
      assert(#again == 1 and check.same(again[1], packet), "a packet that is written is read as another: " .. check.show(packet, 3))
    end
  end
  return found
end

-- A topic matches itself and "#", and a tree finds what mqtt.matches() says.
local function topics(list)
  local text = table.concat(list)
  local filter, topic = text:match("^(.-)\n(.*)")
  filter, topic = filter or text, topic or text
  local tree = mqtt.new_tree()
  if mqtt.is_topic(topic) then
    assert(mqtt.is_filter(topic) and mqtt.matches(topic, topic), "a topic that does not match itself")
    if mqtt.is_filter(filter) then
      tree:set(filter, "who", 1)
      assert((tree:find(topic).who ~= nil) == mqtt.matches(filter, topic), "the tree and matches() differ")
      tree:set(filter, "who", nil)
      assert(next(tree.root.children) == nil, "the tree keeps what nobody wants")
    end
  end
  return { mqtt.is_topic(topic) or false, mqtt.is_filter(filter) or false }
end

return pieces(packets, topics)
