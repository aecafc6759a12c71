"""Random pipelined requests of HTTP, answered in every way that http1.server has, beside a model of what must come back; Python's
http.client reads it. Prints the seed; SEED=N repeats it."""

import http.client
import io
import os
import random
import time

import pytest

import rig

CONVERSATIONS, SIDE_BY_SIDE = 60, 3
PRIME = 1000003

SCRIPT = r"""
local http1 = require "portico.http1"

local function join(fields, pattern)
  local list = {}
  for name, value in pairs(fields or {}) do
    if name:find(pattern) then list[#list + 1] = name .. "=" .. value end
  end
  table.sort(list)
  return table.concat(list, ";")
end

-- What was asked, and n bytes.
local function tell(req, n)
  local body, sum = req.body or table.concat(req.pieces or {}), 0
  for i = 1, #body do sum = (sum * 31 + body:byte(i)) % 1000003 end
  return table.concat({ req.method, req.target, req.minor, #body, sum, join(req.headers, "^x%-"), join(req.trailers, ""), ("z"):rep(n) }, " ")
end

local function pieces(text, size)
  local first = 1
  return function()
    local piece = text:sub(first, first + size - 1)
    first = first + size
    return piece ~= "" and piece or nil
  end
end

local WAYS <const> = {
  string = function(_, text) return text end,
  headers = function(_, text) return 201, text, { ["X-Way"] = "headers", ["Content-Type"] = "text/x", ["Set-Cookie"] = { "a=1", "b=2" } } end,
  send = function(res, text) res:send(404, text) end,
  pieces = function(res, text, n)
    res:start(200)
    for piece in pieces(text, 1 + n // 7) do res:write(piece) portico.sleep(0) end
    res:finish(n % 3 == 0 and { ["X-End"] = n } or nil)
  end,
  length = function(res, text)
    res:start(200, { ["Content-Length"] = #text })
    res:write(text:sub(1, 5))
    portico.sleep(0.001)
    res:write(text:sub(6))
    res:finish()
  end,
  called = function(_, text) return 200, pieces(text, 9999) end,
  measured = function(_, text) return 200, pieces(text, 9999), { ["Content-Length"] = #text } end,
  nothing = function() return 204 end,
  unchanged = function() return 304, nil, { ETag = '"x"' } end,
  error = function() error("on purpose", 0) end,
}

return http1.server {
  limits = { first_byte = 0 },
  on_body = ON_BODY and function(req, piece)
    req.pieces = req.pieces or {}
    req.pieces[#req.pieces + 1] = piece
  end,
  on_request = function(req, res)
    local way, n, nap = req.path:match("^/(%l+)/(%d+)/(%d)$")
    if nap == "1" then portico.sleep(0.001) end
    return WAYS[way](res, tell(req, tonumber(n)), tonumber(n))
  end,
}
"""

STATUS = {"headers": 201, "send": 404, "nothing": 204, "unchanged": 304, "error": 500}
WAYS = ("string", "headers", "send", "pieces", "length", "called", "measured", "nothing", "unchanged")
LINES = ("Accept: */*", "User-Agent: x", "X-A: 1", "x-b:  spaced out  ", "X-A: 2", "X-C:", "x-D:\tt", "Cookie: a=1", "Cookie: b=2", "X-B: y, z")


