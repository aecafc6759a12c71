-- rpc.lua - remote procedure calls: JSON behind a length of four bytes, in both directions.
--
--   portico scripts/rpc.lua
--   printf '\0\0\0\46{"id":1,"method":"add","params":[1,2]}' | nc -q1 127.0.0.1 7777
--
-- A request is { "id": …, "method": "add", "params": [1, 2] }; the answer { "id": …, "result": 3 } or { "id":
-- …, "error": "…" }. Requests of one connection are worked on at the same time, so answers come as they are
-- ready; the id tells which is which.

local json = require "portico.json"

local CALLS_MAX <const> = 100 -- at a time on one connection

local methods = {}

function methods.add(a, b)
  return a + b
end

function methods.upper(text)
  return text:upper()
end

function methods.sleep(seconds)
  portico.sleep(math.min(seconds, 10))
  return "slept"
end

function methods.methods()
  local names = {}
  for name in pairs(methods) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

-- By connection: a semaphore for its calls, and one for its answers: the next is sent when the client takes what there is.
local places, turns = setmetatable({}, { __mode = "k" }), setmetatable({}, { __mode = "k" })

-- By connection: how many requests have no answer yet, and 1 while its client may still ask. When nothing is left it is
-- closed. All versions of this script share it: a request may be answered by the one before.
local open = assert(portico.shared("rpc.open"))

local function leave(conn)
  local key = tostring(conn.id)
  if open:incr(key, -1, 1) == 0 then
    open:delete(key)
    conn:close()
  end
end

local Request = { __close = function(self) leave(self.conn) end } -- also when its task is ended

-- The arguments for a method: a null is nil, and counts.
local function arguments(params)
  local count = type(params) == "table" and #params or 0
  for i = 1, count do
    if params[i] == json.null then
      params[i] = nil
    end
  end
  return table.unpack(params or {}, 1, count)
end

local function answer(request)
  local name, method = request.method, methods[request.method]
  if not method then
    local problem = type(name) == "string" and "there is no method '" .. name .. "'" or "the name of a method expected"
    return json.encode { id = request.id, error = problem }
  end
  local ok, text = pcall(function()
    local result = method(arguments(request.params))
    return json.encode { id = request.id, result = result == nil and json.null or result }
  end)
  if not ok then
    portico.log.warn("method", request.method, "failed:", text) -- which is not the client's business
    text = json.encode { id = request.id, error = "the method failed" }
  end
  return text
end

return {
  frame = { type = "length", size = 4, max = 1 << 20 },

  on_message = function(conn, text)
    local request, message = json.decode(text, { null = json.null }) -- so that lists keep their places
    if type(request) ~= "table" or request == json.null then
      return json.encode { error = message or "an object expected" }
    end
    places[conn] = places[conn] or portico.semaphore(CALLS_MAX)
    turns[conn] = turns[conn] or portico.semaphore(1)
    local place = places[conn]:acquire() -- with all taken, this connection waits, and its client with it
    assert(open:incr(tostring(conn.id), 1, 1))
    portico.spawn(function()
      local held <close> = place
      local asked <close> = setmetatable({ conn = conn }, Request)
      local reply = answer(request)
      local turn <close> = turns[conn]:acquire()
      if conn:send(reply) == false then
        conn:flush()
      end
    end)
  end,

  on_eof = leave, -- the client will ask no more: what it has asked is answered

  on_close = function(conn) open:delete(tostring(conn.id)) end,
}
