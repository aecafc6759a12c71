"""perf.py - where a server's processor time goes: TCP, the rest of the kernel, the program. ./dev bench profile. Part of bench.py.

The servers take turns as in matrix.py. In each round a server has a slice that is only counted, for its µs per message, and in each third
one another in which perf samples it by the processor's clock. A sample is what its stack says: TCP's sending with all below it (over loopback that is the whole
way into the other socket, and waking who waits there), its receiving, whatever else the kernel does, or user space. What a sample says of
the innermost function is skewed where interrupts are off; whose call it is under is not. Accepting and closing is left out, as each sampled slice
opens its connections: with 4,000 of them that is seen.

A rate has two bounds, what the server's processor can do and what the client's can. So it is also told what a peer's rate leaves to a server beside
which the client is used to the full.
"""
import collections
import contextlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile

from matrix import FULL, SCENARIOS, WARM_UP, Row, awake_for, cpu_us, places, rate
from servers import Client, NotHere, prepared, read
from targets import SIGNS, TARGETS, WORDS

PROFILED = ("raw_uring", "raw_epoll", "libuv try_write", "asio", "portico io_uring", "portico epoll", "haproxy lua", "luv", "tarantool")
LOADS = ("64", "512", "4000", "64" + FULL, "512" + FULL, "4000" + FULL, "16k")
SAMPLED = 0.4 # seconds of a slice under perf
SAMPLED_EVERY = 3 # rounds
RECORD = ["perf", "record", "-q", "-B", "-e", "cpu-clock", "-F", "4000", "-g"]
KINDS = ("tcp send", "tcp receive", "rest of kernel", "user space")
TCP = {"tcp_sendmsg": "tcp send", "tcp_recvmsg": "tcp receive"}
OPENING = {"do_accept", "__fput"}
SHOWN = 8 # functions of Portico's user space
KERNEL = 1 << 63 # addresses from here on are the kernel's, on all processors of 64 bits that Linux runs on


def kind_of(stack):
    """stack: (address, symbol) of one sample, the innermost first. None: it is about opening or closing."""
    if stack[0][0] < KERNEL:
        return "user space"
    symbols = [symbol for _, symbol in stack]
    if not OPENING.isdisjoint(symbols):
        return None
    return next((TCP[symbol] for symbol in symbols if symbol in TCP), "rest of kernel")


def count_samples(text):
    """{kind: samples} and {function of user space: samples} of what perf script -F ip,sym has printed: a line for each frame, an empty one
    behind each stack."""
    kinds, functions, stack = collections.Counter(), collections.Counter(), []
    for line in text.splitlines() + [""]:
        words = line.split()
        if words:
            stack.append((int(words[0], 16), words[1] if len(words) > 1 else ""))
        elif stack:
            kind = kind_of(stack)
            if kind:
                kinds[kind] += 1
            if kind == "user space":
                functions[stack[0][1]] += 1
            stack = []
    return kinds, functions


def why_not():
    """Why there can be no profile here, or None."""
    if not shutil.which("perf"):
        return "there is no perf: it is in Debian's package linux-perf"
    addresses = [line.split()[0] for line in read("/proc/kallsyms").splitlines()[:100]]
    if not any(int(address, 16) for address in addresses):
        return "the kernel hides its symbols from this user: see the sysctls kernel.kptr_restrict and kernel.perf_event_paranoid"
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run([*RECORD, "-o", os.path.join(folder, "data"), "--", "true"], capture_output=True, text=True)
    if tried.returncode:
        said = [line for line in tried.stderr.splitlines() if line.strip()]
        return f"perf may not (kernel.perf_event_paranoid is {read('/proc/sys/kernel/perf_event_paranoid').strip()}): {(said or ['no word'])[0]}"
    return None


class Profile(Row):
    """A row with samples."""

    def __init__(self, name, group):
        super().__init__(name, group)
        self.samples, self.functions = collections.Counter(), collections.Counter()

    def share(self, *kinds):
        return sum(self.samples[kind] for kind in kinds) / sum(self.samples.values())

    def us(self, *kinds):
        return self.median(cpu_us) * self.share(*kinds)

    def own(self):
        """The functions that take most of its user space, with their shares of all."""
        total = sum(self.samples.values())
        return [f"{name} {count / total:.1%}" for name, count in self.functions.most_common(SHOWN)]


def sample(client, server, arguments, cores):
    """A slice under perf: what count_samples() says of it. Raises NotHere."""
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "data")
        pids = ",".join(map(str, server.pids()))
        counted = client.run(server, arguments, SAMPLED, WARM_UP, *cores, under=[*RECORD, "-o", data, "-p", pids, "--"])
        if "failed" in counted:
            raise NotHere(counted["failed"])
        shown = subprocess.run(["perf", "script", "--no-inline", "-F", "ip,sym", "-i", data], capture_output=True, text=True)
    if shown.returncode:
        raise NotHere("perf script: " + (shown.stderr.strip() or "no word")[-200:])
    return count_samples(shown.stdout)


