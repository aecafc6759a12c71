"""An echo of lines beside one of raw bytes, scripts/kv.lua beside redis-server, and scripts/hello_http.lua beside nginx's `return 200`,
in one run: ./dev bench protocols.

Each server has one worker, on a processor of its own where the machine has two; the client has another. Servers take turns; ratios are
taken within a round, and their median is printed. So is the server's processor time per request, which a busy machine disturbs less.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

from servers import Client

ECHOES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scripts")
LINE_SIZES = 64, 1024
KV_TESTS = "PING_MBULK SET GET INCR LPUSH".split()
NGINX = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log /dev/null;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c; uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
  server {{ listen 127.0.0.1:{port}; location / {{ default_type text/plain; return 200 "Hello, world!\\n"; }} }}
}}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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


@contextlib.contextmanager
def running(words, port):
    process = subprocess.Popen(pinned(0, words), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(500):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.01)
        else:
            raise SystemExit(f"bench: {words[0]} does not listen")
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def run_redis_benchmark(port, requests, pipeline):
    """The rate of each test."""
    done = subprocess.run(
        pinned(1, ["redis-benchmark", "-p", str(port), "-c", "50", "-n", str(requests), "-P", str(pipeline), "-d", "16", "-r", "10000",
                   "--csv", "-t", "ping_mbulk,set,get,incr,lpush"]), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, encoding="utf-8")
    rates = dict(re.findall(r'^"(\w+)","([\d.]+)"', done.stdout, re.MULTILINE))
    return {name: float(rates[name]) for name in KV_TESTS}


def run_wrk(port, seconds):
    done = subprocess.run(pinned(1, ["wrk", "-t1", "-c64", f"-d{seconds}", f"http://127.0.0.1:{port}/"]), stdout=subprocess.PIPE,
                          check=True, encoding="utf-8")
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit("bench: wrk met errors:\n" + done.stdout)
    return int(re.search(r"(\d+) requests in", done.stdout)[1]), float(re.search(r"Requests/sec:\s*([\d.]+)", done.stdout)[1])


def run_echoload(path, port, size, seconds):
    """64 connections, a line of so many bytes in flight on each: a segment each way is a message."""
    done = subprocess.run(pinned(1, [path, "-c", "64", "-s", str(size), "-f", "line", "-d", str(seconds), "-w", "0.3", "127.0.0.1", str(port)]),
                          stdout=subprocess.PIPE, check=True, encoding="utf-8")
    found = json.loads(done.stdout)
    if found["error"] or found["errors"] or found["mismatches"]:
        raise SystemExit("bench: the echo is wrong:\n" + done.stdout)
    return found["msgs"], found["msgs"] / found["seconds"]


def measure(servers, rounds, client):
    """client(port) -> requests, {name: rate}; returns for each server its rates by name, and microseconds per request."""
    rates = [{} for _ in servers]
    costs = [[] for _ in servers]
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(running(words, port)) for words, port in servers]
        for number in range(rounds):
            order = range(len(servers)) if number % 2 == 0 else reversed(range(len(servers)))
            for i in order:
                before = processor_seconds(pids[i])
                requests, found = client(servers[i][1])
                costs[i].append((processor_seconds(pids[i]) - before) / requests * 1e6)
                for name, rate in found.items():
                    rates[i].setdefault(name, []).append(rate)
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


def bench_protocols(portico, build, scripts, rounds, seconds, show):
    """show(head, rows) prints a table. rounds and seconds as on the command line, or None."""
    missing = [name for name in ("redis-server", "redis-benchmark", "nginx", "wrk") if not shutil.which(name)]
    if missing:
        raise SystemExit(f"bench: {', '.join(missing)} is not installed")
    rounds, seconds = rounds or 5, max(1, round(seconds or 2))

    def ours(script, port):
        return [portico, "--workers", "1", "--quiet", "--shared-memory", "1G", "--listen", f"tcp://127.0.0.1:{port}", os.path.join(scripts, script)]

    os.makedirs(build, exist_ok=True)
    echoload = Client(build).path
    ports = free_port(), free_port()

    def lines(port):
        found = {f"lines of {size} bytes": run_echoload(echoload, port, size, seconds / 2) for size in LINE_SIZES}
        return sum(count for count, _ in found.values()), {name: rate for name, (_, rate) in found.items()}

    servers = [(ours(os.path.join(ECHOES, name), port), port) for name, port in zip(("line.lua", "on_message.lua"), ports)]
    names = [f"lines of {size} bytes" for size in LINE_SIZES]
    show(["echo, 64 connections", 'frame = "line"', "raw", "ratio"], rows_of(names, *measure(servers, rounds, lines)))

    for pipeline in (1, 16):
        ports = free_port(), free_port()
        requests = (30000 if pipeline == 1 else 200000) * seconds // 2

        def client(port):
            return requests * len(KV_TESTS), run_redis_benchmark(port, requests, pipeline)

        servers = [(ours("kv.lua", ports[0]), ports[0]),
                   (["redis-server", "--port", str(ports[1]), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], ports[1])]
        show([f"redis-benchmark -c 50 -P {pipeline}", "kv.lua", "redis-server", "ratio"], rows_of(KV_TESTS, *measure(servers, rounds, client)))

    with tempfile.TemporaryDirectory() as directory:
        ports = free_port(), free_port()
        config = os.path.join(directory, "nginx.conf")
        with open(config, "w", encoding="utf-8") as file:
            file.write(NGINX.format(dir=directory, port=ports[1]))

        def client(port):
            requests, rate = run_wrk(port, seconds)
            return requests, {"GET /": rate}

        servers = [(ours("hello_http.lua", ports[0]), ports[0]), (["nginx", "-p", directory, "-c", config], ports[1])]
        show(["wrk -c64", "hello_http.lua", "nginx return 200", "ratio"], rows_of(["GET /"], *measure(servers, rounds, client)))
