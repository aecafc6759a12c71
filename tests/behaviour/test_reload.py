"""One version of the script follows another while connections stay open: what is carried over, and what a bad version does."""

import pytest

from rig import SAY, Settings, until

# A version is told apart by its mark: echoes "mark:data". The word "reload" reloads, on every system alike.
TELLER = """local mark = "%s"
return {
  on_message = function(conn, data)
    if data == "reload" then portico.reload() return "asked" end
    return mark .. ":" .. data
  end,
}
"""
ASK = "if data == 'reload' then portico.reload() return 'asked' end "

TAKEN = r"reload: generation \d+ \(\w{12}\) takes over from generation \d+"
REFUSED = r"reload refused, generation \d+ \(\w{12}\) serves on: "
UNDONE = r"reload undone: generation \d+ \(\w{12}\) serves again"


def reload(one, client, expect=TAKEN, before=None):
    """Has the server reload, and waits for what comes of it. Returns the line of the log."""
    count = len(one.log(expect)) if before is None else before
    assert client.ask_word("reload") == "asked"
    return one.wait_log(expect, count + 1)[-1]


@pytest.fixture(autouse=True)
def words(monkeypatch):
    import rig

    def ask_word(client, word):
        client.send(word)
        return client.socket.recv(1 << 16).decode()

    monkeypatch.setattr(rig.Client, "ask_word", ask_word, raising=False)


def save(one, text):
    (one.directory / "script.lua").write_text(text, encoding="utf-8")


def test_an_open_connection_is_served_by_the_new_version(server):
    one = server(TELLER % "a")
    with one.connect() as client:
        assert client.ask_word("x") == "a:x"
        save(one, TELLER % "b")
        line = reload(one, client)
        assert "generation 2" in line and "from generation 1" in line
        assert client.ask_word("x") == "b:x"
        with one.connect() as other:
            assert other.ask_word("y") == "b:y"


def test_the_same_text_may_be_loaded_again(server):
    one = server(TELLER % "a")
    with one.connect() as client:
        for number in range(2, 6):
            assert f"generation {number} " in reload(one, client)
        assert client.ask_word("x") == "a:x"


STATEFUL = """local version = %d
return {
  version = version,
  on_message = function(conn, data)
    if data == "reload" then portico.reload() return "asked" end
    local state = conn.state
    state.count = (state.count or 0) + 1
    return version .. ":" .. conn.generation .. ":" .. state.count .. ":" .. tostring(state.note)
  end,
  %s
}
"""


def test_the_state_of_a_connection_is_carried_over(server):
    one = server(STATEFUL % (1, ""))
    with one.connect() as client:
        assert client.ask_word("x") == "1:1:1:nil"
        reload(one, client)
        assert client.ask_word("x") == "1:2:2:nil"


def test_migrate_changes_the_state_of_each_connection(server):
    one = server(STATEFUL % (1, ""))
    with one.connect() as client, one.connect() as fresh:
        assert client.ask_word("x") == "1:1:1:nil"
        save(one, STATEFUL % (2, "migrate = function(state, from) state.note = 'was ' .. from; return state end"))
        reload(one, client)
        assert client.ask_word("x") == "2:2:2:was 1"
        assert fresh.ask_word("x") == "2:2:1:was 1"


def test_a_version_whose_handlers_raise_is_undone(server):
    one = server(STATEFUL % (1, ""), "--reload-error-limit", "2")
    clients = [one.connect() for _ in range(5)]
    for client in clients:
        assert client.ask_word("x") == "1:1:1:nil"
    save(one, "return { version = 1, on_error = function() return 'keep' end, on_message = function(conn) conn.state.count = 99 error('bad') end }")
    reload(one, clients[0])
    for client in clients[:3]:
        client.send("x")
    assert "3 errors" in one.wait_log(UNDONE)[0]
    for client in clients:
        assert client.ask_word("x") == "1:1:2:nil"
        client.close()
