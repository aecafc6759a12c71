"""Frames: what scripts get and send as messages, how they are declared, and what becomes of peers that break the rules."""

import os
import random
import struct

import pytest

from rig import SAY, Server, Settings, scaled

# The first line of a connection says what is to be done with messages, and what their frame is from then on.
SWITCH = SAY + """
local ways = {
  show = function(conn, ...)
    local parts = table.pack(...)
    for i = 1, parts.n do parts[i] = tostring(parts[i]) end
    conn:write("[", table.concat(parts, "|"), "]")
  end,
  echo = function(conn, data) return data end,
  send = function(conn, data, ...) conn:send(data, ...) end,
  sleep = function(conn, data) portico.sleep(0.01) conn:write("[", data, "]") end,
  pause = function(conn, data)
    conn:pause()
    portico.after(0.01, function() conn:resume() end)
    conn:write("[", data, "]")
  end,
  close = function(conn, data) conn:write("[", data, "]") conn:close() end,
}
return {
  frame = "line",
  on_message = function(conn, data, ...)
    if conn.state.way then return ways[conn.state.way](conn, data, ...) end
    local way, declared = data:match("^(%S+) (.*)$")
    conn.state.way = way
    local frame = assert(load("return " .. declared))()
    local ok, problem = pcall(function() conn:set{ frame = frame } end)
    if not ok then conn:write(problem, "\\n") conn:close() end
  end,
  on_close = function(conn, reason, err) say(conn.peer, reason, err or "-") end,
}
"""


@pytest.fixture(name="switch", scope="module")
def switch_fixture(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("frames"), SWITCH, ["--workers", "1"])
    one.wait_ready()
    yield one
    one.stop()


def talk(one, way, declared, data, bytewise=False):
    """Everything that the server answers, and what on_close says."""
    with one.connect() as client:
        peer = ":".join(map(str, client.address[:2])) + " "
        before = len(one.log("said: " + peer)) # an earlier client may have had the same port
        head = f"{way} {declared}\n".encode()
        if bytewise:
            client.send(head)
            for byte in data:
                client.send(bytes([byte]))
        else:
            client.send(head + data)
        try:
            client.finish()
            answer = client.rest()
        except OSError:  # a handler that raised resets
            answer = b""
    line = one.wait_log("said: " + peer, before + 1)[-1]
    return answer, line.split("said: " + peer, 1)[1]


SHOWN = [
    ('"line"', b"a\nbc\r\n\n", b"[a][bc][]"),
    ('{type="line", keep=true}', b"a\nb\r\n", b"[a\n][b\r\n]"),
    ('{type="line", sep="\\0"}', b"a\0b\nc\0", b"[a][b\nc]"),
    ('{type="line", sep="\\r\\n"}', b"a\nb\r\nc\r\r\n", b"[a\nb][c\r]"),
    ('"netstring"', b"5:hello,0:,3:a,b,", b"[hello][][a,b]"),
    ('{type="length", size=1}', b"\x03abc\x00\x01d", b"[abc][][d]"),
    ('{type="length", size=2}', b"\x00\x03abc\x00\x00", b"[abc][]"),
    ('{type="length", size=3, endian="little"}', b"\x03\x00\x00abc", b"[abc]"),
    ('{type="length", size=4, adjust=-4}', b"\x00\x00\x00\x07abc", b"[abc]"),
    ('{type="length", size=8}', b"\x00" * 7 + b"\x03abc", b"[abc]"),
    ('{type="length", size=2, strip=false}', b"\x00\x03abc", b"[\x00\x03abc]"),
    ('{type="length", size=1, offset=2}', b"TT\x03abcUU\x00", b"[TT\x03abc][UU\x00]"),
    ('{type="fixed", size=3}', b"abcdef", b"[abc][def]"),
    ('"raw"', b"", b""),
    ('{type="pack", header=">I2I1I4"}', b"\x01\x02\x07\x00\x00\x00\x03abc" + b"\x00\x01\x02\x00\x00\x00\x00",
     b"[abc|258|7|3][|1|2|0]"),
    ('{type="pack", header="<I2I1", body=1}', b"\x03\x00\x09abc", b"[abc|3|9]"),
    ('{type="pack", header="BB", body=function(a, b) return a + b end}', b"\x01\x02abc", b"[abc|1|2]"),
    ('function(b) local at = b:find(";", 1, true) return at end', b"a;bc;", b"[a;][bc;]"),
    ('function(b) return #b > 0 and b:byte() + 1 or nil end', b"\x02ab\x00", b"[\x02ab][\x00]"),
    ('{type="function", max=9, decode=function(b) return b:find(";") end}', b"a;bc;", b"[a;][bc;]"),
]


