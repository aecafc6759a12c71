#!/usr/bin/env python3
"""bench.py - Portico beside hand-written C and beside its peers, in one run on one machine. ./dev bench runs it.

  bench.py BUILD [matrix] [--quick] [--scenarios 64,512] [--servers portico,reference,NAME] [--rounds N] [--seconds S] [--first]
                                        all scenarios, then memory and instructions; with --quick or --scenarios only those scenarios
  bench.py BUILD instructions           user-space instructions per message (callgrind)
  bench.py BUILD profile [--scenarios 64,64full,16k] [--servers NAME,…] [--rounds N] [--seconds S] [--first]   where the time goes (perf)
  bench.py BUILD budget [--rounds N]    what budget and memory cap cost where they are not reached
  bench.py BUILD heap [--rounds N] [--seconds S]   how a script's big heap is collected, beside Lua's generations
  bench.py BUILD idle [--count N]       memory per idle connection; 1,000,000 of them with --count 1000000
  bench.py BUILD protocols              lines beside raw bytes, scripts beside redis-server and nginx
  bench.py BUILD windows [--rounds N] [--seconds S] [--first] [--wine WINDOWS-BUILD] [--libuv ARCHIVE]   beside libuv and Asio under Wine, see windows.py
  bench.py BUILD classics [--wine [WINDOWS-BUILD]]   the classic designs, see classics.py
  bench.py BUILD reload [--quick] [--scenarios storm,memory] [--backend NAME] [--wine [WINDOWS-BUILD]]   what hot reload promises, see reload.py

BUILD is a build folder with portico and the programs of tests/bench in it. The matrix also writes bench.json and bench.svg there.
A server that is not here is left out and named; one that answers wrongly fails its row.

Only the ratios mean anything beyond this machine and this minute.
"""
import argparse
import json
import os
import subprocess
import sys
import time

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[1:1] = [TESTS, os.path.join(TESTS, "behaviour")]  # pace, and the rig for reload

from budget import bench_budget
from classics import SIZES, bench_classics
from heap import bench_heap
from idle import bench_idle
from instructions import count_instructions
from reload import bench_reload
from matrix import QUICK, QUICK_SERVERS, SCENARIOS, run_matrix
from perf import bench_profile
from priority import may_go_first
from protocols import bench_protocols
from report import number, print_report, print_table, svg
from servers import packages
from windows import bench_windows


def version(portico):
    return subprocess.run([portico, "--version"], capture_output=True, text=True).stdout.split()[-1]


def check_scenarios(names):
    unknown = [name for name in names or () if name not in SCENARIOS]
    if unknown:
        sys.exit(f"bench: no scenario '{unknown[0]}'; there are {', '.join(SCENARIOS)}")


def matrix(portico, build, o):
    check_scenarios(o.scenarios)
    o.footprints = not o.quick and not o.scenarios
    o.scenarios = o.scenarios or (QUICK if o.quick else list(SCENARIOS))
    o.servers = o.servers or (QUICK_SERVERS if o.quick else ())
    o.rounds = o.rounds or (19 if o.quick else 25)
    o.seconds = o.seconds or 0.15
    result = run_matrix(portico, build, o)
    result.update(date=time.strftime("%Y-%m-%d %H:%M"), version=version(portico))
    with open(os.path.join(build, "bench.json"), "w") as f:
        json.dump(result, f, indent=1)
    with open(os.path.join(build, "bench.svg"), "w") as f:
        f.write(svg(result))
    print_report(result, sys.stdout)
    print(f"figures: {build}/bench.json, plot: {build}/bench.svg")
    return 1 if any("failed" in row for s in result["scenarios"] for row in s["rows"] if row["group"] == "portico") else 0


def profile(portico, build, o):
    check_scenarios(o.scenarios)
    o.rounds, o.seconds = o.rounds or 21, o.seconds or 0.15
    return 0 if bench_profile(portico, build, o, lambda head, rows: print_table(head, rows, sys.stdout)) else 1


