#!/usr/bin/env python3
"""Runs a fuzz target: its seeds, and then inputs that libFuzzer makes of them.

    run.py build/fuzz/tests/fuzz/fuzz_frame [--minutes 5] [--seed 1] [--work DIRECTORY]

DIRECTORY is where inputs are kept that reach something new; without it they are forgotten. A find is kept in any case, in
found/ beside the target, and printed with what to do about it.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

INPUT_MAX = 4096  # bytes
INPUT_SECONDS_MAX = 60  # for one input, on a machine that may be busy: longer is a find
MEMORY_MAX = 2048  # MiB: more is a find
HEX_MAX = 2000  # bytes of a find that are printed
# Whole stacks of what was allocated cost a quarter of the time, and the usual quarter GiB of freed memory its share of the
# caches. The line that repeats a find has neither, so the report is complete there.
SANITIZER = "malloc_context_size=1:quarantine_size_mb=16"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=int(time.time()) & 0x7FFFFFFF or 1)
    parser.add_argument("--work", type=pathlib.Path)
    return parser.parse_args()


def show_find(path, target):
    data = path.read_bytes()
    cut = "" if len(data) <= HEX_MAX else f" … ({len(data)} bytes)"
    print(f"\nThis input, {path.name}: {data[:HEX_MAX].hex()}{cut}")
    print(f"again:    {target} {path}")
    print(f"shorter:  {target} -minimize_crash=1 -runs=10000 {path}")
    print(f"once fixed, keep it: cp {path} tests/fuzz/corpus/{target.name.removeprefix('fuzz_')}/")


def run(options, work):
    target = options.target.resolve()
    name = target.name.removeprefix("fuzz_")
    seeds = pathlib.Path(__file__).resolve().parent / "corpus" / name
    found = target.parent / "found"
    found.mkdir(exist_ok=True)
    before = set(found.glob(f"{name}-*"))
    count = len(list(seeds.iterdir()))
    seconds = max(1, round(options.minutes * 60))
    print(f"{name}: {count} seeds, then {seconds} s with -seed={options.seed}", flush=True)
    if count == 0:
        print("no seeds: there has to be at least one")
        return 1
    command = [target, f"-seed={options.seed}", f"-max_total_time={seconds}", f"-max_len={INPUT_MAX}",
               f"-timeout={INPUT_SECONDS_MAX}", f"-report_slow_units={INPUT_SECONDS_MAX}", f"-rss_limit_mb={MEMORY_MAX}",
               f"-artifact_prefix={found}/{name}-", "-print_final_stats=1", "-verbosity=1",
               "-print_funcs=0", work, seeds]  # the symbolizer would take seconds for each new function
    if not (seeds.parents[1] / f"{name}.c").exists():
        # A Lua state that lives on allocates more than it frees in many a call; and the simulation counts blocks itself.
        command.insert(1, "-detect_leaks=0")
    environment = os.environ | {"ASAN_OPTIONS": ":".join(filter(None, [SANITIZER, os.environ.get("ASAN_OPTIONS")]))}
    output = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          env=environment) as process:
        for line in process.stdout:
            output.append(line)
            if options.work and "pulse" in line:
                print(line, end="", flush=True)
    finds = sorted(set(found.glob(f"{name}-*")) - before)
    executions = re.search(r"number_of_executed_units: (\d+)", "".join(output))
    print(f"{name}: {executions[1] if executions else '?'} executions, {len(finds)} finds")
    if process.returncode != 0:
        sys.stdout.writelines(output[-80:])
    for path in finds:
        show_find(path, target)
    return 1 if finds or process.returncode != 0 else 0


def main():
    options = arguments()
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        return run(options, options.work)
    with tempfile.TemporaryDirectory(prefix="portico-fuzz-") as work:
        return run(options, work)


if __name__ == "__main__":
    sys.exit(main())
