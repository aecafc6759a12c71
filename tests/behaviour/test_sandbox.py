"""--sandbox: what a script finds at each level, and that nothing else is there."""

import grp
import os
import pathlib
import pwd
import re
import subprocess

import pytest

from rig import ECHO, SAY, Client, Settings, command, run

# The leak checker looks at a process from another one, which with strict there cannot be.
WITHOUT_LEAKS = {"ASAN_OPTIONS": "detect_leaks=0"}

STRICT = {
    "_G": "_G _VERSION arg assert collectgarbage coroutine dofile error getmetatable ipairs load loadfile math next os package "
          "pairs pcall portico print rawequal rawget rawlen rawset require select setmetatable string table tonumber tostring "
          "type utf8 warn xpcall",
    "coroutine": "close create isyieldable resume running status wrap yield",
    "math": "abs acos asin atan ceil cos deg exp floor fmod huge log max maxinteger min mininteger modf pi rad random "
            "randomseed sin sqrt tan tointeger type ult",
    "os": "clock date difftime exit time",
    "package": "loaded preload",
    "string": "byte char find format gmatch gsub len lower match pack packsize rep reverse sub unpack upper",
    "table": "concat insert move pack remove sort unpack",
    "utf8": "char charpattern codepoint codes len offset",
}
STD = {
    "_G": "debug io",
    "debug": "getinfo traceback",
    "io": "close flush lines open output stderr stdout tmpfile type write",
    "os": "getenv remove rename",
    "package": "config cpath path searchers searchpath",
}
OFF = {
    "debug": "debug gethook getlocal getmetatable getregistry getupvalue getuservalue setcstacklimit setlocal setmetatable "
             "setupvalue setuservalue upvalueid upvaluejoin",
    "io": "input popen read stdin",
    "os": "execute setlocale tmpname",
    "string": "dump",
}
LEVELS = {"strict": [STRICT], "std": [STRICT, STD], "off": [STRICT, STD, OFF]}


def expected(level):
    found = {}
    for table in LEVELS[level]:
        for library, names in table.items():
            found[library] = found.get(library, set()) | set(names.split())
    return found


def load(tmp_path, text, level, *options):
    path = tmp_path / "script.lua"
    path.write_text(SAY + text, encoding="utf-8")
    return run("--check", "--log-level", "info", "--sandbox", level, *options, path, env={**os.environ, **WITHOUT_LEAKS})


def said(result):
    return re.findall(r"said: (.*)", result.stderr)


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_is_there_that_is_not_listed(tmp_path, level):
    """A global or a member of a library that is new has to be put on the list of a level, in host_sandbox.c and here."""
    result = load(tmp_path, """
      for name, value in pairs(_G) do
        say("_G", name)
        if type(value) == "table" and name ~= "_G" and name ~= "portico" and name ~= "arg" then
          for member in pairs(value) do say(name, member) end
        end
      end
      return {}""", level)
    assert result.returncode == 0, result.stderr
    found = {}
    for line in said(result):
        library, name = line.split()
        found.setdefault(library, set()).add(name)
    assert found == expected(level)


@pytest.mark.parametrize("level", LEVELS)
def test_what_require_gives_is_what_is_there(tmp_path, level):
    """package.loaded is no way round the lists."""
    result = load(tmp_path, "for name, value in pairs(package.loaded) do say(name, _G[name] == value) end return {}", level)
    globals_ = expected(level)
    names = {line.split()[0] for line in said(result)}
    assert names == {name for name in globals_ if name in globals_["_G"]} | {"portico"}
    assert all(line.endswith("true") for line in said(result))


@pytest.mark.parametrize("level", LEVELS)
def test_every_member_of_portico_is_documented(tmp_path, level):
    result = load(tmp_path, "for name in pairs(portico) do say(name) end return {}", level)
    text = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "lua-api.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`\n]+`", text))))
    unknown = [name for name in said(result) if name not in words]
    assert len(said(result)) > 10 and unknown == []
    assert ("files" in said(result)) == (level != "strict")


