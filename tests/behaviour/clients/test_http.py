"""lua/portico/http1.lua behind real clients: curl, Python's http.client, wrk, Chromium."""

import asyncio
import http.client
import os
import re
import shutil
import subprocess

import pytest

import browser
import rig

H = "HTTP/1.1\r\nHost: h\r\n"

SERVER = """
local http1 = require "portico.http1"
local big = ("0123456789abcdef"):rep(1 << 16)
return http1.server {
  on_request = function(req, res)
    if req.path == "/echo" then
      return 200, req.body, { ["Content-Type"] = "application/octet-stream", ["X-Trailer"] = req.trailers and req.trailers.t }
    elseif req.path == "/sleep" then
      portico.sleep(0.05)
      return "slept"
    elseif req.path == "/fields" then
      local f = http1.fields(req.query)
      return f.a .. "|" .. f.b
    elseif req.path == "/pieces" then
      res:start(200, { ["Content-Type"] = "text/plain" })
      for i = 1, 3 do
        res:write(("piece %d\\n"):format(i))
        portico.sleep(0.01)
      end
      return res:finish()
    elseif req.path == "/big" then
      local count = 0
      return 200, function()
        count = count + 1
        return count <= 16 and big or nil
      end
    elseif req.path == "/raise" then
      error("on purpose")
    elseif req.path == "/silent" then
      return
    elseif req.path == "/close" then
      return 200, "bye", { Connection = "close" }
    elseif req.path == "/none" then
      return 204
    end
    return 404, "nothing"
  end,
  on_head = function(req)
    if req.path == "/refused" then
      return 403, "not you"
    end
  end,
  decoder = { max_body = 1 << 20 },
}
"""

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed (./dev setup test)")