def instructions(portico, build):
    found = count_instructions(portico, build)
    base = found.get("libuv try_write")
    print_table(["server", "instructions/message", "more than libuv try_write"],
                [[name, number(value, 0), number(value - base, 0) if base else "–"] for name, value in found.items()], sys.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: text.split(",")
    parser.add_argument("build")
    parser.add_argument("part", nargs="?", default="matrix", choices=["matrix", "instructions", "profile", "heap", "idle", "classics", "protocols", "reload", "budget", "windows", "packages"])
    parser.add_argument("--quick", action="store_true", help="matrix: three scenarios, Portico and the references, under two minutes")
    parser.add_argument("--scenarios", type=words, help=f"matrix, profile: of {', '.join(SCENARIOS)}")
    parser.add_argument("--servers", type=words, help="matrix, profile, idle: names, or portico, reference, peer; default: all")
    parser.add_argument("--rounds", type=int, help="default: 25; quick 19, profile 21, windows and protocols 5, classics and heap 3, budget 11")
    parser.add_argument("--seconds", type=float, help="of each turn; default: 0.15; classics 1, under Wine 3; windows 2; heap 5")
    parser.add_argument("--first", action="store_true", help="matrix, profile, idle, protocols, windows: servers and client before all else that runs here; needs the right to")
    parser.add_argument("--connections", type=lambda text: [int(n) for n in text.split(",")], help="classics: default 1,64,512,4000")
    parser.add_argument("--count", type=int, default=10000, help="idle: how many; default: 10000")
    parser.add_argument("--wine", nargs="?", const="", metavar="WINDOWS-BUILD", help="classics: the Windows builds too; reload: that one")
    parser.add_argument("--libuv", metavar="ARCHIVE", help="windows: its sources; ./dev fetches them")
    parser.add_argument("--backend", help="reload: io_uring, epoll; default: what is best here")
    o = parser.parse_args()
    why_not = may_go_first() if o.first else None
    if why_not:
        sys.exit(f"bench: --first: {why_not}")
    portico, build = os.path.join(o.build, "portico"), os.path.abspath(os.path.join(o.build, "bench"))
    if o.part == "packages":
        print(*packages())
    elif o.part == "matrix":
        sys.exit(matrix(portico, build, o))
    elif o.part == "profile":
        sys.exit(profile(portico, build, o))
    elif o.part == "instructions":
        os.makedirs(build, exist_ok=True)
        instructions(portico, build)
    elif o.part == "reload":
        windows = os.path.join(os.path.dirname(os.path.abspath(o.build)), "windows") if o.wine == "" else o.wine
        program = portico if o.wine is None else os.path.join(windows, "portico.exe")
        sys.exit(0 if bench_reload(program, o.scenarios, o, lambda head, rows: print_table(head, rows, sys.stdout)) else 1)
    elif o.part == "windows":
        windows = o.wine or os.path.join(os.path.dirname(os.path.abspath(o.build)), "windows")
        sys.exit(0 if bench_windows(o.build, windows, o.libuv, o.rounds or 5, o.seconds or 2, o.first, lambda head, rows: print_table(head, rows, sys.stdout)) else 1)
    elif o.part == "budget":
        sources = os.path.join(o.build, "_deps", "lua-src", "src")
        bench_budget(portico, sources, o.rounds or 11, lambda head, rows: print_table(head, rows, sys.stdout))
    elif o.part == "heap":
        bench_heap(portico, build, o.rounds or 3, o.seconds or 5, lambda head, rows: print_table(head, rows, sys.stdout))
    elif o.part == "idle":
        bench_idle(portico, build, o.count, o.servers, o.first, print_table, sys.stdout)
    elif o.part == "protocols":
        scripts = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts")
        bench_protocols(portico, build, scripts, o.rounds, o.seconds, o.first, lambda head, rows: print_table(head, rows, sys.stdout))
    else:
        windows = os.path.join(os.path.dirname(os.path.abspath(o.build)), "windows") if o.wine == "" else o.wine
        bench_classics(o.build, windows, o.connections or SIZES, o.rounds or 3, o.seconds,
                       lambda head, rows: print_table(head, rows, sys.stdout))


main()
