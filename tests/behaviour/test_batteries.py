"""What the modules of lua/portico/ promise as parts of the program: they are found first, and their connections survive a reload."""

import re
import select
import time

import pytest

from api import ROOT
from reloads import TAKEN, UNDONE, save
from rig import SAY, run

HTTP = """
local http1 = require "portico.http1"
return http1.server { on_request = function(req) return "%s " .. req.target .. " " .. req.body end }
"""

RESP = """
local resp = require "portico.resp"
return resp.server { commands = { WHO = function(_, args) return "%s " .. (args[2] or "") end } }
"""

WEBSOCKET = """
local websocket = require "portico.websocket"
return websocket.server { on_message = function(ws, text) ws:send("%s " .. text) end }
"""

MQTT = "-- %s\nreturn require('portico.mqtt').broker {}\n"


WATCH = ("--watch",)


def reload(one, text):
    """Saves another version, and waits until it is in force."""
    count = len(one.log(TAKEN))
    save(one, text)
    one.wait_log(TAKEN, count + 1, 20)


def test_no_file_takes_the_place_of_a_module(server, tmp_path):
    (tmp_path / "server0" / "portico").mkdir(parents=True)
    (tmp_path / "server0" / "portico" / "json.lua").write_text("error('not this one')")
    (tmp_path / "server0" / "portico" / "mine.lua").write_text("return 'mine'")
    one = server(SAY + """
say(require("portico.json").encode { 1 }, require "portico.mine", #require("portico.codec").random(3))
say(select(2, pcall(require, "portico.nothing")))
say(select(2, pcall(require, "http1")))
return { on_message = function() end }""", "--workers", "1")
    one.wait_said(3)
    said = "\n".join(one.log())
    assert "the one that is part of the program is called 'portico.http1'" in said
    assert "said: [1] mine 3" in said and "no embedded file 'portico/nothing.lua'" in said


@pytest.mark.parametrize("call, text", [
    ("resp.encode(print)", "resp.encode: a function has no place in RESP"),
    ("json.encode({ on = conn })", r"json.encode: value\.on: type 'userdata' is not supported by JSON"),
    ("json.encode(data)", "json.encode: value: not UTF-8"),
])
def test_modules_say_where_they_raise(server, call, text):
    one = server('local json, resp = require "portico.json", require "portico.resp"\n'
                 f"return {{ on_message = function(conn, data) local x = {call} return x end }}")
    with one.connect() as client:
        assert client.send(b"\xff").is_over()
    one.wait_log("script.lua:2: " + text)


