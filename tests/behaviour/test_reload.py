"""One version of the script follows another while connections stay open."""

import re
import signal
import threading

import pytest

from reloads import ASK, REFUSED, TAKEN, TELLER, UNDONE, generation, reload, save, say
from rig import SAY, Settings, pattern, run, scaled, until

pytestmark = pytest.mark.packets("both")


def test_an_open_connection_is_served_by_the_new_version(server):
    one = server(TELLER % "a")
    with one.connect() as client:
        assert say(client, "x") == "a:x"
        save(one, TELLER % "b")
        line = reload(one, client)
        assert "generation 2" in line and "from generation 1" in line
        assert say(client, "x") == "b:x"
        with one.connect() as other:
            assert say(other, "y") == "b:y"


def test_the_same_text_may_be_loaded_again(server):
    one = server(TELLER % "a")
    with one.connect() as client:
        for number in range(2, 6):
            assert generation(reload(one, client)) == number
        assert say(client, "x") == "a:x"


@pytest.mark.no_wine("there is no HUP")
def test_hup_reloads(server):
    one = server(TELLER % "a")
    with one.connect() as client:
        save(one, TELLER % "b")
        one.signal(signal.SIGHUP)
        one.wait_log(TAKEN)
        assert say(client, "x") == "b:x"


def test_what_is_no_file_is_not_read_again(server):
    one = server(None)
    if not Settings.wine:
        one.signal(signal.SIGHUP)
        one.wait_log(REFUSED + "the script is no file")


# ---- State ----

STATEFUL = """return {
  version = %d,
  on_message = function(conn, data)
    """ + ASK + """
    local state = conn.state
    state.count = (state.count or 0) + 1
    return conn.generation .. ":" .. state.count .. ":" .. tostring(state.note)
  end,
  %s
}
"""


def test_the_state_of_a_connection_is_carried_over(server):
    one = server(STATEFUL % (1, ""))
    with one.connect() as client:
        assert say(client, "x") == "1:1:nil"
        reload(one, client)
        assert say(client, "x") == "2:2:nil"


def test_a_state_keeps_its_shape(server):
    text = """local function mine(s) return s.a == s.b and s.a.me == s.a and s.list[3] == 2.5 and s[1] == true and
        s.text == ("x"):rep(1000) .. "\\0" and math.type(s.n) == "integer" end
    return { on_connect = function(conn) local t = {} t.me = t
        conn.state = { a = t, b = t, list = { 1, "two", 2.5 }, true, text = ("x"):rep(1000) .. "\\0", n = 1 << 62 } end,
      on_message = function(conn, data) """ + ASK + "return tostring(mine(conn.state)) end }"
    one = server(text)
    with one.connect() as client:
        assert say(client, "x") == "true"
        reload(one, client)
        assert say(client, "x") == "true"


def test_migrate_sees_each_connection_once(server):
    one = server(STATEFUL % (1, ""))
    with one.connect() as client, one.connect() as fresh:
        assert say(client, "x") == "1:1:nil"
        migrate = "migrate = function(state, from) state.note = (state.note or '') .. 'from ' .. from; return state end"
        save(one, STATEFUL % (2, migrate))
        reload(one, client)
        assert say(client, "x") == "2:2:from 1"
        assert say(fresh, "x") == "2:1:from 1"
        reload(one, client)  # the version is the same: nothing to migrate
        assert say(client, "x") == "3:3:from 1"


def test_a_new_version_needs_migrate(server):
    one = server(STATEFUL % (1, ""))
    with one.connect() as client:
        save(one, STATEFUL % (2, ""))
        assert "`version` is 2 and was 1" in reload(one, client, REFUSED)
        assert say(client, "x") == "1:1:nil"


