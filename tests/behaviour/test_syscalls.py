"""System calls that fail, each at each place: what can go on goes on, the rest ends with a message and its exit code, nothing crashes.

strace puts the errors in (its man page: "Tampering"): a call that it lets fail is not made. What io_uring does in the kernel cannot be
reached so; with it the start is tried, and the call that enters the ring. An EAGAIN of epoll's calls cannot be put in so: the kernel tells of an
edge after it, and strace does not. tests/faults does both.
"""

import functools
import re
import shutil
import subprocess
import time

import pytest

from rig import ECHO, Settings, dawdle, run, until

pytestmark = [pytest.mark.no_wine("strace does not see the program's own calls there")]

CLIENTS, QUESTIONS = 6, 4
DRIVEN = "portico.after(0, portico.shutdown) " + ECHO  # serves, and stops at once
SHORT_OF = ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"]


@functools.lru_cache(maxsize=None)
def why_not():
    """Why calls cannot be made to fail here; "" when they can."""
    if Settings.sanitizer:
        return "a process can be traced once, and the sanitizer does so at the end"
    if not shutil.which("strace"):
        return "there is no strace"
    tried = subprocess.run(["strace", "-D", "-qq", "-o", "/dev/null", "true"], capture_output=True, text=True, timeout=20)
    return tried.stderr.strip()[:200] if tried.returncode else ""


@pytest.fixture(autouse=True)
def needs_strace():
    if why_not():
        pytest.skip(why_not())


@pytest.fixture(name="only_epoll")
def only_epoll_fixture():
    if Settings.backend != "epoll":
        pytest.skip("the calls are made by the kernel, on behalf of the ring")


def failing(call, error, when, trace, path=None):
    """What comes before the command. -D: the process is the program's and not strace's."""
    prefix = ["strace", "-D", "-f", "-q", "-o", str(trace), "-e", f"trace={call}",
              "-e", f"inject={call}:error={error}:when={when}"]
    return prefix + (["-P", str(path)] if path else [])


def injected(trace):
    """How often it failed, once the program has ended: the tracer ends behind it."""
    def whole():
        text = trace.read_text(encoding="utf-8", errors="replace") if trace.exists() else ""
        return text if re.search(r"^\d+ +\+\+\+ (exited|killed)", text, re.MULTILINE) else None
    return until(whole, what="the end of the trace").count("(INJECTED)")


def talk(one):
    """How many of some clients have all their answers."""
    served = 0
    for number in range(CLIENTS):
        try:
            with one.connect(seconds=5) as client:
                for question in range(QUESTIONS):
                    data = b"%d.%d" % (number, question)
                    assert client.ask(data) == data
            served += 1
        except (ConnectionError, AssertionError):
            pass
    return served


# ---- While it serves ----

@pytest.mark.usefixtures("only_epoll")
@pytest.mark.parametrize("call,error", [
    *[("accept4", error) for error in [*SHORT_OF, "ECONNABORTED", "EPROTO", "EPERM", "EINTR", "ENETDOWN"]],
    ("recvfrom", "EINTR"), ("sendto", "EINTR"), ("epoll_wait", "EINTR"), ("write", "EINTR"),
    ("setsockopt", "ENOBUFS"), ("setsockopt", "EPERM"), ("getsockname", "ENOBUFS"), ("shutdown", "ENOTCONN")])
def test_what_nobody_need_notice(server, tmp_path, call, error):
    """Every third call fails, from the tenth on, so that the start is spared; all clients are served."""
    trace = tmp_path / "trace"
    one = server(ECHO, "--workers", "1", prefix=failing(call, error, "10+3" if call != "accept4" else "2+3", trace))
    assert talk(one) == CLIENTS
    assert len(one.lines) < 15, one.text()
    one.stop()
    if call == "accept4":
        assert injected(trace) >= 1
    if call == "accept4" and error in SHORT_OF:
        assert len(one.log("accepting pauses: no descriptors, memory or kernel buffers left")) == 1


