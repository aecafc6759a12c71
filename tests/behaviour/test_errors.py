"""Errors of a script: they cost the connection they happen on, are logged once, and say where."""

import re

import pytest

from rig import SAY, Settings, run

pytestmark = pytest.mark.packets("received")

GOOD = "if data == 'good' then return data end "


def good(one):
    """A connection that has nothing to do with errors is served."""
    with one.connect() as client:
        assert client.ask("good") == b"good"


def check_logged_once(one, message, line, handler, port=None):
    """One event in the log, with place, handler, connection and traceback."""
    found = one.wait_log(re.escape(message))
    assert len(found) == 1, one.text()
    assert re.search(rf"script\.lua:{line}: {re.escape(message)}", found[0]), found
    log = one.text()
    assert handler in log
    if port is not None:
        assert f"127.0.0.1:{port}" in log
    assert "stack traceback" in log


# The error is on line 3 of each; who sends "good" is spared.
HANDLERS = {
    "on_message": """return { on_message = function(conn, data)
      if data == "good" then return data end
      error("mishap")
    end }""",
    "on_connect": """local first = true
      return { on_message = function(conn, data) return data end, on_connect = function(conn)
        if first then first = false error("mishap") end
      end }""",
    "on_readable": """return { on_readable = function(conn)
      local data = conn:recv()
      if data and data ~= "good" then error("mishap") end
      if data then conn:send(data) end
    end }""",
    "on_eof": """return { on_message = function(conn, data) conn.state.data = data return data end,
      on_eof = function(conn)
        if conn.state.data ~= "good" then error("mishap") end
        conn:close()
      end }""",
    "on_close": """return { on_message = function(conn, data) conn.state.data = data return data end,
      on_close = function(conn)
        if conn.state.data ~= "good" then error("mishap") end
      end }""",
    "on_drain": """return {
      on_drain = function(conn)
        error("mishap")
      end,
      on_message = function(conn, data)
        if data == "good" then return data end
        conn:set{send_max = 1 << 26}
        conn:send(string.rep("x", 8 << 20))
      end }""",
}


def provoke(one, handler):
    """Lets the error happen on a new connection; returns the client's port, or 0."""
    client = None
    try:
        client = one.connect(receive_buffer=1 << 16)
        client.send("bad")
        if handler in ("on_eof", "on_close"):
            client.finish()
        client.is_over()
        return client.address[1]
    except ConnectionError:
        assert handler == "on_connect"  # the reset may come before connect() has returned
        return 0
    finally:
        if client:
            client.close()


@pytest.mark.parametrize("handler", HANDLERS)
def test_an_error_in_a_handler_costs_its_connection_only(server, handler):
    one = server(HANDLERS[handler], "--workers", "1")
    if handler == "on_connect":
        provoke(one, handler)
    with one.connect() as bystander:
        assert bystander.ask("good") == b"good"
        if handler != "on_connect":
            check_logged_once(one, "mishap", 3, handler, provoke(one, handler))
        check_logged_once(one, "mishap", 3, handler)
        assert bystander.ask("good") == b"good"
        good(one)
    one.stop()
    assert len(one.log("mishap")) == 1


def test_an_error_on_a_connection_resets_it(server):
    one = server(HANDLERS["on_message"])
    with one.connect() as client:
        client.send("bad")
        assert client.is_reset()


@pytest.mark.parametrize("thing", [
    "{}", "nil", "42", "setmetatable({}, {__tostring = function() while true do end end})"])
def test_error_values_of_any_kind_are_survived(server, thing):
    one = server("return { on_message = function(conn, data) " + GOOD + f"error({thing}) end }}", "--callback-budget", "0.2")
    with one.connect() as client:
        client.send("bad")
        assert client.is_over()
    one.wait_log("in on_message of conn")
    good(one)


def test_an_error_after_a_sleep_is_the_connections(server):
    one = server("return { on_message = function(conn, data) " + GOOD + "portico.sleep(0.05)\n error('mishap') end }")
    with one.connect() as client:
        client.send("bad")
        assert client.is_over()
        check_logged_once(one, "mishap", 2, "on_message", client.address[1])
    good(one)


def test_an_error_in_a_timer_is_logged_and_ends_nothing(server):
    one = server("""portico.after(0.05, function()
      error("mishap") end)
      return { on_message = function(conn, data) return data end }""", "--workers", "1")
    check_logged_once(one, "mishap", 2, "portico.after")
    good(one)


def test_on_error_is_told_and_may_keep_the_connection(server):
    one = server(SAY + """
      return {
        on_message = function(conn, data)
          if data == "bad" then error("mishap") end
          conn:send(data)
        end,
        on_error = function(conn, err)
          say(conn.id == err.conn, err.callback, err.message:match(":4: mishap") ~= nil, err.traceback ~= nil)
          return "keep"
        end,
      }""")
    with one.connect() as client:
        client.send("bad")
        assert one.wait_said(1) == ["true on_message true true"]
        assert client.ask("good") == b"good"
    one.stop()
    assert len(one.log("mishap")) == 1