def curl(server, *words, **more):
    done = subprocess.run(["curl", "-sS", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=30 * rig.Settings.patience, **more)
    return done.stdout


def url(one, path="/"):
    return f"http://127.0.0.1:{one.port}{path}"


def head_and_body(client):
    """Reads one answer with a Content-Length."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.take(1)
    return head, client.take(int(re.search(rb"Content-Length: (\d+)", head)[1]))


@needs_curl
def test_curl(server):
    one = server(SERVER)
    assert curl(one, url(one, "/echo"), "-d", "a=1") == b"a=1"
    assert curl(one, url(one, "/echo"), "--data-binary", "@-", "-H", "Transfer-Encoding: chunked", input=b"x" * 100000) == b"x" * 100000
    assert curl(one, url(one, "/fields?a=1&b=two+w%C3%B6rds")) == "1|two wörds".encode()
    assert curl(one, url(one, "/pieces")) == b"piece 1\npiece 2\npiece 3\n"
    assert curl(one, "-0", url(one, "/pieces")) == b"piece 1\npiece 2\npiece 3\n"
    assert len(curl(one, url(one, "/big"))) == 16 << 20
    assert curl(one, "-w", "%{http_code}", url(one, "/none")) == b"204"
    assert b"200 OK" in curl(one, "-I", url(one, "/echo"))
    # Several over one connection, which curl says it uses again.
    said = curl(one, "-v", url(one, "/fields?a=1&b=2"), url(one, "/sleep"), url(one, "/raise"), url(one, "/sleep"))
    assert said.count(b"Re-using existing connection") + said.count(b"Re-using") >= 2, said
    assert b"1|2" in said and b"500 Internal Server Error" in said
    one.wait_log(r"script.lua:\d+: on purpose")


@needs_curl
def test_expect_continue(server):
    one = server(SERVER)
    body = b"y" * 200000
    said = curl(one, "-v", "-H", "Expect: 100-continue", "--data-binary", "@-", "-o", "-", url(one, "/echo"), input=body)
    assert b"100 Continue" in said and said.count(b"y") >= len(body)
    said = curl(one, "-v", "-H", "Expect: 100-continue", "--data-binary", "@-", url(one, "/refused"), input=body)
    assert b"100 Continue" not in said and b"403 Forbidden" in said and b"not you" in said


def test_python(server):
    one = server(SERVER)
    client = http.client.HTTPConnection("127.0.0.1", one.port, timeout=10)
    for size in (0, 1, 1000, 100000):
        client.request("POST", "/echo", body=b"z" * size)
        answer = client.getresponse()
        assert (answer.status, len(answer.read())) == (200, size)
    client.request("PUT", "/echo", body=iter([b"ab", b"c" * 5000]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    assert client.getresponse().read() == b"ab" + b"c" * 5000
    client.request("HEAD", "/big")
    answer = client.getresponse()
    assert answer.status == 200 and answer.read() == b""
    client.request("GET", "/close")
    answer = client.getresponse()
    assert answer.read() == b"bye" and answer.will_close


def test_pipelining_keeps_the_order(server):
    one = server(SERVER)
    with one.connect() as client:
        client.send("".join(f"GET /{path} {H}\r\n" for path in ("sleep", "fields?a=1&b=2", "x", "sleep", "fields?a=3&b=4")))
        assert [head_and_body(client)[1] for _ in range(5)] == [b"slept", b"1|2", b"nothing", b"slept", b"3|4"]
        # What was asked before the client's end of the stream is answered.
        client.send(f"GET /big {H}\r\nGET /sleep {H}\r\n").finish()
        assert client.rest().endswith(b"\r\n\r\nslept")


def test_a_slow_reader_gets_all(server):
    one = server(SERVER)
    with one.connect(receive_buffer=4096) as client:
        client.send(f"GET /big {H}\r\n" * 3).finish()
        answers = client.rest()
    assert answers.count(b"HTTP/1.1 200 OK") == 3 and len(answers) > 3 * (16 << 20)


@pytest.mark.parametrize("request_bytes, status", [
    (b"\x16\x03\x01\x02\x00\x01", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/3.0\r\nHost: h\r\n\r\n", 505),
    (b"GET /" + b"x" * 20000, 414),
    (f"GET / {H}X: ".encode() + b"x" * 20000, 431),
    (f"POST /echo {H}Content-Length: 9999999\r\n\r\n".encode(), 413),
    (f"POST /echo {H}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode(), 400),
    (f"CONNECT h:80 {H}\r\n".encode(), 501),
])
def test_nonsense_is_refused(server, request_bytes, status):
    one = server(SERVER)
    with one.connect() as client:
        answer = client.send(request_bytes).rest()
        assert answer.startswith(b"HTTP/1.1 %d " % status) and b"Connection: close" in answer
    with one.connect() as client:  # and others are served
        assert head_and_body(client.send(f"GET /sleep {H}\r\n"))[1] == b"slept"


def test_a_handler_that_does_not_answer(server):
    one = server(SERVER)
    with one.connect() as client:
        assert client.send(f"GET /silent {H}\r\n").rest().startswith(b"HTTP/1.1 500 ")
    one.wait_log("on_request has not answered GET /silent")


def test_answers_that_a_reload_ends(server):
    text = """return require("portico.http1").server { on_request = function(req, res)
      if req.path == "/reload" then portico.reload() return "asked" end
      if req.path == "/events" then
        res:start(200, { ["Content-Type"] = "text/event-stream" })
        res:write("data: 1\\n\\n")
      elseif req.path == "/big" then
        res:send(200, ("x"):rep(10000000))
      end
      portico.sleep(1000)
    end }"""
    one = server(text, "--workers", "1", "--reload-probation", "0", "--reload-deadline", "0.3")
    with one.connect() as begun, one.connect() as answered, one.connect() as silent, one.connect() as client:
        assert begun.send(f"GET /events {H}\r\n").take(12) == b"HTTP/1.1 200"
        answered.send(f"GET /big {H}\r\n").take(1000)
        silent.send(f"GET / {H}\r\n")
        assert client.send(f"GET /reload {H}\r\n").take(12) == b"HTTP/1.1 200"
        assert silent.rest().startswith(b"HTTP/1.1 500 ")
        assert begun.is_reset()  # so that nobody takes what came for all of it
        assert len(answered.rest()) > 10_000_000 - 1000


def test_who_breaks_a_download_off_is_no_error_of_the_script(server, scripts, tmp_path):
    """Else a dozen of them could undo a reload."""
    (tmp_path / "big").write_bytes(b"x" * 30_000_000)
    one = server(scripts / "http_files.lua", "--workers", "1", args=[tmp_path])
    for _ in range(3):
        with one.connect() as client:
            client.send("GET /big HTTP/1.1\r\nHost: h\r\n\r\n").take(100_000)
            client.reset()
    with one.connect() as client:
        client.send("GET /none HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.take(12) == b"HTTP/1.1 404"
    one.stop()
    assert not one.log("error"), one.text()


@needs_curl
def test_files(server, scripts, tmp_path):
    root = tmp_path / "root"
    (root / "sub dir").mkdir(parents=True)
    (root / "a.txt").write_bytes(bytes(range(256)) * 4096)
    (root / "sub dir" / "index.html").write_text("<p>index")
    (root / ".hidden").write_text("hidden")
    (tmp_path / "secret.txt").write_text("secret")
    one = server(scripts / "http_files.lua", args=[root])
    whole = (root / "a.txt").read_bytes()
    assert curl(one, url(one, "/a.txt")) == whole
    assert curl(one, url(one, "/a.txt"), "-r", "10-19") == whole[10:20]
    assert curl(one, url(one, "/a.txt"), "-r", "-5") == whole[-5:]
    assert curl(one, url(one, "/a.txt"), "-r", "1000000-") == whole[1000000:]
    assert curl(one, url(one, "/a.txt"), "-r", "9999999-", "-o", "-", "-w", "%{http_code}") == b"416"
    # Two on one connection: the range ends where it says.
    assert curl(one, url(one, "/a.txt"), "-r", "0-2", url(one, "/a.txt")) == whole[:3] + whole[:3]
    listing = curl(one, url(one, "/")).decode()
    assert 'href="a.txt"' in listing and 'href="sub%20dir/"' in listing and "hidden" not in listing
    assert curl(one, "-L", url(one, "/sub%20dir")) == b"<p>index"
    etag = re.search(rb"ETag: (\S+)", curl(one, "-I", url(one, "/a.txt")))[1].decode()
    assert curl(one, url(one, "/a.txt"), "-H", f"If-None-Match: {etag}", "-w", "%{http_code}") == b"304"
    assert b"405" in curl(one, "-i", "-X", "DELETE", url(one, "/a.txt"))
    for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/sub%20dir/../../secret.txt", "/..%5csecret.txt", "/.hidden", "/%00",
                 "//etc/passwd", "/sub%20dir/..", "/a.txt%20", "/a.txt.", "/%ff", "/C:/windows", "/nothing"):
        answer = curl(one, "--path-as-is", url(one, path), "-w", "%{http_code}")
        assert answer.endswith(b"404") and b"secret" not in answer, path


def test_files_by_the_letter_of_the_standard(server, scripts, tmp_path):
    (tmp_path / "a.txt").write_text("0123456789")
    (tmp_path / "example.com").mkdir()
    one = server(scripts / "http_files.lua", args=[tmp_path])

    def ask(method, path, **headers):
        client = http.client.HTTPConnection("127.0.0.1", one.port, timeout=10)
        client.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = client.getresponse()
        return answer.status, answer.read(), answer.headers

    known = ask("GET", "/a.txt")[2]
    for name in ("ETag", "Last-Modified"):
        assert ask("GET", "/a.txt", Range="bytes=2-3", If_Range=known[name])[:2] == (206, b"23")
    for wrong in ('"x"', "W/" + known["ETag"], "Sun, 06 Nov 1994 08:49:37 GMT"):
        assert ask("GET", "/a.txt", Range="bytes=2-3", If_Range=wrong)[:2] == (200, b"0123456789")
    for header in ("bytes=5-2", "bytes=-", "bytes=0-1,3-4", "lines=1-2"):
        assert ask("GET", "/a.txt", Range=header)[:2] == (200, b"0123456789"), header
    for header, body in (("bytes=0-0", b"0"), ("bytes=8-99999999999999999999", b"89"), ("bytes=-99999999999999999999", b"0123456789")):
        assert ask("GET", "/a.txt", Range=header)[:2] == (206, body), header
    for header in ("bytes=10-", "bytes=-0", "bytes=99999999999999999999-"):
        assert ask("GET", "/a.txt", Range=header)[0] == 416, header
    status, _, headers = ask("HEAD", "/a.txt", Range="bytes=2-3")
    assert (status, headers["Content-Length"]) == (200, "10")
    assert ask("GET", "/a.txt", If_None_Match="*")[0] == 304
    for path in ("//example.com", "///example.com"):
        assert ask("GET", path)[2]["Location"] == "/example.com/"
    assert ask("GET", "/example.com?a=b?c")[2]["Location"] == "/example.com/?a=b?c"
    assert ask("GET", "/a.txt/")[0] == 404


@pytest.mark.no_wine("which shows such names as others; Windows has none")
def test_a_listing_has_only_what_can_be_asked_for(server, scripts, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for name in (b"a b.txt", "ö".encode(), b"a:b", b"a?", b"dot.", b"line\nfeed", b"\xff"):
        (root / os.fsdecode(name)).write_text("x")
    os.mkfifo(root / "pipe")
    one = server(scripts / "http_files.lua", args=[root])
    with one.connect() as client:
        listing = head_and_body(client.send(f"GET / {H}\r\n"))[1].decode()
        links = re.findall('href="([^"]+)"', listing)
        assert links == ["a%20b.txt", "%C3%B6"]
        for link in links:
            assert head_and_body(client.send(f"GET /{link} {H}\r\n"))[1] == b"x"


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (./dev setup test)")
def test_wrk(server, scripts):
    one = server(scripts / "hello_http.lua")
    done = subprocess.run(["wrk", "-t1", "-c20", "-d1", url(one)], stdout=subprocess.PIPE, encoding="utf-8", timeout=30, check=True)
    assert "Socket errors" not in done.stdout and "Non-2xx" not in done.stdout, done.stdout
    assert int(re.search(r"(\d+) requests in", done.stdout)[1]) > 100


@pytest.mark.skipif(browser.MISSING, reason=browser.REASON)
def test_chromium(server, scripts, tmp_path):
    (tmp_path / "index.html").write_text(
        "<p id=p>before<script>fetch('x.json').then(r => r.json()).then(j => document.getElementById('p').textContent = j.word)</script>")
    (tmp_path / "x.json").write_text('{"word": "after"}')
    one = server(scripts / "http_files.lua", args=[tmp_path])

    async def look():
        async with browser.browse(url(one), tmp_path) as page:
            await page.until("document.getElementById('p')?.textContent === 'after'")

    asyncio.run(asyncio.wait_for(look(), 60 * rig.Settings.patience))
