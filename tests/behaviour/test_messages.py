"""What workers and connections tell each other: remote connections, broadcast, topics, calls."""

import os
import random
import re

import pytest

from rig import SAY, in_background, scaled, until

FOUR = ("--workers", "4")


def play(server, body, *options, extra="", workers=4):
    """Runs the body in a task on worker 0, which then stops the server; returns what was said."""
    one = server(f"""{SAY}
      {extra}
      if portico.worker.id == 0 then
        portico.after(0, function()
          {body}
          portico.shutdown()
        end)
      end
      return {{ listen = {{}}, on_error = function(conn, err) say("on_error", conn, err.message, err.callback) end }}
      """, "--workers", str(workers), *options, ready=False)
    one.check_end(seconds=30)
    return one.said()


# ---- Connections of other workers ----

# "to ID TEXT;" sends to a connection; "id;" asks for one's own.
POST = """
return { frame = { type = "line", sep = ";" }, on_message = function(conn, message)
  local verb, id, text = message:match("^(%l+) ?(%d*) ?(.*)$")
  local other = id ~= "" and portico.conn(math.tointeger(id))
  if verb == "to" then
    assert(other.id == math.tointeger(id))
    assert(other:send(text))
  elseif verb == "close" then conn:send(tostring(other:close()))
  elseif verb == "abort" then conn:send(tostring(other:abort()))
  elseif verb == "is" then conn:send(tostring(other))
  else conn:send(portico.worker.id .. " " .. conn.id) end
end }
"""


def word(client):
    text = b""
    while not text.endswith(b";"):
        text += client.take(1)
    return text[:-1].decode()


def ids_of(clients):
    """Of each client: its worker and the id of its connection."""
    answers = []
    for client in clients:
        client.send("id;")
        answers.append(tuple(map(int, word(client).split())))
    return answers


def test_bytes_reach_a_connection_of_any_worker(server):
    one = server(POST, *FOUR)
    clients = [one.connect() for _ in range(8)]
    places = ids_of(clients)
    assert {worker for worker, _ in places} == {0, 1, 2, 3}
    for worker, identity in places:
        assert (identity - 1) % 4 == worker
    for number, sender in enumerate(clients):
        for _, identity in places:
            sender.send(f"to {identity} from {number};")
        for receiver in clients:
            assert word(receiver) == f"from {number}"
    for client in clients:
        client.close()


def test_bytes_for_another_worker_arrive_in_order(server):
    one = server(POST, *FOUR)
    with one.connect() as sender, one.connect() as receiver:
        (_, _), (_, identity) = ids_of([sender, receiver])
        count = scaled(3000, 300)

        def send():
            for number in range(count):
                sender.send(f"to {identity} {number};")

        job = in_background(send)
        for number in range(count):
            assert word(receiver) == str(number)
        job.result()


def test_a_connection_of_another_worker_can_be_closed(server):
    one = server(POST, *FOUR)
    clients = [one.connect() for _ in range(4)]
    places = ids_of(clients)
    for number, verb in ((1, "close"), (2, "abort"), (0, "close")):
        clients[3].send(f"to {places[number][1]} last;" if verb == "close" else "")
        clients[3].send(f"{verb} {places[number][1]};")
        assert word(clients[3]) == "true"
        if verb == "close":
            assert clients[number].rest() == b"last;"
        else:
            assert clients[number].is_reset()
    for client in clients:
        client.close()


def test_what_comes_for_a_connection_that_is_gone_is_dropped(server):
    one = server(POST, *FOUR)
    with one.connect() as first, one.connect() as second:
        (mine, _), (_, gone) = ids_of([first, second])
        second.close()
        first.send(f"to {gone + 4000} nobody;close {gone + 4000};")
        assert word(first) == "true"
        first.send(f"is {gone};")
        assert re.fullmatch(rf"conn {gone} \(of worker {(gone - 1) % 4}\)", word(first)) or mine == (gone - 1) % 4