@pytest.mark.parametrize("value, path", [
    ("function() end", "state: a function"),
    ("{ list = { 1, { cb = print } } }", r"state\.list\[2\]\.cb: a function"),
    ("{ co = coroutine.create(print) }", r"state\.co: a coroutine"),
    ("{ me = conn }", r"state\.me: a userdata"),
    ("setmetatable({}, {})", "state: a table with a metatable"),
])
def test_what_cannot_be_carried_over_is_refused_when_it_is_stored(server, value, path):
    one = server("return { on_message = function(conn, data) conn.state.kept = 1 "
                 f"local ok, why = pcall(function() conn.state = {value} end) return tostring(conn.state.kept) .. why end }}")
    with one.connect() as client:
        assert re.search(path, say(client, "x"))


def test_a_state_that_cannot_be_copied_refuses_the_reload(server):
    one = server("return { on_message = function(conn, data) " + ASK + "conn.state.cb = print return 'kept' end }")
    with one.connect() as client, one.connect() as other:
        assert say(other, "x") == "kept"
        assert r"state.cb: a function cannot be copied" in reload(one, client, REFUSED)
        assert say(other, "x") == "kept"


# ---- What a version brings with it ----

def test_limits_receive_mode_and_half_open_follow_the_script(server):
    ready = """return { on_readable = function(conn) local data = conn:recv() if data == nil then return end
        if data == 'reload' then portico.reload() data = 'asked' end conn:send(data == 'asked' and data or 'r:' .. data) end,
      on_eof = function(conn) conn:send('eof') conn:close() end, limits = { idle = %s } }"""
    one = server(TELLER % "a")
    with one.connect() as client, one.connect() as other:
        assert say(client, "x") == "a:x"
        save(one, ready % 0)
        reload(one, client)
        assert say(client, "y") == "r:y"
        assert say(other, "z") == "r:z"
        save(one, TELLER % "b")
        reload(one, client)
        assert say(other, "z") == "b:z"
        save(one, ready % 1)
        reload(one, other)
        other.finish()
        assert other.rest() == b"eof"
        assert client.rest() == b""  # idle


def test_what_a_connection_set_for_itself_stays(server):
    text = """return { limits = { idle = 0.3 }, on_connect = function(conn) conn:set{ idle = 0, half_open = true } end,
      on_eof = function(conn) conn:send('eof') conn:close() end, on_message = function(conn, data) """ + ASK + "end }"
    one = server(text)
    with one.connect() as client:
        reload(one, client)
        assert client.silent(1)
        client.finish()
        assert client.rest() == b"eof"


def test_on_close_runs_in_the_new_version_with_the_state(server):
    text = SAY + "return { on_connect = function(conn) conn.state.n = 7 end, on_message = function(conn, data) " + ASK + \
        "end, on_close = function(conn, reason) say('%s', conn.state.n, reason) end }"
    one = server(text % "a")
    with one.connect() as client, one.connect() as other:
        say(client, "reload")
        one.wait_log(TAKEN)
        save(one, text % "b")
        reload(one, client)
        other.close()
        one.wait_said(1)
    assert sorted(one.wait_said(2)) == ["b 7 eof", "b 7 eof"]


def test_modules_belong_to_the_version(server, tmp_path):
    main = "local words = require 'parts.words' return { on_message = function(conn, data) " + ASK + "return words.mark end }"
    directory = tmp_path / "server0"
    (directory / "parts").mkdir(parents=True)
    (directory / "parts" / "words.lua").write_text("\ufeff# words\nreturn { mark = 'one' }", encoding="utf-8")
    one = server(main)
    with one.connect() as client:
        assert say(client, "x") == "one"
        save(one, "return { mark = 'two' }", "parts/words.lua")
        assert say(client, "x") == "one"
        reload(one, client)
        assert say(client, "x") == "two"
        save(one, "return { mark = ", "parts/words.lua")
        assert "words.lua:1:" in reload(one, client, REFUSED)
        assert say(client, "x") == "two"


def test_a_module_that_is_first_needed_later_is_the_same_for_all(server, tmp_path):
    main = "return { on_message = function(conn, data) " + ASK + "return require('late').mark .. portico.worker.id end }"
    one = server(main, "--workers", "2")
    save(one, "return { mark = 'one' }", "late.lua")
    clients = [one.connect() for _ in range(4)]
    first = say(clients[0], "x")
    save(one, "return { mark = 'two' }", "late.lua")
    answers = {say(client, "x") for client in clients}
    assert answers == {"one0", "one1"} and first in answers
    reload(one, clients[0])
    assert {say(client, "x") for client in clients} == {"two0", "two1"}
    for client in clients:
        client.close()


