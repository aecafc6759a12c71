-- mqtt_store.lua - what mqtt.broker keeps where every version of the script finds it, in portico.shared: the sessions of
-- clients that are away, and retained messages. The session of a client that is there is in its conn.state.
--
-- A session that is away is a list: its filters first, then what it has of messages of quality of service 2, then what waits
-- for it, of which the messages that were sent already have their identifiers.

local pack, unpack = string.pack, string.unpack

local ALL <const> = 0x7fffffff -- of the keys
local TOTAL <const> = "" -- where the sum of all sizes is: no client is called so

local Store = {}
Store.__index = Store

local store = {}

-- What a session has sent and has no acknowledgement of, as a list in the order in which it was sent: behind identifier 65535
-- comes 1 again.
function store.in_order(session)
  local list = {}
  for _, message in pairs(session.unacknowledged) do
    list[#list + 1] = message
  end
  local function age(message) return (session.last_id - message.id) % 65535 end
  table.sort(list, function(a, b) return age(a) > age(b) end)
  return list
end

-- Of this worker. size_of(message) is in bytes.
function store.open(size_of)
  local self = setmetatable({ size_of = size_of }, Store)
  for _, name in ipairs { "away", "sizes", "retains", "keeper" } do
    self[name] = assert(portico.shared("portico.mqtt." .. portico.worker.id .. "." .. name))
  end
  return self
end

-- True when another version of the script has been at work since this one was, or this one has not been yet: what is known of
-- connections has to be found out anew.
function Store:change_hands()
  if self.keeper:get("generation") == portico.generation then
    return false
  end
  self.keeper:set("generation", portico.generation)
  return true
end

-- The bytes of what waits for a client; without a name, of all that is here.
function Store:bytes(client_id)
  return self.sizes:get(client_id or TOTAL) or 0
end

-- ---- Sessions -----------------------------------------------------------------------------------

local function pack_message(message, id)
  return pack("<c1I2Bs2s4", "m", id, message.retain and 1 or 0, message.topic, message.payload)
end

local function unpack_filters(bytes)
  local filters, position = {}, 2
  while position <= #bytes do
    local filter, qos
    filter, qos, position = unpack("<s2B", bytes, position)
    filters[filter] = qos
  end
  return filters
end

-- One more message for a client that is away. Returns true, or nil, message, code when there is no room.
function Store:append(client_id, message, id)
  local ok, problem, code = self.away:push(client_id, pack_message(message, id or 0))
  if not ok then
    return nil, problem, code
  end
  local size = self.size_of(message)
  self.sizes:incr(client_id, size)
  self.sizes:incr(TOTAL, size)
  return true
end

-- Puts a session away. Returns true, or nil, message, code when there is no room: then nothing of it is kept.
function Store:put(session)
  local filters = {}
  for filter, qos in pairs(session.filters) do
    filters[#filters + 1] = pack("<s2B", filter, qos)
  end
  local id = session.client_id
  local ok, message, code = self.away:push(id, "f" .. table.concat(filters))
  for packet_id in pairs(session.received) do
    if ok then
      ok, message, code = self.away:push(id, pack("<c1I2", "r", packet_id))
    end
  end
  for _, waiting in ipairs(store.in_order(session)) do
    if ok then
      ok, message, code = self:append(id, waiting, waiting.id)
    end
  end
  for i = session.queue.first, session.queue.last do
    if ok then
      ok, message, code = self:append(id, session.queue[i])
    end
  end
  if not ok then
    self:drop(id)
    return nil, message, code
  end
  return true
end

function Store:drop(client_id)
  self.sizes:incr(TOTAL, -self:bytes(client_id))
  self.sizes:delete(client_id)
  self.away:delete(client_id)
end

-- The session of a client that comes again, which is not away any more; nil: there is none.
function Store:take(client_id)
  local list = self.away:range(client_id)
  if #list == 0 then
    return nil
  end
  local session = store.new_session(client_id)
  session.filters = unpack_filters(list[1])
  for filter in pairs(session.filters) do
    session.filter_count, session.filter_bytes = session.filter_count + 1, session.filter_bytes + #filter
  end
  session.bytes = self:bytes(client_id)
  for i = 2, #list do
    local kind, id, retain, topic, payload = unpack(list[i]:byte() == 114 and "<c1I2" or "<c1I2Bs2s4", list[i])
    local message = kind == "m" and { type = "publish", topic = topic, payload = payload, qos = 1, retain = retain == 1 }
    if kind == "r" then
      session.received[id] = true
    elseif id > 0 then
      message.id = id
      session.unacknowledged[id], session.last_id = message, id
    else
      session.queue.last = session.queue.last + 1
      session.queue[session.queue.last] = message
    end
  end
  self:drop(client_id)
  return session
end

function store.new_session(client_id)
  return { client_id = client_id, filters = {}, filter_count = 0, filter_bytes = 0, queue = { first = 1, last = 0 },
    unacknowledged = {}, in_flight = 0, last_id = 0, dropped = 0, bytes = 0, received = {} }
end

-- For each session that is away: its client's identifier, and its filters with their quality of service.
function Store:each()
  local ids, i = self.away:keys("", ALL), 0
  return function()
    i = i + 1
    return ids[i], ids[i] and unpack_filters(self.away:range(ids[i], 1, 1)[1])
  end
end

-- ---- Retained messages --------------------------------------------------------------------------

-- Keeps a message; one without payload is forgotten. Returns true, or nil when there is no room, or less than allowed.
function Store:retain(message, max_bytes)
  local before = self:retained(message.topic)
  local size = message.payload ~= "" and self.size_of(message) or 0
  local more = size - (before and self.size_of(before) or 0)
  if size == 0 then
    self.retains:delete(message.topic)
  elseif more > max_bytes or not self.retains:set(message.topic, string.char(message.qos) .. message.payload) then
    return nil
  end
  self.sizes:incr(TOTAL, more)
  return true
end

-- The message that is retained for a topic, or nil.
function Store:retained(topic)
  local value = self.retains:get(topic)
  return value and { topic = topic, payload = value:sub(2), qos = value:byte() }
end

-- The topics of all.
function Store:topics()
  return self.retains:keys("", ALL)
end

return store
