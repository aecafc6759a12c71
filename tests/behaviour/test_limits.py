"""Limits: of connections, descriptors and memory; and peers that come and go as they please."""

import contextlib
import resource
import select
import socket
import struct
import time

import pytest

from rig import ECHO, dawdle, scaled, until


def test_more_than_max_connections_wait_until_others_leave(server):
    one = server(ECHO, "--max-connections", "2", "--workers", "1")
    first, second = one.connect(), one.connect()
    assert first.ask("1") == b"1" and second.ask("2") == b"2"
    third = one.connect()  # the kernel takes it, portico does not
    third.send("3")
    assert third.silent(0.4)
    assert first.ask("1") == b"1"
    first.close()
    assert third.take(1) == b"3"
    second.close()
    third.close()


def test_max_connections_counts_all_workers(server):
    one = server(ECHO, "--max-connections", "3", "--workers", "2")
    clients = [one.connect() for _ in range(3)]
    for client in clients:
        assert client.ask("x") == b"x"
    with one.connect() as late:
        late.send("late")
        assert late.silent(0.4)
        clients.pop().close()
        assert late.take(4) == b"late"
    for client in clients:
        client.close()


def test_who_waits_longest_is_served_first_though_the_server_stays_full(server):
    one = server(ECHO, "--max-connections", "1", "--workers", "2")
    clients = [one.connect()]
    assert clients[0].ask("x") == b"x"
    clients += [one.connect().send("x") for _ in range(40)]  # more than the 32 that are accepted ahead
    for number in range(scaled(60, 10)):
        clients.append(one.connect().send("x"))
        clients[number].close()
        assert clients[number + 1].take(1) == b"x"
        later = [client.socket for client in clients[number + 2:]]
        assert not select.select(later, [], [], 0)[0], "somebody who came later is served"
    one.stop()
    assert len(one.log(r"accepting pauses: the limit of 1 connections is reached \(--max-connections\)")) == 1
    assert not one.log("accepting again")
    for client in clients:
        client.close()


@pytest.mark.no_wine("this machine's other addresses are not the server's there")
def test_an_address_that_is_full_holds_nobody_else_up(server):
    """Those who are refused do not count among the two that may come in a second."""
    one = server(ECHO, "--max-per-address", "1", "--accept-rate", "2")
    other = ("127.0.0.2", 0)
    with socket.create_connection(one.addresses[0], 10, source_address=other) as full:
        full.sendall(b"x")
        assert full.recv(1) == b"x"
        for _ in range(60):
            with contextlib.suppress(ConnectionError):
                socket.create_connection(one.addresses[0], 10, source_address=other).close()
        begin = time.monotonic()
        with one.connect() as client:
            assert client.ask("x") == b"x"
        assert time.monotonic() - begin < 15, "they took half a second each"


@pytest.mark.no_wine("descriptors are wineserver's there")
def test_running_out_of_descriptors_is_one_line_and_no_spin_and_passes(server):
    one = server(ECHO, "--workers", "1", prefix=["prlimit", "--nofile=64:64"])
    clients = [one.connect() for _ in range(100)]
    for client in clients:
        client.send("?")
    served = answered(clients)
    assert 20 <= len(served) < 64, len(served)
    begin = one.processor_seconds()
    dawdle(1, "the processor time is taken over this")
    assert one.processor_seconds() - begin < 0.3
    assert served[0].ask("x") == b"x"
    waiting = [client for client in clients if client not in served]
    for client in served:
        client.close()
    # Those that waited get their turn and their answer, in the order in which they came.
    turn = []
    until(lambda: turn.extend(answered([client for client in waiting if client not in turn])) or len(turn) >= len(served) // 2,
          20, "their turn")
    assert set(turn) == set(waiting[:len(turn)])
    for client in clients:
        client.close()
    with one.connect() as client:
        assert client.ask("after") == b"after"
    lines = one.log(r"descriptor|EMFILE|too many")
    assert 1 <= len(lines) <= 5, lines


