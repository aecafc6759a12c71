"""instructions.py - user-space instructions per message, counted by callgrind.

A server runs under valgrind; two loads of different length are sent and the slope is taken, so starting does not count. Unlike
time this does not move with the machine's load. Only on epoll: valgrind 3.19 does not know all of io_uring.
"""
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

from servers import PATIENCE, Client, NotHere, Server, catalogue, read

SLICES = (0.5, 2.0) # seconds
LOAD = ["-c", "64", "-s", "64"]
UNKNOWN = {"raw_uring", "portico io_uring"} # to valgrind; those that choose a backend are told to take epoll


class Counted(Server):
    """A server under callgrind. Its one process is valgrind's."""

    def __init__(self, spec, portico, build, log):
        run = spec["run"].replace("--backend auto", "--backend epoll")
        super().__init__({**spec, "run": f"valgrind --tool=callgrind --trace-children=yes --callgrind-out-file=/dev/null --log-file={log} {run}"},
                         portico, build)
        self.log = log

    def end(self):
        """Valgrind looks at signals when its guest makes a system call: a connection wakes it."""
        os.killpg(self.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                pass
            try:
                self.process.wait(0.2)
            except subprocess.TimeoutExpired:
                pass
        self.stop_if_alive()
        match = re.search(r"Collected\s*:\s*(\d+)", read(self.log))
        if match is None:
            raise NotHere("callgrind has counted nothing")
        return int(match.group(1))

    def stop_if_alive(self):
        if self.process is not None and self.process.poll() is None:
            self.stop()
        self.process = None


def per_message(spec, portico, build, client, arguments):
    """Raises NotHere."""
    if spec["name"] in UNKNOWN:
        raise NotHere("valgrind does not know all of io_uring")
    points = []
    for seconds in SLICES:
        with tempfile.TemporaryDirectory() as folder:
            server = Counted(spec, portico, build, os.path.join(folder, "log"))
            cores = sorted(os.sched_getaffinity(0))
            server.start(cores[:1], 1)
            counted = client.run(server, arguments, seconds, 0, cores[0], cores[-1:])
            if "failed" in counted:
                server.stop_if_alive()
                raise NotHere(counted["failed"])
            points.append((server.end(), counted["total"]))
    (few, few_messages), (many, many_messages) = points
    return (many - few) / (many_messages - few_messages)


def count_instructions(portico, build):
    """{server: instructions per 64-byte message, 64 connections}"""
    client = Client(build)
    found = {}
    for spec in catalogue():
        if spec["name"] not in ("portico epoll", "raw_epoll", "libuv try_write", "libuv write", "asio"):
            continue
        try:
            server = Server(spec, portico, build)
            server.prepare()
            found[spec["name"]] = per_message(spec, portico, build, client, LOAD)
        except NotHere as error:
            print(f"left out: {spec['name']}: {error}", file=sys.stderr)
    return found
