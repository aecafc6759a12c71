"""What hot reload promises, measured: ./dev bench reload.

  storm     1,000 connections echo positional data while the script is saved 1,000 times by six ways of saving
  memory    10,000 reloads: generations alive, memory, a named timer
  swap      the commit with 10 and with 20,000 open connections
  broken    30 broken scripts saved one after another while 100 clients talk
  undone    a version whose handler raises

Each returns what it measured and what was not as promised. Under Wine (--wine) the volumes are smaller, and the figures of pauses are
printed but not judged: each system call of the server goes through Wine's own server there.
"""
import multiprocessing
import os
import pathlib
import re
import resource
import selectors
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

import rig
from pace import dawdle, until
from reloads import TAKEN, UNDONE, REFUSED, say

ECHO = """return { on_message = function(conn, data)
  if data == 'version' then return '%s' end
  if data == 'reload' then portico.reload() return 'asked' end
  conn.state.n = (conn.state.n or 0) + #data
  return data end }
"""
MESSAGE = 64
PAUSES = (20e-3, 100e-3)  # p99 and maximum


class Failures(list):
    def check(self, holds, text):
        if not holds:
            self.append(text)


def pauses_are_judged():
    return not rig.Settings.wine


def start(script, *options, watch=("--watch",), env=None):
    directory = pathlib.Path(tempfile.mkdtemp(prefix="portico-reload-"))
    return rig.Server(directory / "server", script, options, watch=watch, env=env).wait_ready(60)


def finish(one, bad):
    one.signal()
    code = one.wait_end(60)
    bad.check(code == 0, f"the server ended with {code}")
    shutil.rmtree(one.directory.parent)


# ---- Clients that talk, in a process of their own ----

def connect_all(address, count):
    sockets = []
    for _ in range(count):
        one = socket.create_connection(address, 30)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.setblocking(False)
        sockets.append(one)
    return sockets


def talk(address, count, rate, until, result):
    """So many messages a second over all connections in turn, until told; puts (latencies, errors) into the queue."""
    sockets = connect_all(address, count)
    offsets, waiting, received = [0] * count, {}, [b""] * count
    latencies, errors = [], []
    poll = selectors.DefaultSelector()
    for index, one in enumerate(sockets):
        poll.register(one, selectors.EVENT_READ, index)
    turn, next_at = 0, time.perf_counter()
    result.put("ready")
    ends = None
    while ends is None or (waiting and time.perf_counter() < ends):
        now = time.perf_counter()
        if until.is_set() and ends is None:
            ends = now + 20
        while ends is None and now >= next_at:
            index, turn, next_at = turn, (turn + 1) % count, next_at + 1 / rate
            if index in waiting:
                continue  # its answer is late, which is measured
            try:
                sockets[index].send(rig.pattern(index, offsets[index], MESSAGE))
                waiting[index] = time.perf_counter()
            except OSError as error:
                errors.append(f"client {index}: {error}")
        for key, _ in poll.select(max(0, min(next_at - time.perf_counter(), 0.05))):
            index = key.data
            try:
                piece = sockets[index].recv(1 << 16)
            except OSError as error:
                piece = b""
                errors.append(f"client {index}: {error}")
            if not piece:
                errors.append(f"client {index}: the stream ended")
                poll.unregister(sockets[index])
                waiting.pop(index, None)
                continue
            received[index] += piece
            if len(received[index]) < MESSAGE:
                continue
            if received[index] != rig.pattern(index, offsets[index], MESSAGE):
                errors.append(f"client {index}: wrong bytes at {offsets[index]}")
            latencies.append(time.perf_counter() - waiting.pop(index))
            offsets[index] += MESSAGE
            received[index] = b""
    errors += [f"client {index}: no answer" for index in waiting]
    result.put((latencies, errors))


class Talkers:
    def __init__(self, address, count, rate):
        self.until, self.result = multiprocessing.Event(), multiprocessing.Queue()
        self.process = multiprocessing.Process(target=talk, args=(address, count, rate, self.until, self.result))
        self.process.start()
        assert self.result.get(timeout=120) == "ready"

    def stop(self):
        self.until.set()
        outcome = self.result.get(timeout=60)
        self.process.join()
        return outcome


def describe_pauses(latencies):
    latencies.sort()
    return (f"{len(latencies)} answers, median {statistics.median(latencies) * 1e3:.2f} ms, "
            f"p99 {latencies[int(len(latencies) * 0.99)] * 1e3:.2f} ms, max {latencies[-1] * 1e3:.1f} ms")


# ---- Six ways of saving ----

def truncate(path, text):
    path.write_text(text)


def rename_over(path, text):
    new = path.with_name("new~")
    new.write_text(text)
    os.replace(new, path)


def rename_away(path, text):
    os.replace(path, path.with_name("old~"))
    path.write_text(text)


def delete_first(path, text):
    path.unlink()
    path.write_text(text)


