-- resp_server.lua - a server that speaks RESP, on resp.lua: resp.server(options) returns what a script returns.

local resp = require "portico.resp"
local channels = require "portico.resp_channels"
local commands = require "portico.resp_commands"
local check_server = require("portico.options").check_server

local format, gsub, sub, upper = string.format, string.gsub, string.sub, string.upper
local encode, feed, next_command = resp.encode, resp.feed, resp.next_command

-- What is not put into the queue of a transaction, what cannot be, and what a client of RESP2 may say that listens to
-- channels.
local AT_ONCE <const> = { MULTI = true, EXEC = true, DISCARD = true, RESET = true, QUIT = true }
local NOT_IN_MULTI <const> = { SUBSCRIBE = true, UNSUBSCRIBE = true, HELLO = true }
local WHILE_LISTENING <const> = { SUBSCRIBE = true, UNSUBSCRIBE = true, PING = true, QUIT = true, RESET = true }

-- What Redis says, by the code of a failure.
local ERRORS <const> = {
  type = "WRONGTYPE Operation against a key holding the wrong kind of value",
  range = "ERR increment or decrement would overflow",
  limit = "OOM command not allowed when used memory > 'maxmemory'.",
}

local OWN <const> = { commands = "table", on_command = "function", decoder = "table", name = "string" }

-- What a usage like "SET key value [option ...]" means: the name; how many words there are at least and at most behind it,
-- and in steps of how many. A name alone: any number.
local function read_usage(text)
  local name, words = text:match("^(%S+)%s*(.*)$")
  if words == "" then
    return name, 0, math.huge, 1
  end
  local least, most, step = 0, 0, 1
  words = gsub(words, "%b[]", function(group)
    local _, count = gsub(sub(group, 2, -2), "%S+", "")
    if group:find("%.%.%.%]$") then
      most, step = math.huge, math.max(count - 1, 1)
    else
      most = most + count
    end
    return ""
  end)
  _, least = gsub(words, "%S+", "")
  return name, least, most + least, step
end

-- Adds commands by usage to those that are known.
local function define(known, by_usage)
  for usage, f in pairs(by_usage) do
    if type(usage) ~= "string" or not usage:find("%S") or type(f) ~= "function" then
      error(format("resp.server: commands: functions by usage expected, got a %s for %s", type(f), tostring(usage)), 0)
    end
    local name, least, most, step = read_usage(usage)
    known[upper(name)] = { name = name, f = f, least = least, most = most, step = step }
  end
end

-- Puts a command into the queue of a transaction.
local function enqueue(d, queue, args, name)
  if NOT_IN_MULTI[name] then
    queue.failed = true
    return { err = "ERR Command not allowed inside a transaction" }
  end
  for _, word in ipairs(args) do
    queue.size = queue.size + #word
  end
  if #queue >= d.max_args or queue.size > d.max_command then
    d.queue = { failed = true, size = 0 } -- it keeps nothing, and remembers that it had something
    return { err = "ERR the transaction is too large" }
  end
  if not queue.failed then
    queue[#queue + 1] = args
  end
  return { ok = "QUEUED" }
end

-- The reply for a command that has returned nil, message, code.
local function failure(message, code)
  return { err = ERRORS[code] or "ERR " .. gsub(message, "%c", " ") }
end

-- Returns what a script returns. options:
--   commands    functions by usage, like "SET key value [option ...]", called as f(conn, args, state) if there are as many words
--               as that says: what they return is the reply, as resp.encode takes it, or nil, message, code for an error.
--               args[1] is the name as it came; state is conn.state, where they may keep their own. A name alone takes any
--               number of words.
--   on_command  a function that is called in the same way for all others; without it these are the commands of
--               resp_commands.lua, and unknown. With it, only HELLO and QUIT are answered here.
--   decoder     limits as for resp.decoder
--   name        how the server calls itself ("portico")
--   anything else (listen, limits, on_connect, on_close, …) goes into the script's table as it is
-- A handler may wait: what comes meanwhile on its connection waits as well.
return function(options)
  check_server("resp.server", options, OWN)
  resp.decoder(options.decoder) -- so that what is wrong with it is told now
  local NO_REPLY <const> = resp.NO_REPLY
  local on_command = options.on_command
  local known = {}
  local server = { known = known, name = options.name or "portico", failure = failure }

  define(known, commands)
  if on_command then
    known = { HELLO = known.HELLO, QUIT = known.QUIT }
    server.known = known
  end
  define(known, options.commands or {})

  local function unknown(_, args, state)
    if state.resp.queue then
      state.resp.queue.failed = true
    end
    return { err = format("ERR unknown command '%s'", gsub(sub(args[1], 1, 128), "[^\32-\126]", "?")) }
  end

  local function call(conn, args, state, d)
    local command = known[args[1]] or known[upper(args[1])]
    if not command then
      return (on_command or unknown)(conn, args, state)
    end
    local count, name = #args - 1, command.name
    if count < command.least or count > command.most or (count - command.least) % command.step ~= 0 then
      if d.queue then
        d.queue.failed = true
      end
      return { err = format("ERR wrong number of arguments for '%s' command", name:lower()) }
    elseif d.channels and state.protocol == 2 and not WHILE_LISTENING[name] then
      return { err = format("ERR Can't execute '%s': only SUBSCRIBE / UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
        name:lower()) }
    elseif d.queue and not AT_ONCE[name] then
      return enqueue(d, d.queue, args, name)
    end
    return command.f(conn, args, state, server)
  end

  function server.call(conn, args, state)
    return call(conn, args, state, state.resp)
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
      local reply, problem, code = call(conn, args, state, d)
      if reply ~= NO_REPLY then
        reply = problem and failure(problem, code) or reply
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
    script[key] = not OWN[key] and value or nil
  end

  script.lasting = { "resp", "protocol", "over", options.lasting }

  function script.on_message(conn, data)
    local state = conn.state
    local d = state.resp
    if not d then
      d = resp.decoder(options.decoder)
      state.resp, state.protocol = d, 2
    end
    if feed(d, data) then
      return serve(conn, state, d)
    end
  end

  function script.on_close(conn, reason, err)
    local d = conn.state.resp
    if d then
      channels.leave_all(conn, d)
    end
    if options.on_close then
      options.on_close(conn, reason, err)
    end
  end

  script.on_error = options.on_error or function(conn)
    if conn and conn.state.resp then -- one that the script has opened itself speaks something else
      conn:send("-ERR internal error\r\n")
      conn:close()
      return "keep"
    end
  end
  channels.open()
  return script
end
