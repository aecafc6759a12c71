"""Unix sockets: listeners and outbound connections, stale files, modes, abstract names."""

import fcntl
import os
import signal
import socket
import stat
import subprocess

import pytest

from rig import ECHO, SAY, Settings, pattern, run, until

no_wine = pytest.mark.no_wine("Unix sockets are refused on Windows")


@pytest.fixture
def path(tmp_path):
    """A short one: a Unix socket's may have 107 bytes."""
    where = tmp_path / "s"
    assert len(str(where)) <= 107, "the temporary directory's name is too long for this test"
    return str(where)


def leave_stale(path):
    """What a server that was killed leaves behind."""
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path)
        one.listen()


@no_wine
def test_a_listener_echoes_and_its_file_goes_at_the_stop(server, path):
    one = server(ECHO, listen=[f"unix:{path}"])
    assert one.addresses == [path]
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    data = pattern(0, 0, 1 << 20)
    with one.connect() as client:
        assert client.ask(data[:100000]) == data[:100000]
    one.stop()
    assert not os.path.exists(path)
    assert one.log(f"listening on unix:{path} ")


@no_wine
def test_it_is_one_of_several_listeners(server, path):
    one = server("return { on_message = function(conn) return conn.listener .. '|' .. conn.peer .. '|' .. conn.addr .. '\\n' end }",
                 listen=["tcp://127.0.0.1:0", f"unix:{path}"])
    with one.connect(1) as client:
        assert client.send("x").line() == f"unix:{path}|unix|unix:{path}\n".encode()
    with one.connect(0) as client:
        assert client.send("x").line().startswith(b"tcp://127.0.0.1:")


@no_wine
def test_socat_speaks_to_it(server, path):
    one = server(ECHO, listen=[f"unix:{path}"])
    done = subprocess.run(["socat", "-t5", "-", f"UNIX-CONNECT:{path}"], input=b"over socat\n", stdout=subprocess.PIPE,
                          timeout=20, check=True)
    assert done.stdout == b"over socat\n"
    assert one.process.poll() is None


@no_wine
def test_two_modes_for_one_path_are_a_contradiction(tmp_path, path):
    script = tmp_path / "script.lua"
    script.write_text(f"return {{ listen = {{ 'unix:{path}?mode=0600', 'unix:{path}?mode=0660' }} }}")
    result = run(script)
    assert result.returncode == 3
    assert f"listen: unix:{path} is listened on already, with other permissions (?mode=)" in result.stderr
    assert not os.path.exists(path)


@no_wine
@pytest.mark.parametrize("mode", ["0660", "0600", "0777"])
def test_the_file_has_the_mode_that_was_asked_for(server, path, mode):
    server(ECHO, listen=[f"unix:{path}?mode={mode}"])
    assert stat.S_IMODE(os.stat(path).st_mode) == int(mode, 8)


@no_wine
def test_a_stale_file_is_replaced(server, path):
    leave_stale(path)
    with server(ECHO, listen=[f"unix:{path}"]).connect() as client:
        assert client.ask("alive") == b"alive"


@no_wine
def test_what_a_killed_server_leaves_is_stale(server, path):
    one = server(ECHO, listen=[f"unix:{path}"])
    one.signal(signal.SIGKILL)
    one.wait_end()
    assert os.path.exists(path)
    with server(ECHO, listen=[f"unix:{path}"]).connect() as client:
        assert client.ask("again") == b"again"


@no_wine
def test_a_living_listener_is_left_alone(server, path):
    one = server(ECHO, listen=[f"unix:{path}"])
    done = run("--listen", f"unix:{path}")
    assert done.returncode == 4
    assert f"cannot listen on unix:{path}: address already in use" in done.stderr
    with one.connect() as client:
        assert client.ask("still here") == b"still here"


@no_wine
def test_a_file_that_is_no_socket_is_left_alone(path):
    with open(path, "w", encoding="ascii") as file:
        file.write("precious")
    done = run("--listen", f"unix:{path}")
    assert done.returncode == 4
    assert "there is a file of that name, and it is no socket" in done.stderr
    with open(path, encoding="ascii") as file:
        assert file.read() == "precious"


@no_wine
def test_a_directory_that_is_not_there_is_named(path):
    done = run("--listen", f"unix:{path}/nowhere")
    assert done.returncode == 4
    assert "there is no such directory" in done.stderr


@no_wine
def test_a_file_that_is_no_longer_ours_stays(server, path):
    one = server(ECHO, listen=[f"unix:{path}"])
    os.unlink(path)
    leave_stale(path)
    one.stop()
    assert os.path.exists(path)


@no_wine
def test_the_file_goes_when_another_address_cannot_be_had(server, path):
    one = server(ECHO, listen=["tcp://127.0.0.1:0"])
    done = run("--listen", f"unix:{path}", "--listen", f"tcp://127.0.0.1:{one.port}")
    assert done.returncode == 4
    assert not os.path.exists(path)


