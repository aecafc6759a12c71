-- stress.lua - a stress client: many connections, each of which sends messages and checks the replies.
--
--   portico                                                            in one terminal
--   portico scripts/stress.lua 127.0.0.1 7777 --connections 1000 --messages 100       in another
--
-- Connection I sends "K. Connection I - TEXT" for K = 1, 2, 3, … TCP is a stream: a reply may come in
-- pieces, and two may come at once. So what comes is compared byte by byte with what must come next:
-- the message itself (echo), or the acknowledgement (ack). Which of the two a server does, its first
-- byte tells.
--
-- First all connections are opened, some at a time, so that the server's queue does not overflow; when
-- all are there they begin to send. That is what the clock measures. With --rate a latency counts from
-- when its message was due, not from when it could be sent: a server that stalls does not make the
-- load wait for it.
--
-- Results go to standard output. Exit status: 0 all well, 1 a reply was wrong, missing or late,
-- 2 wrong usage. Everything happens on one worker; others stay idle.

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

local ACKNOWLEDGEMENT <const> = "Message received successfully"
local CONNECTING_MAX <const> = 200 -- connections being opened at a time
local UNDER_WAY_MAX <const> = 16 << 20 -- bytes one connection may have under way: the send queue's limit
local FAREWELL <const> = 1 -- seconds for the server to close, too
local SLICE <const> = 200 -- connections seen to in a row, before others get their turn
local TICK <const> = 0.005 -- seconds between two looks at what --rate has made due
local TICK_MESSAGES_MAX <const> = 1000 -- and what one look may send
local STEPS <const> = 32 -- of the latency histogram, for each doubling: 2 %

-- ---- Options ------------------------------------------------------------------------------------

local function stop_with_usage(message)
  io.stderr:write(("stress.lua: %s\n"):format(message)) -- in one piece: the log writes there, too
  portico.shutdown(2)
end

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
local function read_options(words)
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

if portico.worker.id ~= 0 then
  return { listen = {} }
end

local options, wrong = read_options(portico.args)
if not options then
  stop_with_usage(wrong .. " (--help lists the options)")
  return { listen = {} }
elseif options.help then
  io.stdout:write(USAGE)
  portico.shutdown(0)
  return { listen = {} }
end

local host = options.host:find(":", 1, true) and "[" .. options.host:match("^%[?(.-)%]?$") .. "]" or options.host
local uri = ("tcp://%s:%d"):format(host, options.port)
local monotonic = portico.monotonic

-- ---- Messages -----------------------------------------------------------------------------------

