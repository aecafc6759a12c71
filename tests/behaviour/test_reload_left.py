"""What a generation leaves behind: timers, handlers that wait, outbound connections."""

import pytest

from reloads import ASK, STILL, TELLER, UNDONE, reload, save, say
from rig import SAY, Settings, full_listener, scaled

pytestmark = pytest.mark.packets("both")

GONE = SAY + "local mark = '%s' return { on_unload = function() say('gone', mark) end, "


# ---- Timers ----

def test_timers_stop_with_their_generation(server):
    ticking = SAY + "portico.every(0.01, function() say('%s') end) return { on_message = function(conn, data) " + ASK + "end }"
    one = server(ticking % "a", "--workers", "1")
    with one.connect() as client:
        one.wait_said(3)
        save(one, ticking % "b")
        reload(one, client)
        one.wait_log("said: b", 5)
        words = one.said()
        assert "a" not in words[words.index("b"):]


def test_a_timer_does_not_fire_while_its_version_is_only_tried(server):
    one = server(TELLER % "a", "--workers", "1")
    with one.connect() as client:
        save(one, SAY + "portico.after(0, function() say('fired') end) local t = portico.now() + 0.3 "
                        "while portico.now() < t do end error('unfit')")
        reload(one, client, "reload refused")
        assert say(client, "x") == "a:x"
        assert one.said() == []


def test_a_named_timer_keeps_step(server):
    text = SAY + "portico.every(1.0, function() say('%s', portico.now()) end, { name = 'beat', first = 0.5 }) " \
        "return { on_message = function(conn, data) " + ASK + "end }"
    one = server(text % "a", "--workers", "1")
    with one.connect() as client:
        one.wait_said(1)
        for _ in range(5):
            save(one, text % "b")
            reload(one, client)
        said = [(word, float(at)) for word, at in (line.split() for line in one.wait_said(3))]
        assert [word for word, _ in said[:3]] == ["a", "b", "b"]
        if not Settings.wine:  # each a second after the one before, whatever was reloaded between
            assert all(0.8 < after - before < 1.5 for (_, before), (_, after) in zip(said, said[1:])), said


def test_after_going_back_timers_go_on_with_what_was_left(server):
    good = SAY + "portico.after(1.5, function() say('late') end) portico.every(0.05, function() say('tick') end) " \
        "return { on_message = function(conn, data) " + ASK + "end }"
    one = server(good, "--workers", "1", "--reload-error-limit", "0")
    with one.connect() as client:
        one.wait_log("said: tick", 2)
        save(one, "return { on_error = function() return 'keep' end, on_message = function() error('bad') end }")
        reload(one, client)
        client.send("x")
        one.wait_log(UNDONE)
        ticks = len(one.log("said: tick"))
        one.wait_log("said: tick", ticks + 3)
        one.wait_log("said: late")
        assert len(one.log("said: late")) == 1


@pytest.mark.parametrize("options, words", [
    ("{ name = 5 }", "name: string expected, got number"),
    ("{ 'x' }", "the key 1 is no name: name = value expected"),
    ("{ nmae = 'x' }", "unknown option 'nmae': did you mean 'name'?"),
])
def test_wrong_names_of_timers(server, options, words):
    one = server("return { on_message = function() local ok, why = pcall(portico.every, 1, print, " + options + ") return why end }")
    with one.connect() as client:
        assert words in say(client, "x")


def test_a_name_is_for_one_timer(server):
    one = server("portico.every(1, print, { name = 'x' }) return { on_message = function() "
                 "local ok, why = pcall(portico.every, 1, print, { name = 'x' }) return why end }")
    with one.connect() as client:
        assert "a timer named 'x' runs already" in say(client, "x")


LATE = SAY + """
local mark = '%s'
return { on_unload = function() say(mark, "unload", portico.after(0, print)) end,
  on_message = function(conn, data) """ + ASK + """
    if data == "go" then return "gone" end
    portico.sleep(0.01)
    while portico.shared("t"):get("go") ~= mark do portico.sleep(0.01) end
    local timer, message, code = portico.after(0, function() say(mark, "fires") end)
    say(mark, "after", timer and "timer", message, code)
    timer, message, code = portico.every(1, print)
    say(mark, "every", timer and "timer", message, code)
    return "done" end }"""
GO = "return { on_message = function(conn, data) " + ASK + "portico.shared('t'):set('go', data) return 'gone' end }"


