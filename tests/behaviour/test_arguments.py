"""Arguments of the wrong type raise, everywhere, and the message says which argument and what was expected."""

import re

import pytest

import api
import rig

# For each kind of argument one that is right, those of wrong types, and what the message says is expected.
KINDS = {
    "seconds": ("1", "nil true 'x' {} print", "number"),
    "integer": ("1", "nil true 'x' {} print", "number"),
    "number": ("1", "nil true 'x' {} print", "number"),
    "string": ("'x'", "nil true {} print", "string"),  # numbers are strings, too, as in Lua
    "key": ("'x'", "nil true 1 {} print", "string"),
    "function": ("print", "nil true 1 'x' {}", "function"),
    "table": ("{}", "true 1 'x' print", "table"),
    "value": ("1", "nil {} print", "value|string, number or boolean"),
    "plain": ("1", "print io.stdout", "cannot be copied"),
    "any": ("1", "nil", "value"),
    "conn": ("conn", "nil true 1 'x' {} io.stdout", "conn"),
    "listen": ("'x'", "nil true 1 print", "expected"),
    "address": ("'127.0.0.1:1'", "true 1 print", "an address"),
    "what": ("1", "true {} print", "a number of bytes, 'l', 'L', 'a' or 'm'"),
    "side": ("'left'", "true {} print", "string"),
}

# Arguments of each function in order. Behind a question mark: may be left out.
FUNCTIONS = {
    "portico.now": "", "portico.monotonic": "", "portico.conns": "", "portico.reload": "",
    "portico.sleep": "seconds",
    "portico.after": "seconds function",
    "portico.every": "seconds function ?table",
    "portico.timeout": "seconds function",
    "portico.spawn": "function",
    "portico.channel": "?integer",
    "portico.semaphore": "integer",
    "portico.connect": "string ?table",
    "portico.udp": "?address ?table",
    "portico.listen": "listen", "listener:close": "",
    "portico.shared": "key",
    "portico.shutdown": "?integer",
    "portico.conn": "integer",
    "portico.broadcast": "string ?table",
    "portico.publish": "key plain",
    "portico.subscribe": "key function",
    "portico.worker.serve": "key ?function",
    "portico.worker.call": "integer key",
    "portico.worker.each": "key",
    "portico.files.list": "string",
    "portico.files.stat": "string",
    "portico.log.debug": "", "portico.log.info": "", "portico.log.warn": "", "portico.log.error": "",
    "conn:send": "string", "conn:write": "string",
    "conn:recv": "?integer",
    "conn:read": "?what ?seconds",
    "conn:read_until": "string ?table",
    "conn:lines": "?what ?seconds",
    "conn:messages": "?seconds",
    "conn:peek": "?integer ?seconds",
    "conn:unread": "string",
    "conn:pipe": "conn ?table",
    "conn:flush": "?seconds",
    "conn:shutdown": "?side",
    "conn:set": "table",
    "conn:pause": "", "conn:resume": "", "conn:close": "", "conn:abort": "", "conn:release": "",
    "remote:send": "string", "remote:write": "string", "remote:close": "", "remote:abort": "",
    "peer:send": "string",
    **{f"peer:{name}": "" for name in "recv pause resume shutdown close abort set".split()},
    "socket:send": "string", "socket:recv": "?seconds", "socket:close": "",
    "task:join": "?seconds", "task:cancel": "", "task:status": "",
    "timer:cancel": "",
    "channel:send": "any ?seconds", "channel:recv": "?seconds", "channel:close": "", "channel:len": "",
    "semaphore:acquire": "?seconds", "semaphore:free": "",
    "guard:release": "",
    "subscription:cancel": "",
    "dict:get": "key", "dict:set": "key value ?seconds", "dict:add": "key value ?seconds",
    "dict:incr": "key ?number ?number ?seconds",
    "dict:cas": "key ?value ?value",
    "dict:delete": "key", "dict:ttl": "key", "dict:expire": "key ?seconds",
    "dict:push": "key value ?side", "dict:pop": "key ?side", "dict:len": "key", "dict:range": "key ?integer ?integer",
    "dict:keys": "?key ?integer", "dict:count": "", "dict:flush": "",
}

# Tables of options: values of wrong types by name, and what is expected.
HANDLERS = {name: ("true 1 'x' {}", "function")
            for name in "on_connect on_message on_stream on_readable on_eof on_drain on_close".split()}
LIMITS = {**{name: ("true 'x' {} print", "seconds") for name in ("idle", "first_byte", "write")},
          **{name: ("true 'x' {} print", "bytes") for name in ("send_high", "send_low", "send_max", "message")}}
