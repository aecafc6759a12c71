"""idle.py - many idle connections: memory for each, and how fast a random 1 % of them is answered.

The load client opens the connections from several addresses of 127.0.0.x, since one address has no more than some 60,000 ports,
and then, on command, sends a message on random ones. Limits that stand in the way are raised where the system lets us, which is said.
"""
import json
import os
import resource
import subprocess
import sys
import time

from servers import Client, Server, catalogue, raise_descriptors, read

SYSTEM_LIMITS = {"fs/nr_open": 2200000, "fs/file-max": 4400000, "net/core/somaxconn": 65535, "net/ipv4/tcp_max_syn_backlog": 65535,
                 "net/ipv4/tcp_mem": None}
SPARE = 2000 # descriptors beside the connections


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


def settled(server):
    """The server's memory once it stands still for half a second."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < 0.5:
        now = server.memory_bytes()
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.05)
    return last


def kernel_bytes():
    fields = dict(line.split(":") for line in read("/proc/meminfo").splitlines())
    return sum(int(fields[name].split()[0]) * 1024 for name in ("SUnreclaim", "SReclaimable", "Percpu"))


def hold(server, client, count):
    """{held, bytes, kernel_bytes, opened_per_s, sweeps} or {failed}"""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count + SPARE, max(allowed, count + SPARE)))
    except (ValueError, OSError) as error:
        return {"failed": f"a process may have {allowed} open files here, {count + SPARE} are needed, and raising the limit says: {error}"}
    cores = sorted(os.sched_getaffinity(0))
    server.start(cores[:1], 1, descriptors=count + SPARE)
    before, kernel_before = settled(server), kernel_bytes()
    command = client.command(server, ["-m", "idle", "-T", "-c", str(count), "-s", "64"], 1, 0, cores[0])

    def child():
        os.sched_setaffinity(0, cores[-1:])
        raise_descriptors(count + SPARE)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                               preexec_fn=child)
    try:
        line = process.stdout.readline()
        opened = json.loads(line) if line else {"connected": 0, "error": "the client ended"}
        held = opened["connected"]
        if held < count:
            return {"failed": f"{held} of {count} connections could be opened: {opened['error']}"}
        result = {"held": held, "bytes": (settled(server) - before) / held, "opened_per_s": opened["conns_per_s"],
                  "kernel_bytes": (kernel_bytes() - kernel_before) / held, "sweeps": []}
        for width in (1, 64):
            process.stdin.write(f"sweep {max(100, count // 100)} {width}\n")
            process.stdin.flush()
            result["sweeps"].append(json.loads(process.stdout.readline())["lat_us"])
        process.stdin.write("quit\n")
        process.stdin.flush()
        return result
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        server.stop()


def idle_servers():
    """Portico in three ways: scripts without and with on_connect, and the default script."""
    scripts = "{dir}/scripts/"
    run = "{portico} --workers 1 --log-level warn --first-byte-timeout 0 --idle-timeout 0 --accept-rate 0 --listen tcp://0.0.0.0:{port} --backend "
    for backend in ("io_uring", "epoll"):
        for title, script in (("on_message", scripts + "on_message.lua"), ("on_connect", scripts + "on_connect.lua"), ("default script", "")):
            yield {"name": f"portico {backend} {title}", "folder": ".", "needs": "", "group": "portico", "run": f"{run}{backend} {script}"}
    yield from (spec for spec in catalogue() if spec["name"] in ("raw_uring", "raw_epoll"))


def bench_idle(portico, build, count, names, table, out):
    os.makedirs(build, exist_ok=True)
    client = Client(build)
    before = raise_system_limits(out)
    rows = []
    try:
        for spec in idle_servers():
            if names and not {spec["name"], spec["group"]} & set(names):
                continue
            server = Server(spec, portico, build)
            server.prepare()
            print(f"== {count} idle connections: {server.name}", file=sys.stderr)
            result = hold(server, client, count)
            if "failed" in result:
                print(f"{server.name}: {result['failed']}", file=out)
                continue
            one, many = result["sweeps"]
            rows.append([server.name, f"{result['held']:,}", f"{result['bytes']:.0f}", f"{result['kernel_bytes']:.0f}",
                         f"{result['opened_per_s']:.0f}", f"{one['p50']:.0f} / {one['p99']:.0f}", f"{many['p50']:.0f} / {many['p99']:.0f}"])
    finally:
        put_back(before)
    table(["server", "held", "bytes/connection", "kernel bytes/pair", "opened/s", "1 % echoed, one at a time: p50 / p99 µs",
           "64 at a time: p50 / p99 µs"], rows, out)
