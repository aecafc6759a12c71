"""Tasks that run beside each other and wait for each other: spawn, timeout, channel, semaphore."""

import os
import random
import re

import pytest

from rig import SAY, in_background, scaled, until


# Tasks and channels are a worker's own.
ALONE = ("--workers", "1")


def play(server, body, *options, extra=""):
    """Runs the body in a task without connection, which then stops the server; returns what it has said."""
    one = server(f"""{SAY}
      local function closer(name) return setmetatable({{}}, {{ __close = function() say("closed", name) end }}) end
      {extra}
      portico.after(0, function()
        {body}
        portico.shutdown()
      end)
      return {{ listen = {{}}, on_error = function(conn, err) say("on_error", conn, err.message, err.callback) end }}
      """, *ALONE, *options, ready=False)
    one.check_end(seconds=30)
    return one.said()


# ---- spawn ----


def test_a_task_runs_beside_its_caller_and_is_joined(server):
    assert play(server, """
      local t = portico.spawn(function(...) say("runs", ...) portico.sleep(0.01) return 1, nil, "three", nil end, "a", nil)
      say(t, t:status())
      portico.sleep(0)
      say(t)
      say(t:join())
      say(select("#", t:join(0)), t)
      say(select("#", portico.spawn(function() end):join()))
    """) == ["task (ready) ready", "runs a nil", "task (waiting)", "true 1 nil three nil", "5 task (done)", "1"]


def test_tasks_start_in_the_order_in_which_they_were_spawned(server):
    assert play(server, """
      local order = {}
      for i = 1, 2000 do portico.spawn(function() order[#order + 1] = i end) end
      say(#order)
      portico.spawn(function() end):join()
      for i = 1, 2000 do assert(order[i] == i) end
      say(#order)
    """) == ["0", "2000"]


def test_an_error_goes_to_who_waits_for_it_or_else_to_the_log(server):
    said = play(server, """
      local joined = portico.spawn(function() portico.sleep(0.01) error("for the joiner") end)
      say(joined:join())
      local lost = portico.spawn(function() error({}) end)
      portico.sleep(0.01)
      say(lost:join())
      say(lost)
    """)
    assert re.fullmatch(r"nil \S+: for the joiner error", said[0])
    assert said[1:] == ["on_error nil (error object is a table value) the function of portico.spawn",
                        "nil (error object is a table value) error", "task (failed)"]


def test_only_errors_that_nobody_joins_are_logged(server):
    one = server(SAY + """
      portico.after(0, function()
        portico.spawn(function() error("joined one") end):join()
        portico.spawn(function() error("lost one") end)
        portico.sleep(0.01)
        say("over")
      end)""", *ALONE)
    one.wait_said(1)
    assert len(one.log("lost one")) == 1
    assert not one.log("joined one")


def test_a_canceled_task_closes_what_it_holds(server):
    assert play(server, """
      local function wait() portico.sleep(100) end
      local t = portico.spawn(function()
        local outer <close> = closer("outer")
        local co = coroutine.wrap(function() local inner <close> = closer("inner") pcall(wait) say("not reached") end)
        pcall(co)
        say("not reached")
      end)
      say(t:join(0.01))
      say(t:cancel())
      say(t:cancel(), t)
      say(t:join())
      local never = portico.spawn(say, "not reached")
      say(never:cancel(), never:join())
      do local scoped <close> = portico.spawn(function() local x <close> = closer("x") wait() end) portico.sleep(0) end
      say("end")
    """) == ["nil timeout timeout", "closed inner", "closed outer", "true", "false task (canceled)", "nil canceled canceled",
             "true nil canceled canceled", "closed x", "end"]


def test_an_error_in_what_a_canceled_task_closes_is_logged(server):
    one = server(SAY + """
      local function bad(text) return setmetatable({}, { __close = function() error(text) end }) end
      portico.after(0, function()
        local t = portico.spawn(function()
          local outer <close> = bad("outer trouble")
          coroutine.wrap(function() local inner <close> = bad("inner trouble") portico.sleep(9) end)()
        end)
        portico.sleep(0)
        say(t:cancel(), t)
      end)""", *ALONE)
    assert one.wait_said(1) == ["true task (canceled)"]
    assert len(one.log("inner trouble")) == 1
    assert len(one.log("outer trouble")) == 1


