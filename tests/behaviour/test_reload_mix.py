"""Reloads in the company of the rest: streams, datagrams, messages, tasks, dictionaries, pooled connections."""

import socket

import pytest

from reloads import ASK, REFUSED, STILL, TAKEN, UNDONE, reload, save, say
from rig import SAY, Client, Settings, free_port, pattern, until

pytestmark = pytest.mark.packets("both")

STREAM = """local mark = '%s'
return { on_stream = function(conn)
  for line in conn:lines() do
    if line == 'reload' then portico.reload() conn:send('asked') else
      conn.state.n = (conn.state.n or 0) + 1
      conn:send(mark .. ':' .. line .. ':' .. conn.state.n .. '\\n')
    end
  end
end }"""


def test_a_stream_goes_on_in_the_new_version_with_what_it_had_not_read(server):
    one = server(STREAM % "a", "--reload-probation", "0", "--reload-deadline", "0.5")
    with one.connect() as client:
        assert client.send("one\n").line() == b"a:one:1\n"
        client.send("tw")
        save(one, STREAM % "b")
        with one.connect() as control:
            control.send("reload\n")
            assert control.take(5) == b"asked"
            one.wait_log(TAKEN)
            one.wait_log("a handler that still waits is ended, in on_stream", 2)
            assert client.send("o\n").line() == b"b:two:2\n"
            assert client.send("three\n").line() == b"b:three:3\n"


