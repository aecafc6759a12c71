"""UDP: listeners with the script's on_message, and the sockets of portico.udp."""

import os
import random
import signal
import socket
import subprocess
import time

import pytest

from rig import ECHO, FORBIDDEN, SAY, Settings, run, scaled, until

LARGEST = 65507
ANY = ["udp://127.0.0.1:0"]
REPLY = "return { on_message = function(peer, data) return data end }\n"


class Peer:
    """A socket that speaks to one address; every call ends within its deadline."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(10 * Settings.patience)
        self.socket.connect(address)
        self.port = self.socket.getsockname()[1]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.socket.close()

    def send(self, data):
        self.socket.send(data)
        return self

    def take(self):
        return self.socket.recv(1 << 16)

    def ask(self, data):
        return self.send(data).take()

    def silent(self, seconds=0.3):
        self.socket.settimeout(seconds)
        with pytest.raises(socket.timeout):
            self.socket.recv(1 << 16)
        self.socket.settimeout(10 * Settings.patience)


def peer_of(one, index=0):
    return Peer(one.addresses[index])


@pytest.mark.parametrize("script", [ECHO, REPLY], ids=["send", "return"])
def test_a_listener_answers(server, script):
    one = server(script, listen=ANY)
    one.wait_log(f"listening on udp://127.0.0.1:{one.port} ")
    with peer_of(one) as peer:
        for data in (b"hello", b"", b"x" * 1472, b"\0" * LARGEST):
            assert peer.ask(data) == data


def test_it_shares_a_script_with_a_stream(server):
    one = server("return { on_message = function(conn, data) conn:send(tostring(conn.listener), ' ', data) end }",
                 listen=["tcp://127.0.0.1:0", *ANY])
    with peer_of(one, 1) as peer, one.connect(0) as client:
        assert peer.ask(b"x") == f"udp://127.0.0.1:{one.addresses[1][1]} x".encode()
        name = f"tcp://127.0.0.1:{one.addresses[0][1]} x".encode()
        assert client.send("x").take(len(name)) == name


def test_ipv6(server, ipv6):
    one = server(REPLY, listen=["udp://[::1]:0"])
    with peer_of(one) as peer:
        assert peer.ask(b"six") == b"six"


def test_the_peer_is_a_light_handle(server):
    one = server("""
    local fields = { "peer", "addr", "listener", "state", "nonsense" }
    return { on_message = function(peer)
      local t = {}
      for i, name in ipairs(fields) do t[i] = tostring(peer[name]) end
      t[#t + 1] = tostring(peer)
      for _, method in ipairs { "recv", "pause", "resume", "shutdown", "close", "abort", "set" } do
        local ok, message, code = peer[method](peer)
        assert(ok == nil and message == "a datagram's peer has no connection" and code == "unsupported", method)
      end
      t[#t + 1] = select(2, pcall(function() peer:send() end))
      t[#t + 1] = select(2, pcall(function() peer:send({}) end))
      t[#t + 1] = select(2, pcall(peer.send, {}, "x"))
      t[#t + 1] = getmetatable(peer)
      return table.concat(t, "\\n")
    end }""", listen=ANY)
    with peer_of(one) as peer:
        lines = peer.ask(b"x").decode().split("\n")
    here = f"127.0.0.1:{one.port}"
    there = f"127.0.0.1:{peer.port}"
    assert lines[:6] == [there, here, f"udp://{here}", "nil", "nil", f"peer {there}"]
    assert "bad argument #1 to 'send' (string expected, got no value)" in lines[6]
    assert "bad argument #1 to 'send' (string expected, got table)" in lines[7]
    assert "peer expected, got table" in lines[8]
    assert lines[9] == "peer"


def test_several_strings_are_one_datagram(server):
    one = server("return { on_message = function(peer) peer:send('a', 1, 'b') end }", listen=ANY)
    with peer_of(one) as peer:
        assert peer.ask(b"x") == b"a1b"


def test_what_is_too_large_is_refused_in_words(server):
    one = server(SAY + """
    return { on_message = function(peer, data)
      if data == "return" then return ("x"):rep(65508) end
      say(peer:send(("x"):rep(65508)))
      return ("x"):rep(65507)
    end }""", listen=ANY)
    with peer_of(one) as peer:
        assert len(peer.ask(b"send")) == LARGEST
        assert one.wait_said(1) == ["nil 65508 bytes do not fit in a datagram (65507 at most) invalid"]
        peer.send(b"return")
        one.wait_log("a reply of on_message is dropped: 65508 bytes do not fit in a datagram")
        assert len(peer.ask(b"and on")) == LARGEST


def test_a_handler_may_wait_and_others_go_on(server):
    one = server("""
    return { on_message = function(peer, data)
      if data == "slow" then portico.sleep(0.3) end
      return data
    end }""", "--workers", "1", listen=ANY)
    with peer_of(one) as slow, peer_of(one) as fast:
        slow.send(b"slow")
        assert fast.ask(b"fast") == b"fast"
        assert slow.take() == b"slow"


def test_an_error_ends_one_handler(server):
    one = server(SAY + """
    return {
      on_message = function(peer, data) if data == "bad" then error("no good") end return data end,
      on_error = function(conn, err) say(conn, err.callback, err.message:match("no good")) end,
    }""", listen=ANY)
    with peer_of(one) as peer:
        peer.send(b"bad")
        assert one.wait_said(1) == ["nil on_message no good"]
        assert len(one.wait_log(r"script.lua:3: no good")) == 1
        assert peer.ask(b"good") == b"good"


def test_peers_may_be_kept_and_are_stale_when_the_socket_is_gone(server):
    one = server(SAY + """
    local first
    local socket
    return { on_message = function(peer, data)
      if not first then first = peer end
      first:send(data)
    end, on_unload = function() if first then say(first:send("late")) say(first.peer ~= nil, first.addr) end end }""",
                 "--workers", "1", listen=ANY)
    with peer_of(one) as first, peer_of(one) as second:
        assert first.ask(b"me") == b"me"
        second.send(b"for the first")
        assert first.take() == b"for the first"
    one.stop()
    assert one.said() == ["nil closed closed", "true nil"]


@pytest.mark.no_wine("there is no USR2")
def test_usr2_shows_the_counts(server):
    one = server(REPLY, "--workers", "1", listen=ANY)
    with peer_of(one) as peer:
        peer.ask(b"x")
    one.signal(signal.SIGUSR2)
    one.wait_log("1 UDP socket, 1 datagrams received, 1 sent, 0 dropped")


def test_random_sizes_come_back(server):
    seed = int(os.environ.get("PORTICO_TEST_SEED", time.time_ns() % (1 << 32)))
    print(f"seed {seed}")
    rng = random.Random(seed)
    one = server(REPLY, listen=ANY)
    with peer_of(one) as peer:
        for _ in range(scaled(1000, 50)):
            data = rng.randbytes(rng.choice((0, 1, 100, 1472, 1473, 9000, LARGEST, rng.randrange(LARGEST + 1))))
            assert peer.ask(data) == data


def test_ten_thousand_datagrams_and_none_is_lost_on_the_way(server):
    one = server(REPLY, listen=ANY)
    total = scaled(10000, 500)
    window = 32
    with peer_of(one) as peer:
        back = 0
        for number in range(total):
            peer.send(b"%d" % number)
            if number - back >= window:
                assert peer.take() == b"%d" % back
                back += 1
        while back < total:
            assert peer.take() == b"%d" % back
            back += 1
        peer.silent()


def test_many_peers(server):
    one = server(REPLY, listen=ANY)
    peers = [peer_of(one) for _ in range(scaled(200, 20))]
    for turn in range(3):
        for number, peer in enumerate(peers):
            peer.send(b"%d from %d" % (turn, number))
        for number, peer in enumerate(peers):
            assert peer.take() == b"%d from %d" % (turn, number)
    for peer in peers:
        peer.socket.close()


def test_each_peer_has_its_worker(server):
    one = server("return { on_message = function() return tostring(portico.worker.id) end }", "--workers", "4",
                 listen=ANY)
    workers = set()
    for _ in range(32):
        with peer_of(one) as peer:
            answers = {peer.ask(b"who?") for _ in range(5)}
            assert len(answers) == 1
            workers |= answers
    if Settings.wine:
        assert workers == {b"0"}
    else:
        assert len(workers) > 1


@pytest.mark.packets("received")
def test_more_waiting_handlers_than_there_may_be_hold_up_the_rest_and_lose_none(server):
    if Settings.wine:
        pytest.skip("a thousand handlers that wait are slow under Wine")
    most, peers, each = 1000, 22, 50
    one = server("""
    local go, waiting = false, 0
    return { on_message = function(peer, data)
      if data == "count" then return waiting .. "\\n" end
      if data == "go" then go = true return "gone\\n" end
      waiting = waiting + 1
      while not go do portico.sleep(0.05) end
      return data
    end }""", "--workers", "1", listen=["tcp://127.0.0.1:0", *ANY])
    some = [peer_of(one, 1) for _ in range(peers)]
    with one.connect(0) as control:
        for turn, peer in enumerate(some, 1):
            for number in range(each):
                peer.send(b"%d" % number)
            expected = min(turn * each, most)
            until(lambda: int(control.send("count").line()) == expected, what=f"{expected} handlers")
        assert int(control.send("count").line()) == most
        assert control.send("go").line() == b"gone\n"
    for peer in some:
        assert sorted(int(peer.take()) for _ in range(each)) == list(range(each))
        peer.socket.close()


def test_an_address_in_use(server):
    one = server(REPLY, listen=ANY)
    done = run("--listen", f"udp://127.0.0.1:{one.port}")
    assert done.returncode == 4
    assert f"cannot listen on udp://127.0.0.1:{one.port}: address already in use" in done.stderr
    with peer_of(one) as peer:
        for _ in range(10):
            assert peer.ask(b"still all mine") == b"still all mine"


def test_a_script_names_its_address(server):
    one = server("return { listen = { 'udp://127.0.0.1:0' }, on_message = function(_, data) return data end }",
                 listen=[])
    with peer_of(one) as peer:
        assert peer.ask(b"x") == b"x"


def test_a_handler_of_their_own_beside_a_stream(server):
    """on_datagram has the datagrams, whatever the script has for connections."""
    one = server(SAY + """
    return {
      frame = "line",
      on_stream = function(conn) for line in conn:lines() do conn:send("stream ", line) end end,
      on_datagram = function(peer, data)
        if data == "bad" then error("no good") end
        if data == "long" then return ("x"):rep(65508) end
        portico.sleep(0.01)
        return peer.listener .. " " .. data
      end,
      on_error = function(conn, err) say(conn, err.callback) end,
    }""", "--workers", "1", listen=["tcp://127.0.0.1:0", *ANY])
    with peer_of(one, 1) as peer, one.connect(0) as client:
        assert peer.ask(b"x") == f"udp://127.0.0.1:{one.addresses[1][1]} x".encode()
        assert client.send("y\n").line() == b"stream y\n"
        peer.send(b"bad")
        assert one.wait_said(1) == ["nil on_datagram"]
        peer.send(b"long")
        one.wait_log("a reply of on_datagram is dropped: 65508 bytes do not fit in a datagram")
        assert peer.ask(b"")[-1:] == b" "
    assert not one.log("dropped$")


def test_their_own_handler_comes_before_on_message_and_may_come_with_a_reload(server, tmp_path):
    if Settings.wine:
        pytest.skip("there is no HUP under Wine")
    script = tmp_path / "script.lua"
    both = "return { on_message = function() return 'message' end, %s }"
    script.write_text(both % "")
    one = server(script, listen=["tcp://127.0.0.1:0", *ANY])
    with peer_of(one, 1) as peer, one.connect(0) as client:
        assert peer.ask(b"x") == b"message"
        script.write_text(both % "on_datagram = function() return 'datagram' end")
        one.signal(1)
        until(lambda: peer.ask(b"x") == b"datagram", what="the new generation's answer")
        assert client.send("x").take(7) == b"message"


def test_without_a_handler_for_them_it_is_said(server):
    one = server("return { on_readable = function() end }", listen=ANY)
    assert len(one.wait_log("neither on_datagram nor on_message is there: datagrams are dropped")) == 1
    with peer_of(one) as peer:
        peer.send(b"x").silent()


@pytest.mark.no_wine("socat is no Windows program")
def test_socat_speaks_to_it(server):
    one = server(REPLY, listen=ANY)
    done = subprocess.run(["socat", "-t2", "-", f"UDP4:127.0.0.1:{one.port}"], input=b"over socat\n",
                          stdout=subprocess.PIPE, timeout=30, check=True)
    assert done.stdout == b"over socat\n"


def test_a_stop_lets_handlers_answer(server):
    one = server("""
    return { on_message = function(_, data) portico.log.info("asked") portico.sleep(0.5) return data end }""", listen=ANY)
    with peer_of(one) as peer:
        peer.send(b"late")
        one.wait_log("asked")
        one.signal()
        assert peer.take() == b"late"
    one.check_end()


def test_reload_keeps_the_socket(server, tmp_path):
    if Settings.wine:
        pytest.skip("there is no HUP under Wine")
    script = tmp_path / "reloaded.lua"
    script.write_text("return { on_message = function() return 'one' end }")
    one = server(script, listen=ANY)
    with peer_of(one) as peer:
        assert peer.ask(b"x") == b"one"
        script.write_text("return { on_message = function() return 'two' end }")
        one.signal(1)
        until(lambda: peer.ask(b"x") == b"two", what="the new generation's answer")


# ---- portico.udp ----

def client(server, body, *args, count=1, seconds=10, **more):
    """Runs the body in a task of a client; returns what it has said."""
    one = server(SAY + "portico.after(0, function() local args = portico.args " + body +
                 " portico.shutdown() end) return { listen = {} }", "--workers", "1", args=args, listen=[], ready=False,
                 **more)
    one.check_end()
    return one.said()


def test_a_socket_asks_and_gets_answers(server):
    one = server(REPLY, listen=ANY)
    address = f"127.0.0.1:{one.port}"
    assert client(server, """
      local s <close> = portico.udp("udp://" .. args[1])
      say(s.peer, s.addr:match("^127.0.0.1:%d+$") ~= nil)
      say(s:send("hello"))
      say(s:recv(5))
      say(s:send(""))
      say(s:recv(5))
      s:send("one") s:send("two")
      say((s:recv(5)), (s:recv(5)))
      say(s:recv(0.05))
      say(s:send(("x"):rep(65508)))
      say(tostring(s):match("^udp socket %(127"))
      say(s:close()) say(s:close()) say(s:send("x")) say(s:recv()) say(s.addr) say(tostring(s))
      """, address) == [
        f"{address} true", "true", f"hello {address}", "true", f" {address}", "one two", "nil timed out timeout",
        "nil 65508 bytes do not fit in a datagram (65507 at most) invalid", "udp socket (127", "true",
        "nil closed closed", "nil closed closed", "nil closed closed", "nil", "udp socket (closed)"]


def test_an_unconnected_socket_speaks_to_many(server):
    one = server(REPLY, listen=ANY)
    two = server("return { on_message = function(_, data) return data:upper() end }", listen=ANY)
    assert client(server, """
      local s = portico.udp { bind = "udp://127.0.0.1:0" }
      say(s.peer)
      s:send("a", args[1])
      say(s:recv(5))
      s:send("b", "udp://" .. args[2])
      say(s:recv(5))
      """, f"127.0.0.1:{one.port}", f"127.0.0.1:{two.port}") == [
        "nil", f"a 127.0.0.1:{one.port}", f"B 127.0.0.1:{two.port}"]


def test_a_socket_may_have_a_handler(server):
    said = client(server, """
      local got = portico.channel()
      local echo = portico.udp { bind = "udp://127.0.0.1:0", on_message = function(peer, data)
        if data == "wait" then portico.sleep(0.02) end
        say(peer.peer ~= nil, peer.addr ~= nil, peer.listener)
        peer:send(data)
        return data:upper()
      end }
      local s = portico.udp("udp://" .. echo.addr)
      s:send("wait")
      say((s:recv(5)), (s:recv(5)))
      say(pcall(echo.recv, echo))
      echo:close()
      """)
    assert said[:2] == ["true true nil", "wait WAIT"]
    assert "recv is not for sockets with on_message" in said[2]


def test_several_may_wait_in_recv_and_a_close_wakes_them(server):
    said = client(server, """
      local s = portico.udp { bind = "udp://127.0.0.1:0" }
      local tasks = {}
      for i = 1, 3 do tasks[i] = portico.spawn(function() return s:recv() end) end
      portico.sleep(0.05)
      local other = portico.udp("udp://" .. s.addr)
      other:send("first") other:send("second")
      say((select(2, tasks[1]:join())), (select(2, tasks[2]:join())))
      s:close()
      say(tasks[3]:join())
      """)
    assert said[0] == "first second", said
    assert said[1].endswith("nil closed closed")


@pytest.mark.no_wine("Wine 8 forgets the error when no receive is pending")
def test_nobody_there_is_refused(server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert client(server, """
      local s = portico.udp(args[1])
      s:send("anybody?")
      say(s:recv(5))
      """, f"127.0.0.1:{port}") == ["nil connection refused refused"]


# What the clients of a listener tell it to do with a socket of its own, to one peer.
SPEAKER = SAY + """
local s
return { on_message = function(conn, data)
  local verb, rest = data:match("(%%w+) ?(.*)")
  if verb == "open" then s = assert(portico.udp("127.0.0.1:" .. rest%s))
  elseif verb == "send" then say("send", s:send(rest))
  elseif verb == "recv" then local text, _, code = s:recv(5) say("recv", text, code) end
  return "done"
end }"""


def speak(one, client, *words):
    for word in words:
        assert client.send(word).take(4) == b"done"


def refused_peer(client, one):
    """Has the socket send to a port that nobody has; returns one that has it now."""
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.bind(("127.0.0.1", 0))
    address = peer.getsockname()
    peer.close()
    speak(one, client, f"open {address[1]}", "send lost", "then")  # which by now has been
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.settimeout(10 * Settings.patience)
    peer.bind(address)
    return peer


@pytest.mark.no_wine("Wine 8 forgets the error when no receive is pending")
def test_what_follows_a_datagram_that_met_nobody_is_sent_and_the_next_recv_tells(server):
    one = server(SPEAKER % "", "--workers", "1")
    with one.connect() as client, refused_peer(client, one) as peer:
        speak(one, client, "send first", "send second")
        assert [peer.recvfrom(100)[0] for _ in range(2)] == [b"first", b"second"]
        speak(one, client, "send third")
        text, where = peer.recvfrom(100)
        assert text == b"third"
        peer.sendto(b"answer", where)
        speak(one, client, "recv", "recv")
        assert one.wait_said(6) == ["send true"] * 4 + ["recv nil refused", "recv answer nil"]


@pytest.mark.no_wine("Wine 8 forgets the error when no receive is pending")
def test_with_a_handler_the_next_send_tells_that_a_datagram_met_nobody(server):
    one = server(SPEAKER % ", { on_message = function(_, data) say('got', data) end }", "--workers", "1")
    with one.connect() as client, refused_peer(client, one) as peer:
        speak(one, client, "send first")
        text, where = peer.recvfrom(100)
        assert text == b"first"
        peer.sendto(b"answer", where)
        said = one.wait_said(3)
        assert sorted(said) == ["got answer", "send true", "send true connection refused refused"]


def test_a_datagram_that_comes_too_late_waits_for_the_next_recv(server):
    assert client(server, """
      local s = portico.udp { bind = "udp://127.0.0.1:0" }
      local other = portico.udp("udp://" .. s.addr)
      say(s:recv(0.02))
      for i = 1, 5 do other:send(tostring(i)) end
      portico.sleep(0.05)
      for i = 1, 5 do say((s:recv(5))) end
      """) == ["nil timed out timeout", "1", "2", "3", "4", "5"]


def test_the_queue_is_bounded(server):
    said = client(server, """
      local s = portico.udp { bind = "udp://127.0.0.1:0" }
      local sent, failed, why = 0, 0
      for i = 1, 2000 do
        local ok, message, code = s:send(("x"):rep(1000), s.addr)
        if ok then sent = sent + 1 else failed = failed + 1 why = message .. " " .. code end
      end
      say(sent > 100 and sent < 2000, failed > 0, why)
      portico.sleep(0.2)
      say(s:send("x", s.addr))
      """)
    assert said == ["true true the send queue is full limit", "true"]


def test_sockets_that_nobody_holds_are_closed(server):
    if Settings.wine:
        pytest.skip("descriptors are counted in /proc")
    one = server("""
    return { on_message = function(_, data)
      for i = 1, 50 do portico.udp("127.0.0.1:9") end
      collectgarbage() collectgarbage()
      return data
    end }""", "--workers", "1", listen=ANY)

    def descriptors():
        return len(os.listdir(f"/proc/{one.process.pid}/fd"))

    with peer_of(one) as peer:
        peer.ask(b"x")
        before = until(lambda: descriptors() if descriptors() < 60 else None)
        for _ in range(10):
            peer.ask(b"x")
        until(lambda: descriptors() <= before + 1)


@pytest.mark.parametrize("worker", [0, 1])
def test_sockets_made_while_loading_end_with_a_script_that_fails(tmp_path, worker):
    script = tmp_path / "fails.lua"
    script.write_text(f"""
    local s = portico.udp {{ bind = "udp://127.0.0.1:0", on_message = function() end }}
    local t = portico.udp("127.0.0.1:9")
    t:send("x")
    assert(portico.worker.id ~= {worker}, "not this one")
    return {{ on_message = function() end }}""")
    done = run("--workers", "2", "--listen", "tcp://127.0.0.1:0", script)
    assert done.returncode == 3
    assert "not this one" in done.stderr
    assert not FORBIDDEN.search(done.stderr.replace("assert'", "")), done.stderr


def test_sockets_made_while_loading_work(server):
    one = server("""
    local socket = portico.udp { bind = "udp://127.0.0.1:0", on_message = function(_, data) return data end }
    return { on_message = function() return socket.addr .. "\\n" end }""", "--workers", "1")
    with one.connect() as client:
        host, port = client.send("x").line().decode().strip().split(":")
    with Peer((host, int(port))) as peer:
        assert peer.ask(b"early") == b"early"
    done = run("--check", one.directory / "script.lua")
    assert done.returncode == 0, done.stderr


def test_wrong_use_raises(server):
    said = client(server, """
      local s = portico.udp { bind = "udp://127.0.0.1:0" }
      local c = portico.udp("127.0.0.1:9")
      local function try(...) say((select(2, pcall(...))):gsub("^.-:%d+: ", "")) end
      try(portico.udp, 7)
      try(portico.udp, "tcp://127.0.0.1:1")
      try(portico.udp, "unix:/x")
      try(portico.udp, "127.0.0.1")
      try(portico.udp, { bnid = "udp://127.0.0.1:0" })
      try(portico.udp, { bind = 7 })
      try(portico.udp, { on_message = 7 })
      try(s.send, s, "x")
      try(s.send, s, {}, "127.0.0.1:1")
      try(s.send, s, "x", "nowhere")
      try(c.send, c, "x", "127.0.0.1:1")
      try(s.recv, s, -1)
      try(s.recv, {})
      say(portico.udp { bind = s.addr })
      """)
    wanted = [
        "an address like", "an address like", "an address like", "the port is missing", "did you mean 'bind'?",
        "bind: an address like", "on_message: function expected, got number", "an address like",
        "string expected, got table", "the port is missing", "this socket sends to its peer only", "seconds", "udp socket expected",
        "nil address already in use in_use"]
    assert len(said) == len(wanted), said
    for line, words in zip(said, wanted):
        assert words in line, (line, words)


def test_the_argument_that_is_wrong_is_named_by_its_place(server):
    assert client(server, """
      local function try(...) say((select(2, pcall(...))):match("#%d")) end
      try(portico.udp, { bind = 7 })
      try(portico.udp, { bnid = 7 })
      try(portico.udp, { on_message = 7 })
      try(portico.udp, nil, { bind = 7 })
      try(portico.udp, "127.0.0.1:9", { bnid = 7 })
      """) == ["#1", "#1", "#1", "#2", "#2"]


def test_recv_without_a_wait_works_where_nothing_can_wait(server):
    assert client(server, """
      local s = portico.udp { bind = "udp://127.0.0.1:0" }
      local function look() local data, message, code; table.sort({ 2, 1 }, function() data, message, code = s:recv(0) end)
        return data, message, code end
      say(look())
      portico.udp(s.addr):send("x")
      local data
      repeat data = look(); portico.sleep(0) until data
      say(data)
      say((select(2, pcall(table.sort, { 2, 1 }, function() s:recv(1) end))):match("cannot wait here"))
      """) == ["nil timeout timeout", "x", "cannot wait here"]


def test_multicast_is_joined(server):
    if Settings.wine:
        pytest.skip("which interface Wine takes is the host's affair")
    group = "239.255.77.77"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton("0.0.0.0"))
            probe.connect((group, 9))
    except OSError as error:
        pytest.skip(f"no multicast here: {error}")
    one = server(REPLY, "--workers", "1", listen=[f"udp://{group}:0"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(10 * Settings.patience)
        peer.sendto(b"to all", (group, one.port))
        assert peer.recv(100) == b"to all"


def test_a_number_is_sent_back_and_a_table_is_told(server):
    one = server("return { on_datagram = function(peer, data) return data == 'n' and 7 or {} end }", listen=ANY)
    with peer_of(one) as peer:
        assert peer.ask(b"n") == b"7"
        peer.send(b"t")
        one.wait_log(r"script\.lua:1: on_datagram returned a table, which is not sent")
        assert peer.ask(b"n") == b"7"
