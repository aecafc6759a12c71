"""What a script can call: conn and portico."""

import re
import socket
import time

import pytest

from rig import SAY, free_port

MODES = {
    "lent": "return { on_message = function(conn, data) conn:send(data) end }",
    "posted": """return {
      on_connect = function(conn) assert(conn:set{receive = "posted"}) end,
      on_message = function(conn, data) conn:send(data) end }""",
    "ready": """return { on_readable = function(conn)
      local data = conn:recv(4096)
      if data then conn:send(data) end
    end }""",
    "ready, drawn bit by bit": """return { on_readable = function(conn)
      local data = conn:recv(3)
      while data do conn:send(data) data = conn:recv(3) end
    end }""",
    "ready, one draw a time": """return { on_readable = function(conn)
      local data = conn:recv(1)
      if data then conn:send(data) end
    end }""",
    "returned": "return { on_message = function(conn, data) return data end }",
}


@pytest.mark.parametrize("mode", MODES)
def test_every_way_to_receive_echoes(server, mode):
    one = server(MODES[mode])
    with one.connect() as client:
        for size in (1, 2, 3, 100, 5000):
            data = bytes(n % 251 for n in range(size))
            assert client.ask(data) == data
        client.send("last").finish()
        assert client.rest() == b"last"


def test_the_way_to_receive_can_be_changed_while_it_runs(server):
    one = server("""
      return { on_message = function(conn, data)
        conn:send(data)
        assert(conn:set{receive = data:find("p") and "posted" or "lent"})
      end }""")
    with one.connect() as client:
        for message in ("a", "p", "b", "pp", "p2", "c", "p3"):
            assert client.ask(message) == message.encode()


# ---- conn ----

ENDS = """return { on_connect = function(conn)
  conn:send(table.concat({conn.peer, conn.addr, conn.listener}, " "), "\\n")
end }"""


def test_conn_knows_both_ends_and_its_listener(server):
    one = server(ENDS)
    with one.connect() as client:
        peer, address, listener = client.line().decode().split()
        assert peer == f"127.0.0.1:{client.address[1]}"
        assert address == f"127.0.0.1:{one.port}"
        assert listener == f"tcp://127.0.0.1:{one.port}"


def test_conn_over_ipv6(server, ipv6):
    one = server(ENDS, listen=("tcp://[::1]:0",))
    with one.connect() as client:
        assert client.line().decode().split() == [
            f"[::1]:{client.address[1]}", f"[::1]:{one.port}", f"tcp://[::1]:{one.port}"]


def test_state_belongs_to_the_connection(server):
    one = server("""return { on_message = function(conn, data)
      conn.state.count = (conn.state.count or 0) + 1
      conn:send(conn.state.count .. "\\n")
    end }""", "--workers", "1")
    with one.connect() as first, one.connect() as second:
        for expected in (b"1\n", b"2\n", b"3\n"):
            first.send("x")
            assert first.line() == expected
        second.send("x")
        assert second.line() == b"1\n"


@pytest.mark.packets("received")
def test_stats_count_bytes(server):
    one = server("""return { on_message = function(conn, data)
      local s = conn.stats
      conn:send(("%d %d %d %d %.3f\\n"):format(s.received, s.sent, s.messages, s.queued, s.opened))
    end }""")
    with one.connect() as client:
        client.send("12345")
        received, sent, messages, queued, opened = client.line().split()
        assert (received, sent, messages, queued) == (b"5", b"0", b"1", b"0")
        assert abs(float(opened) - time.time()) < 60
        client.send("678")
        assert client.line().split()[0] == b"8"


def test_send_takes_several_values_and_numbers(server):
    one = server("return { on_connect = function(c) c:send('a', 1, 2.5, '', 'b\\0c') c:close() end }")
    with one.connect() as client:
        assert client.rest() == b"a12.5b\0c"