@pytest.mark.usefixtures("only_epoll")
@pytest.mark.parametrize("error", ["ENOMEM", "ENOBUFS", "ECONNRESET", "ETIMEDOUT", "EPERM", "EIO"])
@pytest.mark.parametrize("call", ["recvfrom", "sendto"])
def test_what_costs_one_connection(server, tmp_path, call, error):
    trace = tmp_path / "trace"
    one = server(ECHO, "--workers", "1", prefix=failing(call, error, "7", trace))
    assert talk(one) >= CLIENTS - 1
    assert talk(one) == CLIENTS
    one.stop()
    assert injected(trace) == 1


@pytest.mark.usefixtures("only_epoll")
@pytest.mark.parametrize("error", ["ENOMEM", "ENOSPC"])
def test_a_connection_that_cannot_be_attached_is_refused(server, tmp_path, error):
    trace = tmp_path / "trace"
    one = server(ECHO, "--workers", "1", prefix=failing("epoll_ctl", error, "6..8", trace))
    assert talk(one) >= CLIENTS - 3
    assert talk(one) == CLIENTS
    one.stop()
    assert injected(trace) == 3


@pytest.fixture(name="only_io_uring")
def only_io_uring_fixture():
    if Settings.backend != "io_uring":
        pytest.skip("there is no ring")


@pytest.mark.usefixtures("only_io_uring")
@pytest.mark.parametrize("error", ["EAGAIN", "EINTR", "EBUSY"])
def test_a_ring_that_cannot_be_entered_for_a_moment(server, tmp_path, error):
    trace = tmp_path / "trace"
    one = server(ECHO, "--workers", "1", prefix=failing("io_uring_enter", error, "20+3", trace))
    assert talk(one) == CLIENTS
    assert len(one.lines) < 15, one.text()
    one.stop()
    assert injected(trace) >= 5


@pytest.mark.parametrize("error", ["EBADF", "ENOMEM"])
def test_a_port_that_fails_ends_the_server_with_1(server, tmp_path, error):
    call = {"epoll": "epoll_wait", "io_uring": "io_uring_enter"}[Settings.backend]
    one = server(ECHO, "--workers", "1", prefix=failing(call, error, "20+1", tmp_path / "trace"))
    try:
        talk(one)
    except OSError:
        pass
    assert one.wait_end() == 1
    assert one.log("its completion port has failed")


@pytest.mark.usefixtures("only_epoll")
def test_descriptors_that_never_come_back_are_asked_for_now_and_then(server, tmp_path):
    trace = tmp_path / "trace"
    start = time.monotonic()
    one = server(ECHO, "--workers", "1", prefix=failing("accept4", "EMFILE", "2+1", trace))
    with one.connect() as first, one.connect():
        assert first.ask("served") == b"served"
        one.wait_log("accepting pauses: no descriptors, memory or kernel buffers left")
        dawdle(1, "so long it asks for descriptors again and again")
        assert first.ask("still") == b"still"
    one.stop()
    turns = (time.monotonic() - start) / 0.1 + 2  # LISTENER_RETRY_NS
    assert injected(trace) <= 32 * turns  # LISTENER_ACCEPTS


CONNECTING = """
return { on_message = function(conn, data)
    local other, message, code = portico.connect("tcp://" .. data)
    conn:send(other and "connected" or (message .. " | " .. code))
    conn:close()
end }
"""


@pytest.mark.packets("received")
@pytest.mark.usefixtures("only_epoll")
@pytest.mark.parametrize("error,code", [("EADDRNOTAVAIL", "unavailable"), ("EAGAIN", "again"), ("ENETUNREACH", "unreachable"),
                                        ("EACCES", "denied"), ("ENOBUFS", "limit")])
def test_a_connect_that_fails_is_told_to_the_script(server, tmp_path, error, code):
    one = server(CONNECTING, "--workers", "1", prefix=failing("connect", error, "1+1", tmp_path / "trace"))
    with one.connect() as client:
        client.send(f"127.0.0.1:{one.port}")
        assert client.rest().decode().endswith(f"| {code}")
    one.stop()


