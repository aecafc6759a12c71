#!/usr/bin/env python3
"""bench.py - what Portico costs, beside plain C, in one run on one machine.

  bench.py BUILD [echo] [idle] [classics] [--rounds N] [--seconds S] [--connections N,N] [--idle N]
                 [--wine [WINDOWS-BUILD]]

BUILD is a build folder with portico and the programs of tests/bench in it (./dev bench makes one).

echo   Processor time of the server per echoed 64-byte message, rate, latency. The servers take turns in short slices, in an
       order that changes every round, so that a machine whose speed drifts treats all alike; ratios are taken within a round
       and their medians printed. Server and client are pinned to different processors where there are two.
idle   User-space memory of the server per idle connection.
classics   Portico beside the classic designs: see classics.py. With --wine also the Windows builds, under Wine; their folder is
       build/windows if none is named, and must have been built. Only when asked for.

Only the ratios mean anything beyond this machine and this minute.
"""
import argparse
import os
import platform
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from classics import SIZES, bench_classics

HERE = os.path.dirname(os.path.abspath(__file__))
ECHO = os.path.join(HERE, "echo.lua")
REFERENCE = "plain C, epoll"
PATIENCE = 30


def servers(build, kinds):
    """Name -> command. Each listens on a port of the system's choice."""
    portico = os.path.join(build, "portico")
    bench = os.path.join(build, "tests")
    known = {REFERENCE: [os.path.join(bench, "bench_epoll_echo")]}
    for backend in ("io_uring", "epoll"):
        if not works(portico, backend):
            print(f"{backend} does not work here: left out")
            continue
        run = [portico, "--workers", "1", "--log-level", "warn", "--listen", "tcp://127.0.0.1:0", "--backend", backend]
        known[f"engine in C, {backend}"] = [os.path.join(bench, "bench_engine_echo"), backend]
        known[f"portico on_message, {backend}"] = run + [ECHO]
        known[f"portico default script, {backend}"] = run
    return {name: command for name, command in known.items() if kinds is None or name in kinds}


def works(portico, backend):
    result = subprocess.run([portico, "--version", "--verbose"], capture_output=True, text=True, timeout=PATIENCE)
    return any(line.split()[1:2] == [backend + ":"] and "works here" in line for line in result.stdout.splitlines())


