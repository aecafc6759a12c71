"""Attacks, and who watches the server meanwhile: its memory, descriptors and processor time, and a connection that must be answered.

With PORTICO_HOSTILE_TABLE=FILE every attack adds a row to that file, for docs/testing.md.
"""

import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import time

from rig import Settings, dawdle, until

ATTACKERS = pathlib.Path(__file__).with_name("attackers.py")
LATENCY_MEDIAN = 0.1  # seconds, of the canary, less what others took of the processors
LATENCY_MAX = 2
ACCEPTS = 32  # sockets that a listener may have accepted before it is asked whether they may stay


class Attack:
    """A process of attackers. By the time this returns they are in place."""

    def __init__(self, kind, one, count, source=None):
        self.kind, self.count = kind, count
        host, port = one.addresses[0]
        words = [sys.executable, "-B", ATTACKERS, kind, host, str(port), str(count)]
        self.process = subprocess.Popen(words + ([source] if source else []), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, encoding="ascii")
        self.wait = lambda: self.process.stdout.readline().strip()
        line = self.wait()
        assert line == "ready", f"the attackers said {line!r}"

    def end(self):
        """How many there were."""
        self.process.stdin.close()
        said = self.wait()
        self.process.wait(30 * Settings.patience)
        return int(said)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@contextlib.contextmanager
def attack(kind, one, count, source=None):
    attackers = Attack(kind, one, count, source)
    try:
        yield attackers
        attackers.end()
    finally:
        attackers.kill()


def descriptors(one):
    return len(os.listdir(f"/proc/{one.process.pid}/fd"))


class Watch:
    """What the server is before, and while the canary asks it, again and again. memory in bytes above that of before."""

    def __init__(self, one, ask):
        self.one, self.ask = one, ask
        self.can_look = not Settings.wine  # its processes are not the program's alone
        ask()
        self.memory_before = one.memory() if self.can_look else 0
        self.memory = self.descriptors = 0
        self.latencies = []
        self.own = []  # of these what the server has to answer for
        self.processor = 0.0  # share of one processor

    def ask_once(self):
        latency, own = self.one.time(self.ask)
        self.latencies.append(latency)
        self.own.append(own)

    def look(self):
        if not self.can_look:
            return
        self.memory = max(self.memory, self.one.memory() - self.memory_before)
        self.descriptors = max(self.descriptors, descriptors(self.one))

    def watch(self, seconds):
        began, used = time.monotonic(), self.one.processor_seconds() if self.can_look else 0
        next_look = began
        while time.monotonic() < began + seconds:
            self.ask_once()
            now = time.monotonic()
            if now >= next_look:
                self.look()
                next_look = now + 0.05
            dawdle(0.005, "the processor is for the others")
        self.look()
        if self.can_look:
            self.processor = (self.one.processor_seconds() - used) / (time.monotonic() - began)
        return self

    def check(self, memory=None, descriptors=None, processor=None, row=None):
        """memory in MiB; None: anything. The canary has been answered in any case."""
        latencies = sorted(self.latencies)
        median, longest = statistics.median(latencies), latencies[-1]
        if row:
            self.write_row(row, median, latencies[len(latencies) * 99 // 100], longest)
        own, own_longest = statistics.median(self.own), max(self.own)
        # Under Wine one wineserver is the kernel of the server, of its attackers' ends and of the canary's: in a storm all wait for it.
        assert Settings.wine or own < LATENCY_MEDIAN * Settings.patience, f"the canary waits for {median:.3f} s, {own:.3f} s of the server"
        assert own_longest < (5 if Settings.wine else LATENCY_MAX) * Settings.patience, \
            f"the canary waited for {longest:.3f} s, once {own_longest:.3f} s of the server"
        if not self.can_look or Settings.sanitizer:
            return
        if memory is not None:
            assert self.memory < memory << 20, f"{self.memory >> 20} MiB more than before"
        if descriptors is not None:
            assert self.descriptors <= descriptors
        if processor is not None:
            assert self.processor < processor, f"it takes {self.processor:.0%} of a processor"

    def write_row(self, what, median, high, longest):
        path = os.environ.get("PORTICO_HOSTILE_TABLE")
        if not path:
            return
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"| {what} | {Settings.backend} | {self.memory / (1 << 20):.1f} | {self.descriptors} | "
                       f"{self.processor:.0%} | {median * 1e3:.1f} | {high * 1e3:.1f} | {longest * 1e3:.0f} |\n")


def until_calm(one, count, seconds=20):
    """Waits until the server has no more descriptors than that."""
    if Settings.wine:
        return
    until(lambda: descriptors(one) <= count, seconds, f"the closing of all but {count} descriptors")
