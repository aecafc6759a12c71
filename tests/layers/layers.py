#!/usr/bin/env python3
"""Fails when an #include points up the layers, or a system's header stands where it must not.

Reads the include lines only. tests/CMakeLists.txt has the other half: each layer must link without those above it.
Before it judges the tree it judges lines with a planted fault, to show that it would find one.
"""

import pathlib
import re
import sys

# The modules of core/, lowest level first. A module may include those of lower levels and, where ALSO says so, of its
# own; every file of core/ has to stand here. "net_posix.c" belongs to "net".
LEVELS = [
    ["base"],
    ["io_types"],
    ["os", "mem", "log", "net", "file", "dir", "wide", "guess", "sandbox", "privileges"],
    ["io", "timer", "watch", "control", "id_map"],
    ["sendq", "frame", "stash", "siphash", "mail"],
    ["gate"],
    ["conn", "listener", "udp", "udp_listener", "options"],
    ["worker", "pipe", "shared"],
    ["resolver", "dealer"],
    ["server"],
]
ALSO = {("log", "mem"), ("log", "os"), ("os", "mem"), ("os", "log"), ("file", "mem"), ("dir", "mem"), ("wide", "mem"), ("file", "wide"),
        ("dir", "wide"), ("net", "os"), ("net", "log"),
        ("net", "mem")}

# Headers that only the files named after them include.
PRIVATE = {
    "io_backend.h": r"core/io(_\w+)?\.[ch]",
    "io_iocp.h": r"core/io_iocp\w*\.c",
    "io_uring.h": r"core/io_uring\w*\.c",
    "io_epoll.h": r"core/io_epoll\w*\.c",
    "io_slots.h": r"core/io_(slots_posix\.c|(uring|epoll)\.h)",
    "conn_internal.h": r"core/conn(_\w+)?\.[ch]",
    "wide_win.h": r"core/\w+_win\.c",
    "net_system.h": r"core/net(_\w+)?\.[ch]",
    "net_inet.h": r"core/net_(posix|win)\.c",
    "watch_system.h": r"core/watch(_\w+)?\.c",
    "control_system.h": r"core/control(_\w+)?\.c",
}

# The C standard's headers are for everyone. Others are for the files that talk to a system or to a library.
STANDARD = {f"{name}.h" for name in (
    "assert ctype errno float inttypes limits locale math setjmp stdalign stdarg stdatomic stdbool stddef stdint stdio "
    "stdlib string time").split()}
WINDOWS_FILES = r"core/(io_iocp\w*|\w+_win)\.[ch]|lua/main_win\.c"
POSIX_FILES = r"core/(io_epoll\w*\.[ch]|(io_uring\w*|\w+_posix)\.c)|lua/main_posix\.c"
WINDOWS_HEADERS = r"(windows|winsock2|ws2tcpip|mswsock|mstcpip|ntstatus|winternl|bcrypt|shellapi|psapi|sddl|tlhelp32|io|process)\.h"
LUA_HEADERS = r"(lua|lauxlib|lualib|luaconf)\.h"
LIBRARIES = [(LUA_HEADERS, r"lua/\w+\.[ch]"), (r"mimalloc.*\.h", r"core/mem\.c"), (r"liburing.*", r"core/io_uring\w*\.[ch]")]

INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')


def level_of(module):
    for number, modules in enumerate(LEVELS):
        if module in modules:
            return number
    return None


def module_of(name):
    """ "core/net_posix.c" -> "net"; "worker.h" -> "worker"; None when LEVELS does not know it."""
    stem = pathlib.PurePath(name).stem
    while level_of(stem) is None and "_" in stem:
        stem = stem.rsplit("_", 1)[0]
    return stem if level_of(stem) is not None else None


def judge_own(path, header, in_core):
    """An include of one of our own headers. Returns what is wrong, or None."""
    if header in PRIVATE and not re.fullmatch(PRIVATE[header], path):
        return f"{header} is private"
    if path.startswith("lua/"):
        return None  # the top: it may include everything
    if header not in in_core:
        return f"core includes {header}, which is not core's"
    if header in PRIVATE:
        return None
    ours, theirs = module_of(path), module_of(header)
    if ours is None or theirs is None:
        return f"{path if ours is None else header} has no place in LEVELS of tests/layers/layers.py"
    if ours == theirs or level_of(theirs) < level_of(ours) or (ours, theirs) in ALSO:
        return None
    return f"{ours} (level {level_of(ours)}) includes {theirs} (level {level_of(theirs)})"


def judge_system(path, header):
    """The same for a header that is not ours."""
    if header in STANDARD:
        return None
    fault = f"<{header}> is not for this file"
    for headers, files in LIBRARIES:
        if re.fullmatch(headers, header):
            return None if re.fullmatch(files, path) else fault
    if re.fullmatch(WINDOWS_FILES, path):
        return None
    if re.fullmatch(POSIX_FILES, path) and not re.fullmatch(WINDOWS_HEADERS, header):
        return None
    return fault


def judge(path, text, in_core):
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        own, system = match.groups()
        if own and re.fullmatch(LUA_HEADERS, own):
            own, system = None, own  # "lua.h" is Lua's, however it is written
        fault = judge_own(path, own, in_core) if own else judge_system(path, system)
        if fault:
            faults.append(f"{path}:{number}: {fault}")
    return faults


PLANTED = [
    ("core/timer.c", '#include "conn.h"'),
    ("core/conn.h", '#include "worker.h"'),
    ("core/net.c", '  #  include "io.h"'),
    ("core/mem.c", '#include "log.h"'),
    ("core/server.c", '#include "host.h"'),
    ("core/server.c", "#include <lua.h>"),
    ("core/server.c", '#include "lua.h"'),
    ("core/conn.c", "#include <windows.h>"),
    ("core/conn.c", "#include <unistd.h>"),
    ("core/conn.c", '#include "io_backend.h"'),
    ("core/io_epoll.c", "#include <liburing.h>"),
    ("core/io_epoll.c", "#include <winsock2.h>"),
    ("lua/host.c", "#include <mimalloc.h>"),
    ("lua/host.c", "#include <sys/socket.h>"),
    ("core/unheard_of.c", '#include "base.h"'),
]


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    files = sorted(f for folder in ("core", "lua") for f in (root / folder).glob("*.[ch]"))
    in_core = {f.name for f in files if f.parent.name == "core"}
    for path, line in PLANTED:
        if not judge(path, line, in_core):
            print(f"self-test: in {path} this goes unnoticed: {line}")
            return 1
    faults = [fault for f in files for fault in judge(str(f.relative_to(root)), f.read_text(), in_core)]
    for fault in faults:
        print(fault)
    print(f"{len(files)} files, {len(PLANTED)} planted faults found, {len(faults)} others")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