@pytest.mark.parametrize("options, text", [
    ("http1.server {}", "http1.server: on_request: function expected, got nil"),
    ("http1.server { on_request = 1 }", "http1.server: on_request: function expected, got number"),
    ("http1.server(5)", "http1.server: table of options expected, got number"),
    ("http1.server { on_request = print, patience = 'x' }", "http1.server: patience: number expected, got string"),
    ("http1.server { on_request = print, patience = 0 }", "http1.server: patience: a number above 0 expected, got 0"),
    ("http1.server { on_request = print, frame = 'line' }", "http1.server: frame is the server's own"),
    ("http1.server { on_request = print, on_message = print }", "http1.server: on_message is the server's own"),
    ("http1.server { on_request = print, decoder = { max_bdy = 1 } }",
     "http1.decoder: unknown option 'max_bdy': there are max_body, max_head, max_headers, role"),
    ("http1.server { on_request = print, patince = 5 }", "http1.server: unknown option 'patince': did you mean 'patience'?"),
    ("http1.server { on_request = print, on_reqeust = print }", "http1.server: unknown option 'on_reqeust': did you mean 'on_request'?"),
    ("http1.server { on_request = print, limit = {} }", "http1.server: unknown option 'limit': did you mean 'limits'?"),
    ("http1.server { on_request = print, colour = 1 }", "http1.server: unknown option 'colour': there are decoder, on_body, on_head, "
     "on_request, patience, upgrade, lasting, limits, listen, migrate, on_check, on_close, on_connect, on_datagram, on_drain, on_eof, "
     "on_error, on_load, on_unload, version, workers"),
    ("http1.server { on_request = print, 5 }", "http1.server: unknown option '1': there are decoder, "),
    ("resp.server { comands = {} }", "resp.server: unknown option 'comands': did you mean 'commands'?"),
    ("mqtt.broker { max_paket = 5 }", "mqtt.broker: unknown option 'max_paket': did you mean 'max_packet'?"),
    ("mqtt.broker { on_publsh = print }", "mqtt.broker: unknown option 'on_publsh': did you mean 'on_publish'?"),
    ("websocket.server { on_mesage = print }", "websocket: unknown option 'on_mesage': did you mean 'on_message'?"),
    ("websocket.server { on_message = print, patince = 5 }", "websocket: unknown option 'patince': did you mean 'patience'?"),
    ("websocket.protocol { on_mesage = print }", "websocket: unknown option 'on_mesage': did you mean 'on_message'?"),
    ("resp.server { commands = 1 }", "resp.server: commands: table expected, got number"),
    ("resp.server { on_stream = print }", "resp.server: on_stream is the server's own"),
    ("resp.server { decoder = { max_bulk = '1' } }", "resp.decoder: max_bulk: number expected, got string"),
    ("websocket.server {}", "websocket: on_message: function expected, got nil"),
    ("websocket.server { on_message = print, ping = 'x' }", "websocket: ping: number expected, got string"),
    ("websocket.server { on_message = print, on_readable = print }", "websocket: on_readable is the server's own"),
    ("mqtt.broker { max_packet = 'x' }", "mqtt.broker: max_packet: number expected, got string"),
    ("mqtt.broker { authenticate = 5 }", "mqtt.broker: authenticate: function expected, got number"),
    ("http1.response('x')", "http1.response: status: integer expected, got string"),
    ("http1.response(200, nil, {})", "http1.response: body: string expected, got table"),
    ("keyspace.open()", "keyspace.open: name: string expected, got nil"),
    ("hexdump(5)", "hexdump: data: string expected, got number"),
])
def test_wrong_options_are_named(tmp_path, options, text):
    script = tmp_path / "wrong.lua"
    module = re.match(r"\w+", options)[0]
    script.write_text(f'local {module} = require "portico.{module}"\n\nreturn {options}\n')
    done = run("--check", script, backend=False)
    assert done.returncode == 3 and f"wrong.lua:3: {text}" in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["mqtt_broker", "socks5"])
def test_a_user_without_a_password_is_no_usage(name):
    """A broker took who had no password, either."""
    done = run("--check", ROOT / "scripts" / f"{name}.lua", "ann", backend=False)
    assert done.returncode == 3 and f"usage: portico {name}.lua [USER PASSWORD]" in done.stderr, done.stderr


def test_batteries_know_the_keys_of_scripts():
    """Those that they do not know they refuse; the list is the host's, without what the servers have themselves."""
    known = re.search(r"SCRIPT <const> = \{(.*?)\}", (ROOT / "lua/portico/options.lua").read_text(encoding="utf-8"), re.DOTALL)[1]
    taken = {"on_message", "on_stream", "on_readable", "frame"}
    keys, = re.findall(r"key_names\[\] = \{(.*?)\}", (ROOT / "lua/host_script.c").read_text(encoding="utf-8"), re.DOTALL)
    assert set(re.findall(r"(\w+) = true", known)) == set(re.findall(r'"(\w+)"', keys)) - taken


def test_http_in_the_middle_of_a_request(server):
    one = server(HTTP % "a", watch=WATCH)
    with one.connect() as client:
        client.send("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc")
        assert client.silent(0.1)
        reload(one, HTTP % "b")
        assert client.send("def").finish().rest().endswith(b"\r\n\r\nb /x abcdef")


def test_http_in_the_middle_of_an_answer(server, tmp_path):
    """A download that has begun is finished by the version that began it; the next request on the connection meets the new one."""
    text = """
local http1 = require "portico.http1"
local piece, mark = ("x"):rep(1 << 16), "%s"
return http1.server {
  on_request = function(req)
    if req.path == "/who" then return mark end
    local count = 0
    return 200, function()
      count = count + 1
      return count <= 320 and piece or count == 321 and mark or nil
    end, { ["Content-Length"] = 320 * #piece + 1 }
  end,
}
"""
    one = server(text % "a", watch=WATCH)
    with one.connect(receive_buffer=4096) as client:
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.take(1)
        reload(one, text % "b")
        assert client.take((320 << 16) + 1).endswith(b"xa")
        assert client.send("GET /who HTTP/1.1\r\nHost: h\r\n\r\n").finish().rest().endswith(b"\r\n\r\nb")


