"""Hostile peers: whatever they do, memory, descriptors and processor time stay bounded, others are served meanwhile, and afterwards
everything is as before. PORTICO_TEST_SCALE=10 for the numbers of docs/testing.md."""

import select
import time

import pytest

from hostile import ACCEPTS, Attack, Watch, attack, descriptors, until_calm
from rig import ECHO, Settings, scaled, until

SECONDS = 1.5  # of watching
# The canary may be kept from asking for longer than others may be idle.
IDLE = """return { limits = { idle = 1 }, on_message = function(conn, data)
  if data:find("canary", 1, true) then conn:set { idle = 60 } end
  return data
end }"""
LINES = "return { frame = 'line', on_message = function(conn, line) return line end }\n"


@pytest.fixture(name="canary")
def canary_fixture():
    """canary(one) is a connection's way of asking; it comes from an address of its own where there is one."""
    clients = []

    def make(one, question=b"canary\n"):
        client = one.connect(seconds=30)
        clients.append(client)
        return lambda: client.ask(question) == question or pytest.fail("the canary is not echoed")

    yield make
    for client in clients:
        client.close()


def base(one):
    return 0 if Settings.wine else descriptors(one)


@pytest.mark.no_wine("resident memory is not the program's alone")
def test_clients_that_never_read(server, canary):
    count = scaled(400, 40)
    one = server(ECHO)
    watch = Watch(one, canary(one))
    before = base(one)
    with attack("never_read", one, count):
        watch.watch(1)  # the server still fills the kernel's buffers
        watch.watch(SECONDS)
    # Queued for each: up to the high mark and the piece that passed it, in chunks that are not all full.
    watch.check(memory=16 + count * 160 // 1024, descriptors=before + count, processor=0.3,
                row=f"{count:,} clients that never read")
    until_calm(one, before)


def test_silent_clients_hold_up_nobody(server, canary):
    """Neither the connections that are there nor those that come."""
    count = scaled(1000, 50)
    one = server(ECHO)
    watch = Watch(one, canary(one))
    before = base(one)
    with attack("silent", one, count):
        watch.watch(SECONDS)
        for _ in range(10):
            with one.connect() as late:
                assert late.ask("late") == b"late"
    watch.check(memory=4 + count * 4 // 1024, descriptors=before + count, processor=0.3,
                row=f"{count:,} silent clients")
    until_calm(one, before)


def test_silent_clients_are_sent_away_in_time(server, canary):
    count = scaled(300, 30)
    one = server("return { limits = { first_byte = 1.5 }, on_message = function(conn, data) return data end }")
    before = base(one)
    with attack("silent", one, count):
        ask = canary(one)
        ask()
        until(lambda: ask() or base(one) <= before + 1, what="the end of those that say nothing")


def test_half_a_message_and_then_nothing(server, canary):
    count = scaled(300, 30)
    one = server(IDLE.replace("{", "{ frame = 'line',", 1))
    watch = Watch(one, canary(one))
    before = base(one)
    with attack("half", one, count):
        watch.watch(SECONDS)
        until_calm(one, before)
    watch.check(memory=8, processor=0.5, row=f"{count:,} with half a message, then silence")


@pytest.mark.no_wine("the server must see what this machine's TCP does")
def test_peers_that_vanish_without_a_word(server, canary):
    """No FIN, no RST: only time tells."""
    count = scaled(200, 20)
    one = server(IDLE)
    watch = Watch(one, canary(one))
    before = base(one)
    try:
        attackers = Attack("vanish", one, count)
    except AssertionError:
        pytest.skip("the system has no TCP_REPAIR for this user")
    try:
        assert base(one) >= before + count // 2
        watch.watch(SECONDS)
        until_calm(one, before)
    finally:
        attackers.kill()
    watch.check(memory=8, processor=0.5, row=f"{count:,} that vanish without FIN")


def test_drippers(server, canary):
    count = scaled(200, 20)
    one = server(LINES)
    watch = Watch(one, canary(one))
    before = base(one)
    with attack("drip", one, count):
        watch.watch(SECONDS)
    watch.check(memory=8, descriptors=before + count, row=f"{count:,} that send a byte every 50 ms")
    until_calm(one, before)


def test_requests_whose_heads_have_no_end(server):
    count = scaled(200, 20)
    one = server("""return require("portico.http1").server {
      patience = 0.7, on_request = function(req) return req.body .. "canary" end }""")
    with one.connect() as client:
        request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nthe"
        client.send(request)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.line()
        assert client.take(9) == b"thecanary"

        def ask():
            assert client.send(request).take(len(head) + 9).endswith(b"thecanary")

        watch = Watch(one, ask)
        before = base(one)
        with attack("slowloris", one, count):
            watch.watch(SECONDS)
            until_calm(one, before)
        watch.check(memory=16, row=f"{count:,} requests whose heads have no end")
        with one.connect() as slow:
            slow.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
            until(lambda: (ask(), slow.send(b"x"), has_answer(slow, 0.1))[-1], what="the end of patience")
            assert slow.line().startswith(b"HTTP/1.1 408 ")


