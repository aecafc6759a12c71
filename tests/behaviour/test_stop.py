"""Stopping: what is queued is sent, up to a deadline; a second time is at once."""

import os
import signal
import subprocess
import time

import pytest

from rig import ECHO, SAY, Settings, command, dawdle, in_background, pattern, refuses, scaled, until

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


def test_what_on_unload_begins_is_refused_since_it_would_never_run(server):
    one = server(SAY + """return { on_unload = function()
      say(portico.after(0, print)) say(portico.every(1, print)) say(portico.spawn(print)) end }""", "--workers", "1")
    one.stop()
    assert one.said() == ["nil the server is stopping closed"] * 3


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
    for delay in range(0, 40, 4):
        process = subprocess.Popen(command("--listen", "tcp://127.0.0.1:0", "--backend", Settings.backend),
                                   stderr=subprocess.PIPE, encoding="utf-8")
        dawdle(delay / 1000, "another moment of the start")
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=10 * Settings.patience)
        assert process.returncode in (0, -signal.SIGINT), log
        if "listening on" in log:
            assert process.returncode == 0 and "stopped" in log


def test_a_version_that_loads_at_the_stop_is_refused_without_an_error(server):
    one = server(SAY + "return { on_message = function() portico.reload() end }", "--load-budget", "30")
    (one.directory / "script.lua").write_text(SAY + 'say("loads") while true do end', encoding="utf-8")
    with one.connect() as client:
        client.send("x")
        one.wait_said(1)
        one.signal()
        client.rest()
    one.check_end(0)
    assert not one.log(" error "), one.text()


@pytest.mark.no_wine("a pipe has another size there")
@pytest.mark.parametrize("length", [499, 502, 506])
def test_standard_error_that_nobody_reads_holds_up_no_stop(tmp_path, length):
    """Whether the last line still fits into the pipe is up to the length of those before."""
    script = tmp_path / "script.lua"
    script.write_text(f"""portico.every(0.001, function()
      for i = 1, 200 do portico.log.info("line " .. ("y"):rep({length})) end
      if os.rename("{tmp_path}/full", "{tmp_path}/full") then return end
      full = (full or 0) + 1
      if full > 20 then io.open("{tmp_path}/full", "w"):close() end
    end) return {{}}""", encoding="utf-8")
    process = subprocess.Popen(command("--listen", "tcp://127.0.0.1:0", "--backend", Settings.backend, "--workers", "1", script),
                               stderr=subprocess.PIPE)
    try:
        until((tmp_path / "full").exists, what="a full pipe")
        process.send_signal(signal.SIGINT)
        assert process.wait(15 * Settings.patience) == 0
        assert b"leak" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


# ---- Workers that hang ----

# Never comes back: the loop without a budget everywhere, the call of the system where there are such files.
LOOP = 'say("stuck") while true do end'
CALL = 'say("stuck") io.open("FIFO")'


def stuck(server, tmp_path, what, *options, **more):
    """A server with a worker that hangs in a handler, and the client who asked for it."""
    fifo = tmp_path / "fifo"
    if "FIFO" in what:
        os.mkfifo(fifo)
        what = what.replace("FIFO", str(fifo))
    one = server(f"{SAY} return {{ on_message = function(conn, data) {what} return data end }}", "--workers", "2",
                 "--callback-budget", "0" if what == LOOP else "0.1", *options, **more)
    client = one.connect().send("x")
    one.wait_said(1)
    return one, client


def check_cut(one):
    """It has ended, though not by itself."""
    assert one.wait_end(20) == 5, one.text()
    why = r"error +stopped, cut off: worker \d hangs in .*script\.lua: on_message of conn \d+, and is not waited for"
    assert len(one.log(why)) == 1, one.text()
    assert not one.log("leak")