# Each of these tasks has one inside that it cancels, and goes to sleep after that has.
NESTED = """
      local closed = 0
      local function nest(depth, ready)
        local inner = portico.channel()
        local child <close> = depth > 1 and portico.spawn(nest, depth - 1, inner) or nil
        local count <close> = setmetatable({}, { __close = function() closed = closed + 1 end })
        if child then inner:recv() end
        ready:close()
        portico.sleep(100)
      end
      local function nest_all(depth)
        local ready = portico.channel()
        local outermost = portico.spawn(nest, depth, ready)
        ready:recv()
        return outermost
      end
"""


def test_tasks_that_cancel_tasks_are_all_canceled_however_many_there_are(server):
    assert play(server, NESTED + """
      local outermost = nest_all(1000)
      say(outermost:cancel(), outermost, closed)
      say("end")
    """) == ["true task (canceled) 1000", "end"]


def test_a_stop_cancels_tasks_that_cancel_tasks(server):
    one = server(SAY + NESTED + """
      portico.after(0, function() nest_all(20000) say("all wait") end)
      return { on_unload = function() say("closed", closed) end }""", *ALONE)
    assert one.wait_said(1) == ["all wait"]
    one.stop()
    assert one.said() == ["all wait", "closed 20000"]
    assert not one.log("overflow")


def test_who_waits_in_any_way_can_be_canceled(server):
    assert play(server, """
      local ch, full, sem = portico.channel(), portico.channel(1), portico.semaphore(1)
      full:send("there")
      local guard = sem:acquire()
      local endless = portico.spawn(portico.sleep, 100)
      local ways = {
        recv = function() ch:recv() end, send = function() full:send("lost") end, acquire = function() sem:acquire() end,
        join = function() endless:join() end, sleep = function() portico.sleep(100) end,
        timeout = function() portico.timeout(50, portico.sleep, 100) end,
        connect = function() portico.connect("tcp://192.0.2.1:9", { timeout = 50 }) end,
        lookup = function() portico.connect("tcp://name.invalid:9", { timeout = 50 }) end,
      }
      local tasks = {}
      for name, way in pairs(ways) do tasks[name] = portico.spawn(function() local c <close> = setmetatable({}, {
        __close = function() tasks[name .. " closed"] = true end }) way() end) end
      portico.spawn(function() end):join()
      for name in pairs(ways) do
        if name ~= "lookup" and name ~= "connect" then assert(tasks[name]:cancel(), name) else tasks[name]:cancel() end
        assert(tasks[name .. " closed"], name)
      end
      guard:release()
      say(sem, full:recv(), full:recv(0), ch:recv(0))
    """) == ["semaphore (1 of 1 free) there nil nil timeout timeout"]


def test_a_task_cannot_wait_for_itself_or_cancel_itself(server):
    said = play(server, """
      local t
      t = portico.spawn(function() say(pcall(t.join, t)) say(pcall(t.cancel, t)) return "fine" end)
      say(t:join())
    """)
    assert "a task cannot wait for its own end" in said[0]
    assert "a task cannot cancel itself: let its function return" in said[1]
    assert said[2] == "true fine"


def test_several_join_one_task(server):
    assert play(server, """
      local t = portico.spawn(function() portico.sleep(0.01) return "x" end)
      local waiters = {}
      for i = 1, 5 do waiters[i] = portico.spawn(function() return i, t:join() end) end
      for i = 1, 5 do say(waiters[i]:join()) end
    """) == [f"true {i} true x" for i in range(1, 6)]


def test_the_number_of_tasks_is_bounded(server):
    said = play(server, """
      local tasks = {}
      while true do
        local t, message, code = portico.spawn(function() end)
        if not t then say(#tasks, message, code) break end
        tasks[#tasks + 1] = t
      end
      for i = 2, #tasks do tasks[i]:cancel() end
      say(portico.spawn(function() return "again" end):join())
    """, "--lua-memory", "256M")
    assert said == ["100000 too many tasks at a time: 100000 limit", "true again"]


