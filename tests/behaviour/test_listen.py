"""portico.listen, and names of listeners: at load time, later on, and across reloads."""

import socket
import threading

import pytest

from reloads import ASK, REFUSED, UNDONE, reload, save, say
from rig import SAY, Client, free_port, run, refuses, until

pytestmark = pytest.mark.packets("both")

HANDLERS = """return { %s on_message = function(conn, data) """ + ASK + """
  if data == 'fail' then error('bad') end
  if command and command(data) then return command(data) end
  return conn.listener end, on_error = function() return 'keep' end }"""


def uri(port):
    return f"tcp://127.0.0.1:{port}"


def ask(port, word="x"):
    with Client(("127.0.0.1", port)) as client:
        return say(client, word)


def port_of(text):
    return int(text.rsplit(":", 1)[1])


def wants(*wishes, main="listen = 'tcp://127.0.0.1:0',"):
    """A script that wants those (uri, name or None) beside a first address."""
    lines = [f"assert(portico.listen{{uri='{where}'" + (f", name='{name}'" if name else "") + "})" for where, name in wishes]
    return "\n".join(lines) + "\n" + HANDLERS % main


COMMAND = SAY + """
local open = {}
local function command(conn, data)
  local verb, name, where = data:match('(%w+) (%w+) ?(.*)')
  if verb == 'open' then
    local l, message, code = portico.listen{uri=where, name=name ~= 'none' and name or nil}
    open[name] = l
    return l and l.name .. ' ' .. l.uri or message .. ' ' .. code
  elseif verb == 'close' then
    local ok, message = open[name]:close()
    return tostring(ok) .. ' ' .. tostring(message) .. ' ' .. tostring(open[name].uri)
  elseif verb == 'raise' then
    return select(2, pcall(portico.listen, {uri=where, name=name}))
  end
end
return { listen = 'tcp://127.0.0.1:0', on_message = function(conn, data) """ + ASK + \
    """return command(conn, data) or conn.listener end }"""


def test_a_named_listener_of_all_workers_is_one(server):
    port = free_port()
    one = server(SAY + f"local l = portico.listen{{uri='{uri(port)}', name='admin'}}\n"
                 "return { listen = { {uri='tcp://127.0.0.1:0', name='main'}, 'tcp://127.0.0.1:0' },"
                 " on_load = function() say(l.name, l.uri, tostring(l)) end,"
                 " on_message = function(conn) return conn.listener end }", "--workers", "3", listen=())
    assert one.wait_said(3) == [f"admin {uri(port)} listener ({uri(port)})"] * 3
    assert len(one.addresses) == 3
    names = sorted(ask(address[1]) for address in one.addresses)
    assert names[:2] == ["admin", "main"] and names[2].startswith("tcp://127.0.0.1:")


def test_without_a_name_the_name_is_the_address(server):
    one = server(SAY + "local a, b = portico.listen('tcp://127.0.0.1:0'), portico.listen{uri='tcp://127.0.0.1:0'}\n"
                 "return { listen = {}, on_message = function(conn) return a.uri .. ' ' .. b.name end }",
                 "--workers", "2", listen=())
    assert len(one.addresses) == 2
    for _ in range(4):  # whichever worker it is
        assert sorted(ask(one.port).split()) == sorted(uri(address[1]) for address in one.addresses)


def test_a_script_that_listens_gets_no_default_address(server):
    one = server("portico.listen('tcp://127.0.0.1:0')\nfunction on_message(conn, data) return data end", listen=())
    assert len(one.addresses) == 1 and one.port != 7777
    assert ask(one.port, "x") == "x"


def test_from_on_load_it_is_the_same(server):
    one = server("return { listen = {}, on_load = function() portico.listen{uri='tcp://127.0.0.1:0', name='late'} end,"
                 " on_message = function(conn) return conn.listener end }", "--workers", "2", listen=())
    assert len(one.addresses) == 1
    assert ask(one.port) == "late"


