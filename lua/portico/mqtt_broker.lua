-- mqtt_broker.lua - a broker for MQTT 3.1.1 on mqtt.lua: mqtt.broker(options) returns what a script returns.
--
-- options:
--   authenticate(packet, conn)  a client wants in, with packet.client_id, username, password: true lets it; anything else is refused as not
--                               authorized
--   on_publish(client, packet)  a client publishes: false drops the message. client: client_id, conn
--   max_packet                  bytes (256 KiB)
--   max_queue                   bytes of messages that are kept for a client that is away or slow (1 MiB); what is above is dropped
--   max_stored                  bytes of all these messages and of the retained ones (32 MiB)
--   max_sessions                clients, with those that are away and whose session is kept (10000)
--   max_subscriptions           of one client (1000)
--   anything else (listen, limits, …) goes into the script's table as it is
--
-- Quality of service 0 and 1 is delivered; 2 is taken from publishers, and granted to subscribers as 1.
-- Sessions and retained messages live in the memory of one worker, so it wants --workers 1.

local mqtt = require "portico.mqtt"

local encode, next_packet = mqtt.encode, mqtt.next

local FIRST_PACKET <const> = 10 -- seconds in which a client must connect
local IN_FLIGHT_MAX <const> = 100 -- messages of a client that wait for its acknowledgement

local MESSAGE_BYTES <const> = 200 -- of memory for a message, topic and payload not counted
local FILTERS_BYTES_MAX <const> = 65536 -- of all filters of a client

local OWN <const> = { authenticate = true, on_publish = true, max_packet = true, max_queue = true, max_stored = true,
  max_sessions = true, max_subscriptions = true }

local function size_of(message)
  return #message.topic + #message.payload + MESSAGE_BYTES
end