@pytest.mark.parametrize("misuse, complaint", [
    ("conn:send({})", "string expected, got table"),
    ("conn:send(nil)", "string expected, got nil"),
    ("conn.send('x')", "conn"),
    ("conn:recv(0)", "above 0"),
    ("conn:sned('x')", "sned"),
    ("conn:set{idel = 1}", "did you mean 'idle'"),
    ("conn:set{idle = -1}", "idle"),
    ("conn:set{idle = 0/0}", "idle"),
    ("conn:set(5)", "table expected"),
    ("conn:shutdown('r')", "invalid option"),
    ("conn.peer = 5", "peer"),
    ("portico.sleep(-1)", "seconds"),
    ("portico.sleep(0/0)", "seconds"),
    ("portico.sleep('x')", "number expected"),
    ("portico.after(1)", "function expected"),
    ("portico.every(0, print)", "0.001"),
    ("portico.connect(5 .. '', {timeot = 1})", "did you mean 'timeout'"),
])
def test_misuse_raises_and_says_what_is_wrong(server, misuse, complaint):
    one = server(SAY + """
      return { on_message = function(conn, data)
        local ok, message = pcall(function() """ + misuse + """ end)
        say(ok, message)
        conn:send("fine")
      end }""")
    with one.connect() as client:
        client.send("x")
        assert client.take(4) == b"fine"
    said = one.wait_said(1)[0]
    assert said.startswith("false ") and complaint in said, said


@pytest.mark.packets("received")
def test_pause_and_resume(server):
    one = server(SAY + """
      return { on_message = function(conn, data)
        say(data)
        if data == "stop" then
          conn:pause()
          portico.after(0.4, function() say("resumed") conn:resume() end)
        end
      end }""")
    with one.connect() as client:
        client.send("stop")
        one.wait_said(1)
        client.send("more")
        assert one.wait_said(3) == ["stop", "resumed", "more"]


@pytest.mark.packets("received")
def test_a_paused_connection_can_be_drawn_from(server):
    one = server(SAY + """
      return { on_connect = function(conn)
        conn:pause()
        portico.after(0.3, function() say(conn:recv(3)) say(conn:recv(10)) say(conn:recv(10)) conn:close() end)
      end }""")
    with one.connect() as client:
        client.send("abcdef")
        assert one.wait_said(3) == ["abc", "def", "nil again again"]
        assert client.is_over()


@pytest.mark.packets("received")
def test_close_flushes_and_abort_does_not_wait(server):
    one = server("""return { on_message = function(conn, data)
      if data == "close" then conn:send(string.rep("x", 1 << 20)) conn:close() else conn:abort() end
    end }""")
    with one.connect() as client:
        client.send("close")
        assert len(client.rest()) == 1 << 20
    with one.connect() as client:
        client.send("abort")
        assert client.is_reset()


def test_set_idle_of_one_connection(server):
    one = server(SAY + """
      return {
        on_message = function(conn, data) conn:set{idle = 0.3} end,
        on_close = function(conn, reason) say(reason) end,
      }""", "--workers", "1")
    with one.connect() as other, one.connect() as client:
        client.send("x")
        assert client.is_over()
        assert one.wait_said(1) == ["idle"]
        assert other.silent(0.2)


def test_options_of_the_socket_can_be_set(server):
    one = server("""return { on_message = function(conn, data)
      assert(conn:set{nodelay = true, keepalive = 30})
      assert(conn:set{nodelay = false, keepalive = false})
      conn:send("ok")
    end }""")
    with one.connect() as client:
        client.send("x")
        assert client.take(2) == b"ok"


def test_limits_of_the_script_hold_and_the_command_lines_win(server):
    script = SAY + """return { limits = { idle = 0.3 }, on_close = function(conn, reason) say(reason) end }"""
    with server(script).connect() as client:
        assert client.is_over()
    with server(script, "--idle-timeout", "0").connect() as client:
        assert client.silent(0.7)


# ---- portico ----

def test_sleep_sleeps(server):
    one = server("""return { on_message = function(conn, data)
      local begin = portico.monotonic()
      portico.sleep(0.25)
      conn:send(("%.3f\\n"):format(portico.monotonic() - begin))
    end }""")
    with one.connect() as client:
        client.send("x")
        assert 0.249 <= float(client.line()) < 5


