"""matrix.py - all servers through all scenarios, in turns.

Within a scenario all servers are started, pinned to one processor, and the load client, pinned to the other, visits them one
after another in short slices, in an order that changes every round. A machine whose speed drifts thereby hits all of them
alike, the more so the shorter a round is; ratios are taken within a round, and their quartiles kept. Who has no part in what the scenario
is to show is visited in fewer rounds: see every().

Client and server wait for each other. Where that lets both sleep, rates say how fast the system wakes them, above all on a virtual
machine. So there are scenarios in which the processors are kept awake (priority.py) and the server's is used to the full.
"""
import contextlib
import os
import random
import statistics
import sys

from footprint import footprints
from priority import awake
from servers import Client, NotHere, prepared, read
from targets import BARE_C, SCRIPTED, baseline, compared

WARM_UP = 0.1 # seconds before each slice; a server has been up since the scenario began
SATURATED = 0.97 # of a processor: the client could not have asked for more
FULL = "full" # ends the names of the scenarios in which the processors are kept awake
FULL_SERVERS = ("portico io_uring", "portico epoll", *BARE_C, *SCRIPTED)

# name: (title, the client's arguments, the unit of what is counted)
SCENARIOS = {
    "1": ("1 connection, one 64-byte message in flight", ["-c", "1", "-s", "64"], "message"),
    "64": ("64 connections, one 64-byte message in flight each", ["-c", "64", "-s", "64"], "message"),
    "512": ("512 connections, one 64-byte message in flight each", ["-c", "512", "-s", "64"], "message"),
    "4000": ("4,000 connections, one 64-byte message in flight each", ["-c", "4000", "-s", "64"], "message"),
    "16deep": ("64 connections, 16 64-byte messages in flight each", ["-c", "64", "-p", "16", "-s", "64"], "message"),
    "16k": ("64 connections, one message of 16 KiB in flight each", ["-c", "64", "-s", "16384"], "message"),
    "connect": ("connect, one 64-byte echo, close; 32 at a time", ["-m", "connect", "-c", "32", "-s", "64"], "connection"),
    "line": ("64 connections, 16 64-byte lines in flight each, answered line by line",
             ["-c", "64", "-p", "16", "-s", "64", "-f", "line"], "message"),
    "2workers": ("512 connections, one 64-byte message in flight each, two workers, nothing pinned", ["-c", "512", "-s", "64"],
                 "message"),
}
for _name in ("64", "512", "4000"):
    SCENARIOS[_name + FULL] = (SCENARIOS[_name][0] + ", processors kept awake", *SCENARIOS[_name][1:])
ONE_WORKER = ", one worker"
QUICK = ["64", "16deep", "connect"]
QUICK_SERVERS = ("portico io_uring", "portico epoll", "raw_uring", "raw_epoll", "libuv try_write", "asio")


def connections(arguments):
    return int(arguments[arguments.index("-c") + 1])


def takes_part(spec, scenario, arguments):
    if scenario in spec.get("skip", []) or connections(arguments) > spec.get("connections", 1 << 30):
        return False
    if scenario.endswith(FULL):
        return spec["name"] in FULL_SERVERS
    if scenario == "line":
        return "line_run" in spec or "per_message" in spec
    return scenario != "2workers" or "workers" in spec


def every(spec, scenario, chosen):
    """A server takes part in each so many rounds: 1 for what is chosen by name, Portico, bare C and those that a target compares, 2 where
    those are peers, which are further away."""
    name = spec["name"]
    if name in chosen or "pair" in spec or name in BARE_C or name == baseline(scenario):
        return 1
    if name in compared(scenario):
        return 2 if spec["group"] == "peer" else 1
    return 6


def machine():
    cpu = [line.split(":")[1].strip() for line in read("/proc/cpuinfo").splitlines() if "model name" in line]
    return {"kernel": os.uname().release, "processor": cpu[0] if cpu else "?", "processors": os.cpu_count(),
            "system": next((line.split("=")[1].strip('"') for line in read("/etc/os-release").splitlines()
                            if line.startswith("PRETTY_NAME")), "?"),
            "load": f"{os.getloadavg()[0]:.0f} before"}