def test_the_own_workers_connections_are_found_among_many(server):
    one = server(SAY + """
      return { frame = { type = "line", sep = ";" },
        on_connect = function(conn) conn:send(conn.id) end,
        on_message = function(conn, id)
        local other, why = portico.conn(math.tointeger(id))
        conn:send(other and tostring(other == conn) .. " " .. other.id or tostring(why))
      end }""", "--workers", "1")
    seed = int(os.environ.get("SEED") or random.randrange(1 << 30))
    print("seed", seed)
    rng = random.Random(seed)
    there, gone = {}, []
    for _ in range(scaled(600, 60)):
        if len(there) < 5 or rng.random() < 0.5:
            client = one.connect()
            there[int(word(client))] = client
        else:
            identity = rng.choice(list(there))
            there.pop(identity).close()
            gone.append(identity)
        asker = rng.choice(list(there))
        asked = rng.choice(list(there))
        there[asker].send(f"{asked};")
        assert word(there[asker]) == f"{str(asker == asked).lower()} {asked}", f"seed {seed}"
    asker = next(iter(there.values()))
    for identity in gone[-10:]:
        def closed(identity=identity):
            asker.send(f"{identity};")
            return word(asker) == "closed"
        until(closed)
    for client in there.values():
        client.close()


def test_a_remote_send_is_framed_and_a_write_is_not(server):
    one = server("""return { frame = { type = "length", size = 2 }, on_message = function(conn, data)
      local verb, id = data:match("(%l+) (%d+)")
      local other = verb ~= "all" and portico.conn(math.tointeger(id))
      if verb == "send" then other:send("ab", "c") elseif verb == "write" then other:write("ab", "c")
      else portico.broadcast("all") end
    end,
    on_connect = function(conn) conn:write(("%6d"):format(conn.id)) end }""", *FOUR)
    with one.connect() as first, one.connect() as second:
        first.take(6)
        identity = int(second.take(6))

        def tell(text):
            first.send(len(text).to_bytes(2, "big") + text.encode())

        tell(f"send {identity}")
        assert second.take(5) == b"\0\3abc"
        tell(f"write {identity}")
        assert second.take(3) == b"abc"
        tell("all 0")
        assert first.take(5) == b"\0\3all"
        assert second.take(5) == b"\0\3all"


# ---- broadcast ----

# A peer is connected before the server has dealt with it: who is to hear everything waits for this.
GREET = "on_connect = function(conn) conn:send('+') end, "


def greeted(one, count, index=0):
    clients = [one.connect(index) for _ in range(count)]
    for client in clients:
        assert client.take(1) == b"+"
    return clients


@pytest.mark.packets("received")
def test_a_broadcast_reaches_every_connection_of_every_worker(server):
    one = server("return { " + GREET + """on_message = function(conn, data)
      assert(portico.broadcast(data, data:find("!") and { except = conn } or nil)) end }""", *FOUR)
    clients = greeted(one, 16)
    for number, client in enumerate(clients):
        message = b"from %2d;" % number
        client.send(message)
        for other in clients:
            assert other.take(len(message)) == message
    clients[0].send(b"others!")
    for other in clients[1:]:
        assert other.take(7) == b"others!"
    assert clients[0].silent(0.1)
    for client in clients:
        client.close()


def test_a_broadcast_to_one_listener(server):
    one = server("return { " + GREET + """on_message = function(conn, data)
      assert(portico.broadcast(data, { listener = conn.listener, except = conn.id })) end }""", *FOUR,
                 listen=("tcp://127.0.0.1:0", "tcp://127.0.0.1:0"))
    here = greeted(one, 4, 0)
    there = greeted(one, 4, 1)
    for side, other in ((here, there), (there, here)):
        side[0].send(b"hello")
        for client in side[1:]:
            assert client.take(5) == b"hello"
        assert other[0].silent(0.05)
    for client in here + there:
        client.close()


def test_broadcasts_of_one_sender_arrive_in_order_everywhere(server):
    one = server("return { " + GREET + """on_message = function(conn, data)
      for n = 1, 500 do assert(portico.broadcast(n .. ";")) end end }""", *FOUR)
    clients = greeted(one, 6)
    clients[0].send("go")
    expected = "".join(f"{n};" for n in range(1, 501)).encode()
    for client in clients:
        assert client.take(len(expected)) == expected
    for client in clients:
        client.close()