@pytest.mark.parametrize("probation", ["0", "1000"])
def test_a_handler_of_a_replaced_version_starts_no_timer_and_is_told(server, probation):
    one = server(LATE % "a", "--workers", "1", "--reload-probation", probation, "--drain-timeout", "0.3")
    with one.connect() as client, one.connect() as late:
        late.send("x")
        save(one, GO)
        reload(one, client)
        assert say(client, "a") == "gone"
        assert late.take(4) == b"done"
        replaced = "this version of the script has been replaced"
        if probation == "0":
            said = [f"a {name} nil {replaced} closed" for name in ("after", "every", "unload")]
        else:
            said = ["a after timer nil nil", "a every timer nil nil"]
            one.wait_log("warn .*generation 1 starts a timer, though it has been replaced: it runs only if that version comes back")
        assert one.wait_said(len(said)) == said
        save(one, GO.replace("'gone'", "'still'"))  # which ends the probation
        reload(one, client)
        assert one.wait_said(3)[2] == f"a unload nil {replaced} closed"
        assert not one.log("fires")


# ---- Handlers that wait ----

SLEEPER = GONE + """on_message = function(conn, data)
  """ + ASK + """
  if data == 'wait' then conn.state.waited = (conn.state.waited or 0) + 1 portico.sleep(%s) end
  return mark .. ':' .. conn.generation .. ':' .. tostring(conn.state.waited) end }"""


def test_a_handler_that_waits_ends_where_it_began(server):
    one = server(SLEEPER % ("a", 1), "--workers", "1", "--reload-probation", "0.1")
    with one.connect() as client, one.connect() as sleeper:
        sleeper.send("wait")
        save(one, SLEEPER % ("b", 1))
        reload(one, client)
        assert say(client, "x") == "b:2:nil"
        assert sleeper.socket.recv(100) == b"a:1:1"
        assert say(sleeper, "x") == "b:2:1"
        assert one.wait_said(1) == ["gone a"]


def test_what_holds_an_old_generation_is_told_and_ended_at_the_deadline(server):
    one = server(SLEEPER % ("a", 1000), "--workers", "1", "--reload-probation", "0", "--reload-deadline", "1.5")
    with one.connect() as client, one.connect() as sleeper:
        sleeper.send("wait")
        save(one, SLEEPER % ("b", 1000))
        reload(one, client)
        assert "1 suspended handler, 0 outbound connections" in one.wait_log(STILL)[0]
        assert one.wait_said(1) == ["gone a"]
        assert one.log("a handler that still waits is ended, in on_message of conn")
        assert one.log(r"\[C\]: in function 'portico.sleep'")
        assert say(sleeper, "x") == "b:2:1"  # the connection lives, with its state


def test_a_connection_attempt_that_is_ended_at_the_deadline_holds_no_generation(server):
    silent = full_listener(("127.0.0.1", 0))
    text = GONE + "on_message = function(conn, data) " + ASK + "say('connects') portico.connect(arg[1], { timeout = 60 }) end }"
    one = server(text % "a", "--workers", "1", "--reload-probation", "0.05", "--reload-deadline", "0.1",
                 args=(f"127.0.0.1:{silent[0].getsockname()[1]}",))
    with one.connect() as client, one.connect() as other:
        other.send("x")
        one.wait_said(1)
        save(one, text % "b")
        reload(one, client)
        assert one.wait_said(2) == ["connects", "gone a"]
    for waiting in silent:
        waiting.close()


def test_on_error_hears_of_a_handler_that_is_ended_at_the_deadline(server):
    text = SAY + """return {
      on_error = function(conn, err)
        say(err.callback, conn.id == err.conn, err.message, err.traceback:find('portico.sleep', 1, true) ~= nil)
        say(pcall(portico.sleep, 0))
        conn:send('sorry')
        return conn.state.keep and 'keep'
      end,
      on_message = function(conn, data)
        """ + ASK + """
        if data == 'keep' or data == 'end' then
          conn.state.keep = data == 'keep'
          local closing <close> = setmetatable({}, { __close = function() say('closed', data) end })
          conn:send('waits')
          portico.sleep(1000)
        end
        return conn.generation .. ':' .. data
      end }"""
    one = server(text, "--workers", "1", "--reload-probation", "0", "--reload-deadline", "0.3")
    with one.connect() as client, one.connect() as kept, one.connect() as ended:
        assert say(kept, "keep") == "waits"
        reload(one, client)
        assert kept.take(5) == b"sorry"
        assert say(kept, "x") == "2:x"
        told = "on_message true ended while it waited: this version of the script has been replaced true"
        refused = "false portico.sleep cannot wait here: this version of the script has been replaced"
        assert one.wait_said(3) == ["closed keep", told, refused]
        assert say(ended, "end") == "waits"
        reload(one, client)
        assert ended.is_reset()
        assert one.wait_said(6)[3:] == ["closed end", told, refused]
        assert say(client, "x") == "3:x"