@pytest.mark.parametrize("level", ["std", "strict"])
@pytest.mark.parametrize("code, message", [
    ("setmetatable({}, {__gc = function() end})", "__gc is not there"),
    ("setmetatable({}, {__gc = false})", "__gc is not there"),
    ("collectgarbage('stop')", "invalid option 'stop'"),
    ("collectgarbage('generational')", "invalid option 'generational'"),
    ("os.exit(0)", "os.exit would end the server"),
    ("setmetatable({}, 1)", "nil or table expected"),
    ("setmetatable(setmetatable({}, {__metatable = 1}), nil)", "cannot change a protected metatable"),
])
def test_what_a_sandbox_refuses(tmp_path, level, code, message):
    result = load(tmp_path, code + " return {}", level)
    assert result.returncode == 3
    assert re.search(r"script\.lua:1: .*" + re.escape(message), result.stderr), result.stderr


@pytest.mark.parametrize("level", ["std", "strict"])
def test_what_a_sandbox_leaves_works(tmp_path, level):
    result = load(tmp_path, """
      assert(collectgarbage() == 0 and collectgarbage("count") > 10 and collectgarbage("isrunning"))
      collectgarbage("step")
      local t = setmetatable({}, {__index = {x = 1}})
      assert(t.x == 1 and setmetatable(t, nil) == t and t.x == nil)
      assert(load("return ...", "=n", "t", {})(3) == 3)
      local pieces = {"return ", "7", nil}
      assert(load(function() return table.remove(pieces, 1) end)() == 7)
      assert(select(2, load(function() return {} end)):match("reader function"))
      assert(select(2, load("\\27Lua")):match("binary") and select(2, load("return x +")):match("near"))
      assert(select(3, load("x", "n", "b")) == "denied")
      for _, name in ipairs{"json", "http", "resp", "codec"} do pcall(require, "portico." .. name) end
      assert(require "portico.json".encode{1.5} == "[1.5]" and tostring(1.5) == "1.5")
      say("fine")
      return {}""", level)
    assert said(result) == ["fine"], result.stderr


def test_strict_modules_and_files_come_from_the_scripts_directory(tmp_path):
    home, other = tmp_path / "home", tmp_path / "other"
    (home / "sub").mkdir(parents=True)
    other.mkdir()
    for place in (home, home / "sub", other):
        (place / "thing.lua").write_text(f"return '{place.name}'", encoding="utf-8")
    (other / "elsewhere.lua").write_text("return 1", encoding="utf-8")
    result = load(home, f"""
      say(require "thing", require "sub.thing", dofile "thing.lua", dofile "sub/thing.lua", loadfile "./thing.lua" ())
      package.path = "{other.as_posix()}/?.lua"
      say(pcall(require, "elsewhere"))
      for _, path in ipairs{{"../other/elsewhere.lua", "sub/../../other/elsewhere.lua", "{other.as_posix()}/elsewhere.lua",
                            "..\\\\other\\\\elsewhere.lua", "c:elsewhere.lua"}} do
        say(loadfile(path))
        say(pcall(dofile, path))
      end
      return {{}}""", "strict")
    lines = said(result)
    assert lines[0] == "home sub home sub home", result.stderr
    assert lines[1].startswith("false module 'elsewhere' not found") and "strict looks nowhere else" in result.stderr
    assert len(lines) == 12 and all("only files below the script's directory" in line for line in lines[2:])
    assert load(home, f"say(dofile '{other.as_posix()}/thing.lua') return {{}}", "std").stderr.count("said: other") == 1


def test_an_open_files_metatable_is_out_of_reach(tmp_path):
    result = load(tmp_path, "say(getmetatable(io.stdout), io.type(io.stdout)) return {}", "std")
    assert said(result) == ["FILE* file"]


def test_the_level_is_one_of_three(tmp_path):
    result = load(tmp_path, "return {}", "tight")
    assert result.returncode == 2
    assert "off, std or strict" in result.stderr


# ---- What strict does to the process ----

linux = pytest.mark.no_wine("is about Linux")
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another")


