"""What the documentation shows is true: its scripts load, and the tutorial happens as it says."""

import pathlib
import re

import pytest

import rig

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A block of Lua that is a whole script, and not a part of one.
SCRIPT = re.compile(r"^return (\{|\w+\.\w+ ?[{(])|^function on_\w+", re.MULTILINE)


def blocks(path):
    """(kind, text, line) of each fenced block."""
    text = path.read_text(encoding="utf-8")
    return [(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in FENCE.finditer(text)]


def lua_blocks():
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for kind, text, line in blocks(path):
            if kind == "lua":
                yield pytest.param(text, id=f"{path.name}:{line}")


def check(text, path):
    path.write_text(text, encoding="utf-8")
    return rig.run("--check", path, backend=False)


@pytest.mark.parametrize("text", lua_blocks())
def test_lua_in_the_documentation(text, tmp_path):
    if "broken" in text.splitlines()[0]:
        assert check(text, tmp_path / "broken.lua").returncode == 3
        return
    # Where the examples of several scripts share a block, each begins behind an empty line.
    scripts = [text]
    if text.count("\nreturn ") + text.startswith("return ") > 1:
        scripts = re.split(r"\n\n(?=return )", text)
    for number, script in enumerate(scripts):
        if not SCRIPT.search(script):  # a part of a script: it must be Lua
            script = f"return {{ listen = {{}}, on_load = function()\nlocal function example(...)\n{script}\nend\nend }}"
        done = check(script, tmp_path / f"example{number}.lua")
        assert done.returncode == 0, done.stderr + script


def test_the_tutorial(server, tmp_path):
    """Every script is saved, and every dialogue held, in the order of the page; one connection lasts to its end."""
    ports = {"7700": str(rig.free_port()), "7701": str(rig.free_port())}
    script = tmp_path / "box.lua"
    box, person, generation, refused = None, None, 1, 0
    for kind, text, _ in blocks(ROOT / "docs" / "tutorial.md"):
        text = re.sub("770[01]", lambda match: ports[match[0]], text)
        name = text.split("\n", 1)[0]
        if kind == "lua" and name == "-- talk.lua":
            person = server(text, listen=()).connect()
        elif kind == "lua":
            script.write_text(text, encoding="utf-8")
            if box is None:
                box = server(script, listen=(), watch=("--watch",))
            elif name.endswith("broken"):
                refused += 1
                box.wait_log("did you mean 'on_message'")
                box.wait_log("reload refused", refused)
            else:
                generation += 1
                box.wait_log(rf"reload: generation \d+ \(.*takes over", generation - 1)
        elif kind == "dialogue":
            for line in text.splitlines():
                if line.startswith("> "):
                    person.send(line[2:] + "\n")
                else:
                    assert person.line().decode() == line + "\n"
    person.close()
    assert generation == 5 and refused == 1