FRAME = {"frame": ("true 1 'x'", "'raw', 'line', 'netstring', a table or a function")}
OPTIONS = {
    "portico.every(1, print, { %s })": {"first": ("true 'x' {} -1 0/0", "seconds"), "name": ("true 1 {}", "string")},
    "portico.connect('127.0.0.1:1', { %s })": {
        **HANDLERS, **FRAME, "timeout": ("true 'x' {}", "seconds"), "pool": ("1 'x' print", "table or boolean")},
    "portico.connect('127.0.0.1:1', { pool = { %s } })": {"size": ("true 'x' {}", "connections"), "idle": ("true 'x' {}", "seconds")},
    "portico.udp{ %s }": {"bind": ("true 1 {} 'tcp://127.0.0.1:1'", "address"), "on_message": ("true 1 'x' {}", "function")},
    "portico.listen{ %s }": {"uri": ("true 1 {}", "string")},
    "portico.listen{ uri = 'tcp://127.0.0.1:0', %s }": {"name": ("true 1 {}", "string")},
    "portico.broadcast('x', { %s })": {"listener": ("true 1 {}", "string"), "except": ("true 'x' {}", "conn")},
    "conn:read_until('x', { %s })": {
        "max": ("true 'x' {}", "bytes"), "keep": ("1 'x' {}", "boolean"), "timeout": ("true 'x' {} -1", "seconds")},
    "conn:pipe(conn, { %s })": {"both": ("1 'x' {}", "boolean"), "count": ("true 'x' {}", "bytes")},
    "conn:set{ %s }": {
        **LIMITS, **FRAME, "nodelay": ("1 'x' {}", "boolean"), "half_open": ("1 'x' {}", "boolean"),
        "keepalive": ("true 'x' {}", "seconds"), "receive": ("true 1 {}", "'lent', 'ready' or 'posted'")},
    "conn:set{ frame = { type = 'length', size = 2, %s } }": {
        "max": ("true 'x' {}", "bytes"), "endian": ("true 1 {}", "'big' or 'little'"), "offset": ("true 'x' {}", "bytes"),
        "adjust": ("true 'x' {}", "bytes"), "strip": ("1 'x' {}", "boolean")},
    "conn:set{ frame = { type = 'line', %s } }": {"sep": ("true 1 {}", "string"), "keep": ("1 'x' {}", "boolean")},
    "conn:set{ frame = { type = 'fixed', %s } }": {"size": ("true 'x' {}", "bytes")},
    "conn:set{ frame = { type = 'pack', header = '>I2', %s } }": {"body": ("true 'x' {}", "function")},
    "conn:set{ frame = { type = 'pack', %s } }": {"header": ("true 1 {}", "format")},
    "conn:set{ frame = { type = 'function', decode = print, %s } }": {"encode": ("true 1 'x' {}", "function")},
    "conn:set{ frame = { type = 'function', %s } }": {"decode": ("true 1 'x' {}", "function")},
    "conn:set{ frame = { %s } }": {"type": ("true 1 {} 'lin'", "name")},
}

# The script's own table.
KEYS = {
    **HANDLERS, **FRAME, "on_datagram": ("1", "function"), "on_error": ("1", "function"), "on_load": ("1", "function"),
    "on_check": ("1", "function"), "on_unload": ("1", "function"), "migrate": ("1 {}", "function"), "listen": ("1 true {1}", "string"),
    "limits": ("1 'x'", "table"), "lasting": ("1 true {1} {x=1} {{false}}", "name or list of names"), "version": ("1.5 'x' {}", "integer"), "workers": ("1.5 'x' {}", "whole"),
}


def wrong_arguments():
    """(call, pattern of its message): each argument of each function in turn is of a wrong type."""
    for function, arguments in FUNCTIONS.items():
        name = re.split("[.:]", function)[-1]
        before = ""
        for position, argument in enumerate(arguments.split(), 1):
            right, wrong, expected = KINDS[argument.lstrip("?")]
            for value in wrong.split():
                if not (value == "nil" and argument[0] == "?"):
                    yield f"{function}({before}{value})", rf"bad argument #{position} to '{name}' \(.*({expected})"
            before += right + ", "
        if ":" in function:
            yield f"{function.replace(':', '.')}(5)", rf"bad argument #1 to '{name}' \([\w ]+ expected, got number"


def wrong_options():
    for call, options in OPTIONS.items():
        for name, (wrong, expected) in options.items():
            for value in wrong.split():
                yield call % f"{name} = {value}", rf"\b{name}: .*{expected}.* expected"
        if "= { %s" not in call or "type =" in call:
            yield call % "odd = 1", r"\bodd\b"
    yield "conn.state = print", "conn.state .*function"
    yield "conn.id = 1", r"conn\.id cannot be assigned to"


SCRIPT = rig.SAY + """
local function try(call, fn)
  local ok, message = pcall(fn)
  say(call .. " -> " .. (ok and "it did not raise" or message))
end
return { on_message = function(conn)
""" + api.OBJECTS + """
  local task, timer, channel = objects.task, objects.timer, objects.channel
  local dict, guard, subscription = objects.dict, objects.guard, objects.subscription
  local peer, remote, listener = objects.peer, objects.remote, objects.listener
  %s
  timer:cancel()
  say("end")
end }"""


@pytest.mark.parametrize("cases", [wrong_arguments, wrong_options])
def test_wrong_types_raise_and_the_message_says_what_is_expected(server, cases):
    tried = list(cases())
    calls = "\n  ".join(f"try([[{call}]], function() {call} end)" for call, _ in tried)
    one = server(SCRIPT % calls, "--workers", "2")
    with one.connect() as client:
        client.send("x")
        one.wait_log("said: end", seconds=30)
    messages = dict(line.split(" -> ", 1) for line in one.said()[:-1])
    wrong = [f"{call}: {messages[call]}" for call, pattern in tried if not re.search(pattern, messages[call])]
    assert not wrong, "\n".join(wrong)


def test_no_function_is_left_out(server):
    functions = {name for name in api.walk(server) if ":" in name or name.startswith("portico.") and name.count(".") <= 2}
    fields = {"portico.args", "portico.version", "portico.generation", "portico.terminal", "portico.log", "portico.files",
              "portico.worker", "portico.worker.id", "portico.worker.count"}
    assert functions - fields == set(FUNCTIONS)


@pytest.mark.parametrize("name", KEYS)
def test_keys_of_the_script_of_wrong_types(name, tmp_path):
    values, expected = KEYS[name]
    path = tmp_path / "wrong.lua"
    path.write_text(f"return {{ {name} = {values.split()[-1]} }}", encoding="utf-8")
    done = rig.run("--check", path, backend=False)
    assert done.returncode == 3
    assert re.search(rf"wrong.lua:.*\b{name}: .*{expected}.*expected", done.stderr), done.stderr
