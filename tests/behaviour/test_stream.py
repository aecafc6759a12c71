"""Reading from connections, in on_stream and in any other handler: formats, pieces, timeouts, frames, a model, wrong use."""

import random
import re

import pytest

from rig import SAY, SHOW, Settings, scaled, until

ONE = ("--workers", "1")


def said(one, count):
    return one.wait_said(count)


# ---- What reads ----

@pytest.mark.parametrize("pieces", [[b"one\ntwo\nthree\n"], [b"one\ntw", b"o\nthree", b"\n"]])
def test_reading_is_drawing(server, pieces):
    """on_readable is called for what a read has left, and for what comes after one."""
    one = server("""return { on_readable = function(conn)
      local line = conn:read('l', 30)
      if line then conn:send(line, '|') end
    end }""", *ONE)
    with one.connect() as client:
        for piece in pieces:
            client.send(piece)
        assert client.take(14) == b"one|two|three|"
        assert client.send(b"four\n").take(5) == b"four|"
        client.finish()
        assert client.rest() == b""


FORMATS = SHOW + r"""
local reader
return {
  on_stream = function(c)
    local first = c:read("l")
    if first == "control" then -- how many bytes the reader has got so far
      for _ in c:lines() do c:send(reader and reader.stats and tostring(reader.stats.received) or "0", "\n") end
      return
    end
    reader = c
    show(c:read("l"))
    show(c:read("L"))
    show(c:read(5))
    show(c:read_until(";;"))
    show(c:read_until("\0\1", {keep = true}))
    show(c:peek(3))
    show(c:read(0))
    show(c:read("l"))
    show(c:read(1))
    show(c:read())
    show(c:read("a"))
    show(c:read("a"))
    show(c:read("l"))
    show(c:read(3))
    show(c:peek(1))
  end,
}
"""

STREAM = b"reader\nabc\r\ndef\r\n12345xyz;;bin\0\0\1rest;;\n\0\nend\nof it"
EXPECTED = [
    '"abc"', r'"def\013\010"', '"12345"', '"xyz"', r'"bin\000\000\001"', '"res"', '""', '"rest;;"', r'"\000"', '""',
    r'"end\010of it"', '""', 'nil "eof" "eof"', 'nil "eof" "eof"', 'nil "eof" "eof"']


def test_every_format_whatever_the_pieces(server):
    """Each place where the stream can be cut, the second part coming when the first has been looked at."""
    one = server(FORMATS, *ONE)
    with one.connect() as control:
        control.send("control\n")

        def received():
            return int(control.send("?\n").line())

        cuts = list(range(len(b"reader\n"), len(STREAM)))
        if Settings.wine:
            cuts = cuts[::6]
        for count, cut in enumerate(cuts, 1):
            with one.connect() as client:
                client.send(STREAM[:cut])
                until(lambda: received() == cut, what=f"{cut} bytes")  # pylint: disable=cell-var-from-loop
                client.send(STREAM[cut:]).finish()
                found = said(one, count * len(EXPECTED))[-len(EXPECTED):]
                assert found == EXPECTED, f"cut at {cut}"
                client.rest()


def test_byte_by_byte(server):
    one = server(FORMATS, *ONE)
    with one.connect() as client:
        for i in range(len(STREAM)):
            client.send(STREAM[i:i + 1])
        client.finish()
        assert said(one, len(EXPECTED)) == EXPECTED


@pytest.mark.packets("received")
def test_what_is_there_comes_at_once(server):
    one = server(SHOW + """
      return { on_stream = function(c)
        show(c:read(-100)) show(c:read(-2)) show(c:read(-100)) show(c:read(-1))
      end }""")
    with one.connect() as client:
        client.send("abc")
        said(one, 1)
        client.send("defgh")
        said(one, 3)
        client.finish()
        assert said(one, 4) == ['"abc"', '"de"', '"fgh"', 'nil "eof" "eof"']
        assert client.rest() == b""


def test_at_the_end_what_there_was_comes_with_the_news(server):
    one = server(SHOW + """
      local wants = { l = "l", L = "L", n = 100, u = "until", p = "peek", m = "m" }
      return { on_stream = function(c)
        local what = c:read(1)
        if what == "u" then show(c:read_until("--"))
        elseif what == "p" then show(c:peek(100)) show(c:read("a"))
        else show(c:read(wants[what])) end
        show(c:read("l"))
      end }""")
    count = 0
    for what, expected in {
            "l": ['nil "eof" "eof" "rest-"'], "L": ['nil "eof" "eof" "rest-"'], "n": ['nil "eof" "eof" "rest-"'],
            "u": ['nil "eof" "eof" "rest-"'], "p": ['nil "eof" "eof" "rest-"', '"rest-"']}.items():
        with one.connect() as client:
            client.send(what + "rest-").finish()
            expected = [*expected, 'nil "eof" "eof"']
            count += len(expected)
            assert said(one, count)[-len(expected):] == expected, what
            client.rest()


