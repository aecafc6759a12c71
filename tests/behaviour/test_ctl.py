"""portico ctl: a running server does what its owner asks on the command line, and nobody else's bidding."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid

import pytest

import rig
from rig import ECHO, SAY, Settings, in_background

NOBODY = 65534

MARK = "return { version = 1, on_message = function(conn, data) return 'MARK' end }\n"


def text(mark):
    return MARK.replace("MARK", mark)


def ask(client, count=4):
    return client.send("?").take(count).decode()


@pytest.fixture
def place():
    """A directory whose name is short enough for sockets; the usual places of servers and ctl are in it."""
    directory = tempfile.mkdtemp(prefix="ctl", dir="/tmp")
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def control(place):
    """What --control takes: nothing is there yet."""
    return f"portico-test-{uuid.uuid4()}" if Settings.wine else f"{place}/socket"


def ctl(*words, place=None, **more):
    env = {**os.environ, **({"PORTICO_RUNTIME_DIR": place} if place else {})}
    return rig.run("ctl", *words, backend=False, env=env, seconds=60, **more)


def check(result, code, out="", err=""):
    assert result.returncode == code, result.stderr + result.stdout
    assert re.search(out, result.stdout) if out else result.stdout == "", result.stdout
    assert re.search(err, result.stderr) if err else result.stderr == "", result.stderr


# ---- What it does ----


def test_reload_waits_until_the_version_is_in_force(server, control):
    one = server(text("aaaa"), "--control", control)
    with one.connect() as client:
        assert ask(client) == "aaaa"
        (one.directory / "script.lua").write_text(text("bbbb"), encoding="utf-8")
        check(ctl("reload", "--control", control), 0, out=r"^reload: generation 2 .* takes over from generation 1")
        assert ask(client) == "bbbb"
        check(ctl(f"--control={control}", "reload"), 0, out=r"^reload: generation 3 ")


def test_a_refused_reload_says_why(server, control):
    one = server(text("aaaa"), "--control", control)
    with one.connect() as client:
        (one.directory / "script.lua").write_text("local x = nil\nreturn x.y\n", encoding="utf-8")
        check(ctl("reload", "--control", control), 1, err=r"^portico ctl: .*script\.lua:2: ")
        assert ask(client) == "aaaa"


def test_a_script_that_is_no_file_cannot_be_reloaded(server, control):
    one = server(None, "--control", control)
    check(ctl("reload", "--control", control), 1, err="the script is no file")
    with one.connect() as client:
        assert client.ask("still echoes") == b"still echoes"


@pytest.mark.no_wine("FIFOs")
def test_a_script_from_a_pipe_is_not_watched(server, control, tmp_path):
    """As from a shell's <(echo ...). It has been read, and will not be there again."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writing = in_background(fifo.write_text, text("aaaa"))
    one = server(fifo, "--control", control, watch=("--watch",))
    writing.result(10)
    with one.connect() as client:
        assert ask(client) == "aaaa"
        check(ctl("reload", "--control", control), 1, err="the script is no file that could be read again")
        one.signal(signal.SIGHUP)
        one.wait_log("reload refused.*the script is no file", 2)
        assert ask(client) == "aaaa"
    open_now = f"/proc/{one.process.pid}/fd"
    names = []
    for fd in os.listdir(open_now):
        with contextlib.suppress(FileNotFoundError):  # that of the client who has gone
            names.append(os.readlink(f"{open_now}/{fd}"))
    assert names and not any("inotify" in name for name in names)


def test_reloads_asked_for_at_once_are_all_answered(server, control):
    one = server(text("aaaa"), "--control", control)
    asked = [in_background(ctl, "reload", "--control", control) for _ in range(6)]
    for work in asked:
        check(work.result(60), 0, out=r"^reload: generation \d+ ")
    with one.connect() as client:
        assert ask(client) == "aaaa"


def test_rollback_goes_back_during_probation(server, control):
    one = server(text("aaaa"), "--control", control, "--reload-probation", "100")
    with one.connect() as client:
        assert ask(client) == "aaaa"
        check(ctl("rollback", "--control", control), 1, err="^portico ctl: ")
        (one.directory / "script.lua").write_text(text("bbbb"), encoding="utf-8")
        check(ctl("reload", "--control", control), 0, out="generation 2")
        assert ask(client) == "bbbb"
        check(ctl("rollback", "--control", control), 0, out="generation 1 .* serves again")
        assert ask(client) == "aaaa"