# ---- publish, subscribe ----


def test_published_values_reach_all_workers_in_order(server):
    count = scaled(2000, 200)
    assert play(server, f"""
      for from = 0, 3 do portico.worker.call(from, "publish", {count}) end
      for id = 0, 3 do
        local seen
        repeat portico.sleep(0.005) seen = portico.worker.call(id, "seen") until #seen == 4 * {count}
        local last = {{ [0] = 0, 0, 0, 0 }}
        for _, v in ipairs(seen) do
          assert(v.n == last[v.from] + 1)
          last[v.from] = v.n
        end
        say(id, #seen)
      end
    """, extra="""
      local seen = {}
      portico.subscribe("numbers", function(v, topic) assert(topic == "numbers") seen[#seen + 1] = v end)
      portico.worker.serve("seen", function() return seen end)
      portico.worker.serve("publish", function(count)
        for n = 1, count do assert(portico.publish("numbers", { from = portico.worker.id, n = n })) end
      end)
    """) == [f"{id} {4 * count}" for id in range(4)]


def test_a_published_value_is_copied_with_all_it_holds(server):
    assert play(server, """
      local shared = { "x" }
      portico.subscribe("t", function(v) got:send(v) end)
      portico.subscribe("t", function(v) got:send(v) end)
      assert(portico.publish("t", { a = shared, b = shared, n = 1 << 62, f = 0.5, s = "\\0bytes", t = { [true] = false } }))
      shared[1] = "changed"
      local one, two = got:recv(), got:recv()
      say(one ~= two, one.a == one.b, one.a[1], one.n == 1 << 62, one.f, #one.s, one.t[true])
      portico.publish("t", nil)
      say(got:recv(5))
    """, extra="""got = portico.channel(10)
      local send = got.send
      function wrap(v) return v == nil and "nil" or v end
      local subscribe = portico.subscribe
      function portico.subscribe(topic, fn) return subscribe(topic, function(v) fn(wrap(v)) end) end
    """, workers=1) == ["true true x true 0.5 6 false", "nil"]


def test_a_subscription_ends_when_it_is_canceled(server):
    assert play(server, """
      local seen = {}
      local function note(name) return function(v) seen[#seen + 1] = name .. v end end
      local a, b, c
      a = portico.subscribe("t", function(v) note("a")(v) if v == 2 then say(b:cancel(), b:cancel()) end end)
      b = portico.subscribe("t", note("b"))
      c = portico.subscribe("t", function(v) note("c")(v)
        if v == 1 then portico.subscribe("t", note("late")) end
        if v == 3 then c:cancel() end end)
      portico.subscribe("other", note("other"))
      do local d <close> = portico.subscribe("t", note("d")) end
      for v = 1, 4 do assert(portico.publish("t", v)) end
      portico.sleep(0.05)
      say(table.concat(seen, " "))
      say(a, b)
    """, workers=1) == ["true false", "a1 b1 c1 a2 c2 late2 a3 c3 late3 a4 late4", "subscription (t) subscription (t, canceled)"]


def test_many_topics_do_not_meet(server):
    assert play(server, """
      local hits, subs = 0, {}
      for n = 1, 2000 do subs[n] = portico.subscribe("topic " .. n, function(v) assert(v == n) hits = hits + 1 end) end
      for n = 1, 2000 do assert(portico.publish("topic " .. n, n)) end
      portico.sleep(0.2)
      for n = 1, 2000, 2 do assert(subs[n]:cancel()) end
      for n = 1, 2000 do assert(portico.publish("topic " .. n, n)) end
      portico.sleep(0.2)
      say(hits)
    """, workers=1) == ["3000"]


def test_an_error_of_a_subscriber_is_logged_and_goes_to_on_error(server):
    said = play(server, """
      portico.subscribe("t", function(v) error("trouble " .. v) end)
      portico.subscribe("t", function(v) got:send("fine") end)
      portico.publish("t", 1)
      say(got:recv())
    """, extra="got = portico.channel(10)", workers=1)
    assert re.fullmatch(r"on_error nil \S+: trouble 1 the function of portico.subscribe", said[0])
    assert said[1] == "fine"


