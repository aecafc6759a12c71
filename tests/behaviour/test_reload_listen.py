"""What is listened on follows the script."""

import socket
import stat

import pytest

from reloads import ASK, REFUSED, UNDONE, reload, save, say
from rig import Client, free_port, refuses, until

pytestmark = pytest.mark.packets("both")

TEXT = "return { listen = { %s }, on_message = function(conn, data) " + ASK + \
    "if data == 'fail' then error('bad') end return conn.listener end, on_error = function() return 'keep' end }"


def script(*uris):
    return TEXT % ", ".join(f"'{uri}'" for uri in uris)


def uri(port):
    return f"tcp://127.0.0.1:{port}"


def test_addresses_come_and_go_with_the_script(server):
    first, second, third = free_port(), free_port(), free_port()
    one = server(script(uri(first), uri(second)), "--reload-probation", "0", listen=())
    with one.connect() as client, Client(("127.0.0.1", second)) as other:
        assert say(client, "x") == uri(first)
        assert say(other, "x") == uri(second)
        save(one, script(uri(first), uri(third)))
        reload(one, client)
        one.wait_log(f"listening on .*{third}")
        with Client(("127.0.0.1", third)) as fresh:
            assert say(fresh, "x") == uri(third)
        until(lambda: refuses(second), 10, "the end of listening")
        assert say(other, "x") == uri(second)  # who is there stays
        save(one, script(uri(first), uri(second)))
        reload(one, client)
        until(lambda: not refuses(second), 10, "listening")
        until(lambda: refuses(third), 10, "the end of listening")
    wanted = sorted([uri(first), uri(second)])
    until(lambda: sorted(one.address_file.read_text().split()) == wanted, 10, "the addresses in the file")


def test_an_address_that_cannot_be_had_refuses_the_reload(server):
    first = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        one = server(script(uri(first)), listen=())
        with one.connect() as client:
            save(one, script(uri(first), uri(taken.getsockname()[1])))
            assert "cannot listen on" in reload(one, client, REFUSED)
            save(one, script(uri(first), "tcp://nowhere"))
            assert "cannot use 'tcp://nowhere' in `listen`" in reload(one, client, REFUSED)
            assert say(client, "x") == uri(first)


def test_during_probation_both_are_listened_on_and_going_back_ends_the_new(server):
    first, second = free_port(), free_port()
    one = server(script(uri(first)), "--reload-error-limit", "0", listen=())
    with one.connect() as client:
        save(one, script(uri(second)))
        reload(one, client)
        with Client(("127.0.0.1", second)) as fresh, Client(("127.0.0.1", first)) as old:
            assert say(fresh, "x") == uri(second)
            assert say(old, "x") == uri(first)
            fresh.send("fail")
            one.wait_log(UNDONE)
            until(lambda: refuses(second), 10, "the end of listening")
            assert say(fresh, "x") == uri(second)
            assert say(old, "x") == uri(first)
        assert not refuses(first)


def test_the_command_line_wins_over_every_version(server):
    other = free_port()
    one = server(script("tcp://127.0.0.1:1"))
    with one.connect() as client:
        save(one, script(uri(other)))
        reload(one, client)
        assert refuses(other)


def test_a_port_that_the_system_chose_stays(server):
    one = server(script("tcp://127.0.0.1:0", "tcp://127.0.0.1:0"), "--reload-probation", "0", listen=())
    assert len(one.addresses) == 2
    with one.connect() as client:
        for _ in range(3):
            reload(one, client)
        assert not refuses(one.addresses[0][1]) and not refuses(one.addresses[1][1])
        assert not one.log("from now on")


@pytest.mark.no_wine("there are no Unix sockets")
def test_unix_sockets_follow_too(server, tmp_path):
    path = tmp_path / "a.sock"
    first = free_port()
    one = server(script(uri(first)), "--reload-probation", "0", listen=())
    with one.connect() as client:
        save(one, script(uri(first), f"unix:{path}"))
        reload(one, client)
        with socket.socket(socket.AF_UNIX) as peer:
            until(path.exists, 10, "the socket")
            peer.connect(str(path))
            peer.sendall(b"x")
            assert peer.recv(100).decode() == f"unix:{path}"
        save(one, script(uri(first)))
        reload(one, client)
        until(lambda: not path.exists(), 10, "the end of the socket")


@pytest.mark.no_wine("there are no Unix sockets")
def test_the_permissions_of_a_unix_socket_are_those_that_the_version_in_force_names(server, tmp_path):
    path = tmp_path / "a.sock"
    first = free_port()

    def version(mode):
        return script(uri(first), f"unix:{path}{mode}")

    def permissions():
        return stat.S_IMODE(path.stat().st_mode)

    one = server(version(""), "--reload-error-limit", "0", listen=())
    with one.connect() as client:
        default = permissions()
        save(one, version("?mode=0600"))
        reload(one, client)
        assert permissions() == 0o600
        path.chmod(0o640)  # somebody's own doing is left alone as long as the scripts say the same
        save(one, version("?mode=0600") + "-- the same")
        reload(one, client)
        assert permissions() == 0o640
        save(one, version("?mode=0666"))
        reload(one, client)
        assert permissions() == 0o666
        path.unlink()
        save(one, version(""))
        assert "takes over" in reload(one, client)
        assert len(one.wait_log("cannot change the permissions of unix:.*a.sock: there is nothing of that name")) == 1
    assert default not in (0o600, 0o666)


@pytest.mark.no_wine("there are no Unix sockets")
def test_going_back_gives_a_unix_socket_its_permissions_back(server, tmp_path):
    path = tmp_path / "a.sock"
    first = free_port()
    one = server(script(uri(first), f"unix:{path}"), "--reload-error-limit", "0", listen=())
    default = path.stat().st_mode
    with one.connect() as client:
        save(one, f"return {{ listen = {{ '{uri(first)}', 'unix:{path}?mode=0600' }}, on_message = function() error('unfit') end }}")
        reload(one, client)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client.send("x")
        one.wait_log(UNDONE)
        until(lambda: path.stat().st_mode == default, 10, "the permissions")
