"""Random conversations of framed messages that make the script change its frame, pause, wait, draw, send much and fail, beside a model
that says each byte which must come back. Prints the seed; SEED=N repeats it."""

import os
import random
import struct
import time

import rig

CONVERSATIONS, SIDE_BY_SIDE = 60, 3

SCRIPT = r"""
local FRAMES <const> = {
  "line", { type = "line", sep = "ab", keep = true }, "netstring", { type = "length", size = 1 },
  { type = "length", size = 2, endian = "little" }, { type = "length", size = 2, offset = 3 },
  { type = "length", size = 4, adjust = -4 }, { type = "fixed", size = 7 }, { type = "pack", header = ">HB", body = 1 },
  { type = "function", max = 70000, decode = function(buffer) return select(2, buffer:find("\n\n", 1, true)) end },
}

local function say(conn, what, bytes)
  conn:write(string.pack(">I1s4", what, bytes))
end

local function take_frame(conn, number)
  return conn:set{ frame = FRAMES[number % #FRAMES + 1], receive = number % 3 == 0 and "posted" or "lent" }
end

-- Draws exactly so many bytes of a connection that is paused.
local function draw(conn, count)
  local got = ""
  while #got < count do
    local data, message, code = conn:recv(math.min(count - #got, 1 + count % 35))
    if data then
      got = got .. data
    elseif code == "again" then
      portico.sleep(0.001)
    else
      error(message)
    end
  end
  say(conn, 100, got)
end

-- What a message makes its handler do; number is drawn from it, too.
local ACTS <const> = {
  [0] = function(conn, number) take_frame(conn, number) end,
  function(conn, number) -- paused by its handler, resumed by a timer
    conn:pause()
    conn.state.is_paused = true
    portico.after(number % 3 / 1000, function() conn.state.is_paused = false conn:resume() end)
  end,
  function(_, number) portico.sleep(number % 3 / 1000) end,
  function(conn, number) conn:write(("z"):rep(number % 7 * 50000)) end,
  function(conn, _, message, ...) conn:send(message, select(2, ...)) end,
  function(conn, number) -- drawn from by a task
    conn:pause()
    conn.state.is_paused = true
    portico.spawn(function() draw(conn, number % 90) conn.state.is_paused = false conn:resume() end)
  end,
  function() error("on purpose", 0) end,
  function(conn) assert(conn:flush()) end,
  function(conn, number) conn:pause() portico.sleep(number % 3 / 1000) conn:resume() end,
  function(conn, number) conn:pause() draw(conn, number % 90) conn:resume() end,
  function() end,
}

return {
  limits = { first_byte = 0 },
  frame = "line",
  on_connect = function(conn) conn.state = { count = 0 } end,
  on_message = function(conn, message, ...)
    local state = conn.state
    assert(not state.is_busy and not state.is_paused, "two at once")
    state.is_busy, state.count = true, state.count + 1
    local sum = state.count
    for i = 1, math.min(#message, 20) do sum = sum + message:byte(i) end
    local act = sum % (#ACTS + 1)
    say(conn, act, message)
    ACTS[act](conn, sum // (#ACTS + 1), message, ...)
    state.is_busy = false
  end,
  on_error = function(conn, err)
    conn.state.is_busy = false
    say(conn, 101, err.message)
    return "keep"
  end,
  on_eof = function(conn) say(conn, 102, "") conn:close() end,
}
"""

ACTS = 11


# A message as it is sent, by frame, where that takes no more than its bytes.
WIRES = {
    2: lambda size, body: b"%d:%s," % (size, body),
    3: lambda size, body: bytes([size]) + body,
    4: lambda size, body: struct.pack("<H", size) + body,
    5: lambda size, body: b"xyz" + struct.pack(">H", size) + body,
    6: lambda size, body: struct.pack(">I", size + 4) + body,
    7: lambda size, body: body,
    8: lambda size, body: struct.pack(">HB", size, size % 200) + body,
    9: lambda size, body: body,
}


def draw_message(chance, frame):
    """A message of a frame: what on_message gets, the bytes that the peer sends, and those that conn:send sends."""
    size = chance.choice([0, 1, 2, 5, 40, 90, 250])
    body = chance.randbytes(size)
    if frame == 0:
        body = body.replace(b"\n", b"x").replace(b"\r", b"y")
        return body, body + chance.choice([b"\n", b"\r\n"]), body + b"\n"
    if frame == 1:
        whole = body.replace(b"a", b"x") + b"ab"
        return whole, whole, whole
    if frame == 4 and chance.random() < 0.2:
        size = chance.choice([3000, 40000])
        body = chance.randbytes(size)
    if frame == 7:
        body = chance.randbytes(7)
    if frame == 9:
        body = body.replace(b"\n", b"y") + b"\n\n"
    whole = WIRES[frame](size, body)
    return whole if frame == 5 else body, whole, whole


def draw_conversation(chance):
    """What the peer sends, and what must come back."""
    sent, back, frame = bytearray(), bytearray(), 0

    def comes(what, data):
        back.extend(struct.pack(">BI", what, len(data)) + data)

    for count in range(1, chance.choice([3, 20, 80])):
        message, wire, coated = draw_message(chance, frame)
        sent += wire
        number, act = divmod(count + sum(message[:20]), ACTS)
        comes(act, message)
        if act == 0:
            frame = number % 10
        elif act == 3:
            back += b"z" * (number % 7 * 50000)
        elif act == 4:
            back += coated
        elif act in (5, 9):
            raw = chance.randbytes(number % 90)
            sent += raw
            comes(100, raw)
        elif act == 6:
            comes(101, b"on purpose")
    comes(102, b"")
    return bytes(sent), bytes(back)


def hold(one, seed):
    chance = random.Random(seed)
    sent, back = draw_conversation(chance)
    pieces = random.Random(seed + 1)
    longest = pieces.choice([1, 3, 50, 100000] if len(sent) < 1000 else [50, 5000, 100000])

    def send(client):
        at = 0
        while at < len(sent):
            count = pieces.randint(1, longest)
            client.send(sent[at:at + count])
            at += count
            if pieces.random() < 0.1:
                time.sleep(pieces.random() * 0.002)  # so that pieces are received one by one, too
        client.finish()

    with one.connect() as client:
        sending = rig.in_background(send, client)
        got = client.rest()
        sending.result(10)
    where = next((at for at, (a, b) in enumerate(zip(got, back)) if a != b), min(len(got), len(back)))
    assert got == back, f"seed {seed}: {len(got)} bytes of {len(back)}, other ones from {where} on: {got[where:where + 60]!r}"


def test_random_conversations_of_messages(server):
    one = server(SCRIPT, "--workers", "1")
    seed = int(os.environ.get("SEED") or random.randrange(1 << 30))
    print("seed", seed)
    for first in range(seed, seed + rig.scaled(CONVERSATIONS, SIDE_BY_SIDE), SIDE_BY_SIDE):
        for talk in [rig.in_background(hold, one, first + n) for n in range(SIDE_BY_SIDE)]:
            talk.result(60)
