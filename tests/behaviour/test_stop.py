"""Stopping: what is queued is sent, up to a deadline; a second time is at once."""

import time

import pytest

from rig import ECHO, SAY, Settings, dawdle, in_background, pattern, refuses, scaled, until

# Queues a lot for whoever connects, as fast as it can be had.
FLOOD = SAY + """
local data = string.rep("x", 65536)
return {
  limits = { send_high = 1 << 26, send_max = 1 << 27 },
  on_connect = function(conn)
    for _ = 1, COUNT do conn:send(data) end
    say("queued")
  end,
}
"""


def flood(blocks):
    return FLOOD.replace("COUNT", str(blocks))


def test_an_idle_server_stops_with_0(server):
    one = server(ECHO)
    one.stop(0, seconds=5)
    assert len(one.log(r"stopping: draining 0 connections, at most 10 s")) == 1


def test_the_last_line_counts_the_connections_of_all_workers(server):
    one = server(ECHO, "--workers", "2")
    for _ in range(3):
        with one.connect() as client:
            client.ask("x")
    one.stop(0)
    assert one.log(r"stopped: 3 connections, \d+ packets")


def test_idle_connections_get_an_end_and_no_reset(server):
    one = server(ECHO)
    with one.connect() as client:
        client.ask("x")
        one.signal()
        assert client.rest() == b""
        client.close()
        one.check_end(0)
    assert one.log(r"stopping: draining 1 connection, at most 10 s")


def test_draining_delivers_every_byte_that_was_queued(server):
    blocks = scaled(256, 32)
    one = server(flood(blocks))
    with one.connect(receive_buffer=1 << 16) as client:
        one.wait_said(1)
        one.signal()
        one.wait_log("stopping: draining")
        assert len(client.rest()) == blocks * 65536
        client.close()
        one.check_end(0)


def test_nobody_is_accepted_any_more_while_it_drains(server):
    one = server(flood(256))
    with one.connect(receive_buffer=1 << 16) as client:
        one.wait_said(1)
        one.signal()
        one.wait_log("stopping: draining")
        until(lambda: refuses(one.port), what="the end of accepting")
        client.rest()
        client.close()
        one.check_end(0)


def test_a_peer_that_takes_nothing_is_cut_off_at_the_deadline_with_5(server):
    one = server(flood(512), "--drain-timeout", "0.3")
    with one.connect(receive_buffer=1 << 16) as client:
        one.wait_said(1)
        begin = time.monotonic()
        one.signal()
        one.check_end(5, seconds=5)
        assert time.monotonic() - begin >= 0.25
        assert client.is_over()
    assert one.log("cut off")


def test_a_second_stop_is_at_once(server):
    one = server(flood(512), "--drain-timeout", "60")
    with one.connect(receive_buffer=1 << 16):
        one.wait_said(1)
        one.signal()
        one.wait_log("stopping: draining")
        one.signal()
        one.check_end(5, seconds=5)


def test_a_drain_time_of_0_is_at_once(server):
    one = server(flood(512), "--drain-timeout", "0")
    with one.connect(receive_buffer=1 << 16):
        one.wait_said(1)
        one.signal()
        one.check_end(5, seconds=5)


def test_a_handler_that_sleeps_may_finish(server):
    one = server(SAY + """
      return { on_message = function(conn, data)
        say("sleeping")
        portico.sleep(0.5)
        conn:send("late: " .. data)
        say("awake")
      end }""")
    with one.connect() as client:
        client.send("x")
        one.wait_said(1)
        one.signal()
        assert client.rest() == b"late: x"
        client.close()
        one.check_end(0)
    assert one.said() == ["sleeping", "awake"]


def test_a_handler_that_sleeps_too_long_is_cut_off_with_5(server):
    one = server(SAY + """
      return { on_message = function(conn, data) say("sleeping") portico.sleep(60) say("awake") end }""",
                 "--drain-timeout", "0.3")
    with one.connect() as client:
        client.send("x")
        one.wait_said(1)
        one.signal()
        one.check_end(5, seconds=5)
    assert one.said() == ["sleeping"]


def test_timers_that_wait_do_not_keep_it(server):
    one = server("portico.after(60, print) portico.every(60, print)\n" + ECHO)
    one.stop(0, seconds=5)


def test_a_script_can_stop_the_server(server):
    one = server(SAY + """
      return { on_message = function(conn, data) conn:send("bye") portico.shutdown() end }""")
    with one.connect() as client:
        client.send("x")
        assert client.rest() == b"bye"
        client.close()
        one.check_end(0)
    assert len(one.log("stopping: draining")) == 1


@pytest.mark.parametrize("where", ["top", "on_load"])
def test_a_script_can_stop_the_server_before_it_starts(server, where):
    texts = {"top": "portico.shutdown() return {}", "on_load": "return { on_load = function() portico.shutdown() end }"}
    one = server(texts[where], ready=False)
    one.check_end(0)


def test_on_unload_is_called_once_per_worker_at_the_end(server):
    one = server(SAY + "return { on_load = function() say('load') end, on_unload = function() say('unload') end }",
                 "--workers", "2")
    one.wait_said(2)
    one.stop()
    assert sorted(one.said()) == ["load", "load", "unload", "unload"]


def test_a_stop_in_the_middle_of_traffic_loses_no_answer(server):
    """What a client has got back up to the end of stream is a prefix of what it sent."""
    one = server(ECHO)
    with one.connect() as client:
        data = pattern(1, 0, scaled(32 << 20) // 8 * 8)

        def send():
            try:
                client.send(data)
            except OSError:
                pass  # the server has gone, or the test has closed the socket

        sending = in_background(send)
        head = client.take(min(1 << 20, len(data) // 2))
        one.signal()
        got = [head]
        try:
            while piece := client.socket.recv(1 << 16):
                got.append(piece)
        except ConnectionResetError:
            pass  # what it was still sending is refused once the server has closed
        received = b"".join(got)
        assert received == data[:len(received)]
        client.close()
        sending.result()
    one.check_end(0)


@pytest.mark.no_wine("an INT before the handler is installed ends a process under Wine")
def test_stops_that_come_while_it_starts_are_not_lost():
    """INT at every moment of the start ends the process; once it is listening, cleanly."""
    import signal
    import subprocess
    from rig import command
    for delay in range(0, 40, 4):
        process = subprocess.Popen(command("--listen", "tcp://127.0.0.1:0", "--backend", Settings.backend),
                                   stderr=subprocess.PIPE, encoding="utf-8")
        dawdle(delay / 1000, "another moment of the start")
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=10 * Settings.patience)
        assert process.returncode in (0, -signal.SIGINT), log
        if "listening on" in log:
            assert process.returncode == 0 and "stopped" in log