def test_an_error_in_on_error_is_logged_and_closes(server):
    one = server("""return {
      on_message = function(conn, data) """ + GOOD + """error("first") end,
      on_error = function(conn, err) error("second") end }""")
    with one.connect() as client:
        client.send("bad")
        assert client.is_over()
    one.wait_log("second")
    good(one)
    one.stop()
    assert len(one.log("first")) == 1 and len(one.log("second")) == 1


# ---- Stale connections ----

def test_a_stale_conn_gives_nil_closed_and_harms_nobody(server):
    one = server(SAY + """
      local kept
      return {
        on_message = function(conn, data)
          if data == "keep" then
            kept = conn
          else
            say(kept:send("x"))
            say(kept:recv(1))
            say(kept:close())
            say(kept:abort())
            say(kept:pause())
            say(kept:resume())
            say(kept:shutdown())
            say(kept:set{idle = 1})
            say(kept.peer, kept.addr, kept.stats, type(kept.id), tostring(kept):match("closed"))
            kept.state = {}
          end
        end,
        on_close = function(conn, reason) if conn == kept then say("gone") end end,
      }""", "--workers", "1")
    with one.connect() as client:
        client.send("keep")
        client.finish()
        client.rest()
    one.wait_said(1)
    with one.connect() as client:
        client.send("use")
        assert one.wait_said(10)[1:] == ["nil closed closed"] * 8 + ["nil nil nil number closed"]
        client.send("again")
        one.wait_said(19)


def test_a_conn_that_a_timer_keeps_goes_stale(server):
    one = server(SAY + """
      return {
        on_message = function(conn, data)
          portico.after(0.3, function() say("timer", conn:send("x")) end)
          say("set")
        end,
        on_close = function(conn, reason) say("closed") end,
      }""", "--workers", "1")
    with one.connect() as client:
        client.send("x")
        one.wait_said(1)
        client.reset()
    assert one.wait_said(3) == ["set", "closed", "timer nil closed closed"]


# ---- Memory ----

@pytest.mark.parametrize("body", [
    "local t = {} while true do t[#t + 1] = string.rep('x', 65536) end",
    "local s = 'x' while true do s = s .. s end",
    "local t = {} while true do t[#t + 1] = {} end",
    "string.rep('x', 1 << 40)",
    "pcall(function() local t = {} while true do t[#t + 1] = string.rep('x', 4096) end end) error('out of it')",
])
def test_the_memory_cap_ends_the_handler_and_not_the_process(server, body):
    one = server("return { on_message = function(conn, data) " + GOOD + body + " end }",
                 "--lua-memory", "4M", "--callback-budget", "20", "--workers", "1")
    with one.connect() as canary:
        for _ in range(3):
            with one.connect() as client:
                client.send("bad")
                assert client.is_over()
            assert canary.ask("good") == b"good"
    one.stop()
    assert len(one.log("in on_message of conn")) == 3, one.text()
    assert one.log("not enough memory|resulting string too large|out of it")


@pytest.mark.parametrize("through", ["coroutine.wrap(f)()", "portico.timeout(5, f)"])
def test_a_lack_of_memory_that_passes_through_coroutines_is_caught_once(server, through):
    one = server("""
      local function fill() return string.rep("x", 1000000000) end
      local function pass(f) return THROUGH end
      return { on_message = function(conn)
        local ok, message = pcall(pass, function() pass(function() pass(fill) end) end)
        conn:send(tostring(ok), " ", tostring(message))
      end }""".replace("THROUGH", through), "--lua-memory", "8M", "--workers", "1")
    with one.connect() as peer:
        wanted = b"false not enough memory"
        assert peer.send("x").take(len(wanted)) == wanted


def test_a_script_that_needs_more_memory_than_it_may_does_not_load(tmp_path):
    from rig import run
    path = tmp_path / "script.lua"
    path.write_text("local t = {} for i = 1, 1e7 do t[i] = {} end return {}", encoding="utf-8")
    result = run("--check", "--lua-memory", "2M", path)
    assert result.returncode == 3
    assert "memory" in result.stderr


# ---- Time ----

