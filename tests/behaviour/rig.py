"""What the behaviour tests are made of: a running portico and clients that never wait without a deadline."""

import contextlib
import glob
import json
import os
import pathlib
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, TESTS)
import pace  # noqa: E402
from pace import dawdle  # noqa: E402, F401

ADDRESS = re.compile(r"(?:tcp|udp)://(?:\[([^\]]+)\]|([^:]+)):(\d+)$")
# What no run may ever write, whatever it is asked to do.
FORBIDDEN = re.compile(r"leak|assert|runtime error|Sanitizer|Backtrace|Unhandled", re.IGNORECASE)
# The same in the text of a failed test, which has words of its own.
UNCLEAN = re.compile(r"runtime error:|Sanitizer:|Assertion .* failed|Backtrace:|Unhandled |portico ended with|exit code -?\d+ and not")
WINE = os.path.join(TESTS, "wine")


class Settings:
    """How this run of the tests was called; conftest.py fills it in."""

    portico = None
    backend = None
    wine = False
    sanitizer = None  # "address", "thread" or None: what watches the program under test
    scale = 1.0
    patience = 1.0  # factor on all deadlines


def deadline(seconds):
    return time.monotonic() + seconds * Settings.patience


def scaled(count, least=1):
    """A volume of work, as large as this run can afford."""
    return max(least, int(count * Settings.scale))


def command(*arguments, prefix=()):
    wine = [WINE, "run"] if Settings.wine else []
    return [*prefix, *wine, Settings.portico, *map(str, arguments)]


def run(*arguments, prefix=(), stdin=subprocess.DEVNULL, seconds=20, backend=True, **more):
    """Runs portico to its end. Standard output and error come back as text."""
    options = ["--backend", Settings.backend] if backend and Settings.backend else []
    result = subprocess.run(
        command(*options, *arguments, prefix=prefix), stdin=stdin, timeout=seconds * Settings.patience,
        stdout=more.pop("stdout", subprocess.PIPE), stderr=subprocess.PIPE, encoding="utf-8", errors="replace", **more)
    # The exit code does not tell: Wine 8 lets a program that has crashed end with 0 now and then.
    assert "starting debugger" not in result.stderr, result.stderr
    return result


def sanitizer():
    match = re.search(r"^sanitizer +(\w+)", run("--version", "--verbose", seconds=60).stdout, re.MULTILINE)
    return match[1] if match else None