class Server:
    """One running server, until leave()."""

    def __init__(self, command, cpu):
        self.folder = tempfile.TemporaryDirectory()
        path = os.path.join(self.folder.name, "address")
        if os.path.basename(command[0]) == "portico":
            command = command[:1] + ["--address-file", path] + command[1:]
            self.process = subprocess.Popen(command)
        else:
            with open(path, "w") as out:
                self.process = subprocess.Popen(command, stdout=out)
        if cpu is not None:
            os.sched_setaffinity(self.process.pid, {cpu})
        deadline = time.monotonic() + PATIENCE
        text = ""
        while not text.endswith("\n"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{command[0]}: did not start")
            if os.path.exists(path):
                with open(path) as f:
                    text = f.read()
        self.port = text.split()[0].rpartition(":")[2]
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            if cpu is not None:
                os.sched_setaffinity(int(task), {cpu})

    def cpu_seconds(self):
        total = 0
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            with open(f"/proc/{self.process.pid}/task/{task}/schedstat") as f:
                total += int(f.read().split()[0])
        return total / 1e9

    def memory_bytes(self):
        with open(f"/proc/{self.process.pid}/smaps_rollup") as f:
            for line in f:
                if line.startswith("Private_Dirty:"):
                    return int(line.split()[1]) * 1024
        raise ValueError("no Private_Dirty in smaps_rollup")

    def leave(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        self.folder.cleanup()


def table(head, rows):
    widths = [max(len(str(row[i])) for row in [head] + rows) for i in range(len(head))]
    for row in [head, ["-" * w for w in widths]] + rows:
        print("| " + " | ".join(str(cell).ljust(w) for cell, w in zip(row, widths)) + " |")
    print()


def one_slice(server, client, cpu, connections, seconds):
    """(µs of server per message, messages/s, p50 µs, p99 µs, share of a processor the client used)"""
    before = server.cpu_seconds()
    result = subprocess.run([client, server.port, str(connections), "64", str(seconds)], capture_output=True, text=True,
                            timeout=seconds + PATIENCE,
                            preexec_fn=None if cpu is None else lambda: os.sched_setaffinity(0, {cpu}))
    if result.returncode != 0:
        sys.exit(result.stderr)
    messages, wall, own, p50, p99 = map(float, result.stdout.split())
    return (server.cpu_seconds() - before) / messages * 1e6, messages / wall, p50, p99, own / wall


def bench_echo(build, arguments):
    client = os.path.join(build, "tests", "bench_echo_client")
    cpus = sorted(os.sched_getaffinity(0))
    server_cpu, client_cpu = (cpus[0], cpus[1]) if len(cpus) > 1 else (None, None)
    commands = servers(build, None)
    rounds, seconds = arguments.rounds or 5, arguments.seconds or 2
    for connections in arguments.connections or [1, 64, 512]:
        running = {name: Server(command, server_cpu) for name, command in commands.items()}
        slices = {name: [] for name in commands}
        for _ in range(rounds):
            order = list(commands)
            random.shuffle(order)
            for name in order:
                slices[name].append(one_slice(running[name], client, client_cpu, connections, seconds))
        for server in running.values():
            server.leave()
        rows = []
        for name, got in slices.items():
            ratio = statistics.median(s[0] / r[0] for s, r in zip(got, slices[REFERENCE]))
            rate = statistics.median(s[1] / r[1] for s, r in zip(got, slices[REFERENCE]))
            middle = [statistics.median(column) for column in zip(*got)]
            busy = " (client saturated)" if middle[4] > 0.95 else ""
            rows.append([name, f"{middle[0]:.2f}", f"{ratio:.2f}", f"{middle[1]:.0f}{busy}", f"{rate:.2f}",
                         f"{middle[2]:.0f}", f"{middle[3]:.0f}"])
        print(f"{connections} connections, one 64-byte message in flight each; medians of {rounds} rounds of "
              f"{seconds:g} s")
        table(["server", "µs cpu/message", "× plain C", "messages/s", "× plain C", "p50 µs", "p99 µs"], rows)


def bench_idle(build, arguments):
    client = os.path.join(build, "tests", "bench_echo_client")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(arguments.idle, hard - 100)
    if count < arguments.idle:
        print(f"the limit of open files allows {count} connections and not {arguments.idle}")
    rows = []
    for name, command in servers(build, None).items():
        server = Server(command, None)
        before = server.memory_bytes()
        holder = subprocess.Popen([client, server.port, str(count), "idle"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  text=True)
        if holder.stdout.readline() != "ready\n":
            sys.exit(f"{name}: {count} connections could not be opened")
        # Accepted by the kernel is not yet accepted by the server: memory has to stand still.
        last, since = -1, time.monotonic()
        while time.monotonic() - since < 0.5:
            now = server.memory_bytes()
            if now != last:
                last, since = now, time.monotonic()
        rows.append([name, count, f"{(last - before) / count:.0f}", f"{before / 1024:.0f}"])
        holder.stdin.close()
        holder.wait(PATIENCE)
        server.leave()
    print(f"user-space memory of the server with {count} idle connections")
    table(["server", "connections", "bytes/connection", "KiB before"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("parts", nargs="*", choices=["echo", "idle", "classics", []], help="default: echo and idle")
    parser.add_argument("--rounds", type=int, help="default: 5; classics 3")
    parser.add_argument("--seconds", type=float, help="of each turn; default: 2; classics 1, under Wine 3")
    parser.add_argument("--connections", type=lambda text: [int(n) for n in text.split(",")],
                        help="default: 1,64,512; classics also 4000")
    parser.add_argument("--idle", type=int, default=10000)
    parser.add_argument("--wine", nargs="?", const="", metavar="WINDOWS-BUILD", help="classics: the Windows builds too")
    arguments = parser.parse_args()
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} processors\n")
    if "idle" in arguments.parts or not arguments.parts:
        bench_idle(arguments.build, arguments)
    if "echo" in arguments.parts or not arguments.parts:
        bench_echo(arguments.build, arguments)
    if "classics" in arguments.parts:
        windows = arguments.wine
        if windows == "":
            windows = os.path.join(os.path.dirname(os.path.abspath(arguments.build)), "windows")
        bench_classics(arguments.build, windows, arguments.connections or SIZES, arguments.rounds or 3, arguments.seconds, table)


main()