def draw_body(chance, lines, minor):
    """A body, its trailers as they are told, and both as they are sent. A line of the head says how long it is."""
    body = chance.randbytes(chance.choice([0, 1, 50, 3000])) if chance.random() < 0.9 else b"b" * chance.choice([20000, 200000])
    if minor == 0 or chance.random() < 0.5:
        lines.insert(chance.randrange(len(lines) + 1), f"Content-Length: {len(body)}")
        return body, "", body
    lines.insert(chance.randrange(len(lines) + 1), "Transfer-Encoding: " + chance.choice(["chunked", "Chunked"]))
    wire, at = b"", 0
    while at < len(body):
        chunk = body[at:at + chance.randint(len(body) // 100 + 1, len(body) // 3 + 2)]
        at += len(chunk)
        wire += b"%x%s\r\n%s\r\n" % (len(chunk), chance.choice([b"", b";e=1"]), chunk)
    has_trailer = chance.random() < 0.3
    return body, "x-tr=1" if has_trailer else "", wire + b"0\r\n" + (b"X-Tr: 1\r\n" if has_trailer else b"") + b"\r\n"


def draw_request(chance, is_last):
    """A request as it is sent, and what must come back: method, way, n, text, whether the connection ends."""
    method = chance.choice(["GET", "GET", "GET", "HEAD", "POST", "PUT"])
    way = chance.choice([*WAYS, "error"] if is_last else WAYS)
    n = chance.choice([0, 10, 30, 100]) if chance.random() < 0.8 else chance.choice([5000, 70000, 400000])
    target = f"/{way}/{n}/{chance.randrange(2)}" + chance.choice(["", f"?q={chance.randrange(3)}"])
    minor = 0 if is_last and chance.random() < 0.2 else 1
    lines = [chance.choice(LINES) for _ in range(chance.choice([0, 1, 3, 8]))]
    lines.insert(chance.randrange(len(lines) + 1), "Host: h:80")
    body, trailers, wire = draw_body(chance, lines, minor) if method in ("POST", "PUT") else (b"", "", b"")
    ends = minor == 0 or way == "error" or is_last and chance.random() < 0.5
    if ends and minor == 1 and way != "error":
        lines.append("Connection: " + chance.choice(["close", "Close"]))
    told, checksum = {}, 0
    for name, value in (line.split(":", 1) for line in lines):
        if name.lower().startswith("x-"):
            before = told.get(name.lower())
            told[name.lower()] = (before + ", " if before is not None else "") + value.strip(" \t")
    for byte in body:
        checksum = (checksum * 31 + byte) % PRIME
    text = " ".join([method, target, str(minor), str(len(body)), str(checksum), ";".join(f"{name}={told[name]}" for name in sorted(told)),
                     trailers, "z" * n])
    head = "".join(line + "\r\n" for line in [f"{method} {target} HTTP/1.{minor}", *lines, ""])
    return head.encode() + wire, (method, way, n, text.encode(), ends)


class Stream(io.BytesIO):
    """What came, to be read by one response behind another."""

    def makefile(self, _):
        return self

    def close(self):
        pass


def check(stream, method, way, n, text, ends):
    response = http.client.HTTPResponse(stream, method=method)
    response.begin()
    assert response.status == STATUS.get(way, 200)
    assert response.getheader("Date")
    assert response.will_close == ends
    body = response.read()
    if way == "error":
        assert body == (b"" if method == "HEAD" else b"internal error\n")
    elif method == "HEAD" or way in ("nothing", "unchanged"):
        assert body == b""
        if way in ("string", "headers", "send", "length", "measured"):
            assert response.getheader("Content-Length") == str(len(text))
    else:
        assert body == text
    if way == "headers":
        assert response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
        assert (response.getheader("X-Way"), response.getheader("Content-Type")) == ("headers", "text/x")


def hold(one, seed):
    chance = random.Random(seed)
    count = chance.choice([1, 3, 10, 30])
    requests, answers = zip(*[draw_request(chance, n == count - 1) for n in range(count)])
    sent = b"".join(requests)
    longest = chance.choice([1, 3, 50, 100000] if len(sent) < 1000 else [50, 5000, 1000000])

    def send(client):
        at = 0
        while at < len(sent):
            size = chance.randint(1, longest)
            client.send(sent[at:at + size])
            at += size
            if chance.random() < 0.05:
                time.sleep(chance.random() * 0.001)  # so that pieces are received one by one, too
        client.finish()

    with one.connect() as client:
        sending = rig.in_background(send, client)
        stream = Stream(client.rest())
        sending.result(10)
    for place, answer in enumerate(answers):
        before = stream.tell()
        try:
            check(stream, *answer)
        except (AssertionError, http.client.HTTPException) as problem:
            raise AssertionError(f"seed {seed}, answer {place} of {count}, to {answer[0]} {answer[1]} {answer[2]}: "
                                 f"{stream.getvalue()[before:before + 300]!r}") from problem
    assert stream.read() == b"", f"seed {seed}: more than answers"


@pytest.mark.parametrize("on_body", ["true", "nil"])
def test_random_requests(server, on_body):
    one = server(SCRIPT.replace("ON_BODY", on_body), "--workers", "1")
    seed = int(os.environ.get("SEED") or random.randrange(1 << 30))
    print("seed", seed)
    for first in range(seed, seed + rig.scaled(CONVERSATIONS, SIDE_BY_SIDE), SIDE_BY_SIDE):
        for talk in [rig.in_background(hold, one, first + n) for n in range(SIDE_BY_SIDE)]:
            talk.result(60)