def has_answer(client, seconds):
    return bool(select.select([client.socket], [], [], seconds)[0])


@pytest.mark.parametrize("kind,what", [("rst", "connect, send, RST, as fast as they can"),
                                       ("come_and_go", "connect, RST"), ("fin", "connect, FIN")])
def test_storms(server, canary, kind, what):
    one = server(ECHO)
    watch = Watch(one, canary(one))
    before = base(one)
    with attack(kind, one, 1), attack(kind, one, 1):
        watch.watch(SECONDS)
    watch.check(memory=16, descriptors=before + 1000, row=what)
    until_calm(one, before)
    assert len(one.log("warn|error")) < 5, one.text()


@pytest.mark.no_wine("descriptors are wineserver's there")
def test_128_descriptors_in_all_and_a_burst(server, canary):
    one = server(ECHO, "--workers", "1", prefix=["prlimit", "--nofile=128:128"])
    watch = Watch(one, canary(one))
    before = base(one)
    with attack("burst", one, 600):
        watch.watch(SECONDS)
        assert descriptors(one) <= 128
    watch.check(memory=8, descriptors=128, processor=0.4, row="600 at once for 128 descriptors")
    until_calm(one, before)
    with one.connect() as late:
        assert late.ask("late") == b"late"
    assert 1 <= len(one.log("accepting pauses")) <= 2
    assert len(one.lines) < 20, one.text()


@pytest.mark.no_wine("this machine's other addresses are not the server's there")
def test_one_address_cannot_have_everything(server, canary):
    one = server(ECHO, "--max-per-address", "50")
    watch = Watch(one, canary(one))
    before = base(one)
    with attack("silent", one, 500, "127.0.0.2"):
        watch.watch(SECONDS)
        assert watch.descriptors <= before + 50 + ACCEPTS
        with one.connect() as other:
            assert other.ask("other") == b"other"
    until_calm(one, before)
    with attack("silent", one, 40, "127.0.0.2"):  # its share is its own again
        until(lambda: descriptors(one) >= before + 40, what="40 connections")
    watch.check(memory=8, processor=0.3, row="500 from one address that may have 50")
    one.stop()
    assert len(one.log("a connection from 127.0.0.2:.* was refused: its address has 50 already")) == 1
    assert len(one.log("449 more in 10 s: a connection was refused: too many from one address")) == 1


def test_the_first_address_does_not_take_a_quarter_more(server):
    """Without the option a quarter is for one address, but this machine's own are not counted."""
    one = server(ECHO, "--max-connections", "20")
    clients = [one.connect() for _ in range(20)]
    for client in clients:
        assert client.ask("x") == b"x"
    for client in clients:
        client.close()


def test_no_more_are_accepted_in_a_second_than_may_be(server, canary):
    # So low that a busy machine does not accept fewer by itself.
    one = server(ECHO, "--accept-rate", "10")
    watch = Watch(one, canary(one))
    began = time.monotonic()
    clients = [one.connect() for _ in range(25)]
    for client in clients:
        client.send("x")
    watch.watch(1)
    for client in clients:
        assert client.take(1) == b"x"
    assert time.monotonic() - began > 1.2  # 10 at once, 10 in each second
    watch.check()
    for client in clients:
        client.close()
    one.stop()
    assert len(one.log("accepting pauses: too many connections in a second")) == 1
    assert len(one.lines) < 12, one.text()


def test_messages_that_are_announced_too_long(server, canary):
    one = server("return { frame = { type = 'length', size = 4, max = 65536 }, on_message = function(_, m) return m end }")
    question = b"\0\0\0\6canary"
    watch = Watch(one, canary(one, question))
    before = base(one)
    with attack("oversize", one, 1):
        watch.watch(SECONDS)
    watch.check(memory=8, descriptors=before + 100, row="messages announced with 2 GiB")
    until_calm(one, before)
    one.stop()
    assert len(one.log(r"conn .*: the length of a message is above max.*closed")) == 1
    assert len(one.log(r"\d+ more in 10 s: the length of a message is above max")) == 1


def test_errors_of_a_script_that_peers_bring_about_do_not_fill_the_log(server, canary):
    one = server("""return { frame = "line", on_message = function(conn, line)
      if line == "boom" then error("boom") end
      return line
    end }""")
    watch = Watch(one, canary(one))
    with attack("error", one, 1):
        watch.watch(SECONDS)
    watch.check(memory=16, row="an error of the script's for each")
    one.stop()
    errors = one.log(r"error .*script\.lua:2: boom")
    assert 15 <= len(errors) <= 20
    assert len(one.log(r"\d+ more in 10 s: errors of handlers")) == 1