def link_over(path, text):
    new = path.with_name("new~")
    new.write_text(text)
    path.unlink()
    os.link(new, path)
    new.unlink()


def swap_symlink(path, text):
    target = path.with_name(f"target{time.monotonic_ns()}.txt")
    target.write_text(text)
    new = path.with_name("link~")
    new.symlink_to(target.name)
    old = path.parent / os.readlink(path) if path.is_symlink() else None
    os.replace(new, path)
    if old is not None:
        old.unlink()


WAYS = (truncate, rename_over, rename_away, delete_first, link_over, swap_symlink)


# ---- The parts ----

def until_answer(client, word, wanted, seconds):
    try:
        return until(lambda: say(client, word) == wanted, seconds, wanted)
    except AssertionError:
        return False


def storm(bad, connections=1000, saves=1000, burst=10):
    one = start(ECHO % 0, "--log-level", "info")
    path = one.directory / "script.lua"
    talkers = Talkers(one.addresses[0], connections, 1000)
    with one.connect() as control:
        for number in range(1, saves + 1):
            text = ECHO % number
            way = WAYS[number % len(WAYS)]
            if way is truncate and path.is_symlink():
                way = rename_over
            way(path, text)
            if number % burst == 0:
                bad.check(until_answer(control, "version", str(number), 10), f"version {number} does not come into force")
    latencies, errors = talkers.stop()
    reloads = len(one.log(TAKEN))
    pauses = describe_pauses(latencies)
    bad.check(not errors, f"{len(errors)} errors, first: {errors[:1]}")
    if pauses_are_judged():
        bad.check(latencies[int(len(latencies) * 0.99)] <= PAUSES[0], f"p99 of the pauses above {PAUSES[0] * 1e3:g} ms")
        bad.check(latencies[-1] <= PAUSES[1], f"a pause above {PAUSES[1] * 1e3:g} ms")
    bad.check(not one.log(UNDONE), "a version was undone")
    refused = len(one.log(REFUSED))
    finish(one, bad)
    return [("saves, reloads, refused (half-written)", f"{saves}, {reloads}, {refused}"), ("connections, errors", f"{connections}, {len(errors)}"),
            ("pauses", pauses)]


def alive(one, environment):
    """The generations that a command shows."""
    table = subprocess.run(rig.command("ctl", "generations"), env=environment, capture_output=True, text=True)
    return len(table.stdout.strip().splitlines()) - 1


def memory(bad, reloads=10000):
    ticks = """portico.every(0.1, function()
      for conn in portico.conns() do if conn.state.listens then conn:send('t') end end end, { name = 'tick' }) """
    script = ticks + (ECHO % 0).replace("if data == 'version'", "if data == 'listen' then conn.state.listens = true return 'listens' end "
                                        "if data == 'generation' then return tostring(conn.generation) end if data == 'version'")
    runtime = tempfile.mkdtemp(prefix="portico-run-")
    environment = {**os.environ, "PORTICO_RUNTIME_DIR": runtime}
    one = start(script, "--workers", "1", "--log-level", "warn", watch=("--no-watch",), env=environment)
    most, number, began = 0, 1, time.monotonic()
    before = None
    with one.connect() as control, one.connect() as other:
        assert say(other, "listen") == "listens"
        for index in range(reloads):
            say(control, "reload")
            number += 1
            if not until_answer(control, "generation", str(number), 10):
                bad.append(f"reload {number} does not come")
                break
            if index == reloads // 20:
                before = one.memory()
            if index % 500 == 0:
                most = max(most, alive(one, environment))
        seconds = time.monotonic() - began
        other.socket.settimeout(0)
        count = len(other.socket.recv(1 << 20))
        after = one.memory()
    growth = (after - before) / before * 100
    bad.check(most <= 2, f"{most} generations were alive")
    bad.check(growth <= 2, f"memory grew by {growth:.1f} %")
    bad.check(count <= seconds / 0.1 + 1, f"the timer fired {count} times in {seconds:.1f} s")
    finish(one, bad)
    shutil.rmtree(runtime)
    return [("reloads, a second", f"{reloads}, {reloads / seconds:.0f}"), ("generations alive, at most", str(most)),
            ("memory", f"{before >> 10} KiB after {reloads // 20}, {after >> 10} KiB at the end: {growth:+.1f} %"),
            ("a timer of 0.1 s", f"{count} times in {seconds:.1f} s")]


DESCRIPTORS_SPARE = 100