@pytest.mark.parametrize("script, says", [
    ("portico.listen{uri='tcp://127.0.0.1:1', name='a'} portico.listen{uri='tcp://127.0.0.1:2', name='a'}",
     "the name 'a' is that of tcp://127.0.0.1:1 already"),
    ("portico.listen{uri='tcp://127.0.0.1:1', name='a'} portico.listen{uri='tcp://127.0.0.1:1', name='b'}",
     "tcp://127.0.0.1:1 is listened on already, as 'a'"),
    ("portico.listen{uri='tcp://127.0.0.1:' .. portico.worker.id + 1, name='a'}", "the name 'a' is that of"),
    ("portico.listen{}", "bad argument #1 to 'listen' (uri: a string like"),
    ("portico.listen()", "a string like \"tcp://127.0.0.1:7777\""),
    ("portico.listen{uri='tcp://nowhere'}", "cannot use 'tcp://nowhere'"),
    ("portico.listen{uri='tcp://127.0.0.1:1', nam='x'}", "unknown option 'nam': did you mean 'name'?"),
    ("portico.listen{uri='tcp://127.0.0.1:1', [2]='x'}", "the key 2 is no name: name = value expected"),
    ("portico.listen{uri='tcp://127.0.0.1:1', name=5}", "name: string expected, got number"),
    ("portico.listen{uri='tcp://127.0.0.1:1', name='a:b'}", "name: 1 to 64 bytes without blanks and colons expected"),
    ("return { listen = { { name = 'x' } } }", "listen: uri: a string like"),
    ("return { listen = { address = 'x' } }", "listen: unknown option 'address': there are uri, name"),
    ("return { listen = '7777' }", "listen: cannot use '7777' in `listen` as an address: "
     "the host is missing, as in 127.0.0.1:7777"),
    ("return { listen = { {uri='tcp://127.0.0.1:1', name='a'}, {uri='tcp://127.0.0.1:2', name='a'} } }",
     "listen: the name 'a' is that of"),
    ("for i = 1, 65 do assert(portico.listen{uri='tcp://127.0.0.1:0', name='n' .. i}) end", "more than 64 addresses"),
])
def test_what_cannot_be_meant_does_not_load(tmp_path, script, says):
    path = tmp_path / "script.lua"
    path.write_text(script)
    result = run("--workers", "2", path)
    assert result.returncode == 3
    assert says in result.stderr