@pytest.mark.parametrize("what", [LOOP, pytest.param(CALL, marks=pytest.mark.no_wine("there are no FIFOs"))], ids=["loop", "call"])
def test_a_worker_that_hangs_is_left_at_the_deadline_with_5(server, tmp_path, what):
    one, _ = stuck(server, tmp_path, what, "--drain-timeout", "0.3")
    begin = time.monotonic()
    one.signal()
    check_cut(one)
    assert time.monotonic() - begin >= 2


def test_a_worker_that_hangs_is_left_at_a_second_stop(server, tmp_path):
    one, _ = stuck(server, tmp_path, LOOP, "--drain-timeout", "600")
    one.signal()
    one.wait_log("stopping: draining")
    one.signal()
    check_cut(one)


@pytest.mark.budget
def test_while_the_first_worker_hangs_the_others_drain(server):
    """Though it is the one that accepts."""
    one = server(SAY + """return { on_message = function(conn, data)
      if data == "hang" then say("stuck") while true do end end
      return tostring(portico.worker.id) end }""", "--workers", "2", "--callback-budget", "0", "--drain-timeout", "600")
    clients = [one.connect() for _ in range(2)]
    first, second = sorted(clients, key=lambda client: client.send("x").take(1))
    first.send("hang")
    one.wait_said(1)
    one.signal()
    assert second.rest() == b""
    one.signal()
    check_cut(one)


@pytest.mark.no_wine("Unix sockets are refused on Windows")
def test_a_worker_that_hangs_leaves_no_sockets_behind(server, tmp_path):
    names = [tmp_path / "s", tmp_path / "c"]
    one, _ = stuck(server, tmp_path, CALL, "--drain-timeout", "0.1", "--control", names[1], listen=[f"unix:{names[0]}"])
    assert all(name.exists() for name in names)
    one.signal(signal.SIGTERM)
    check_cut(one)
    assert not any(name.exists() for name in names)


@pytest.mark.parametrize("signals", [1, 2])
def test_a_script_that_hangs_while_it_loads_is_left_with_5(server, signals):
    one = server(SAY + 'say("stuck") while true do end', "--load-budget", "0", "--drain-timeout", "0.2" if signals == 1 else "600",
                 ready=False)
    one.wait_said(1)
    one.signal()
    if signals == 2:
        # One that comes before the first has been looked at is the same piece of news to the system.
        until(lambda: one.signal() or one.ended, what="the end")
    assert one.wait_end() == 5, one.text()
    assert one.log("error +stopped, cut off: the script hangs while it loads, and is not waited for")


def test_a_script_that_hangs_in_on_unload_is_left_at_a_further_stop(server):
    one = server(SAY + 'return { on_unload = function() say("stuck") while true do end end }', "--callback-budget", "0",
                 "--load-budget", "0", "--drain-timeout", "600")
    one.signal()
    one.wait_said(1)
    one.signal()
    assert one.wait_end() == 5, one.text()
    assert one.log("error +stopped, cut off: the script hangs in on_unload, and is not waited for")


@pytest.mark.no_wine("there are no FIFOs")
def test_a_stop_while_nobody_writes_the_script_ends_it(server, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    one = server(tmp_path / "fifo", ready=False)
    one.wait_log("backend")
    until(lambda: one.signal() or one.ended, what="the end")  # the first may come before it waits
    assert one.wait_end() == 3 and one.log("cannot read the script .*fifo: .*interrupted"), one.text()


@pytest.mark.budget
def test_a_handler_that_its_budget_ends_is_waited_for(server):
    """At a second stop, for longer than a worker has that hangs in a call."""
    one = server(SAY + 'return { on_message = function() say("runs") while true do end end }', "--callback-budget", "2.1")
    with one.connect() as client:
        client.send("x")
        one.wait_said(1)
        one.signal()
        one.wait_log("stopping: draining")
        one.signal()
        one.wait_end()
    assert one.log("callback budget of 2.1 s exceeded") and not one.log("hangs"), one.text()
