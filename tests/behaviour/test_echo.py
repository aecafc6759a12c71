"""The default script: what comes is sent back, or acknowledged."""

import pytest

from rig import in_background, pattern, scaled

ACKNOWLEDGEMENT = b"Message received successfully"


@pytest.fixture(params=["embedded", "file"])
def default(request, scripts):
    """The default script, as it is built in and as it lies in scripts/; for server()."""
    return None if request.param == "embedded" else scripts / "default.lua"


def test_what_is_sent_comes_back(server, default):
    with server(default).connect() as client:
        assert client.ask("hello, world\n") == b"hello, world\n"
        assert client.ask("again") == b"again"


def test_every_byte_value_comes_back(server, default):
    with server(default).connect() as client:
        assert client.ask(bytes(range(256)) * 4) == bytes(range(256)) * 4


@pytest.mark.packets("received")
def test_a_message_acknowledged_is_not_echoed(server, scripts):
    with server(scripts / "default.lua", args=("ack",)).connect() as client:
        client.send("hello")
        assert client.take(len(ACKNOWLEDGEMENT)) == ACKNOWLEDGEMENT
        client.finish()
        assert client.rest().strip() == b""


def test_a_client_that_sends_and_finishes_gets_its_reply_and_then_the_end(server, default):
    with server(default).connect() as client:
        client.send("what nc does").finish()
        assert client.rest() == b"what nc does"


def test_a_client_that_only_finishes_gets_the_end(server, default):
    with server(default).connect() as client:
        assert client.finish().rest() == b""


def test_a_large_message_comes_back_whole(server, default):
    data = pattern(0, 0, scaled(4 << 20) // 8 * 8)
    with server(default).connect() as client:
        sending = in_background(lambda: client.send(data).finish())
        assert client.rest() == data
        sending.result()


def test_many_messages_come_back_in_order(server, default):
    with server(default).connect() as client:
        for number in range(scaled(2000, 100)):
            message = b"message %d\n" % number
            assert client.ask(message) == message


def test_many_clients_are_served_side_by_side(server, default):
    one = server(default)
    clients = [one.connect() for _ in range(scaled(200, 50))]
    for turn in range(3):
        for number, client in enumerate(clients):
            client.send(b"%d from %d\n" % (turn, number))
        for number, client in enumerate(clients):
            assert client.line() == b"%d from %d\n" % (turn, number)
    for client in clients:
        client.close()


def test_peers_are_logged_and_messages_only_for_those_who_debug(server, default):
    one = server(default, "--log-level", "debug")
    with one.connect() as client:
        peer = f"127.0.0.1:{client.address[1]}"
        client.ask("a message")
        assert one.wait_log(peer)
        debug = len(one.wait_log(r"\bdebug\b"))
    assert debug > 0
    two = server(default)
    with two.connect() as client:
        peer = f"127.0.0.1:{client.address[1]}"
        client.ask("a message")
        assert two.wait_log(peer)
    two.stop()
    assert not two.log(r"\bdebug\b")
