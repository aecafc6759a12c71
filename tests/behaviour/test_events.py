"""The order of callbacks, and how each end of a connection is told apart."""

import pytest

from rig import SAY, Settings, dawdle, scaled

# Says each event with the connection's number in order of its on_connect.
WATCH = SAY + """
local number = 0
local handlers
handlers = {
  on_connect = function(conn) number = number + 1 conn.state.n = number say(number, "connect") end,
  on_message = function(conn, data) say(conn.state.n, "message", data) end,
  on_close = function(conn, reason) say(conn.state.n, "close", reason) end,
}
"""


def test_events_of_a_connection_come_in_order(server):
    one = server(WATCH + "return handlers", "--workers", "1")
    with one.connect() as client:
        one.wait_said(1)
        client.send("a")
        one.wait_said(2)
        client.send("b")
        one.wait_said(3)
    one.wait_said(4)
    one.stop()
    assert one.said() == ["1 connect", "1 message a", "1 message b", "1 close eof"]


@pytest.mark.parametrize("value,sent", [("5", b"5"), ("2.5", b"2.5"), ("'s'", b"s"), ("nil", b""), ("true", b""), ("false", b"")])
def test_what_a_handler_returns_is_sent(server, value, sent):
    one = server(f"return {{ frame = 'line', on_message = function() return {value} end }}")
    with one.connect() as client:
        assert client.send("x\n").finish().rest() == (sent + b"\n" if sent else b"")
    one.stop()
    assert not one.log("warn"), one.text()


@pytest.mark.parametrize("value,name", [("{}", "table"), ("print", "function"), ("conn", "userdata")])
@pytest.mark.parametrize("frame", ["raw", "line"])
def test_what_cannot_be_sent_is_told(server, frame, value, name):
    one = server(f"""return {{ frame = "{frame}",

      on_message = function(conn) return {value} end }}""")
    with one.connect() as client:
        assert client.send("x\n").finish().rest() == b""
    one.wait_log(rf"script\.lua:3: on_message returned a {name}, which is not sent: a string or a number is")
    one.stop()
    assert not one.log("error"), one.text()


def test_handlers_may_be_globals(server):
    one = server(SAY + """
      function on_connect(conn) say("connect") end
      function on_message(conn, data) conn:send(data) end
      function on_close(conn, reason) say("close", reason) end""")
    with one.connect() as client:
        assert client.ask("x") == b"x"
    assert one.wait_said(2) == ["connect", "close eof"]


def test_the_shortest_time_is_not_none(server):
    """0 would be no limit."""
    one = server("return { limits = { idle = 1e-10 }, on_message = function(conn, data) return data end }", "--log-level", "debug")
    with one.connect():
        assert one.wait_log(r"closed: idle")


def test_settings_that_are_globals_are_warned_of(server):
    one = server("limits = { idle = 5 }\nversion = 'mine'\nfunction on_message(conn, data) return data end", "--workers", "2")
    with one.connect() as client:
        assert client.ask("x") == b"x"
    for name in ("limits", "version"):
        assert len(one.wait_log(f"warn .*script.lua: '{name}' is a global, where no setting is looked for")) == 1
    table = server("limits = { idle = 5 }\nreturn { on_message = function(conn, data) return data end }")
    with table.connect() as client:
        assert client.ask("x") == b"x"
    assert not table.log("is a global")


# ---- Why it ended ----

def reason_of(one, act, connected=1):
    """What on_close says after act(client)."""
    client = one.connect()
    one.wait_said(connected)
    act(client)
    said = one.wait_said(connected + 1)
    client.close()
    one.stop()
    assert one.said() == said, "on_close was not the last event"
    assert [line for line in said if " close " in line] == said[-1:]
    return said[-1].split(" close ")[1]


def test_the_peers_end_of_stream_is_eof(server):
    assert reason_of(server(WATCH + "return handlers"), lambda client: client.finish()) == "eof"


def test_a_reset_is_reset(server):
    one = server(WATCH + "return handlers")

    def act(client):
        if Settings.wine:
            dawdle(0.3, "Wine tells a reset from an end of stream only to a receive that is pending by then")
        client.reset()

    assert reason_of(one, act) == "reset"


@pytest.mark.parametrize("way", ["close", "abort"])
def test_what_the_script_ends_is_local(server, way):
    script = WATCH + f"handlers.on_message = function(conn) conn:{way}() end return handlers"
    one = server(script)

    def act(client):
        client.send("x")
        assert client.is_over()
        client.close()

    assert reason_of(one, act) == "local"


def test_a_connection_on_which_nothing_moves_is_idle(server):
    one = server(WATCH + "return handlers", "--idle-timeout", "0.3")
    assert reason_of(one, lambda client: client.is_over()) == "idle"


def test_a_connection_on_which_something_moves_is_not_idle(server):
    one = server(WATCH + "handlers.on_message = function(conn, data) conn:send(data) end return handlers",
                 "--idle-timeout", "0.4", "--workers", "1")
    with one.connect() as client:
        for _ in range(8):
            assert client.silent(0.1)
            assert client.ask("x") == b"x"
        assert one.said() == ["1 connect"]
        assert client.is_over()
    assert one.wait_said(2)[1] == "1 close idle"


