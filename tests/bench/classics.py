"""classics.py - the classic servers beside Portico: one client at a time, a thread per connection, a pool of threads at
one completion port. Part of bench.py.

For each number of connections, and in each round, the servers take turns in an order that changes. A turn starts a fresh server,
opens the connections, waits until the server is at rest, and then counts messages (64 bytes, one in flight per connection),
processor time from first to last message, and what the server has of memory and threads afterwards, all connections still
open. Nothing is pinned: load and server share the machine, as they find it. What a server cannot do is said in its row.

Under Wine the wineserver does the work of the kernel's half of Windows; its processor time is counted as the server's.
"""
import collections
import math
import os
import random
import re
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from pace import dawdle, until
from priority import begin, go_first

HERE = os.path.dirname(os.path.abspath(__file__))
PATIENCE = 30
SIZES = [1, 64, 512, 4000]
COLOURS = ["#555555", "#c0392b", "#8e44ad", "#2471a3", "#17a589", "#d68910"]


class Refused(Exception):
    """The server could not do it; the text says why."""


class System:
    """Where the servers run: here."""
    suffix = ""
    prefix = []
    environment = None
    waits = 0.05
    seconds = 1  # of a turn: a few answers for each of the connections
    others = ()  # processes that work for the server
    first = False  # all of them, and the client, before everything else that runs here

    def begin(self):
        """In each new process."""
        begin(self.first)

    def prepare(self):
        pass

    def end(self):
        pass


class Wine(System):
    suffix = ".exe"
    prefix = [os.path.join(HERE, "..", "wine"), "run"]
    waits = 0.15
    seconds = 3

    def __init__(self, folder):
        self.folder = os.path.abspath(folder)
        self.environment = dict(os.environ, WINEPREFIX=self.folder, WINEDEBUG="-all", LANG="C.UTF-8")

    def step(self, name):
        subprocess.run([os.path.join(HERE, "..", "wine"), name], env=self.environment, check=True, timeout=300)

    def prepare(self):
        self.step("start")
        mark = f"WINEPREFIX={self.folder}".encode()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/comm") as comm, open(f"/proc/{pid}/environ", "rb") as environment:
                    if comm.read().startswith("wineserver") and mark in environment.read().split(b"\0"):
                        self.others = (int(pid),)
            except OSError:
                pass
        if not self.others:
            sys.exit("the wineserver was not found: its processor time could not be counted")
        if self.first:
            go_first(self.others[0])

    def end(self):
        self.step("stop")


class Server:
    def __init__(self, system, command):
        self.system = system
        self.folder = tempfile.TemporaryDirectory()
        path = os.path.join(self.folder.name, "address")
        self.complaints = os.path.join(self.folder.name, "stderr")
        if os.path.basename(command[0]).startswith("portico"):
            command = command[:1] + ["--address-file", path] + command[1:]
        with open(path, "w") as out, open(self.complaints, "w") as errors:
            self.process = subprocess.Popen(system.prefix + command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
                                            env=system.environment, preexec_fn=system.begin)

        def address():
            if self.process.poll() is not None:
                raise Refused("did not start")
            with open(path) as f:
                text = f.read()
            return text.endswith("\n") and text

        try:
            self.port = int(until(address, PATIENCE, "its address", Refused).split()[0].rpartition(":")[2])
        except Refused as refused:
            why = self.complaint()
            self.leave()
            raise Refused(why or str(refused)) from None

    def complaint(self):
        with open(self.complaints, errors="replace") as f:
            lines = f.read().split("\n")
        return next((line.strip() for line in lines if line.strip()), "")

    def cpu_seconds(self):
        """Of all threads there are and were. The number is Linux's name for another process's clock."""
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in (self.process.pid, *self.system.others))

    def status(self, field):
        with open(f"/proc/{self.process.pid}/status") as f:
            return int(re.search(rf"^{field}:\s*(\d+)", f.read(), re.M).group(1))

    def rest(self):
        """Accepted by the kernel is not yet accepted by the server: wait until it does nothing any more."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            before = self.cpu_seconds()
            dawdle(self.system.waits, "the processor time is taken over this")
            if self.cpu_seconds() - before < self.system.waits / 20:
                return
        raise Refused(f"never at rest in {PATIENCE} s")

    def leave(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()


def line_of(client, seconds):
    """The client's next line. It says on standard error why it has none."""
    if select.select([client.stdout], [], [], seconds)[0]:
        line = client.stdout.readline()
        if line:
            return line
        raise Refused((client.stderr.read().strip() or "the client ended").removeprefix("echo_client: ").split(": Success")[0])
    raise Refused(f"no answer in {seconds:.0f} s")


