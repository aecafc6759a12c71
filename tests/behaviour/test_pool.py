"""Outbound connections: the pool that keeps them, and names with several addresses."""

import socket
import subprocess

import pytest

from rig import SAY, Settings, full_listener, until

# Answers with the connection's id, a line each; "twice" answers twice, "bye" ends the connection after the answer.
NUMBERS = """
return { on_message = function(conn, data)
  conn:send(conn.id, "\\n")
  if data == "twice" then portico.after(0.1, function() conn:send("more\\n") end) end
  if data == "bye" then portico.after(0.1, function() conn:close() end) end
end, on_close = function(conn, reason) portico.log.info("closed " .. conn.id .. " " .. reason) end }"""

BEGIN = SAY + """
local function get(uri, opts, what)
  local c = assert(portico.connect(uri, opts))
  assert(c:send(what or "x"))
  return c, assert(c:read("l", 5))
end
"""


def client(server, body, *args, **more):
    one = server(BEGIN + "portico.after(0, function() local uri = portico.args[1] " + body +
                 " portico.shutdown() end) return { listen = {} }", "--workers", "1", args=args, listen=[], ready=False,
                 **more)
    one.check_end()
    return one.said()


@pytest.fixture
def numbers(server):
    one = server(NUMBERS, "--workers", "1")
    one.uri = f"tcp://127.0.0.1:{one.port}"
    return one


def test_a_released_connection_is_used_again(server, numbers):
    said = client(server, """
      local c, first = get(uri, { pool = true })
      local id = c.id
      c.state = { mine = true }
      say(c:release())
      say(c:send("x")) say(c:release()) say(c.peer)
      local d, second = get(uri, { pool = true })
      say(first == second, d.id > id, d.peer == "127.0.0.1:" .. uri:match("%d+$"), d.state.mine, d.listener == uri)
      d:release()
      local e, third = get(uri)
      say(third == first)
      """, numbers.uri)
    assert said == ["true", "nil closed closed", "nil closed closed", "nil", "true true true nil true", "false"]


def test_an_idle_one_is_found_by_nobody_and_the_next_use_not_by_the_old_id(server, numbers):
    """What was kept of it, here or on another worker, says nothing into the conversation of whoever has it next."""
    said = client(server, """
      local c = get(uri, { pool = true })
      local id = c.id
      local found = portico.conns() -- the list is made here
      say(c:release())
      say(portico.conn(id))
      say(found() == nil, portico.conns()() == nil)
      for i = 1, 9 do if portico.conn(id + i) then say("found " .. i) end end
      local d = portico.connect(uri, { pool = true })
      say(portico.conn(id))
      say(portico.conn(d.id) == d, portico.conns()() == d)
      d:send("x")
      say(d:read("l", 5) == "1", d:release())
      """, numbers.uri)
    assert said == ["true", "nil closed closed", "true true", "nil closed closed", "true true", "true true"]


def test_what_another_worker_posts_to_an_earlier_use_is_dropped(server, numbers):
    one = server(BEGIN + """
    if portico.worker.id == 1 then
      portico.worker.serve("post", function(id) return portico.conn(id):send("twice") end)
    end
    if portico.worker.id == 0 then portico.after(0, function()
      local uri = portico.args[1]
      local c = get(uri, { pool = true })
      local id = c.id
      c:release()
      say(portico.worker.call(1, "post", id))
      local d = get(uri, { pool = true })
      say(portico.worker.call(1, "post", id))
      say(portico.worker.call(1, "post", d.id)) -- that one is heard: one answer now, another one later
      say(d:read("l", 5), d:read("l", 5))
      portico.shutdown()
    end) end
    return { listen = {} }""", "--workers", "2", args=[numbers.uri], listen=[], ready=False)
    one.check_end()
    assert one.said() == ["true", "true", "true", "1 more"]


def test_the_last_one_comes_first_and_the_size_is_a_bound(server, numbers):
    said = client(server, """
      local opts = { pool = { size = 2 } }
      local a, ida = get(uri, opts)
      local b, idb = get(uri, opts)
      local c, idc = get(uri, opts)
      say(ida ~= idb and idb ~= idc)
      say(a:release(), b:release(), c:release())
      local _, one = get(uri, opts)
      local _, two = get(uri, opts)
      local _, three = get(uri, opts)
      say(one == idb, two == ida, three ~= idc)
      """, numbers.uri)
    assert said == ["true", "true true false", "true true true"]


