"""lua/portico/websocket.lua behind clients that others wrote: Python's websockets, Chromium."""

import asyncio

import pytest

import browser
import rig

websockets = pytest.importorskip("websockets", reason="python3-websockets is not installed (./dev setup test)")

SERVER = """
local websocket = require "portico.websocket"
return websocket.server {
  protocols = { "second", "first" },
  max_message = 300000,
  check = function(req) return req.path ~= "/secret" end,
  on_open = function(ws, req) ws.state.path = req.path end,
  on_message = function(ws, data, is_binary)
    if data == "path" then
      ws:send(ws.state.path)
    elseif data == "sleep" then
      portico.sleep(0.05)
      ws:send("slept")
    elseif data == "bye" then
      ws:close(4001, "as you wish")
    elseif data == "ping" then
      ws:ping("x")
    elseif data == "raise" then
      error("on purpose")
    elseif is_binary then
      ws:send_binary(data)
    else
      ws:send(data)
    end
  end,
  on_close = function(ws, code, reason) portico.log.info("said: close", code, reason) end,
}
"""


def go(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30 * rig.Settings.patience))


def url(one, path="/"):
    return f"ws://127.0.0.1:{one.port}{path}"


def test_messages_of_all_sizes(server):
    one = server(SERVER)

    async def talk():
        async with websockets.connect(url(one, "/where"), max_size=None) as ws:
            assert ws.extensions == []
            await ws.send("path")
            assert await ws.recv() == "/where"
            for size in (0, 1, 125, 126, 65535, 65536, 300000):
                await ws.send("x" * size)
                assert await ws.recv() == "x" * size
                await ws.send(b"\0\xff" * (size // 2))
                assert await ws.recv() == b"\0\xff" * (size // 2)
            await ws.send(["in ", "three ", "pieces ö"])
            assert await ws.recv() == "in three pieces ö"
            await (await ws.ping(b"are you there"))
            await ws.send("ping")
            await ws.send("sleep")
            await ws.send("next")
            assert [await ws.recv(), await ws.recv()] == ["slept", "next"]

    go(talk())
    assert one.wait_said(1) == ["close 1000 "]


def test_many_clients_at_once(server):
    one = server(SERVER, "--workers", "2")

    async def talk(number):
        async with websockets.connect(url(one)) as ws:
            for i in range(20):
                await ws.send(f"{number} {i}")
            for i in range(20):
                assert await ws.recv() == f"{number} {i}"

    async def all_of_them():
        await asyncio.gather(*(talk(number) for number in range(30)))

    go(all_of_them())


def test_farewells(server):
    one = server(SERVER)

    async def talk():
        ws = await websockets.connect(url(one))
        await ws.send("bye")
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (4001, "as you wish")
        ws = await websockets.connect(url(one))
        await ws.close(3000, "enough")
        ws = await websockets.connect(url(one))
        await ws.send("raise")
        await ws.wait_closed()
        assert ws.close_code == 1011
        ws = await websockets.connect(url(one))
        await ws.send("x" * 300001)
        await ws.wait_closed()
        assert ws.close_code == 1009
        ws = await websockets.connect(url(one))
        ws.transport.abort()

    go(talk())
    assert sorted(one.wait_said(5)) == sorted([
        "close 4001 as you wish", "close 3000 enough", "close 1011 internal error", "close 1009 message too large", "close 1006 "])


def test_handshakes(server):
    one = server(SERVER)

    async def talk():
        async with websockets.connect(url(one), subprotocols=["first", "second"]) as ws:
            assert ws.subprotocol == "second"
        with pytest.raises(websockets.InvalidStatusCode) as refused:
            await websockets.connect(url(one, "/secret"))
        assert refused.value.status_code == 403

    go(talk())
    with one.connect() as client:
        assert client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").rest().startswith(b"HTTP/1.1 426 ")
    head = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    with one.connect() as client:
        assert client.send(head + key + "\r\n").finish().rest().startswith(b"HTTP/1.1 426 ")
    with one.connect() as client:
        assert client.send(head + "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n").finish().rest().startswith(b"HTTP/1.1 400 ")
    with one.connect() as client:  # frames right behind the handshake are not lost
        client.send((head + key + "Sec-WebSocket-Version: 13\r\n\r\n").encode() + b"\x81\x84\0\0\0\0path")
        answer = client.take(len(b"HTTP/1.1 101 "))
        assert answer == b"HTTP/1.1 101 "
        answer += client.send(b"\x88\x80\0\0\0\0").rest()
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer and answer.endswith(b"\x81\x01/\x88\x00")


@pytest.mark.skipif(browser.MISSING, reason=browser.REASON)
def test_chromium_chats(server, scripts, tmp_path):
    one = server(scripts / "websocket_chat.lua", "--workers", "2")

    async def talk():
        async with browser.browse(f"http://127.0.0.1:{one.port}/", tmp_path) as page:
            await page.until("document.getElementById('lines')?.textContent.includes('is here')")
            async with websockets.connect(url(one)) as ws:
                assert (await ws.recv()).endswith("is here")
                await ws.send("/name Ann")
                await ws.send("hello, browser <b>")
                await page.until("lines.textContent.includes('is now Ann\\nAnn: hello, browser <b>')")
                assert [await ws.recv(), await ws.recv()][1] == "Ann: hello, browser <b>"
                await page.evaluate("input.value = 'hello, Ann ö'; document.querySelector('form').requestSubmit()")
                assert (await ws.recv()).endswith(": hello, Ann ö")
            await page.until("lines.textContent.endsWith('Ann is gone\\n')")

    go(talk())