def test_a_worker_that_does_not_listen_fills_its_queue_and_no_more(server):
    """By number and by bytes; and when it listens again, all is well."""
    said = play(server, """
      local n, ok, message, code = 0
      repeat ok, message, code = portico.publish("t", n) if ok then n = n + 1 end until not ok
      say(n, message, code)
      portico.sleep(0.05)
      assert(portico.worker.call(0, "nothing"))
      local text, count = ("x"):rep(1 << 20), 0
      repeat ok, message, code = portico.broadcast(text) if ok then count = count + 1 end until not ok
      say(count >= 14 and count <= 16, message, code)
      portico.sleep(0.05)
      say(portico.broadcast("again"))
      say(portico.broadcast(("x"):rep((8 << 20) + 1)))
      say(portico.publish("t", ("x"):rep(9 << 20)))
    """, extra="portico.worker.serve('nothing', function() return true end)", workers=1)
    full = "the message queue of worker 0 is full limit"
    assert said == [f"65536 {full}", f"true {full}", "true", "nil more than 8 MiB at once limit", "nil more than 8 MiB at once limit"]


# ---- Calls ----


def test_a_function_of_another_worker_is_called(server):
    assert play(server, """
      for id = 0, 3 do say(portico.worker.call(id, "add", 1, 2)) end
      say(portico.worker.call(2, "echo"))
      say(select("#", portico.worker.call(2, "echo", nil, 1, nil)), portico.worker.call(2, "echo", nil, "a", nil))
      local t = { 1, { 2 } }
      t.self = t
      local back = portico.worker.call(3, "echo", t)
      say(back ~= t, back.self == back, back[2][1])
    """, extra="""
      portico.worker.serve("add", function(a, b) portico.sleep(0.001) return a + b, portico.worker.id end)
      portico.worker.serve("echo", function(...) return ... end)
    """) == ["3 0", "3 1", "3 2", "3 3", "", "3 nil a nil", "true true 2"]


def test_what_goes_wrong_in_a_call_is_told(server):
    said = play(server, """
      say(portico.worker.call(1, "fail"))
      say(portico.worker.call(1, "object"))
      say(portico.worker.call(1, "nothing there"))
      say(portico.worker.call(1, "not plain"))
      say(pcall(portico.worker.call, 1, "fail", 1, { f = print }))
      portico.worker.call(1, "forget")
      say(portico.worker.call(1, "fail"))
      say(portico.timeout(0.02, portico.worker.call, 1, "slow"))
      say(portico.worker.call(1, "hog"))
    """, extra="""
      local serve = portico.worker.serve
      serve("fail", function() portico.sleep(0) error("served trouble") end)
      serve("object", function() error({}) end)
      serve("not plain", function() return 1, { x = io.stdout } end)
      serve("forget", function() serve("fail", nil) end)
      serve("slow", function() portico.sleep(100) end)
      serve("hog", function() local t = {} for i = 1, 1e9 do t[i] = ("x"):rep(1000) .. i end end)
    """)
    assert re.fullmatch(r"nil \S+: served trouble error", said[0])
    assert said[1:4] == ["nil (error object is a table value) error", "nil worker 1 serves no 'nothing there' not_found",
                         "nil results[2].x: a userdata cannot be copied error"]
    assert said[4] == "false portico.worker.call: arguments[2].f: a function cannot be copied"
    assert said[5:7] == ["nil worker 1 serves no 'fail' not_found", "nil timeout timeout"]
    assert "nil not enough memory error" in said  # on_error may come before or after


def test_each_worker_is_asked_at_once(server):
    said = play(server, """
      local results, failures = portico.worker.each("id", 10)
      say(results[0], results[1], results[2], results[3], failures)
      results, failures = portico.worker.each("odd")
      say(results[0], results[1], results[2], results[3])
      say(failures[0], failures[2], failures[1], failures[3])
    """, extra="""
      portico.worker.serve("id", function(n) return portico.worker.id * n, "more" end)
      portico.worker.serve("odd", function() if portico.worker.id % 2 == 0 then error("even", 0) end return true end)
    """)
    assert said == ["0 10 20 30 nil", "nil true nil true", "even even nil nil"]