def test_hooks_tell_what_happens(server):
    text = SAY + """local function tell(name) return function(ctx) say(name, '%s', ctx.generation, ctx.reload) end end
      return { on_load = tell 'load', on_check = tell 'check', on_unload = tell 'unload',
        on_message = function(conn, data) """ + ASK + "end }"
    one = server(text % "a", "--workers", "1", "--reload-probation", "0")
    with one.connect() as client:
        assert one.wait_said(2) == ["load a 1 false", "check a 1 false"]
        save(one, text % "b")
        reload(one, client)
        assert one.wait_said(5) == ["load a 1 false", "check a 1 false", "load b 2 true", "check b 2 true",
                                    "unload a 1 false"]


def test_check_runs_on_check(tmp_path):
    path = tmp_path / "script.lua"
    path.write_text("return { on_check = function() error('not fit') end, on_message = print }", encoding="utf-8")
    ended = run("--check", path)
    assert ended.returncode == 3 and "not fit" in ended.stderr


def test_check_warns_of_what_cannot_be_carried_over(tmp_path):
    path = tmp_path / "script.lua"
    path.write_text("require 'part'\nreturn { on_message = function(conn)\n  conn.state.cb = function() end\nend }\n", encoding="utf-8")
    (tmp_path / "part.lua").write_text("function keep(c) c.state.co = coroutine.create(print) end", encoding="utf-8")
    ended = run("--check", path)
    assert ended.returncode == 0
    assert re.search(r"script\.lua:3: a function is put into conn\.state", ended.stderr)
    assert re.search(r"part\.lua:1: a coroutine is put into conn\.state", ended.stderr)


# ---- Going back ----

BAD = """return { version = 1, on_error = function() return 'keep' end,
  on_message = function(conn) conn.state.count = 99 error('bad') end }"""


def test_a_version_whose_handlers_raise_is_undone(server):
    one = server(STATEFUL % (1, ""), "--reload-error-limit", "2", "--reload-probation", "600")
    clients = [one.connect() for _ in range(5)]
    for client in clients:
        assert say(client, "x") == "1:1:nil"
    save(one, BAD)
    reload(one, clients[0])
    for client in clients[:3]:
        client.send("x")
    assert "3 errors" in one.wait_log(UNDONE)[0]
    for client in clients:
        assert say(client, "x") == "1:2:nil"
        client.close()


def test_who_came_meanwhile_is_taken_back_with_a_copy_of_the_state(server):
    good = STATEFUL % (1, "migrate = function(state, from) state.note = 'back from ' .. from return state end")
    bad = STATEFUL % (2, "migrate = function(state) return state end, on_connect = function(conn) conn.state.count = 5 end, "
                         "on_readable = nil")
    bad = bad.replace("local state", "if data == 'fail' then error('bad') end local state")
    one = server(good, "--reload-error-limit", "0")
    with one.connect() as old:
        assert say(old, "x") == "1:1:nil"
        save(one, bad)
        reload(one, old)
        assert say(old, "x") == "2:2:nil"
        with one.connect() as fresh, one.connect() as victim:
            assert say(fresh, "x") == "2:6:nil"
            victim.send("fail")
            one.wait_log(UNDONE)
            assert say(old, "x") == "1:2:nil"
            assert say(fresh, "x") == "1:7:back from 2"
            assert victim.is_over()


def test_a_state_that_cannot_be_migrated_undoes_the_version(server):
    # migrate() is tried on copies before, and here with success.
    one = server(STATEFUL % (1, ""), "--workers", "1")
    clients = [one.connect() for _ in range(4)]
    for client in clients:
        assert say(client, "x") == "1:1:nil"
    save(one, STATEFUL % (2, "migrate = function(state) tried = (tried or 0) + 1 "
                             "if tried > 6 then error('enough') end return state end"))
    reload(one, clients[0], UNDONE)
    assert len(one.log("enough")) == 1
    for client in clients:
        assert say(client, "x") == "1:2:nil"
        client.close()


