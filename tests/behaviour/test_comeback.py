"""Stopping in the midst of things, and coming back: peers of mixed speed, reloads under way, kills, and a second instance."""

import os
import re
import signal
import socket
import subprocess
import time

import pytest

from reloads import ASK, REFUSED, TELLER, UNDONE, reload, save, say
from rig import ECHO, SAY, Client, Settings, command, dawdle, free_port, in_background, run, scaled, until

BLOCK = 65536


def flood(blocks):
    return SAY + f"""
      return {{ limits = {{ send_high = 1 << 30, send_max = 1 << 30 }}, on_message = function(conn, data)
        local block = ("0123456789abcdef"):rep({BLOCK // 16})
        for i = 1, {blocks} do conn:send(block) end
        say("queued")
      end }}"""


def slowly(client, count, pause):
    """Takes everything up to the end of stream, with a pause before each piece. How many bytes."""
    got = 0
    while piece := client.socket.recv(count):
        got += len(piece)
        dawdle(pause, "the reader is slow")
    return got


def test_peers_of_all_speeds_get_all_that_was_queued(server):
    """Fast ones, slow ones and idle ones: the drain ends with the slowest, and none loses a byte."""
    blocks = scaled(16, 4)
    one = server(flood(blocks), "--drain-timeout", "30")
    clients = [one.connect(receive_buffer=1 << 16) for _ in range(6)]
    idle = [one.connect() for _ in range(3)]
    for client in clients:
        client.send("x")
    one.wait_said(len(clients))
    one.signal()
    one.wait_log("stopping: draining 9 connections")
    paces = [(1 << 20, 0), (1 << 20, 0), (BLOCK, 0.005), (BLOCK, 0.01), (8192, 0.002), (8192, 0.004)]
    readers = [in_background(slowly, client, *pace) for client, pace in zip(clients, paces)]
    assert [client.rest() for client in idle] == [b""] * 3
    assert [reader.result() for reader in readers] == [blocks * BLOCK] * len(clients)
    for client in clients + idle:
        client.close()
    one.check_end(0)


def test_a_drain_with_one_that_takes_nothing_cuts_only_that_one_off(server):
    blocks = 192  # more than the kernel takes
    one = server(flood(blocks), "--drain-timeout", "4")
    clients = [one.connect(receive_buffer=1 << 16) for _ in range(4)]
    for client in clients:
        client.send("x")
    one.wait_said(len(clients))
    one.signal()
    stuck = clients.pop()
    readers = [in_background(client.rest) for client in clients]
    assert [len(reader.result()) for reader in readers] == [blocks * BLOCK] * len(clients)
    for client in clients:
        client.close()
    one.check_end(5)
    assert stuck.is_over()
    stuck.close()


# ---- A stop while a version is replaced ----

@pytest.mark.packets("both")
@pytest.mark.budget
@pytest.mark.parametrize("body,name", [("while true do end", "a loop"), ("while true do pcall(error) end", "a loop of pcall"),
                                       ("local t = {} for i = 1, 1e12 do t[i % 100] = ('x'):rep(100) end", "garbage")])
def test_a_stop_while_a_candidate_loops(server, body, name):
    """The candidate may take a minute, the stop does not wait for it."""
    one = server(TELLER % "a", "--load-budget", "60", "--drain-timeout", "1", "--workers", "2")
    with one.connect() as client:
        save(one, body)
        assert say(client, "reload") == "asked", name
        assert say(client, "x") == "a:x"
    began = time.monotonic()
    one.stop(seconds=20)
    assert time.monotonic() - began < 10 * Settings.patience


@pytest.mark.budget
def test_stops_at_every_moment_of_a_reload(server):
    """TERM between a few microseconds and some milliseconds after the reload was asked for: prepare, commit, probation."""
    for delay in [0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.05]:
        one = server(TELLER % "a", "--workers", "2", "--drain-timeout", "5")
        with one.connect() as client:
            assert say(client, "x") == "a:x"
            save(one, TELLER % "b")
            client.send("reload")
            dawdle(delay, "another moment of the reload")
            one.signal()
            client.rest()
        one.check_end(0)
        assert not one.log("error"), one.text()


@pytest.mark.packets("both")
def test_a_stop_in_probation_is_clean(server):
    one = server(TELLER % "a", "--reload-probation", "60")
    with one.connect() as client:
        save(one, TELLER % "b")
        reload(one, client)
        assert say(client, "x") == "b:x"
        one.signal()
        assert client.rest() == b""
    one.check_end(0)
    assert not one.log(UNDONE)