def test_after_calls_once_with_its_arguments(server):
    one = server(SAY + "portico.after(0.05, say, 1, nil, 'three') portico.after(0.3, say, 'later') return {}",
                 "--workers", "1")
    assert one.wait_said(2) == ["1 nil three", "later"]


def test_every_calls_again_and_again_until_it_is_cancelled(server):
    one = server(SAY + """
      local count, timer = 0, nil
      timer = portico.every(0.05, function()
        count = count + 1
        say(count)
        if count == 4 then say(timer:cancel(), timer:cancel()) portico.after(0.3, say, "end") end
      end)
      return {}""", "--workers", "1")
    assert one.wait_said(6) == ["1", "2", "3", "4", "true false", "end"]


def test_a_timer_that_is_cancelled_does_not_fire(server):
    one = server(SAY + """
      local timer = portico.after(0.1, say, "wrong")
      portico.after(0.02, function() say(timer:cancel()) end)
      portico.after(0.3, say, "end")
      return {}""", "--workers", "1")
    assert one.wait_said(2) == ["true", "end"]


def test_timers_fire_in_order_of_their_time(server):
    one = server(SAY + """
      for i = 20, 1, -1 do portico.after(i * 0.02, say, i) end
      return {}""", "--workers", "1")
    assert one.wait_said(20) == [str(number) for number in range(1, 21)]


def test_now_is_the_time_of_day_and_monotonic_goes_on(server):
    one = server(SAY + """
      local a = portico.monotonic()
      say(("%.3f"):format(portico.now()), portico.monotonic() >= a)
      return {}""", "--workers", "1")
    now, goes_on = one.wait_said(1)[0].split()
    assert abs(float(now) - time.time()) < 60 and goes_on == "true"


def test_conns_goes_through_the_connections_of_the_worker(server):
    one = server("""return {
      on_connect = function(conn) conn:send("hello") end,
      on_message = function(conn, data)
        for other in portico.conns() do if other ~= conn then other:send(data) end end
      end }""", "--workers", "1")
    clients = [one.connect() for _ in range(4)]
    for client in clients:
        assert client.take(5) == b"hello"
    for number, client in enumerate(clients):
        client.send(b"from %d" % number)
        for other in clients:
            if other is not client:
                assert other.take(6) == b"from %d" % number
    for client in clients:
        client.close()


def test_args_and_version(server):
    one = server(SAY + """
      say(arg[0]:match("script.lua"), arg[1], #portico.args, portico.args[2], portico.version)
      return {}""", "--workers", "1", args=("one", "zwei drei"))
    assert re.fullmatch(r"script\.lua one 2 zwei drei \d+\.\d+\.\d+", one.wait_said(1)[0])


def test_files_are_listed_and_looked_at(server, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"12345")
    (folder / "inner").mkdir()
    one = server(SAY + """
      local names = assert(portico.files.list(arg[1]))
      table.sort(names)
      say(table.concat(names, " "))
      local file = assert(portico.files.stat(arg[1] .. "/a.txt"))
      say(file.type, file.size, math.abs(file.modified - portico.now()) < 100)
      say(portico.files.stat(arg[1] .. "/inner").type)
      say(select(3, portico.files.stat(arg[1] .. "/b.txt")), select(3, portico.files.list(arg[1] .. "/a.txt")))
      say(portico.files.stat(arg[1] .. "/a.txt\\0.html")) -- C would see a.txt
      say(portico.files.list(arg[1] .. "\\0"))
      return {}""", "--workers", "1", args=[folder])
    assert one.wait_said(6) == ["a.txt inner", "file 5 true", "directory", "file file", "nil the path holds a zero byte file",
                                "nil the path holds a zero byte file"]


def test_log_has_four_levels(server):
    one = server("""
      portico.log.debug("d-message") portico.log.info("i-message") portico.log.warn("w-message")
      portico.log.error("e-message") return {}""", "--workers", "1", "--log-level", "debug")
    for level in ("debug", "info", "warn", "error"):
        assert len(one.wait_log(rf"\b{level}\b.*\b{level[0]}-message")) == 1