return function(options)
  local max_queue, max_stored = options.max_queue or 1 << 20, options.max_stored or 32 << 20
  local max_subscriptions, max_sessions = options.max_subscriptions or 1000, options.max_sessions or 10000
  local sessions, session_count = {}, 0 -- by client identifier
  local retained = {} -- messages by topic
  local stored = 0 -- bytes of messages that are retained, queued or not acknowledged
  local subscriptions = mqtt.new_tree() -- of sessions, with the quality of service
  local broker_name, made_up = ("%x"):format(math.random(0)), 0

  -- ---- Messages to clients ------------------------------------------------------------------------

  -- Sends what is queued, as far as the client acknowledges it.
  local function pump(session)
    local queue = session.queue
    while session.conn and queue.first <= queue.last and session.in_flight < IN_FLIGHT_MAX do
      local message = queue[queue.first]
      queue[queue.first] = nil
      queue.first = queue.first + 1
      repeat
        session.last_id = session.last_id % 65535 + 1
      until not session.unacknowledged[session.last_id]
      local packet = { type = "publish", topic = message.topic, payload = message.payload, qos = 1, retain = message.retain,
        id = session.last_id }
      session.unacknowledged[packet.id] = packet
      session.in_flight = session.in_flight + 1
      session.conn:send(encode(packet))
    end
  end

  local function deliver(session, message, qos, retain)
    if qos == 0 then
      local state = session.conn and session.conn.state
      if state and not state.mqtt_full then -- a slow client misses what it was not promised
        local is_low = session.conn:send(encode { type = "publish", topic = message.topic, payload = message.payload, retain = retain })
        state.mqtt_full = is_low == false or nil
      end
      return
    end
    local queue, size = session.queue, size_of(message)
    if session.bytes + size > max_queue or stored + size > max_stored then
      session.dropped = session.dropped + 1
      if session.dropped == 1 then
        portico.log.warn("mqtt:", session.client_id, "takes too little: messages for it are dropped")
      end
      return
    end
    session.bytes, stored = session.bytes + size, stored + size
    queue.last = queue.last + 1
    queue[queue.last] = { topic = message.topic, payload = message.payload, retain = retain }
    pump(session)
  end

  local function publish(message)
    if message.retain then
      local before = retained[message.topic]
      local left = stored - (before and size_of(before) or 0)
      if message.payload == "" then
        retained[message.topic], stored = nil, left
      elseif left + size_of(message) <= max_stored then
        retained[message.topic], stored = { topic = message.topic, payload = message.payload, qos = message.qos }, left + size_of(message)
      else
        portico.log.warn("mqtt: no room to retain the message to", message.topic)
      end
    end
    for session, qos in pairs(subscriptions:find(message.topic)) do
      deliver(session, message, math.min(qos, message.qos), false)
    end
  end

  -- ---- Sessions -----------------------------------------------------------------------------------

  local function forget(session)
    for filter in pairs(session.filters) do
      subscriptions:set(filter, session, nil)
    end
    sessions[session.client_id] = nil
    session_count = session_count - 1
    stored = stored - session.bytes
  end

  -- The connection of a session ends, or another takes its place.
  local function leave(session)
    local will = session.will
    session.conn, session.will, session.in_flight = nil, nil, 0
    if session.clean then
      forget(session)
    end
    if will then
      publish(will)
    end
  end

  local function refuse(conn, code)
    conn:send(encode { type = "connack", code = code })
    conn:close()
    return false
  end

  local function connect(conn, d, packet)
    if packet.level ~= 4 then
      return refuse(conn, 1)
    end
    local id = packet.client_id
    if id == "" then
      if not packet.clean then
        return refuse(conn, 2)
      end
      made_up = made_up + 1
      id = ("portico-%s-%d"):format(broker_name, made_up)
    end
    packet.client_id = id
    if options.authenticate and options.authenticate(packet, conn) ~= true then
      return refuse(conn, 5)
    end
    local session = sessions[id]
    if session and session.conn then
      local old = session.conn
      leave(session)
      old:close()
      session = sessions[id]
    end
    if session and packet.clean then
      forget(session)
      session = nil
    end
    local is_present = session ~= nil
    if not session then
      if session_count >= max_sessions then
        return refuse(conn, 3)
      end
      session_count = session_count + 1
      session = { client_id = id, filters = {}, filter_count = 0, queue = { first = 1, last = 0 }, unacknowledged = {}, in_flight = 0,
        last_id = 0, dropped = 0, bytes = 0, filter_bytes = 0, received = {} }
      sessions[id] = session
    end
    session.conn, session.clean, session.will = conn, packet.clean, packet.will
    d.client_id = id
    conn:set { idle = packet.keep_alive * 1.5, first_byte = 0 } -- 0: never
    conn:send(encode { type = "connack", session_present = is_present, code = 0 })
    local again = {}
    for _, message in pairs(session.unacknowledged) do
      again[#again + 1] = message
    end
    table.sort(again, function(a, b) return a.id < b.id end)
    for _, message in ipairs(again) do
      message.dup = true
      session.in_flight = session.in_flight + 1
      conn:send(encode(message))
    end
    pump(session)
    return true
  end

  -- ---- Packets from clients -------------------------------------------------------------------------

  local handlers = {}

  function handlers.publish(session, packet)
    local conn, is_new = session.conn, true
    if packet.qos == 2 then
      is_new = not session.received[packet.id]
      session.received[packet.id] = true
    end
    if is_new and (not options.on_publish or options.on_publish(session, packet) ~= false) then
      publish(packet)
    end
    if packet.qos > 0 then
      conn:send(encode { type = packet.qos == 1 and "puback" or "pubrec", id = packet.id })
    end
  end

  function handlers.pubrel(session, packet)
    session.received[packet.id] = nil
    session.conn:send(encode { type = "pubcomp", id = packet.id })
  end

  function handlers.puback(session, packet)
    local message = session.unacknowledged[packet.id]
    if message then
      session.unacknowledged[packet.id] = nil
      session.in_flight = session.in_flight - 1
      session.bytes, stored = session.bytes - size_of(message), stored - size_of(message)
      pump(session)
    end
  end

  function handlers.subscribe(session, packet)
    local codes, fresh = {}, {}
    for i, entry in ipairs(packet.filters) do
      local before = session.filters[entry.topic]
      if not mqtt.is_filter(entry.topic) or not before and (session.filter_count >= max_subscriptions
        or session.filter_bytes + #entry.topic > FILTERS_BYTES_MAX) then
        codes[i] = 128
      else
        local qos = math.min(entry.qos, 1)
        session.filters[entry.topic] = qos
        session.filter_count = session.filter_count + (before and 0 or 1)
        session.filter_bytes = session.filter_bytes + (before and 0 or #entry.topic)
        subscriptions:set(entry.topic, session, qos)
        codes[i] = qos
        fresh[#fresh + 1] = { topic = entry.topic, qos = qos }
      end
    end
    session.conn:send(encode { type = "suback", id = packet.id, codes = codes })
    for _, entry in ipairs(fresh) do
      local exact = retained[entry.topic]
      if exact then
        deliver(session, exact, math.min(entry.qos, exact.qos), true)
      elseif entry.topic:find("[+#]") then
        local tree = mqtt.new_tree()
        tree:set(entry.topic, session, entry.qos)
        for topic, message in pairs(retained) do
          if tree:find(topic)[session] then
            deliver(session, message, math.min(entry.qos, message.qos), true)
          end
        end
      end
    end
  end

  function handlers.unsubscribe(session, packet)
    for _, entry in ipairs(packet.filters) do
      if session.filters[entry.topic] then
        session.filters[entry.topic] = nil
        session.filter_count = session.filter_count - 1
        session.filter_bytes = session.filter_bytes - #entry.topic
        subscriptions:set(entry.topic, session, nil)
      end
    end
    session.conn:send(encode { type = "unsuback", id = packet.id })
  end

  function handlers.pingreq(session)
    session.conn:send(encode { type = "pingresp" })
  end

  function handlers.disconnect(session)
    session.will = nil
    session.conn:close()
  end

  -- What a client has sent wrong.
  local function complain(conn, text)
    portico.log.info("mqtt:", conn, text)
    conn:close()
  end

  local function serve(conn, state, d)
    while true do
      local packet, message = next_packet(d)
      if packet == false then
        return
      elseif not packet then
        return complain(conn, message)
      elseif not d.client_id then
        if packet.type ~= "connect" then
          return complain(conn, "the first packet is " .. packet.type .. " and not connect")
        elseif not connect(conn, d, packet) then
          return
        end
      else
        local session, handler = sessions[d.client_id], handlers[packet.type]
        if not session or session.conn ~= conn then
          return conn:close() -- another connection has taken its place, or the script was reloaded: it may come again
        elseif not handler then
          return complain(conn, packet.type .. " is not for a client to send")
        end
        handler(session, packet)
        if packet.type == "disconnect" then
          return
        end
      end
    end
  end

  -- ---- The script ---------------------------------------------------------------------------------

  local script = {}
  for key, value in pairs(options) do
    script[key] = not OWN[key] and value or nil
  end
  script.limits = script.limits or { first_byte = FIRST_PACKET }

  function script.on_message(conn, data)
    local state = conn.state
    local d = state.mqtt
    if not d then
      d = mqtt.decoder(options)
      state.mqtt = d
    end
    if mqtt.feed(d, data) then
      serve(conn, state, d)
    end
  end

  function script.on_drain(conn)
    conn.state.mqtt_full = nil
    if options.on_drain then
      options.on_drain(conn)
    end
  end

  function script.on_close(conn, reason, err)
    local d = conn.state.mqtt
    local session = d and sessions[d.client_id or false]
    if session and session.conn == conn then
      leave(session)
    end
    if options.on_close then
      options.on_close(conn, reason, err)
    end
  end
  return script
end
