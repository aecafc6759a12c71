"""The command line: verdicts by exit code, words on standard error, results on standard output."""

import os
import re
import shutil
import socket
import subprocess

import pytest

from rig import ECHO, Settings, command, free_port, json_lines, run, until




def script(tmp_path, text, name="script.lua"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(code, *words, **more):
    """Runs it and expects that code and nothing on standard output; returns standard error."""
    result = run(*words, **more)
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    return result.stderr


# ---- Results on standard output ----

def test_help_shows_the_options_and_ends_with_0():
    result = run("--help")
    assert result.returncode == 0
    assert result.stderr == ""
    assert result.stdout.startswith("Usage: portico ")
    for name in ("--listen", "--address-file", "--workers", "--backend", "--max-connections", "--log-level",
                 "--log-format", "--drain-timeout", "--lua-memory", "--callback-budget", "--check", "--version"):
        assert name in result.stdout
    assert run("-h").stdout == result.stdout


def test_version_is_one_line():
    result = run("--version")
    assert result.returncode == 0
    assert re.fullmatch(r"portico \d+\.\d+\.\d+\r?\n", result.stdout)
    assert run("-V").stdout == result.stdout


@pytest.mark.skipif(not Settings.wine, reason="is about Wine")
def test_under_wine_the_heap_keeps_off_the_page_that_windows_programs_have(server):
    """Where it does not, the program now and then does not start: tests/wine."""
    if subprocess.run(["setarch", "-R", "true"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        pytest.skip("this system does not let a process do without random addresses")
    with open(f"/proc/{server(ECHO).process.pid}/maps", encoding="ascii") as file:
        areas = [line.split() for line in file]
    shared_page = 0x7FFE0000
    assert any(area[0].startswith(f"{shared_page:x}-") for area in areas)
    heaps = [int(area[0].split("-")[0], 16) for area in areas if area[-1] == "[heap]"]
    loaders = [int(area[0].split("-")[0], 16) for area in areas if re.search(r"/wine(64)?(-preloader)?$", area[-1])]
    assert heaps and loaders
    assert min(loaders) > shared_page or max(heaps) < min(loaders) + (16 << 20)


def test_verbose_version_names_what_is_inside_and_which_backend_works():
    result = run("--version", "--verbose")
    assert result.returncode == 0
    assert re.search(r"Lua 5\.4\.\d+", result.stdout)
    assert re.search(r"^allocator ", result.stdout, re.M)
    assert re.search(r"^system ", result.stdout, re.M)
    assert re.search(rf"^backend +{Settings.backend}: works here", result.stdout, re.M)
    assert re.search(r"^chosen ", result.stdout, re.M)


@pytest.mark.no_wine("needs /dev/full")
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_full_disk_behind_standard_output_is_a_failure(option):
    with open("/dev/full", "w", encoding="ascii") as full:
        result = run(option, stdout=full)
    assert result.returncode == 1
    assert "standard output" in result.stderr


@pytest.mark.no_wine("needs a shell's redirection")
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_closed_standard_output_is_a_failure(option):
    result = subprocess.run(["sh", "-c", '"$0" "$1" >&-', Settings.portico, option], stderr=subprocess.PIPE,
                            timeout=20, check=False)
    assert result.returncode == 1
    assert b"standard output" in result.stderr


@pytest.mark.no_wine("a broken pipe looks different")
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_reader_that_has_gone_is_a_failure_and_no_death_by_signal(option):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert run(option, stdout=writer).returncode == 1
    finally:
        os.close(writer)


# ---- Usage: exit 2 ----

@pytest.mark.parametrize("words, answer", [
    (["--bakend", "epoll"], "portico: unknown option '--bakend': did you mean '--backend'?"),
    (["--zzz"], "portico: unknown option '--zzz'"),
    (["--workers", "0"], "portico: option '--workers': 0 is out of range: it takes auto, 2x or a number from 1 to 256"),
    (["--drain-timeout", "-1"], "portico: option '--drain-timeout': -1 is out of range"),
    (["--drain-timeout", "nan"], "portico: option '--drain-timeout': nan is out of range"),
    (["--lua-memory", "1"], "portico: option '--lua-memory': 1 is out of range: it takes a size from 1M to"),
    (["--workers"], "portico: option '--workers' needs a value"),
    (["--log-level", "loud"], "portico: option '--log-level' takes debug, info, warn, error or none, not 'loud'"),
    (["--listen", "tcp://nowhere"], "portico: option '--listen': cannot use 'tcp://nowhere' as an address"),
    (["--listen", "7777"], "portico: option '--listen': cannot use '7777' as an address: "
     "the host is missing, as in 127.0.0.1:7777"),
    (["--listen", "http://127.0.0.1:80"], "portico: option '--listen': cannot use 'http://127.0.0.1:80' as an address: "
     "'http' is not a transport: use tcp://, udp:// or unix:"),
    (["--listen", "/run/x.sock"], "portico: option '--listen': cannot use '/run/x.sock' as an address: "
     "the port is missing; a Unix socket is unix:/run/x.sock"),
    (["--listen", "tcp://127.0.0.1:65536"], "portico: option '--listen': cannot use 'tcp://127.0.0.1:65536'"),
])
def test_a_wrong_command_line_is_exit_2_and_named(words, answer):
    assert refused(2, *words).startswith(answer)


def test_a_backend_that_is_not_compiled_in_is_exit_2_with_those_that_are():
    error = refused(2, "--backend", "kqueue", backend=False)
    assert "'--backend'" in error and "'kqueue'" in error and Settings.backend in error


def test_options_behind_the_script_are_the_scripts(server):
    one = server("portico.log.info('said: ' .. table.concat(portico.args, ' '))\n" + ECHO, args=("--help", "-x", "a b"))
    assert one.wait_said(1)[0] == "--help -x a b"


# ---- The script: exit 3 ----

@pytest.mark.parametrize("text, place", [
    ("return {\n  on_message = function(\n}\n", r"script\.lua:3: "),
    ("local x = nil\n\nx.y = 1\n", r"script\.lua:3: .*nil"),
    ("error('no luck')\n", r"script\.lua:1: no luck"),
    (b"\x1bLua nonsense", r"script\.lua"),
    ("return 5\n", r"script\.lua"),
    ("return { listen = 'tcp://nowhere' }\n", r"script\.lua.*tcp://nowhere"),
    ("return { on_message = 5 }\n", r"on_message"),
    ("return { limits = { 5 } }\n", r"limits: names like 'idle' expected, got a number as one"),
    ("return { limits = { idel = 5 } }\n", r"unknown limit 'idel': did you mean 'idle'"),
])
def test_a_broken_script_is_exit_3_and_says_where(tmp_path, text, place):
    error = refused(3, "--listen", "tcp://127.0.0.1:0", script(tmp_path, text))
    assert re.search(place, error), error


@pytest.mark.parametrize("text, warning", [
    ("local t = { on_message = print }", "it returns no table and defines no handlers (is a `return` missing?)"),
    ("return { frame = 'line' }", "neither on_message nor on_stream nor on_readable is there: what clients send is dropped"),
    ("return { listen = {} }", None),
    ("return { on_datagram = print }", None),
    ("function on_message() end", None),
])
def test_a_script_that_drops_what_clients_send_is_warned_of(tmp_path, text, warning):
    done = run("--check", script(tmp_path, text), backend=False)
    assert done.returncode == 0
    assert (warning or "") in done.stderr and bool(done.stderr) == bool(warning), done.stderr


def test_a_missing_script_is_exit_3_and_named(tmp_path):
    assert "missing.lua: no such file" in refused(3, tmp_path / "missing.lua")


def test_an_empty_name_of_a_script_is_exit_3():
    assert "cannot read the script" in refused(3, "")


def test_a_directory_as_script_is_exit_3(tmp_path):
    assert "is a directory" in refused(3, tmp_path)


@pytest.mark.no_wine("root and Wine may read everything")
def test_an_unreadable_script_is_exit_3(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = script(tmp_path, ECHO)
    path.chmod(0)
    assert "ermission denied" in refused(3, path)


@pytest.mark.budget
def test_a_script_that_loads_for_ever_is_exit_3(tmp_path):
    error = refused(3, "--load-budget", "0.2", script(tmp_path, "while true do end\n"))
    assert re.search(r"script\.lua:1", error), error


# ---- --check ----

def test_check_says_nothing_about_a_good_script_and_binds_nothing(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        uri = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        result = run("--check", "--listen", uri, script(tmp_path, ECHO))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_check_does_not_run_what_the_script_leaves_to_timers(tmp_path):
    path = script(tmp_path, """
      portico.after(0, function() io.stderr:write("fired") end)
      return {
        on_load = function() portico.after(0, function() io.stderr:write("fired") end) end,
        on_message = function() end,
      }
    """)
    for _ in range(10):
        result = run("--check", path)
        assert (result.returncode, result.stderr) == (0, "")


def test_check_of_the_embedded_script_is_good():
    result = run("--check")
    assert (result.returncode, result.stderr) == (0, "")


def test_check_of_a_broken_script_is_exit_3(tmp_path):
    assert re.search(r"script\.lua:2", refused(3, "--check", script(tmp_path, "local a\na.b = 1\n")))


def test_check_parses_the_scripts_addresses(tmp_path):
    assert "tcp://nowhere" in refused(3, "--check", script(tmp_path, "return { listen = 'tcp://nowhere' }"))


def test_check_accepts_the_scripts_that_come_with_it(scripts):
    for path in sorted(scripts.glob("*.lua")):
        result = run("--check", path)
        assert result.returncode == 0, result.stderr


# ---- Listening: exit 4 ----

def test_a_port_in_use_is_exit_4_and_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        uri = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        error = refused(4, "--listen", uri)
    assert re.search(rf"cannot listen on {uri}: address (already )?in use", error), error


def test_the_same_port_twice_is_exit_4():
    uri = f"tcp://127.0.0.1:{free_port()}"
    assert f"cannot listen on {uri}: " in refused(4, "--listen", uri, "--listen", uri)


def test_an_address_of_another_machine_is_exit_4():
    error = refused(4, "--listen", "tcp://192.0.2.1:7777")
    assert "cannot listen on tcp://192.0.2.1:7777: not an address of this machine" in error


@pytest.mark.no_wine("Windows has no privileged ports")
def test_a_privileged_port_is_exit_4(tmp_path):
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("needs setpriv to be nobody")
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
        if int(file.read()) <= 1:
            pytest.skip("this system has no privileged ports")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
    program = shutil.copy(Settings.portico, tmp_path / "portico")
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(0o755)
    words = [program, "--backend", Settings.backend, "--listen", "tcp://127.0.0.1:1"]
    result = subprocess.run([*(nobody if os.geteuid() == 0 else []), *words], stderr=subprocess.PIPE, encoding="utf-8",
                            timeout=20, check=False)
    assert result.returncode == 4, result.stderr
    assert "cannot listen on tcp://127.0.0.1:1: permission denied" in result.stderr


# ---- Files and addresses ----

def test_an_address_file_that_cannot_be_written_is_exit_1(tmp_path):
    path = tmp_path / "missing" / "addresses"
    error = refused(1, "--listen", "tcp://127.0.0.1:0", "--address-file", path)
    assert "cannot write the address file" in error and "no such file or directory" in error


def test_the_address_file_is_all_there_when_it_appears_and_alone(server):
    one = server(None, listen=("tcp://127.0.0.1:0",) * 3)
    assert len(one.addresses) == 3
    assert os.listdir(one.directory) == ["addresses"]
    assert one.address_file.read_bytes().endswith(b"\n")


def test_an_old_address_file_is_replaced(server, tmp_path):
    (tmp_path / "server0").mkdir()
    (tmp_path / "server0" / "addresses").write_text("tcp://127.0.0.1:1\n" * 100, encoding="ascii")
    one = server(None)
    one.wait_log("listening on")
    assert len(one.address_file.read_text(encoding="ascii").splitlines()) == 1


@pytest.mark.no_wine("needs links")
@pytest.mark.parametrize("exists", [True, False])
def test_an_address_file_that_is_a_link_stays_one(server, tmp_path, exists):
    target = tmp_path / "target"
    if exists:
        target.write_text("tcp://127.0.0.1:1\n" * 100, encoding="ascii")
    (tmp_path / "server0").mkdir()
    link = tmp_path / "server0" / "addresses"
    link.symlink_to("../target")
    one = server(None)
    one.wait_log("listening on")
    assert link.is_symlink()
    assert re.fullmatch(r"tcp://127\.0\.0\.1:\d\d+\n", target.read_text(encoding="ascii"))
    assert sorted(os.listdir(tmp_path)) == ["server0", "target"]


@pytest.mark.no_wine("needs links")
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_an_address_file_that_leads_to_standard_output_stays_a_link(tmp_path, kind):
    """As /dev/stdout does. A shell's file is written, not replaced: it is held open, and more may follow."""
    link = tmp_path / "link"
    link.symlink_to("/proc/self/fd/1")
    script = tmp_path / "script.lua"
    script.write_text("portico.after(0, function() portico.shutdown() end) return {}", encoding="ascii")
    with open(tmp_path / "output", "w+", encoding="ascii") as output:
        result = subprocess.run(command("--listen", "tcp://127.0.0.1:0", "--address-file", link, script),
                                stdout=output if kind == "file" else subprocess.PIPE, stderr=subprocess.PIPE,
                                encoding="utf-8", timeout=20 * Settings.patience, check=False)
        assert result.returncode == 0, result.stderr
        said = output.read() if kind == "file" else result.stdout
    assert re.fullmatch(r"tcp://127\.0\.0\.1:\d+\n", said)
    assert os.readlink(link) == "/proc/self/fd/1"
    assert sorted(os.listdir(tmp_path)) == ["link", "output", "script.lua"]


def test_a_scheme_is_read_in_any_case(server):
    one = server(ECHO, listen=("TCP://127.0.0.1:0", "UDP://127.0.0.1:0"))
    one.wait_log(r"listening on tcp://127\.0\.0\.1:\d+,? .*udp://127\.0\.0\.1:\d+")
    with one.connect() as client:
        assert client.ask("hello") == b"hello"


def test_several_addresses_are_all_served(server, ipv6):
    one = server(None, listen=("tcp://127.0.0.1:0", "tcp://[::1]:0"))
    for index in (0, 1):
        with one.connect(index) as client:
            assert client.ask("hello") == b"hello"
    assert [host for host, port in one.addresses] == ["127.0.0.1", "::1"]


def test_the_scripts_listen_counts_when_the_command_line_names_none(server):
    port = free_port()
    one = server(f"return {{ listen = 'tcp://127.0.0.1:{port}', on_message = function(c, d) return d end }}", listen=())
    assert one.port == port
    with one.connect() as client:
        assert client.ask("x") == b"x"


def test_the_scripts_listen_may_be_a_list(server):
    ports = [free_port(), free_port()]
    uris = ", ".join(f"'tcp://127.0.0.1:{port}'" for port in ports)
    one = server(f"return {{ listen = {{ {uris} }} }}", listen=())
    assert [port for host, port in one.addresses] == ports


def test_the_command_line_wins_over_the_scripts_listen(server):
    port = free_port()
    one = server(f"return {{ listen = 'tcp://127.0.0.1:{port}' }}")
    assert one.port != port and len(one.addresses) == 1


def test_the_default_address_is_7777(server):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 7777))
        except OSError:
            pytest.skip("somebody else has port 7777")
    assert server(None, listen=()).addresses == [("127.0.0.1", 7777)]


def test_a_script_comes_from_standard_input(tmp_path):
    with open(script(tmp_path, "error('from here')\n"), "rb") as file:
        result = run("--listen", "tcp://127.0.0.1:0", "-", stdin=file)
    assert result.returncode == 3
    assert "stdin:1: from here" in result.stderr


@pytest.mark.no_wine("needs a signal while it reads standard input")
def test_a_stop_while_it_waits_for_the_script_ends_it():
    process = subprocess.Popen([Settings.portico, "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert b"backend" in process.stderr.readline()  # the line before the script is read
        # The signal may still come before it waits; then the next one ends it.
        until(lambda: process.send_signal(2) or process.poll() is not None)
        assert process.returncode == 3
        assert b"interrupted" in process.stderr.read()
    finally:
        process.kill()
        process.wait()


def test_a_first_line_for_the_shell_and_a_byte_order_mark_are_passed_over(tmp_path):
    for head in (b"#!/usr/bin/env portico\n", b"\xef\xbb\xbf-- x\n", b"\xef\xbb\xbf#!/x\n"):
        assert re.search(r"script\.lua:3: ", refused(3, "--check", script(tmp_path, head + b"\nerror('x')\n")))


def test_a_script_with_letters_of_the_world_in_its_name_is_found(server, tmp_path):
    one = server(script(tmp_path, ECHO, "grüße-мир.lua"))
    assert "grüße-мир.lua" in one.wait_log("listening on")[0]


# ---- The log ----

def test_one_start_line_says_what_runs(server):
    one = server(ECHO, "--workers", "2")
    line, = one.wait_log("listening on")
    assert re.search(rf"listening on tcp://127\.0\.0\.1:{one.port} \(backend {Settings.backend}, 2 workers, "
                     r"script \S+script\.lua, portico \d+\.\d+\.\d+, Lua 5\.4\.\d+\)", line), line
    assert len(one.log(rf"backend {Settings.backend}: ")) == 1


def test_without_a_script_the_start_line_names_the_default(server):
    assert "1 worker, script default.lua," in server(None, "--workers", "1").wait_log("listening on")[0]


def test_json_logs_parse_line_by_line(server):
    one = server("portico.log.info('said: \"quoted\"\\n\\1\\xff')\n" + ECHO, "--log-format", "json")
    with one.connect() as client:
        client.ask("x")
    one.stop()
    events = json_lines(one.log())
    assert all(set(event) >= {"time", "level", "message"} for event in events)
    assert any(event["message"].startswith("listening on") for event in events)
    assert any('"quoted"\n' in event["message"] for event in events)


def test_quiet_says_nothing_while_all_is_well(tmp_path, server):
    one = server(ECHO, "-q")
    with one.connect() as client:
        client.ask("x")
    one.signal()
    assert one.wait_end() == 0
    assert one.log() == []


@pytest.mark.no_wine("needs a signal that Wine does not pass on")
def test_hangup_does_not_end_it(server):
    import signal
    one = server(ECHO)
    one.signal(signal.SIGHUP)
    one.wait_log("reload")
    with one.connect() as client:
        assert client.ask("alive") == b"alive"


@pytest.mark.no_wine("needs a signal that Wine does not pass on")
def test_usr2_logs_counters_of_each_worker(server):
    import signal
    one = server(ECHO, "--workers", "2")
    with one.connect() as client:
        client.ask("x")
        one.signal(signal.SIGUSR2)
        lines = one.wait_log(r"worker \d: \d+ connection", 2)
    assert sum(int(re.search(r"(\d+) connection", line)[1]) for line in lines) == 1


@pytest.mark.no_wine("needs a signal that Wine does not pass on")
def test_term_stops_it_as_int_does(server):
    import signal
    one = server(ECHO)
    one.signal(signal.SIGTERM)
    one.check_end(0)


@pytest.mark.no_wine("needs a shell's redirection")
def test_closed_standard_files_do_no_harm(tmp_path):
    addresses = tmp_path / "addresses"
    process = subprocess.Popen(["sh", "-c", 'exec "$0" --backend "$1" --listen tcp://127.0.0.1:0 --address-file "$2" '
                                '--log-level debug <&- >&- 2>&-', Settings.portico, Settings.backend, addresses])
    try:
        until(addresses.exists)
        port = int(addresses.read_text(encoding="ascii").rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            received = b""
            while piece := client.recv(100):
                received += piece
        assert received == b"hello"
        process.send_signal(2)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