def test_a_level_that_is_not_wanted_is_not_logged(server):
    one = server('portico.log.info("i-message") portico.log.warn("w-message") return {}', "--workers", "1",
                 "--log-level", "warn", ready=True)
    one.wait_log("w-message")
    assert not one.log("i-message")
    one.signal()
    assert one.wait_end() == 0


def test_require_finds_modules_beside_the_script(server, tmp_path):
    (tmp_path / "server0").mkdir()
    (tmp_path / "server0" / "greeting.lua").write_text("return { text = 'hello from a module' }", encoding="utf-8")
    one = server("local g = require 'greeting' return { on_connect = function(c) c:send(g.text) c:close() end }")
    with one.connect() as client:
        assert client.rest() == b"hello from a module"


# ---- portico.connect ----

PROXY = SAY + """
return { on_message = function(conn, data)
  local up, message, code = portico.connect("tcp://127.0.0.1:PORT", {
    on_message = function(up, reply) conn:send("<" .. reply .. ">") end,
    on_close = function(up, reason) say("up", reason) conn:close() end,
  })
  if not up then conn:send(message .. "|" .. code) conn:close() return end
  up:send(data)
end }"""


@pytest.mark.packets("received")
def test_connect_talks_to_another_server(server):
    upstream = server("return { on_message = function(c, d) c:send(d:upper()) c:close() end }")
    one = server(PROXY.replace("PORT", str(upstream.port)))
    with one.connect() as client:
        client.send("hello")
        assert client.rest() == b"<HELLO>"
    assert one.wait_said(1)[0].startswith("up ")


def test_connect_that_is_refused_gives_nil_and_why(server):
    one = server(PROXY.replace("PORT", str(free_port())))
    with one.connect() as client:
        client.send("hello")
        assert client.rest() == b"connection refused|refused"


def test_connect_to_nonsense_gives_nil_and_why(server):
    one = server(SAY + """return { on_message = function(conn)
      say(portico.connect("nonsense")) say(portico.connect("tcp://1.2.3.4:99999")) end }""")
    with one.connect() as client:
        client.send("x")
        said = one.wait_said(2)
        assert all(line.startswith("nil ") and line.endswith(" invalid") for line in said), said


@pytest.mark.packets("received")
def test_connect_without_handlers_can_be_drawn_from(server):
    upstream = server("return { on_connect = function(c) c:send('welcome') end }")
    one = server(SAY + f"""
      portico.after(0, function()
        local up = assert(portico.connect("tcp://127.0.0.1:{upstream.port}"))
        local data = up:recv(100)
        while not data do portico.sleep(0.01) data = up:recv(100) end
        say(data, up.peer)
        up:close()
      end)
      return {{}}""", "--workers", "1")
    assert one.wait_said(1) == [f"welcome 127.0.0.1:{upstream.port}"]


def test_several_connects_at_a_time(server):
    upstream = server("return { on_message = function(c, d) portico.sleep(0.1) c:send(d) end }")
    one = server(f"""
      return {{ on_message = function(conn, data)
        for word in data:gmatch("%S+") do
          portico.after(0, function()
            local up = assert(portico.connect("tcp://127.0.0.1:{upstream.port}", {{
              on_message = function(up, reply) conn:send(reply .. "\\n") up:close() end }}))
            up:send(word)
          end)
        end
      end }}""", "--workers", "1")
    with one.connect() as client:
        client.send("a b c d e")
        assert {client.line() for _ in range(5)} == {b"a\n", b"b\n", b"c\n", b"d\n", b"e\n"}


@pytest.mark.no_wine("Wine's connect to a full queue ends otherwise")
def test_connect_gives_up_after_its_timeout(server):
    """A listener whose queue is full leaves a connect hanging."""

    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        one = server(SAY + f"""
          portico.after(0.1, function()
            local begin = portico.monotonic()
            local up, message, code = portico.connect("tcp://127.0.0.1:{port}", {{ timeout = 0.3 }})
            say(up, code, portico.monotonic() - begin >= 0.29)
          end)
          return {{}}""", "--workers", "1")
        assert one.wait_said(1) == ["nil timeout true"]
        for filler in fillers:
            filler.close()
