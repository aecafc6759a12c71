"""An echo of lines beside one of raw bytes, scripts/kv.lua beside redis-server, and scripts/hello_http.lua beside nginx's `return 200`,
in one run: ./dev bench protocols.

Each server has one worker, on a processor of its own where the machine has two; the client has another. Servers take turns; ratios are
taken within a round, and their median is printed. So is the server's processor time per request, which a busy machine disturbs less.
"""

import json
import os
import re
import shutil
import statistics
import subprocess

from priority import begin
from servers import Client, NotHere, Server

ECHOES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scripts")
LINE_SIZES = 64, 1024
KV_TESTS = "PING_MBULK SET GET INCR LPUSH".split()
REDIS = {"name": "redis-server", "folder": ".", "run": "redis-server --port {port} --bind 127.0.0.1 --save '' --appendonly no"}
NGINX = {"name": "nginx", "folder": "peers/nginx", "config": {"nginx.conf.in": "{build}/nginx-{port}.conf"},
         "run": "nginx -p {build} -c nginx-{port}.conf"}


def pinned(processor, words):
    return ["taskset", "-c", str(processor), *words] if os.cpu_count() > 1 and shutil.which("taskset") else words


def processor_seconds(pid):
    """Of a process and its children."""
    total = 0
    for task in [pid, *map(int, open(f"/proc/{pid}/task/{pid}/children", encoding="ascii").read().split())]:
        with open(f"/proc/{task}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def run(words, first):
    """What a client that must not fail says, on the processor of clients."""
    return subprocess.run(pinned(1, words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, encoding="utf-8",
                          preexec_fn=lambda: begin(first)).stdout


def run_redis_benchmark(port, requests, pipeline, first):
    """The rate of each test."""
    said = run(["redis-benchmark", "-p", str(port), "-c", "50", "-n", str(requests), "-P", str(pipeline), "-d", "16", "-r", "10000", "--csv",
                "-t", "ping_mbulk,set,get,incr,lpush"], first)
    rates = dict(re.findall(r'^"(\w+)","([\d.]+)"', said, re.MULTILINE))
    return {name: float(rates[name]) for name in KV_TESTS}


def run_wrk(port, seconds, first):
    said = run(["wrk", "-t1", "-c64", f"-d{seconds}", f"http://127.0.0.1:{port}/"], first)
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit("bench: wrk met errors:\n" + said)
    return int(re.search(r"(\d+) requests in", said)[1]), float(re.search(r"Requests/sec:\s*([\d.]+)", said)[1])


def run_echoload(path, port, size, seconds, first):
    """64 connections, a line of so many bytes in flight on each: a segment each way is a message."""
    said = run([path, "-c", "64", "-s", str(size), "-f", "line", "-d", str(seconds), "-w", "0.3", "127.0.0.1", str(port)], first)
    found = json.loads(said)
    if found["error"] or found["errors"] or found["mismatches"]:
        raise SystemExit("bench: the echo is wrong:\n" + said)
    return found["msgs"], found["msgs"] / found["seconds"]


def measure(servers, rounds, client):
    """Starts them. client(port) -> requests, {name: rate}; returns for each server its rates by name, and microseconds per request."""
    rates = [{} for _ in servers]
    costs = [[] for _ in servers]
    try:
        for server in servers:
            server.start(sorted(os.sched_getaffinity(0))[:1], 1)
        for number in range(rounds):
            order = range(len(servers)) if number % 2 == 0 else reversed(range(len(servers)))
            for i in order:
                before = processor_seconds(servers[i].process.pid)
                requests, found = client(servers[i].port)
                costs[i].append((processor_seconds(servers[i].process.pid) - before) / requests * 1e6)
                for name, rate in found.items():
                    rates[i].setdefault(name, []).append(rate)
    except NotHere as error:
        raise SystemExit(f"bench: {server.name} {error}") from None
    finally:
        for server in servers:
            server.stop()
    return rates, costs


def rows_of(names, rates, costs):
    """A row for each name, and one for the processor time: ours, theirs, ratio."""
    ours, theirs = rates
    rows = []
    for name in names:
        ratio = statistics.median(a / b for a, b in zip(ours[name], theirs[name]))
        rows.append([name, f"{statistics.median(ours[name]):,.0f}/s", f"{statistics.median(theirs[name]):,.0f}/s", f"{ratio:.2f}"])
    ratio = statistics.median(a / b for a, b in zip(*costs) if b > 0)
    rows.append(["processor time a request", f"{statistics.median(costs[0]):.1f} µs", f"{statistics.median(costs[1]):.1f} µs", f"{ratio:.2f}"])
    return rows


def bench_protocols(portico, build, scripts, rounds, seconds, first, show):
    """show(head, rows) prints a table. rounds and seconds as on the command line, or None."""
    missing = [name for name in ("redis-server", "redis-benchmark", "nginx", "wrk") if not shutil.which(name)]
    if missing:
        raise SystemExit(f"bench: {', '.join(missing)} is not installed")
    rounds, seconds = rounds or 5, max(1, round(seconds or 2))

    def ours(script):
        return {"name": "portico " + os.path.basename(script), "folder": ".",
                "run": "{portico} --workers 1 --quiet --shared-memory 1G --listen tcp://127.0.0.1:{port} " + os.path.abspath(script)}

    def both_of(*specs):
        return [Server(spec, portico, build, first=first) for spec in specs]

    os.makedirs(build, exist_ok=True)
    echoload = Client(build).path

    def lines(port):
        found = {f"lines of {size} bytes": run_echoload(echoload, port, size, seconds / 2, first) for size in LINE_SIZES}
        return sum(count for count, _ in found.values()), {name: rate for name, (_, rate) in found.items()}

    servers = both_of(*(ours(os.path.join(ECHOES, name)) for name in ("line.lua", "on_message.lua")))
    names = [f"lines of {size} bytes" for size in LINE_SIZES]
    show(["echo, 64 connections", 'frame = "line"', "raw", "ratio"], rows_of(names, *measure(servers, rounds, lines)))

    for pipeline in (1, 16):
        requests = (30000 if pipeline == 1 else 200000) * seconds // 2

        def client(port):
            return requests * len(KV_TESTS), run_redis_benchmark(port, requests, pipeline, first)

        servers = both_of(ours(os.path.join(scripts, "kv.lua")), REDIS)
        show([f"redis-benchmark -c 50 -P {pipeline}", "kv.lua", "redis-server", "ratio"], rows_of(KV_TESTS, *measure(servers, rounds, client)))

    def http(port):
        requests, rate = run_wrk(port, seconds, first)
        return requests, {"GET /": rate}

    servers = both_of(ours(os.path.join(scripts, "hello_http.lua")), NGINX)
    show(["wrk -c64", "hello_http.lua", "nginx return 200", "ratio"], rows_of(["GET /"], *measure(servers, rounds, http)))