@pytest.mark.no_wine("descriptors are wineserver's there")
def test_a_descriptor_that_is_free_again_is_used_at_once(server):
    one = server(ECHO, "--workers", "1", "--max-connections", "1000", prefix=["prlimit", "--nofile=64:64"])
    clients = [one.connect().send("?") for _ in range(80)]
    served = len(answered(clients))
    times = []
    for number in range(20):
        begin = time.monotonic()
        clients[number].close()
        assert clients[served + number].take(1) == b"?"
        times.append(time.monotonic() - begin)
    assert sorted(times)[10] < 0.05, times  # a timer of LISTENER_RETRY_NS would need twice that
    for client in clients:
        client.close()


def answered(clients):
    """Takes the one byte of those who have an answer, until no more come."""
    waiting = {client.socket: client for client in clients}
    served = []
    while ready := select.select(list(waiting), [], [], 1)[0]:
        for one in ready:
            assert one.recv(1) == b"?"
            served.append(waiting.pop(one))
    return served


@pytest.mark.no_wine("resident memory is not the program's alone")
def test_a_peer_that_never_reads_costs_bounded_memory(server):
    one = server(ECHO, "--workers", "1")
    with one.connect() as other, one.connect() as client:
        assert other.ask("x") == b"x"
        before = one.memory()
        client.socket.settimeout(1)
        sent = 0
        try:
            for _ in range(scaled(4096, 512)):
                sent += client.socket.send(bytes(1 << 16))
        except socket.timeout:
            pass
        assert sent < scaled(4096, 512) << 16, "the server took everything, whatever it could not give back"
        assert one.memory() - before < 32 << 20
        assert other.ask("x") == b"x"
        begin = one.processor_seconds()
        dawdle(0.5, "the processor time is taken over this")
        assert one.processor_seconds() - begin < 0.2, "it spins"
        client.reset()


def test_2000_connections_that_come_and_go_leave_nothing(server):
    one = server(ECHO)
    for number in range(scaled(2000, 200)):
        client = one.connect()
        kind = number % 5
        if kind == 0:
            client.reset()
        elif kind == 1:
            client.send("x").reset()
        elif kind == 2:
            assert client.ask("hello") == b"hello"
            client.close()
        elif kind == 3:
            client.send("hello").finish()
            assert client.rest() == b"hello"
            client.close()
        else:
            client.close()
    with one.connect() as client:
        assert client.ask("alive") == b"alive"
    one.stop()


@pytest.mark.no_wine("reads /proc")
def test_descriptors_come_back_when_connections_end(server):
    import os
    one = server(ECHO)
    with one.connect() as client:
        client.ask("x")
        count = len(os.listdir(f"/proc/{one.process.pid}/fd"))
    for number in range(200):
        client = one.connect()
        client.ask("x")
        if number % 2:
            client.reset()
        else:
            client.close()
    until(lambda: len(os.listdir(f"/proc/{one.process.pid}/fd")) <= count, what="the end of all connections")


def test_peers_that_are_gone_before_they_are_accepted_cost_only_themselves(server):
    """While a handler keeps the one worker busy, peers connect and reset; then another is served."""
    one = server("""
      return { on_message = function(conn, data)
        conn:send("busy\\n")
        portico.after(0, function() local e = portico.monotonic() + 0.5 while portico.monotonic() < e do end end)
      end }""", "--workers", "1", "--callback-budget", "0")
    with one.connect() as client:
        client.send("x")
        assert client.line() == b"busy\n"
        for _ in range(50):
            gone = socket.create_connection(one.addresses[0], 5)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
        with one.connect() as late:
            late.send("y")
            assert late.line() == b"busy\n"
    assert one.process.poll() is None


def test_1000_connections_at_a_time_are_served(server):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = scaled(1000, 200)
    if hard < count + 100:
        pytest.skip(f"only {hard} descriptors are allowed here")
    try:
        one = server(ECHO)
        clients = [one.connect() for _ in range(count)]
        for number, client in enumerate(clients):
            client.send(b"%8d" % number)
        for number, client in enumerate(clients):
            assert client.take(8) == b"%8d" % number
        for client in clients:
            client.close()
        one.stop()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