def test_a_timeout_loses_nothing(server):
    one = server(SHOW + """
      return { on_stream = function(c)
        show(c:read("l", 0)) show(c:read(1)) show(c:read("l", 0.05)) show(c:read(100, 0.05)) show(c:peek(100, 0))
        show(c:read_until("!", {timeout = 0.01})) c:send("?") show(c:read("l", 60))
      end }""")
    with one.connect() as client:
        client.send("abc").take(1)
        client.send("d\n")
        nothing = 'nil "timeout" "timeout"'
        assert said(one, 7) == [nothing, '"a"'] + [nothing] * 4 + ['"bcd"']


def test_too_much_is_refused_and_stays(server):
    one = server(SHOW + r"""
      return { limits = { message = 8 }, on_stream = function(c)
        show(c:read("l"))
        show(c:read("a"))
        show(c:read_until("z"))
        show(c:read_until("z", {max = 4}))
        show(pcall(c.read, c, 9))
        show(c:read(8))
        show(c:read("l"))
        show(c:read("l"))
        c:set{message = 20}
        show(c:read("l"))
        show(pcall(function() for l in c:lines() do end end))
      end }""")
    with one.connect() as client:
        client.send("0123456789\n12345678\r\nthis is longer\nand this is much, much longer\n")
        lines = [re.sub(r'"\S*script\.lua:\d+: ', '"', line) for line in said(one, 10)]
        assert lines == [
            'nil "more than 8 bytes without an end of the line" "limit"',
            'nil "more than 8 bytes" "limit"',
            'nil "more than 8 bytes without the separator" "limit"',
            'nil "more than 4 bytes without the separator" "limit"',
            "false \"bad argument #2 to '?' (at most 8 bytes (limits.message) expected, got 9)\"",
            '"01234567"', '"89"', '"12345678"', '"this is longer"',
            'false "conn:lines: more than 20 bytes without an end of the line"']


def test_unread_and_peek(server):
    one = server(SHOW + r"""
      return { limits = { message = 100 }, on_stream = function(c)
        show(c:unread("one\ntw")) show(c:read("l")) show(c:peek(2)) show(c:peek())
        show(c:read("l")) show(c:unread("o\n")) show(c:unread("")) show(c:read("L"))
        show(c:unread(string.rep("x", 100 + 16448))) show(c:unread("x"))
        show(#c:read(100))
      end, on_close = function(c) show(c:unread("x")) end }""")
    with one.connect() as client:
        client.send("o\n").finish()
        assert said(one, 12) == [
            "true", '"one"', '"tw"', '"tw"', '"two"', "true", "true", r'"o\010"', "true",
            'nil "more than limits.message" "limit"', "100", 'nil "closed" "closed"']
        client.rest()


