"""on_stream: how it begins and ends, other handlers that read, the send queue, stopping, reloads."""

import re
import time

import pytest

from rig import SAY, SHOW, Settings, in_background, pattern, scaled, until

ONE = ("--workers", "1")


def said(one, count):
    return one.wait_said(count)


# ---- The life of a stream ----

def test_when_it_returns_the_connection_is_closed(server):
    one = server(SAY + """
      return {
        on_connect = function(c) say("connect") c:send("hello\\n") end,
        on_stream = function(c) say("stream") c:send(c:read("l"), "\\n") end,
        on_close = function(c, reason) say("close", reason) end,
      }""")
    with one.connect() as client:
        assert client.line() == b"hello\n"
        client.send("bye\nmore that nobody reads")
        assert client.rest() == b"bye\n"
        client.close()
    assert said(one, 3) == ["connect", "stream", "close local"]
    with one.connect() as client:
        assert client.finish().is_over()
    assert said(one, 6)[3:] == ["connect", "stream", "close error"]  # nil cannot be sent
    assert len(one.log("number expected|string expected")) == 1


def test_a_refused_connection_has_no_stream(server):
    one = server(SAY + """return { on_connect = function() return false end, on_stream = function() say("stream") end,
      on_close = function(c, reason) say("close", reason) end }""")
    with one.connect() as client:
        assert client.rest() == b""
        client.close()
    assert said(one, 1) == ["close local"]


def test_an_error_ends_it_whatever_on_error_says(server):
    one = server(SAY + """
      return {
        on_stream = function(c)
          c:read("l")
          error("mishap")
        end,
        on_error = function(c, err) say(err.callback, err.message, c.id) return "keep" end,
        on_close = function(c, reason) say("close", reason) end,
      }""")
    with one.connect() as client:
        client.send("x\n")
        assert client.is_over()
    lines = said(one, 2)
    assert re.match(r"on_stream .*script\.lua:\d+: mishap \d+$", lines[0])
    assert lines[1] == "close error"
    assert len(one.log("mishap")) == 2  # the event, and what on_error said


@pytest.mark.parametrize("way", [
    pytest.param("reset", marks=pytest.mark.no_wine("Wine tells a reader of a reset as of FIN")), "closed", "idle"])
def test_the_stream_hears_of_the_end_before_on_close(server, way):
    one = server(SHOW + """
      return {
        limits = { idle = arg[1] == "idle" and 0.2 or 0 },
        on_stream = function(c)
          if arg[1] == "closed" then portico.after(0.01, function() c:close() end) end
          show(c:read("l"))
          portico.sleep(0.05)
          show(c:read("l"))
          show(c:send("x"))
          show("over")
        end,
        on_close = function(c, reason) show(reason) end,
      }""", args=(way,))
    with one.connect() as client:
        client.send("half")
        if way == "reset":
            until(lambda: one.process.poll() is None, what="the server")
            client.reset()
        else:
            assert client.rest() == b""
            client.close()
    over = 'nil "connection reset" "reset"' if way == "reset" else 'nil "closed" "closed"'
    reason = {"reset": "reset", "closed": "local", "idle": "idle"}[way]
    assert said(one, 5) == [over, over, 'nil "closed" "closed"', '"over"', f'"{reason}"']


def test_after_fin_a_stream_can_still_answer(server):
    one = server("""return { on_stream = function(c)
      local all = c:read("a")
      portico.sleep(0.02)
      c:send(#all, " bytes")
    end }""")
    with one.connect() as client:
        client.send("x" * 1000).finish()
        assert client.rest() == b"1000 bytes"


def test_coroutines_of_the_scripts_own_may_read(server):
    one = server("""return { on_stream = function(c)
      local words = coroutine.wrap(function()
        for line in c:lines() do for word in line:gmatch("%a+") do coroutine.yield(word) end end
      end)
      for word in words do c:send(word, ".") end
    end }""")
    with one.connect() as client:
        client.send("one two\n\nthree\nfour").finish()
        assert client.rest() == b"one.two.three."


def test_lines_end_with_the_stream_and_a_line_without_end_is_none(server):
    one = server("""return { on_stream = function(c)
      for l in c:lines() do c:send("[", l, "]") end
      for l in c:lines("L") do c:send("never") end
      for l in c:lines(3) do c:send("never") end
      c:send("done")
    end }""")
    with one.connect() as client:
        client.send("a\nb\r\n\nc").finish()
        assert client.rest() == b"[a][b][]done"


# ---- Other places ----

def test_a_message_handler_may_read_on(server):
    one = server("""return { on_message = function(c, data)
      local count = tonumber(data)
      if not count then return data end
      c:send("go")
      local body = c:read(count, 5)
      c:send("<", body, ">")
    end }""")
    with one.connect() as client:
        assert client.ask("x") == b"x"
        client.send("5").take(2)
        client.send("abc").send("de")
        assert client.take(7) == b"<abcde>"
        assert client.ask("x") == b"x"