class Row:
    """What one server did in one scenario: slices by round."""

    def __init__(self, name, group):
        self.name, self.group = name, group
        self.slices = {}
        self.failed = None

    def median(self, pick):
        values = [pick(s) for s in self.slices.values()]
        return statistics.median(values) if values else None

    def pairs(self, other):
        """The slices of both, from the rounds that both were in."""
        return [(mine, other.slices[turn]) for turn, mine in self.slices.items() if turn in other.slices]

    def ratio(self, other, pick):
        """Its three quartiles over the rounds that both were in; None when there is none."""
        ratios = [pick(mine) / pick(theirs) for mine, theirs in self.pairs(other) if pick(theirs)]
        if len(ratios) < 2:
            return ratios * 3 or None
        return statistics.quantiles(ratios, method="inclusive")


def cpu_us(s):
    return s["server_us_per_msg"]


def rate(s):
    return s["msgs_per_s"] if "msgs_per_s" in s else s["conns_per_s"]


def summary(row, rows):
    """A row as plain data: for JSON, tables and targets."""
    if row.failed is not None or not row.slices:
        return {"server": row.name, "group": row.group, "failed": row.failed or "no slice was counted"}
    result = {
        "server": row.name, "group": row.group, "rounds": len(row.slices),
        # A slice is few ticks of the clock that tells user from system: their shares are added up.
        "cpu_us": row.median(cpu_us), "user_us": row.median(cpu_us) * statistics.mean(s.get("server_user_share", 0) for s in row.slices.values()),
        "rate": row.median(rate), "client_processor": row.median(lambda s: s.get("client_cpu", 0)),
        "server_processor": row.median(lambda s: s.get("server_cpu", 0)),
        "p50_us": row.median(lambda s: s["lat_us"]["p50"]), "p99_us": row.median(lambda s: s["lat_us"]["p99"]),
        "p999_us": row.median(lambda s: s["lat_us"]["p999"]),
        "cpu_ratio": {}, "rate_ratio": {}, "p50_ratio": {},
    }
    for other in rows:
        if other.group == "portico" or not other.slices:
            continue
        result["cpu_ratio"][other.name] = row.ratio(other, cpu_us)
        result["rate_ratio"][other.name] = row.ratio(other, rate)
        result["p50_ratio"][other.name] = row.ratio(other, lambda s: s["lat_us"]["p50"])
    return result


def places(workers):
    """The processors for the server and for the client."""
    everywhere = sorted(os.sched_getaffinity(0))
    return ([everywhere[0]], [everywhere[1]]) if len(everywhere) > 1 and workers == 1 else (everywhere, everywhere)


def awake_for(scenario):
    return awake(sorted(os.sched_getaffinity(0))) if scenario.endswith(FULL) else contextlib.nullcontext()


def run_scenario(scenario, servers, client, options):
    title, arguments, unit = SCENARIOS[scenario]
    print(f"== {title}", file=sys.stderr)
    workers = 2 if scenario == "2workers" else 1
    server_cores, client_cores = places(workers)
    rows, running = [], []

    def begin(server, name, group, workers):
        row = Row(name, group)
        rows.append(row)
        try:
            server.start(server_cores, workers, lines=scenario == "line")
            running.append((server, row, every(server.spec, scenario, options.servers)))
        except NotHere as error:
            row.failed = str(error)
    try:
        for server in servers:
            if not takes_part(server.spec, scenario, arguments):
                continue
            begin(server, server.name, server.spec["group"], workers)
            if workers > 1 and server.spec.get("pair"): # beside itself, under the same conditions
                begin(server.another(ONE_WORKER), server.name + ONE_WORKER, "pair", 1)
        with awake_for(scenario):
            for turn in range(options.rounds):
                order = [(server, row) for server, row, rounds in running if turn % rounds == 0]
                random.shuffle(order)
                for server, row in order:
                    counted = client.run(server, arguments, options.seconds, WARM_UP, server_cores[0], client_cores)
                    if "failed" in counted:
                        row.failed = counted["failed"]
                        print(f"   {row.name}: {row.failed}", file=sys.stderr)
                    elif counted.get("server_us_per_msg"):
                        row.slices[turn] = counted
    finally:
        for server, *_ in running:
            server.stop()
    return {"scenario": scenario, "title": title, "unit": unit, "workers": workers, "rows": [summary(row, rows) for row in rows]}


def run_matrix(portico, build, options):
    """All chosen scenarios; servers that are not here are in "missing", with the reason."""
    os.makedirs(build, exist_ok=True)
    client = Client(build, first=options.first)
    servers, missing = prepared(portico, build, options.servers, options.first)
    return {"machine": machine(), "first": options.first, "rounds": options.rounds, "seconds": options.seconds, "missing": missing,
            "scenarios": [run_scenario(name, servers, client, options) for name in options.scenarios],
            "footprints": footprints(servers, client) if options.footprints else {}}