def test_what_is_idle_for_too_long_is_closed(server, numbers):
    said = client(server, """
      local opts = { pool = { idle = 0.1 } }
      local c, first = get(uri, opts)
      c:release()
      portico.sleep(0.5)
      local d, second = get(uri, opts)
      say(first == second)
      portico.sleep(0.5)
      say((d:send("still mine")))
      """, numbers.uri)
    assert said == ["false", "true"]
    numbers.wait_log("closed 1 eof")


@pytest.mark.packets("both")
@pytest.mark.parametrize("what", ["twice", "bye"])
def test_an_idle_one_that_gets_bytes_or_the_end_is_dropped(server, numbers, what):
    said = client(server, f"""
      local c, first = get(uri, {{ pool = true }}, "{what}")
      say(c:release())
      portico.sleep(0.5)
      local d, second = get(uri, {{ pool = true }})
      say(first == second)
      """, numbers.uri)
    assert said == ["true", "false"]


def test_one_with_unread_bytes_is_not_kept(server, numbers):
    said = client(server, """
      local c = assert(portico.connect(uri, { pool = true }))
      c:send("x")
      c:peek(1)
      say(c:release())
      say(c:send("x"))
      local d, second = get(uri, { pool = true })
      say(second)
      """, numbers.uri)
    assert said == ["false", "nil closed closed", "2"]


def test_the_next_use_may_have_handlers_and_a_frame(server, numbers):
    said = client(server, """
      local c, first = get(uri, { pool = true })
      c:release()
      local got = portico.channel()
      local d = portico.connect(uri, { pool = true, frame = "line", on_connect = function() say("never") end,
        on_message = function(d, line) got:send(line) end,
        on_close = function(_, reason) say(reason) end })
      d:write("x")
      say(got:recv(5) == first)
      d:close()
      portico.sleep(0.1)
      local e, other = get(uri, { pool = true })
      say(other == first)
      """, numbers.uri)
    assert said == ["true", "local", "false"]


def test_limits_do_not_outlast_their_use(server, numbers):
    said = client(server, """
      local c, first = get(uri, { pool = { idle = 0.2 } })
      c:set { idle = 0.1, send_high = 7 }
      c:release()
      local d = portico.connect(uri, { pool = true })
      portico.sleep(0.6)
      d:send("x")
      say(d:read("l", 5) == first)
      """, numbers.uri)
    assert said == ["true"]


def test_uris_have_pools_of_their_own(server, numbers):
    two = server(NUMBERS, "--workers", "1")
    said = client(server, """
      local a = get(uri, { pool = true })
      a:release()
      local b, id = get(portico.args[2], { pool = true })
      say(b.listener == portico.args[2])
      """, numbers.uri, f"tcp://127.0.0.1:{two.port}")
    assert said == ["true"]


def test_many_uses_take_few_connections(server, numbers):
    client(server, """
      for i = 1, 200 do
        local c = get(uri, { pool = true })
        assert(c:release())
      end
      """, numbers.uri)
    numbers.wait_log("closed 1 ")
    assert not numbers.log("closed 2 ")


@pytest.mark.no_wine("Unix sockets are refused on Windows")
def test_unix_sockets_are_kept_too(server, tmp_path):
    server(NUMBERS, "--workers", "1", listen=[f"unix:{tmp_path}/s"])
    said = client(server, """
      local c, first = get(uri, { pool = true })
      say(c:release())
      local d, second = get(uri, { pool = true })
      say(first == second)
      """, f"unix:{tmp_path}/s")
    assert said == ["true", "true"]


def test_a_stop_closes_what_is_idle(server, numbers):
    one = server(BEGIN + """
    portico.after(0, function() for i = 1, 5 do local c = get(portico.args[1], { pool = true }) c:release() end
    say("ready") end)
    return { listen = {} }""", "--workers", "1", args=[numbers.uri], listen=[], ready=False)
    one.wait_said(1)
    one.stop()
    numbers.wait_log("closed 1 eof")