def test_a_body_shorter_than_it_was_said_to_be(server):
    one = server("""
local http1 = require "portico.http1"
return http1.server { on_request = function() return 200, function() end, { ["Content-Length"] = 5 } end }""")
    with one.connect() as client:
        assert client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").is_reset()
    one.wait_log("on_request has not finished its answer to GET /")


@pytest.mark.parametrize("handler", ["on_request", "on_head"])
@pytest.mark.parametrize("first", ['res:send(200, "first")', 'res:start(200) res:write("first")'])
@pytest.mark.parametrize("second", ['"second"', '200, "second"', '200, function() end'])
def test_a_request_has_one_answer(server, handler, first, second):
    """Another one would be taken for that to the next request. A first one that is whole is sent."""
    one = server(f"""
local http1 = require "portico.http1"
local function answer(req, res) {first} return {second} end
return http1.server {{ on_request = answer, {handler} = answer }}""")
    with one.connect() as client:
        client.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
        if "res:send" in first:
            assert client.rest().endswith(b"\r\n\r\nfirst")
        else:
            assert client.is_reset()
    one.wait_log(f"{handler} returned an answer to GET /a, which has begun already")


ANSWERS = """
local http1 = require "portico.http1"
return http1.server { on_request = function(req, res) %s end }"""


def head_of(client):
    """The lines of an answer's head."""
    lines = []
    while not lines or lines[-1]:
        lines.append(client.line().decode().removesuffix("\r\n"))
    return lines[:-1]


def count(lines, name):
    return sum(line.lower().startswith(name + ":") for line in lines)