def status_of(one):
    """/proc/PID/status of each thread."""
    path = pathlib.Path(f"/proc/{one.process.pid}/task")
    return [dict(line.split(":", 1) for line in (task / "status").read_text().splitlines()) for task in path.iterdir()]


@linux
def test_strict_confines_every_thread(server):
    one = server(ECHO, "--sandbox", "strict", env=WITHOUT_LEAKS)
    told = one.wait_log("sandbox strict: no new privileges")[0]
    threads = status_of(one)
    assert len(threads) > 2 and all(thread["NoNewPrivs"].strip() == "1" for thread in threads)
    if "seccomp" in told:
        assert all(thread["Seccomp"].strip() == "2" for thread in threads), told
    with one.connect() as client:
        assert client.ask("x") == b"x"


@linux
def test_std_does_not(server):
    one = server(ECHO)
    assert all(thread["NoNewPrivs"].strip() == "0" for thread in status_of(one))
    assert not one.log("sandbox strict")


@pytest.mark.packets("received")
@linux
def test_what_a_server_does_still_works_when_it_is_confined(server, tmp_path):
    """Reload by watch, a module that comes, portico ctl, Unix sockets, names, the drain."""
    place = tmp_path / "ctl.sock"
    one = server("""return { on_message = function(conn, data)
        if data ~= "connect" then return "one" end
        portico.spawn(function() conn:send(select(3, portico.connect("tcp://localhost:1"))) end)
      end }""", "--sandbox", "strict", "--control", place, "--listen", f"unix:{tmp_path}/u.sock",
                 watch=("--watch",), env=WITHOUT_LEAKS)
    with one.connect() as client, Client(str(tmp_path / "u.sock")) as other:
        assert client.send("x").take(3) == b"one" and other.send("x").take(3) == b"one"
        assert client.send("connect").take(7) == b"refused"
        (one.directory / "module.lua").write_text("return 'two'", encoding="utf-8")
        one.script_path("local two = require 'module' return { on_message = function() return two end }")
        one.wait_log("generation 2 .* takes over")
        assert client.send("x").take(3) == b"two" and other.send("x").take(3) == b"two"
    answer = subprocess.run(command("ctl", "--control", place, "stop"), timeout=20 * Settings.patience, check=False)
    assert answer.returncode == 0
    one.check_end()
    assert not (tmp_path / "u.sock").exists() and not place.exists()


@linux
def test_a_confined_script_that_leads_elsewhere_later_is_refused(server, tmp_path):
    """A link that is swapped to where the process may not read costs the reload and nothing else."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "new.lua").write_text(ECHO, encoding="utf-8")
    home = tmp_path / "home"
    home.mkdir()
    (home / "old.lua").write_text(ECHO, encoding="utf-8")
    link = home / "script.lua"
    link.symlink_to("old.lua")
    one = server(link, "--sandbox", "strict", env=WITHOUT_LEAKS)
    if "Landlock version" not in one.wait_log("sandbox strict")[0]:
        pytest.skip("there is no Landlock here")
    link.unlink()
    link.symlink_to(elsewhere / "new.lua")
    one.signal(1)
    one.wait_log("cannot read|refused")
    with one.connect() as client:
        assert client.ask("x") == b"x"


@linux
@pytest.mark.parametrize("place", ["beside", "below"])
def test_where_an_address_file_is_written_nothing_can_be_read(server, tmp_path, place):
    """A link in the script's directory leads there: only the system can refuse it."""
    home, other = tmp_path / "home", tmp_path / "server0"
    for directory in (home, other / "sub"):
        directory.mkdir(parents=True)
    secret = (other if place == "beside" else other / "sub") / "secret.lua"
    secret.write_text("return 'secret'", encoding="ascii")
    (home / "link.lua").symlink_to(secret)
    (home / "script.lua").write_text(SAY + "portico.after(0, function() say(pcall(dofile, 'link.lua')) end) return {}",
                                     encoding="ascii")
    one = server(home / "script.lua", "--sandbox", "strict", "--workers", "1", env=WITHOUT_LEAKS)
    if "Landlock version" not in one.wait_log("sandbox strict")[0]:
        pytest.skip("there is no Landlock here")
    one.wait_said(1)
    assert one.said()[0].startswith("false ") and "secret" not in one.said()[0]
    assert one.address_file.is_file()