-- A message is its head and, with --size, filling: one text for all messages, of which each takes what
-- it lacks. A place in the filling is told from its neighbours by its byte.
local FILLING <const> = string.rep("abcdefghijklmnopqrstuvwxyz", options.size // 26 + 1):sub(1, options.size)
local tails = {} -- the filling behind a head of so many bytes; there are few lengths

local function head_of(c, k)
  return ("%d. Connection %d - %s"):format(k, c.index, options.message)
end

local function tail_of(head)
  local tail = tails[#head]
  if not tail then
    tail = FILLING:sub(#head + 1)
    tails[#head] = tail
  end
  return tail
end

-- ---- What is counted ----------------------------------------------------------------------------

local mode = options.expect -- "echo" or "ack", once it is known
local connections = {} -- those that came to be
local errors = {} -- by kind
local opened, sent, right, late, wrong_replies = 0, 0, 0, 0, 0
local bytes_sent, bytes_received = 0, 0
local histogram, latency_max, latency_sum = {}, 0, 0
local began, ended -- when the first message was sent, and when the last connection was through
local sending = false -- messages may be sent
local alive = 0 -- connections that are open
local busy = 0 -- of these, those that are not through
local moved = monotonic() -- when something last happened
local told_wrong = false

local function count_error(kind)
  errors[kind] = (errors[kind] or 0) + 1
  moved = monotonic()
end

local function count_latency(seconds)
  local step = seconds > 1e-6 and math.log(seconds * 1e6, 2) * STEPS // 1 | 0 or 0
  histogram[step] = (histogram[step] or 0) + 1
  latency_sum = latency_sum + seconds
  if seconds > latency_max then
    latency_max = seconds
  end
end

-- Latencies that so many parts in 1 of the replies did not exceed; one answer for each part.
local function percentiles(parts)
  local steps = {}
  for step in pairs(histogram) do
    steps[#steps + 1] = step
  end
  table.sort(steps)
  local answers = {}
  local i, seen = 0, 0
  for n, part in ipairs(parts) do
    while i < #steps and (i == 0 or seen < part * right) do
      i = i + 1
      seen = seen + histogram[steps[i]]
    end
    answers[n] = i > 0 and math.min(2 ^ ((steps[i] + 0.5) / STEPS) / 1e6, latency_max) or 0
  end
  return answers
end

-- ---- Results ------------------------------------------------------------------------------------

local function json(value)
  if type(value) == "table" then
    local names, members = {}, {}
    for name in pairs(value) do
      names[#names + 1] = name
    end
    table.sort(names)
    for _, name in ipairs(names) do
      members[#members + 1] = json(name) .. ": " .. json(value[name])
    end
    return "{" .. table.concat(members, ", ") .. "}"
  elseif type(value) == "string" then
    return '"' .. value:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
  elseif math.type(value) == "float" then
    return ("%.9g"):format(value)
  end
  return tostring(value)
end

local function seconds_text(seconds)
  if seconds >= 1 then
    return ("%.2f s"):format(seconds)
  elseif seconds >= 0.001 then
    return ("%.2f ms"):format(seconds * 1e3)
  end
  return ("%.0f us"):format(seconds * 1e6)
end

local function bytes_text(bytes)
  if bytes >= 1e6 then
    return ("%.1f MB"):format(bytes / 1e6)
  elseif bytes >= 1e3 then
    return ("%.1f kB"):format(bytes / 1e3)
  end
  return ("%.0f B"):format(bytes)
end

local function errors_text()
  local kinds = {}
  for kind, count in pairs(errors) do
    kinds[#kinds + 1] = ("%s %d"):format(kind, count)
  end
  table.sort(kinds)
  return #kinds > 0 and table.concat(kinds, ", ") or "none"
end

local function report(missing)
  local elapsed = began and math.max(ended - began, 1e-9) or 0
  local function per_second(count)
    return began and count / elapsed or 0.0
  end
  local p50, p90, p99, p999 = table.unpack(percentiles { 0.5, 0.9, 0.99, 0.999 })
  if options.json then
    io.stdout:write(json {
      address = uri,
      mode = mode or "unknown",
      connections = { wanted = options.connections, opened = opened },
      messages = { sent = sent, right = right, wrong = wrong_replies, missing = missing, late = late },
      seconds = elapsed,
      messages_per_second = per_second(right),
      bytes = { sent = bytes_sent, received = bytes_received },
      bytes_per_second = { sent = per_second(bytes_sent), received = per_second(bytes_received) },
      latency = {
        mean = right > 0 and latency_sum / right or 0.0,
        p50 = p50, p90 = p90, p99 = p99, p99_9 = p999, max = latency_max,
      },
      errors = errors,
    }, "\n")
    return
  end
  local well = missing == 0 and next(errors) == nil
  if options.quiet and well then
    return
  end
  local lines = {
    ("connections  %d of %d to %s"):format(opened, options.connections, uri),
    ("replies      %d right%s, %d wrong, %d missing, %d late; %d messages sent"):format(
      right, mode and " (" .. mode .. ")" or "", wrong_replies, missing, late, sent),
    ("errors       %s"):format(errors_text()),
  }
  if not options.quiet then
    lines[#lines + 1] = ("time         %.3f s"):format(elapsed)
    lines[#lines + 1] = ("throughput   %.0f messages/s, %s/s sent, %s/s received"):format(
      per_second(right), bytes_text(per_second(bytes_sent)), bytes_text(per_second(bytes_received)))
    lines[#lines + 1] = ("latency      p50 %s, p90 %s, p99 %s, p99.9 %s, max %s"):format(
      seconds_text(p50), seconds_text(p90), seconds_text(p99), seconds_text(p999), seconds_text(latency_max))
  end
  io.stdout:write(table.concat(lines, "\n"), "\n")
end

-- ---- The end ------------------------------------------------------------------------------------

local timers = {}
local finished = false

-- Reports and stops.
local function finish()
  if finished then
    return
  end
  finished = true
  sending = false
  ended = ended or monotonic()
  for _, timer in ipairs(timers) do
    timer:cancel()
  end
  local planned = sent
  if not options.duration then
    planned = options.connections * options.messages
  end
  local missing = planned - right - wrong_replies
  report(missing)
  io.stdout:flush()
  local well = missing == 0 and wrong_replies == 0 and late == 0 and next(errors) == nil
  portico.shutdown(well and 0 or 1)
end

-- All connections are through. Each gets its FIN, and what still comes before the server's is a reply too many.
local function wind_up()
  local patience = monotonic() + FAREWELL
  for i, c in ipairs(connections) do
    c.conn:shutdown()
    if i % SLICE == 0 then
      portico.sleep(0)
    end
  end
  while alive > 0 and monotonic() < patience do
    portico.sleep(0.002)
  end
  for i, c in ipairs(connections) do
    c.conn:abort() -- does nothing to those that are over
    if i % SLICE == 0 then
      portico.sleep(0)
    end
  end
  finish()
end

-- A connection has nothing more to do, for good or ill.
local function is_through(c)
  if c.through then
    return
  end
  c.through = true
  busy = busy - 1
  if busy == 0 and began and not finished then
    ended = monotonic()
    portico.after(0, wind_up)
  end
end

-- The first cause counts.
local function fail(c, kind)
  if c.failed or finished then
    return
  end
  c.failed = true
  count_error(kind)
  c.conn:abort()
  is_through(c)
end

-- ---- Sending ------------------------------------------------------------------------------------

-- Sends the next message, which was due then (nil: now). False: the connection is over.
local function send(c, due)
  local k = c.sent + 1
  local head = head_of(c, k)
  local tail = tail_of(head)
  local place = k % options.pipeline
  local now = monotonic()
  c.sent = k
  c.sent_at[place] = now
  c.due[place] = due or now
  sent = sent + 1
  bytes_sent = bytes_sent + #head + #tail
  -- False only says that much is queued; --pipeline keeps that in bounds. After nil on_close tells.
  return c.conn:send(head, tail) ~= nil
end

-- True if the connection may send one more.
local function has_room(c)
  return not c.through and c.sent < options.messages and c.sent - c.received < options.pipeline
end

-- After a reply, and at the start.
local function go_on(c)
  if sending and not options.rate then
    while has_room(c) and send(c) do
    end
  end
  if c.sent == c.received and (c.sent == options.messages or not sending) then
    is_through(c)
  end
end

-- Takes what is due at this moment, from the connections in turn.
local function new_rate()
  local issued, turn = 0, 0
  return function()
    local due = math.min((monotonic() - began) * options.rate // 1 | 0, issued + TICK_MESSAGES_MAX)
    local passed = 0 -- connections in a row that had no room
    while sending and issued < due and passed < math.min(#connections, 10 * SLICE) do
      turn = turn % #connections + 1
      local c = connections[turn]
      if has_room(c) then
        issued = issued + 1
        passed = 0
        send(c, began + issued / options.rate)
      else
        passed = passed + 1
      end
    end
  end
end

-- ---- Receiving ----------------------------------------------------------------------------------

-- The part of the reply to message k from offset (0 for its first byte) on, at most count bytes; and
-- the length of the whole.
local function expected(c, k, offset, count)
  if mode == "ack" then
    return ACKNOWLEDGEMENT:sub(offset + 1, offset + count), #ACKNOWLEDGEMENT
  end
  local head = c.head
  if c.head_number ~= k then
    head = head_of(c, k)
    c.head, c.head_number = head, k
  end
  local length = math.max(#head, options.size)
  if offset + count <= #head then
    return head:sub(offset + 1, offset + count), length
  end
  return head:sub(offset + 1) .. FILLING:sub(math.max(offset, #head) + 1, offset + count), length
end

local function is_wrong(c, k, want, got)
  if c.failed or finished then
    return
  end
  wrong_replies = wrong_replies + (k <= c.sent and 1 or 0)
  if not told_wrong then
    told_wrong = true
    local text = "connection %d, reply %d: expected %q, got %q"
    portico.log.error(text:format(c.index, k, want:sub(1, 80), got:sub(1, 80)))
  end
  fail(c, "wrong_reply")
end

-- A reply is complete. False: it came too late, and the connection is over.
local function is_right(c)
  local now = monotonic()
  local k = c.received + 1
  local place = k % options.pipeline
  c.received = k
  c.offset = 0
  right = right + 1
  moved = now
  count_latency(now - c.due[place])
  if now - c.sent_at[place] > options.timeout then
    late = late + 1
    fail(c, "timeout")
    return false
  end
  go_on(c)
  return true
end

-- The wrong question was asked: no results.
local function give_up(message)
  if not finished then
    finished = true
    stop_with_usage(message)
  end
end

local function receive(c, data)
  bytes_received = bytes_received + #data
  mode = mode or (data:byte(1) == ACKNOWLEDGEMENT:byte(1) and "ack" or "echo")
  if mode == "ack" and options.pipeline > 1 then
    return give_up("the server acknowledges, and not each of several messages that come together: use --pipeline 1")
  end
  local from = 1
  while from <= #data do
    if c.received == c.sent then -- nothing was asked
      return is_wrong(c, c.sent + 1, "", data:sub(from))
    end
    local k, rest = c.received + 1, #data - from + 1
    local want, length = expected(c, k, c.offset, rest)
    local got = (from == 1 and rest == #want) and data or data:sub(from, from + #want - 1)
    if got ~= want then
      return is_wrong(c, k, want, got)
    end
    from = from + #want
    c.offset = c.offset + #want
    if c.offset == length and not is_right(c) then
      return
    end
  end
end

-- ---- Connections --------------------------------------------------------------------------------

local function open(index)
  local c = { index = index, sent = 0, received = 0, offset = 0, sent_at = {}, due = {} }
  local conn, message, code = portico.connect(uri, {
    timeout = options.timeout,
    on_connect = function(conn)
      c.conn = conn
      opened = opened + 1
      alive = alive + 1
      busy = busy + 1
      connections[#connections + 1] = c
      moved = monotonic()
    end,
    on_message = function(_, data)
      receive(c, data)
    end,
    on_close = function(_, reason)
      alive = alive - 1
      if not c.through then
        fail(c, reason)
      end
    end,
  })
  if conn or c.conn then
    return true
  end
  count_error(code)
  if errors[code] == 1 then
    portico.log.error(("connection %d to %s: %s"):format(index, uri, message))
  end
  return false, code
end

-- Opens all of them, and returns when each is open or has failed.
local function open_all()
  local ok, code = open(1)
  if not ok and code == "not_found" then
    return -- and so it would be for all others
  end
  if ok and connections[1] and connections[1].conn.peer then
    uri = "tcp://" .. connections[1].conn.peer -- the name need not be looked up again
  end
  local next_index, openers = 2, 0
  local function open_some()
    while next_index <= options.connections and not finished do
      local index = next_index
      next_index = index + 1
      open(index)
    end
    openers = openers - 1
  end
  for _ = 1, math.min(CONNECTING_MAX, options.connections - 1) do
    openers = openers + 1
    portico.after(0, open_some)
  end
  while openers > 0 do
    portico.sleep(0.002)
  end
end

-- ---- The run ------------------------------------------------------------------------------------

-- Ends what has waited too long for a reply.
local function look_for_late_ones()
  for i, c in ipairs(connections) do
    if not c.through and c.received < c.sent then
      if monotonic() - c.sent_at[(c.received + 1) % options.pipeline] > options.timeout then
        fail(c, "timeout")
      end
    end
    if i % SLICE == 0 then
      portico.sleep(0)
    end
  end
end

-- Every wait above has its own end. Should one not: nothing at all has happened for too long.
local function watch()
  local patience = 2 * options.timeout + 5 + (options.rate and 2 / options.rate or 0)
  if monotonic() - moved > patience then
    count_error("stalled")
    finish()
  end
end

local function show_progress()
  local last = right
  return function()
    portico.log.info(("%d of %d connections, %d replies, %d messages/s, errors: %s"):format(
      opened, options.connections, right, right - last, errors_text()))
    last = right
  end
end

local function every(seconds, fn)
  timers[#timers + 1] = portico.every(seconds, fn)
end

local function stop_sending()
  sending = false
  for i, c in ipairs(connections) do
    if not c.through then
      go_on(c)
    end
    if i % SLICE == 0 then
      portico.sleep(0)
    end
  end
end

local function run()
  every(0.25, watch)
  if not options.quiet and (options.progress or portico.terminal) then
    every(1, show_progress())
  end
  open_all()
  if finished then
    return
  end
  began = monotonic()
  moved = began
  sending = true
  if busy == 0 then
    return finish()
  end
  every(math.max(0.01, math.min(0.25, options.timeout / 4)), look_for_late_ones)
  if options.duration then
    timers[#timers + 1] = portico.after(options.duration, stop_sending)
  end
  if options.rate then
    every(TICK, new_rate())
    return
  end
  for i, c in ipairs(connections) do
    go_on(c)
    if i % SLICE == 0 then
      portico.sleep(0)
    end
  end
end

return {
  listen = {},
  on_load = function()
    portico.after(0, run)
  end,
  -- One of the functions above raised, or took too long: a result that nobody should rely on.
  on_error = function(conn)
    count_error("script")
    if not conn then
      finish()
    end
  end,
  -- Interrupted: what is there is shown.
  on_unload = finish,
}
