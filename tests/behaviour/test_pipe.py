"""conn:pipe: bytes pass from one connection to another without the script."""

import re
import socket

import pytest

from rig import SAY, Client, Settings, in_background, pattern, scaled

PROXY = SAY + """
local function name(v) return type(v) == "userdata" and "conn" or tostring(v) end
return {
  on_stream = function(c)
    local up <close> = assert(portico.connect(arg[1]))
    local function tell(...)
      local t = table.pack(...)
      for i = 1, t.n do t[i] = t[i] == c and "client" or t[i] == up and "upstream" or name(t[i]) end
      say(table.concat(t, "|"))
    end
    tell(c:pipe(up, {both = true}))
  end,
  on_close = function(c, reason) say("close", reason) end,
}
"""


class Upstream:
    """A plain listener; take() accepts one connection."""

    def __init__(self):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(16)
        self.listener.settimeout(10 * Settings.patience)
        self.uri = f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"

    def take(self):
        one = Client.__new__(Client)
        one.seconds = 30
        one.socket, one.address = self.listener.accept()
        one.socket.settimeout(one.seconds * Settings.patience)
        return one

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.listener.close()


@pytest.fixture
def upstream():
    with Upstream() as one:
        yield one


def feed(client, key, total):
    step = 1 << 18
    for offset in range(0, total, step):
        client.send(pattern(key, offset, min(step, total - offset)))
    client.finish()


def drink(client, key, total, step=1 << 18):
    for offset in range(0, total, step):
        assert client.take(min(step, total - offset)) == pattern(key, offset, min(step, total - offset))
    assert client.rest() == b""


@pytest.mark.packets("received")
def test_many_bytes_both_ways_at_once(server, upstream):
    there, back = scaled(64, 4) << 20, scaled(24, 2) << 20
    one = server(PROXY, args=(upstream.uri,))
    with one.connect(receive_buffer=16384) as client, upstream.take() as far:
        works = [in_background(feed, client, 1, there), in_background(feed, far, 2, back),
                 in_background(drink, far, 1, there), in_background(drink, client, 2, back, 8192)]
        for work in works:
            work.result(60)
    assert one.wait_said(2) == [f"{there}|{back}", "close eof"]


@pytest.mark.parametrize("first", ["client", "upstream"])
def test_each_side_may_end_first_and_still_be_answered(server, upstream, first):
    one = server(PROXY, args=(upstream.uri,))
    with one.connect() as client, upstream.take() as far:
        a, b = (client, far) if first == "client" else (far, client)
        a.send("question").finish()
        assert b.rest() == b"question"
        b.send("answer")
        assert a.take(6) == b"answer"
        b.send("more").finish()
        assert a.rest() == b"more"
    counts = "8|10" if first == "client" else "10|8"
    assert one.wait_said(2) == [counts, "close eof"]


@pytest.mark.parametrize("first", ["client", "upstream"])
def test_who_has_failed_is_told(server, upstream, first):
    one = server(PROXY, args=(upstream.uri,))
    with one.connect() as client, upstream.take() as far:
        client.send("abc")
        assert far.take(3) == b"abc"
        far.send("de")
        assert client.take(2) == b"de"
        (client if first == "client" else far).reset()
        (far if first == "client" else client).is_over()
    lines = one.wait_said(2)
    assert re.fullmatch(rf"nil\|conn \d+ \(127.0.0.1:\d+\): connection reset\|reset\|{first}\|3\|2", lines[0]), lines
    assert lines[1] == ("close reset" if first == "client" else "close local")


@pytest.mark.packets("received")
def test_a_reader_that_does_not_read_stops_the_sender(server, upstream):
    """What is queued stays below the high mark and one receive, however much is sent."""
    one = server(SAY + """
      return { on_stream = function(c)
        local up <close> = portico.connect(arg[1])
        local most, received, still = 0, 0, 0
        local timer <close> = portico.every(0.001, function()
          local queued, now = up.stats.queued, c.stats.received
          most = math.max(most, queued)
          if still < 200 then -- the kernel may take some of what is above the mark at once: what is seen is that nothing moves
            still = queued > 0 and now == received and still + 1 or 0
            received = now
            if still == 200 then say("stopped") end
          end
        end)
        local bytes = c:pipe(up)
        say(bytes, most <= 65536 + 16448)
      end }""", args=(upstream.uri,))
    total = scaled(64, 16) << 20
    with one.connect() as client, upstream.take() as far:
        work = in_background(feed, client, 3, total)
        one.wait_said(1)
        drink(far, 3, total, 65536)
        work.result(60)
    assert one.wait_said(2) == ["stopped", f"{total} true"]


def test_so_many_bytes_and_then_something_else(server, upstream):
    one = server(SAY + """
      return { on_stream = function(c)
        local up <close> = portico.connect(arg[1])
        for _ = 1, 2 do
          local length = tonumber(c:read("l"))
          up:send(length, "\\n")
          say(c:pipe(up, {count = length}))
        end
        say(c:read("l"))
        say(select(3, c:pipe(up, {count = 10})))
      end }""", *("--workers", "1"), args=(upstream.uri,))
    with one.connect() as client, upstream.take() as far:
        client.send("5\nhello0\nline\nabc").finish()
        assert far.rest() == b"5\nhello0\nabc"
        assert client.rest() == b""
    lines = one.wait_said(4)
    assert lines[:3] == ["5", "0", "line"]
    assert re.fullmatch(r"eof conn \d+ \(.*\) 3", lines[3])