# ---- While it starts ----

STARTING = [("socket", "EMFILE"), ("socket", "ENOBUFS"), ("bind", "EADDRINUSE"), ("bind", "EACCES"), ("bind", "ENOMEM"),
            ("listen", "EADDRINUSE"), ("listen", "ENOBUFS"), ("getsockname", "ENOBUFS"), ("setsockopt", "ENOMEM"),
            ("eventfd2", "EMFILE"), ("pipe2", "EMFILE"), ("clone3", "EAGAIN"), ("epoll_create1", "EMFILE"),
            ("epoll_ctl", "ENOMEM"), ("io_uring_setup", "ENOMEM"), ("io_uring_register", "ENOMEM"),
            ("inotify_init1", "EMFILE"), ("inotify_add_watch", "ENOSPC"), ("timer_create", "EAGAIN"), ("prlimit64", "EPERM"),
            ("getrandom", "EINTR"), ("unlink", "EACCES"), ("rename", "ENOSPC")]


@pytest.mark.parametrize("call,error", STARTING)
def test_a_start_that_fails_says_why(tmp_path, call, error):
    """Each call of that kind, one after the other, until there are no more."""
    script = tmp_path / "script.lua"
    script.write_text(DRIVEN, encoding="utf-8")
    for when in range(1, 40):
        trace = tmp_path / f"trace{when}"
        ended = run("--listen", "tcp://127.0.0.1:0", "--workers", "2", "--address-file", tmp_path / "addresses", script,
                    prefix=failing(call, error, when, trace))
        assert ended.returncode in (0, 1, 3, 4), f"{call} {when}: {ended.returncode}\n{ended.stderr}"
        if ended.returncode:
            assert re.search("error|portico: ", ended.stderr), f"{call} {when}: no word about it:\n{ended.stderr}"
        else:
            assert "stopped" in ended.stderr
        assert not re.search("leak|Assert|assert", ended.stderr), ended.stderr
        if not injected(trace):
            return
    raise AssertionError(f"{call} does not end")


@pytest.mark.parametrize("error,words", [("EMFILE", "too many open files"), ("EACCES", "ermission denied"), ("EIO", "nput/output error")])
def test_a_script_that_cannot_be_opened_ends_with_3(tmp_path, error, words):
    script = tmp_path / "script.lua"
    script.write_text(ECHO, encoding="utf-8")
    ended = run(script, prefix=failing("openat", error, "1+1", tmp_path / "trace", script))
    assert ended.returncode == 3
    assert re.search(words, ended.stderr, re.IGNORECASE), ended.stderr
    assert str(script) in ended.stderr


@pytest.mark.parametrize("error,words", [("EPERM", "Operation not permitted"), ("ENOSYS", "Function not implemented")])
def test_where_io_uring_is_forbidden_epoll_serves(server, tmp_path, monkeypatch, error, words):
    if Settings.backend != "io_uring":
        pytest.skip("this is about the other one")
    monkeypatch.setattr(Settings, "backend", None)  # the best that works
    one = server(ECHO, prefix=failing("io_uring_setup", error, "1+1", tmp_path / "trace"))
    assert talk(one) == CLIENTS
    one.stop()
    assert len(one.log(f"backend epoll: io_uring: io_uring_setup: {words}; using epoll")) == 1
    assert one.log("listening on .*backend epoll")
    assert len(one.log("io_uring:")) == 1


def test_io_uring_that_is_asked_for_and_forbidden_ends_with_1(tmp_path):
    if Settings.backend != "io_uring":
        pytest.skip("this is about the other one")
    ended = run(prefix=failing("io_uring_setup", "EPERM", "1+1", tmp_path / "trace"))
    assert ended.returncode == 1
    assert "no backend: io_uring: io_uring_setup: Operation not permitted" in ended.stderr
