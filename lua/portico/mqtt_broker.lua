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
-- Subscriptions, sessions and retained messages belong to one worker, so it wants --workers 1. They survive a reload of the script: the
-- session of a client that is there is its conn.state.mqtt_session, the rest is in portico.shared (mqtt_store.lua).

local mqtt = require "portico.mqtt"
local mqtt_store = require "portico.mqtt_store"
local check_server = require("portico.options").check_server

local encode, next_packet = mqtt.encode, mqtt.next

local FIRST_PACKET <const> = 10 -- seconds in which a client must connect
local PATIENCE <const> = 1.5 -- times the keep-alive: section 3.1.2.10
local IN_FLIGHT_MAX <const> = 100 -- messages of a client that wait for its acknowledgement

local MESSAGE_BYTES <const> = 200 -- of memory for a message, topic and payload not counted
local FILTERS_BYTES_MAX <const> = 65536 -- of all filters of a client

local OWN <const> = { authenticate = "function", on_publish = "function", max_packet = "number", max_queue = "number",
  max_stored = "number", max_sessions = "number", max_subscriptions = "number" }

local function size_of(message)
  return #message.topic + #message.payload + MESSAGE_BYTES
end

return function(options)
  check_server("mqtt.broker", options, OWN)
  local max_queue, max_stored = options.max_queue or 1 << 20, options.max_stored or 32 << 20
  local max_subscriptions, max_sessions = options.max_subscriptions or 1000, options.max_sessions or 10000
  local store = mqtt_store.open(size_of)
  local sessions, session_count = {}, 0 -- of clients that are there, by their identifiers; the number is of all
  local conns = {} -- theirs
  local missing = {} -- by client identifier: true for those that are away and have missed messages, which has been told
  local queued = 0 -- bytes of messages that wait for these, or for their acknowledgement
  local subscriptions = mqtt.new_tree() -- of client identifiers, with the quality of service
  local broker_name, made_up = ("%x"):format(math.random(0)), 0

  -- The session is that of a client which is there.
  local function adopt(session, conn)
    local id = session.client_id
    sessions[id], conns[id] = session, conn
    session_count, queued = session_count + 1, queued + session.bytes
    for filter, qos in pairs(session.filters) do
      subscriptions:set(filter, id, qos)
    end
  end

  -- What another version of the script has changed, see Store:change_hands().
  local function look_around()
    if not store:change_hands() then
      return
    end
    sessions, conns, session_count, queued, subscriptions = {}, {}, 0, 0, mqtt.new_tree()
    for conn in portico.conns() do
      local session = conn.state.mqtt_session
      if session then
        adopt(session, conn)
      end
    end
    for id, filters in store:each() do
      session_count = session_count + 1
      for filter, qos in pairs(filters) do
        subscriptions:set(filter, id, qos)
      end
    end
  end

  -- ---- Messages to clients ------------------------------------------------------------------------

  local function has_room(bytes, size)
    return bytes + size <= max_queue and queued + store:bytes() + size <= max_stored
  end

  -- Sends what is queued, as far as the client acknowledges it.
  local function pump(session)
    local queue, conn = session.queue, conns[session.client_id]
    while queue.first <= queue.last and session.in_flight < IN_FLIGHT_MAX do
      local packet = queue[queue.first]
      queue[queue.first] = nil
      queue.first = queue.first + 1
      repeat
        session.last_id = session.last_id % 65535 + 1
      until not session.unacknowledged[session.last_id]
      packet.id = session.last_id
      session.unacknowledged[packet.id] = packet
      session.in_flight = session.in_flight + 1
      conn:send(encode(packet))
    end
  end

  -- Has the client been silent for longer than it said it would be? What it is sent hides that from the limit of idleness.
  local function is_gone(conn)
    local d = conn.state and conn.state.mqtt
    return d and d.keep_alive > 0 and portico.monotonic() - d.heard > d.keep_alive * PATIENCE
  end

  local function deliver(id, message, qos, retain)
    local session, conn = sessions[id], conns[id]
    if conn and is_gone(conn) then
      conn:abort()
    end
    if qos == 0 then
      local state = conn and conn.state
      if state and not state.mqtt_full then -- a slow client misses what it was not promised
        local is_low = conn:send(encode { type = "publish", topic = message.topic, payload = message.payload, retain = retain })
        state.mqtt_full = is_low == false or nil
      end
      return
    end
    local packet = { type = "publish", topic = message.topic, payload = message.payload, qos = 1, retain = retain }
    if not session then
      if not (has_room(store:bytes(id), size_of(packet)) and store:append(id, packet)) and not missing[id] then
        missing[id] = true
        portico.log.warn("mqtt:", id, "is away for too long: messages for it are dropped")
      end
      return
    elseif not has_room(session.bytes, size_of(packet)) then
      session.dropped = session.dropped + 1
      if session.dropped == 1 then
        portico.log.warn("mqtt:", id, "takes too little: messages for it are dropped")
      end
      return
    end
    session.bytes, queued = session.bytes + size_of(packet), queued + size_of(packet)
    local queue = session.queue
    queue.last = queue.last + 1
    queue[queue.last] = packet
    pump(session)
  end

  local function publish(message)
    look_around()
    if message.retain and not store:retain(message, max_stored - queued - store:bytes()) then
      portico.log.warn("mqtt: no room to retain the message to", message.topic)
    end
    for id, qos in pairs(subscriptions:find(message.topic)) do
      deliver(id, message, math.min(qos, message.qos), false)
    end
  end

  -- ---- Sessions -----------------------------------------------------------------------------------

  -- Nobody will come again for it.
  local function forget(session)
    for filter in pairs(session.filters) do
      subscriptions:set(filter, session.client_id, nil)
    end
  end

  -- The connection of a session ends, or another takes its place.
  local function leave(session)
    local id = session.client_id
    conns[id].state.mqtt_session = nil
    sessions[id], conns[id] = nil, nil
    session_count, queued = session_count - 1, queued - session.bytes
    if session.clean then
      forget(session)
    elseif store:put(session) then
      session_count = session_count + 1
    else
      portico.log.warn("mqtt: no room to keep the session of", id)
      forget(session)
    end
    if session.will then
      publish(session.will)
    end
  end

  local function refuse(conn, code)
    conn:send(encode { type = "connack", code = code })
    conn:close()
    return false
  end

  local function connect(conn, packet)
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
    look_around() -- that may have waited
    if sessions[id] then
      local old = conns[id]
      leave(sessions[id])
      old:close()
    end
    local session = store:take(id)
    if session then
      session_count = session_count - 1
    end
    if session and packet.clean then
      forget(session)
      session = nil
    end
    if not session and session_count >= max_sessions then
      return refuse(conn, 3)
    end
    local is_present = session ~= nil
    session = session or mqtt_store.new_session(id)
    session.clean, session.will, missing[id] = packet.clean, packet.will, nil
    conn.state.mqtt_session = session
    adopt(session, conn)
    conn.state.mqtt.keep_alive = packet.keep_alive
    conn:set { idle = packet.keep_alive * PATIENCE, first_byte = 0 } -- 0: never
    conn:send(encode { type = "connack", session_present = is_present, code = 0 })
    for _, message in ipairs(mqtt_store.in_order(session)) do
      message.dup = true
      session.in_flight = session.in_flight + 1
      conn:send(encode(message))
    end
    pump(session)
    return true
  end

  -- ---- Packets from clients -------------------------------------------------------------------------

  local handlers = {}

  function handlers.publish(session, packet, conn)
    local is_new = packet.qos ~= 2 or not session.received[packet.id]
    if is_new and (not options.on_publish or options.on_publish({ client_id = session.client_id, conn = conn }, packet) ~= false) then
      publish(packet)
    end
    if packet.qos == 2 then
      session.received[packet.id] = true -- only now: when that has raised, the client will send it again
    end
    if packet.qos > 0 then
      conn:send(encode { type = packet.qos == 1 and "puback" or "pubrec", id = packet.id })
    end
  end

  function handlers.pubrel(session, packet, conn)
    session.received[packet.id] = nil
    conn:send(encode { type = "pubcomp", id = packet.id })
  end

  function handlers.puback(session, packet)
    local message = session.unacknowledged[packet.id]
    if message then
      session.unacknowledged[packet.id] = nil
      session.in_flight = session.in_flight - 1
      session.bytes, queued = session.bytes - size_of(message), queued - size_of(message)
      pump(session)
    end
  end

  function handlers.subscribe(session, packet, conn)
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
        subscriptions:set(entry.topic, session.client_id, qos)
        codes[i] = qos
        fresh[#fresh + 1] = { topic = entry.topic, qos = qos }
      end
    end
    conn:send(encode { type = "suback", id = packet.id, codes = codes })
    for _, entry in ipairs(fresh) do
      local tree = mqtt.new_tree()
      tree:set(entry.topic, true, entry.qos)
      for _, topic in ipairs(entry.topic:find("[+#]") and store:topics() or { entry.topic }) do
        local message = tree:find(topic)[true] and store:retained(topic)
        if message then
          deliver(session.client_id, message, math.min(entry.qos, message.qos), true)
        end
      end
    end
  end

  function handlers.unsubscribe(session, packet, conn)
    for _, entry in ipairs(packet.filters) do
      if session.filters[entry.topic] then
        session.filters[entry.topic] = nil
        session.filter_count = session.filter_count - 1
        session.filter_bytes = session.filter_bytes - #entry.topic
        subscriptions:set(entry.topic, session.client_id, nil)
      end
    end
    conn:send(encode { type = "unsuback", id = packet.id })
  end

  function handlers.pingreq(_, _, conn)
    conn:send(encode { type = "pingresp" })
  end

  function handlers.disconnect(session, _, conn)
    session.will = nil
    conn:close()
  end

  -- What a client has sent wrong.
  local function complain(conn, text)
    portico.log.debug("mqtt:", conn, text) -- as many as peers want
    conn:close()
  end

  local function serve(conn, state, d)
    while true do
      look_around() -- again for each, as the handler before may have waited
      local packet, message = next_packet(d)
      if packet == false then
        return
      elseif not packet then
        return complain(conn, message)
      elseif not state.mqtt_session then
        if packet.type ~= "connect" then
          return complain(conn, "the first packet is " .. packet.type .. " and not connect")
        elseif not connect(conn, packet) then
          return
        end
      else
        local handler = handlers[packet.type]
        if not handler then
          return complain(conn, packet.type .. " is not for a client to send")
        end
        handler(state.mqtt_session, packet, conn)
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
  script.lasting = { "mqtt", "mqtt_session", "mqtt_full", options.lasting }

  function script.on_load(...)
    if portico.worker.count > 1 and portico.worker.id == 0 then
      portico.log.warn("mqtt.broker: clients of different workers do not hear each other: say --workers 1, or workers = 1")
    end
    if options.on_load then
      return options.on_load(...)
    end
  end

  function script.on_message(conn, data)
    local state = conn.state
    local d = state.mqtt
    if not d then
      d = mqtt.decoder(options)
      d.keep_alive = 0
      state.mqtt = d
    end
    d.heard = portico.monotonic()
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
    local session = conn.state.mqtt_session
    if session then
      look_around()
      if not conns[session.client_id] then
        adopt(session, conn) -- those that close are not among portico.conns()
      end
      if conns[session.client_id].id == conn.id then
        leave(session)
      end
    end
    if options.on_close then
      options.on_close(conn, reason, err)
    end
  end
  return script
end
