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

local places = setmetatable({}, { __mode = "k" }) -- by connection: a semaphore

local function answer(request)
  local method = methods[request.method]
  if not method then
    return json.encode { id = request.id, error = "there is no method '" .. tostring(request.method) .. "'" }
  end
  local ok, text = pcall(function()
    local params = type(request.params) == "table" and request.params or {}
    return json.encode { id = request.id, result = method(table.unpack(params)) }
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
    local request, message = json.decode(text)
    if type(request) ~= "table" then
      return json.encode { error = message or "an object expected" }
    end
    places[conn] = places[conn] or portico.semaphore(CALLS_MAX)
    local place = places[conn]:acquire() -- with all taken, this connection waits, and its client with it
    portico.spawn(function()
      local held <close> = place
      conn:send(answer(request))
    end)
  end,

  on_eof = function(conn) -- the client will ask no more: answer what it has asked
    local place = places[conn]
    for _ = 1, place and CALLS_MAX or 0 do
      place:acquire()
    end
    conn:close()
  end,
}