def test_workers_call_each_other_in_circles(server):
    """Nested calls through all workers, many at a time: the answers find who asked."""
    count = scaled(100, 10)
    assert play(server, f"""
      local tasks = {{}}
      for n = 1, {count} do tasks[n] = portico.spawn(portico.worker.call, n % 4, "around", n, 8) end
      for n = 1, {count} do
        local ok, sum = tasks[n]:join()
        assert(ok and sum == n + 8, sum)
      end
      say("done")
    """, extra="""
      portico.worker.serve("around", function(n, left)
        if left == 0 then return n end
        return portico.worker.call((portico.worker.id + 1) % 4, "around", n + 1, left - 1)
      end)
    """) == ["done"]


def test_a_caller_that_gives_up_disturbs_nobody(server):
    assert play(server, """
      for n = 1, 50 do portico.timeout(n / 20000, portico.worker.call, n % 4, "slow", n) end
      local t = portico.spawn(portico.worker.call, 1, "slow", 1)
      portico.sleep(0)
      t:cancel()
      portico.sleep(0.05)
      say(portico.worker.call(1, "slow", "fine"))
    """, extra="""portico.worker.serve("slow", function(v) portico.sleep(0.001) return v end)""") == ["fine"]


# ---- Wrong use ----


@pytest.mark.parametrize("call, message", [
    ("portico.conn()", "(number expected, got no value)"),
    ("portico.conn(0)", "(the id of a connection expected)"),
    ("portico.conn(2):send({})", "(string expected, got table)"),
    ("portico.conn(2).send(1)", "(remote conn expected, got number)"),
    ("portico.broadcast()", "(string expected, got no value)"),
    ("portico.broadcast('x', 1)", "(table expected, got number)"),
    ("portico.broadcast('x', { excpt = 1 })", "(unknown option 'excpt': did you mean 'except'?)"),
    ("portico.broadcast('x', { except = 'x' })", "(except: conn expected, or its id, got string)"),
    ("portico.broadcast('x', { 'listener' })", "(the key 1 is no name: name = value expected)"),
    ("portico.broadcast('x', { listener = 1 })", "(listener: string expected, got number)"),
    ("portico.publish()", "(string expected, got no value)"),
    ("portico.publish('')", "(a name of 1 to 4096 bytes expected)"),
    ("portico.publish('t')", "(value expected)"),
    ("portico.publish('t', { cb = print })", "(value.cb: a function cannot be copied)"),
    ("portico.publish('t', setmetatable({}, {}))", "(value: a table with a metatable cannot be copied)"),
    ("portico.subscribe('t')", "(function expected, got no value)"),
    ("portico.subscribe(('t'):rep(5000), print)", "(a name of 1 to 4096 bytes expected)"),
    ("portico.subscribe('t', print).cancel()", "(subscription expected, got no value)"),
    ("portico.worker.serve('x')", "(function expected, got no value)"),
    ("portico.worker.serve('x', 1)", "(function expected, got number)"),
    ("portico.worker.call(4, 'x')", "(the id of a worker expected: 0 to portico.worker.count - 1)"),
    ("portico.worker.call(-1, 'x')", "(the id of a worker expected: 0 to portico.worker.count - 1)"),
    ("portico.worker.call(1)", "(string expected, got no value)"),
    ("portico.worker.each({})", "(string expected, got table)"),
    ("table.sort({ 1, 2 }, function() portico.worker.each('x') end)",
     "portico.worker.each cannot wait here: it was called through a C function that cannot wait "
     "(table.sort, string.gsub, tostring, require, __gc, …)"),
])
def test_wrong_arguments_are_named(server, call, message):
    said = play(server, f"say(pcall(function() {call} end))")
    assert said[0].startswith("false ") and said[0].endswith(message), said


# ---- Beginning and end ----


