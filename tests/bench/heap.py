"""heap.py - how a script's big heap is collected: as lua/host_collect.c does it, beside Lua's generations, in turns (./dev bench heap).

What it costs is the processor time of a message; how long everybody waits is the longest round trip of a slice.
"""
import os
import statistics
import sys

from servers import Client, NotHere, Server

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scripts", "heap.lua")
WAYS = "host", "generational"
ROWS = 2_000, 20_000, 100_000, 500_000
REPLACED = 1, 5, 20
WARM = 0.3


def start(rows, replaced, way, portico, build):
    spec = {"name": f"portico {way}", "folder": ".",
            "run": "{portico} --workers 1 --quiet --sandbox off --lua-memory 1G --callback-budget 60 --load-budget 60 "
                   f"--listen tcp://127.0.0.1:{{port}} {SCRIPT} {way} {rows} {replaced}"}
    server = Server(spec, portico, build)
    server.start(sorted(os.sched_getaffinity(0))[:1], 1)
    return server


def compare(rows, replaced, rounds, seconds, client, portico, build):
    """{way: {"us", "longest_ms", "p999_ms", "mib": medians}}; a new server for each slice, so that all find the same heap."""
    cores = sorted(os.sched_getaffinity(0))
    slices = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in list(WAYS)[::1 if number % 2 == 0 else -1]:
            server = start(rows, replaced, way, portico, build)
            try:
                counted = client.run(server, ["-c", "64", "-s", "64"], seconds, WARM, cores[0], cores[-1:])
                if "failed" in counted:
                    raise SystemExit(f"bench: {rows} tables, {way}: {counted['failed']}")
                slices[way].append({"us": counted["server_us_per_msg"], "longest_ms": counted["lat_us"]["max"] / 1000,
                                    "p999_ms": counted["lat_us"]["p999"] / 1000, "mib": server.memory_bytes() / 2**20})
            finally:
                server.stop()
    return {way: {key: statistics.median(each[key] for each in found) for key in found[0]} for way, found in slices.items()}


def bench_heap(portico, build, rounds, seconds, table):
    os.makedirs(build, exist_ok=True)
    client = Client(build)
    lines = []
    for rows in ROWS:
        for replaced in REPLACED:
            print(f"== {rows} tables, {replaced} replaced by a message", file=sys.stderr)
            try:
                found = compare(rows, replaced, rounds, seconds, client, portico, build)
            except NotHere as error:
                raise SystemExit(f"bench: {error}") from None
            ours, theirs = found["host"], found["generational"]
            lines.append([f"{rows:,}", str(replaced), f"{ours['us']:.2f}", f"{theirs['us']:.2f}", f"{ours['us'] / theirs['us']:.2f}",
                          *(f"{one[key]:.1f}" for key in ("longest_ms", "p999_ms") for one in (ours, theirs)),
                          f"{ours['mib']:.0f}", f"{theirs['mib']:.0f}"])
    table(["tables", "replaced", "µs a message", "by generations", "ratio", "longest ms", "by generations", "p99.9 ms", "by generations", "MiB",
           "by generations"], lines)
