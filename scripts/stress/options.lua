-- The options of stress.lua: what there is, and how they are read.

local USAGE <const> = [[
usage: portico scripts/stress.lua HOST PORT [options]
  --connections N   at once (10)
  --messages M      of each connection (100; with --duration: no limit)
  --message TEXT    (Hello)
  --size BYTES      messages are filled up to this size
  --pipeline D      messages of a connection that wait for replies at a time (1)
  --rate R          messages a second of all connections together (as fast as it goes)
  --duration S      stop sending after so many seconds
  --timeout S       within which a connection, and each reply, must come (5)
  --expect WHAT     echo or ack (what the first reply looks like)
  --json            the results as one JSON object
  --progress        a line a second in the log (without it: if that is a terminal)
  --quiet           neither progress nor results, only what went wrong
]]

local UNDER_WAY_MAX <const> = 16 << 20 -- bytes one connection may have under way: the send queue's limit

-- Kinds of options: what a text must be, and how it is read. A reader returns nil for what it is not.
local function whole(least, most)
  return {
    what = ("a whole number from %d to %d"):format(least, most),
    read = function(text)
      local number = math.tointeger(tonumber(text))
      return number and number >= least and number <= most and number or nil
    end,
  }
end

local function positive(most)
  return {
    what = ("a number above 0, at most %d"):format(most),
    read = function(text)
      local number = tonumber(text)
      return number and number > 0 and number <= most and number or nil
    end,
  }
end

local OPTIONS <const> = {
  connections = whole(1, 1000000),
  messages = whole(1, 1000000000),
  message = { what = "a text", read = function(text) return text end },
  size = whole(1, UNDER_WAY_MAX),
  pipeline = whole(1, 10000),
  rate = positive(10000000),
  duration = positive(1000000),
  timeout = positive(3600),
  expect = { what = "echo or ack", read = function(text) return (text == "echo" or text == "ack") and text or nil end },
  json = {}, -- those without a value
  progress = {},
  quiet = {},
  help = {},
}

local PORT <const> = whole(1, 65535)

-- Returns the options, or nil and what is wrong with them.
local function read(words)
  local found = { connections = 10, message = "Hello", size = 0, pipeline = 1, timeout = 5 }
  local places = {}
  local i = 1
  while i <= #words do
    local word = words[i]
    local name, value = word:match("^%-%-([^=]+)=(.*)$")
    name = name or word:match("^%-%-(.+)$")
    local option = name and OPTIONS[name]
    if not name and word:sub(1, 1) ~= "-" then
      places[#places + 1] = word
    elseif not option then
      return nil, ("unknown option '%s'"):format(word)
    elseif not option.read then
      if value then
        return nil, ("--%s takes no value"):format(name)
      end
      found[name] = true
    else
      if not value then
        i = i + 1
        value = words[i]
      end
      if not value then
        return nil, ("--%s: %s expected"):format(name, option.what)
      end
      found[name] = option.read(value)
      if found[name] == nil then
        return nil, ("--%s: %s expected, got '%s'"):format(name, option.what, value)
      end
    end
    i = i + 1
  end
  if found.help then
    return found
  end
  if #places ~= 2 then
    return nil, #places > 2 and ("unexpected argument '%s'"):format(places[3]) or "HOST and PORT expected"
  end
  found.host = places[1]
  found.port = PORT.read(places[2])
  if not found.port then
    return nil, ("PORT: %s expected, got '%s'"):format(PORT.what, places[2])
  end
  if not found.messages then
    found.messages = found.duration and math.maxinteger or 100
  end
  -- Acknowledgements do not say how many messages they are for: two that come together get one.
  if found.expect == "ack" and found.pipeline > 1 then
    return nil, "--pipeline: 1 expected, with --expect ack"
  end
  local longest = math.max(found.size, #found.message + 64)
  if longest * found.pipeline > UNDER_WAY_MAX then
    return nil, ("--pipeline: more than %d bytes under way on a connection"):format(UNDER_WAY_MAX)
  end
  return found
end

return { usage = USAGE, read = read }