# messages/s, µs of processor a message, p99 µs, MiB, threads, p50 µs
Turn = collections.namedtuple("Turn", "rate cpu p99 memory threads p50")


def one_turn(system, command, client, connections, seconds):
    """A Turn."""
    server = Server(system, command)
    load = subprocess.Popen([client, str(server.port), str(connections), "64", str(seconds), "held"], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=system.begin)
    try:
        line_of(load, PATIENCE)
        server.rest()
        before = server.cpu_seconds()
        load.stdin.write("\n")
        load.stdin.flush()
        messages, wall, _, p50, p99 = map(float, line_of(load, seconds + PATIENCE).split())
        cpu = server.cpu_seconds() - before
        return Turn(messages / wall, cpu / messages * 1e6, p99, server.status("RssAnon") / 1024, server.status("Threads"), p50)
    except (Refused, OSError) as failure:
        raise Refused(server.complaint() or str(failure)) from None
    finally:
        load.kill()
        load.communicate()
        server.leave()


def second_waits(system, command):
    """True if a second client gets no answer while the first is there. For a server that cannot have two."""
    try:
        server = Server(system, command)
    except Refused:
        return False  # its turns will say so
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as first:
            first.settimeout(PATIENCE)
            first.sendall(b"1")
            first.recv(1)
            with socket.create_connection(("127.0.0.1", server.port)) as second:
                second.settimeout(1)
                second.sendall(b"2")
                try:
                    second.recv(1)
                    return False
                except TimeoutError:
                    return True
    finally:
        server.leave()


def servers(system, build):
    def program(name):
        return os.path.join(build, name + system.suffix)
    known = {"one-to-one": [program("tests/bench_one_to_one")],
             "thread per connection": [program("tests/bench_thread_per_connection")]}
    if system.suffix:
        known["IOCP pool, 2 threads a processor"] = [program("tests/bench_iocp_pool")]
    for workers in ("1", "auto", "2x"):
        known[f"portico, --workers {workers}"] = [program("portico"), "--workers", workers, "--log-level", "warn", "--first-byte-timeout", "0",
                                                  "--accept-rate", "0", "--listen", "tcp://127.0.0.1:0"]
    return known


def measure(system, build, client, sizes, rounds, seconds):
    """{(server, connections): [one_turn()…] or a text that says why not}"""
    commands = servers(system, build)
    got = {}
    alone = {name for name, command in commands.items() if second_waits(system, command)}
    for connections in sizes:
        for _ in range(rounds):
            order = list(commands)
            random.shuffle(order)
            for name in order:
                key = (name, connections)
                if name in alone and connections > 1:
                    got[key] = f"one at a time: the other {connections - 1} wait"
                if isinstance(got.get(key), str):
                    continue
                try:
                    got.setdefault(key, []).append(one_turn(system, commands[name], client, connections, seconds))
                except Refused as why:
                    done = len(got.get(key, []))
                    got[key] = f"cannot: {why}" + (f" (in round {done + 1})" if done else "")
    return list(commands), {key: value if isinstance(value, str) else [statistics.median(column) for column in zip(*value)]
                            for key, value in got.items()}


def rows(names, got, sizes):
    for connections in sizes:
        for name in names:
            value = got[name, connections]
            if isinstance(value, str):
                yield [connections, name, value, "", "", "", ""]
            else:
                rate, cpu, p99, memory, threads, _ = value
                yield [connections, name, f"{rate:.0f}", f"{cpu:.1f}", f"{p99:.0f}", f"{memory:.1f}", f"{threads:.0f}"]


# ---- The plot ----