LASTING = """return { %s
  on_error = function() return 'keep' end,
  on_message = function(conn, data)
    """ + ASK + """
    if data == 'fail' then error('bad') end
    local state = conn.state
    if data ~= 'look' then state.a, state.b, state.c = data, { data }, nil end
    if data == 'c' then state.c = true end
    return ("%%s %%s %%s"):format(state.a, state.b and state.b[1], state.c)
  end }"""


def test_what_is_lasting_is_not_undone(server):
    one = server(LASTING % "lasting = { 'b', { 'c' } },", "--reload-error-limit", "0", "--reload-probation", "600")
    with one.connect() as some, one.connect() as none, one.connect() as quiet:
        assert say(some, "c") == "c c true"
        assert say(quiet, "x") == "x x nil"
        assert say(none, "look") == "nil nil nil"
        save(one, LASTING % "")
        reload(one, some)
        assert say(some, "y") == "y y nil"
        assert say(none, "c") == "c c true"
        some.send("fail")
        one.wait_log(UNDONE)
        assert say(some, "look") == "c y nil"  # also that there is nothing now is lasting
        assert say(none, "look") == "nil c true"
        assert say(quiet, "look") == "x x nil"


def test_after_probation_there_is_no_way_back(server):
    one = server(SAY + (TELLER % "a").replace("return {", "return { on_unload = function() say('gone') end, ", 1),
                 "--workers", "1", "--reload-probation", "0.2", "--reload-error-limit", "0")
    with one.connect() as client:
        save(one, "return { on_error = function() return 'keep' end, "
                  "on_message = function(conn, data) " + ASK + "error('bad') end }")
        reload(one, client)
        one.wait_said(1)  # the version before has been let go
        client.send("x")
        one.wait_log("bad")
        assert not one.log(UNDONE)


# ---- Under load ----

def talk(client, index, until_event, errors):
    """Positional data there and back, until told to stop."""
    offset = 0
    try:
        while not until_event.is_set():
            data = pattern(index, offset, 64)
            if client.ask(data) != data:
                errors.append(f"client {index}: wrong bytes at {offset}")
                return
            offset += 64
    except Exception as error:  # pylint: disable=broad-except
        errors.append(f"client {index}: {error!r} at {offset}")


# These echo as well, each in its way.
ECHOES = [
    "return { on_message = function(conn, data) " + ASK + "conn.state.n = (conn.state.n or 0) + #data conn:send(data) end }\n",
    "return { on_readable = function(conn) local data = conn:recv() if not data then return end " +
    ASK.replace("return 'asked'", "data = 'asked'") + "conn:send(data) end }\n",
    "return { frame = { type = 'fixed', size = 8 }, on_message = function(conn, data) return data end }\n",
    "return { on_message = function(conn, data) " + ASK + "portico.sleep(0.001) conn:send(data) end }\n",
]


def test_clients_do_not_notice_reloads(server):
    one = server(ECHOES[0])
    stop, errors = threading.Event(), []
    clients = [one.connect() for _ in range(20)]
    threads = [threading.Thread(target=talk, args=(client, index, stop, errors)) for index, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    with one.connect() as control:
        for number in range(scaled(40, 12)):
            text = ECHOES[number % len(ECHOES)] + "-- " + str(number)
            is_framed = "fixed" in text  # it understands no word, and reloads by itself until another has followed
            save(one, "portico.every(0.02, function() portico.reload() end) " + text if is_framed else text)
            hash_of = re.compile(r"reload: generation \d+ \((\w+)\)")
            framed = hash_of.search(reload(one, control))[1]
            if is_framed:
                save(one, ECHOES[0])
                until(lambda: hash_of.search(one.log(TAKEN)[-1])[1] != framed, 20, "the next version")
    stop.set()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    assert not errors, errors[:3]
    assert not one.log(UNDONE) and not one.log(REFUSED)