def refuses(port):
    """Nobody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
        return False
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False  # the listener went while it was asked


def until(condition, seconds=10, what="what was waited for"):
    """Asks again and again until the answer is true, and returns it."""
    return pace.until(condition, seconds * Settings.patience, what)


class Server:
    """One portico process. Give it what the command line needs; addresses are the system's choice."""

    def __init__(self, directory, script, options=(), args=(), listen=("tcp://127.0.0.1:0",), prefix=(), env=None,
                 watch=("--no-watch",)):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.address_file = directory / "addresses"
        self.lines = []
        self.changed = threading.Condition()
        self.ended = False
        self.checked = False  # how it ended has been looked at
        self.addresses = []
        words = [word for uri in listen for word in ("--listen", uri)]
        words += ["--address-file", self.address_file]
        # On a loaded machine handlers that do nothing wrong may take long. What tests the budget sets its own.
        words += ["--callback-budget", "10"]
        words += watch  # most tests that save a file say themselves when it is to be loaded
        if Settings.backend:
            words += ["--backend", Settings.backend]
        words += options
        if script is not None:
            words.append(self.script_path(script))
        words += args
        self.process = subprocess.Popen(
            command(*words, prefix=prefix), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env={**os.environ, **(env or {})})
        self.reader = threading.Thread(target=self.read_log, daemon=True)
        self.reader.start()

    def script_path(self, script):
        if isinstance(script, os.PathLike):
            return script
        path = self.directory / "script.lua"
        path.write_text(script, encoding="utf-8")
        return path

    def read_log(self):
        for line in self.process.stderr:
            with self.changed:
                self.lines.append(line.decode("utf-8", "replace").rstrip("\r\n"))
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    # ---- Its log ----

    def log(self, pattern=None):
        """The lines so far, or those that the pattern is found in."""
        with self.changed:
            lines = list(self.lines)
        return lines if pattern is None else [line for line in lines if re.search(pattern, line)]

    def wait_log(self, pattern, count=1, seconds=10):
        """Waits for that many lines in which the pattern is found, and returns them."""
        end = deadline(seconds)
        while True:
            found = self.log(pattern)
            if len(found) >= count:
                return found
            with self.changed:
                left = end - time.monotonic()
                if left <= 0 or self.ended and len(self.lines_with(pattern)) < count:
                    raise AssertionError(f"{len(found)} of {count} lines with {pattern!r} in the log:\n" + self.text())
                self.changed.wait(min(left, 1))

    def lines_with(self, pattern):
        return [line for line in self.lines if re.search(pattern, line)]

    def text(self):
        return "\n".join(self.log())

    def said(self):
        """What the script said with log.info("said: ..."), in order."""
        return [line.split("said: ", 1)[1] for line in self.log("said: ")]

    def wait_said(self, count, seconds=10):
        self.wait_log("said: ", count, seconds)
        return self.said()

    # ---- Its life ----

    def wait_ready(self, seconds=15):
        def ready():
            assert self.process.poll() is None, f"portico ended with {self.process.returncode}:\n{self.text()}"
            return self.address_file.exists()

        until(ready, seconds, "the address file")
        for line in self.address_file.read_text(encoding="utf-8").splitlines():
            if line.startswith("unix:"):
                self.addresses.append(line[5:])
                continue
            match = ADDRESS.match(line)
            assert match, f"no address: {line!r}"
            self.addresses.append((match[1] or match[2], int(match[3])))
        return self

    @property
    def port(self):
        return self.addresses[0][1]

    def signal(self, number=signal.SIGINT):
        self.process.send_signal(number)

    def wait_end(self, seconds=15):
        """Waits for the process and the last of its log; returns the exit code."""
        try:
            code = self.process.wait(seconds * Settings.patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"portico does not end:\n{self.text()}") from None
        self.reader.join(5 * Settings.patience)
        self.checked = True
        return code

    def check_end(self, code=0, seconds=15):
        """It ends by itself, with that code, having said so, and clean."""
        ended = self.wait_end(seconds)
        log = self.text()
        assert ended == code, f"exit code {ended} and not {code}:\n{log}"
        assert self.log(r"\bstopped\b"), f"no 'stopped' in the log:\n{log}"
        assert not FORBIDDEN.search("\n".join(self.log_of_engine())), log

    def log_of_engine(self):
        return [line for line in self.log() if "said: " not in line]

    def stop(self, code=0, seconds=15):
        """Asks it to end, and checks how it does."""
        if self.process.poll() is None:
            self.signal()
        self.check_end(code, seconds)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join(5)
        self.process.stderr.close()

    # ---- Its clients ----

    def connect(self, index=0, **options):
        return Client(self.addresses[index], **options)

    def memory(self):
        """Bytes resident. Linux only."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def time(self, act):
        """How long act() takes, in seconds, and how long less what this process and one thread of the server stood in line for a
        processor meanwhile: on a crowded machine that is not the server's doing. Under Wine nobody counts it: the same twice."""
        both = () if Settings.wine else ("self", self.process.pid)
        before = [delays(process) for process in both]
        began = time.monotonic()
        act()
        taken = time.monotonic() - began
        in_line = sum(longest_delay(ago, delays(process)) for ago, process in zip(before, both))
        return taken, max(0, taken - in_line)

    def processor_seconds(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def thread(self, name):
        """The directory of its thread of that name. Linux only."""
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()
        return next(task for task in tasks if (task / "comm").read_text().strip() == name)

    def thread_seconds(self, name):
        """The processor time of its thread of that name, to the microsecond. Linux only."""
        return int((self.thread(name) / "schedstat").read_text().split()[0]) / 1e9

    def thread_waits(self, name):
        """How often its thread of that name has begun to wait. Linux only."""
        return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (self.thread(name) / "status").read_text(), re.MULTILINE)[1])


def delays(process):
    """Seconds that each thread of a process was ready while others ran (Linux, Documentation/scheduler/sched-stats.rst)."""
    seconds = {}
    for path in glob.glob(f"/proc/{process}/task/*/schedstat"):
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:  # else the thread has ended
            seconds[path] = int(file.read().split()[1]) / 1e9
    return seconds


def longest_delay(before, after):
    return max((seconds - before.get(thread, 0) for thread, seconds in after.items()), default=0)


