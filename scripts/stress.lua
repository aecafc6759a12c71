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
-- Its options are read by stress/options.lua; what is counted and shown at the end, by stress/results.lua.
--
-- Results go to standard output. Exit status: 0 all well, 1 a reply was wrong, missing or late,
-- 2 wrong usage. Everything happens on one worker; others stay idle.

local arguments = require("stress.options")
local results = require("stress.results").new()

local ACKNOWLEDGEMENT <const> = "Message received successfully"
local CONNECTING_MAX <const> = 200 -- connections being opened at a time
local FAREWELL <const> = 1 -- seconds for the server to close, too
local SLICE <const> = 200 -- connections seen to in a row, before others get their turn
local TICK <const> = 0.005 -- seconds between two looks at what --rate has made due
local TICK_MESSAGES_MAX <const> = 1000 -- and what one look may send

-- ---- Options ------------------------------------------------------------------------------------

local function stop_with_usage(message)
  io.stderr:write(("stress.lua: %s\n"):format(message)) -- in one piece: the log writes there, too
  portico.shutdown(2)
end

if portico.worker.id ~= 0 then
  return { listen = {} }
end

local options, wrong = arguments.read(portico.args)
if not options then
  stop_with_usage(wrong .. " (--help lists the options)")
  return { listen = {} }
elseif options.help then
  io.stdout:write(arguments.usage)
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
local began, ended -- when the first message was sent, and when the last connection was through
local sending = false -- messages may be sent
local alive = 0 -- connections that are open
local busy = 0 -- of these, those that are not through
local moved = monotonic() -- when something last happened
local told_wrong = false

local function count_error(kind)
  results:count_error(kind)
  moved = monotonic()
end

-- ---- The end ------------------------------------------------------------------------------------

local timers = {}
local finished = false

local function report(missing, well)
  local run = {
    uri = uri, mode = mode, wanted = options.connections, missing = missing,
    seconds = began and math.max(ended - began, 1e-9) or 0,
  }
  if options.json then
    io.stdout:write(results:json(run))
  elseif not options.quiet then
    io.stdout:write(results:counts_text(run), results:speed_text(run))
  elseif not well then
    io.stdout:write(results:counts_text(run))
  end
  io.stdout:flush()
end

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
  local planned = options.duration and results.sent or options.connections * options.messages
  local missing = planned - results.right - results.wrong
  local well = missing == 0 and results.wrong == 0 and results.late == 0 and next(results.errors) == nil
  report(missing, well)
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
  results.sent = results.sent + 1
  results.bytes_sent = results.bytes_sent + #head + #tail
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
  results.wrong = results.wrong + (k <= c.sent and 1 or 0)
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
  moved = now
  results:count_right(now - c.due[place])
  if now - c.sent_at[place] > options.timeout then
    results.late = results.late + 1
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
  results.bytes_received = results.bytes_received + #data
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
      results.opened = results.opened + 1
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
  if results.errors[code] == 1 then
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
  local last = results.right
  return function()
    portico.log.info(("%d of %d connections, %d replies, %d messages/s, errors: %s"):format(
      results.opened, options.connections, results.right, results.right - last, results:errors_text()))
    last = results.right
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
