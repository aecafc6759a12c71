-- resp_channels.lua - SUBSCRIBE, UNSUBSCRIBE and PUBLISH of resp_server.lua. What a connection has subscribed to is in its
-- state.resp.channels, so that it survives a reload; who has subscribed is found there, once, and again when another version
-- of the script has changed it meanwhile: one that was undone, or one where a handler still waited.

local resp = require "portico.resp"

local encode = resp.encode

local CALL <const> = "portico.resp.publish"
local SUBSCRIPTIONS_MAX <const> = 1000 -- of one connection

local channels = {}
local index -- by channel: the ids of its subscribers on this worker; nil: not looked for yet
local keepers = portico.shared("portico.resp.channels") -- by worker: the generation whose index was used last

local function enter(all, name, id)
  all[name] = all[name] or {}
  all[name][id] = true
end

local function subscribers()
  local me <const> = tostring(portico.worker.id)
  if not index or keepers:get(me) ~= portico.generation then
    index = {}
    for conn in portico.conns() do
      local d = conn.state.resp
      for name in pairs(d and d.channels or {}) do
        enter(index, name, conn.id)
      end
    end
    keepers:set(me, portico.generation)
  end
  return index
end

local function leave(name, id)
  local set = subscribers()[name]
  if set then
    set[id] = nil
    if not next(set) then
      index[name] = nil
    end
  end
end

-- To the subscribers on this worker. Returns how many these are.
local function deliver(name, message)
  local bytes, count = {}, 0
  for id in pairs(subscribers()[name] or {}) do
    local conn = portico.conn(id)
    local protocol = conn and conn.state.protocol
    if conn then
      bytes[protocol] = bytes[protocol] or encode({ push = { "message", name, message } }, protocol)
    end
    if conn and conn:send(bytes[protocol]) ~= nil then
      count = count + 1
    else
      leave(name, id) -- it has gone, and its on_close was another version's
    end
  end
  return count
end

function channels.open()
  portico.worker.serve(CALL, deliver)
end

-- See resp.publish.
function channels.publish(name, message)
  if portico.worker.count == 1 then
    return deliver(name, message)
  end
  local counts, problem, code = portico.worker.each(CALL, name, message)
  if not counts then
    return nil, problem, code
  end
  local total = 0
  for _, count in pairs(counts) do
    total = total + count
  end
  return total
end

-- SUBSCRIBE with wanted, else UNSUBSCRIBE. Each channel has a reply of its own.
local function subscription(kind, wanted)
  return function(conn, args, state)
    local d = state.resp
    local mine, count, names = d.channels or {}, d.channel_count or 0, table.move(args, 2, #args, 1, {})
    if wanted and count + #names > SUBSCRIPTIONS_MAX then
      return { err = "ERR too many subscriptions: a connection may have " .. SUBSCRIPTIONS_MAX }
    end
    if #names == 0 then
      for name in pairs(mine) do
        names[#names + 1] = name
      end
    end
    local replies = {}
    for i, name in ipairs(names) do
      if wanted and not mine[name] then
        enter(subscribers(), name, conn.id)
        mine[name], count = true, count + 1
      elseif not wanted and mine[name] then
        leave(name, conn.id)
        mine[name], count = nil, count - 1
      end
      replies[i] = encode({ push = { kind, name, count } }, state.protocol)
    end
    replies[1] = replies[1] or encode({ push = { kind, nil, 0, n = 3 } }, state.protocol)
    d.channels, d.channel_count = count > 0 and mine or nil, count
    if conn:send(table.concat(replies)) == false then
      conn:flush()
    end
    return resp.NO_REPLY
  end
end

channels.subscribe = subscription("subscribe", true)
channels.unsubscribe = subscription("unsubscribe", false)

-- All that a connection has subscribed to, at its end.
function channels.leave_all(conn, d)
  for name in pairs(d.channels or {}) do
    leave(name, conn.id)
  end
  d.channels, d.channel_count = nil, nil
end

return channels