@pytest.mark.budget
def test_a_task_over_its_budget_ends_and_says_so(server):
    one = server(SAY + """
      portico.after(0, function()
        local t = portico.spawn(function() local x <close> = setmetatable({}, { __close = function() say("closed") end })
          while true do end end)
        say(t:join())
        say(portico.timeout(60, function() while true do end end))
      end)""", *ALONE, "--callback-budget", "0.1")
    one.wait_log("callback budget", 2)
    said = one.wait_said(2)
    assert said[0] == "closed"
    assert re.search(r"^nil \S+: callback budget of 0.1 s exceeded error$", said[1])


def test_a_task_without_memory_fails_alone(server):
    said = play(server, """
      local t = portico.spawn(function() local all = {} for i = 1, 1e9 do all[i] = ("x"):rep(1000) .. i end end)
      say(t:join())
      say(portico.spawn(function() return "fine" end):join())
    """, "--lua-memory", "4M")
    assert said[-1] == "true fine"
    assert "nil not enough memory error" in said


# ---- timeout ----


def test_a_timeout_gives_the_results_or_ends_the_wait(server):
    said = play(server, """
      say(portico.timeout(10, function(...) portico.sleep(0.001) return ... end, 1, nil, 3))
      say(portico.timeout(10, function() end))
      say(portico.timeout(0.01, function() local x <close> = closer("x") pcall(portico.sleep, 100) say("not reached") end))
      say(portico.timeout(0, portico.sleep, 100))
      say(portico.timeout(10, portico.timeout, 0.01, portico.sleep, 100))
      say(portico.timeout(0.01, function() say(portico.timeout(10, portico.sleep, 100)) say("not reached") end))
      say(pcall(portico.timeout, 10, function() portico.sleep(0.001) error("from inside") end))
      say(pcall(portico.timeout, 10, error, nil))
      local items = coroutine.wrap(function()
        for i = 1, 3 do coroutine.yield(i, portico.timeout(0.001, portico.sleep, 100)) end
      end)
      for i, a, b in items do say(i, a, b) end
    """)
    assert said[:6] == ["1 nil 3", "", "closed x", "nil timeout timeout", "nil timeout timeout", "nil timeout timeout"]
    assert said[6] == "nil timeout timeout"
    assert re.fullmatch(r"false \S+: from inside", said[7])
    assert said[8] == "false nil"
    assert said[9:] == ["1 nil timeout", "2 nil timeout", "3 nil timeout"]


def test_a_timeout_reaches_into_every_wait(server):
    assert play(server, """
      local ch, full, sem = portico.channel(), portico.channel(1), portico.semaphore(1)
      full:send("there")
      local guard = sem:acquire()
      local endless = portico.spawn(portico.sleep, 100)
      say(portico.timeout(0.005, ch.recv, ch))
      say(portico.timeout(0.005, full.send, full, "lost"))
      say(portico.timeout(0.005, sem.acquire, sem))
      say(portico.timeout(0.005, endless.join, endless))
      say(full:recv(), full:recv(0))
      guard:release()
      say(sem, endless)
    """) == ["nil timeout timeout"] * 4 + ["there nil timeout timeout", "semaphore (1 of 1 free) task (waiting)"]


def test_an_error_in_what_a_timeout_closes_is_the_callers(server):
    said = play(server, """
      say(pcall(portico.timeout, 0.001, function()
        local x <close> = setmetatable({}, { __close = function() error("in close") end })
        portico.sleep(100)
      end))
      say(pcall(portico.timeout, 0.001, function() coroutine.yield() end))
    """)
    assert re.fullmatch(r"false \S+: in close", said[0])
    assert "attempt to yield from outside a coroutine" in said[1]


