"""servers.py - what the matrix measures: references in C and C++, peers, and Portico; how each is built and started.

A server is a dictionary:
  name, group    group: "portico", "reference" or "peer"
  folder         where its files are; the build and the server run there
  needs          Debian's packages, for the message when it is missing and for ./dev bench
  build, run     commands with {port} {workers} {build} {dir} {portico} in them
  line_run       the command that answers line by line; without one it takes no part in the line scenario
  config         files to fill in: source -> destination, with @PORT@ @WORKERS@ @DIR@ in them
  workers        it can use several processors
  per_message    its usual loop answers each line by itself: run is good for the line scenario, too
  framing        what the client has to send: raw (default), line, or fixed with request and answer
  connections    the most that it can hold
  skip           scenarios that mean nothing for it
  pair           with two workers it is measured beside itself with one
"""
import glob
import json
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys

from pace import until
from priority import begin

HERE = os.path.dirname(os.path.abspath(__file__))
PATIENCE = 20
PORTS_TRIED = 5
CC = os.environ.get("CC", "cc")
PING = {"framing": "fixed", "request": "*1\\r\\n$4\\r\\nPING\\r\\n", "answer": "+PONG\\r\\n", "skip": ["16k"]}

REFERENCES = [
    {"name": "raw_uring", "folder": "references", "needs": "gcc", "workers": True,
     "build": CC + " -O2 -o {build}/raw_uring_echo raw_uring_echo.c raw_uring_loop.c raw_uring_setup.c raw_uring_probe.c -lpthread",
     "run": "{build}/raw_uring_echo -t {workers} {port}"},
    {"name": "raw_epoll", "folder": "references", "needs": "gcc", "workers": True,
     "build": CC + " -O2 -o {build}/raw_epoll_echo raw_epoll_echo.c -lpthread", "run": "{build}/raw_epoll_echo -t {workers} {port}"},
    {"name": "libuv write", "folder": "peers/libuv", "needs": "libuv1-dev", "workers": True,
     "build": CC + " -O2 -o {build}/libuv_echo -I posix echo.c -luv -lpthread", "run": "{build}/libuv_echo write {port} {workers}"},
    {"name": "libuv try_write", "folder": "peers/libuv", "needs": "libuv1-dev", "workers": True,
     "build": CC + " -O2 -o {build}/libuv_echo -I posix echo.c -luv -lpthread", "run": "{build}/libuv_echo try {port} {workers}",
     "line_run": "{build}/libuv_echo line {port} {workers}"},
    {"name": "asio", "folder": "peers/asio", "needs": "libasio-dev g++", "workers": True,
     "build": "c++ -std=c++17 -O2 -o {build}/asio_echo -I posix echo.cpp -lpthread", "run": "{build}/asio_echo plain {port} {workers}"},
]
PEERS = [
    {"name": "haproxy lua", "folder": "peers/haproxy", "needs": "haproxy", "workers": True, "per_message": True, "framing": "line",
     "config": {"haproxy.cfg.in": "{build}/haproxy-{port}.cfg"}, "run": "haproxy -db -q -f {build}/haproxy-{port}.cfg"},
    {"name": "luv", "folder": "peers/luv", "needs": "lua-luv lua5.4", "run": "lua5.4 echo.lua {port}",
     "line_run": "lua5.4 echo.lua {port} line"},
    {"name": "cqueues", "folder": "peers/cqueues", "needs": "lua-cqueues lua5.4", "run": "lua5.4 echo.lua {port}"},
    {"name": "copas", "folder": "peers/copas", "needs": "lua-copas lua-socket lua5.1", "per_message": True, "framing": "line",
     "connections": 900, "run": "lua5.1 echo.lua {port}"},
    {"name": "node", "folder": "peers/node", "needs": "nodejs", "workers": True, "run": "node echo.js {port} {workers}",
     "line_run": "node echo.js {port} {workers} line"},
    {"name": "go", "folder": "peers/go", "needs": "golang-go", "workers": True,
     "build": "GOCACHE={build}/gocache GO111MODULE=off go build -o {build}/go_echo echo.go",
     "run": "{build}/go_echo {port} {workers}", "line_run": "{build}/go_echo {port} {workers} line"},
    {"name": "python asyncio", "folder": "peers/python", "needs": "python3", "run": "python3 echo.py {port}",
     "line_run": "python3 echo.py {port} line"},
    {"name": "erlang", "folder": "peers/erlang", "needs": "erlang-base", "workers": True, "build": "erlc -o {build} echo.erl",
     "run": "erl +S {workers}:{workers} +P 2000000 +Q 2000000 -noshell -noinput -pa {build} -s echo start {port}"},
    {"name": "tarantool", "folder": "peers/tarantool", "needs": "tarantool", "run": "tarantool echo.lua {port}"},
    {"name": "redis PING", "folder": ".", "needs": "redis-server", "per_message": True, **PING,
     # Protected mode would refuse clients from 127.0.0.2 and on, from where many short connections come.
     "run": "redis-server --port {port} --bind 127.0.0.1 --protected-mode no --save '' --appendonly no --maxclients 200000 "
            "--tcp-backlog 65535 --daemonize no --loglevel warning"},
]