def run_load(name, servers, client, options):
    """A Profile of each server under one load of matrix.py; of those that failed, too."""
    title, arguments, _ = SCENARIOS[name]
    print(f"== {title}", file=sys.stderr)
    server_cores, client_cores = places(1)
    rows = {server: Profile(server.name, server.spec["group"]) for server in servers}
    with contextlib.ExitStack() as stack:
        for server, row in rows.items():
            try:
                server.start(server_cores, 1)
                stack.callback(server.stop)
            except NotHere as error:
                row.failed = str(error)
        stack.enter_context(awake_for(name))
        for turn in range(options.rounds):
            order = [server for server in servers if rows[server].failed is None]
            random.shuffle(order)
            for server in order:
                row, cores = rows[server], (server_cores[0], client_cores)
                try:
                    counted = client.run(server, arguments, options.seconds, WARM_UP, *cores)
                    if "failed" in counted:
                        raise NotHere(counted["failed"])
                    row.slices[turn] = counted
                    if turn % SAMPLED_EVERY == 0:
                        kinds, functions = sample(client, server, arguments, cores)
                        row.samples += kinds
                        row.functions += functions
                except NotHere as error:
                    row.failed = str(error)
    return list(rows.values())


# ---- What it says ----

def client_us(s):
    return s["client_us_per_msg"]


def bound_by(row, kinds, other, what):
    """What a server would have of the other's processor time, or of its rate, that spends what this one does in these kinds and nothing else."""
    share = row.share(*kinds)
    if what == "cpu_ratio":
        return statistics.median(cpu_us(s) * share / cpu_us(t) for s, t in row.pairs(other))
    return statistics.median(1e6 / (cpu_us(s) * share) / rate(t) for s, t in row.pairs(other))


def bound_by_client(row, other):
    """What a server would have of the other's rate if the client had no more to do than with this one, and did nothing else."""
    return statistics.median(1e6 / client_us(s) / rate(t) for s, t in row.pairs(other))


def bounds(name, rows):
    """A line for each target of this load on processor time or rate, against the best of those that are here."""
    lines = []
    for where, _, what, sign, wanted, against in TARGETS:
        others = [row for row in rows if row.name in against]
        if where != name or what == "p50_ratio" or not others:
            continue
        other = min(others, key=lambda row: row.median(cpu_us)) if what == "cpu_ratio" else max(others, key=lambda row: row.median(rate))
        line = [f"{WORDS[what]} / {other.name}", f"{SIGNS[sign]} {wanted:g}"]
        for kinds in (KINDS[:2], KINDS[:3]):
            cheapest = min(rows, key=lambda row: row.us(*kinds))
            line.append(f"{bound_by(cheapest, kinds, other, what):.2f} ({cheapest.us(*kinds):.2f} µs, {cheapest.name})")
        easiest = min(rows, key=lambda row: row.median(client_us))
        line.append("–" if what == "cpu_ratio" else f"{bound_by_client(easiest, other):.2f} ({easiest.median(client_us):.2f} µs, {easiest.name})")
        lines.append(line)
    return lines


def print_load(name, rows, print_table):
    print(f"### {SCENARIOS[name][0]}\n")
    good = [row for row in rows if row.failed is None and row.slices and row.samples]
    for row in rows:
        if row not in good:
            print(f"- {row.name} failed: {row.failed or 'no sample was taken'}")
    if not good:
        return
    print_table(["server", "µs cpu/message", *KINDS, "samples"],
                [[row.name, f"{row.median(cpu_us):.2f}", *(f"{row.us(kind):.2f} ({row.share(kind):.0%})" for kind in KINDS), sum(row.samples.values())]
                 for row in sorted(good, key=lambda row: row.median(cpu_us))])
    lines = bounds(name, good)
    if lines:
        print_table(["target", "wanted", "if nothing but TCP took time", "if nothing but the kernel did", "if the client was used to the full"], lines)
    for row in good:
        if row.group == "portico" and row.functions:
            print(f"{row.name}, user space: {', '.join(row.own())}\n")


def bench_profile(portico, build, options, print_table):
    """Returns whether there is a profile of all that was asked for; ends the program where there can be none."""
    reason = why_not()
    if reason:
        sys.exit(f"bench: profile: {reason}")
    os.makedirs(build, exist_ok=True)
    client = Client(build, first=options.first)
    servers, _ = prepared(portico, build, options.servers or PROFILED, options.first)
    loads = {name: run_load(name, servers, client, options) for name in options.scenarios or LOADS}
    print(f"medians of {options.rounds} rounds of {options.seconds:g} s; perf: {SAMPLED:g} s in one of {SAMPLED_EVERY}\n")
    for name, rows in loads.items():
        print_load(name, rows, print_table)
    return all(row.failed is None for rows in loads.values() for row in rows)