def test_a_peer_that_says_nothing_at_first_is_timeout(server):
    one = server(WATCH + "return handlers", "--first-byte-timeout", "0.3")
    assert reason_of(one, lambda client: client.is_over()) == "timeout"


def test_a_peer_that_has_said_something_may_be_silent(server):
    one = server(WATCH + "handlers.on_message = function(conn, data) conn:send(data) end return handlers",
                 "--first-byte-timeout", "1")
    with one.connect() as client:
        assert client.ask("x") == b"x"
        assert client.silent(1.2)
        assert client.ask("y") == b"y"


def test_a_peer_that_takes_nothing_is_timeout(server):
    one = server(WATCH + """
      handlers.on_message = function(conn, data)
        conn:set{send_max = 1 << 28}
        local chunk = string.rep("x", 1 << 20)
        for _ = 1, 32 do conn:send(chunk) end
      end
      return handlers""", "--write-timeout", "0.5")
    with one.connect(receive_buffer=1 << 16) as client:
        client.send("x")
        assert one.wait_said(2)[1] == "1 close timeout"


def test_a_peer_that_takes_slowly_is_served(server):
    one = server(WATCH + """
      handlers.on_message = function(conn, data)
        conn:set{send_max = 1 << 28}
        local chunk = string.rep("x", 1 << 20)
        for _ = 1, 8 do conn:send(chunk) end
      end
      return handlers""", "--write-timeout", "1.5")
    with one.connect(receive_buffer=1 << 16) as client:
        client.send("x")
        taken = 0
        for _ in range(16):
            taken += len(client.take(400_000))
            dawdle(0.1, "the peer is slow")
        client.take((8 << 20) - taken)
        client.finish()
        assert client.rest() == b""
    assert one.wait_said(2)[1] == "1 close eof"


def test_more_queued_than_allowed_is_overflow(server):
    one = server(WATCH + """
      handlers.on_message = function(conn, data)
        conn:set{send_high = 1000, send_max = 100000}
        local chunk, turns = string.rep("x", 50000), 0
        local ok, message, code
        repeat
          ok, message, code = conn:send(chunk)
          turns = turns + 1
        until ok == nil
        say(message, code, turns > 1)
      end
      handlers.on_close = function(conn, reason, err) say(conn.id, "close", reason, err) end
      return handlers""", "--workers", "1")
    with one.connect(receive_buffer=1 << 16) as client:
        client.send("x")
        assert one.wait_said(3) == ["1 connect", "overflow overflow true", "1 close overflow nil"]
        assert client.is_over()


def test_an_error_in_a_handler_is_error(server):
    one = server(WATCH + "handlers.on_message = function() error('no') end return handlers")

    def act(client):
        client.send("x")
        assert client.is_reset()
        client.close()

    assert reason_of(one, act) == "error"


def test_a_stop_of_the_server_is_shutdown(server):
    one = server(WATCH + "return handlers")
    with one.connect() as client:
        one.wait_said(1)
        one.signal()
        assert client.rest() == b""
        client.close()
        one.check_end(0)
    assert one.said() == ["1 connect", "1 close shutdown"]


def test_on_close_comes_once_whatever_the_script_does(server):
    one = server(WATCH + """
      handlers.on_message = function(conn) conn:close() conn:abort() conn:close() conn:shutdown() error("and this") end
      handlers.on_close = function(conn, reason) conn:close() conn:abort() say("close") end
      return handlers""")
    for number in range(1, 6):
        with one.connect() as client:
            client.send("x")
            assert client.is_over()
            one.wait_said(2 * number)
    one.stop()
    assert len([line for line in one.said() if line == "close"]) == 5
    assert len(one.said()) == 10


# ---- Refusing ----

def test_on_connect_that_returns_false_refuses(server):
    one = server(WATCH + """
      handlers.on_connect = function(conn) conn.state.n = 1 say("1 connect") return false end
      return handlers""")
    with one.connect() as client:
        client.send("hello")
        assert client.is_over()
    one.wait_log("close")
    one.stop()
    assert one.said() == ["1 connect", "1 close local"]


@pytest.mark.parametrize("value", ["nil", "0", "'no'", "true"])
def test_on_connect_that_returns_anything_else_accepts(server, value):
    one = server(f"return {{ on_connect = function() return {value} end, on_message = function(_, d) return d end }}")
    with one.connect() as client:
        assert client.ask("x") == b"x"


# ---- One at a time ----

def test_callbacks_of_a_connection_never_overlap_and_keep_byte_order(server):
    one = server("""
      return { on_message = function(conn, data)
        assert(not conn.state.inside, "two handlers of one connection at a time")
        conn.state.inside = true
        portico.sleep(0.001 * (#data % 3))
        conn:send(data)
        portico.sleep(0)
        conn.state.inside = false
      end }""", "--workers", "1")
    clients = [one.connect() for _ in range(4)]
    messages = [b"%d;" % number for number in range(scaled(150, 30))]
    for message in messages:
        for client in clients:
            client.send(message)
        dawdle(0.001, "they are to come in many pieces")
    for client in clients:
        client.finish()
        assert client.rest() == b"".join(messages)
        client.close()
    one.stop()
    assert not one.log(r"\berror\b")