class Client:
    """A blocking client. Every call ends within its deadline, or fails the test."""

    def __init__(self, address, seconds=10, receive_buffer=None):
        self.seconds = seconds
        is_unix = isinstance(address, str)  # the path; relative to where the server runs, which is here
        family = socket.AF_UNIX if is_unix else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(seconds * Settings.patience)
        if is_unix:
            self.socket.connect("\0" + address[1:] if address.startswith("@") else address)
        else:
            self.socket.connect(address)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = self.socket.getsockname()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def send(self, data):
        self.socket.sendall(data.encode() if isinstance(data, str) else data)
        return self

    def take(self, count):
        """Exactly that many bytes."""
        pieces = []
        missing = count
        while missing > 0:
            piece = self.socket.recv(min(missing, 1 << 16))
            assert piece, f"end of stream with {missing} of {count} bytes missing"
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def line(self):
        """Bytes up to and with the next line feed, one at a time so that none behind it is taken."""
        line = b""
        while not line.endswith(b"\n"):
            piece = self.socket.recv(1)
            assert piece, f"end of stream behind {line!r}"
            line += piece
        return line

    def rest(self):
        """Everything up to the end of the stream."""
        pieces = []
        while True:
            piece = self.socket.recv(1 << 16)
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)

    def ask(self, data):
        """Sends, and takes as many bytes back: what an echo answers."""
        data = data.encode() if isinstance(data, str) else data
        return self.send(data).take(len(data))

    def finish(self):
        """FIN: nothing more will be sent."""
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def silent(self, seconds=0.2):
        """Nothing comes for that long."""
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(1)
            raise AssertionError(f"{data!r} came, and nothing was to come")
        except socket.timeout:
            return True
        finally:
            self.socket.settimeout(self.seconds * Settings.patience)

    def is_reset(self):
        """True when the server has broken the connection, now or before the deadline."""
        try:
            while self.socket.recv(1 << 16):
                pass
            return False
        except (ConnectionResetError, BrokenPipeError):
            return True

    def is_over(self):
        """True when the server has ended the connection, one way or the other."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            pass
        return True

    def close(self):
        self.socket.close()

    def reset(self):
        """Closes with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def pattern(index, offset, count):
    """Bytes of which each tells its place in the stream of client number index. offset and count: multiples of 8."""
    first = offset // 8
    return struct.pack(f"<{count // 8}Q", *range((index << 48) + first, (index << 48) + first + count // 8))


def free_port(family=socket.AF_INET, host="127.0.0.1"):
    """A port that nobody listens on, and below those that systems give to clients: it stays free."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket(family) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port


def full_listener(address):
    """One whose queue is full: who connects waits."""
    listener = socket.socket()
    listener.bind(address)
    listener.listen(0)
    queue = []
    for _ in range(3):
        client_socket = socket.socket()
        client_socket.setblocking(False)
        try:
            client_socket.connect(listener.getsockname())
        except BlockingIOError:
            pass
        queue.append(client_socket)
    return [listener, *queue]


def json_lines(lines):
    return [json.loads(line) for line in lines]


# The beginning of a script that reports through the log; on its first line, so that lines keep their numbers.
SAY = """local function say(...) local t = table.pack(...) for i = 1, t.n do t[i] = tostring(t[i]) end \
portico.log.info("said: " .. table.concat(t, " ")) end """

# Tells what the results of a call are: "nil" and a number as they are, a string quoted with its control characters as \\ddd.
SHOW = SAY + r"""local function show(...) local t = table.pack(...) for i = 1, t.n do local v = t[i] \
if type(v) == "string" then v = '"' .. v:gsub("[%c\\]", function(c) return string.format("\\%03d", c:byte()) end) .. '"' end \
t[i] = tostring(v) end say(table.concat(t, " ")) end """.replace("\\\n", "")

ECHO = "return { on_message = function(conn, data) conn:send(data) end }\n"


def in_background(function, *arguments):
    """Runs it in a thread; the answer's result() joins it and returns or raises what it did."""
    outcome = {}

    def body():
        try:
            outcome["value"] = function(*arguments)
        except BaseException as error:  # pylint: disable=broad-except
            outcome["error"] = error

    thread = threading.Thread(target=body, daemon=True)
    thread.start()

    class Work:
        @staticmethod
        def result(seconds=30):
            thread.join(seconds * Settings.patience)
            assert not thread.is_alive(), "the client's thread does not end"
            if "error" in outcome:
                raise outcome["error"]
            return outcome["value"]

    return Work