def test_bytes_that_a_handler_has_not_read_come_as_the_next_message(server):
    one = server(SAY + """return { on_message = function(c, data)
      if data ~= "x" then say(data) return end
      c:send("go")
      say(c:read(3))
    end }""")
    with one.connect() as client:
        client.send("x").take(2)
        client.send("abcdef")
        assert said(one, 2) == ["abc", "def"]


def test_a_timer_reads_from_an_outbound_connection(server):
    one = server("return { on_stream = function(c) c:send('welcome\\n') c:send(c:read('l'), '\\n') end }")
    two = server(SHOW + """
      portico.after(0, function()
        local c <close> = portico.connect(arg[1])
        show(c:read("l", 5))
        c:send("thanks\\n")
        show(c:read("l", 5))
        show(c:read("l", 5))
      end)
      return { listen = {} , on_message = function() end }""", *ONE, listen=(), args=(f"tcp://127.0.0.1:{one.port}",))
    assert said(two, 3) == ['"welcome"', '"thanks"', 'nil "eof" "eof"']


def test_an_outbound_connection_may_have_a_stream(server):
    one = server("return { on_stream = function(c) for l in c:lines() do c:send(l:upper(), '\\n') end end }")
    two = server(SHOW + """
      portico.after(0, function()
        portico.connect(arg[1], {
          on_stream = function(c)
            for word in ("one two three"):gmatch("%a+") do c:send(word, "\\n") show(c:read("l")) end
            c:shutdown()
            show(c:read("l"))
          end,
          on_close = function(c, reason) show(reason) end,
        })
      end)
      return { listen = {}, on_message = function() end }""", *ONE, listen=(), args=(f"tcp://127.0.0.1:{one.port}",))
    assert said(two, 5) == ['"ONE"', '"TWO"', '"THREE"', 'nil "eof" "eof"', '"eof"']


def test_two_cannot_read_at_once(server):
    one = server(SAY + """return { on_stream = function(c)
      portico.after(0, function()
        say(select(2, pcall(c.read, c)))
        say(c:read("l", 0))
        c:send("now")
      end)
      say(c:read("l"))
    end }""")
    with one.connect() as client:
        client.take(3)
        client.send("x\n")
        lines = said(one, 3)
        assert lines == ["conn:read: somebody else is reading this connection", "nil timeout timeout", "x"]


def test_what_one_waits_for_is_not_read_by_another(server):
    """Also when it is there already, for it would be missing in the middle of what the first one gets."""
    one = server(SAY + """return { on_stream = function(c)
      portico.spawn(function()
        while not c.stats or c.stats.received < 5 do portico.sleep(0.001) end
        say(select(2, pcall(c.read, c, 2)))
        say(select(2, pcall(c.read, c, 2, 0)))
        say(select(2, pcall(c.peek, c, 2)))
        c:pause()
        say(select(2, pcall(c.recv, c, 2)))
        c:send("now")
      end)
      say(c:read(8))
    end }""")
    with one.connect() as client:
        client.send("12345")
        client.take(3)
        client.send("678")
        taken = [f"conn:{name}: somebody else is reading this connection" for name in ("read", "read", "peek", "recv")]
        assert said(one, 5) == [*taken, "12345678"]


@pytest.mark.parametrize("mode", ["posted", "ready", "paused"])
def test_every_mode_can_be_read(server, mode):
    one = server("""return { on_stream = function(c)
      if arg[1] == "paused" then c:pause() else c:set{receive = arg[1]} end
      for l in c:lines() do c:send(l, "\\n") end
    end }""", args=(mode,))
    with one.connect() as client:
        for i in range(50):
            line = f"{i}" * (i * 20 + 1) + "\n"
            assert client.ask(line) == line.encode()
        client.finish().rest()


# ---- The send queue ----

def test_send_waits_for_a_slow_peer(server):
    """What a stream sends is never more ahead of its peer than the high mark and one piece."""
    blocks = scaled(128, 32)
    one = server(SAY + """
      local block, most = string.rep("x", 65536), 0
      return { limits = { send_high = 100000 }, on_stream = function(c)
        for i = 1, tonumber(arg[1]) do
          assert(c:send(block) == true)
          most = math.max(most, c.stats.queued)
        end
        say(most <= 100000, c:flush(30), c.stats.queued)
      end }""", args=(str(blocks),))
    with one.connect(receive_buffer=8192) as client:
        taken = 0
        while taken < blocks * 65536:
            taken += len(client.take(min(262144, blocks * 65536 - taken)))
        assert said(one, 1) == ["true true 0"]
        assert client.rest() == b""


def test_elsewhere_send_says_that_it_is_enough(server):
    one = server(SHOW + """
      local block = string.rep("x", 1 << 20)
      return { on_message = function(c)
        for i = 1, 8 do c:send(block) end
        show(c:send(block), c.stats.queued > 1 << 20)
        show(c:flush(0))
        show(c:flush(0.01))
        show(c:flush())
        show(c:flush(0))
      end }""")
    with one.connect(receive_buffer=8192) as client:
        client.send("go")
        nothing = 'nil "timeout" "timeout"'
        assert said(one, 3) == ["false true", nothing, nothing]
        client.take(9 << 20)
        assert said(one, 5)[3:] == ["true", "true"]


