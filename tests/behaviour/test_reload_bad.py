"""Versions that cannot be used: the one in force serves on, no connection is lost, and the reason is logged once."""

import os
import re
import shutil

import pytest

from reloads import ASK, REFUSED, TAKEN, TELLER, UNDONE, reload, save, say
from rig import SAY

pytestmark = pytest.mark.packets("both")
# Name, text, and what the log says about it. The options below make the endless ones end soon.
BROKEN = {
    "syntax": ("return {\n  on_message = = 1 }", r"script\.lua:2: unexpected symbol"),
    "top level": ("local x = nil\nlocal y = x.field", r"script\.lua:2: attempt to index a nil value"),
    "exit": ("os.exit(1)", r"script\.lua:1: os\.exit would end the server"),
    "memory": ("local t = {}\nfor i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end", r"not enough memory \(cap 4 MiB\)"),
    "no module": ("return require 'not.there'", r"script\.lua:1: module 'not\.there' not found"),
    "cycle": ("return require 'ring_a'", r"ring_b\.lua:1: module 'ring_a' is required while it is being loaded"),
    "no function": ("return { on_message = 'echo' }", r"on_message: function expected, got string"),
    "no handler": ("return { on_mesage = print }", r"unknown handler 'on_mesage': did you mean 'on_message'\?"),
    "no such handler": ("return { on_data = print }", r"unknown handler 'on_data': there are on_connect, on_message, on_stream, "),
    "no such key": ("return { address = 1 }", r"unknown key 'address': there are .*, listen, limits, version, frame, workers"),
    "no table": ("return 5", r"the script returned a number"),
    "bytecode": (b"\x1bLua\x54\x00", "only text can be loaded, not bytecode"),
    "empty": ("", r"script\.lua:1: the file is empty"),
    "blank": (" \n\t\n", r"script\.lua:1: the file is empty"),
    "on_load": ("return { on_message = print,\n on_load = function() error('unfit') end }", r"script\.lua:2: unfit"),
    "on_check": ("return { on_message = print,\n on_check = function() error('unfit') end }", r"script\.lua:2: unfit"),
    "migrate": ("return { version = 2, on_message = print,\n migrate = function(s) return s.a.b.c end }",
                r"script\.lua:2: attempt to index a nil value \(field 'a'\)"),
    "migrate's result": ("return { version = 2, on_message = print,\n migrate = function() return 5 end }",
                         r"script\.lua:2: migrate\(\) returned a number: a table expected"),
    "migrate's state": ("return { version = 2, on_message = print,\n migrate = function() return { cb = print } end }",
                        r"script\.lua:2: .*cb: a function cannot be copied"),
    "one worker": ("if portico.worker.id == 1 then\n error('not here') end return { on_message = print }",
                   r"script\.lua:2: not here"),
    "waiting": ("portico.sleep(1)", r"portico\.sleep cannot wait here"),
    "reloading": ("portico.reload()", r"portico\.reload is for handlers"),
}
KEEPER = "return { on_connect = function(conn) conn.state.n = 0 end, on_message = function(conn, data) " + ASK + \
    "conn.state.n = conn.state.n + 1 return data .. conn.state.n end }"


def reasons(one, reason):
    """The lines that say why, but for those that sum up."""
    return [line for line in one.log(reason) if not re.search(REFUSED, line)]


def test_a_broken_version_changes_nothing(server):
    one = server(KEEPER, "--workers", "2", "--lua-memory", "4M", "--load-budget", "20")
    save(one, "require 'ring_b'", "ring_a.lua")
    save(one, "require 'ring_a'", "ring_b.lua")
    clients = [one.connect() for _ in range(4)]
    for name, (text, reason) in BROKEN.items():
        count = len(reasons(one, reason))
        refusals = len(one.log(REFUSED))
        save(one, text)
        assert say(clients[0], "reload") == "asked"
        one.wait_log(REFUSED, refusals + 1, 60)
        assert len(reasons(one, reason)) == count + 1, f"{name}:\n{one.text()}"
        for client in clients[1:]:
            assert say(client, "x").startswith("x"), name
    assert [say(client, "x") for client in clients[1:]] == [f"x{len(BROKEN) + 1}"] * 3
    save(one, KEEPER)
    reload(one, clients[0])
    assert [say(client, "x") for client in clients[1:]] == [f"x{len(BROKEN) + 2}"] * 3
    for client in clients:
        client.close()
    assert not one.log(UNDONE)


def test_a_file_that_is_gone_or_cannot_be_read(server):
    one = server(TELLER % "a")
    path = one.directory / "script.lua"
    with one.connect() as client:
        path.unlink()
        assert "no such file" in reload(one, client, REFUSED)
        path.mkdir()
        assert "cannot read" in reload(one, client, REFUSED)
        path.rmdir()
        save(one, TELLER % "b")
        reload(one, client)
        assert say(client, "x") == "b:x"


@pytest.mark.no_wine("no FIFOs")
def test_a_module_that_is_a_pipe_is_not_waited_for(server):
    """Whoever opened it would wait for a writer, and with it every reload and every command."""
    one = server("pcall(require, 'part') " + TELLER % "a")
    os.mkfifo(one.directory / "part.lua")
    with one.connect() as client:
        reload(one, client)
        save(one, "require 'part'")
        refusal = reload(one, client, REFUSED)
        assert re.search(r"cannot read .*/part\.lua: is a pipe or a device, and no ordinary file \(in module 'part'\)", refusal)
        (one.directory / "script.lua").unlink()
        os.mkfifo(one.directory / "script.lua")
        assert "is a pipe" in reload(one, client, REFUSED)
        assert say(client, "x") == "a:x"