@pytest.mark.parametrize("declared,data,expected", SHOWN)
def test_messages_are_cut_where_they_end(switch, declared, data, expected):
    assert talk(switch, "show", declared, data) == (expected, "eof -")
    assert talk(switch, "show", declared, data, bytewise=True) == (expected, "eof -")


@pytest.mark.parametrize("declared,data,expected", [
    (declared, data, data.replace(b"\r\n", b"\n") if declared == '"line"' else data) for declared, data, _ in SHOWN
    if "pack" not in declared])
def test_what_is_returned_gets_the_same_frame(switch, declared, data, expected):
    assert talk(switch, "echo", declared, data) == (expected, "eof -")
    assert talk(switch, "send", declared, data) == (expected, "eof -")


def test_pack_sends_the_other_values_of_its_header(switch):
    data = b"\x01\x02\x07\x00\x00\x00\x03abc"
    declared = '{type="pack", header=">I2I1I4", body=3}'
    answer, reason = talk(switch, "send", declared, data)
    assert (answer, reason) == (b"", "error -")  # it got three, and wants two
    switch.wait_log(r"behind the message 2 of the header's values expected, all but the length, got 3")
    one = '{type="pack", header=">I4"}'
    assert talk(switch, "echo", one, b"\x00\x00\x00\x03abc") == (b"\x00\x00\x00\x03abc", "eof -")


def test_encode_makes_what_is_sent_of_a_table(server):
    one = server("""
return {
  frame = { type = "function", decode = function(b) return (b:find(";")) end, encode = function(t) return table.concat(t, "+") .. "!" end },
  on_message = function(conn, m) return { m, 2 } end,
}""")
    with one.connect() as client:
        assert client.send("a;b;").finish().rest() == b"a;+2!b;+2!"
    one.stop()
    assert not one.log("warn"), one.text()


def test_encode_makes_what_is_sent(switch):
    declared = '{type="function", decode=function(b) return b:find(";") end, encode=function(m) return m:upper() .. "!" end}'
    assert talk(switch, "echo", declared, b"a;b;") == (b"A;!B;!", "eof -")


# ---- Broken rules ----

@pytest.mark.parametrize("declared,data,reason", [
    ('{type="line", max=3}', b"abc\nabcd\n", "limit a line is longer than max"),
    ('{type="line", max=3}', b"abc\nabcd", "limit a line is longer than max"),
    ('{type="length", size=4, max=3}', b"\x00\x00\x00\x03abc\x00\x00\x00\x04", "limit the length of a message is above max"),
    ('{type="length", size=4}', b"\x40\x00\x00\x00", "limit the length of a message is above max"),
    ('{type="length", size=2, adjust=-2}', b"\x00\x05abc\x00\x01", "error the length of a message is below 0"),
    ('{type="netstring", max=3}', b"3:abc,4", "limit the length of a message is above max"),
    ('"netstring"', b"3:abc,x", "error a netstring does not begin with its length"),
    ('"netstring"', b"3:abc,03:abc,", "error the length of a netstring begins with 0"),
    ('"netstring"', b"3:abc,3;abc,", "error there is no ':' behind the length of a netstring"),
    ('"netstring"', b"3:abc,3:abcd", "error there is no ',' behind a netstring"),
    ('{type="pack", header=">I4", max=3}', b"\x00\x00\x00\x03abc\x00\x00\x00\x04", "limit the length of a message is above max"),
    ('{type="pack", header=">i4"}', b"\x00\x00\x00\x03abc\xff\xff\xff\xff", "error the length of a message is below 0"),
    ('{type="function", max=3, decode=function(b) return b:find(";") end}', b"ab;abc;", "limit a message is longer than max"),
    ('{type="function", max=3, decode=function(b) return nil end}', b"abcd", "limit a message is longer than max"),
])
def test_what_breaks_the_rules_ends_its_connection(switch, declared, data, reason):
    """… and what came before it is answered."""
    for bytewise in (False, True):
        answer, said = talk(switch, "show", declared, data, bytewise)
        assert said == reason
        assert answer in (b"[abc]", b"[ab;]", b"[abc|3]") or len(data) < 5 and answer == b""
    # The first is logged, further ones of the kind are counted: see test_hostile.py.
    assert switch.log(reason.split(" ", 1)[1] + ".*: closed")