def escape(text):
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def short(value):
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def panel(x, y, width, height, title, names, got, sizes, column):
    """One measure over the number of connections, in powers of ten upwards."""
    values = [v[column] for v in got.values() if not isinstance(v, str) and v[column] > 0]
    low, high = 1e-3, 1.0
    if values:
        low = high = 10 ** next(e for e in range(12, -12, -1) if 10 ** e <= min(values))
        while high < max(values) or high == low:
            high *= 10
    steps = 0
    while low * 10 ** (steps + 1) <= high * 1.001:
        steps += 1

    def across(size):
        return x + width * (sizes.index(size) + 0.5) / len(sizes)

    def up(value):
        return y + height - height * math.log10(value / low) / steps
    parts = [f'<text x="{x}" y="{y - 10}" class="title">{escape(title)}</text>']
    for step in range(steps + 1):
        level = up(low * 10 ** step)
        parts.append(f'<path d="M{x} {level:.1f}h{width}" class="grid"/>'
                     f'<text x="{x - 6}" y="{level + 4:.1f}" class="end">{short(round(low * 10 ** step, 6))}</text>')
    for size in sizes:
        parts.append(f'<text x="{across(size):.1f}" y="{y + height + 16}" class="middle">{size}</text>')
    for index, name in enumerate(names):
        points = [(across(s), up(got[name, s][column])) for s in sizes
                  if not isinstance(got[name, s], str) and got[name, s][column] > 0]
        if points:
            line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[index]}" stroke-width="2"/>')
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{COLOURS[index]}"/>' for a, b in points]
    return parts


def plot(path, heading, names, got, sizes):
    width, height = 380, 210
    refused = [f"{name}, {size} connections: {got[name, size]}" for name in names for size in sizes
               if isinstance(got[name, size], str)]
    bottom = 2 * (height + 70) + 60
    parts = [f'<text x="20" y="26" class="title">{escape(heading)}</text>']
    for index, (title, column) in enumerate((("messages/s", 0), ("µs of processor per message", 1), ("memory, MiB", 3),
                                             ("threads", 4))):
        parts += panel(70 + index % 2 * (width + 90), 70 + index // 2 * (height + 70), width, height, title, names, got, sizes,
                       column)
    for index, name in enumerate(names):
        top = bottom + index * 20
        parts.append(f'<circle cx="76" cy="{top - 4}" r="4" fill="{COLOURS[index]}"/>'
                     f'<text x="90" y="{top}">{escape(name)}</text>')
    for index, text in enumerate(refused):
        parts.append(f'<text x="420" y="{bottom + index * 20}">{escape(text)}</text>')
    total = bottom + max(len(names), len(refused)) * 20
    with open(path, "w") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="960" height="{total}" viewBox="0 0 960 {total}">\n'
                "<style>text{font:12px sans-serif;fill:#222}.title{font-weight:bold;font-size:14px}.end{text-anchor:end}"
                ".middle{text-anchor:middle}.grid{stroke:#ddd}</style>\n"
                f'<rect width="960" height="{total}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n")


def bench_classics(build, windows, sizes, rounds, seconds, print_table):
    client = os.path.join(build, "tests", "bench_echo_client")
    above = os.path.dirname(os.path.abspath(build))
    places = [("classics", "Linux, natively", System(), build)]
    if windows is not None:
        if not os.path.exists(os.path.join(windows, "portico.exe")):
            sys.exit(f"there is no portico.exe in {windows}: ./dev build windows makes it")
        places.append(("classics-wine", "the Windows builds under Wine", Wine(os.path.join(above, "wineprefix-bench")), windows))
    for file, where, system, folder in places:
        begun = time.monotonic()
        length = seconds or system.seconds
        system.prepare()
        try:
            names, got = measure(system, folder, client, sizes, rounds, length)
        finally:
            system.end()
        heading = f"The classic servers and Portico: {where}; medians of {rounds} rounds of {length:g} s"
        print(f"{heading}; {time.monotonic() - begun:.0f} s in all")
        print_table(["connections", "server", "messages/s", "µs cpu/message", "p99 µs", "MiB", "threads"],
                    list(rows(names, got, sizes)))
        path = os.path.join(above, file + ".svg")
        plot(path, heading, names, got, sizes)
        print(f"plot: {os.path.relpath(path)}\n")
    print("MiB is the server's own anonymous memory. Not in it: what the kernel keeps for sockets, rings and threads, and the "
          "wineserver's.")
