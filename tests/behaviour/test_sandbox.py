"""--sandbox: what a script finds at each level, and that nothing else is there."""

import pathlib
import re

import pytest

from rig import SAY, run

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
    return run("--check", "--log-level", "info", "--sandbox", level, *options, path)


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