def test_a_timeout_does_not_take_back_what_has_come(server):
    """Who has given a value has been told so, at the moment at which the other's time is over."""
    assert play(server, """
      local lost, doubled = 0, 0
      for i = 1, 20 do
        local ch = portico.channel()
        local receiver = portico.spawn(function() portico.sleep(0.02) return ch:recv(0) end)
        local sender = portico.spawn(function() return portico.timeout(0.02, ch.send, ch, "v") end)
        local _, sent = sender:join()
        local _, value = receiver:join()
        if value and not sent then doubled = doubled + 1 end
        if sent and not value then lost = lost + 1 end
      end
      say(lost, doubled)
      say(portico.timeout(0.01, function()
        local ch = portico.channel()
        portico.spawn(function() portico.sleep(0.01) ch:send("v") end)
        ch:recv()
        portico.sleep(100)
      end))
      say(portico.spawn(select, "#", table.unpack({}, 1, 60)):join())
    """) == ["0 0", "nil timeout timeout", "true 60"]


def test_a_timeout_whose_function_raises_leaves_nothing(server):
    """Its variables are closed, and its clock is gone, also from coroutines that nobody closes."""
    one = server(SAY + """
      local ways = {
        function() pcall(portico.timeout, 30, function() portico.timeout(30, error, "x") end) end,
        function() coroutine.resume(coroutine.create(function() portico.timeout(30, error, "x") end)) end,
        function() coroutine.resume(coroutine.create(function()
          portico.timeout(30, function() portico.sleep(0) portico.timeout(30, error, "x") end) end)) end,
        function() coroutine.wrap(function() portico.timeout(30, coroutine.yield) end)() end,
      }
      return { on_message = function()
        print(pcall(portico.timeout, 5, function()
          local x <close> = setmetatable({}, {__close = function(_, err) say("closed by", err) end})
          portico.sleep(0.001)
          error("mishap", 0)
        end))
        for _ = 1, 20 do
          for _, way in ipairs(ways) do pcall(way) end
        end
        collectgarbage() collectgarbage()
        local x = {}
        for i = 1, 1000 do x[i] = ("y"):rep(80 + i % 10) end
        for _ = 1, 100 do portico.sleep(0.001) end
        local begin = portico.now()
        portico.sleep(0.3)
        say("slept", portico.now() - begin >= 0.299)
        return "done"
      end }""")
    with one.connect() as client:
        assert client.send("x").take(4) == b"done"
    assert one.wait_said(2) == ["closed by mishap", "slept true"]
    one.stop()


def test_a_timeout_of_a_connection_attempt_gives_it_up(server):
    one = server(SAY + """
      portico.after(0, function()
        local attempt = portico.timeout(0.05, portico.connect, "tcp://192.0.2.1:9", { timeout = 600 })
        say(attempt)
      end)""", *ALONE)
    assert one.wait_said(1, seconds=20) == ["nil"]
    one.stop()  # and leaves nothing behind that would have to be waited for


# ---- channel ----


def test_a_channel_hands_values_over_in_order(server):
    assert play(server, """
      for _, capacity in ipairs{ 0, 1, 2, 7, 1000 } do
        local ch, sum, last = portico.channel(capacity), 0, 0
        local sender = portico.spawn(function()
          for i = 1, 1000 do assert(ch:send(i)) assert(ch:len() <= capacity + 1) end
          ch:close()
        end)
        for i in ch do assert(i == last + 1) last, sum = i, sum + i end
        say(capacity, sum, ch, ch:recv(), sender:join())
      end
    """) == [f"{c} 500500 channel (0 of {c}, closed) nil true" for c in (0, 1, 2, 7, 1000)]


def test_who_waits_on_a_channel_comes_in_turn(server):
    assert play(server, """
      local ch, got = portico.channel(), {}
      local tasks = {}
      for i = 1, 5 do tasks[i] = portico.spawn(function() local v = ch:recv() got[#got + 1] = i .. v end) end
      portico.sleep(0)
      portico.sleep(0)
      for _, v in ipairs{ "a", "b", "c", "d", "e" } do say(ch:send(v, 0)) end
      say(ch:send("f", 0))
      for i = 1, 5 do tasks[i]:join() end
      say(table.concat(got, " "))
      for i = 1, 3 do tasks[i] = portico.spawn(function() return i, ch:send(i) end) end
      portico.spawn(function() end):join()
      say(ch:recv(0), ch:recv(0), ch:recv(0), ch:recv(0))
      for i = 1, 3 do say(tasks[i]:join()) end
    """) == ["true"] * 5 + ["nil timeout timeout", "1a 2b 3c 4d 5e", "1 2 3 nil timeout timeout",
                            "true 1 true", "true 2 true", "true 3 true"]