def test_a_retired_generation_leaves_no_idle_ones(server, numbers, tmp_path):
    if Settings.wine:
        pytest.skip("there is no HUP under Wine")
    script = tmp_path / "client.lua"
    text = BEGIN + """
    portico.after(0, function() local c = get(portico.args[1], { pool = true }) say(c:release()) end)
    return { listen = {} }"""
    script.write_text(text)
    one = server(script, "--workers", "1", "--reload-probation", "0.1", args=[numbers.uri], listen=[], ready=False)
    one.wait_said(1)
    script.write_text(text + "\n-- again\n")
    one.signal(1)
    assert one.wait_said(2) == ["true", "true"]
    numbers.wait_log("closed 1 eof")


def test_wrong_use_raises(server, numbers):
    said = client(server, """
      local function try(...) say((select(2, pcall(...))):gsub("^.-:%d+: ", "") .. "") end
      try(portico.connect, uri, { pool = 7 })
      try(portico.connect, uri, { pool = { size = 0 } })
      try(portico.connect, uri, { pool = { size = 1.5 } })
      try(portico.connect, uri, { pool = { idle = 0 } })
      try(portico.connect, uri, { pool = { ilde = 1 } })
      local c = portico.connect(uri)
      try(c.release, c)
      local d
      d = portico.connect(uri, { pool = true, on_message = function(d) try(d.release, d) end })
      d:send("x")
      portico.sleep(0.3)
      local e = portico.connect(uri, { pool = true })
      portico.spawn(function() e:read("l", 1) end)
      portico.sleep(0.02)
      try(e.release, e)
      """, numbers.uri)
    wanted = ["pool: table or boolean expected, got number", "pool.size: a number of connections from 1 to 1024",
              "pool.size: a number", "pool.idle: a number of seconds above 0", "did you mean 'idle'?",
              "conn:release is for connections that were made by portico.connect with `pool`",
              "one of the connection's handlers runs", "somebody waits for it"]
    assert len(said) == len(wanted), said
    for line, words in zip(said, wanted):
        assert words in line, (line, words)


def test_an_address_ends_where_its_string_ends(server):
    """What stands behind a zero byte belongs to it, too: a script that looks at the end of a name is not led elsewhere."""
    assert client(server, """
      say(portico.connect("tcp://127.0.0.1:1\\0.example.org"))
      say(portico.connect("tcp://one.test:1\\0.example.org", { pool = true }))
      for _, make in ipairs { portico.udp, portico.listen } do
        say((select(2, pcall(make, "udp://127.0.0.1:0\\0.example.org"))):match("the address holds a zero byte"))
      end""") == ["nil the address holds a zero byte invalid"] * 2 + ["the address holds a zero byte"] * 2


# ---- Names with several addresses ----