def test_what_is_said_while_workers_open_is_heard_when_they_have(server):
    one = server(SAY + """
      portico.subscribe("loaded", function(id) say(portico.worker.id, "hears", id) end)
      portico.publish("loaded", portico.worker.id)
      return { listen = {}, on_load = function() portico.publish("loaded", 10 + portico.worker.id) end }""",
                 "--workers", "3")
    said = one.wait_said(18)
    assert sorted(said) == sorted(f"{a} hears {b}" for a in range(3) for b in (0, 1, 2, 10, 11, 12))


@pytest.mark.parametrize("stops", [1, 2])
def test_stopping_in_the_middle_of_a_storm(server, stops):
    """All kinds of messages between all workers, without end; nothing is left of them (the program counts its blocks)."""
    one = server(SAY + """
      local serve, me = portico.worker.serve, portico.worker.id
      serve("echo", function(...) return ... end)
      serve("slow", function() portico.sleep(100) end)
      portico.subscribe("t", function(v) end)
      for i = 1, 5 do
        portico.spawn(function()
          while true do
            portico.publish("t", { ("x"):rep(1000), i })
            portico.broadcast(("y"):rep(100))
            local other = portico.conn(math.random(1, 100))
            if other then other:send("z") end
            portico.timeout(0.0005, portico.worker.call, math.random(0, 3), "slow")
            portico.spawn(portico.worker.call, math.random(0, 3), "slow", "w")
            portico.worker.call(math.random(0, 3), "echo", me, { i })
          end
        end)
      end
      return { on_message = function() portico.worker.call((me + 1) % 4, "slow") end,
        on_unload = function()
          portico.publish("t", 1)
          portico.broadcast("x")
          portico.conn(1 + (me + 1) % 4):send("x")
        end }
    """, *FOUR, "--drain-timeout", "0.3")
    clients = [one.connect() for _ in range(8)]
    for client in clients[:4]:
        client.send("hold")
        client.take(1000)
    one.signal()
    if stops == 2:
        one.wait_log("stopping: ")
        one.signal()
    one.check_end(5, seconds=30)
    for client in clients:
        client.close()


def test_random_messages_between_all(server):
    """Each connection tells others through every way there is; everybody hears what was for him, from each in order."""
    seed = int(os.environ.get("SEED") or random.randrange(1 << 30))
    print("seed", seed)
    rng = random.Random(seed)
    one = server("""
      local conns = {}
      local function tell(id, text) local c = conns[id] if c then c:send(text) end end
      portico.worker.serve("tell", tell)
      portico.subscribe("tell", function(v) tell(v.id, v.text) end)
      return {
        frame = "line",
        on_connect = function(conn) conns[conn.id] = conn conn:send(conn.id) end,
        on_close = function(conn) conns[conn.id] = nil end,
        on_message = function(conn, line)
          local way, id, text = line:match("(%l+) (%d+) (.*)")
          id = math.tointeger(id)
          if way == "send" then assert(portico.conn(id):send(text))
          elseif way == "publish" then assert(portico.publish("tell", { id = id, text = text }))
          elseif way == "call" then portico.worker.call((id - 1) % portico.worker.count, "tell", id, text)
          elseif way == "broadcast" then assert(portico.broadcast(text)) end
        end,
      }""", *FOUR)
    clients = [one.connect() for _ in range(8)]
    ids = [int(client.line()) for client in clients]
    expected = {n: [] for n in range(8)}
    for turn in range(scaled(400, 40)):
        sender, receiver = rng.randrange(8), rng.randrange(8)
        way = rng.choice(("send", "publish", "call", "broadcast"))
        text = f"{sender} {turn} {way}"
        for n in range(8) if way == "broadcast" else [receiver]:
            expected[n].append(text)
        clients[sender].send(f"{way} {ids[receiver]} {text}\n")
    for n, client in enumerate(clients):
        got = [client.line().decode().rstrip("\n") for _ in expected[n]]
        assert sorted(got) == sorted(expected[n]), f"seed {seed}"
        for sender in range(8):
            for way in ("send", "publish", "call", "broadcast"):
                mine = re.compile(rf"{sender} \d+ {way}")
                assert [*filter(mine.match, got)] == [*filter(mine.match, expected[n])], f"seed {seed}"
    for client in clients:
        client.close()
