"""windows.py - the Windows builds of libuv, Asio and Portico under Wine, in turns: ./dev bench windows. Part of bench.py.

The turns are those of classics.py: a fresh server, 64 connections with one 64-byte message in flight each, nothing pinned, and the
processor time is the server's and the wineserver's. Ratios are taken within a round.
"""
import glob
import os
import random
import statistics
import subprocess
import sys
import tarfile

from classics import Refused, Wine, one_turn

HERE = os.path.dirname(os.path.abspath(__file__))
CC, CXX = "x86_64-w64-mingw32-gcc", "x86_64-w64-mingw32-g++"
FLAGS = ["-O2", "-static", "-D_WIN32_WINNT=0x0602", "-DWIN32_LEAN_AND_MEAN", "-Iwindows"]
LIBUV_LIBRARIES = ["-lpsapi", "-luser32", "-ladvapi32", "-liphlpapi", "-luserenv", "-lws2_32"]  # CMakeLists.txt of libuv
ASIO_LIBRARIES = ["-lws2_32", "-lmswsock"]
CONNECTIONS = 64


def run(command, folder):
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if "error" in line] or done.stdout.splitlines() or ["failed"]
        raise Refused(f"{os.path.basename(command[0])}: {errors[0][-200:]}")


def libuv(work, archive):
    """Builds the library once and the echo server; returns the server's path."""
    if not archive or not os.path.exists(archive):
        raise Refused("the sources of libuv are not here")
    library = os.path.join(work, "libuv.a")
    if not os.path.exists(library):
        with tarfile.open(archive) as tar:
            tar.extractall(work)
    source = max(glob.glob(os.path.join(work, "libuv*/")))
    if not os.path.exists(library):
        objects = []
        for path in sorted(glob.glob(source + "src/*.c") + glob.glob(source + "src/win/*.c")):
            objects.append(os.path.join(work, os.path.basename(path) + ".o"))
            run([CC, *FLAGS, "-w", "-Iinclude", "-Isrc", "-c", path, "-o", objects[-1]], source)
        run(["x86_64-w64-mingw32-ar", "rcs", library, *objects], work)
    program = os.path.join(work, "libuv_echo.exe")
    run([CC, *FLAGS, f"-I{source}include", "-o", program, "echo.c", library, *LIBUV_LIBRARIES], os.path.join(HERE, "peers", "libuv"))
    return program


def asio(work):
    """Asio is headers only, and those are Debian's for Linux: after the compiler's own, so that none of Linux is found instead."""
    program = os.path.join(work, "asio_echo.exe")
    run([CXX, *FLAGS, "-std=c++17", "-idirafter", "/usr/include", "-o", program, "echo.cpp", *ASIO_LIBRARIES], os.path.join(HERE, "peers", "asio"))
    return program


def commands(windows, work, archive):
    """{name: command}, and {name: why it is left out}"""
    scripts = os.path.join(HERE, "scripts")
    found = {"portico": [os.path.join(windows, "portico.exe"), "--workers", "1", "--log-level", "warn", "--first-byte-timeout", "0",
                         "--accept-rate", "0", "--listen", "tcp://127.0.0.1:0", os.path.join(scripts, "on_message.lua")]}
    found["portico default script"] = found["portico"][:-1]
    missing = {}
    try:
        program = libuv(work, archive)
        found["libuv try_write"] = [program, "try", "0"]
        found["libuv write"] = [program, "write", "0"]
    except (Refused, OSError) as why:
        missing["libuv"] = str(why)
    try:
        found["asio"] = [asio(work), "plain", "0"]
    except (Refused, OSError) as why:
        missing["asio"] = str(why)
    return found, missing


def ratio(ours, theirs, pick):
    return statistics.median(pick(ours[r]) / pick(theirs[r]) for r in ours if r in theirs)


def bench_windows(build, windows, archive, rounds, seconds, first, print_table):
    if not os.path.exists(os.path.join(windows, "portico.exe")):
        sys.exit(f"there is no portico.exe in {windows}: ./dev build windows makes it")
    work = os.path.abspath(os.path.join(windows, "bench"))
    os.makedirs(work, exist_ok=True)
    servers, missing = commands(windows, work, archive)
    system = Wine(os.path.join(os.path.dirname(os.path.abspath(build)), "wineprefix-bench"))
    system.first = first
    client = os.path.join(build, "tests", "bench_echo_client")
    turns, failed = {name: {} for name in servers}, {}
    system.prepare()
    try:
        for number in range(rounds):
            order = list(servers)
            random.shuffle(order)
            for name in order:
                try:
                    turns[name][number] = one_turn(system, servers[name], client, CONNECTIONS, seconds)
                except Refused as why:
                    failed[name] = str(why)
    finally:
        system.end()
    print(f"{CONNECTIONS} connections, one 64-byte message in flight each, Windows builds under Wine; medians of {rounds} rounds of {seconds:g} s")
    rows, ours = [], turns["portico"]
    for name, got in turns.items():
        if name in failed or not got:
            rows.append([name, failed.get(name, "no turn was counted")] + [""] * 5)
            continue
        middle = {field: statistics.median(getattr(turn, field) for turn in got.values()) for field in ("rate", "cpu", "p50", "p99")}
        against = [f"{ratio(ours, got, lambda t: t.rate):.2f}", f"{ratio(ours, got, lambda t: t.cpu):.2f}"] if ours else ["–", "–"]
        rows.append([name, f"{middle['rate']:,.0f}", f"{middle['cpu']:.1f}", f"{middle['p50']:.0f}", f"{middle['p99']:.0f}", *against])
    print_table(["server", "messages/s", "µs cpu/message", "p50 µs", "p99 µs", "portico's rate / its", "portico's cpu / its"], rows)
    for name, why in missing.items():
        print(f"- {name} was left out: {why}")
    print("Processor time is the server's and the wineserver's together. The target: a rate of at least 1.0 × those of libuv and Asio.")
    return not failed.get("portico")