@pytest.mark.packets("both")
def test_who_waits_to_send_hears_of_the_end(server):
    if Settings.wine:
        pytest.skip("Wine 8 does not always end a pending send when the peer resets: then only the write timeout ends it")
    one = server(SHOW + """
      local block = string.rep("x", 1 << 20)
      return { on_stream = function(c)
        local ok, message, code
        repeat ok, message, code = c:send(block) until not ok
        show(ok, message, code) show(c:flush())
      end, on_close = function(c, reason) show(reason) end }""")
    with one.connect(receive_buffer=8192) as client:
        client.take(1 << 20)
        client.reset()
    reset = 'nil "connection reset" "reset"'
    assert said(one, 3) == [reset, reset, '"reset"']


@pytest.mark.packets("received")
def test_many_bytes_through_a_stream(server):
    total = scaled(64, 4) << 20
    one = server("""return { on_stream = function(c)
      local data = c:read(-65536)
      while data do c:send(data) data = c:read(-65536) end
    end }""")
    with one.connect() as client:
        step = 1 << 18

        def feed():
            for offset in range(0, total, step):
                client.send(pattern(5, offset, step))
            client.finish()

        work = in_background(feed)
        for offset in range(0, total, step):
            assert client.take(step) == pattern(5, offset, step)
        assert client.rest() == b""
        work.result()


# ---- Stopping ----

def test_a_stop_ends_who_waits_for_the_next_request(server):
    one = server(SHOW + """return {
        on_stream = function(c)
          for i = 1, 2 do
            local line, message, code = c:read("l")
            if not line then show(message, code) show(c:read(1)) return end
            c:send(line, "\\n")
          end
        end,
        on_close = function(c, reason) show(reason) end,
      }""")
    with one.connect() as idle, one.connect() as busy:
        assert idle.ask("x\n") == b"x\n"
        busy.send("one\ntw").take(4)
        started = time.monotonic()
        one.signal()
        assert idle.rest() == b""
        stopping = '"the server is stopping" "shutdown"'
        assert said(one, 3) == [stopping, "nil " + stopping, '"shutdown"']
        busy.send("o\n")  # half of it was there
        assert busy.rest() == b"two\n"
        idle.close()
        busy.close()
        one.check_end(0)
        assert time.monotonic() - started < 8 * Settings.patience


def test_a_stop_lets_a_body_come_whose_length_was_read(server):
    one = server("""return { on_stream = function(c)
      while true do
        local length = c:read(2)
        if not length then return end
        c:send(c:read(tonumber(length)))
      end
    end }""")
    with one.connect() as client, one.connect() as idle:
        client.send("03abc04")
        assert client.take(3) == b"abc"
        one.signal()
        assert idle.rest() == b""
        client.send("defg")
        assert client.rest() == b"defg"
        client.close()
        idle.close()
        one.check_end(0)


def test_a_stop_does_not_wait_for_ever(server):
    one = server("return { on_stream = function(c) c:read('l') c:send('never') end }", "--drain-timeout", "0.3")
    with one.connect() as client:
        client.send("half")
        one.wait_log("listening")
        until(lambda: one.process.poll() is None, what="the server")
        one.signal()
        assert client.is_over()
        one.wait_end()


# ---- Across generations ----

LINES = """return { on_stream = function(c)
  for l in c:lines() do
    if l == "reload" then portico.reload() end
    c:send("MARK:", l, "\\n")
  end
end }"""
MESSAGES = """return { on_message = function(c, data)
  if data == "reload\\n" then portico.reload() end
  return "MARK:" .. data
end }"""


def ask_line(client, line):
    return client.send(line + "\n").line().decode().rstrip("\n")


def save(one, text):
    (one.directory / "script.lua").write_text(text, encoding="utf-8")


@pytest.mark.packets("received")
def test_a_stream_begins_on_connections_that_had_none(server):
    one = server(MESSAGES.replace("MARK", "a"), *ONE)
    with one.connect() as client, one.connect() as silent:
        assert ask_line(client, "x") == "a:x"
        assert ask_line(silent, "x") == "a:x"
        save(one, LINES.replace("MARK", "b").replace("for l in", 'c:send("hello\\n") for l in'))
        assert ask_line(client, "reload") == "a:reload"
        assert silent.line() == b"hello\n"
        assert client.line() == b"hello\n"
        assert ask_line(client, "x") == "b:x"
        assert ask_line(silent, "x") == "b:x"


def test_a_stream_that_waits_for_too_long_is_ended_and_the_new_one_reads_on(server):
    one = server(LINES.replace("MARK", "a"), *ONE, "--reload-deadline", "0.3", "--reload-probation", "0.1")
    with one.connect() as client:
        assert ask_line(client, "x") == "a:x"
        save(one, LINES.replace("MARK", "b"))
        client.send("reload\nhal")
        assert client.line() == b"a:reload\n"
        assert ask_line(client, "f") == "a:half"  # the old one goes on until the deadline
        client.send("ano")
        one.wait_log("a handler that still waits is ended")
        assert ask_line(client, "ther") == "b:another"
