-- socks5.lua - a SOCKS 5 proxy (RFC 1928, RFC 1929): CONNECT to names and addresses, with a password or without.
--
--   portico --listen tcp://127.0.0.1:1080 scripts/socks5.lua [USER PASSWORD]
--   curl --socks5-hostname 127.0.0.1:1080 http://example.org/

local user <const>, password <const> = arg[1], arg[2]
if user and not password then
  error("usage: portico socks5.lua [USER PASSWORD]", 0)
end

local GREETING_TIMEOUT <const> = 10 -- seconds for each part of the handshake

local NO_AUTHENTICATION <const>, WITH_PASSWORD <const>, NO_METHOD <const> = 0, 2, 255
local REPLIES <const> = { refused = 5, not_found = 4, unreachable = 3, timeout = 6 } -- by the code of portico.connect

local function read(client, count)
  return client:read(count, GREETING_TIMEOUT)
end

-- A string behind a length of one byte.
local function read_string(client)
  local size = read(client, 1)
  return size and read(client, size:byte())
end

local function authenticate(client)
  local version, methods = read(client, 1), nil
  if version == "\5" then
    methods = read_string(client)
  end
  if not methods then
    return false
  end
  local wanted = user and WITH_PASSWORD or NO_AUTHENTICATION
  if not methods:find(string.char(wanted), 1, true) then
    client:send("\5", string.char(NO_METHOD))
    return false
  end
  client:send("\5", string.char(wanted))
  if not user then
    return true
  end
  if read(client, 1) ~= "\1" then
    return false
  end
  local is_right = read_string(client) == user
  is_right = read_string(client) == password and is_right
  client:send("\1", is_right and "\0" or "\1")
  return is_right
end

-- The command and the address in a request; no address for one of a kind that we do not know.
local function read_request(client)
  local head = read(client, 4)
  if not head or head:byte() ~= 5 then
    return nil
  end
  local kind, host = head:byte(4), nil
  if kind == 1 then
    local bytes = read(client, 4)
    host = bytes and ("%d.%d.%d.%d"):format(bytes:byte(1, 4))
  elseif kind == 3 then
    host = read_string(client)
    host = host and host:find("^[%w%.%-_]+$") and host
  elseif kind == 4 then
    local bytes = read(client, 16)
    host = bytes and ("[%x:%x:%x:%x:%x:%x:%x:%x]"):format((">I2I2I2I2I2I2I2I2"):unpack(bytes))
  end
  local port = host and read(client, 2)
  return head:byte(2), port and host .. ":" .. (">I2"):unpack(port)
end

return {
  on_stream = function(client)
    if client.state.has_begun then -- with a version whose time is over: what it knew, or was connected to, has ended with it
      client:abort()
      return
    elseif not client:peek(1, GREETING_TIMEOUT) then
      return
    end
    client.state.has_begun = true
    if not authenticate(client) then
      return
    end
    local command, address = read_request(client)
    local function reply(code)
      client:send("\5", string.char(code), "\0\1\0\0\0\0\0\0")
    end
    if not command then
      return
    elseif command ~= 1 or not address then
      reply(command ~= 1 and 7 or 8)
      return
    end
    local server <close>, message, code = portico.connect("tcp://" .. address) -- so that no name is taken for a scheme
    if not server then
      portico.log.info(client, "cannot reach", address .. ":", message)
      reply(REPLIES[code] or 1)
      return
    end
    reply(0)
    client:pipe(server, { both = true })
  end,
}