def with_file(path, place):
    """A prefix that runs a program which finds that file at that place."""
    prefix = ["unshare", "-m", "sh", "-c", f'mount --bind {path} {place} && exec "$@"', "sh"]
    if Settings.wine or subprocess.run([*prefix, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip(f"no {place} of one's own here")
    return prefix


@pytest.fixture
def hosts(tmp_path):
    """hosts(lines): a prefix that runs a program with that /etc/hosts."""
    def make(lines):
        path = tmp_path / "hosts"
        path.write_text(lines)
        return with_file(path, "/etc/hosts")

    return make


@pytest.fixture
def deaf(tmp_path):
    """A prefix that runs a program whose name server does not answer."""
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 127.0.53.1\noptions timeout:30\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as name_server:
        try:
            name_server.bind(("127.0.53.1", 53))
        except OSError as error:
            pytest.skip(f"no name server of one's own here: {error}")
        yield with_file(path, "/etc/resolv.conf")


CONNECT = """
  local start = portico.monotonic()
  local c, message, code = portico.connect(uri, { timeout = 8, on_connect = function(c) say("connected") end,
    on_close = function() say("closed") end, on_message = function() end })
  say(c and c.peer or code, portico.monotonic() - start < 4)
"""


def test_the_next_address_is_tried_when_one_does_not_answer(server, numbers, hosts):
    prefix = hosts("127.0.0.2 two.test\n127.0.0.1 two.test\n")
    silent = full_listener(("127.0.0.2", numbers.port))
    try:
        said = client(server, CONNECT, f"tcp://two.test:{numbers.port}", prefix=prefix)
    finally:
        for one in silent:
            one.close()
    assert said[:2] == ["connected", f"127.0.0.1:{numbers.port} true"]


def test_the_next_address_is_tried_at_once_when_one_refuses(server, numbers, hosts):
    prefix = hosts("127.0.0.3 two.test\n127.0.0.2 two.test\n127.0.0.1 two.test\n")
    said = client(server, CONNECT, f"tcp://two.test:{numbers.port}", prefix=prefix)
    assert said[:2] == ["connected", f"127.0.0.1:{numbers.port} true"]


def test_both_families_are_tried(server, hosts, ipv6):
    prefix = hosts("::1 two.test\n127.0.0.1 two.test\n")
    for address in ("127.0.0.1", "[::1]"):
        one = server(NUMBERS, "--workers", "1", listen=[f"tcp://{address}:0"])
        said = client(server, CONNECT, f"tcp://two.test:{one.port}", prefix=prefix)
        assert said[:2] == ["connected", f"{address}:{one.port} true"]


def test_all_refuse(server, hosts):
    prefix = hosts("127.0.0.3 two.test\n127.0.0.2 two.test\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        port = probe.getsockname()[1]
    assert client(server, CONNECT, f"tcp://two.test:{port}", prefix=prefix) == ["refused true"]


def test_a_look_up_without_descriptors_says_so(server, numbers, hosts):
    prefix = [*hosts("127.0.0.1 one.test\n"), "prlimit", "--nofile=40"]
    assert client(server, """
      local name = uri:gsub("127.0.0.1", "one.test")
      assert(portico.connect(name)) -- glibc that cannot read its own settings says that there is no such name
      repeat until not portico.connect(uri)
      say(select(3, portico.connect(name)))
      for c in portico.conns() do c:abort() end
      local code
      repeat -- the system takes its time with closing
        local c, _
        c, _, code = portico.connect(name)
        portico.sleep(0)
      until c or code ~= "limit"
      say(code == nil)
      """, numbers.uri, prefix=prefix) == ["limit", "true"]


def test_who_is_late_is_dropped_without_a_word(server, numbers, hosts):
    """The first address answers after the second has: nothing of it is heard."""
    prefix = hosts("127.0.0.2 two.test\n127.0.0.1 two.test\n")
    silent = full_listener(("127.0.0.2", numbers.port))
    one = server(BEGIN + "portico.after(0, function() local uri = portico.args[1] " + CONNECT +
                 " end) return { listen = {} }", "--workers", "1", args=[f"tcp://two.test:{numbers.port}"], listen=[],
                 ready=False, prefix=prefix)
    assert one.wait_said(2) == ["connected", f"127.0.0.1:{numbers.port} true"]
    for late in silent[1:]:
        late.close()
    for _ in range(3):
        silent[0].settimeout(1)
        try:
            silent[0].accept()[0].close()
        except socket.timeout:
            break
    silent[0].close()
    until(lambda: one.process.poll() is None)
    one.stop()
    assert one.said() == ["connected", f"127.0.0.1:{numbers.port} true", "closed"]


def test_names_that_are_being_looked_up_hold_up_nobody_else(server, numbers, deaf):
    """Neither addresses, of which "localhost" is one, nor the end of the server, which leaves those look-ups behind."""
    said = client(server, """
      local asked = 0
      for i = 1, 8 do
        portico.spawn(function() asked = asked + 1 portico.connect(("tcp://name%d.test:1"):format(i), { timeout = 60 }) end)
      end
      while asked < 8 do portico.sleep(0) end
      for _, host in ipairs({ "127.0.0.1", "localhost" }) do
        local c, message, code = portico.connect(("tcp://%s:%s"):format(host, uri:match("%d+$")), { timeout = 8 })
        say(c and c.peer or code)
      end
      say(select(3, portico.connect("tcp://one.test:1", { timeout = 0.2 })))
    """, f"tcp://127.0.0.1:{numbers.port}", prefix=deaf)
    assert said == [f"127.0.0.1:{numbers.port}"] * 2 + ["timeout"]
