"""Several workers: each connection belongs to one of them, for life."""

from collections import Counter

import pytest

from rig import SAY, in_background, run, scaled

# Each worker has its own Lua state, so a table made at load time tells them apart.
NAME = SAY + """
local me = tostring({})
return {
  on_connect = function(conn) conn:send(me .. "\\n") end,
  on_message = function(conn, data) conn:send(me .. "\\n") end,
}
"""


def test_connections_are_dealt_to_both_workers(server):
    one = server(NAME, "--workers", "2")
    clients = [one.connect() for _ in range(20)]
    names = Counter(client.line() for client in clients)
    assert len(names) == 2, names
    assert min(names.values()) >= 5, names
    for client in clients:
        client.close()


def test_a_connection_stays_with_its_worker(server):
    one = server(NAME, "--workers", "2")
    clients = [one.connect() for _ in range(4)]
    names = [client.line() for client in clients]
    for _ in range(20):
        for client, name in zip(clients, names):
            client.send("?")
            assert client.line() == name
    for client in clients:
        client.close()


def test_ids_of_connections_are_unique_over_all_workers(server):
    one = server("return { on_connect = function(conn) conn:send(conn.id .. '\\n') end }", "--workers", "3")
    ids = set()
    for _ in range(5):
        clients = [one.connect() for _ in range(12)]
        ids.update(client.line() for client in clients)
        for client in clients:
            client.close()
    assert len(ids) == 60


@pytest.mark.packets("received")
def test_the_free_worker_serves_while_the_other_is_busy(server):
    one = server("""
      local me = tostring({})
      return { on_message = function(conn, data)
        if data == "busy" then
          conn:send("go\\n")
          portico.after(0, function() local e = portico.monotonic() + 1 while portico.monotonic() < e do end end)
        else
          conn:send(me .. "\\n")
        end
      end }""", "--workers", "2", "--callback-budget", "0")
    clients = [one.connect() for _ in range(2)]
    names = []
    for client in clients:
        client.send("?")
        names.append(client.line())
    assert names[0] != names[1]
    clients[0].send("busy")
    assert clients[0].line() == b"go\n"
    for _ in range(20):
        clients[1].send("?")
        assert clients[1].line() == names[1]
    for client in clients:
        client.close()


def test_all_workers_echo_under_load(server):
    one = server("return { on_message = function(conn, data) conn:send(data) end }", "--workers", "4")

    def work(number):
        with one.connect() as client:
            for turn in range(scaled(300, 30)):
                message = b"%d:%d;" % (number, turn) * 20
                assert client.ask(message) == message

    for job in [in_background(work, number) for number in range(8)]:
        job.result()


def test_a_script_that_fails_on_a_later_worker_ends_the_start(tmp_path):
    """The first load succeeds, the second finds a file that the first has left."""
    mark = tmp_path / "mark"
    path = tmp_path / "script.lua"
    path.write_text(f"""
      local file = io.open("{mark.as_posix()}")
      if file then file:close() error("second load") end
      io.open("{mark.as_posix()}", "w"):close()
      return {{}}
    """, encoding="utf-8")
    result = run("--listen", "tcp://127.0.0.1:0", "--workers", "2", path)
    assert result.returncode == 3, result.stderr
    assert result.stderr.count("second load") == 1


COUNT = SAY + """
return { workers = %s, listen = {}, on_load = function(ctx) say(ctx.worker, ctx.workers, portico.worker.count) end }
"""


def test_a_script_says_how_many_workers_it_wants(server):
    for wish in (1, 3):
        one = server(COUNT % wish)
        assert one.wait_said(wish) == [f"{id} {wish} {wish}" for id in range(wish)]
        one.wait_log(rf"\b{wish} worker")
        one.stop()


def test_the_command_line_knows_better(server):
    one = server(COUNT % 1, "--workers", "2")
    assert one.wait_said(2) == ["0 2 2", "1 2 2"]


def test_connections_of_a_script_with_more_workers_than_processors(server):
    one = server("return { workers = 7, on_connect = function(conn) conn:send(portico.worker.id .. ' ' .. conn.id, '\\n') end }")
    clients = [one.connect() for _ in range(21)]
    places = [tuple(map(int, client.line().split())) for client in clients]
    assert {worker for worker, _ in places} == set(range(7))
    assert len({identity for _, identity in places}) == 21
    assert all((identity - 1) % 7 == worker for worker, identity in places)
    for client in clients:
        client.close()


def test_wrong_wishes_are_refused(tmp_path):
    for wish in ("0", "257", "1.5", "'2'", "true", "-1"):
        path = tmp_path / "script.lua"
        path.write_text(f"return {{ workers = {wish} }}", encoding="utf-8")
        result = run("--listen", "tcp://127.0.0.1:0", path)
        assert result.returncode == 3, wish
        assert "workers: a whole number from 1 to 256 expected" in result.stderr, wish


def test_a_reload_does_not_change_how_many_there_are(server):
    one = server(COUNT % 2, watch=())
    one.wait_said(2)
    (one.directory / "script.lua").write_text(COUNT % 3, encoding="utf-8")
    one.wait_log("workers = 3 is for the next start: there are 2")
    assert sorted(one.wait_said(4)) == ["0 2 2", "0 2 2", "1 2 2", "1 2 2"]