@pytest.mark.parametrize("declared,data", [
    ('"line"', b"abc\nde"), ('"netstring"', b"3:abc,2:d"), ('{type="length", size=4}', b"\x00\x00\x00\x03abc\x00"),
    ('{type="fixed", size=3}', b"abcd"), ('function(b) return #b >= 3 and 3 or nil end', b"abcd"),
])
def test_what_is_not_whole_at_the_end_is_told_and_not_delivered(switch, declared, data):
    assert talk(switch, "show", declared, data) == (b"[abc]", "eof truncated message")


@pytest.mark.skipif(Settings.wine, reason="/proc tells the memory of Linux programs only")
@pytest.mark.parametrize("declared,head", [
    ('{type="length", size=4, max=1<<30}', struct.pack(">I", 1 << 30)),
    ('{type="line", max=1<<30}', b""),
    ('{type="netstring", max=1<<30}', b"1073741824:"),
    ('{type="pack", header=">I4", max=1<<30}', struct.pack(">I", 1 << 30)),
])
def test_memory_follows_what_has_come_and_not_what_is_announced(switch, declared, head):
    with switch.connect() as client:
        client.send(f"show {declared}\n".encode() + head)
        client.send(b"x" * (1 << 20))
        with switch.connect() as other:  # by its answer the bytes above are there
            assert other.send('echo "line"\nx\n').line() == b"x\n"
        memory = switch.memory()
        client.send(b"x" * (1 << 20))
        with switch.connect() as other:
            assert other.send('echo "line"\nx\n').line() == b"x\n"
        assert switch.memory() - memory < 16 << 20


def test_random_bytes_disturb_nobody_else(switch):
    """Whatever a peer sends, in whatever frame: it is answered or ended, and the next one is served."""
    seed = int(os.environ.get("PORTICO_TEST_SEED", "20261122"))
    print("PORTICO_TEST_SEED", seed)
    choose = random.Random(seed)
    likely = [b"", b"\n", b"\r\n", b"3:abc,", b"\x00\x00\x00\x03abc", b";", b"\xff" * 4, b"0", b":", b","]
    for round_number in range(scaled(2000)):
        declared = choose.choice(SHOWN)[0]
        way = choose.choice(["show", "echo", "sleep"])
        with switch.connect() as client:
            try:
                client.send(f"{way} {declared}\n")
                for _ in range(choose.randrange(8)):
                    client.send(choose.choice(likely) + choose.randbytes(choose.choice([0, 1, 3, 40, 3000])))
                if choose.random() < 0.5:
                    client.finish()
            except OSError:  # it was told to go
                pass
        if round_number % 50 == 0:
            assert talk(switch, "show", '"line"', b"a\n") == (b"[a]", "eof -")
    assert talk(switch, "show", '"line"', b"a\n") == (b"[a]", "eof -")


# ---- Order ----

@pytest.mark.parametrize("way", ["sleep", "pause"])
def test_a_handler_that_waits_gets_the_next_message_afterwards(switch, way):
    data = b"".join(b"%d\n" % i for i in range(20))
    expected = b"".join(b"[%d]" % i for i in range(20))
    assert talk(switch, way, '"line"', data) == (expected, "eof -")
    assert talk(switch, way, '{type="line", sep="\\n"}', data, bytewise=True) == (expected, "eof -")


def test_after_close_no_message_is_delivered(switch):
    assert talk(switch, "close", '"line"', b"a\nb\nc\n") == (b"[a]", "local -")


@pytest.mark.packets("received")
def test_a_new_frame_is_in_force_for_the_next_byte(server):
    one = server("""
      return { frame = "line", on_message = function(conn, data)
        conn:write("[", data, "]")
        if data == "raw" then conn:set{ frame = "raw" } end
        if data == "two" then conn:set{ frame = { type = "fixed", size = 2 } } end
        if data == ";;" then conn:set{ frame = { type = "line", sep = ";" } } end
        if data == "net" then conn:set{ frame = "netstring" } end
        if data == "line" then conn:set{ frame = "line" } end
      end }""", "--workers", "1")
    with one.connect() as client:
        client.send(b"a\ntwo\nb\nc\n;;net;4:line,raw\nd\ne\n")
        assert client.finish().rest() == b"[a][two][b\n][c\n][;;][net][line][raw][d\ne\n]"
    one.stop()