def test_rollback_while_the_next_is_prepared_goes_back_from_what_served_then(server, control):
    """The one that is being prepared does not take the place of the one to go back to."""
    slow = "portico.log.info('being prepared') local t = os.clock() while os.clock() - t < 1 do end\n"
    one = server(text("aaaa"), "--control", control, "--reload-probation", "100")
    with one.connect() as client:
        (one.directory / "script.lua").write_text(text("bbbb"), encoding="utf-8")
        check(ctl("reload", "--control", control), 0, out="generation 2")
        assert ask(client) == "bbbb"
        (one.directory / "script.lua").write_text(slow + text("cccc"), encoding="utf-8")
        reload = in_background(ctl, "reload", "--control", control)
        one.wait_log("being prepared")
        check(ctl("rollback", "--control", control), 0, out="generation 1 .* serves again instead of generation 2")
        check(reload.result(60), 0, out="generation 3 .* takes over from generation 1")
        check(ctl("rollback", "--control", control), 0, out="generation 1 .* serves again instead of generation 3")
        assert ask(client) == "aaaa"


def test_generations_shows_what_is_alive(server, control):
    one = server(text("aaaa"), "--control", control, "--reload-probation", "100")
    with one.connect() as client:
        assert ask(client) == "aaaa"
        assert len(ctl("generations", "--control", control).stdout.splitlines()) == 2
        check(ctl("reload", "--control", control), 0, out="generation 2")
        assert ask(client) == "aaaa"
        lines = ctl("generations", "--control", control).stdout.splitlines()
        assert len(lines) == 3 and "generation" in lines[0], lines
        assert re.match(r"2 +\w{12} +current +\S+ +1 ", lines[1]), lines
        assert re.match(r"1 +\w{12} +fallback +\S+ +0 ", lines[2]), lines


def test_dump_is_logged(server, control):
    one = server(ECHO, "--control", control, "--workers", "1")
    check(ctl("dump", "--control", control), 0, out="log")
    assert one.wait_log(r"worker 0: 0 connections, 0 opened")


@pytest.mark.no_wine("Unix sockets")
def test_a_dump_is_answered_when_all_workers_have_written_their_counters(server, control):
    one = server(SAY + """local shared = portico.shared("t") return { on_message = function(conn, data)
      if data == "go" then shared:set("go", true) return end
      say("busy", portico.worker.id)
      while not shared:get("go") do end end }""", "--control", control, "--workers", "2")
    with one.connect() as client, one.connect() as other, socket.socket(socket.AF_UNIX) as link:
        client.send("wait")
        idle = {"busy 0": 1, "busy 1": 0}[one.wait_said(1)[0]]
        link.connect(control)
        link.sendall(b"dump\n")
        one.wait_log(f"worker {idle}: 1 connection,")
        assert speak(control, b"an answer that comes behind it\n").startswith(b"failed")
        link.setblocking(False)
        with pytest.raises(BlockingIOError):
            link.recv(1)
        other.send("go")
        link.settimeout(20 * Settings.patience)
        assert link.recv(100).startswith(b"ok ")
        one.wait_log(f"worker {1 - idle}: 1 connection,")


def test_a_dump_tells_who_waits_for_room(server, control):
    one = server(ECHO, "--control", control, "--max-connections", "1")
    with one.connect() as first, one.connect(), one.connect():
        assert first.ask("x") == b"x"

        def two_wait():
            check(ctl("dump", "--control", control), 0, out="log")
            return one.log("arrivals: 2 wait for room, 0 refused")

        rig.until(two_wait, what="a line about the two")


def test_stop_drains_and_the_second_stop_does_not_wait(server, control):
    one = server("return { on_connect = function(conn) conn:send(string.rep('x', 8 << 20)) end }", "--control", control)
    with one.connect(receive_buffer=1 << 14) as client:
        client.take(1)
        check(ctl("stop", "--control", control), 0, out="^stopping\n$")
        one.wait_log("stopping: draining 1 connection")
        check(ctl("stop", "--control", control), 0, out="^stopping\n$")
        one.check_end(5)
    check(ctl("stop", "--control", control), 1, err="no portico there")


def test_while_the_server_stops_everything_else_is_refused_at_once(server, control):
    one = server("return { on_message = function(conn) portico.sleep(30) end }", "--control", control, "--drain-timeout", "60")
    with one.connect() as client:
        client.send("x")
        check(ctl("stop", "--control", control), 0, out="^stopping\n$")
        for word in ("reload", "rollback", "generations"):
            check(ctl(word, "--control", control), 1, err="the server is stopping")
        one.wait_log("reload refused: the server is stopping")
        assert one.process.poll() is None
        one.signal()
        one.check_end(5)