@no_wine
def test_two_that_start_at_once_do_not_both_win(path, tmp_path):
    leave_stale(path)
    script = tmp_path / "script.lua"
    script.write_text("portico.after(60, function() portico.shutdown() end)\n" + ECHO, encoding="ascii")
    words = [Settings.portico, "--workers", "1", "--listen", f"unix:{path}", str(script)]
    runs = [subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(4)]
    try:
        until(lambda: sum(one.poll() is not None for one in runs) == 3, 20, "the end of three")
        assert [one.returncode for one in runs if one.poll() is not None] == [4, 4, 4]
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(path)
            client.sendall(b"one")
            assert client.recv(3) == b"one"
    finally:
        for one in runs:
            one.kill()
            one.wait()
            one.stderr.close()


@no_wine
def test_a_directory_that_somebody_keeps_locked_stops_no_start(server, path):
    """Whoever may read a directory can lock it, and needs no other right."""
    lock = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        one = server("""return { on_message = function(conn)
            portico.listen(portico.args[1])
            return "listening"
          end }""", "--workers", "1", listen=[f"unix:{path}"], args=[f"unix:{path}2"])
        with one.connect() as client:
            assert client.send("x").take(9) == b"listening"
        assert os.path.exists(path + "2")
    finally:
        os.close(lock)


@no_wine
def test_abstract_names(server):
    name = f"@portico-test-{os.getpid()}-{Settings.backend}"
    one = server(ECHO, listen=[f"unix:{name}"])
    with one.connect() as client:
        assert client.ask("abstract") == b"abstract"
    done = run("--listen", f"unix:{name}")
    assert done.returncode == 4 and "address already in use" in done.stderr
    one.stop()
    server(ECHO, listen=[f"unix:{name}"])  # free at once


def test_a_path_that_is_too_long_is_refused_in_words():
    done = run("--listen", "unix:/" + "x" * 107)
    assert done.returncode == 2
    assert "the path has 108 bytes: a Unix socket's has 107 at most" in done.stderr


CLIENT = SAY + """
portico.after(0, function()
  local uri = portico.args[1]
  local conn, message, code = portico.connect(uri, { timeout = 5, on_message = function(c, data)
    say(data, c.peer, c.listener == uri, c.addr)
    c:close()
  end, on_close = function(_, reason) say(reason) portico.shutdown() end })
  if not conn then say(message, code) portico.shutdown() return end
  conn:send("hello")
end)
return { listen = {} }
"""


@pytest.mark.packets("both")
@no_wine
def test_a_script_connects(server, path):
    server("return { on_message = function(_, data) return data:upper() end }", listen=[f"unix:{path}"])
    one = server(CLIENT, "--workers", "1", args=[f"unix:{path}"], listen=[], ready=False)
    one.check_end()
    assert one.said() == ["HELLO unix true unix", "local"]


@no_wine
def test_connecting_fails_in_words(server, path):
    for uri, words in ((f"unix:{path}", "there is nothing of that name not_found"),
                       (f"unix:@portico-nobody-{os.getpid()}", "there is nothing of that name not_found"),
                       ("unix:" + "x" * 108, "the path has 108 bytes: a Unix socket's has 107 at most invalid")):
        one = server(CLIENT, "--workers", "1", args=[uri], listen=[], ready=False)
        one.check_end()
        assert one.said() == [words]
    leave_stale(path)
    one = server(CLIENT, "--workers", "1", args=[f"unix:{path}"], listen=[], ready=False)
    one.check_end()
    assert one.said() == ["connection refused refused"]


@no_wine
def test_a_full_queue_is_waited_for(server, path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        blocked = []
        for _ in range(5):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            blocked.append(client)
            try:
                client.connect(path)
            except BlockingIOError:
                break
        else:
            pytest.fail("the queue does not fill up")
        one = server(SAY + """
        portico.after(0, function()
          say(portico.connect(portico.args[1], { timeout = 0.2 }))
          say("and again")
          local conn = portico.connect(portico.args[1], { timeout = 10 })
          say(conn ~= nil)
          portico.shutdown()
        end)
        return { listen = {} }""", "--workers", "1", args=[f"unix:{path}"], listen=[], ready=False)
        one.wait_said(2)
        assert one.said()[0] == "nil timed out timeout"
        for _ in range(2):
            listener.accept()[0].close()
        assert one.wait_said(3)[2] == "true"
        one.check_end()
        for client in blocked:
            client.close()


def test_wrong_use_raises(server):
    one = server(SAY + """
    portico.after(0, function()
      say(pcall(portico.connect, "udp://127.0.0.1:1"))
      say(pcall(portico.connect, "unix:/x?mode=0600"))
      portico.shutdown()
    end)
    return { listen = {} }""", "--workers", "1", listen=[], ready=False)
    one.check_end()
    assert "for udp:// there is portico.udp" in one.said()[0]
    assert "mode: only a listener makes a file" in one.said()[1]


def test_windows_says_that_it_has_none():
    if not Settings.wine:
        pytest.skip("for Windows only")
    done = run("--listen", "unix:x.sock")
    assert done.returncode == 4
    assert "cannot listen on unix:x.sock: not supported on this system" in done.stderr