def raise_descriptor_limit(wanted):
    """Returns what it is then, here and in programs started from here."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, hard), max(wanted, hard)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def swap(bad, sizes=(10, 20000), rounds=15):
    rows, medians = [], []
    swapped = re.compile(r"swapped in ([\d.]+) ms, (\d+) connections? to move")
    for size in sizes:
        # The server and the clients, each a process, have a descriptor per connection, and some for themselves.
        size = min(size, raise_descriptor_limit(size + DESCRIPTORS_SPARE) - DESCRIPTORS_SPARE)
        one = start(ECHO % 0, "--workers", "1", watch=("--no-watch",))
        sockets = connect_all(one.addresses[0], size)
        for each in sockets:
            each.setblocking(True)
            each.sendall(b"x")
            each.recv(1)
        times = []
        with one.connect() as control:
            for _ in range(rounds):
                count = len(one.log(TAKEN))
                say(control, "reload")
                match = swapped.search(one.wait_log(TAKEN, count + 1, 60)[-1])
                times.append(float(match[1]))
                dawdle(0.3, "they move, which is not what is measured")
        medians.append(statistics.median(times))
        rows.append((f"commit with {size} connections", f"median {medians[-1] * 1e3:.0f} us, max {max(times) * 1e3:.0f} us"))
        for each in sockets:
            each.close()
        finish(one, bad)
    bad.check(medians[1] <= medians[0] * 2 + 0.01, "the commit takes longer with more connections")
    return rows


BROKEN = ["return {", "local x = nil\nx.y = 1", "return { on_mesage = print }", "os.exit(1)", "error('no')", "require 'nothing'",
          "return { on_message = 5 }", "return 7", "", "while true do end", "local t = {} while true do t[#t + 1] = ('x'):rep(1e6) .. #t end",
          "return { on_load = function() error('x') end }", "return { on_check = function() error('x') end }",
          "return { version = 1 }", "\x1bLua"]


def broken(bad, clients=100):
    one = start(ECHO % 0, "--load-budget", "0.5")
    talkers = Talkers(one.addresses[0], clients, 1000)
    for number, text in enumerate(BROKEN * 2):
        count = len(one.log(REFUSED))
        rename_over(one.directory / "script.lua", text + (f" -- {number}" if text and text[0] != "\x1b" else " " * number))
        one.wait_log(REFUSED, count + 1, 30)
    latencies, errors = talkers.stop()
    bad.check(not errors, f"{len(errors)} errors, first: {errors[:1]}")
    bad.check(not one.log(TAKEN), "one came into force")
    finish(one, bad)
    return [("broken versions", str(len(BROKEN) * 2)), ("clients, errors", f"{clients}, {len(errors)}"), ("pauses", describe_pauses(latencies))]


def undone(bad, clients=50):
    good = """return { version = 1, on_message = function(conn, data)
      if data == 'reload' then portico.reload() return 'asked' end
      conn.state.n = (conn.state.n or 0) + 1 return 'n' .. conn.state.n end }"""
    raises = "return { version = 1, on_error = function() return 'keep' end, on_message = function(conn) conn.state.n = 0 error('bad') end }"
    one = start(good)
    peers = [one.connect() for _ in range(clients)]
    for peer in peers:
        say(peer, "x")
    rename_over(one.directory / "script.lua", raises)
    one.wait_log(TAKEN)
    began = time.perf_counter()
    for peer in peers:
        peer.send("x")
        dawdle(0.002, "500 messages a second")
    one.wait_log(UNDONE)
    seconds = time.perf_counter() - began
    errors = len(one.log(r"error .*bad"))
    bad.check(seconds <= 1, f"undone after {seconds:.2f} s")
    bad.check(errors <= 20, f"{errors} errors")
    wrong = 0
    for peer in peers:
        peer.socket.settimeout(0.2)
        try:  # those that were answered already by the version that is back
            peer.socket.recv(100)
        except TimeoutError:
            pass
        peer.socket.settimeout(10)
        wrong += say(peer, "x") not in ("n2", "n3")
        peer.close()
    bad.check(wrong == 0, f"{wrong} states are not what they were")
    finish(one, bad)
    return [("undone after the first message", f"{seconds * 1e3:.0f} ms, {errors} errors"), ("states lost", str(wrong))]


PARTS = {"storm": storm, "memory": memory, "swap": swap, "broken": broken, "undone": undone}


QUICK = {"storm": {"connections": 100, "saves": 60}, "memory": {"reloads": 1000}, "swap": {"sizes": (10, 2000)}}
WINE = {"swap": {"sizes": (10, 1000)}, "broken": {"clients": 20}, "undone": {"clients": 20}}


def bench_reload(portico, names, o, print_table):
    """Returns True when everything was as promised. o: quick, wine, backend."""
    rig.Settings.portico = os.path.abspath(portico)
    rig.Settings.backend = o.backend
    rig.Settings.wine = o.wine is not None
    if rig.Settings.wine:
        rig.Settings.patience = 5
        os.environ.setdefault("WINEDEBUG", "-all")
    smaller = {**(QUICK if o.quick else {}), **(WINE if rig.Settings.wine else {})}
    failures = []
    for name in names or PARTS:
        bad = Failures()
        rows = PARTS[name](bad, **smaller.get(name, {}))
        print_table([name, ""], [list(row) for row in rows])
        failures += [f"{name}: {text}" for text in bad]
    for text in failures:
        print(f"NOT as promised: {text}")
    return not failures
