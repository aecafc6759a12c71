"""The clients of lua/portico/, against the servers of lua/portico/ and against hand-made ones."""

import socket

import pytest

import rig

HTTP = """
local http1 = require "portico.http1"
return http1.server {
  on_request = function(req, res)
    if req.path == "/pieces" then
      res:start(200)
      res:write("one ")
      portico.sleep(0.01)
      res:write("two")
      return res:finish()
    elseif req.path == "/slow" then
      portico.sleep(5)
    end
    return 200, req.method .. " " .. req.target .. " " .. req.headers.x .. " " .. req.body
  end,
}
"""

# Runs what the test gives it in a task, and says the results.
ASK = rig.SAY + """
portico.after(0, function()
  local port, http1, resp, websocket = arg[1], require "portico.http1", require "portico.resp", require "portico.websocket"
  %s
end)
return { listen = {} }
"""


def ask(server, code, port):
    one = server(ASK % code, "--workers", "1", args=[str(port)], listen=(), ready=False)
    return one


def test_http(server):
    web = server(HTTP)
    gone = rig.free_port()
    one = ask(server, """
  local function show(response, message, code)
    say(response and response.status, response and response.body or message, code)
  end
  local base = "http://127.0.0.1:" .. port
  show(http1.fetch(base .. "/a?b", { headers = { X = "x" } }))
  show(http1.fetch(base, { headers = { X = "x" }, body = ("y"):rep(10) }))
  show(http1.fetch(base .. "/pieces"))
  show(http1.fetch(base .. "/pieces", { method = "HEAD" }))
  show(http1.fetch(base .. "/slow", { timeout = 0.1 }))
  show(http1.fetch("https://127.0.0.1/"))
  show(http1.fetch("nonsense"))
  show(http1.fetch("http://127.0.0.1:%d/"))
""" % gone, web.port)
    said = one.wait_said(8)
    assert said[:6] == ["200 GET /a?b x  nil", "200 POST / x yyyyyyyyyy nil", "200 one two nil", "200  nil", "nil timeout timeout",
                        "nil https is not spoken, only http invalid"]
    assert said[6] == "nil not a URL: nonsense invalid" and said[7].endswith("refused")


def test_resp(server, scripts):
    kv = server(scripts / "kv.lua", "--workers", "1")
    one = ask(server, """
  local redis <close> = assert(resp.connect("127.0.0.1:" .. port))
  say(redis:call("SET", "a", 1))
  say(redis:call("INCR", "a"))
  say(redis:call("GET", "none"))
  say(redis:call("LPUSH", "a", 1))
  local list = redis:call("MGET", "a", "none", "a")
  say(list.n, list[1], list[2], list[3])
  local tasks = {}
  for i = 1, 20 do
    tasks[i] = portico.spawn(function() return redis:call("ECHO", i) == tostring(i) end)
  end
  local right = 0
  for _, task in ipairs(tasks) do
    local _, is_right = task:join()
    right = right + (is_right and 1 or 0)
  end
  say(right)
  say(resp.connect("127.0.0.1:%d", { timeout = 1 }))
""" % rig.free_port(), kv.port)
    said = one.wait_said(7)
    assert said[:6] == ["OK", "2", "nil", "nil WRONGTYPE Operation against a key holding the wrong kind of value error", "3 2 nil 2", "20"]
    assert said[6].endswith("refused")


def test_what_a_server_pushes_answers_no_call(server, scripts):
    kv = server(scripts / "kv.lua", "--workers", "1")
    one = ask(server, """
  local redis <close> = assert(resp.connect("127.0.0.1:" .. port))
  local other <close> = assert(resp.connect("127.0.0.1:" .. port))
  redis:call("HELLO", 3)
  local is_there = redis:call("subscribe", "news")
  say(is_there.push[1], is_there.push[2], is_there.push[3])
  say(other:call("PUBLISH", "news", "one"), other:call("PUBLISH", "news", "two"))
  say(redis:call("SET", "a", 1))
  say(redis:call("GET", "a"))
  for i = 1, 2 do
    local got, value = redis:receive()
    say(got, table.concat(value.push, " "))
  end
  say(redis:receive(0.01))
  other:call("PUBLISH", "news", "three")
  say(select(2, redis:receive()).push[3])
""", kv.port)
    assert one.wait_said(8) == ["subscribe news 1", "1 1", "OK", "1", "true message news one", "true message news two",
                                "nil timeout timeout", "three"]


def test_the_time_for_a_reply_is_that_for_all_of_it(server):
    """However slowly, and whatever else comes meanwhile."""
    dripping = server("""
return { on_message = function(conn, data)
  while conn:send(data:find("PUSH") and ">1\\r\\n+x\\r\\n" or "+") ~= nil do portico.sleep(0.01) end
end }""")
    one = ask(server, """
  for _, what in ipairs { "DRIP", "PUSH" } do
    local redis <close> = assert(resp.connect("127.0.0.1:" .. port, { timeout = 0.2 }))
    say(redis:call(what))
  end
""", dripping.port)
    assert one.wait_said(2) == ["nil timeout timeout"] * 2