FRAMES = {
    '"line"': (b"one\r\n\ntwo\nthr", ['"one"', '""', '"two"']),
    '"netstring"': (b"3:one,0:,3:two,3:th", ['"one"', '""', '"two"']),
    "{type = 'length', size = 2}": (b"\0\3one\0\0\0\3two\0", ['"one"', '""', '"two"']),
    "{type = 'fixed', size = 3}": (b"onetwoth", ['"one"', '"two"']),
    "{type = 'pack', header = '>BI2'}": (b"\7\0\3one\x08\0\0\7\0\1", ['"one" 7 3', '"" 8 0']),
    "function(b) local n = b:find(';') return n end": (b"one;;two;th", ['"one;"', '";"', '"two;"']),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_messages_of_every_frame(server, frame):
    data, expected = FRAMES[frame]
    one = server(SHOW + f"""return {{ frame = {frame}, on_stream = function(c)
      if c:peek(1) == "!" then
        c:read(1)
        for m in c:messages(5) do show(m) end
      else
        while true do
          local got = table.pack(c:read("m", 5))
          show(table.unpack(got, 1, got.n))
          if not got[1] then return end
        end
      end
    end }}""")
    with one.connect() as client:
        for i in range(len(data)):
            client.send(data[i:i + 1])
        client.finish()
        lines = said(one, len(expected) + 1)
        assert lines[:-1] == expected
        assert lines[-1].startswith('nil "eof" "eof" "'), lines
        client.rest()
    with one.connect() as client:
        client.send(b"!" + data).finish()
        client.rest()
    count = len(expected) + 1 + len(expected)
    assert said(one, count)[len(expected) + 1:] == [re.match('"[^"]*"', line)[0] for line in expected]


def test_bytes_that_are_no_message(server):
    one = server(SHOW + """return { frame = {type = "netstring", max = 10}, on_stream = function(c)
      show(c:read("m")) show(c:read(3)) show(c:read("m")) show(c:read("l"))
      show((select(2, pcall(function() for m in c:messages() do end end))))
    end }""")
    with one.connect() as client:
        client.send("xyz11:\n01:")
        lines = said(one, 5)
        assert lines[:4] == [
            'nil "a netstring does not begin with its length" "frame"', '"xyz"',
            'nil "the length of a message is above max" "limit"', '"11:"']
        assert lines[4].endswith('conn:messages: the length of a netstring begins with 0"')
        client.rest()


def test_a_framed_handler_reads_between_its_messages(server):
    one = server(SHOW + """return { frame = "line", on_message = function(c, line)
      local count = tonumber(line)
      if count then show(c:read(count)) show(c:read("m")) else show("line", line) end
    end }""")
    with one.connect() as client:
        client.send("a\n5\n12345m\nb\n3\n")
        client.send("xyz").send("n\nc\n")
        assert said(one, 7) == ['"line" "a"', '"12345"', '"m"', '"line" "b"', '"xyz"', '"n"', '"line" "c"']


# ---- Against a model ----

class Model:
    """What the server has to answer, given all bytes that will come, with FIN behind them."""

    def __init__(self, data):
        self.data = data

    def take(self, count):
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def rest(self):
        return ("eof", self.take(len(self.data)))

    def line(self, sep, keep):
        at = self.data.find(sep)
        if at < 0:
            return self.rest()
        line = self.take(at + len(sep))
        if sep == b"\n" and not keep and line.endswith(b"\r\n"):
            return ("ok", line[:-2])
        return ("ok", line if keep else line[:-len(sep)])

    def answer(self, op, argument, found):
        """found: what the server says, which is free to choose how much of what there is it sees."""
        if op == "read" and argument >= 0:
            return ("ok", self.take(argument)) if len(self.data) >= argument else self.rest()
        if op == "read":
            if not self.data:
                return ("eof", b"")
            assert 1 <= len(found[1]) <= -argument
            return ("ok", self.take(len(found[1])))
        if op == "peek":
            if len(self.data) >= argument:
                return ("ok", self.data[:argument])
            return ("eof", self.data)
        if op == "unread":
            self.data = argument + self.data
            return ("ok", b"")
        if op == "until":
            return self.line(argument, False)
        return self.line(b"\n", op == "L")


MIX = SAY + r"""
local function hex(s) return (s:gsub(".", function(c) return string.format("%02x", c:byte()) end)) end
local function bytes(s) return (s:gsub("..", function(c) return string.char(tonumber(c, 16)) end)) end
local ops = {
  read = function(c, a) return c:read(tonumber(a)) end,
  peek = function(c, a) return c:peek(tonumber(a)) end,
  unread = function(c, a) return c:unread(bytes(a)) and "" end,
  ["until"] = function(c, a) return c:read_until(bytes(a)) end,
  l = function(c) return c:read("l") end,
  L = function(c) return c:read("L") end,
}
return { on_stream = function(c)
  local program = {}
  for line in c:lines() do
    if line == "go" then break end
    program[#program + 1] = line
  end
  for _, line in ipairs(program) do
    local op, argument = line:match("^(%w+) ?(.*)$")
    local data, message, code, partial = ops[op](c, argument)
    if data then c:send("ok ", hex(data), "\n")
    else c:send(code, " ", hex(partial or ""), "\n") end
  end
end }
"""


def mixed_program(chance):
    program = []
    for _ in range(chance.randrange(20, 60)):
        op = chance.choice(["read", "read", "peek", "unread", "until", "l", "L"])
        if op == "read":
            argument = chance.choice([chance.randrange(0, 40), -chance.randrange(1, 40), chance.randrange(0, 3000)])
        elif op == "peek":
            argument = chance.randrange(0, 50)
        elif op == "unread":
            argument = bytes(chance.choices(b"ab\r\n;", k=chance.randrange(0, 20)))
        else:
            argument = bytes(chance.choices(b"ab;", k=chance.randrange(1, 4)))
        program.append((op, argument))
    return program


def words_of(op, argument):
    if op in ("l", "L"):
        return op
    return f"{op} {argument.hex() if isinstance(argument, bytes) else argument}"


def test_random_reads_are_those_of_a_model(server):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    one = server(MIX)
    for _ in range(scaled(60, 10)):
        data = bytes(chance.choices(b"abcdefgh\r\n\n;", k=chance.choice([30, 300, 6000])))
        program = mixed_program(chance)
        with one.connect() as client:
            client.send("".join(words_of(*step) + "\n" for step in program) + "go\n")
            at = 0
            while at < len(data):
                end = at + chance.choice([1, 2, 7, 100, 2000])
                client.send(data[at:end])
                at = end
            client.finish()
            model = Model(data)
            answers = client.rest().decode().splitlines()
            assert len(answers) == len(program), answers
            for step, line in zip(program, answers):
                code, _, rest = line.partition(" ")
                found = (code, bytes.fromhex(rest))
                assert found == model.answer(*step, found), f"seed {seed}: {step}"


# ---- Wrong use ----

WRONG = {
    'c:read("x")': "a number of bytes, 'l', 'L', 'a' or 'm' expected, got 'x'",
    'c:read("")': "a number of bytes, 'l', 'L', 'a' or 'm' expected, got ''",
    "c:read({})": "a number of bytes, 'l', 'L', 'a' or 'm' expected, got table",
    "c:read(1.5)": "number has no integer representation",
    "c:read(65537)": "at most 65536 bytes (limits.message) expected, got 65537",
    "c:read(1, -1)": "seconds from 0 to 1000000000 expected, got -1",
    'c:read(1, "soon")': "number expected, got string",
    "c.read(1)": "conn expected, got number",
    "c:peek(65537)": "at most 65536 bytes (limits.message) expected, got 65537",
    'c:peek("l")': "number expected, got string",
    "c:read_until()": "string expected, got no value",
    'c:read_until("")': "a separator of 1 to 16 bytes expected",
    'c:read_until(("x"):rep(17))': "a separator of 1 to 16 bytes expected",
    'c:read_until("x", 5)': "table expected, got number",
    'c:read_until("x", {max = 0})': "max: bytes, a whole number from 1 to 65536 (limits.message), expected, got 0",
    'c:read_until("x", {max = "1"})': "max: bytes, a whole number from 1 to 65536 (limits.message), expected, got string",
    'c:read_until("x", {keep = 1})': "keep: boolean expected, got 1",
    'c:read_until("x", {5})': "the key 1 is no name: name = value expected",
    'c:read_until("x", {timeout = "1"})': "timeout: seconds from 0 to 1000000000 expected, got string",
    'c:read_until("x", {kepp = true})': "unknown option 'kepp': did you mean 'keep'?",
    'c:lines("z")': "a number of bytes, 'l', 'L', 'a' or 'm' expected, got 'z'",
    "c:messages({})": "bad argument #1 to 'messages' (number expected, got table)",
    "c:unread()": "string expected, got no value",
    "c:flush({})": "number expected, got table",
    'table.sort({1, 2}, function() c:read("l") end)': "conn:read cannot wait here",
}


def test_wrong_arguments_say_what_is_wrong(server):
    calls = "\n".join(f"say(select(2, pcall(function() return {call} end)))" for call in WRONG)
    one = server(SAY + "return { on_stream = function(c)\n" + calls + "\nend }")
    with one.connect() as client:
        lines = said(one, len(WRONG))
        client.rest()
    for call, line in zip(WRONG, lines):
        assert WRONG[call] in line, f"{call}: {line}"


@pytest.mark.parametrize("other", ["on_message", "on_readable", "on_eof", "on_drain"])
def test_what_a_stream_replaces_is_refused(server, other):
    one = server(f"return {{ on_stream = function() end, {other} = function() end }}", ready=False)
    assert one.wait_end() != 0
    one.checked = True
    assert one.log(f"script.lua: on_stream and {other} are both there: ")


def test_the_methods_of_a_closed_connection(server):
    one = server(SHOW + """return { on_message = function() end, on_close = function(c)
      portico.after(0, function()
        show(c:read(5)) show(c:read_until("x")) show(c:peek()) show(c:unread("x")) show(c:flush())
        for l in c:lines() do show("never") end
        for m in c:messages() do show("never") end
        show("done")
      end)
    end }""")
    with one.connect() as client:
        client.finish().rest()
    assert said(one, 6) == ['nil "closed" "closed"'] * 5 + ['"done"']
