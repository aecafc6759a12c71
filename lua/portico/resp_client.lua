-- resp_client.lua - a client for servers that speak RESP, on resp.lua: resp.connect(uri, options).
--
--   local redis <close> = assert(resp.connect("127.0.0.1:6379"))
--   local value = redis:call("GET", "key")

local resp = require "portico.resp"

local PUSHED_MAX <const> = 1000

-- A question that has no reply yet. However its call ends, by a timeout or a cancelled task as well, the connection
-- goes with it: a reply that comes later would be taken for that to the next.
local Question = {}
function Question:__close()
  if self.conn then
    self.conn:abort()
  end
end

local Client = {}
Client.__index = Client

-- The next value that the server sends: true, value; nil, message, code.
local function next_value(self, timeout)
  local deadline = portico.monotonic() + timeout
  while true do
    local got, value = resp.next_reply(self.decoder)
    if got then
      return true, value
    elseif got == nil then
      self.conn:abort()
      return nil, value, "protocol"
    end
    local data, message, code = self.conn:read(-65536, math.max(deadline - portico.monotonic(), 0))
    if not data then
      return nil, message, code
    end
    resp.feed(self.decoder, data)
  end
end

-- Is this what a server answers, or does it push it, whatever it has been asked? That a subscription has begun or ended
-- is pushed in RESP3, too, and answers the command.
local function is_reply(value, command)
  local push = type(value) == "table" and value.push
  return not push or type(push[1]) == "string" and push[1]:lower() == command:lower()
end

-- Waits for the reply to a command; what is pushed meanwhile is set aside for receive(). True, value; nil, message, code.
local function answer(self, command)
  local deadline = portico.monotonic() + self.timeout
  while true do
    local got, value, code = next_value(self, deadline - portico.monotonic())
    if not got or is_reply(value, command) then
      return got, value, code
    elseif #self.pushed == PUSHED_MAX then
      return nil, PUSHED_MAX .. " pushes that nobody has received", "limit"
    end
    table.insert(self.pushed, value)
  end
end

-- Waits for what the server pushes, or for a reply: true, value; nil, message, code.
function Client:receive(timeout)
  if #self.pushed > 0 then
    return true, table.remove(self.pushed, 1)
  end
  return next_value(self, timeout or self.timeout)
end

-- Sends a command and waits for its reply. Returns the value: a string, number, list, …, nil for null; the
-- text alone for { ok = … }. An error of the server's: nil, its text, "error"; of the connection: nil,
-- message, code, and the client is of no more use.
function Client:call(...)
  local request = resp.request(...)
  local turn <close> = self.turn:acquire()
  local open <close> = setmetatable({ conn = self.conn }, Question)
  self.conn:send(request)
  local got, value, code = answer(self, tostring(...))
  if not got then
    return nil, value, code
  end
  open.conn = nil
  if type(value) == "table" and value.err then
    return nil, value.err, "error"
  end
  return type(value) == "table" and value.ok or value
end

function Client:close()
  return self.conn:close()
end
Client.__close = Client.close

-- Waits for a connection to a server. Returns a client, or nil, message, code. options: timeout in seconds,
-- to connect and for each reply (10), and the limits of resp.decoder. Clients are for handlers, timers and
-- tasks; one may be shared by several of these.
return function(uri, options)
  local timeout, limits = 10, {}
  for name, value in pairs(options or {}) do
    if name == "timeout" then
      timeout = value
    else
      limits[name] = value
    end
  end
  local decoder = resp.decoder(limits)
  local conn, message, code = portico.connect(uri, { timeout = timeout })
  if not conn then
    return nil, message, code
  end
  return setmetatable({ conn = conn, decoder = decoder, timeout = timeout, turn = portico.semaphore(1), pushed = {} },
    Client)
end