def test_a_new_frame_is_in_force_for_what_waits_for_more(server):
    one = server(SAY + """
      return { frame = "line",
        on_connect = function(conn) portico.after(0.3, function() conn:set{ frame = { type = "fixed", size = 2 } } end) end,
        on_message = function(conn, data) say(data) end }""", "--workers", "1")
    with one.connect() as client:
        client.send(b"abcd")
        assert one.wait_said(2) == ["ab", "cd"]
    one.stop()


def test_recv_draws_what_follows_the_message(server):
    """What came with it is there at once, in front of what comes later."""
    one = server("""return { frame = "line", on_message = function(conn, line)
      if line ~= "raw" then return "[" .. line .. "]" end
      conn:pause()
      local got = assert(conn:recv(3))
      while #got < 12 do
        local data = conn:recv(math.min(12 - #got, 3))
        if data then got = got .. data else portico.sleep(0.001) end
      end
      conn:write(got, "\\n")
      conn:resume()
    end }""")
    with one.connect() as client:
        client.send("raw\n123456789abcafter\n")
        assert [client.line() for _ in range(2)] == [b"123456789abc\n", b"[after]\n"]
        client.send("one\nraw\n12")
        assert client.line() == b"[one]\n"
        client.send("3456").send("789abcafter\n")
        assert [client.line() for _ in range(2)] == [b"123456789abc\n", b"[after]\n"]


@pytest.mark.packets("both")
def test_many_messages_of_one_segment_are_answered_together(server):
    one = server('return { frame = "line", on_message = function(_, line) return line end }', "--workers", "1")
    data = b"".join(b"message %d\n" % i for i in range(100))
    with one.connect() as client:
        for _ in range(3):
            assert client.send(data).socket.recv(1 << 16) == data
    one.stop()


def test_a_segment_of_very_many_messages_lets_others_have_their_turn(server):
    """… and the peer that does not read its answers is not served on."""
    one = server("""
      return { frame = "line", limits = { send_high = 100000, send_low = 10000 }, on_message = function(conn, line)
        conn.state.n = (conn.state.n or 0) + 1
        conn:send(("x"):rep(100))
      end }""", "--workers", "1")
    with one.connect() as client:
        client.send(b"\n" * 100_000)
        with one.connect() as other:
            assert other.send(b"\n").line() == b"x" * 100 + b"\n"
        assert client.take(101 * 100_000) == (b"x" * 100 + b"\n") * 100_000
    one.stop()