def test_an_error_in_an_outbound_connection_is_no_reply(server):
    """What a server of RESP has opened itself need not speak RESP."""
    other = server("return { on_message = function(conn, data) portico.log.info('got ' .. data) conn:send('x') end }")
    one = server("""
local uri = ...
return require("portico.resp").server { commands = { GO = function()
  local conn = assert(portico.connect(uri, { on_message = function() error("mishap") end }))
  conn:send("hello")
  return { ok = "OK" }
end } }""", args=[f"127.0.0.1:{other.port}"])
    with one.connect() as client:
        assert client.send("GO\r\n").line() == b"+OK\r\n"
        one.wait_log("mishap")
    one.stop()
    other.stop()
    assert "got hello" in other.text() and "internal error" not in other.text()


def test_a_reply_to_a_call_that_was_cut_off_is_nobody_elses(server):
    slow = server("""
return require("portico.resp").server {
  commands = { ["SLOW seconds value"] = function(_, args) portico.sleep(tonumber(args[2])) return args[3] end },
}
""")
    one = ask(server, """
  local uri = "127.0.0.1:" .. port
  local redis <close> = assert(resp.connect(uri))
  say(portico.timeout(0.1, function() return redis:call("SLOW", 0.2, "secret") end))
  say((redis:call("SLOW", 0, "mine")))
  local again <close> = assert(resp.connect(uri))
  local task = portico.spawn(function() return again:call("SLOW", 0.2, "secret") end)
  portico.sleep(0.1)
  task:cancel()
  say((again:call("SLOW", 0, "mine")))
  local third <close> = assert(resp.connect(uri))
  say(third:call("SLOW", 0, "mine"))
""", slow.port)
    assert one.wait_said(4) == ["nil timeout timeout", "nil", "nil", "mine"]


def test_what_a_client_cannot_be_asked_raises_and_opens_no_connection(server):
    with socket.create_server(("127.0.0.1", 0)) as untouched:
        one = ask(server, """
  local http, ws, redis = "http://127.0.0.1:" .. port, "ws://127.0.0.1:" .. port, "tcp://127.0.0.1:" .. port
  local function try(...) say((select(2, pcall(...)))) end
  try(http1.fetch, 5)
  try(http1.fetch, http, { bdy = "x" })
  try(http1.fetch, http, { body = 5 })
  try(http1.fetch, http, { timeout = 0 })
  try(http1.fetch, http .. "/a b", {})
  try(http1.fetch, http, { method = "GE T" })
  try(http1.fetch, http, { headers = { A = "x\\r\\nB: y" } })
  try(websocket.connect, ws, { timout = 1 })
  try(websocket.connect, ws, { headers = "x" })
  try(resp.connect, redis, { timout = 1 })
""", untouched.getsockname()[1])
        wanted = ["http1.fetch: url: string expected, got number", "http1.fetch: unknown option 'bdy': there are body, ",
                  "http1.fetch: body: string expected, got number", "http1.fetch: timeout: a number above 0 expected, got 0",
                  "target: /a b is not possible there", "method: GE T is not possible there", "'A' has a line end in it",
                  "websocket.connect: unknown option 'timout': there are headers, max_message, timeout",
                  "websocket.connect: headers: table expected, got string", "unknown option 'timout'"]
        for line, words in zip(one.wait_said(len(wanted)), wanted):
            assert words in line, (line, words)
        untouched.settimeout(0.1)
        with pytest.raises(TimeoutError):
            untouched.accept()


def test_the_time_to_connect_is_of_a_websockets_timeout(server):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        one = ask(server, """
  local connect, begun = portico.connect, portico.monotonic()
  portico.connect = function(...) portico.sleep(0.6) return connect(...) end
  local _, _, code = websocket.connect("ws://127.0.0.1:" .. port, { timeout = 1 })
  say(code, portico.monotonic() - begun < 1.5)
""", silent.getsockname()[1])
        assert one.wait_said(1) == ["timeout true"]


def test_websocket(server):
    chat = server("""
local websocket = require "portico.websocket"
return websocket.server {
  on_message = function(ws, data, is_binary)
    if data == "bye" then return ws:close(4000, "as you wish") end
    ws:ping("p")
    if is_binary then ws:send_binary(data) else ws:send(data) end
  end,
  on_close = function(_, code) portico.log.info("said: close " .. code) end,
}
""")
    one = ask(server, """
  local url = "ws://127.0.0.1:" .. port .. "/x"
  do
    local ws <close> = assert(websocket.connect(url))
    ws:send("hello ö")
    say(ws:receive())
    ws:send(("x"):rep(100000), "binary")
    local data, kind = ws:receive()
    say(#data, kind)
    say(ws:receive(0.05))
    ws:send("bye")
    say(ws:receive())
  end
  do
    local ws <close> = assert(websocket.connect(url))
  end
  say(websocket.connect("http://x"))
""", chat.port)
    assert one.wait_said(5) == ["hello ö text", "100000 binary", "nil timeout timeout", "nil closed by the server closed 4000 as you wish",
                                "nil not a URL that begins with ws://: http://x invalid"]
    assert sorted(chat.wait_said(2)) == ["close 1000", "close 4000"]