def test_a_closed_channel_gives_what_it_has_and_no_more(server):
    assert play(server, """
      local ch = portico.channel(2)
      ch:send("a") ch:send(false)
      local late = portico.spawn(function() return ch:send("late") end)
      local early = portico.channel()
      local waiter = portico.spawn(function() return early:recv() end)
      portico.spawn(function() end):join()
      say(#ch, ch)
      say(ch:close(), early:close())
      say(late:join()) say(waiter:join())
      say(ch:send("x"))
      say(ch:recv()) say(ch:recv()) say(ch:recv())
      do local c <close> = ch end
    """) == ["2 channel (2 of 2)", "true true", "true nil closed closed", "true nil closed closed", "nil closed closed", "a",
             "false", "nil closed closed"]


def test_no_value_is_lost_when_a_receiver_is_ended_before_it_runs(server):
    assert play(server, """
      local ch = portico.channel()
      local first = portico.spawn(function() return ch:recv() end)
      local second = portico.spawn(function() return ch:recv() end)
      portico.spawn(function() end):join()
      say(ch:send("value"))  -- the first one is woken, and has not run
      say(first:cancel())
      say(second:join())
      local sem = portico.semaphore(1)
      local g = sem:acquire()
      local a = portico.spawn(function() return sem:acquire() end)
      local b = portico.spawn(function() local g <close> = sem:acquire() return "b has it" end)
      portico.spawn(function() end):join()
      g:release()
      say(a:cancel(), b:join())
      say(sem)
    """) == ["true", "true", "true value", "true true b has it", "semaphore (1 of 1 free)"]


def test_random_senders_and_receivers_lose_nothing(server):
    seed = int(os.environ.get("SEED") or random.randrange(1 << 30))
    print("seed", seed)
    said = play(server, f"""
      math.randomseed({seed})
      local r = math.random
      for round = 1, {scaled(30, 3)} do
        local ch = portico.channel(r(0, 4))
        local sent, got, tasks, lost = {{}}, {{}}, {{}}, 0
        local function sender(id)
          for n = 1, r(40) do
            local key = id .. ":" .. n
            local timeout = r(3) == 1 and r() * 0.003 or nil
            local ok = ch:send(key, timeout)
            if ok then sent[key] = true end
            if r(5) == 1 then portico.sleep(r() * 0.001) end
          end
        end
        local function receiver()
          while true do
            local v, why = portico.timeout(r() * 0.005, ch.recv, ch, r(2) == 1 and r() * 0.003 or nil)
            if v then assert(not got[v], v) got[v] = true elseif why == "closed" then return end
            if r(5) == 1 then portico.sleep(r() * 0.001) end
          end
        end
        local senders, receivers = {{}}, {{}}
        for i = 1, r(8) do senders[i] = portico.spawn(sender, i) end
        for i = 1, r(8) do receivers[i] = portico.spawn(receiver) end
        for i = 1, r(0, 3) do
          portico.sleep(r() * 0.005)
          local victim = r(2) == 1 and senders[r(#senders)] or receivers[r(2, 9)]
          if victim and victim ~= receivers[1] then victim:cancel() end
        end
        for _, t in ipairs(senders) do t:join() end
        ch:close()
        for _, t in ipairs(receivers) do t:join() end
        for key in pairs(sent) do assert(got[key], "lost " .. key) end
        assert(ch:len() == 0)
      end
      say("done")
    """)
    assert said == ["done"], f"seed {seed}"


# ---- semaphore ----