def test_large_messages_pass_in_both_directions(server):
    largest = scaled(4 << 20, 1 << 18)
    one = server(f"""
      return {{ frame = {{ type = "length", size = 4, max = {largest} }}, limits = {{ send_max = 0 }},
        on_message = function(_, data) return data end }}""", "--workers", "1", "--lua-memory", "256M")
    with one.connect(seconds=20) as client:
        for size in (0, 1, 65535, 65536, 65537, largest // 4, largest - 1, largest):
            message = struct.pack(">I", size) + bytes(range(251)) * (size // 251) + b"z" * (size % 251)
            assert client.ask(message) == message
    one.stop()


def test_messages_are_counted(server):
    one = server("""
      return { frame = "line", on_message = function(conn, line) return tostring(conn.stats.messages) end,
        on_close = function(conn) portico.log.info("said: " .. conn.stats.messages) end }""", "--workers", "1")
    with one.connect() as client:
        client.send(b"a\nb\nc")
        client.line(), client.line()
        client.send(b"d\n").line()
    assert one.wait_said(1) == ["3"]
    one.stop()


# ---- Outbound ----

@pytest.mark.packets("both")
def test_an_outbound_connection_has_a_frame_of_its_own(server):
    one = server(SAY + """
      local function go(uri)
        local conn = assert(portico.connect(uri, { frame = "netstring",
          on_message = function(conn, data) say("netstring", data) conn:close() end }))
        conn:send("net", "string")
        local raw = assert(portico.connect(uri, { on_message = function(conn, data) say("raw", data) conn:close() end }))
        raw:write("line\\n")
        local custom = assert(portico.connect(uri, { frame = { type = "pack", header = "B" },
          on_message = function(conn, data, len) say("pack", data, len) conn:close() end }))
        custom:send("abc")
      end
      return { frame = { type = "line", sep = "\\n", keep = true },
        on_connect = function(conn) conn:set{ frame = "raw" } end,
        on_message = function(conn, data)
          if data == "go" then return go("tcp://" .. conn.addr) end
          conn:write(data)
        end }""", "--workers", "1")
    with one.connect() as client:
        client.send("go")
        assert sorted(line.strip() for line in one.wait_said(3)) == ["netstring netstring", "pack abc 3", "raw line"]
    one.stop()


# ---- Declarations ----

@pytest.mark.parametrize("declared,problem", [
    ("1", "frame: 'raw', 'line', 'netstring', a table or a function expected, got number"),
    ("true", "frame: 'raw', 'line', 'netstring', a table or a function expected, got boolean"),
    ('"lines"', "frame: 'raw', 'line', 'netstring', a table or a function expected, got lines: did you mean 'line'?"),
    ('"length"', "frame: 'length' needs a table, {type = \"length\", ...}"),
    ("{}", "frame.type: the name of a type, such as 'line' or 'length', expected, got nil"),
    ('{type="lenght"}', "expected, got lenght: did you mean 'length'?"),
    ('{type="line", size=1}', "frame.size: a frame of type 'line' has no such field"),
    ('{type="line", seperator=1}', "frame.seperator: a frame of type 'line' has no such field"),
    ('{type="line", spe=";"}', "has no such field: did you mean 'sep'?"),
    ('{type="line", "x"}', "frame: the key 1 is no name: name = value expected"),
    ('{type="line", sep=""}', "frame.sep: a string of 1 to 16 bytes expected, got "),
    ('{type="line", sep=("x"):rep(17)}', "frame.sep: a string of 1 to 16 bytes expected, got 'xxxxxxxxxxxxxxxxx'"),
    ('{type="line", keep=1}', "frame.keep: boolean expected, got 1"),
    ('{type="line", max=0}', "frame.max: bytes, a whole number from 1 to 1073741824, expected, got 0"),
    ('{type="line", max=1.5}', "frame.max: bytes, a whole number from 1 to 1073741824, expected, got 1.5"),
    ('{type="line", max="9"}', "frame.max: bytes, a whole number from 1 to 1073741824, expected, got '9'"),
    ('{type="line", max=1<<31}', "frame.max: bytes, a whole number from 1 to 1073741824, expected, got 2147483648"),
    ('{type="length"}', "frame.size: 1, 2, 3, 4 or 8 expected, got "),
    ('{type="length", size=5}', "frame.size: 1, 2, 3, 4 or 8 expected, got 5"),
    ('{type="length", size=2, endian="middle"}', "frame.endian: 'big' or 'little' expected, got 'middle'"),
    ('{type="length", size=2, offset=65}', "frame.offset: bytes before the length, 0 to 64, expected, got 65"),
    ('{type="length", size=2, offset=1, strip=true}', "frame.strip: with an offset a message keeps its header: false expected"),
    ('{type="length", size=2, adjust=0.5}', "frame.adjust: a whole number of bytes expected, got 0.5"),
    ('{type="fixed"}', "frame.size: bytes, a whole number from 1 to 1073741824, expected, got "),
    ('{type="fixed", size=3, max=3}', "frame.max: a frame of type 'fixed' has no such field"),
    ('{type="pack"}', "frame.header: a format of string.pack expected, got nil"),
    ('{type="pack", header="z"}', "frame.header: a format of string.pack for 1 to 1024 bytes, always as many, expected, got 'z'"),
    ('{type="pack", header="Q"}', "frame.header: a format of string.pack for 1 to 1024 bytes, always as many, expected, got 'Q'"),
    ('{type="pack", header=""}', "frame.header: a format of string.pack for 1 to 1024 bytes, always as many, expected, got ''"),
    ('{type="pack", header="x"}', "frame.header: a format with 1 to 32 values expected, got 'x'"),
    ('{type="pack", header=">I2", body=2}', "frame.body: which of the header's values is the length, or a function, expected, got 2"),
    ('{type="pack", header=">I2", body="x"}', "frame.body: which of the header's values is the length, or a function, expected, got 'x'"),
    ('{type="function"}', "frame.decode: function expected, got nil"),
    ('{type="function", decode=function() end, encode=1}', "frame.encode: function expected, got 1"),
])
def test_a_wrong_declaration_names_what_is_wrong(switch, declared, problem):
    answer, reason = talk(switch, "show", declared, b"")
    assert "bad argument #1 to 'set' (frame" in answer.decode(), answer
    assert problem in answer.decode()
    assert reason in ("local -", "eof -")


def test_a_wrong_declaration_in_the_script_ends_the_start(server):
    one = server('return { frame = { type = "length", size = 5 }, on_message = print }', ready=False)
    assert one.wait_end() != 0
    assert one.log(r"script\.lua: frame\.size: 1, 2, 3, 4 or 8 expected, got 5")


# ---- Functions of the script that do wrong ----

@pytest.mark.parametrize("declared,problem", [
    ('function(b) error("no idea") end', "no idea"),
    ('function(b) return 0 end', "frame: the function returned 0: bytes from 1 on, or nil, expected"),
    ('function(b) return -1 end', "frame: the function returned -1: bytes from 1 on, or nil, expected"),
    ('function(b) return "x" end', "frame: what the function returned: a whole number of bytes expected, got string"),
    ('function(b) return 1.5 end', "frame: what the function returned: a whole number of bytes expected, got 1.5"),
    ('function(b) portico.sleep(0) end', "portico.sleep cannot wait here: the frame's function answers at once"),
    ('{type="pack", header="B", body=function() end}', "frame.body: what the function returned: a whole number of bytes expected, got nil"),
    ('{type="pack", header="d"}', "frame.body: the header's value: a whole number of bytes expected, got "),
    ('{type="pack", header="B", body=function() error("no idea") end}', "no idea"),
])
def test_a_frame_function_that_fails_ends_its_connection(switch, declared, problem):
    answer, reason = talk(switch, "show", declared, b"\x07\x00\x00\x00\x00\x00\xf0\x3f"[::-1] if "d\"" in declared else b"abc")
    assert (answer, reason) == (b"", "error -")
    assert any(problem in line for line in switch.wait_log("in the frame's function of conn|cannot wait|no idea|frame"))


@pytest.mark.parametrize("declared,data,problem", [
    ('{type="fixed", size=3}', b"abc", "script.lua:2: what on_message returned cannot be sent: the message has not the fixed size"),
    ('{type="length", size=1}', b"\x03abc", "script.lua:2: what on_message returned cannot be sent: the message is too long for its length field"),
    ('{type="length", size=1, offset=1}', b"T\x03abc", "script.lua:2: what on_message returned cannot be sent: the message is shorter than its header"),
    ('{type="pack", header="BB"}', b"\x00\x03abc", "send: behind the message 1 of the header's values expected, all but the length, got 0"),
    ('{type="pack", header="B"}', b"\x03abc", "bad argument"),
    ('{type="function", decode=function() return 3 end, encode=function() end}', b"abc", "frame.encode: it returned a nil: a string expected"),
])
def test_a_message_that_fits_no_frame_is_an_error(server, declared, data, problem):
    size = 1 if "offset" in declared else 300 if "length" in declared or '"B"' in declared else 5
    one = server(SAY + f"""
      return {{ frame = {declared}, on_message = function() return ("x"):rep({size}) end,
        on_error = function(conn, err) say(err.callback, err.message) end }}""", "--workers", "1")
    with one.connect() as client:
        client.send(data)
        assert client.is_over()
    assert one.wait_said(1)[0].startswith("on_message ")
    assert problem in one.said()[0]
    one.stop()


@pytest.mark.parametrize("declared,good,bad", [
    ('"line"', "one", "one\\ntwo"),
    ('{type="line", keep=true}', "one\\n", "one\\ntwo\\n"),
    ('{type="line", sep="; "}', "one", "one; two"),
])
def test_no_message_is_sent_as_two_lines(server, declared, good, bad):
    """Who passes on what a peer has said does not pass on commands."""
    one = server(SAY + f"""
      return {{ frame = {declared}, on_message = function(conn) say(pcall(conn.send, conn, "{bad}")) return "{good}" end }}""")
    end = "; " if "sep" in declared else "\n"
    with one.connect() as client:
        client.send("x" + end)
        assert client.take(3 + len(end)).decode() == "one" + end
    assert "the message has a line end in it" in one.wait_said(1)[0]


def test_a_frame_function_in_an_endless_loop_is_ended(server):
    one = server("return { frame = function(b) while true do end end, on_message = print }", "--workers", "1",
                 "--callback-budget", "0.2")
    with one.connect() as client:
        client.send(b"x")
        assert client.is_over()
    one.wait_log("callback budget")
    one.stop()


@pytest.mark.parametrize("other", ['"raw"', '{ type = "pack", header = "c900B" }'])
def test_a_frame_function_cannot_change_its_own_frame(server, other):
    one = server(SAY + f"""
      local kept
      return {{ frame = {{ type = "pack", header = "B", body = function(len) kept:set{{ frame = {other} }} return len end }},
        on_connect = function(conn) kept = conn end,
        on_message = function(conn, data) say("message", data) end,
        on_close = function(conn, reason) say(reason) end }}""", "--workers", "1")
    with one.connect() as client:
        client.send(b"\x03abc")
        assert client.is_over()
    assert one.wait_said(1) == ["error"]
    one.wait_log("frame: its function has changed the frame of its own connection")
    one.stop()


def test_on_error_cannot_keep_a_connection_whose_frame_failed(server):
    one = server(SAY + """
      return { frame = function(b) error("no idea") end, on_message = print,
        on_error = function(conn, err) say(err.callback) return "keep" end,
        on_close = function(conn, reason) say(reason) end }""", "--workers", "1")
    with one.connect() as client:
        client.send(b"x")
        assert client.is_over()
    assert one.wait_said(2) == ["the frame's function", "error"]
    one.stop()


def test_write_ignores_the_frame(server):
    one = server("""
      return { frame = "netstring", on_message = function(conn, data)
        conn:write(data, 1) conn:send("a", 2) conn:write() conn:send("") return "" end }""", "--workers", "1")
    with one.connect() as client:
        assert client.send(b"3:abc,").finish().rest() == b"abc12:a2,0:,0:,"
    one.stop()


def test_a_stale_connection_is_closed_for_write(server):
    one = server(SAY + """
      local kept
      return { frame = "line", on_message = function(conn) kept = conn conn:close() end,
        on_close = function() portico.after(0.05, function() say(kept:write("x")) say(kept:send("x")) end) end }""",
                 "--workers", "1")
    with one.connect() as client:
        client.send("x\n")
        assert client.is_over()
    assert one.wait_said(2) == ["nil closed closed"] * 2
    one.stop()


# ---- Generations ----

RELOADED = r"reload: generation \d+ \(\w{12}\) takes over from generation \d+"


def replace(one, text):
    count = len(one.log(RELOADED))
    (one.directory / "script.lua").write_text(text, encoding="utf-8")
    with one.connect() as other:
        other.send("reload\n")
        one.wait_log(RELOADED, count + 1)


def test_a_new_generations_frame_is_in_force_for_open_connections(server):
    one = server("""
      return { frame = "line", on_message = function(conn, data)
        if data == "reload" then portico.reload() end
        if data == "own" then conn:set{ frame = { type = "fixed", size = 3 } } end
        if data == "function" then conn:set{ frame = function(b) return b:find(";") end } end
        conn:write("1[", data, "]")
      end }""", "--workers", "1")
    plain, own, custom = one.connect(), one.connect(), one.connect()
    assert plain.send("a\n2:x").take(4) == b"1[a]"  # and a part of a message, which two frames would see differently
    assert own.send("own\nabc").take(12) == b"1[own]1[abc]"
    assert custom.send("function\n;").take(15) == b"1[function]1[;]"
    replace(one, "return { frame = 'netstring', on_message = function(conn, data) conn:write('2[', data, ']') end }")
    assert plain.send("y,").take(5) == b"2[xy]"
    assert own.send("def").take(6) == b"2[def]"  # what conn:set said stays …
    assert custom.send("1:z,").take(4) == b"2[z]"  # … unless it was a function of the old script
    for client in (plain, own, custom):
        client.close()
    one.stop()
