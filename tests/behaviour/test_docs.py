"""What the documentation shows is true: its examples run, the README and the tutorial happen as they say, and the reference names what there is."""

import re
import urllib.request

import pytest

import api
import rig

ROOT = api.ROOT
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A block of Lua that is a whole script, and not a part of one.
SCRIPT = re.compile(r"^return (\{|\w+\.\w+ ?[{(])|^function on_\w+", re.MULTILINE)


def blocks(path):
    """(kind, text, line) of each fenced block."""
    text = path.read_text(encoding="utf-8")
    return [(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in FENCE.finditer(text)]


def lua_blocks():
    for path in PAGES:
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
    if SCRIPT.search(text):
        done = check(text, tmp_path / "example.lua")
        assert done.returncode == 0, done.stderr


# ---- The examples run; those of the README and the tutorial do so below, as their pages tell ----

ADDRESS = re.compile(r"127\.0\.0\.1:8080|(?<=[\"/])[\w.]+:\d+(?=[\"/])")
# Whom the examples talk to: to what begins with GET it speaks HTTP, else it answers each line.
NEIGHBOUR = """return { listen = {}, frame = "line",
  on_message = function(conn, line)
    if line == "" then return "" end
    conn:write(line:find("^GET") and "HTTP/1.0 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n" or "+PONG\\r\\n")
  end,
  on_datagram = function(_, data) return data end }"""
# What the examples that are parts of scripts find around them.
AROUND = rig.SAY + """local query = "what?"
return { on_stream = function(conn) local function example()
%s
end example() say("done") end }"""
# By what a script has in it: a message that it answers.
MESSAGES = {
    r"http1\.server|websocket\.server": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    r"resp\.server": b"PING\r\n",
    r"mqtt\.broker": b"\x10\x0d\0\4MQTT\4\2\0\x3c\0\1a",
    r"frame = packet": b"\0\1\0\0\0\0\2hi",
    r'type = "length", size = 2': b"\0\2hi",
    r"": b"PUT x 2\nhi\n",
}


def examples():
    for path in PAGES:
        if path.name in ("README.md", "tutorial.md"):
            continue
        for kind, text, line in blocks(path):
            if kind == "lua":
                yield pytest.param(text, id=f"{path.name}:{line}")


def neighbour(server):
    port = str(rig.free_port())
    server(NEIGHBOUR, listen=[f"tcp://127.0.0.1:{port}", f"udp://127.0.0.1:{port}"])
    return f"127.0.0.1:{port}"


@pytest.mark.packets("received")
@pytest.mark.parametrize("text", examples())
def test_an_example_does_what_it_shows(server, text):
    """A script answers a client; a part of one runs to its end, on a connection."""
    whole = SCRIPT.search(text)
    if ADDRESS.search(text) and (not whole or re.search("connect|fetch", text)):
        text = ADDRESS.sub(neighbour(server), text)
    one = server("function work(job) return job.data end " + text if whole else AROUND % text, "--workers", "1")
    message = next(message for pattern, message in MESSAGES.items() if re.search(pattern, text))
    if whole and "listen = {}" in text:
        one.wait_log("200")
    else:
        with one.connect() as client:
            client.send(message)
            if whole:
                client.take(1)
            else:
                client.rest()
                assert one.wait_said(1)[-1] == "done"
    if "portico.shutdown" in text:
        one.check_end()
    assert not one.log(" error "), one.text()


def talk(client, dialogue):
    """Lines behind > are sent, the others come."""
    for line in dialogue.splitlines():
        if line.startswith("> "):
            client.send(line[2:] + "\n")
        else:
            assert client.line().decode() == line + "\n"


@pytest.mark.packets("received")
def test_the_readme(server, tmp_path):
    """Its server is changed while it runs, as the page says, and each of the three tastes tastes so."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shout, lines, web, room = (block for kind, block, _ in blocks(ROOT / "README.md") if kind == "lua")
    first, changed, sums = (block for kind, block, _ in blocks(ROOT / "README.md") if kind == "dialogue")
    script = tmp_path / "shout.lua"
    script.write_text(shout, encoding="utf-8")
    one = server(script, watch=("--watch",))
    with one.connect() as client:
        talk(client, first)
        one.wait_log("hello, 127.0.0.1:")
        line = re.search(r"Make the line with `upper` say `(.*?)`", text)[1]
        script.write_text(re.sub(r"return data:upper\(\).*", line, shout), encoding="utf-8")
        one.wait_log("generation 2 .* takes over")
        talk(client, changed)
    with server(lines).connect() as client:
        talk(client, sums)
    url = re.search(r"`curl (http://127.0.0.1:8080/.*?)`", text)[1]
    port = server(web).port
    assert urllib.request.urlopen(url.replace("8080", str(port)), timeout=20).read() == b"Hello, Ann!\n"
    one = server(room, "--workers", "2")
    with one.connect() as ann, one.connect() as bob:
        ann.send("hello\n")
        assert bob.line() == f"127.0.0.1:{ann.address[1]}: hello\n".encode()
        bob.send("hi\n")
        assert ann.line() == f"127.0.0.1:{bob.address[1]}: hi\n".encode()


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
                box.wait_log("unknown handler 'on_mesage': did you mean 'on_message'?")
                box.wait_log("reload refused", refused)
            else:
                generation += 1
                box.wait_log(rf"reload: generation \d+ \(.*takes over", generation - 1)
        elif kind == "dialogue":
            talk(person, text)
    person.close()
    assert generation == 5 and refused == 1


# ---- The reference ----

def text_of(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def spans(name):
    """What is set as code in the text, the blocks left out."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text_of(name)))


def test_all_there_is_is_in_the_reference_and_nothing_else(server):
    there = api.walk(server)
    script = {name for name in there if not name.startswith("battery ")}
    nouns = "|".join(sorted({re.split("[.:]", name)[0] for name in script} - {"portico"}))
    named = re.compile(rf"(?<![\w.])(portico(?:\.(?:worker|log|files))?\.\w+|(?:{nouns})[.:]\w+)")
    documented = {name for span in spans("lua-api.md") for name in named.findall(span)}
    documented -= {f"portico.{module}" for module in api.modules()}  # names for require
    groups = {"portico.log", "portico.files", "portico.worker"}
    assert script - documented - groups == set(), "not in docs/lua-api.md"
    assert documented - script == set(), "in docs/lua-api.md, but not in the program"


def test_all_functions_of_batteries_are_documented(server):
    text = " ".join(spans("batteries.md"))
    functions = [name.split(" ")[1] for name in api.walk(server) if name.startswith("battery ")]
    assert len(functions) > 50
    missing = [name for name in functions if not re.search(rf"\b{re.escape(name)}\b", text) and name != "hexdump.1"]
    assert not missing, "not in docs/batteries.md"
    assert all(f"## portico.{module}" in text_of("batteries.md") for module in api.modules())


def test_handlers_keys_options_and_limits_are_documented():
    words = {word for span in spans("lua-api.md") for word in re.findall(r"\w+", span)}
    lists = list(api.name_lists())
    assert len(lists) >= 12
    missing = [f"{file}: {name}" for file, names in lists for name in names if name not in words]
    assert not missing, "not in docs/lua-api.md"


def test_codes_are_documented():
    table = text_of("lua-api.md").split("## Codes")[1].split("\n## ")[0]
    assert api.codes() == set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


def anchors(page):
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or anchor and anchor not in anchors(target):
            dead.append(link)
    assert not dead