def test_an_echo_without_the_script(server):
    one = server("return { on_stream = function(c) c:pipe(c) end }")
    with one.connect() as client:
        work = in_background(feed, client, 4, 1 << 22)
        drink(client, 4, 1 << 22)
        work.result()


@pytest.mark.packets("received")
def test_what_was_received_already_goes_first(server, upstream):
    one = server("""return { on_message = function(c, first)
      local up <close> = portico.connect(arg[1])
      up:send(first)
      c:unread("!")
      c:pipe(up, {both = true})
    end }""", args=(upstream.uri,))
    with one.connect() as client:
        client.send("first")
        with upstream.take() as far:
            assert far.take(6) == b"first!"
            client.send("second").finish()
            assert far.rest() == b"second"
            far.send("back").finish()
            assert client.rest() == b"back"


def test_a_deadline_ends_it_and_leaves_the_connections(server, upstream):
    one = server(SAY + """return { on_stream = function(c)
      local up <close> = portico.connect(arg[1])
      say(portico.timeout(0.1, function() return c:pipe(up, {both = true}) end))
      c:send(c:read("l"), "\\n")
      up:send("bye")
    end }""", args=(upstream.uri,))
    with one.connect() as client, upstream.take() as far:
        client.send("abc")
        assert far.take(3) == b"abc"
        assert one.wait_said(1) == ["nil timeout timeout"]
        assert client.ask("line\n") == b"line\n"
        assert client.rest() == b""
        assert far.rest() == b"bye"


def test_a_stop_waits_for_it(server, upstream):
    one = server(PROXY, args=(upstream.uri,))
    with one.connect() as client, upstream.take() as far:
        client.send("abc")
        assert far.take(3) == b"abc"
        one.signal()
        one.wait_log("stopping")
        client.send("def").finish()
        assert far.rest() == b"def"
        far.finish()
        assert client.rest() == b""
        client.close()
        far.close()
        one.check_end(0)


def test_a_stop_waits_for_one_that_goes_one_way(server, upstream):
    """Nobody reads from its target meanwhile."""
    one = server(SAY + """return { on_stream = function(c)
      local up <close> = portico.connect(arg[1])
      say(c:pipe(up, {count = 6}))
      say(up:read("l"))
      c:send("stored")
    end }""", args=(upstream.uri,))
    with one.connect() as client, upstream.take() as far:
        client.send("abc")
        assert far.take(3) == b"abc"
        one.signal()
        one.wait_log("stopping")
        far.silent()
        client.send("def")
        assert far.take(3) == b"def"
        far.send("ok\n")
        assert client.rest() == b"stored"
        assert far.rest() == b""
        client.close()
        far.close()
        one.check_end(0)
    assert one.said() == ["6", "ok"]


WRONG = {
    "c:pipe()": "conn expected, got no value",
    "c:pipe(5)": "conn expected, got number",
    "c:pipe(c, {both = true})": "another connection expected",
    "c:pipe(c, 5)": "table expected, got number",
    "c:pipe(c, {both = 1})": "both: boolean expected, got 1",
    "c:pipe(c, {count = -1})": "count: bytes, a whole number from 0, expected, got -1",
    "c:pipe(c, {count = 1.5})": "count: bytes, a whole number from 0, expected, got 1.5",
    "c:pipe(c, {5})": "the key 1 is no name: name = value expected",
    "c:pipe(c, {bot = true})": "unknown option 'bot': did you mean 'both'?",
    "c:pipe(c, {both = true, count = 1})": "count is for one way, and both are asked for",
    "table.sort({1, 2}, function() c:pipe(c) end)": "conn:pipe cannot wait here",
}


def test_wrong_arguments_say_what_is_wrong(server):
    calls = "\n".join(f"say(select(2, pcall(function() return {call} end)))" for call in WRONG)
    one = server(SAY + "return { on_stream = function(c)\n" + calls + "\nend }")
    with one.connect() as client:
        lines = one.wait_said(len(WRONG))
        client.rest()
    for call, line in zip(WRONG, lines):
        assert WRONG[call] in line, f"{call}: {line}"


def test_connections_that_are_over(server):
    one = server(SAY + """
      local old
      return { on_stream = function(c)
        if not old then old = c c:close() return end
        say(c:pipe(old))
        say(old:pipe(c))
        portico.after(0, function() say(select(2, pcall(c.pipe, c, c))) c:send("go") end)
        c:read("l")
      end }""", "--workers", "1")
    with one.connect() as client:
        client.rest()
    with one.connect() as client:
        client.take(2)
        client.finish().rest()
    lines = one.wait_said(3)
    for line in lines[:2]:
        assert re.fullmatch(r"nil conn 1 \(.*\): closed closed conn 1 \(.*\) 0", line), line
    assert lines[2] == "conn:pipe: somebody else is reading this connection"