@linux
def test_the_address_file_of_a_confined_server_may_be_a_link(server, tmp_path):
    (tmp_path / "target").write_text("tcp://127.0.0.1:1\n", encoding="ascii")
    (tmp_path / "server0").mkdir()
    (tmp_path / "server0" / "addresses").symlink_to("../target")
    one = server(ECHO, "--sandbox", "strict", env=WITHOUT_LEAKS)
    one.wait_log("listening on")
    assert re.fullmatch(r"tcp://127\.0\.0\.1:\d\d+\n", (tmp_path / "target").read_text(encoding="ascii"))


# ---- --user, --group ----

@linux
@as_root
@pytest.mark.parametrize("level", ["std", "strict"])
def test_privileges_are_given_up_when_all_is_listened_on(server, tmp_path, level):
    tmp_path.chmod(0o755)
    nobody = pwd.getpwnam("nobody")
    one = server(ECHO, "--sandbox", level, "--user", "nobody", "--workers", "2", env=WITHOUT_LEAKS)
    one.wait_log(rf"running as user {nobody.pw_uid}, group {nobody.pw_gid}")
    one.wait_log("listening on")
    for thread in status_of(one):
        assert thread["Uid"].split() == [str(nobody.pw_uid)] * 4
        assert thread["Gid"].split() == [str(nobody.pw_gid)] * 4
        assert "0" not in thread["Groups"].split()
    with one.connect() as client:
        assert client.ask("x") == b"x"


@linux
@as_root
def test_a_group_alone_is_changed_too(server):
    group = grp.getgrall()[1]
    one = server(ECHO, "--group", str(group.gr_gid))
    one.wait_log(f"running as group {group.gr_gid}")
    for thread in status_of(one):
        assert thread["Gid"].split() == [str(group.gr_gid)] * 4 and thread["Groups"].split() == [str(group.gr_gid)]


@linux
@pytest.mark.parametrize("options, message", [
    (("--user", "no-such-user-here"), "--user: there is no user 'no-such-user-here'"),
    (("--group", "no-such-group-here"), "--group: there is no group 'no-such-group-here'"),
])
def test_an_unknown_user_is_wrong_usage(options, message):
    result = run(*options)
    assert result.returncode == 2 and message in result.stderr


@linux
@as_root
def test_who_is_not_root_cannot_become_another(tmp_path):
    tmp_path.chmod(0o755)
    result = subprocess.run(["setpriv", "--reuid", "nobody", "--clear-groups", "--", *command("--user", "root")],
                            stderr=subprocess.PIPE, text=True, timeout=20, check=False)
    if "Permission denied" in result.stderr:
        pytest.skip("others may not run the program under test from where it lies")
    assert result.returncode == 2 and "--user: only root can become another" in result.stderr


@pytest.mark.skipif(not Settings.wine and os.name != "nt", reason="is about Windows")
def test_windows_serves_in_a_job_object(server):
    one = server(ECHO, "--sandbox", "strict")
    one.wait_log("sandbox strict: job object: no other processes")
    with one.connect() as client:
        assert client.ask("x") == b"x"


@pytest.mark.skipif(not Settings.wine and os.name != "nt", reason="is about Windows")
def test_windows_says_that_it_has_no_user_to_become():
    result = run("--user", "nobody")
    assert result.returncode == 2 and "--user does not work on Windows" in result.stderr


def test_nothing_of_std_reads_standard_input(server):
    """It may be a terminal, or a pipe that never brings anything, and nobody could end the wait."""
    one = server(SAY + """
      for _, f in ipairs { io.lines, dofile, loadfile } do say((pcall(f))) end
      local file <close> = assert(io.open(arg[0]))
      for line in io.lines(arg[0]) do say(line == file:read()) break end
      return { on_message = print }""", "--workers", "1")
    assert one.wait_said(4) == ["false", "false", "false", "true"]
