"""scripts/stress.lua: right replies are counted, and every kind of trouble is counted, named, and ends with 1."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time

import pytest

from rig import ECHO, FORBIDDEN, Settings, command, dawdle, deadline, free_port, run, scaled, until

ACKNOWLEDGEMENT = b"Message received successfully"


@pytest.fixture
def stress(scripts):
    """stress(port, words…): one run of the script; standard output and error, exit code."""

    def start(port, *words, host="127.0.0.1", seconds=60, options=()):
        result = run("--callback-budget", "10", *options, scripts / "stress.lua", host, port, *words, seconds=seconds)
        assert not FORBIDDEN.search(result.stderr), result.stderr
        return result

    return start


@pytest.fixture
def measure(stress):
    """The same with --json: returns what the object says. Checks that the exit code and the object agree."""

    def start(port, *words, **more):
        result = stress(port, "--json", *words, **more)
        assert result.returncode in (0, 1), result.stderr
        found = json.loads(result.stdout)
        messages = found["messages"]
        well = not found["errors"] and not messages["wrong"] and not messages["missing"] and not messages["late"]
        assert result.returncode == (0 if well else 1), result.stdout
        return found

    return start


@contextlib.contextmanager
def peer(serve):
    """A server of another make: serve(socket) in a thread for each connection. Gives its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    over = threading.Event()

    def handle(one):
        with one, contextlib.suppress(OSError):
            one.settimeout(30 * Settings.patience)
            serve(one)

    def accept():
        while not over.is_set():
            try:
                one, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=handle, args=(one,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def answering(answer):
    """A server that takes one piece after the other and sends answer(number, piece) for each; None: it closes."""

    def serve(one):
        number = 0
        while piece := one.recv(65536):
            number += 1
            reply = answer(number, piece)
            if reply is None:
                return
            one.sendall(reply)

    return serve


# ---- All well ----

@pytest.mark.parametrize("mode", ["echo", pytest.param("ack", marks=pytest.mark.packets("both"))])
def test_a_thousand_connections_get_a_hundred_right_replies_each(server, scripts, measure, mode):
    connections = scaled(1000, 50)
    one = server(scripts / "default.lua", args=[mode])
    found = measure(one.port, "--connections", connections, "--messages", 100, "--timeout", 60, seconds=120)
    assert found["errors"] == {}
    assert found["mode"] == mode
    assert found["connections"] == {"wanted": connections, "opened": connections}
    total = connections * 100
    assert found["messages"] == {"sent": total, "right": total, "wrong": 0, "missing": 0, "late": 0}


def test_results_add_up(server, measure):
    one = server(ECHO)
    found = measure(one.port, "--connections", 3, "--messages", 20, "--message", "text")
    bytes_wanted = sum(len(f"{k}. Connection {i} - text") for k in range(1, 21) for i in range(1, 4))
    assert found["bytes"] == {"sent": bytes_wanted, "received": bytes_wanted}
    assert found["messages_per_second"] == pytest.approx(60 / found["seconds"], rel=1e-3)
    assert found["bytes_per_second"]["sent"] == pytest.approx(bytes_wanted / found["seconds"], rel=1e-3)
    latency = found["latency"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99_9"] <= latency["max"]
    assert 0 < latency["mean"] <= latency["max"] < found["seconds"] + 1


def test_the_messages_are_as_described(stress):
    seen = []

    def answer(_, piece):
        seen.append(piece)
        return piece

    with peer(answering(answer)) as port:
        assert stress(port, "--connections", 1, "--messages", 2, "--message", "Hi there").returncode == 0
    assert seen == [b"1. Connection 1 - Hi there", b"2. Connection 1 - Hi there"]


def test_latency_is_what_the_server_takes(measure):
    def answer(_, piece):
        dawdle(0.05, "what the latency is to be")
        return piece

    with peer(answering(answer)) as port:
        latency = measure(port, "--connections", 2, "--messages", 10)["latency"]
    assert 0.045 < latency["p50"] < 0.05 + 0.5 * Settings.patience


def test_a_table_for_people(server, stress):
    one = server(ECHO)
    result = stress(one.port, "--connections", 2, "--messages", 5)
    assert result.returncode == 0
    for pattern in (r"^connections +2 of 2 to tcp://127\.0\.0\.1:\d+$", r"^replies +10 right \(echo\), 0 wrong",
                    r"^errors +none$", r"^throughput +\d+ messages/s, .*B/s sent", r"^latency +p50 .* max "):
        assert re.search(pattern, result.stdout, re.MULTILINE), result.stdout
    assert "messages/s, errors" not in result.stderr  # no progress: this is no terminal


def test_quiet_says_nothing_when_all_is_well(server, stress):
    one = server(ECHO)
    result = stress(one.port, "--messages", 5, "--quiet", options=["--quiet"])
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_progress_is_a_line_a_second(server, stress):
    one = server(ECHO)
    result = stress(one.port, "--connections", 2, "--duration", 2.5, "--rate", 50, "--progress")
    assert result.returncode == 0
    assert len(re.findall(r"2 of 2 connections, \d+ replies, \d+ messages/s, errors: none", result.stderr)) >= 2


@pytest.mark.parametrize("size", [64, 1000, 100000, 1000000])
def test_messages_of_any_size(server, measure, size):
    one = server(ECHO)
    found = measure(one.port, "--connections", 2, "--messages", 3, "--size", size, "--timeout", 30)
    assert found["errors"] == {}
    assert found["messages"]["right"] == 6
    assert found["bytes"] == {"sent": 6 * size, "received": 6 * size}


@pytest.mark.parametrize("size", [1, 3000])
def test_many_messages_under_way(server, measure, size):
    one = server(ECHO)
    messages = scaled(2000, 100)
    found = measure(one.port, "--connections", 4, "--messages", messages, "--pipeline", 50, "--size", size,
                    "--timeout", 30)
    assert found["errors"] == {}
    assert found["messages"]["right"] == 4 * messages


def test_replies_in_pieces_and_glued_together(measure):
    """A server that sends back what it got in pieces that have nothing to do with messages."""
    def serve(one):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        held = b""
        while True:
            data = one.recv(65536)
            held += data
            while len(held) > 7 or held and not data:
                one.sendall(held[:7])
                held = held[7:]
            one.settimeout(0.05)
            try:
                if not one.recv(1, socket.MSG_PEEK):
                    one.sendall(held)
                    return
            except socket.timeout:
                one.sendall(held)  # nothing more comes before this
                held = b""
            one.settimeout(30)

    with peer(serve) as port:
        found = measure(port, "--connections", 2, "--messages", 40, "--pipeline", 8, "--timeout", 30)
    assert found["errors"] == {}
    assert found["messages"]["right"] == 80


def test_the_rate_is_kept(server, measure):
    one = server(ECHO)
    found = measure(one.port, "--connections", 5, "--rate", 100, "--messages", 40)
    assert found["messages"]["right"] == 200
    assert 1.9 < found["seconds"] < 2.1 + Settings.patience


def test_the_duration_ends_it(server, measure):
    one = server(ECHO)
    found = measure(one.port, "--connections", 5, "--duration", 1)
    assert found["messages"]["right"] == found["messages"]["sent"] > 0
    assert 0.9 < found["seconds"] < 1.1 + Settings.patience


def test_a_name_is_looked_up(server, stress):
    one = server(ECHO)
    result = stress(one.port, "--connections", 20, "--messages", 2, host="localhost")
    assert result.returncode == 0, result.stderr
    assert "40 right" in result.stdout


def test_ipv6(server, stress, ipv6):
    one = server(ECHO, listen=["tcp://[::1]:0"])
    for host in ("::1", "[::1]"):
        assert "4 right" in stress(one.port, "--connections", 2, "--messages", 2, host=host).stdout


@pytest.mark.parametrize("workers", [1, 3])
def test_one_worker_does_it_all(server, measure, workers):
    one = server(ECHO)
    found = measure(one.port, "--connections", 20, "--messages", 5, options=["--workers", str(workers)])
    assert found["messages"]["right"] == 100


@pytest.mark.parametrize("program", ["socat", "ncat"])
def test_an_echo_server_that_is_not_ours(measure, program):
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    port = free_port()
    words = {"socat": ["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog=512", "EXEC:cat"],
             "ncat": ["ncat", "-l", "-k", "-m", "500", "-c", "cat", "127.0.0.1", str(port)]}[program]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as other:
        try:
            def up():
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    return True

            until(up, what=program)
            found = measure(port, "--connections", 20, "--messages", 10, "--timeout", 30)
        finally:
            other.terminate()
    assert found["errors"] == {}
    assert found["messages"]["right"] == 200


# ---- Trouble ----

@pytest.mark.packets("both")
def test_a_wrong_byte_is_noticed(stress, measure):
    def answer(number, piece):
        return piece if number < 5 else piece[:-1] + b"?"

    with peer(answering(answer)) as port:
        found = measure(port, "--connections", 3, "--messages", 10)
        assert found["errors"] == {"wrong_reply": 3}
        assert found["messages"] == {"sent": 15, "right": 12, "wrong": 3, "missing": 15, "late": 0}
        result = stress(port, "--connections", 1, "--messages", 10, "--quiet")
    assert result.returncode == 1
    assert re.search(r'connection 1, reply 5: expected "5\. Connection 1 - Hello", got "5\. Connection 1 - Hell\?"',
                     result.stderr), result.stderr
    assert re.search(r"^errors +wrong_reply 1$", result.stdout, re.MULTILINE)


def test_a_wrong_byte_deep_in_a_large_message(measure):
    def serve(one):
        left = 100000
        while left > 0:
            piece = bytearray(one.recv(65536))
            if left - len(piece) <= 50000 < left:
                piece[left - 50001] ^= 1
            left -= len(piece)
            one.sendall(piece)
        one.recv(1)

    with peer(serve) as port:
        found = measure(port, "--connections", 1, "--messages", 1, "--size", 100000)
    assert found["errors"] == {"wrong_reply": 1}


def test_replies_of_two_kinds_are_wrong(measure):
    with peer(answering(lambda number, piece: piece if number == 1 else ACKNOWLEDGEMENT)) as port:
        assert measure(port, "--connections", 1, "--messages", 2)["errors"] == {"wrong_reply": 1}


@pytest.mark.packets("both")
@pytest.mark.parametrize("wanted", ["echo", "ack"])
def test_the_kind_of_reply_can_be_demanded(server, scripts, measure, wanted):
    other = {"echo": "ack", "ack": "echo"}[wanted]
    one = server(scripts / "default.lua", args=[wanted])
    assert measure(one.port, "--connections", 2, "--messages", 2, "--expect", wanted)["errors"] == {}
    assert measure(one.port, "--connections", 2, "--messages", 2, "--expect", other)["errors"] == {"wrong_reply": 2}


def test_a_reply_too_many(measure):
    def answer(number, piece):
        return piece + piece if number == 3 else piece

    with peer(answering(answer)) as port:
        found = measure(port, "--connections", 2, "--messages", 3)
    assert found["errors"] == {"wrong_reply": 2}
    assert found["messages"]["right"] == 6


def test_a_greeting_is_no_reply(measure):
    def serve(one):
        one.sendall(b"220 hello\r\n")
        answering(lambda _, piece: piece)(one)

    with peer(serve) as port:
        assert measure(port, "--connections", 2, "--messages", 3)["errors"] == {"wrong_reply": 2}


def test_a_port_where_nobody_listens(stress, measure):
    port = free_port()
    found = measure(port, "--connections", 50, "--messages", 10)
    assert found["errors"] == {"refused": 50}
    assert found["connections"] == {"wanted": 50, "opened": 0}
    assert found["messages"]["missing"] == 500
    result = stress(port)
    assert re.search(r"^errors +refused 10$", result.stdout, re.MULTILINE)
    assert result.returncode == 1


def test_a_name_that_does_not_resolve(measure):
    found = measure(7777, "--connections", 50, host="no-such-host.invalid", seconds=30)
    assert found["errors"] in ({"not_found": 1}, {"timeout": 50})  # the latter where no name server answers at all
    assert found["messages"]["right"] == 0


def test_a_server_that_never_answers(measure):
    began = time.monotonic()
    with peer(lambda one: until(lambda: one.recv(65536) == b"", 30)) as port:
        found = measure(port, "--connections", 20, "--messages", 10, "--timeout", 1)
    assert found["errors"] == {"timeout": 20}
    assert found["messages"] == {"sent": 20, "right": 0, "wrong": 0, "missing": 200, "late": 0}
    assert time.monotonic() - began < 10 * Settings.patience


def test_a_server_that_goes_silent_with_the_pipeline_full(measure):
    def serve(one):
        one.sendall(one.recv(65536)[:30])
        until(lambda: one.recv(65536) == b"", 30)

    with peer(serve) as port:
        found = measure(port, "--connections", 5, "--messages", 100, "--pipeline", 10, "--timeout", 1)
    assert found["errors"] == {"timeout": 5}


@pytest.mark.no_wine("a listen queue that is full refuses")
def test_a_server_that_does_not_accept(measure):
    """Its queue is full: what connects waits."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        with pytest.raises(socket.timeout):
            for _ in range(8):
                one = stack.enter_context(socket.socket())
                one.settimeout(1)
                one.connect(("127.0.0.1", port))
        found = measure(port, "--connections", 5, "--messages", 1, "--timeout", 1)
    assert found["errors"] == {"timeout": 5}
    assert found["connections"]["opened"] == 0


def test_a_reply_that_comes_too_late(measure):
    """One byte of the reply comes in time: what counts is the last one."""
    def answer(_, piece):
        dawdle(1.5 * Settings.patience, "later than it waits")
        return piece

    with peer(answering(answer)) as port:
        found = measure(port, "--connections", 2, "--messages", 2, "--timeout", 0.5)
    assert found["errors"] == {"timeout": 2}


def test_a_server_that_trickles(measure):
    def serve(one):
        for byte in one.recv(65536):
            one.sendall(bytes([byte]))
            dawdle(0.2 * Settings.patience, "it trickles")

    with peer(serve) as port:
        found = measure(port, "--connections", 2, "--messages", 2, "--timeout", 1)
    assert found["errors"] == {"timeout": 2}


@pytest.mark.packets("both")
def test_a_server_that_closes_halfway(measure):
    with peer(answering(lambda number, piece: piece if number < 5 else None)) as port:
        found = measure(port, "--connections", 10, "--messages", 10)
    assert found["errors"] == {"eof": 10}
    assert found["messages"] == {"sent": 50, "right": 40, "wrong": 0, "missing": 60, "late": 0}


def test_a_server_that_closes_within_a_reply(measure):
    def serve(one):
        one.sendall(one.recv(65536)[:5])
        one.shutdown(socket.SHUT_WR)
        one.recv(1)

    with peer(serve) as port:
        assert measure(port, "--connections", 3, "--messages", 10)["errors"] == {"eof": 3}


def test_a_server_that_resets(measure):
    def serve(one):
        one.recv(65536)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with peer(serve) as port:
        assert measure(port, "--connections", 3, "--messages", 10)["errors"] == {"reset": 3}


def test_a_server_that_does_not_close_when_all_is_done(measure):
    ended = threading.Event()

    def serve(one):
        answering(lambda _, piece: piece)(one)
        ended.wait(20 * Settings.patience)

    began = time.monotonic()
    with peer(serve) as port:
        found = measure(port, "--connections", 3, "--messages", 3)
        ended.set()
    assert found["errors"] == {}
    assert time.monotonic() - began < 10 * Settings.patience


@pytest.mark.packets("both")
def test_some_go_wrong_and_the_others_go_on(measure):
    lock = threading.Lock()
    served = []

    def serve(one):
        with lock:
            served.append(one)
            bad = len(served) % 2 == 0
        answering(lambda number, piece: None if bad and number == 2 else piece)(one)

    with peer(serve) as port:
        found = measure(port, "--connections", 10, "--messages", 10)
    assert found["errors"] == {"eof": 5}
    assert found["messages"] == {"sent": 60, "right": 55, "wrong": 0, "missing": 45, "late": 0}


def test_acknowledgements_cannot_be_counted_in_a_pipeline(server, scripts, stress):
    one = server(scripts / "default.lua", args=["ack"])
    result = stress(one.port, "--pipeline", 2)
    assert (result.returncode, result.stdout) == (2, "")
    assert "use --pipeline 1" in result.stderr


@pytest.mark.no_wine("no signals there")
def test_an_interrupt_shows_what_is_there(server, scripts):
    one = server(ECHO)
    backend = ["--backend", Settings.backend] if Settings.backend else []
    words = command("--callback-budget", "10", *backend, scripts / "stress.lua", "127.0.0.1", one.port, "--rate", 100,
                    "--progress", "--messages", 1000000)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        end = deadline(20)
        for line in client.stderr:
            if "messages/s" in line or time.monotonic() > end:
                break
        client.terminate()
        out, _ = client.communicate(timeout=20 * Settings.patience)
    assert client.returncode == 1
    assert re.search(r"^replies +\d+ right", out, re.MULTILINE)


# ---- Wrong usage ----

@pytest.mark.parametrize("words, named", [
    ([], "HOST and PORT expected"),
    (["h"], "HOST and PORT expected"),
    (["h", "7", "8"], "unexpected argument '8'"),
    (["h", "0"], "PORT: "),
    (["h", "x"], "PORT: "),
    (["h", "7", "--connections", "0"], "--connections: "),
    (["h", "7", "--connections", "many"], "--connections: .*got 'many'"),
    (["h", "7", "--connections", "1.5"], "--connections: "),
    (["h", "7", "--messages"], "--messages: "),
    (["h", "7", "--rate=0"], "--rate: "),
    (["h", "7", "--rate=nan"], "--rate: "),
    (["h", "7", "--timeout=-1"], "--timeout: "),
    (["h", "7", "--expect=nothing"], "--expect: echo or ack expected"),
    (["h", "7", "--json=1"], "--json takes no value"),
    (["h", "7", "--conections", "1"], "unknown option '--conections'"),
    (["h", "7", "-x"], "unknown option '-x'"),
    (["h", "7", "--expect", "ack", "--pipeline", "2"], "--pipeline: "),
    (["h", "7", "--size", "1000000", "--pipeline", "100"], "--pipeline: "),
])
def test_wrong_usage_is_named_and_ends_with_2(scripts, words, named):
    result = run(scripts / "stress.lua", *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.search(rf"^stress\.lua: .*{named}", result.stderr, re.MULTILINE), result.stderr


def test_help_of_the_script(scripts):
    result = run(scripts / "stress.lua", "--help")
    assert result.returncode == 0
    for name in ("connections", "messages", "message", "size", "pipeline", "rate", "duration", "timeout", "expect",
                 "json", "progress", "quiet"):
        assert f"--{name} " in result.stdout


# ---- What it needs of the API ----

def test_an_empty_list_is_no_listener(server, tmp_path):
    one = server("return { listen = {} }", listen=[])
    one.wait_log(r"listening on nothing")
    assert one.addresses == []
    assert not one.log("what clients send is dropped")
    one.stop(0)


def test_the_command_line_wins_over_no_listener(server):
    one = server("return { listen = {}, on_message = function(c, data) return data end }")
    with one.connect() as client:
        assert client.ask("x") == b"x"


def test_a_table_with_names_is_no_empty_list(tmp_path):
    path = tmp_path / "script.lua"
    path.write_text('return { listen = { address = "tcp://127.0.0.1:0" } }')
    result = run(path)
    assert result.returncode == 3
    assert "listen: " in result.stderr


@pytest.mark.parametrize("given, code", [("", 0), ("nil", 0), ("0", 0), ("1", 1), ("77", 77), ("255", 255)])
def test_a_script_says_what_the_process_exits_with(server, given, code):
    one = server(f"portico.after(0, function() portico.shutdown({given}) end) return {{ listen = {{}} }}", listen=[],
                 ready=False)
    one.check_end(code)


def test_a_script_may_stop_while_it_loads(server):
    server("portico.shutdown(9) return { listen = {} }", listen=[], ready=False).check_end(9)


@pytest.mark.parametrize("code", ["-1", "256", "1.5", "'x'", "true"])
def test_what_is_no_exit_code_is_refused(tmp_path, code):
    path = tmp_path / "script.lua"
    path.write_text(f"portico.shutdown({code})")
    result = run(path)
    assert result.returncode == 3
    assert "bad argument #1 to 'shutdown'" in result.stderr


def test_the_last_code_counts_and_only_after_a_clean_stop(server):
    one = server("""
      portico.after(0, function() portico.shutdown(4) portico.shutdown(6) end)
      return { listen = {} }""", listen=[], ready=False)
    one.check_end(6)


TERMINAL = "print('terminal: ' .. tostring(portico.terminal)) portico.shutdown() return { listen = {} }"


def test_standard_error_is_a_pipe(tmp_path):
    path = tmp_path / "script.lua"
    path.write_text(TERMINAL)
    assert "terminal: false" in run("--workers", "1", path).stderr


@pytest.mark.no_wine("no such terminals there")
def test_standard_error_is_a_terminal(tmp_path):
    path = tmp_path / "script.lua"
    path.write_text(TERMINAL)
    master, slave = os.openpty()
    try:
        with subprocess.Popen(command("--workers", "1", path), stdin=subprocess.DEVNULL, stderr=slave) as process:
            assert process.wait(20 * Settings.patience) == 0
        assert b"terminal: true" in os.read(master, 65536)
    finally:
        os.close(master)
        os.close(slave)