def test_datagrams_go_to_the_version_in_force(server):
    text = "return { on_message = function(peer, data) " + ASK + "return '%s:' .. data end }"
    one = server(text % "a", "--workers", "1", listen=("tcp://127.0.0.1:0", "udp://127.0.0.1:0"))
    port = next(line for line in one.address_file.read_text().split() if line.startswith("udp")).rsplit(":", 1)[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer, one.connect() as client:
        peer.settimeout(10 * Settings.patience)
        peer.connect(("127.0.0.1", int(port)))
        for mark in "abc":
            peer.send(b"x")
            assert peer.recv(100) == mark.encode() + b":x"
            save(one, text % chr(ord(mark) + 1))
            reload(one, client)


def test_sockets_for_datagrams_end_with_their_version(server):
    text = """local socket
      portico.after(0, function()
        socket = assert(portico.udp('udp://127.0.0.1:0', { on_message = function(peer, data) peer:send('%s:' .. data) end }))
      end)
      return { on_message = function(conn, data) """ + ASK + "return socket and socket.addr or 'none' end }"
    one = server(text % "a", "--workers", "1", "--reload-probation", "0")
    with one.connect() as client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(10 * Settings.patience)
        until(lambda: say(client, "x") != "none", 10, "the socket")
        old = say(client, "x")
        save(one, text % "b")
        reload(one, client)
        until(lambda: say(client, "x") not in ("none", old), 10, "the new socket")
        host, port = say(client, "x").rsplit(":", 1)
        peer.sendto(b"x", (host, int(port)))
        assert peer.recv(100) == b"b:x"


def test_what_is_published_is_heard_once_by_the_version_in_force(server):
    text = SAY + """portico.subscribe('news', function(text) say('%s', text, portico.worker.id) end)
      return { on_message = function(conn, data) """ + ASK + "portico.publish('news', data) return 'published' end }"
    one = server(text % "a", "--workers", "2")
    with one.connect() as client:
        assert say(client, "one") == "published"
        assert sorted(one.wait_said(2)) == ["a one 0", "a one 1"]
        save(one, text % "b")
        reload(one, client)
        assert say(client, "two") == "published"
        one.wait_said(4)
        assert say(client, "three") == "published"
        assert sorted(one.wait_said(6)[2:]) == ["b three 0", "b three 1", "b two 0", "b two 1"]


def test_who_waits_in_an_old_version_hears_what_is_published(server):
    """A handler that subscribes when its version is no more in force. It is deaf once its connection has moved."""
    text = """local mark = '%s'
      portico.subscribe('news', function() end)
      return { on_message = function(conn, data) """ + ASK + """
        if data == 'wait' then
          conn:send('waits') conn:read(1)
          local s = portico.subscribe('news', function(text) conn:send(mark .. ' hears ' .. text) end)
          conn:send('hears') conn:read(1)
          return 'over'
        end
        portico.publish('news', data)
        return mark
      end }"""
    one = server(text % "a", "--workers", "2", "--reload-probation", "0", "--reload-deadline", "100")
    with one.connect() as waits, one.connect() as client:
        assert say(waits, "wait") == "waits"
        save(one, text % "b")
        reload(one, client)
        assert say(waits, "x") == "hears"
        assert say(client, "one") == "b"
        assert waits.take(len("a hears one")) == b"a hears one"
        assert say(waits, "x") == "over"
        assert say(client, "two") == "b" and say(client, "three") == "b"
        assert say(waits, "four") == "b"


def test_calls_are_answered_by_the_version_in_force(server):
    text = """portico.worker.serve('mark', function() return '%s' end)
      return { on_message = function(conn, data) """ + ASK + "return table.concat({ portico.worker.call(1, 'mark') }, ' ') end }"
    one = server(text % "a", "--workers", "2")
    with one.connect() as client, one.connect() as other:
        assert say(client, "x") == "a" and say(other, "x") == "a"
        save(one, text % "b")
        reload(one, client)
        assert say(client, "x") == "b" and say(other, "x") == "b"


def test_subscriptions_and_served_functions_come_back_with_their_version(server):
    text = SAY + """portico.subscribe('news', function(text) say('%s', text, portico.worker.id) end)
      portico.worker.serve('mark', function() return '%s' end)
      return { on_error = function() return 'keep' end, on_message = function(conn, data) """ + ASK + """
        if data == 'fail' then error('bad') end
        if data == 'mark' then return portico.worker.call(1, 'mark') end
        portico.publish('news', data) return 'published' end }"""
    one = server(text % ("a", "a"), "--workers", "2", "--reload-error-limit", "0", "--reload-probation", "600")
    with one.connect() as client:
        save(one, text % ("b", "b"))
        reload(one, client)
        assert say(client, "one") == "published" and say(client, "mark") == "b"
        assert sorted(one.wait_said(2)) == ["b one 0", "b one 1"]
        client.send("fail")
        one.wait_log(UNDONE)
        assert say(client, "two") == "published" and say(client, "mark") == "a"
        assert sorted(one.wait_said(4)[2:]) == ["a two 0", "a two 1"]


def test_tasks_of_an_old_version_finish_what_they_do(server):
    text = SAY + """local mark = '%s'
      return { on_unload = function() say('gone', mark) end, on_message = function(conn, data) """ + ASK + """
        local channel = portico.channel(0)
        portico.spawn(function() say(mark, 'got', channel:recv()) end)
        portico.spawn(function() portico.sleep(1.5) channel:send('late') end)
        return 'spawned' end }"""
    one = server(text % "a", "--workers", "1", "--reload-probation", "0")
    with one.connect() as client:
        assert say(client, "x") == "spawned"
        save(one, text % "b")
        reload(one, client)
        one.wait_log(STILL)
        assert one.wait_said(2) == ["a got late", "gone a"]


def test_a_socket_of_a_fixed_port_is_had_by_one_version_at_a_time(server):
    port = free_port()
    text = f"local socket, wrong = portico.udp{{ bind = 'udp://127.0.0.1:{port}', on_message = function(peer, data) peer:send(data) end }}" \
        " if not socket then error(wrong) end return { on_message = function(conn, data) " + ASK + "end }"
    one = server(text, "--workers", "1")
    with one.connect() as client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        assert "such a socket ends with its version" in reload(one, client, REFUSED)
        peer.settimeout(10 * Settings.patience)
        peer.sendto(b"x", ("127.0.0.1", port))
        assert peer.recv(100) == b"x"


def test_dictionaries_outlive_versions(server):
    text = "return { on_message = function(conn, data) " + ASK + "return tostring(portico.shared('x'):incr('n')) end }"
    one = server(text, "--workers", "2")
    with one.connect() as client:
        assert say(client, "x") == "1"
        reload(one, client)
        assert say(client, "x") == "2"


def test_tasks_that_a_script_starts_while_it_loads_begin_with_it(server):
    text = SAY + "portico.spawn(function() say('task %s') end) %s return { on_message = function(conn, data) " + ASK + "end }"
    one = server(text % ("a", ""), "--workers", "1")
    assert one.wait_said(1) == ["task a"]
    with one.connect() as client:
        save(one, text % ("b", "error('unfit')"))
        reload(one, client, "reload refused")
        save(one, text % ("c", ""))
        reload(one, client)
        assert one.wait_said(2) == ["task a", "task c"]


def test_tasks_of_an_old_version_end_at_the_deadline(server):
    text = SAY + """portico.spawn(function() local t <close> = setmetatable({}, { __close = function() say('closed %s') end })
      portico.channel(0):recv() end) return { on_message = function(conn, data) """ + ASK + "end }"
    one = server(text % "a", "--workers", "1", "--reload-probation", "0", "--reload-deadline", "1.2")
    with one.connect() as client:
        save(one, text % "b")
        reload(one, client)
        one.wait_log(STILL)
        assert one.wait_said(1) == ["closed a"]


def test_idle_pooled_connections_hold_nothing(server):
    far = server("return { on_message = function(conn, data) return data end }")
    text = SAY + """return { on_unload = function() say('gone %s') end, on_message = function(conn, data) """ + ASK + f"""
      local out = assert(portico.connect('tcp://127.0.0.1:{far.port}', {{ pool = true }}))
      out:send(data) local answer = out:read(#data) out:release() return answer end }}"""
    one = server(text % "a", "--workers", "1", "--reload-probation", "0", "--reload-deadline", "100")
    with one.connect() as client:
        assert say(client, "x") == "x"
        save(one, text % "b")
        reload(one, client)
        assert one.wait_said(1) == ["gone a"]
        assert say(client, "y") == "y"


def test_a_pipe_goes_on_while_versions_change(server):
    far = server("return { on_message = function(conn, data) return data end }")
    text = "return { on_stream = function(conn) if conn:peek(1) == '!' then conn:read(7) portico.reload() conn:send('asked') return end " \
        f"local out = assert(portico.connect('tcp://127.0.0.1:{far.port}')) conn:pipe(out, {{ both = true }}) end }}"
    one = server(text, "--workers", "1", "--reload-probation", "0", "--reload-deadline", "100", "--drain-timeout", "0.2")
    with one.connect() as client:
        sent = 0
        for _ in range(5):
            data = pattern(1, sent, 8192)
            assert client.ask(data) == data
            sent += len(data)
            taken = len(one.log(TAKEN))
            with Client(one.addresses[0]) as control:
                assert control.send("!reload").take(5) == b"asked"
            one.wait_log(TAKEN, taken + 1)
        client.finish()
        assert client.rest() == b""
