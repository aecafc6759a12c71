-- resp_commands.lua - what every server of resp_server.lua answers, whatever it is for: what clients ask when they come and
-- go, and transactions. By usage, as options.commands; here f(conn, args, state, server), where server has name; known,
-- the commands by their names; call(conn, args, state); and failure(message, code).

local resp = require "portico.resp"

local OK <const> = { ok = "OK" }

local function refuse(text) return { err = "ERR " .. text } end

local commands = {}

-- ---- Coming and going ---------------------------------------------------------------------------

commands["HELLO [version] [option ...]"] = function(_, args, state, server)
  local version = state.protocol
  if args[2] then
    version = math.tointeger(tonumber(args[2]))
  end
  if not version then
    return refuse "Protocol version is not an integer or out of range"
  elseif version ~= 2 and version ~= 3 then
    return { err = "NOPROTO unsupported protocol version" }
  elseif args[3] and (args[3]:upper() ~= "SETNAME" or #args ~= 4) then
    return refuse "syntax error in HELLO: only the protocol version and SETNAME are known"
  end
  state.protocol, state.resp.name = version, args[4] or state.resp.name
  return { map = { server = server.name, version = portico.version, proto = version, mode = "standalone", role = "master",
    modules = {} } }
end

commands["QUIT"] = function(conn, _, state)
  conn:send("+OK\r\n")
  conn:close()
  state.over = true
  return resp.NO_REPLY
end

commands["RESET"] = function(conn, _, state)
  local d = state.resp
  require("portico.resp_channels").leave_all(conn, d)
  d.queue, d.name, state.protocol = nil, nil, 2
  return { ok = "RESET" }
end

commands["PING [message]"] = function(_, args, state)
  if state.resp.channels and state.protocol == 2 then
    return { "pong", args[2] or "" } -- a client that only listens takes no other replies
  end
  return args[2] or { ok = "PONG" }
end

commands["ECHO message"] = function(_, args) return args[2] end

commands["SELECT index"] = function(_, args)
  return args[2] == "0" and OK or refuse "DB index is out of range"
end

commands["CLIENT subcommand [word ...]"] = function(conn, args, state)
  local d, what, count = state.resp, args[2]:upper(), #args
  if what == "ID" and count == 2 then
    return conn.id
  elseif what == "GETNAME" and count == 2 then
    return d.name
  elseif what == "SETNAME" and count == 3 then
    d.name = args[3]
    return OK
  elseif what == "SETINFO" and count == 4 then
    return OK
  end
  return refuse "unknown subcommand or wrong number of arguments: CLIENT has ID, GETNAME, SETNAME and SETINFO"
end

commands["COMMAND [subcommand] [word ...]"] = function(_, args, _, server)
  local list, what = {}, (args[2] or ""):upper()
  for name, command in pairs(server.known) do
    local arity = command.least + 1
    list[#list + 1] = { name:lower(), command.least == command.most and arity or -arity, {}, 0, 0, 0 }
  end
  if what == "" then
    return list
  elseif what == "COUNT" then
    return #list
  elseif what == "DOCS" then
    return { map = {} }
  end
  return refuse "unknown subcommand: COMMAND has COUNT and DOCS"
end

commands["CONFIG subcommand [word ...]"] = function(_, args)
  if args[2]:upper() == "GET" and args[3] then
    return { map = { [args[3]] = "" } }
  end
  return refuse "there is nothing to configure"
end

-- ---- Transactions: resp_server.lua has put the commands into the queue -----------------------------

commands["MULTI"] = function(_, _, state)
  if state.resp.queue then
    return refuse "MULTI calls can not be nested"
  end
  state.resp.queue = { size = 0 }
  return OK
end

commands["DISCARD"] = function(_, _, state)
  if not state.resp.queue then
    return refuse "DISCARD without MULTI"
  end
  state.resp.queue = nil
  return OK
end

commands["EXEC"] = function(conn, _, state, server)
  local queue = state.resp.queue
  if not queue then
    return refuse "EXEC without MULTI"
  end
  state.resp.queue = nil
  if queue.failed then
    return { err = "EXECABORT Transaction discarded because of previous errors." }
  end
  local replies = { n = #queue }
  for i, args in ipairs(queue) do
    local reply, problem, code = server.call(conn, args, state)
    if problem then
      replies[i] = server.failure(problem, code)
    elseif reply ~= resp.NO_REPLY then
      replies[i] = reply
    end
  end
  return replies
end

-- ---- Channels -----------------------------------------------------------------------------------

commands["SUBSCRIBE channel [channel ...]"] = require("portico.resp_channels").subscribe
commands["UNSUBSCRIBE [channel ...]"] = require("portico.resp_channels").unsubscribe

commands["PUBLISH channel message"] = function(_, args)
  local count, problem = resp.publish(args[2], args[3]) -- not its code, by which Redis would speak of the memory of keys
  return count, problem
end

return commands