# ---- Which server ----


@pytest.mark.no_wine("other servers of the same Wine prefix would be found, too")
def test_the_only_server_is_found(server, place):
    one = server(text("aaaa"), env={"PORTICO_RUNTIME_DIR": place})
    check(ctl("reload", place=place), 0, out="generation 2")
    check(ctl("list", place=place), 0, out=rf"^{one.process.pid} {place}/portico/{one.process.pid}\.sock\n$")
    one.stop()
    assert os.listdir(f"{place}/portico") == []
    check(ctl("list", place=place), 0)
    check(ctl("reload", place=place), 1, err="this user runs no portico that can be asked; root reaches another user's with --control")


@pytest.mark.no_wine("other servers of the same Wine prefix would be found, too")
def test_of_several_servers_one_is_named(server, place):
    both = [server(text(mark), env={"PORTICO_RUNTIME_DIR": place}) for mark in ("aaaa", "bbbb")]
    result = ctl("reload", place=place)
    check(result, 2, err="there are 2 servers: say which one with --pid")
    for one in both:
        assert re.search(rf"^{one.process.pid} {place}/", result.stderr, re.MULTILINE), result.stderr
    check(ctl("reload", "--pid", both[1].process.pid, place=place), 0, out="generation 2")
    both[1].wait_log("takes over")
    assert not both[0].log("takes over")
    check(ctl("stop", f"--pid={both[0].process.pid}", place=place), 0, out="stopping")
    both[0].check_end()
    check(ctl("reload", "--pid", both[0].process.pid, place=place), 1, err="is no portico of this user")
    check(ctl("reload", place=place), 0, out="generation 3")


@pytest.mark.no_wine("processes have other numbers there")
def test_what_a_killed_server_left_is_no_server(server, place):
    one = server(ECHO, env={"PORTICO_RUNTIME_DIR": place})
    one.signal(signal.SIGKILL)
    one.wait_end()
    assert len(os.listdir(f"{place}/portico")) == 1
    check(ctl("list", place=place), 0)
    assert os.listdir(f"{place}/portico") == []


def test_under_wine_servers_are_found_by_their_processes(server):
    if not Settings.wine:
        pytest.skip("sockets are found by their files")
    server(ECHO, "--log-level", "debug")
    check(ctl("list"), 0, out=r"(?m)^\d+ \\\\\.\\pipe\\portico-\d+$")


# ---- What stands in its way ----


@pytest.mark.no_wine("pipes end with their process")
def test_the_socket_of_a_killed_server_is_replaced(server, control):
    one = server(ECHO, "--control", control)
    one.signal(signal.SIGKILL)
    one.wait_end()
    assert os.path.exists(control)
    server(ECHO, "--control", control)
    check(ctl("dump", "--control", control), 0, out="log")


@pytest.mark.no_wine("Wine 8 lets a second server serve the same pipe")
def test_a_place_in_use_stays_its_servers(server, control):
    first = server(text("aaaa"), "--control", control)
    second = server(text("bbbb"), "--control", control)
    assert len(second.wait_log(r"warn +portico ctl will not reach this server: .*already in use")) == 1
    with second.connect() as client:
        assert ask(client) == "bbbb"
    second.stop()
    check(ctl("reload", "--control", control), 0, out="generation 2")
    first.wait_log("takes over")


def test_a_place_that_cannot_be_had_is_one_warning(server, place):
    bad = "x" * 300 if Settings.wine else f"{place}/missing/socket"
    one = server(text("aaaa"), "--control", bad)
    assert len(one.wait_log("portico ctl will not reach this server")) == 1
    with one.connect() as client:
        assert ask(client) == "aaaa"


@pytest.mark.no_wine("pipes are no files")
def test_a_file_that_is_no_socket_is_left_alone(server, control, place):
    with open(control, "w", encoding="ascii") as file:
        file.write("precious")
    for taken in (control, place):
        one = server(ECHO, "--control", taken)
        words = f"{taken}: there is a file of that name, and it is no socket"
        assert words in one.wait_log("portico ctl will not reach this server")[0]
    with open(control, encoding="ascii") as file:
        assert file.read() == "precious"


@pytest.mark.no_wine("there are no files to be looked for")
def test_it_can_be_left_out(server, place):
    one = server(ECHO, "--control", "off", env={"PORTICO_RUNTIME_DIR": place})
    assert os.listdir(place) == []
    one.stop()


