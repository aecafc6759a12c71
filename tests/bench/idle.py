"""idle.py - many idle connections: memory for each, and how fast a random 1 % of them is answered.

The load client opens the connections from several addresses of 127.0.0.x, since one address has no more than some 60,000 ports,
and then, on command, sends a message on random ones. Limits that stand in the way are raised where the system lets us, which is said.
Where a process may not have so many open files, several servers hold a part each, which is said, too.
"""
import json
import os
import resource
import select
import subprocess
import sys
import time

from pace import until
from priority import begin
from servers import PATIENCE, Client, NotHere, Server, catalogue, raise_descriptors, read

SYSTEM_LIMITS = {"fs/nr_open": 2200000, "fs/file-max": 4400000, "net/core/somaxconn": 65535, "net/ipv4/tcp_max_syn_backlog": 65535,
                 "net/ipv4/tcp_mem": None}
SPARE = 600 # descriptors beside the connections: Portico keeps 64, and the client opens the 1 % a second time
LEAVE = 3 << 30 # bytes of memory that are left to others


def raise_system_limits(out):
    """Returns what they were, for put_back()."""
    before = {}
    for name, wanted in SYSTEM_LIMITS.items():
        text = read("/proc/sys/" + name).strip()
        if wanted is None or not text or int(text) >= wanted:
            continue
        try:
            with open("/proc/sys/" + name, "w") as f:
                f.write(str(wanted))
            before[name] = text
            print(f"{name.replace('/', '.')} raised from {text} to {wanted} for this run", file=out)
        except OSError as error:
            print(f"{name.replace('/', '.')} stays at {text}: {error.strerror}", file=out)
    return before


def put_back(before):
    for name, text in before.items():
        with open("/proc/sys/" + name, "w") as f:
            f.write(text)


def memory_of(servers):
    return sum(server.memory_bytes() for server in servers)


def settled(servers):
    """Their memory once it stands still for half a second."""
    last, since = -1, 0.0

    def stands_still():
        nonlocal last, since
        now = memory_of(servers)
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since >= 0.5

    until(stands_still, PATIENCE, "memory at rest")
    return last


def meminfo(*names):
    """Bytes."""
    fields = dict(line.split(":") for line in read("/proc/meminfo").splitlines())
    return sum(int(fields[name].split()[0]) * 1024 for name in names)


def kernel_bytes():
    return meminfo("SUnreclaim", "SReclaimable", "Percpu")


def plan(count, out):
    """How many connections each server process is to hold. One holds all where a process may have so many descriptors."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if count + count // 100 + SPARE <= hard:
        return [count]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count + count // 100 + SPARE,) * 2)
        print(f"open files of a process raised from {hard} to {count + count // 100 + SPARE} for this run", file=out)
        return [count]
    except (ValueError, OSError) as error:
        processes = -(-count // (hard - SPARE))
        print(f"a process may have {hard} open files here, and raising that says: {error}. So {processes} server processes, each on a port "
              f"of its own, hold a part each; the client has as many threads with descriptors of their own.", file=out)
        return [count // processes + (i < count % processes) for i in range(processes)]


class Holder:
    """The load client with its connections, driven line by line."""

    def __init__(self, client, servers, count, cores):
        command = client.command(servers, ["-m", "idle", "-T", "-c", str(count), "-s", "64", "-t", str(len(servers))], 1, 0, cores[0])

        def child():
            begin(client.first)
            os.sched_setaffinity(0, cores[-1:])
            raise_descriptors(count + count // 100 + SPARE)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                        preexec_fn=child)

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self):
        """Its next line. When memory gets short meanwhile, it is told to stop opening connections."""
        told = False
        while not select.select([self.process.stdout], [], [], 0.5)[0]:
            if not told and meminfo("MemAvailable") < LEAVE:
                self.say("stop")
                told = True
        line = self.process.stdout.readline()
        found = json.loads(line) if line else {"connected": 0, "error": "the client ended"}
        if told:
            found["error"] = f"less than {LEAVE >> 30} GiB of memory were left"
        return found

    def end(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


def hold(servers, parts, client):
    """{held, bytes, kernel_bytes, opened_per_s, sweeps} or {failed}"""
    count = sum(parts)
    cores = sorted(os.sched_getaffinity(0))
    holder = None
    try:
        for server, part in zip(servers, parts):
            server.start(cores[:1], 1, descriptors=part + SPARE)
        before, kernel_before, files_before = settled(servers), kernel_bytes(), sum(server.descriptors() for server in servers)
        holder = Holder(client, servers, count, cores)
        opened = holder.answer()
        held = opened["connected"]
        if held < count:
            return {"failed": f"{held} of {count} connections could be opened: {opened['error']}"}
        result = {"held": held, "bytes": (settled(servers) - before) / held, "opened_per_s": opened["conns_per_s"],
                  "kernel_bytes": (kernel_bytes() - kernel_before) / held, "sweeps": []}
        accepted = sum(server.descriptors() for server in servers) - files_before
        if accepted < count:
            return {"failed": f"{count} connections were opened, but the server has {accepted}"}
        for width in (1, 64):
            holder.say(f"sweep {max(100, count // 100)} {width}")
            swept = holder.answer()
            if swept.get("errors", 1) or swept["mismatches"]:
                return {"failed": f"wrong or missing answers: {swept}"}
            result["sweeps"].append(swept["lat_us"])
        holder.say("quit")
        return result
    except NotHere as error:
        return {"failed": str(error)}
    finally:
        if holder:
            holder.end()
        for server in servers:
            server.stop()


def idle_servers():
    """Portico in three ways: scripts without and with on_connect, and the default script."""
    scripts = "{dir}/scripts/"
    run = "{portico} --workers 1 --log-level warn --first-byte-timeout 0 --idle-timeout 0 --accept-rate 0 --listen tcp://0.0.0.0:{port} --backend "
    for backend in ("io_uring", "epoll"):
        for title, script in (("on_message", scripts + "on_message.lua"), ("on_connect", scripts + "on_connect.lua"), ("default script", "")):
            yield {"name": f"portico {backend} {title}", "folder": ".", "needs": "", "group": "portico", "run": f"{run}{backend} {script}"}
    yield from (spec for spec in catalogue() if spec["name"] in ("raw_uring", "raw_epoll"))


def bench_idle(portico, build, count, names, first, table, out):
    os.makedirs(build, exist_ok=True)
    client = Client(build, first)
    before = raise_system_limits(out)
    rows = []
    try:
        parts = plan(count, out)
        for spec in idle_servers():
            if names and not {spec["name"], spec["group"]} & set(names):
                continue
            servers = [Server(spec, portico, build, mark=f"-{i}" if i else "", first=first) for i in range(len(parts))]
            servers[0].prepare()
            name = servers[0].name
            print(f"== {count} idle connections: {name}", file=sys.stderr)
            result = hold(servers, parts, client)
            if "failed" in result:
                print(f"{name} failed: {result['failed']}", file=out)
                continue
            one, many = result["sweeps"]
            rows.append([name, f"{result['held']:,}", f"{result['bytes']:.0f}", f"{result['kernel_bytes']:.0f}",
                         f"{result['opened_per_s']:.0f}", f"{one['p50']:.0f} / {one['p99']:.0f}", f"{many['p50']:.0f} / {many['p99']:.0f}"])
    finally:
        put_back(before)
    table(["server", "held", "bytes/connection", "kernel bytes/pair", "opened/s", "1 % echoed, one at a time: p50 / p99 µs",
           "64 at a time: p50 / p99 µs"], rows, out)