def test_a_semaphore_lets_so_many_in_and_in_turn(server):
    assert play(server, """
      local sem, inside, most, order = portico.semaphore(3), 0, 0, {}
      local tasks = {}
      for i = 1, 30 do
        tasks[i] = portico.spawn(function()
          local guard <close> = sem:acquire()
          inside = inside + 1
          most = math.max(most, inside)
          order[#order + 1] = i
          portico.sleep(0.001)
          inside = inside - 1
        end)
      end
      for i = 1, 30 do assert(tasks[i]:join()) assert(order[i] == i) end
      say(most, sem, sem:free())
      local guard = sem:acquire(0)
      say(tostring(guard), sem:free(), guard:release(), guard:release(), guard, sem:free())
    """) == ["3 semaphore (3 of 3 free) 3", "guard (holds) 2 true false guard (released) 3"]


def test_an_error_inside_gives_the_place_back(server):
    assert play(server, """
      local sem = portico.semaphore(1)
      local t = portico.spawn(function() local g <close> = sem:acquire() portico.sleep(0.001) error("oops") end)
      say((t:join()))
      say(sem:acquire(0), sem:acquire(0.001))
    """) == ["nil", "guard (holds) nil timeout timeout"]


# ---- Wrong use ----


@pytest.mark.parametrize("call, message", [
    ("portico.spawn()", "bad argument #1 to 'spawn' (function expected, got no value)"),
    ("portico.spawn(1)", "bad argument #1 to 'spawn' (function expected, got number)"),
    ("portico.spawn(print, table.unpack({}, 1, 65))", "bad argument #66 to 'spawn' (too many arguments)"),
    ("portico.spawn(print).join()", "bad argument #1 to 'join' (task expected, got no value)"),
    ("portico.spawn(print):join('x')", "bad argument #1 to 'join' (number expected, got string)"),
    ("portico.spawn(print):join(-1)", "bad argument #1 to 'join' (seconds from 0 to 1000000000 expected, got -1.0)"),
    ("portico.timeout('x', print)", "bad argument #1 to 'timeout' (number expected, got string)"),
    ("portico.timeout(1)", "bad argument #2 to 'timeout' (function expected, got no value)"),
    ("portico.channel(-1)", "bad argument #1 to 'channel' (a number of values from 0 to 1073741824 expected)"),
    ("portico.channel('x')", "bad argument #1 to 'channel' (number expected, got string)"),
    ("portico.channel():send()", "bad argument #1 to 'send' (a value that is not nil expected)"),
    ("portico.channel().recv(1)", "bad argument #1 to 'recv' (channel expected, got number)"),
    ("portico.semaphore()", "bad argument #1 to 'semaphore' (number expected, got no value)"),
    ("portico.semaphore(0)", "bad argument #1 to 'semaphore' (a number of places from 1 to 1073741824 expected)"),
    ("portico.semaphore(1).acquire({})", "bad argument #1 to 'acquire' (semaphore expected, got table)"),
])
def test_wrong_arguments_are_named(server, call, message):
    said = play(server, f"say(pcall(function() {call} end))")
    assert said[0].startswith("false ") and said[0].endswith(message), said


def test_waiting_is_refused_where_it_cannot_be(server):
    said = play(server, """
      for _, name in ipairs(loading) do say(name) end
      table.sort({ 2, 1 }, function() say(pcall(portico.channel().recv, portico.channel())) return false end)
      say(portico.channel():recv(0))
    """, extra="""
      loading = {}
      local function note(f, ...) loading[#loading + 1] = select(2, pcall(f, ...)) end
      local ch, sem = portico.channel(), portico.semaphore(1)
      sem:acquire()
      note(ch.recv, ch) note(ch.send, ch, 1) note(sem.acquire, sem) note(portico.timeout, 1, print)
      local t = portico.spawn(print)
      note(t.join, t)
    """)
    for line, name in zip(said, ("channel:recv", "channel:send", "semaphore:acquire", "portico.timeout", "task:join")):
        assert f"{name} cannot wait here: no handler runs" in line
    assert "channel:recv cannot wait here: it was called through a C function" in said[5]
    assert said[-1] == "nil timeout timeout"


# ---- With connections, and at the end ----