LOOPS = {
    "plain": "while true do end",
    "in pcall": "while true do pcall(function() while true do end end) end",
    "in xpcall with a looping handler": "xpcall(error, function() while true do end end)",
    "in a new coroutine": "coroutine.wrap(function() while true do end end)()",
    "in a coroutine made at load time": "coroutine.resume(loader)",
    "in a coroutine made at load time, in pcall": "while true do pcall(coroutine.resume, loaders()) end",
    "in sort": "table.sort({3, 2, 1}, function() while true do end end)",
    "in a metamethod": "local x = setmetatable({}, {__index = function() while true do end end}).y",
    "in gsub": "string.gsub('xxx', 'x', function() while true do end end)",
    "in a variable being closed": "local x <close> = setmetatable({}, {__close = function() while true do end end})",
    "of calls that catch their errors": "local function f() while true do pcall(f) end end f()",
}
@pytest.mark.budget
@pytest.mark.parametrize("loop", LOOPS)
def test_a_runaway_handler_is_ended_and_others_are_served(server, loop):
    one = server("""
      local loader = coroutine.create(function() while true do end end)
      local function loaders() return coroutine.create(function() while true do end end) end
      return { on_message = function(conn, data) """ + GOOD + LOOPS[loop] + """ end }""",
                 "--workers", "1", "--callback-budget", "0.1")
    with one.connect() as canary:
        assert canary.ask("good") == b"good"
        with one.connect() as client:
            client.send("bad")
            waited, own = one.time(lambda: canary.send("good").take(4))
            assert client.is_over()
        assert own < 1 * Settings.patience, f"the canary waited {waited:.1f} s, {own:.1f} s of them for the server"
        assert canary.ask("good") == b"good"
    one.wait_log(r"script\.lua:\d+: callback budget of 0\.1 s exceeded")
    one.wait_log("in on_message of conn")
    assert "stack traceback" in one.text()
    one.stop()
    assert len(one.log("in on_message of conn")) == 1, one.text()


def test_a_handler_that_waits_has_its_budget_anew(server):
    one = server("""
      local function work(seconds) local e = portico.monotonic() + seconds while portico.monotonic() < e do end end
      return { on_message = function(conn, data)
        for i = 1, 6 do work(0.1) portico.sleep(0) end
        conn:send("done")
      end }""", "--callback-budget", "0.3")
    with one.connect() as client:
        client.send("x")
        assert client.take(4) == b"done"


def test_a_budget_of_0_lets_a_handler_run(server):
    one = server("""
      return { on_message = function(conn, data)
        local e = portico.monotonic() + 0.5 while portico.monotonic() < e do end
        conn:send("done")
      end }""", "--callback-budget", "0")
    with one.connect() as client:
        client.send("x")
        assert client.take(4) == b"done"


@pytest.mark.budget
def test_a_runaway_timer_is_ended(server):
    one = server("""portico.after(0, function() while true do end end)
      return { on_message = function(conn, data) return data end }""", "--workers", "1", "--callback-budget", "0.1")
    one.wait_log("portico.after")
    good(one)


@pytest.mark.budget
def test_many_runaways_in_a_row_are_all_ended(server):
    one = server("return { on_message = function(conn, data) " + GOOD + "while true do end end }",
                 "--workers", "1", "--callback-budget", "0.02")
    for _ in range(10):
        with one.connect() as client:
            client.send("bad")
            assert client.is_over()
    good(one)
    one.stop()
    assert len(one.log("in on_message of conn")) == 10


def test_with_debug_the_log_says_how_each_connection_ended(server):
    one = server("""return { limits = { first_byte = 0.2 }, on_message = function(conn, data)
      if data == "bad" then error("mishap") end
      conn:close()
    end }""", "--log-level", "debug")
    for message, reason in (("", "timeout"), ("bad", "error"), ("x", "local")):
        with one.connect() as client:
            if message:
                client.send(message)
            assert one.wait_log(rf"conn \d+ \(127\.0\.0\.1:{client.socket.getsockname()[1]}\): closed: {reason}")


OBJECT = """
local Mishap = {}
Mishap.__index = Mishap
function Mishap:__tostring() %s end
%s
return {
  on_message = function(conn, data)
    if data == "good" then return data end
    error(setmetatable({ what = "too much", cause = "rain" }, Mishap))
  end,
  on_error = function(conn, err) %s end,
}"""


@pytest.mark.parametrize("body,text", [
    ("return self.what .. ' of ' .. self.cause", "too much of rain"),
    ("error('no')", "(error object is a table value)"),
    ("error(self)", "(error object is a table value)"),
    ("return {}", "(error object is a table value)"),
    ("portico.sleep(1) return 'slept'", "(error object is a table value)"),
    ("return ('x'):rep(1 << 30)", "(error object is a table value)"),
])
def test_an_error_object_says_what_it_is(server, body, text):
    one = server(SAY + OBJECT % (body, "", "say(err.message)"), "--workers", "1", "--lua-memory", "8M")
    with one.connect() as client:
        client.send("bad")
        assert client.is_over()
    assert one.wait_said(1) == [text]
    one.wait_log(re.escape(text) + r"\n?")
    good(one)
    one.stop()


def test_an_error_object_that_ends_the_load_says_what_it_is(tmp_path):
    script = tmp_path / "script.lua"
    script.write_text(OBJECT % ("return 'too much of ' .. self.cause", "error(setmetatable({ cause = 'rain' }, Mishap))", ""))
    one = run("--check", script)
    assert one.returncode == 3 and "too much of rain" in one.stderr, one.stderr