@pytest.mark.no_wine("no modes of files")
def test_a_module_that_may_not_be_read_is_not_said_to_be_missing(server, tmp_path):
    prefix = []
    if os.geteuid() == 0:
        prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
        if not shutil.which("setpriv"):
            pytest.skip("root may read everything, and there is no setpriv")
    part = tmp_path / "server0" / "part" / "init.lua"
    part.parent.mkdir(parents=True)
    part.touch(0)
    one = server("require 'part'", ready=False, prefix=prefix)
    assert one.wait_end() == 3
    assert one.log(r"cannot read .*/part/init\.lua: [Pp]ermission denied \(in module 'part'\)"), one.text()


@pytest.mark.budget
def test_an_endless_loop_at_top_level(server):
    one = server(KEEPER, "--load-budget", "1", "--workers", "2")
    with one.connect() as client, one.connect() as other:
        save(one, "while true do end")
        assert say(client, "reload") == "asked"
        count = 0
        while not one.log(REFUSED):
            count += 1
            assert say(other, "x") == f"x{count}"
            assert count < 1000000
        assert len(one.log(r"error .*script\.lua:1: load budget of 1 s exceeded")) == 1
        assert count > 10  # served meanwhile
        assert say(client, "x") == "x1"


@pytest.mark.budget
def test_an_endless_loop_in_a_coroutine_of_on_load(server):
    one = server(KEEPER, "--load-budget", "0.5")
    with one.connect() as client:
        save(one, "return { on_load = function() coroutine.wrap(function() while true do pcall(error) end end)() end }")
        assert "load budget of 0.5 s exceeded" in reload(one, client, REFUSED, 60)
        assert say(client, "x") == "x1"


def test_errors_only_in_the_first_handlers(server):
    one = server(KEEPER, "--reload-error-limit", "3")
    clients = [one.connect() for _ in range(6)]
    for client in clients:
        assert say(client, "x") == "x1"
    save(one, "local calls = 0 return { on_error = function() return 'keep' end, on_message = function(conn, data) "
              "calls = calls + 1 if calls <= 4 then error('not yet') end return 'late' end }")
    reload(one, clients[0])
    for _ in range(2):
        for client in clients[:4]:
            client.send("y")
    one.wait_log(UNDONE)
    for client in clients:
        client.close()


def test_the_same_bad_version_is_tried_again_when_asked_for(server):
    one = server(TELLER % "a")
    with one.connect() as client:
        save(one, "error('unfit')")
        reload(one, client, REFUSED)
        reload(one, client, REFUSED)
        assert len(one.log(r"error .*script\.lua:1: unfit")) == 2


def test_stopping_ends_a_version_that_loads(server):
    one = server(TELLER % "a", "--load-budget", "60", "--drain-timeout", "1")
    with one.connect() as client:
        save(one, "while true do pcall(math.abs, 1) end")
        assert say(client, "reload") == "asked"
        assert say(client, "x") == "a:x"
        client.close()
        one.stop(seconds=20)


# What a version says to others, and does to connections, while it loads; worker by worker.
TALKER = SAY + """
portico.subscribe("load", function(v) say("%s", portico.worker.id, "hears", v) end)
"""
LOUD = TALKER % "new" + """
for conn in portico.conns() do conn:send("from a candidate") end
for id = 1, 64 do
  local conn = portico.conn(id)
  if conn then conn:send("from a candidate") end
end
portico.broadcast("broadcast")
portico.publish("load", portico.worker.id)
"""


def test_a_version_that_is_refused_has_said_nothing(server):
    one = server(TALKER % "old" + TELLER % "a", "--workers", "2")
    with one.connect() as client, one.connect() as other:
        assert say(other, "x") == "a:x"
        save(one, LOUD + "portico.shutdown(3) error('unfit')")
        reload(one, client, REFUSED)
        save(one, LOUD + "portico.shutdown(3) return { version = 2, migrate = function() error('unfit') end }")
        reload(one, client, REFUSED)
        assert say(other, "x") == "a:x"
        assert say(client, "x") == "a:x"
        assert one.said() == []


def test_what_a_version_says_while_it_loads_is_heard_when_it_is_in_force(server):
    one = server(TALKER % "old" + TELLER % "a", "--workers", "2")
    with one.connect() as client, one.connect() as other:
        assert say(other, "x") == "a:x"
        save(one, TALKER % "new" + "portico.broadcast('broadcast') portico.publish('load', portico.worker.id)" + TELLER % "b")
        reload(one, client)
        assert other.take(18) == b"broadcast" * 2  # of both workers
        assert client.take(18) == b"broadcast" * 2
        assert sorted(one.wait_said(4)) == [f"new {to} hears {of}" for to in (0, 1) for of in (0, 1)]
        assert say(other, "x") == "b:x"


def test_a_version_that_stops_the_server_while_it_loads_comes_into_force_first(server):
    one = server(TELLER % "a", "--workers", "2")
    with one.connect() as client:
        save(one, "portico.shutdown(7) return {}")
        assert say(client, "reload") == "asked"
        one.check_end(7)
        assert len(one.log(TAKEN)) == 1


def test_what_waits_for_a_version_to_be_in_force_is_bounded(server):
    one = server(TELLER % "a", "--workers", "1")
    with one.connect() as client:
        save(one, SAY + "local ok, message, code repeat ok, message, code = portico.publish('t', ('x'):rep(1 << 20)) until not ok "
                        "say(message, code) " + TELLER % "b")
        reload(one, client)
        assert one.wait_said(1) == ["too much is posted while the script loads limit"]
        assert say(client, "x") == "b:x"