@pytest.mark.packets("received")
def test_what_comes_while_on_connect_sleeps_waits_for_it(server):
    one = server(SAY + """
      return {
        on_connect = function(conn) portico.sleep(0.3) say("connected") end,
        on_message = function(conn, data) say("message", data) end,
        on_close = function(conn, reason) say("close", reason) end,
      }""")
    with one.connect() as client:
        client.send("early")
    assert one.wait_said(3) == ["connected", "message early", "close eof"]


def test_on_close_waits_for_a_handler_that_sleeps(server):
    one = server(SAY + """
      return {
        on_message = function(conn, data) say("begin") portico.sleep(0.3) say("end", conn:send("x")) end,
        on_close = function(conn, reason) say("close", reason) end,
      }""")
    with one.connect() as client:
        client.send("x")
        one.wait_said(1)
        client.reset()
    said = one.wait_said(3)
    assert said[0] == "begin" and said[1].startswith("end ") and said[2].startswith("close ")


@pytest.mark.packets("received")
def test_other_connections_are_served_while_a_handler_sleeps(server):
    """It sleeps until they have been, however long that takes here."""
    one = server("""
      local served = 0
      return { on_message = function(conn, data)
        if data == "sleep" then
          while served < 20 do portico.sleep(0.05) end
        else
          served = served + 1
        end
        conn:send(data)
      end }""", "--workers", "1")
    with one.connect() as sleeper, one.connect() as other:
        sleeper.send("sleep")
        assert sleeper.silent(0.1)
        for _ in range(20):
            assert other.ask("x") == b"x"
        assert sleeper.take(5) == b"sleep"


# ---- Half-close ----

def test_without_on_eof_what_is_queued_is_flushed_and_closed(server):
    one = server(WATCH + """
      handlers.on_message = function(conn, data) if not conn.state.sent then conn.state.sent = true
        conn:set{send_max = 1 << 26} conn:send(string.rep("x", 4 << 20)) end end
      return handlers""")
    with one.connect() as client:
        client.send("x").finish()
        assert len(client.rest()) == 4 << 20
    assert one.wait_said(2) == ["1 connect", "1 close eof"]


def test_with_on_eof_the_connection_stays_open_for_sending(server):
    one = server(SAY + """
      return {
        on_message = function(conn, data) say("message", data) end,
        on_eof = function(conn)
          say("eof")
          for i = 1, 3 do conn:send("part " .. i .. "\\n") portico.sleep(0.05) end
          conn:close()
        end,
        on_close = function(conn, reason) say("close", reason) end,
      }""")
    with one.connect() as client:
        client.send("x").finish()
        assert client.rest() == b"part 1\npart 2\npart 3\n"
    assert one.wait_said(3) == ["message x", "eof", "close local"]


@pytest.mark.packets("received")
def test_the_script_may_finish_first_and_go_on_receiving(server):
    one = server(SAY + """
      return {
        on_connect = function(conn) conn:send("bye") conn:shutdown() say(conn:send("more")) end,
        on_message = function(conn, data) say("message", data) end,
        on_close = function(conn, reason) say("close", reason) end,
      }""")
    with one.connect() as client:
        assert client.rest() == b"bye"
        client.send("still here")
        assert one.wait_said(2) == ["nil closed closed", "message still here"]
    assert one.wait_said(3)[2] == "close eof"


# ---- Back-pressure ----

def test_on_drain_comes_when_the_queue_has_gone_down(server):
    one = server(SAY + """
      local chunk = string.rep("x", 100000)
      return {
        on_message = function(conn)
          conn:set{send_max = 1 << 28}
          local below = true
          local count = 0
          while below or count < 100 do below = conn:send(chunk) count = count + 1 end
          say("high", below, count)
        end,
        on_drain = function(conn) say("drain", conn.stats.queued <= 65536) conn:send("end") conn:close() end,
      }""")
    with one.connect(receive_buffer=1 << 16) as client:
        client.send("x")
        count = int(one.wait_said(1)[0].split()[2])
        assert one.said() == [f"high false {count}"]
        data = client.rest()
        assert len(data) == count * 100000 + 3 and data.endswith(b"xend")
    assert one.wait_said(2)[1] == "drain true"


@pytest.mark.packets("received")
def test_while_the_queue_is_high_nothing_is_read(server):
    one = server(SAY + """
      local chunk = string.rep("x", 1 << 20)
      return {
        on_message = function(conn, data)
          conn:set{send_max = 1 << 28}
          if data == "flood" then for _ = 1, 16 do conn:send(chunk) end end
          say(data)
        end,
      }""")
    with one.connect(receive_buffer=1 << 16) as client:
        client.send("flood")
        one.wait_said(1)
        client.send("second")
        assert one.said() == ["flood"]
        client.take(1 << 20)
        assert len(one.said()) == 1
        client.take(15 << 20)
        assert one.wait_said(2)[1] == "second"