def test_an_address_in_use_is_a_failure_to_listen(server, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = uri(taken.getsockname()[1])
        path = tmp_path / "script.lua"
        path.write_text(f"portico.listen{{uri='{where}'}}")
        result = run(path)
        assert result.returncode == 4 and f"cannot listen on {where}" in result.stderr
        assert run("--check", path).returncode == 0  # which binds nothing


def test_handlers_open_and_close(server):
    one = server(COMMAND, "--workers", "2", listen=())
    with one.connect() as client, one.connect() as other:  # on two workers
        name, where = say(client, "open admin tcp://127.0.0.1:0").split()
        assert name == "admin"
        port = port_of(where)
        assert ask(port) == "admin"
        assert say(other, f"open admin tcp://127.0.0.1:0") == f"admin {where}"  # the same
        until(lambda: where in one.address_file.read_text(), 10, "the new address in its file")
        one.wait_log(f"listening on .*{port} from now on")
        with Client(("127.0.0.1", port)) as kept:
            assert say(client, "close admin") == "true nil nil"
            until(lambda: refuses(port), 10, "the end of listening")
            assert say(other, "close admin") == "nil closed nil"
            assert say(kept, "x") == "admin"  # who is there stays
        until(lambda: where not in one.address_file.read_text(), 10, "its end in the file")


def test_handlers_are_told_what_fails(server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = uri(taken.getsockname()[1])
        one = server(COMMAND, listen=())
        with one.connect() as client:
            assert say(client, f"open x {where}") == f"cannot listen on {where}: address already in use in_use"
            assert say(client, "open x udp://127.0.0.1:0").endswith("when the server starts unsupported")
            say(client, "open y tcp://127.0.0.1:0")
            assert "the name 'y' is that of" in say(client, "raise y tcp://127.0.0.1:1")


def test_without_a_name_each_call_of_a_handler_has_a_port_of_its_own(server):
    one = server(COMMAND, listen=())
    with one.connect() as client:
        ports = {say(client, "open none tcp://127.0.0.1:0").split()[1] for _ in range(5)}
        assert len(ports) == 5


def test_timers_listen_too(server):
    one = server(SAY + "portico.after(0, function() local l = portico.listen{uri='tcp://127.0.0.1:0', name='t'} say(l.name) end)\n"
                 "return { listen = 'tcp://127.0.0.1:0', on_message = function(conn) return conn.listener end }",
                 "--workers", "1", listen=())
    assert one.wait_said(1) == ["t"]
    until(lambda: len(one.address_file.read_text().split()) == 2, 10, "its address")
    assert sorted(ask(port_of(line)) for line in one.address_file.read_text().split())[0] == "t"


def test_names_are_kept_moved_and_dropped(server):
    kept, old, new, gone = (free_port() for _ in range(4))
    one = server(wants((uri(kept), "kept"), (uri(old), "moved"), (uri(gone), "gone"), main="listen = {},"),
                 "--reload-probation", "0", "--workers", "2", listen=())
    with Client(("127.0.0.1", kept)) as client, Client(("127.0.0.1", gone)) as other:
        save(one, wants((uri(kept), "kept"), (uri(new), "moved"), main="listen = {},"))
        reload(one, client)
        until(lambda: refuses(gone) and refuses(old), 10, "the end of listening")
        assert [ask(kept), ask(new)] == ["kept", "moved"]
        assert say(other, "x") == "gone"
        save(one, wants((uri(kept), "renamed"), (uri(new), None), main="listen = {},"))
        reload(one, client)
        until(lambda: ask(kept) == "renamed", 10, "the new name")
        assert ask(new) == uri(new)
        assert say(client, "x") == "kept"  # what it was when it came


def test_a_port_that_the_system_chose_follows_the_name(server):
    one = server(wants(("tcp://127.0.0.1:0", "a"), ("tcp://127.0.0.1:0", "b"), main="listen = {},"), "--reload-probation", "0",
                 listen=())
    ports = {ask(address[1]): address[1] for address in one.addresses}
    with Client(("127.0.0.1", ports["b"])) as client:
        save(one, wants(("tcp://127.0.0.1:0", "b"), (uri(ports["a"]), "first"), main="listen = {},"))
        reload(one, client)
        until(lambda: ask(ports["a"]) == "first", 10, "the new name")
        assert ask(ports["b"]) == "b"
        assert len(one.address_file.read_text().split()) == 2


def test_what_cannot_be_had_refuses_the_reload(server):
    kept, new = free_port(), free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        one = server(wants((uri(kept), "kept"), main="listen = {},"), listen=())
        before = one.address_file.read_text()
        with one.connect() as client:
            save(one, wants((uri(kept), "other"), (uri(new), "new"), (uri(taken.getsockname()[1]), "x"), main="listen = {},"))
            assert "cannot listen on" in reload(one, client, REFUSED)
            assert refuses(new) and ask(kept) == "kept"
            save(one, wants((uri(kept), "kept"), (uri(new), "kept"), main="listen = {},"))
            assert "the name 'kept' is that of" in reload(one, client, REFUSED)
            save(one, wants((uri(kept), "kept"), (uri(new), "new"), main="listen = {},"))
            reload(one, client)
            until(lambda: not refuses(new), 10, "listening")
        assert before in one.address_file.read_text()


def test_going_back_takes_the_old_ones_back(server):
    kept, old, new = (free_port() for _ in range(3))
    one = server(wants((uri(kept), "kept"), (uri(old), "x"), main="listen = {},"), "--reload-error-limit", "0", listen=())
    with Client(("127.0.0.1", kept)) as client:
        save(one, wants((uri(kept), "renamed"), (uri(new), "x"), main="listen = {},"))
        reload(one, client)
        until(lambda: ask(kept) == "renamed", 10, "the new name")
        assert [ask(old), ask(new)] == ["x", "x"]  # during the probation
        client.send("fail")
        one.wait_log(UNDONE)
        until(lambda: refuses(new), 10, "the end of listening")
        assert ask(kept) == "kept" and ask(old) == "x"


def test_what_handlers_opened_ends_with_their_version_unless_the_next_wants_it(server):
    one = server(COMMAND, "--reload-probation", "0", listen=())
    with one.connect() as client:
        a = say(client, "open a tcp://127.0.0.1:0").split()[1]
        b = say(client, "open b tcp://127.0.0.1:0").split()[1]
        save(one, COMMAND.replace("local open = {}", "local open = {} portico.listen{uri='tcp://127.0.0.1:0', name='b'}"))
        reload(one, client)
        until(lambda: refuses(port_of(a)), 10, "the end of listening")
        assert ask(port_of(b)) == "b"


def test_none_is_refused_while_versions_come_and_go(server):
    port, other = free_port(), free_port()
    one = server(wants((uri(port), "kept"), main="listen = {},"), "--reload-probation", "0", "--workers", "2", listen=())
    stop, outcome = threading.Event(), {"asked": 0, "failed": []}

    def knock():
        while not stop.is_set():
            try:
                outcome["asked"] += 1
                assert ask(port) == "kept"
            except OSError as error:
                outcome["failed"].append(error)

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        with one.connect() as client:
            for number in range(30):
                wishes = [(uri(port), "kept")] + ([(uri(other), None)] if number % 3 == 0 else [])
                save(one, wants(*wishes, main="listen = {},"))
                reload(one, client)
                save(one, wants((uri(port), "kept"), (uri(1), "kept"), main="listen = {},"))
                reload(one, client, REFUSED)
    finally:
        stop.set()
        thread.join()
    assert outcome["asked"] > 10 and not outcome["failed"]


@pytest.mark.no_wine("there are no Unix sockets")
def test_unix_sockets_have_names_too(server, tmp_path):
    path = tmp_path / "a.sock"
    one = server(COMMAND, listen=())
    with one.connect() as client:
        assert say(client, f"open u unix:{path}") == f"u unix:{path}"
        with Client(str(path)) as peer:
            assert say(peer, "x") == "u"
        assert say(client, "open v unix:/no/such/directory/x").startswith("cannot listen on unix:/no/such/directory/x: ")
        say(client, "close u")
        until(lambda: not path.exists(), 10, "the end of the socket")


def test_datagrams_of_a_named_listener(server):
    port = free_port()
    script = f"portico.listen{{uri='udp://127.0.0.1:{port}', name='dns'}}\n" \
        "return { listen = 'tcp://127.0.0.1:0', on_message = function(peer, data) " + ASK + "return %s end }"
    one = server(script % "peer.listener", "--reload-probation", "0", "--workers", "2", listen=())

    def query():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.settimeout(10)
            peer.sendto(b"x", ("127.0.0.1", port))
            return peer.recv(100).decode()

    tcp = next(port_of(line) for line in one.address_file.read_text().split() if line.startswith("tcp"))
    assert query() == "dns"
    with Client(("127.0.0.1", tcp)) as client:
        for round_ in range(2):
            save(one, script % f"peer.listener .. '{round_}'")
            reload(one, client)
            assert query() == f"dns{round_}"
        save(one, "return { listen = 'tcp://127.0.0.1:0', on_message = function(peer, data) " + ASK + "return 'later' end }")
        reload(one, client)
        assert query() == "later"  # let be until the end


def test_a_server_that_stops_listens_no_more(server):
    one = server(SAY + "return { listen = 'tcp://127.0.0.1:0', on_message = function() say('here') portico.sleep(0.5)"
                 " local l, message, code = portico.listen('tcp://127.0.0.1:0') say(l, message, code) end,"
                 " on_unload = function() say(select(3, portico.listen('tcp://127.0.0.1:0'))) end }", "--workers", "1", listen=())
    with one.connect() as client:
        client.send("x")
        one.wait_said(1)
        one.stop()
    assert one.said() == ["here", "nil the server is stopping closed", "closed"]