@pytest.mark.no_wine("there are no directories to be looked for")
def test_a_place_too_long_for_a_socket_is_passed_over(server, place):
    """A socket's path has 107 bytes at most: the next place takes it."""
    long = f"{place}/{'x' * 100}"
    os.mkdir(long)
    one = server(text("aaaa"), "--log-level", "debug", env={"XDG_RUNTIME_DIR": long})
    line = one.wait_log("commands are taken at|portico ctl will not reach this server")[0]
    assert f"/{one.process.pid}.sock" in line and long not in line
    assert os.listdir(long) == []
    check(ctl("reload", "--pid", one.process.pid), 0, out="generation 2")


@pytest.mark.no_wine("there are no directories to be looked for")
@pytest.mark.parametrize("directory, why", [
    ("here", "PORTICO_RUNTIME_DIR: is not an absolute path, or is too long"),
    ("/" + "x" * 300, "PORTICO_RUNTIME_DIR: is not an absolute path, or is too long"),
    ("/tmp/" + "x" * 100, "the path is too long for a socket"),
], ids=["relative", "much too long", "too long"])
def test_a_prescribed_place_that_cannot_be_used_is_one_warning(server, directory, why):
    one = server(text("aaaa"), env={"PORTICO_RUNTIME_DIR": directory})
    assert why in one.wait_log("warn +portico ctl will not reach this server")[0]
    with one.connect() as client:
        assert ask(client) == "aaaa"


# ---- Who may ask ----


@pytest.mark.no_wine("Unix sockets and users")
def test_another_user_is_refused(server, control, place):
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    one = server(text("aaaa"), "--control", control)
    os.chmod(place, 0o755)
    program = f"{place}/portico"
    shutil.copy(Settings.portico, program)
    words = [program, "ctl", "reload", "--control", control]

    def as_nobody():
        return subprocess.run(words, user=NOBODY, group=NOBODY, extra_groups=[], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, encoding="utf-8", timeout=20 * Settings.patience)

    check(as_nobody(), 1, err="Permission denied")
    os.chmod(control, 0o666)  # then the kernel still says who it is
    check(as_nobody(), 1, err="without an answer")
    assert not one.log("takes over")
    check(ctl("reload", "--control", control), 0, out="generation 2")


@pytest.mark.no_wine("Unix sockets and users")
def test_root_may_ask_another_users_server(server, control, place):
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can be another user, with setpriv of util-linux")
    os.chown(place, NOBODY, NOBODY)
    program = shutil.copy(Settings.portico, f"{place}/portico")
    script = f"{place}/script.lua"
    with open(script, "w", encoding="utf-8") as file:
        file.write(text("aaaa"))
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", program, "--listen",
             "tcp://127.0.0.1:0", "--control", control, script]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as one:
        try:
            rig.until(lambda: ctl("dump", "--control", control).returncode == 0, 15, "the server")
            check(ctl("reload", "--control", control), 0, out="generation 2")
            check(ctl("stop", "--control", control), 0, out="stopping")
            assert one.wait(20 * Settings.patience) == 0
        finally:
            one.kill()


def ctl_as_nobody(program, *words, place):
    return subprocess.run([program, "ctl", *words], user=NOBODY, group=NOBODY, extra_groups=[], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, encoding="utf-8", timeout=20 * Settings.patience, cwd="/",
                          env={**os.environ, "PORTICO_RUNTIME_DIR": place}, check=False)


