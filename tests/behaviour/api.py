"""What scripts can call, as the running program has it: for the tests that look at all of it."""

import pathlib
import re

import rig

ROOT = pathlib.Path(__file__).resolve().parents[2]

# One of everything, by the name that the documentation has for it. Runs in a handler, where `conn` is the connection.
OBJECTS = """
local peers = portico.channel(1)
local inbox = portico.udp{ bind = "udp://127.0.0.1:0", on_message = function(peer) peers:send(peer) end }
local socket = portico.udp(inbox.addr)
socket:send("x")
local semaphore = portico.semaphore(1)
local objects = {
  conn = conn, peer = assert(peers:recv(10)), socket = socket, remote = portico.conn(conn.id + 1),
  timer = portico.after(1e6, print), task = portico.spawn(function() end), channel = peers,
  semaphore = semaphore, guard = semaphore:acquire(), subscription = portico.subscribe("api", print),
  dict = portico.shared("api"), listener = assert(portico.listen{ uri = "tcp://127.0.0.1:0", name = "api" }),
}
"""

# Modules that others are made of.
PARTS = ("buffer", "http_client", "http_decoder", "http_headers", "http_server", "mqtt_broker", "mqtt_store", "options", "resp_channels",
         "resp_client", "resp_commands", "resp_glob", "resp_server", "websocket_client", "websocket_frames", "websocket_server")

# Fields that C answers one by one, which no walk can find.
FIELDS = ("peer.peer", "peer.addr", "peer.listener", "socket.addr", "socket.peer", "remote.id", "listener.name", "listener.uri")

WALK = rig.SAY + """
local function walk(prefix, members, between)
  for name, value in pairs(members) do
    if type(value) == "table" and prefix == "portico" and name ~= "args" then walk("portico." .. name, value, ".") end
    say(prefix .. (type(value) == "function" and between or ".") .. name)
  end
end

return { on_message = function(conn)
""" + OBJECTS + """
  for name, object in pairs(objects) do
    local index = debug.getmetatable(object).__index
    if type(index) == "function" then index = select(2, debug.getupvalue(index, 1)) end
    walk(name, index, ":")
  end
  walk("portico", portico, ".")
  for name in ("%s"):gmatch("%%S+") do
    local module = require("portico." .. name)
    if type(module) == "function" then module = { module } end
    for key in pairs(module) do say("battery " .. name .. "." .. key) end
  end
  say("end")
end }"""


def walk(server):
    """The names of all there is: "portico.sleep", "conn:send", "conn.id", "battery http1.server"."""
    # Two workers, so that there can be a connection of the other one. What the walk needs is not in other sandboxes.
    one = server(WALK % " ".join(modules()), "--workers", "2", "--sandbox", "off")
    with one.connect() as client:
        client.send("x")
        one.wait_log("said: end")
    return {*one.said()[:-1], *FIELDS}


def modules():
    """Modules that are part of the program and meant for scripts."""
    files = (file.stem for file in sorted((ROOT / "lua" / "portico").glob("*.lua")))
    return [*(name for name in files if name not in PARTS), "codec"]


def name_lists():
    """(file, names) of each list of names in the C files of lua/: of handlers, keys, options, settings, limits."""
    lists = re.compile(r"^[ \w]*const char \*const \w*(?:names|sides|kinds)\[\] = \{(.*?)\};", re.MULTILINE | re.DOTALL)
    for file in sorted((ROOT / "lua").glob("host_*.c")):
        for found in lists.finditer(file.read_text(encoding="utf-8")):
            names = re.findall(r'"(\w+)"', found[1])
            if names:
                yield file.name, names


def codes():
    """The third results of what fails, in C and in the batteries, and the names of a status."""
    found = set()
    for file in (ROOT / "lua").glob("host_*.c"):
        found |= set(re.findall(r'host_push_failure\([^;]*"(\w+)"\)', file.read_text(encoding="utf-8")))
    for file in (ROOT / "lua" / "portico").glob("*.lua"):
        found |= set(re.findall(r'return nil, .*, "(\w+)"$', file.read_text(encoding="utf-8"), re.MULTILINE))
    table = (ROOT / "core" / "net.c").read_text(encoding="utf-8")
    return found | set(re.findall(r'\[-IO_\w+\] = \{"(\w+)"', table)) - {"ok"}