def portico_servers():
    run = ("{portico} --workers {workers} --log-level warn --first-byte-timeout 0 --accept-rate 0 "
           "--listen tcp://127.0.0.1:{port} --backend ")
    scripts = os.path.join(HERE, "scripts")
    servers = []
    for backend in ("io_uring", "epoll"):
        servers.append({"name": "portico " + backend, "run": f"{run}{backend} {scripts}/on_message.lua",
                        "line_run": f"{run}{backend} {scripts}/line.lua", "pair": True})
    servers.append({"name": "portico default script", "run": run + "auto"})
    servers.append({"name": "portico on_stream", "run": f"{run}auto {scripts}/on_stream.lua"})
    return [{"folder": ".", "needs": "", "workers": True, **server} for server in servers]


def catalogue():
    """All servers, Portico first."""
    servers = []
    for group, members in (("portico", portico_servers()), ("reference", REFERENCES), ("peer", PEERS)):
        servers += [{**member, "group": group} for member in members]
    return servers


def packages():
    """What ./dev bench installs."""
    return sorted({package for server in catalogue() for package in server["needs"].split()})


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ""


def free_port():
    """On all addresses: the references listen on any, which a connection from 127.0.0.2 would forbid."""
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


def raise_descriptors(wanted):
    """Sets the limit of open files as high as allowed, at most wanted; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        return wanted
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        return min(wanted, hard)


class NotHere(Exception):
    """A server that cannot be built or started; the text says why."""


class PortTaken(NotHere):
    pass


class Server:
    def __init__(self, spec, portico, build, mark="", first=False):
        """mark tells several of one kind apart. first: before all else that runs on this machine."""
        self.spec = spec
        self.mark = mark
        self.first = first
        self.name = spec["name"]
        self.folder = os.path.normpath(os.path.join(HERE, spec["folder"]))
        self.values = {"build": build, "dir": self.folder, "portico": os.path.abspath(portico)}
        self.process = None

    def another(self, mark):
        return Server(self.spec, self.values["portico"], self.values["build"], mark, self.first)

    def fill(self, command):
        for key, value in self.values.items():
            command = command.replace("{%s}" % key, str(value))
        return command

    def prepare(self):
        if "build" not in self.spec:
            return
        result = subprocess.run(self.fill(self.spec["build"]), shell=True, cwd=self.folder, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
        if result.returncode != 0:
            raise NotHere((result.stdout.strip().splitlines() or ["its build failed"])[-1][-200:])

    def start(self, cores, workers, lines=False, descriptors=65536):
        """Raises NotHere. A port that somebody else took just before is no reason to give up."""
        for left in reversed(range(PORTS_TRIED)):
            try:
                return self.start_once(cores, workers, lines, descriptors)
            except PortTaken:
                if not left:
                    raise

    def start_once(self, cores, workers, lines, descriptors):
        self.port = free_port()
        self.values.update(port=self.port, workers=workers)
        for source, target in self.spec.get("config", {}).items():
            text = read(os.path.join(self.folder, source))
            for mark, value in (("@PORT@", self.port), ("@WORKERS@", workers), ("@DIR@", self.folder)):
                text = text.replace(mark, str(value))
            with open(self.fill(target), "w") as f:
                f.write(text)
        command = shlex.split(self.fill(self.spec["line_run"] if lines and "line_run" in self.spec else self.spec["run"]))

        def child():
            begin(self.first)
            os.sched_setaffinity(0, cores)
            raise_descriptors(descriptors)
        log_path = os.path.join(self.values["build"], "server-%s.log" % (self.name + self.mark).replace(" ", "-"))
        with open(log_path, "w") as log:
            try:
                self.process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                preexec_fn=child)
            except OSError as error:
                raise NotHere(f"{command[0]}: {error.strerror}") from None

        def accepts():
            if self.process.poll() is not None:
                raise NotHere("it has ended")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            except OSError:
                return False

        try:
            until(accepts, PATIENCE, "an answer", NotHere)
            return
        except NotHere:
            self.stop()
        said = read(log_path).strip()
        raise (PortTaken if "in use" in said.lower() else NotHere)("did not start: " + (said.splitlines() or ["no word"])[-1][-200:])

    def pids(self):
        """The process and all below it."""
        children = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            stat = read(f"/proc/{name}/stat")
            if stat:
                children.setdefault(int(stat[stat.rindex(")") + 2:].split()[1]), []).append(int(name))
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo += children.get(pid, [])
        return found

    def memory_bytes(self):
        total = 0
        for pid in self.pids():
            for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
                if line.startswith("Private_Dirty:"):
                    total += int(line.split()[1]) * 1024
        return total

    def descriptors(self):
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids())

    def stop(self):
        if self.process is None:
            return
        for number, seconds in ((signal.SIGTERM, 3), (signal.SIGKILL, PATIENCE)):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(seconds)
                break
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass
        self.process = None


def prepared(portico, build, chosen, first=False):
    """The servers whose name or group is among the chosen, of all if there are none, built; and why each of the others is not here."""
    servers, missing = [], {}
    for spec in catalogue():
        if chosen and spec["name"] not in chosen and spec["group"] not in chosen:
            continue
        server = Server(spec, portico, build, first=first)
        try:
            server.prepare()
            servers.append(server)
        except NotHere as error:
            missing[spec["name"]] = str(error)
            print(f"left out: {spec['name']}: {error}", file=sys.stderr)
    return servers, missing


class Client:
    """The load client, echoload: load/main.c has its options."""

    def __init__(self, build, first=False):
        self.first = first
        self.path = os.path.join(build, "echoload")
        subprocess.run([CC, "-O2", "-o", self.path, *sorted(glob.glob(os.path.join(HERE, "load", "*.c"))), "-lpthread"], check=True)

    def command(self, servers, arguments, seconds, warm, core):
        """One server, or, for idle connections, several of one kind."""
        server = servers[0]
        command = [self.path, "-d", str(seconds), "-w", str(warm), "-C", str(core)]
        for pid in [pid for each in servers for pid in each.pids()][:64]:
            command += ["-P", str(pid)]
        framing = server.spec.get("framing", "raw")
        if "-f" in arguments and framing == "fixed": # request and answer are given: no other framing
            at = arguments.index("-f")
            arguments = arguments[:at] + arguments[at + 2:]
        command += ["-f", framing]
        if framing == "fixed":
            command += ["-q", server.spec["request"], "-a", server.spec["answer"]]
        return command + arguments + ["127.0.0.1", ",".join(str(each.port) for each in servers)]

    def run(self, server, arguments, seconds, warm, server_core, client_cores, under=()):
        """One slice: what the client has counted, as a dictionary; with "failed" in it if there is nothing to count. under: a command that
        runs the client."""
        def child():
            begin(self.first)
            os.sched_setaffinity(0, client_cores)
            raise_descriptors(65536)
        try:
            result = subprocess.run([*under, *self.command([server], arguments, seconds, warm, server_core)], capture_output=True, text=True,
                                    preexec_fn=child, timeout=seconds + warm + 60)
        except subprocess.TimeoutExpired:
            return {"failed": "the client did not end"}
        lines = result.stdout.strip().splitlines()
        if not lines:
            return {"failed": (result.stderr.strip() or "the client said nothing")[-200:]}
        counted = json.loads(lines[-1])
        wrong = counted.get("errors", 0) + counted.get("mismatches", 0)
        if wrong or counted.get("stalled"):
            counted["failed"] = f"{wrong} wrong answers or broken connections: {counted.get('error', '')}".strip()
        return counted
