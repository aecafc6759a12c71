-- resp_server.lua - a server that speaks RESP, on resp.lua: resp.server(options) returns what a script returns.

local resp = require "portico.resp"

local format, sub, upper = string.format, string.sub, string.upper
local tointeger = math.tointeger
local encode, feed = resp.encode, resp.feed

local function hello(options, state, args)
  local version = args[2] and tointeger(tonumber(args[2])) or state.protocol
  if args[2] and (version ~= 2 and version ~= 3) then
    return { err = "NOPROTO unsupported protocol version" }
  elseif #args > 2 and upper(args[3]) ~= "SETNAME" then
    return { err = "ERR syntax error in HELLO: only the protocol version and SETNAME are known" }
  end
  state.protocol = version
  return { map = { server = options.name or "portico", version = portico.version, proto = version, mode = "standalone",
    role = "master", modules = {} } }
end

-- Returns what a script returns. options:
--   commands    functions by name in capital letters, called as f(conn, args, state): what they return is the reply, as
--               resp.encode takes it. args[1] is the name as it came; state is conn.state, where they may keep their own.
--   on_command  a function that is called in the same way for all others; without it they are unknown
--   decoder     limits as for resp.decoder
--   anything else (listen, limits, on_connect, on_close, …) goes into the script's table as it is
-- HELLO is answered here, QUIT too. A handler may wait: what comes meanwhile on its connection waits as well.
return function(options)
  local commands, on_command = options.commands or {}, options.on_command
  local NO_REPLY <const> = resp.NO_REPLY
  local next_command, new = resp.next_command, resp.decoder

  local function unknown(_, args)
    return { err = format("ERR unknown command '%s'", sub(args[1], 1, 128):gsub("[^\32-\126]", "?")) }
  end

  local function call(conn, args, state)
    local name = args[1]
    local f = commands[name] or commands[upper(name)]
    if f then
      return f(conn, args, state)
    end
    name = upper(name)
    if name == "HELLO" then
      return hello(options, state, args)
    elseif name == "QUIT" then
      conn:send("+OK\r\n")
      conn:close()
      state.over = true
      return NO_REPLY
    end
    return (on_command or unknown)(conn, args, state)
  end

  -- Answers what is there.
  local function serve(conn, state, d)
    while not state.over do
      local args, message = next_command(d)
      if not args then
        if args == nil then
          conn:send("-ERR " .. message .. "\r\n")
          conn:close()
        end
        return
      end
      local reply = call(conn, args, state)
      if reply ~= NO_REPLY then
        local is_low = conn:send(encode(reply, state.protocol))
        if is_low == false then
          is_low = conn:flush() -- the peer takes less than it is sent: wait for it
        end
        if not is_low then
          return
        end
      end
    end
  end

  local script = {}
  for key, value in pairs(options) do
    script[key] = value
  end
  script.commands, script.on_command, script.decoder, script.name = nil, nil, nil, nil

  function script.on_message(conn, data)
    local state = conn.state
    local d = state.resp
    if not d then
      d = new(options.decoder)
      state.resp, state.protocol = d, 2
    end
    if feed(d, data) then
      return serve(conn, state, d)
    end
  end

  script.on_error = options.on_error or function(conn)
    if conn then
      conn:send("-ERR internal error\r\n")
      conn:close()
      return "keep"
    end
  end
  return script
end