def test_an_error_in_on_error_of_what_is_ended_at_the_deadline(server):
    text = """return { on_error = function(conn, err) error('again') end,
      on_message = function(conn, data) """ + ASK + """ if data == 'wait' then conn:send('waits') portico.sleep(1000) end return data end }"""
    one = server(text, "--workers", "1", "--reload-probation", "0", "--reload-deadline", "0.3")
    with one.connect() as client:
        for _ in range(3):
            with one.connect() as waits, one.connect() as other:
                assert say(waits, "wait") == "waits" and say(other, "wait") == "waits"
                reload(one, client)
                assert waits.is_reset() and other.is_reset()
        one.wait_log("again\n?", 6)
        assert say(client, "x") == "x"


def test_many_generations_may_linger_but_not_any_number(server):
    one = server(SLEEPER % ("a", 1000), "--workers", "1", "--reload-probation", "0", "--reload-deadline", "1000",
                 "--drain-timeout", "0.3")
    sleepers = [one.connect() for _ in range(10)]
    with one.connect() as client:
        for number, sleeper in enumerate(sleepers):
            sleeper.send("wait")
            save(one, SLEEPER % (number, 1000))
            reload(one, client)
        one.wait_log("more than 8 old generations linger: the oldest is cut off", 2)
        assert one.wait_said(2) == ["gone a", "gone 0"]
        assert say(sleepers[0], "x") == "9:11:1"
        assert say(sleepers[1], "x") == "9:11:1"
        one.stop(code=5)
        for sleeper in sleepers:
            sleeper.close()


def test_stopping_with_old_generations(server):
    one = server(SLEEPER % ("a", 1000), "--workers", "2", "--reload-probation", "1000", "--drain-timeout", "0.5")
    sleepers = [one.connect() for _ in range(6)]
    with one.connect() as client:
        for number, sleeper in enumerate(sleepers):
            sleeper.send("wait")
            save(one, SLEEPER % (number, 1000))
            reload(one, client)
    one.stop(code=5, seconds=30)
    for sleeper in sleepers:
        sleeper.close()


# ---- Outbound connections ----

def test_an_outbound_connection_belongs_to_its_generation(server):
    far = server("return { on_message = function(conn, data) return 'far ' .. data end, listen = {} }")
    near = GONE + """on_message = function(conn, data) """ + ASK + """
        if data == 'open' then
            out = assert(portico.connect('tcp://127.0.0.1:%d', { on_message = function(o, d) conn:send(mark .. ' ' .. d) end,
              on_close = function(o, why) say('closed', mark, why) end }))
            return 'opened'
        end
        if out then out:send(data) else return mark .. ' has none' end end }"""
    one = server(near % ("a", far.port), "--workers", "1", "--reload-probation", "0", "--reload-deadline", "1.5")
    with one.connect() as client:
        assert say(client, "open") == "opened"
        assert say(client, "x") == "a far x"
        save(one, near % ("b", far.port))
        reload(one, client)
        assert say(client, "x") == "b has none"
        assert "0 suspended handlers, 1 outbound connection" in one.wait_log(STILL)[0]
        assert one.wait_said(2) == ["closed a shutdown", "gone a"]


# ---- The other connections, seen from a handler ----

def test_conns_moves_what_it_finds_and_shows_what_it_cannot_move(server):
    text = """return { on_connect = function(conn) conn.state.name = 'n' .. conn.id end,
      on_message = function(conn, data) """ + ASK + """
        if data == 'wait' then conn:send('waits') portico.sleep(1000) end
        local names = {}
        for other in portico.conns() do
          if data == 'all' and other.id ~= conn.id then other:send('!') end
          names[#names + 1] = other.state.name .. '@' .. other.generation
        end
        table.sort(names)
        return table.concat(names, ' ') end }"""
    one = server(text, "--workers", "1", "--drain-timeout", "0")
    with one.connect() as client, one.connect() as idle, one.connect() as sleeper:
        for each in (client, idle, sleeper):
            say(each, "x")
        assert say(client, "x") == "n1@1 n2@1 n3@1"
        assert say(sleeper, "wait") == "waits"
        reload(one, client)
        assert say(client, "all") == "n1@2 n2@2 n3@1"
        assert idle.take(1) == b"!" and sleeper.take(1) == b"!"
        one.stop(code=5)  # somebody still waits


# ---- Memory ----

@pytest.mark.no_wine("no /proc")
def test_reloads_leave_nothing_behind(server):
    if Settings.sanitizer:
        pytest.skip("a sanitizer keeps what is freed for a while")
    text = "local t = {} for i = 1, 2000 do t[i] = { i } end portico.every(1, print, { name = 'x' }) " \
        "return { on_connect = function(conn) conn.state.x = 1 end, on_message = function(conn, data) " + ASK + "end }"
    one = server(text, "--workers", "2")
    with one.connect() as client, one.connect():
        for _ in range(scaled(60, 20)):
            reload(one, client)
        before = one.memory()
        for _ in range(scaled(200, 30)):
            reload(one, client)
        assert one.memory() < before + (8 << 20)  # one generation that stays takes 0.4 MB