@pytest.fixture
def program(place):
    """The program, where any user may start it."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    os.chmod(place, 0o755)
    return shutil.copy(Settings.portico, f"{place}/portico.program")


@pytest.mark.no_wine("Unix sockets and users")
@pytest.mark.parametrize("level", ["std", "strict"])
def test_who_the_server_becomes_may_ask_it(server, place, program, level):
    os.chown(place, NOBODY, NOBODY)
    one = server(ECHO, "--user", str(NOBODY), "--sandbox", level, watch=("--watch",),
                 env={"PORTICO_RUNTIME_DIR": place, "ASAN_OPTIONS": "detect_leaks=0"})
    one.wait_log("listening on")
    where = f"{place}/portico/{one.process.pid}.sock"
    check(ctl_as_nobody(program, "list", place=place), 0, out=rf"^{one.process.pid} {where}\n$")
    check(ctl_as_nobody(program, "dump", place=place), 0, out="log")
    check(ctl("dump", "--control", where), 0, out="log")  # root
    check(ctl_as_nobody(program, "stop", place=place), 0, out="stopping")
    one.check_end()
    assert os.listdir(f"{place}/portico") == []


@pytest.mark.no_wine("Unix sockets and users")
def test_who_the_server_becomes_may_ask_at_a_place_that_root_names(server, place, program, control):
    for _ in range(2):  # what it may not remove at the end is replaced
        one = server(ECHO, "--user", str(NOBODY), "--control", control)
        one.wait_log("listening on")
        assert os.stat(control).st_uid == NOBODY and os.stat(control).st_mode & 0o777 == 0o600
        check(ctl_as_nobody(program, "dump", "--control", control, place=place), 0, out="log")
        check(ctl("stop", "--control", control), 0, out="stopping")
        one.check_end()


@pytest.mark.no_wine("Unix sockets")
def test_the_socket_and_its_directory_are_private(server, place):
    old = os.umask(0)
    try:
        one = server(ECHO, env={"PORTICO_RUNTIME_DIR": place})
    finally:
        os.umask(old)
    assert os.stat(f"{place}/portico").st_mode & 0o777 == 0o700
    assert os.stat(f"{place}/portico/{one.process.pid}.sock").st_mode & 0o777 == 0o600


# ---- Clients that are no portico ----


def speak(control, data, count=4096):
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(20 * Settings.patience)
        link.connect(control)
        link.sendall(data)
        answer = b""
        while True:
            piece = link.recv(count)
            if not piece:
                return answer
            answer += piece


@pytest.mark.no_wine("Unix sockets")
def test_lines_that_are_no_command_are_refused(server, control):
    server(ECHO, "--control", control)
    unknown = b"failed 37\nthe server does not know this command"
    assert speak(control, b"make coffee\n") == unknown
    assert speak(control, b"\n") == unknown
    assert speak(control, b"reload \n") == unknown
    assert speak(control, b"x" * 4096).startswith(b"failed 20\nthe line is too long")
    assert speak(control, b"dump\r\n").startswith(b"ok ")


@pytest.mark.no_wine("Unix sockets")
def test_silent_clients_are_cut_off(server, control):
    one = server(text("aaaa"), "--control", control)
    silent = []
    for _ in range(16):  # as many as are served at a time
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(30 * Settings.patience)
        link.connect(control)
        silent.append(link)
    with one.connect() as client:
        assert ask(client) == "aaaa"
    check(ctl("reload", "--control", control), 0, out="generation 2")
    for link in silent:
        assert link.recv(1) == b""
        link.close()


@pytest.mark.no_wine("Unix sockets")
def test_a_client_that_goes_before_its_answer_harms_nobody(server, control):
    one = server(SAY + "return { on_load = function(ctx) if ctx.reload then say('loading') end end }",
                 "--control", control)
    for number in range(1, 6):
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(control)
            link.sendall(b"reload\n")
        one.wait_log("takes over", number)
    check(ctl("dump", "--control", control), 0, out="log")


# ---- The command line ----


def test_help_is_printed():
    for words in (["help"], ["--help"], ["-h"]):
        check(ctl(*words), 0, out=r"^Usage: portico ctl COMMAND(.|\n)*reload(.|\n)*Exit codes: ")


@pytest.mark.parametrize("words, error", [
    ([], "no command is given"),
    (["relaod"], "unknown command 'relaod': did you mean 'reload'"),
    (["xyzzy"], "unknown command 'xyzzy'"),
    (["reload", "stop"], "one command at a time, not also 'stop'"),
    (["reload", "--pid"], "--pid takes the number of a process, not ''"),
    (["reload", "--pid", "0"], "--pid takes the number of a process, not '0'"),
    (["reload", "--pid=12x"], "--pid takes the number of a process, not '12x'"),
    (["reload", "--control"], "--control needs a value"),
    (["reload", "--control", "x", "--pid", "1"], "either --pid or --control"),
    (["reload", "--force"], "unknown option '--force'"),
])
def test_wrong_words_are_named(words, error):
    check(ctl(*words), 2, err=re.escape(f"portico ctl: {error}"))


def test_a_place_without_a_server(place):
    bad = "portico-nobody" if Settings.wine else f"{place}/nobody"
    check(ctl("reload", "--control", bad), 1, err="no portico there")


@pytest.mark.no_wine("a broken pipe looks different")
def test_a_reader_that_has_gone_is_a_failure_and_no_death_by_signal():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = ctl("help", stdout=writer)
        assert (result.returncode, "standard output" in result.stderr) == (1, True)
    finally:
        os.close(writer)