@pytest.mark.packets("received")
def test_handlers_wait_for_tasks_and_each_other(server):
    """A connection's handlers talk to one worker task through channels; the answers come in order."""
    one = server("""
      local jobs = portico.channel(4)
      portico.spawn(function()
        for job in jobs do portico.sleep(0) job.answer:send(job.text:upper()) end
      end)
      return { on_message = function(conn, data)
        for line in data:gmatch("%l+;") do
          local job = { text = line, answer = portico.channel() }
          jobs:send(job)
          conn:send((job.answer:recv()))
        end
      end }""", *ALONE)

    def work(number):
        with one.connect() as client:
            for turn in range(scaled(100, 10)):
                word = bytes([97 + (number + turn) % 26]) * (1 + turn % 7) + b";"
                assert client.ask(word * 3) == word.upper() * 3

    for job in [in_background(work, number) for number in range(6)]:
        job.result()


def test_a_drain_waits_for_who_joins_a_task_and_not_for_the_others(server):
    one = server(SAY + """
      portico.spawn(function() local x <close> = setmetatable({}, { __close = function() say("closed") end })
        portico.sleep(1000) end)
      return { on_message = function(conn, data)
        say("asked")
        local _, answer = portico.spawn(function() portico.sleep(0.3) return "answer" end):join()
        conn:send(answer)
      end }""", *ALONE)
    client = one.connect()
    client.send("?")
    one.wait_said(1)
    one.signal()
    assert client.rest() == b"answer"
    client.close()
    one.check_end()
    assert one.said() == ["asked", "closed"]


@pytest.mark.parametrize("stops", [1, 2])
def test_stopping_while_thousands_wait(server, stops):
    """Whatever they wait for, all are ended, each variable that is to be closed is, and nothing is left behind."""
    count = scaled(4000, 400)
    one = server(SAY + f"""
      local closed, ch, sem, n = 0, portico.channel(), portico.semaphore(1), {count}
      local counter = setmetatable({{}}, {{ __close = function() closed = closed + 1 end }})
      local endless = portico.spawn(portico.sleep, 1000)
      local ways = {{ function() ch:recv() end, function() sem:acquire() end, function() endless:join() end,
        function() portico.sleep(1000) end, function() portico.timeout(900, portico.sleep, 1000) end,
        function() ch:recv(1000) end }}
      local guard = sem:acquire()
      for i = 1, n do portico.spawn(function() local c <close> = counter ways[i % #ways + 1]() end) end
      portico.spawn(function() portico.spawn(function() end):join() say("waiting") end)
      return {{ on_unload = function() say(closed == n or closed) end,
        on_message = function(conn) say("held") portico.sleep(1000) end }}""", *ALONE, "--lua-memory", "256M")
    one.wait_said(1, seconds=30)
    if stops == 1:
        one.stop(seconds=30)
    else:
        client = one.connect()
        client.send("hold")
        one.wait_said(2)
        one.signal()
        one.wait_log("stopping: ")
        one.signal()
        one.check_end(5, seconds=30)
        client.close()
    assert one.said()[-1] == "true"


@pytest.mark.packets("received")
def test_tasks_of_two_connections_do_not_hold_each_other(server):
    one = server("""
      local turn = portico.channel()
      return { on_message = function(conn, data)
        if data == "wait" then conn:send(turn:recv()) else turn:send(data) conn:send("sent") end
      end }""", *ALONE)
    with one.connect() as first, one.connect() as second:
        first.send("wait")
        assert first.silent(0.1)
        second.send("hello")
        assert second.take(4) == b"sent"
        assert first.take(5) == b"hello"


def test_a_peer_that_leaves_ends_nobody_elses_wait(server):
    one = server(SAY + """
      local sem = portico.semaphore(1)
      return {
        on_connect = function(conn) conn:send("+") end,
        on_message = function(conn, data)
          local guard <close> = sem:acquire()
          portico.sleep(0.05)
          conn:send("x")
        end,
        on_close = function() say("gone", sem:free()) end,
      }""", *ALONE)
    for _ in range(3):
        client = one.connect()
        assert client.take(1) == b"+"  # a peer that leaves before that may never become a connection
        client.send("?").reset()
    with one.connect() as client:
        assert client.take(1) == b"+"
        assert client.ask("?") == b"x"
    until(lambda: len(one.said()) == 4)
    assert one.said()[-1] == "gone 1"