@pytest.mark.parametrize("request_line, answer, length", [
    ("GET", 'return 200, "abc", { ["content-length"] = 3 }', 3),
    ("HEAD", 'return 200, "abc", { ["content-length"] = 3 }', 3),
    ("HEAD", 'return 200, "", { ["Content-Length"] = "30" }', 30),
    ("GET", 'return 304, "", { ["Content-Length"] = 30 }', 30),
    ("GET", 'return 200, "abc", { date = "Sun, 06 Nov 1994 08:49:37 GMT" }', 3),
    ("GET", 'res:start(200, { ["content-length"] = 3, Date = "x" }) res:write("abc") res:finish()', 3),
])
def test_a_length_and_a_date_that_are_given(server, request_line, answer, length):
    one = server(ANSWERS % answer)
    with one.connect() as client:
        lines = head_of(client.send(f"{request_line} / HTTP/1.1\r\nHost: h\r\n\r\n"))
        assert count(lines, "content-length") == count(lines, "date") == 1 and count(lines, "transfer-encoding") == 0, lines
        assert f"content-length: {length}" in [line.lower() for line in lines]
        if request_line == "GET" and " 304 " not in lines[0]:
            assert client.take(3) == b"abc"
        assert " 200 " in head_of(client.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"))[0] or " 304 " in lines[0]


@pytest.mark.parametrize("headers, text", [
    ('["Content-Length"] = 30', "Content-Length: 3 as of the body expected, got 30"),
    ('["Content-Length"] = "x"', "Content-Length: digits expected, got x"),
    ('["Transfer-Encoding"] = "chunked"', "Transfer-Encoding is the server's own"),
    ('date = 1, Date = 2', "more than one [Dd]ate"),
])
@pytest.mark.parametrize("answer", ['return 200, "abc", {%s}', 'res:send(200, "abc", {%s})'])
def test_headers_that_contradict_the_body_are_refused(server, headers, text, answer):
    one = server(ANSWERS % answer % headers)
    with one.connect() as client:
        assert client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").finish().rest().startswith(b"HTTP/1.1 500 ")
    one.wait_log(text)


@pytest.mark.parametrize("answer, text", [
    ('200, "x", "text/html"', "headers: table expected, got string"),
    ('"200", "x"', "headers: table expected, got string"),
    ('{ 1 }', "status: an integer from 200 to 599 expected, got table"),
    ('200, { 1 }', "body: string, open file or function expected, got table"),
    ('99', "status: an integer from 200 to 599 expected, got 99"),
])
@pytest.mark.parametrize("handler", ["on_request", "on_head"])
def test_a_wrong_answer_is_the_handlers(server, answer, text, handler):
    one = server(f"""
local http1 = require "portico.http1"
local function answer() return {answer} end
return http1.server {{ on_request = answer, {handler} = answer }}""")
    with one.connect() as client:
        assert client.send("GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n").finish().rest().startswith(b"HTTP/1.1 500 ")
    line, = one.wait_log(rf"{handler} returned a wrong answer to GET /a.b: {text} \(it is body, headers; or status, body, headers")
    assert ".lua:" not in line


def test_head_has_no_body_of_an_error(server):
    one = server(ANSWERS % "error('on purpose')")
    with one.connect() as client:
        answer = client.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n").rest()
        assert answer.startswith(b"HTTP/1.1 500 ") and answer.endswith(b"\r\nContent-Length: 15\r\n\r\n")
    one.wait_log("on purpose")


@pytest.mark.parametrize("answer, cookies", [
    ('return 200, "body", { ["X-Own"] = "x", ["Set-Cookie"] = { "a=1", "b=2" } }', 2),
    ('local left = { "bo", "dy" } return 200, function() return table.remove(left, 1) end, { ["X-Own"] = "x", Connection = "close" }', 0),
])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_proxy_passes_on_what_it_fetches(server, answer, cookies, method):
    behind = server(ANSWERS % answer)
    front = server(ANSWERS % f"""
    req.headers.host = nil
    local response = assert(http1.fetch("http://127.0.0.1:{behind.port}/", {{ method = req.method, headers = req.headers }}))
    response.headers["set-cookie"] = response.cookies
    return response.status, response.body, response.headers""")
    with front.connect() as client:
        for _ in range(2):
            lines = head_of(client.send(f"{method} / HTTP/1.1\r\nHost: h\r\n\r\n"))
            assert lines[0] == "HTTP/1.1 200 OK" and "x-own: x" in lines and count(lines, "set-cookie") == cookies, lines
            assert count(lines, "content-length") == count(lines, "date") == 1, lines
            assert count(lines, "transfer-encoding") == count(lines, "connection") == 0, lines
            if method == "GET":
                assert client.take(4) == b"body"


def test_fetch_sends_one_host(server):
    one = server(ANSWERS % 'return req.headers.host .. " " .. req.headers.connection')
    asker = server(f"""
local http1 = require "portico.http1"
return {{ on_message = function(conn)
  local response, message = http1.fetch("http://127.0.0.1:{one.port}/", {{ headers = {{ host = "other", connection = "close" }} }})
  conn:send(response and response.body or message)
end }}""")
    with asker.connect() as client:
        assert client.ask("other close") == b"other close"


def test_resp_in_the_middle_of_a_command(server):
    one = server(RESP % "a", watch=WATCH)
    with one.connect() as client:
        client.send("*2\r\n$3\r\nWHO\r\n$5\r\nhel")
        assert client.silent(0.1)
        reload(one, RESP % "b")
        assert client.send("lo\r\nWHO x\r\n").finish().rest() == b"$7\r\nb hello\r\n$3\r\nb x\r\n"


def test_websocket_in_the_middle_of_a_message(server):
    one = server(WEBSOCKET % "a", watch=WATCH)
    with one.connect() as client:
        client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.take(1)
        client.send(b"\x01\x83\0\0\0\0hel" + b"\x80\x82\0\0")  # a fragment, and half of the next
        assert client.silent(0.1)
        reload(one, WEBSOCKET % "b")
        assert client.send(b"\0\0lo").take(9) == b"\x81\x07b hello"


def test_mqtt_clients_stay(server):
    one = server(MQTT % "a", "--workers", "1", watch=WATCH)
    with one.connect() as client:
        assert client.send(b"\x10\x0d\0\4MQTT\4\2\0\x3c\0\1a").take(4) == b"\x20\2\0\0"
        assert client.send(b"\x82\6\0\1\0\1t\0").take(5) == b"\x90\3\0\1\0"
        reload(one, MQTT % "b")
        assert client.send(b"\xc0\0").take(2) == b"\xd0\0"
        assert client.send(b"\x30\4\0\1tx").take(6) == b"\x30\4\0\1tx"


def test_mqtt_a_message_that_raised_may_come_again(server):
    """What was refused by an error has not been received, though it is of the quality of service that comes once."""
    one = server("""
local first = true
return require("portico.mqtt").broker {
  on_publish = function()
    if first then
      first = false
      error("bad")
    end
  end,
}""", "--workers", "1")
    connect = b"\x10\x0d\0\4MQTT\4\0\0\x3c\0\1"
    with one.connect() as listener:
        assert listener.send(connect + b"a" + b"\x82\6\0\1\0\1t\0").take(9) == b"\x20\2\0\0" + b"\x90\3\0\1\0"
        with one.connect() as client:
            assert client.send(connect + b"b").take(4) == b"\x20\2\0\0"
            assert client.send(b"\x34\6\0\1t\0\1x").is_over()
        with one.connect() as client:
            assert client.send(connect + b"b").take(4) == b"\x20\2\1\0"
            assert client.send(b"\x3c\6\0\1t\0\1x").take(4) == b"\x50\2\0\1"
            assert client.send(b"\x3c\6\0\1t\0\1x").take(4) == b"\x50\2\0\1"  # known now
            assert client.send(b"\x62\2\0\1").take(4) == b"\x70\2\0\1"
        assert listener.send(b"\xc0\0").take(8) == b"\x30\4\0\1tx\xd0\0"


@pytest.mark.parametrize("options, words, warnings", [
    ("{}", ["--workers", "2"], 1),
    ("{ workers = 1 }", ["--workers", "2"], 1),
    ("{}", ["--workers", "1"], 0),
    ("{ workers = 1 }", [], 0),
])
def test_mqtt_warns_of_workers(server, options, words, warnings):
    """Who publishes to another worker than the subscriber's is not heard, and nothing else would tell."""
    one = server("local options = %s\n%s options.on_load = function(ctx) say(ctx.reload) end\n" % (options, SAY)
                 + "return require('portico.mqtt').broker(options)", *words)
    one.wait_said(2 if "2" in words else 1)
    assert len(one.log("warn .*mqtt.broker: clients of different workers do not hear each other: say --workers 1")) == warnings
    assert one.said()[0] == "false"


# ---- A version that is undone: what clients are in the middle of is not ----

UNDOES = ("--workers", "1", "--reload-error-limit", "0", "--reload-probation", "600")


def test_resp_goes_back_in_the_middle_of_a_command(server):
    script = RESP.replace('WHO =', 'FAIL = function() error("bad") end, WHO =')
    one = server(script % "a", *UNDOES, watch=WATCH)
    with one.connect() as client, one.connect() as fresh, one.connect() as listener, one.connect() as victim:
        client.send("*2\r\n$3\r\nWHO\r\n$5\r\nhel")
        assert listener.send("SUBSCRIBE one\r\n").line() == b"*3\r\n"
        assert client.silent(0.1)
        reload(one, script % "b")
        assert client.send("lo\r\nWHO a\r\n*2\r\n$3\r\nWHO\r\n$5\r\nh").take(22) == b"$7\r\nb hello\r\n$3\r\nb a\r\n"
        assert fresh.send("HELLO 3\r\n*2\r\n$3\r\nWHO\r\n$5\r\nh").line() == b"%6\r\n"
        listener.send("SUBSCRIBE two\r\nUNSUBSCRIBE one\r\nPING\r\n")
        while listener.line() != b"pong\r\n":
            pass
        victim.send("FAIL\r\n")
        one.wait_log(UNDONE)
        assert client.send("ello\r\n").take(13) == b"$7\r\na hello\r\n"
        fresh.send("ello\r\nPUBLISH one x\r\nPUBLISH two x\r\n")
        assert fresh.finish().rest().endswith(b"$7\r\na hello\r\n:0\r\n:1\r\n")
        assert b"two" in listener.finish().rest()


def test_websocket_goes_back_in_the_middle_of_a_message(server):
    script = WEBSOCKET.replace("ws:send(", "if text == 'fail' then error('bad') end ws:send(")
    one = server(script % "a", *UNDOES, watch=WATCH)
    with one.connect() as client, one.connect() as victim:
        reload(one, script % "b")
        for peer in (client, victim):
            peer.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
            while peer.line() != b"\r\n":
                pass
        client.send(b"\x81\x81\0\0\0\0x").take(5)
        client.send(b"\x01\x83\0\0\0\0hel" + b"\x80\x82\0\0")
        victim.send(b"\x81\x84\0\0\0\0fail")
        one.wait_log(UNDONE)
        assert client.send(b"\0\0lo").take(9) == b"\x81\x07a hello"


def test_mqtt_sessions_go_back(server):
    script = ("-- %s\nreturn require('portico.mqtt').broker {\n"
              "  on_publish = function(_, message) if message.topic == 'f' then error('bad') end end }\n")
    one = server(script % "a", *UNDOES, watch=WATCH)
    connect = b"\x10\x0d\0\4MQTT\4\2\0\x3c\0\1"
    with one.connect() as client, one.connect() as fresh, one.connect() as victim:
        assert client.send(connect + b"a").take(4) == b"\x20\2\0\0"
        reload(one, script % "b")
        assert client.send(b"\x82\6\0\1\0\1t\0").take(5) == b"\x90\3\0\1\0"
        assert fresh.send(connect + b"b").take(4) == b"\x20\2\0\0"
        assert victim.send(connect + b"c").take(4) == b"\x20\2\0\0"
        fresh.send(b"\x30\4\0\1t")
        victim.send(b"\x30\4\0\1fx")
        one.wait_log(UNDONE)
        fresh.send(b"x")
        assert client.take(6) == b"\x30\4\0\1tx"
        assert fresh.send(b"\xc0\0").take(2) == b"\xd0\0"


@pytest.mark.budget
def test_a_handler_that_takes_too_long_is_answered(server):
    one = server(HTTP.replace("return \"%s", "while true do end return \"%s") % "a", "--callback-budget", "0.05")
    with one.connect() as client:
        assert client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").rest().startswith(b"HTTP/1.1 500 ")
    one.wait_log("callback budget")


@pytest.mark.parametrize("use,wanted,log", [
    ("res:start(200, { ['Content-Length'] = 3 }) res:write('abcd')", None, "res:write: 4 bytes, and the Content-Length leaves room for 3"),
    ("res:start(200, { ['Content-Length'] = 3 }) res:write('ab') res:finish()", None, "res:finish: 1 bytes of the Content-Length"),
    ("res:start(200) res:write {}", None, "res:write: string expected, got table"),
    ("res:start(200, { ['Content-Length'] = 3 }) res:write('ab') res:write(1) res:finish()", b"ab1", None),
    ("res:start(204) res:write('body') res:finish()", b"", None),
    ("res:start(304, { ['Content-Length'] = 4 }) res:write('body') res:finish()", b"", None),
    ("return 200, function() return 'abcd' end, { ['Content-Length'] = 3 }", None, "has not finished"),
])
def test_a_body_has_the_length_that_was_announced(server, use, wanted, log):
    one = server(ANSWERS % use)
    with one.connect() as client:
        client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        if log:
            one.wait_log(log)
            assert client.is_reset()
        else:
            assert client.rest().split(b"\r\n\r\n", 1)[1] == wanted


def test_requests_of_a_peer_that_has_gone_are_not_served(server):
    one = server("""
local http1 = require "portico.http1"
return http1.server {
  on_request = function(req, res)
    portico.log.info("asked " .. req.target)
    res:start(200)
    while res:write("piece") and req.target == "/1" do portico.sleep(0.001) end
    res:finish()
  end,
}""", "--workers", "1")
    with one.connect() as client:
        client.send("".join(f"GET /{i} HTTP/1.1\r\nHost: h\r\n\r\n" for i in (1, 2, 3)))
        one.wait_log("asked /1")
        client.reset()
    one.stop()
    assert len(one.log("asked")) == 1, one.text()


def test_patience_ends_a_head_that_drips(server):
    """Also where not a single line has come."""
    one = server("return require('portico.http1').server { patience = 0.05, on_request = function() return '' end }")
    with one.connect() as client:
        deadline = time.monotonic() + 20
        while not select.select([client.socket], [], [], 0.02)[0]:
            assert time.monotonic() < deadline
            client.send("x")
        assert client.line().startswith(b"HTTP/1.1 408 ")


def test_a_version_without_the_upgrade_of_the_one_before(server):
    both = """
local http1 = require "portico.http1"
return http1.server { on_request = function() return "%s" end, %s }"""
    upgrade = 'upgrade = { websocket = require("portico.websocket").protocol { on_message = function(ws, text) return text end } }'
    one = server(both % ("a", upgrade), watch=WATCH)
    with one.connect() as client, one.connect() as silent:
        for peer in (client, silent):
            peer.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
            assert head_of(peer)[0].startswith("HTTP/1.1 101 ")
        reload(one, both % ("b", ""))
        client.send(b"\x81\x81\0\0\0\0x")
        assert client.rest() == b""
        silent.close()
        one.wait_log("this version has no upgrade of that name")
        with one.connect() as other:
            assert other.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").finish().rest().endswith(b"b")
    one.stop()
    assert not one.log("error"), one.text()


@pytest.mark.parametrize("headers", ["Upgrade: foo, websocket", "Upgrade: WebSocket\r\nContent-Length: 0", "Upgrade: x/1\r\nUpgrade: websocket"])
def test_the_protocol_may_be_one_of_several(server, headers):
    one = server("""return require("portico.websocket").server { on_message = function(ws, text) ws:send(text) end }""")
    with one.connect() as client:
        client.send(f"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n{headers}\r\nSec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        lines = head_of(client)
        assert lines[0].startswith("HTTP/1.1 101 ") and "Upgrade: websocket" in lines
        assert client.send(b"\x81\x81\0\0\0\0x").take(3) == b"\x81\x01x"


def test_a_body_that_comes_byte_by_byte_costs_little_more_than_its_size(server):
    one = server("""
return require("portico.http1").server { on_request = function(req) return #req.body .. " " .. collectgarbage("count") * 1024 // 1 end }""",
                 "--workers", "1", "--lua-memory", "6M")
    with one.connect() as client:
        client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + "1\r\nx\r\n" * 1_000_000 + "0\r\n\r\n")
        assert client.finish().rest().split(b"\r\n\r\n", 1)[1].startswith(b"1000000 ")


def test_fetch_of_a_body_that_is_too_large(server):
    one = server("""
local http1 = require "portico.http1"
return http1.server { on_request = function(req)
  if req.path == "/small" then return 200, "x", { ["Set-Cookie"] = "a=1, 2" } end
  if req.path == "/pieces" or req.path == "/big" then
    local n = 0
    return 200, function() n = n + 1 return n <= 17 and ("x"):rep(1 << 20) or nil end,
      { ["Content-Length"] = req.path == "/big" and 17 << 20 or nil }
  end
  local got, message, code = http1.fetch("http://" .. req.headers.host .. req.query, { body = req.query == "/" and ("x"):rep(17 << 20) or nil })
  return got and table.concat(got.cookies, "|") or message .. " " .. code
end }""")
    for path, wanted in (("/small", "a=1, 2"), ("/", "overflow overflow"), ("/big", "body too large protocol"),
                         ("/pieces", "body too large protocol")):
        with one.connect() as client:
            client.send(f"GET /?{path} HTTP/1.1\r\nHost: 127.0.0.1:{one.port}\r\nConnection: close\r\n\r\n")
            assert client.rest().decode().split("\r\n\r\n", 1)[1] == wanted


HANDSHAKE = ("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")


def test_who_does_not_answer_a_close_goes_also_after_a_reload(server):
    script = """
-- %s
return require("portico.websocket").server {
  on_message = function(ws) ws:close(4000, "enough") end,
  on_close = function(_, code, reason) portico.log.info("gone:", code, reason) end,
}"""
    one = server(script % "a", watch=WATCH)
    with one.connect() as silent, one.connect() as talking:
        for peer in (silent, talking):
            assert head_of(peer.send(HANDSHAKE))[0].startswith("HTTP/1.1 101 ")
            assert peer.send(b"\x81\x81\0\0\0\0x").take(10) == b"\x88\x08\x0f\xa0enough"
        reload(one, script % "b")
        assert silent.rest() == b""
        deadline = time.monotonic() + 20
        while not select.select([talking.socket], [], [], 0.05)[0]:
            assert time.monotonic() < deadline
            talking.send(b"\x82\x80\0\0\0\0")
    one.wait_log("gone: 4000 enough", 2)


WEBSOCKET_CLIENT = """
local websocket = require "portico.websocket"
return { on_message = function(conn, port)
  local ws = assert(websocket.connect("ws://127.0.0.1:" .. port))
  local function tell(...)
    conn:send(table.concat({ ... }, " "), "\\n")
  end
  %s
end }"""


def test_receive_has_one_deadline(server):
    """Pings, and parts of a message, do not make it longer."""
    behind = server("""
return require("portico.websocket").server { on_message = function() end, on_open = function(ws)
  portico.spawn(function() while ws:ping("x") do portico.sleep(0.02) end end)
end }""", "--workers", "1")
    one = server(WEBSOCKET_CLIENT % """
  local began = portico.monotonic()
  local data, message, code = ws:receive(0.2)
  tell(tostring(data), message, code)
  data, message, code = ws:receive(0)
  tell(tostring(data), message, code)""")
    with one.connect() as client:
        client.send(str(behind.port))
        assert [client.line(), client.line()] == [b"nil timeout timeout\n"] * 2


def test_a_client_refuses_what_may_not_be_sent(server):
    behind = server("""
return require("portico.websocket").server { on_message = function(ws, text)
  for _, call in ipairs { { "close", 1000, ("x"):rep(124) }, { "close", 1005 }, { "ping", ("x"):rep(126) }, { "send_binary", 5 } } do
    ws:send(select(2, pcall(ws[call[1]], ws, table.unpack(call, 2))))
  end
  ws:send(text)
end, on_close = function(_, code, reason) portico.log.info("gone:", code, reason) end }""")
    one = server(WEBSOCKET_CLIENT % """
  tell(select(2, pcall(ws.send, ws, "\\xff")))
  tell(select(2, pcall(ws.close, ws, 1000, ("x"):rep(124))))
  tell(select(2, pcall(ws.close, ws, 1006)))
  ws:send("still here")
  for _ = 1, 5 do tell((ws:receive(5))) end
  ws:close(4001, "bye")""")
    with one.connect() as client:
        client.send(str(behind.port))
        assert [client.line().decode().strip() for _ in range(8)] == [
            "client:send: a text is UTF-8; other bytes are sent as binary",
            "client:close: reason: at most 123 bytes of UTF-8 expected",
            "client:close: code: one that may be sent expected (1000, 1001, 3000 to 4999, …), got 1006",
            "ws:close: reason: at most 123 bytes of UTF-8 expected",
            "ws:close: code: one that may be sent expected (1000, 1001, 3000 to 4999, …), got 1005",
            "ws:ping: at most 125 bytes expected in a control frame, in one part",
            "ws:send_binary: payload: string expected, got number",
            "still here"]
    behind.wait_log("gone: 4001 bye")


def test_a_client_and_the_protocols(server):
    """One that was not offered is refused, and nothing counts behind a close."""
    behind = server("""
local websocket = require "portico.websocket"
return { on_stream = function(conn)
  local head = conn:read_until("\\r\\n\\r\\n")
  conn:send("HTTP/1.1 101 x\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Protocol: b\\r\\nSec-WebSocket-Accept: ",
    websocket.accept_key(head:match("Sec%-WebSocket%-Key: (%S+)")), "\\r\\n\\r\\n",
    websocket.frame("close", ""), websocket.frame("text", "behind"))
end }""")
    one = server("""
local websocket = require "portico.websocket"
return { on_message = function(conn, port)
  local url = "ws://127.0.0.1:" .. port
  local ws, message, code = websocket.connect(url, { headers = { ["sec-websocket-protocol"] = "a, c" } })
  conn:send(tostring(ws), " ", message, " ", code, "\\n")
  ws = websocket.connect(url, { headers = { ["sec-websocket-protocol"] = { "a", "b" } } })
  conn:send(ws.protocol, "\\n")
  for _ = 1, 2 do conn:send(tostring(ws:receive(5)), " ", select(3, ws:receive(5)), "\\n") end
end }""")
    with one.connect() as client:
        client.send(str(behind.port))
        assert client.line() == b"nil the server wants a protocol that was not offered: b protocol\n"
        assert [client.line() for _ in range(3)] == [b"b\n", b"nil closed\n", b"nil closed\n"]