@pytest.mark.packets("both")
def test_a_stop_while_old_handlers_wait(server):
    """Of the version before: they may finish, like those of the new one."""
    text = "return { on_message = function(conn, data) " + ASK + """
      portico.sleep(0.5)
      return "%s:" .. data end }"""
    one = server(text % "a")
    with one.connect() as client, one.connect() as other:
        client.send("x")
        save(one, text % "b")
        other.send("reload")
        one.wait_log(r"generation 2 .*takes over|" + REFUSED)
        one.signal()
        assert client.rest() == b"a:x"
    one.check_end(0)


# ---- Coming back ----

class Kept:
    """portico on one port, killed and started again. No log but its last."""

    def __init__(self, directory, port):
        self.words = command("--listen", f"tcp://127.0.0.1:{port}", "--backend", Settings.backend, "--no-watch", "--control", "off",
                             "--workers", "1", self.script(directory))
        self.port = port
        self.process = None

    @staticmethod
    def script(directory):
        path = directory / "script.lua"
        path.write_text(ECHO, encoding="utf-8")
        return path

    def start(self):
        self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
        line = ""
        while "listening on" not in line:
            line = self.process.stderr.readline()
            assert line, f"it ended with {self.process.wait()}"

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()


@pytest.mark.no_wine("the wine process that is killed is not the server")
def test_killed_and_started_again_with_clients_in_time_wait(tmp_path):
    """The server's side of the connections is what waits (it closed first, or the kernel did for it): the port is had again at once."""
    kept = Kept(tmp_path, free_port())
    for number in range(scaled(100, 10)):
        kept.start()
        try:
            clients = [Client(("127.0.0.1", kept.port)) for _ in range(3)]
            for client in clients:
                assert client.ask(b"%d" % number) == b"%d" % number
        finally:
            kept.kill()
        for client in clients:
            assert client.is_over()
            client.close()


@pytest.mark.no_wine("the wine process that is killed is not the server")
def test_killed_in_the_midst_of_traffic_and_started_again(tmp_path):
    kept = Kept(tmp_path, free_port())
    for _ in range(scaled(20, 3)):
        kept.start()
        clients = [Client(("127.0.0.1", kept.port)) for _ in range(4)]
        for client in clients:
            client.send(bytes(1 << 16))
        kept.kill()
        for client in clients:
            assert client.is_over()
            client.close()


def closed_first(port):
    """Connections that the server has closed first are in TIME_WAIT on its side."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        return sum(1 for line in file.readlines()[1:] if int(line.split()[1].split(":")[1], 16) == port and line.split()[3] == "06")


@pytest.mark.no_wine("reads /proc")
def test_its_own_time_wait_does_not_keep_the_port(server):
    port = free_port()
    for _ in range(3):
        one = server("return { on_message = function(conn, data) conn:send(data) conn:close() end }",
                     listen=(f"tcp://127.0.0.1:{port}",))
        for _ in range(5):
            with one.connect() as client:
                assert client.send("x").rest() == b"x"
        until(lambda: closed_first(port) > 0, what="TIME_WAIT")
        one.stop()


def test_a_second_instance_on_the_port_ends_with_4(server):
    """… and takes nothing from the first, not even when it is the wildcard's."""
    one = server(ECHO)
    with one.connect() as client:
        for where in (f"tcp://127.0.0.1:{one.port}", f"tcp://*:{one.port}"):
            if Settings.wine and "*" in where:
                continue  # Wine lets a wildcard be bound beside an address, whatever SO_EXCLUSIVEADDRUSE says
            ended = run("--listen", where, "--control", "off", one.directory / "script.lua")
            assert ended.returncode == 4, ended.stderr
            assert re.search(r"cannot listen on .*address already in use", ended.stderr), ended.stderr
        assert client.ask("still") == b"still"
        for _ in range(5):
            with one.connect() as late:
                assert late.ask("mine") == b"mine"


@pytest.mark.no_wine("an unrelated program is this machine's there, not Wine's")
def test_nobody_can_share_the_port_by_asking_for_it(server):
    """SO_REUSEADDR, or even SO_REUSEPORT, on the other side does not get at the connections."""
    one = server(ECHO)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, option, 1)
            with pytest.raises(OSError):
                thief.bind(("127.0.0.1", one.port))
                thief.listen(1)


@pytest.mark.no_wine("there are no such signals")
def test_a_hangup_and_a_stop_at_once(server):
    one = server(ECHO)
    os.kill(one.process.pid, signal.SIGHUP)
    os.kill(one.process.pid, signal.SIGTERM)
    one.check_end(0)
