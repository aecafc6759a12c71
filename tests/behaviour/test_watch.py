"""A script that is saved is loaded again by itself, however editors save; the connections stay."""

import os
import shlex
import shutil
import subprocess
import time
from random import Random

import pytest

from rig import Settings, dawdle, scaled, until

TAKEN = r"reload: generation \d+ \(\w{12}\) takes over"
REFUSED = r"reload refused"

# Answers with its mark, whatever it gets.
MARK = "return { on_message = function(conn, data) return 'MARK' end }\n"


def text(mark):
    return MARK.replace("MARK", mark)


def write(path, content):
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(content)


def ask(client, count=4):
    return client.send("?").take(count).decode()


def wait_mark(client, mark, seconds=15):
    """On one connection, which stays open meanwhile."""
    until(lambda: ask(client) == mark, seconds, f"the answer {mark}")


# ---- The ways of saving ----


def truncate_and_write(path, content):
    write(path, content)


def rename_over(path, content):
    aside = path.with_name("." + path.name + ".swp")
    write(aside, content)
    os.replace(aside, path)


def rename_away_and_create(path, content):
    backup = path.with_name(path.name + "~")
    if backup.exists():
        backup.unlink()
    os.rename(path, backup)
    write(path, content)


def delete_and_create(path, content):
    path.unlink()
    write(path, content)


def swap_symbolic_link(path, content):
    target = path.with_name(f"target{time.monotonic_ns()}.lua")
    write(target, content)
    link = path.with_name("new_link")
    os.symlink(target.name, link)
    os.replace(link, path)


def swap_hard_link(path, content):
    target = path.with_name(f"target{time.monotonic_ns()}.lua")
    write(target, content)
    link = path.with_name("new_link")
    os.link(target, link)
    os.replace(link, path)


WAYS = [truncate_and_write, rename_over, rename_away_and_create, delete_and_create, swap_symbolic_link, swap_hard_link]


@pytest.mark.parametrize("mode", ["--watch", "--watch-poll"])
def test_every_way_of_saving_is_noticed(server, mode):
    one = server(text("0000"), watch=(mode,))
    path = one.directory / "script.lua"
    with one.connect() as client:
        assert ask(client) == "0000"
        for round_number in range(scaled(2, 1)):
            for number, way in enumerate(WAYS):
                mark = f"{round_number:02}{number:02}"
                way(path, text("a" + mark[1:]))
                wait_mark(client, "a" + mark[1:])


@pytest.mark.parametrize("way", WAYS)
def test_of_a_burst_the_last_version_runs(server, way):
    one = server(text("0000"), watch=("--watch",))
    path = one.directory / "script.lua"
    start = time.monotonic()
    with one.connect() as client:
        for burst in range(scaled(4, 2)):
            for number in range(20):
                way(path, text(f"{burst:02}{number:02}"))
            wait_mark(client, f"{burst:02}19")
    # Each has had 50 ms of rest before it.
    assert len(one.log(TAKEN)) <= (time.monotonic() - start) / 0.05 + 1


@pytest.mark.parametrize("mode", ["--watch", "--watch-poll"])
def test_after_any_mixture_of_saves_the_last_version_runs(server, mode):
    seed = int(os.environ.get("PORTICO_TEST_SEED", time.time_ns() % 1000000))
    print(f"PORTICO_TEST_SEED={seed}")
    random = Random(seed)
    one = server(text("0000"), watch=(mode,))
    path = one.directory / "script.lua"
    number = 0
    with one.connect() as client:
        for _ in range(scaled(12, 3)):
            for _ in range(random.randint(1, 12)):
                number += 1
                random.choice(WAYS)(path, text(f"{number:04}"))
                dawdle(random.choice((0, 0.001, 0.01, 0.04, 0.06)), "within what settles, and beyond")
            wait_mark(client, f"{number:04}")


# Programs that save files, with FROM and TO for the names; sh is everywhere but under Wine, where it runs outside of it.
TOOLS = {
    "cp": "cp FROM TO",
    "mv": "mv FROM TO",
    "install": "install FROM TO",
    "dd": "dd if=FROM of=TO status=none",
    "tee": "tee TO <FROM >/dev/null",
    "cat": "cat FROM >TO",
    "ln": "ln -f FROM TO",
    "link": "ln -sfn FROM TO",
    "sed": "cp FROM TO.new && sed -i s/MARK/MARK/ TO.new && mv TO.new TO",
    "backup": "cp -p TO TO~ && cp FROM TO",
    "preserve": "touch -r TO FROM && cp -p FROM TO",
}


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
def test_what_programs_save_is_noticed(server):
    one = server(text("0000"), watch=("--watch",))
    path = one.directory / "script.lua"
    with one.connect() as client:
        assert ask(client) == "0000"
        for number, (name, line) in enumerate(TOOLS.items()):
            source = path.with_name(f"from{number}")
            write(source, text(f"{number:04}"))
            line = line.replace("FROM", shlex.quote(str(source))).replace("TO", shlex.quote(str(path)))
            subprocess.run(["sh", "-c", line], check=True, timeout=20)
            try:
                wait_mark(client, f"{number:04}")
            except AssertionError as failure:
                raise AssertionError(f"{name}: {failure}\n{one.text()}") from None


def test_saves_while_clients_talk_break_nothing(server):
    one = server(text("0000"), watch=("--watch",))
    path = one.directory / "script.lua"
    clients = [one.connect() for _ in range(10)]
    count = scaled(60, 12)
    for number in range(1, count + 1):
        WAYS[number % len(WAYS)](path, text(f"{number:04}"))
        for client in clients:
            assert int(ask(client)) <= number
    for client in clients:
        wait_mark(client, f"{count:04}")
        client.close()


# Each line of it makes a script together with those before.
SLOW = ["function on_message() return 'half' end\n"] + ["-- more\n"] * 8 + ["function on_message() return 'full' end\n"]


def test_a_file_that_is_written_slowly_is_loaded_when_it_is_whole(server):
    one = server(text("0000"), watch=("--watch",))
    answers = []
    with one.connect() as client:
        rename_over(one.directory / "script.lua", text("aaaa"))
        wait_mark(client, "aaaa")  # from here on it hears of everything, and not only sees what has changed
        start = time.monotonic()
        with open(one.directory / "script.lua", "w", encoding="utf-8") as file:
            for line in SLOW:
                file.write(line)
                file.flush()
                dawdle(0.08, "slower than what settles")
                answers.append(ask(client))
        in_time = time.monotonic() - start < 3  # longer the writer is not waited for
        wait_mark(client, "full")
    # On Windows nothing tells that a file is still open.
    if in_time and not Settings.wine:
        assert set(answers) == {"aaaa"}


def test_a_broken_save_changes_nothing_and_a_good_one_follows(server):
    one = server(text("aaaa"), watch=("--watch",))
    path = one.directory / "script.lua"
    with one.connect() as client:
        assert ask(client) == "aaaa"
        write(path, "return {\n  on_message = function(\n")
        one.wait_log(REFUSED)
        assert one.wait_log(r"script\.lua:\d+: ")
        assert ask(client) == "aaaa"
        write(path, text("bbbb"))
        wait_mark(client, "bbbb")
    # On Windows a file may be read while it is empty: nothing tells that it is still open.
    assert len(one.log(REFUSED)) == 1 or Settings.wine


def test_a_missing_file_changes_nothing(server):
    one = server(text("aaaa"), watch=("--watch",))
    path = one.directory / "script.lua"
    with one.connect() as client:
        write(path, text("bbbb"))
        wait_mark(client, "bbbb")
        path.unlink()
        one.wait_log(REFUSED)
        assert ask(client) == "bbbb"
        write(path, text("cccc"))
        wait_mark(client, "cccc")
    assert len(one.log(REFUSED)) == 1  # though it was looked for more often


def test_a_save_without_a_change_is_no_reload(server):
    one = server(text("aaaa"), watch=("--watch",))
    path = one.directory / "script.lua"
    with one.connect() as client:
        for way in WAYS:
            way(path, text("aaaa"))
        os.utime(path)
        # What is saved afterwards is noticed afterwards: by then the touches have been, too.
        write(path, text("bbbb"))
        wait_mark(client, "bbbb")
    assert len(one.wait_log(TAKEN)) == 1


def test_other_files_of_the_directory_are_no_reload(server):
    one = server(text("aaaa"), watch=("--watch",))
    for number in range(20):
        write(one.directory / f"other{number}.txt", "x")
        write(one.directory / f"other{number}.lua", "x")
    with one.connect() as client:
        write(one.directory / "script.lua", text("bbbb"))
        wait_mark(client, "bbbb")
    assert len(one.wait_log(TAKEN)) == 1


MAIN = """local name = require("part")
local deep = require("inner.deep")
return { on_message = function() return name .. deep end }
"""


def test_modules_are_watched_too(server, tmp_path):
    home = tmp_path / "app"
    (home / "inner").mkdir(parents=True)
    write(home / "part.lua", "return 'aa'")
    write(home / "inner" / "deep.lua", "return 'bb'")
    write(home / "main.lua", MAIN)
    one = server(home / "main.lua", watch=("--watch",))
    with one.connect() as client:
        assert ask(client) == "aabb"
        write(home / "part.lua", "return 'cc'")
        wait_mark(client, "ccbb")
        rename_over(home / "inner" / "deep.lua", "return 'dd'")
        wait_mark(client, "ccdd")
        # A module that is broken is what was saved last: it is watched, although the version was refused.
        write(home / "part.lua", "return nil .. 1")
        one.wait_log(REFUSED)
        assert ask(client) == "ccdd"
        write(home / "part.lua", "return 'ee'")
        wait_mark(client, "eedd")
        # One that has just been added is watched from then on.
        write(home / "main.lua", MAIN.replace("'part'", '"part"').replace('require("part")', 'require("new")'))
        one.wait_log(REFUSED, 2)
        write(home / "new.lua", "return 'ff'")
        wait_mark(client, "ffdd")
        write(home / "new.lua", "return 'gg'")
        wait_mark(client, "ggdd")


def test_a_new_module_that_is_broken_is_watched_at_once(server):
    """Nothing else happens that could remind the server of it: no reload before, no command, no signal."""
    one = server(text("aaaa"), watch=("--watch",))
    write(one.directory / "new.lua", "return nil .. 1")
    dawdle(0.3, "what follows from its start would remind it, too")
    with one.connect() as client:
        write(one.directory / "script.lua", "local new = require('new') return { on_message = function() return new end }")
        one.wait_log(REFUSED)
        assert ask(client) == "aaaa"
        write(one.directory / "new.lua", "return 'bbbb'")
        wait_mark(client, "bbbb")


def test_a_module_that_is_wanted_no_more_may_stay_broken(server):
    one = server(text("aaaa"), watch=("--watch",))
    script = one.directory / "script.lua"
    with one.connect() as client:
        write(one.directory / "helper.lua", "return {\n  retrn x }")
        write(script, "local helper = require('helper')\n" + text("bbbb"))
        reason = one.wait_log(REFUSED)[0]
        assert "helper.lua:2: '}' expected" in reason and reason.endswith("near 'x' (in module 'helper')")
        write(script, text("cccc"))
        wait_mark(client, "cccc")
        # One that may be missing may be broken as well, at a reload as at the start.
        write(script, "pcall(require, 'helper')\n" + text("dddd"))
        wait_mark(client, "dddd")
        write(script, "pcall(require, 'helper')\n" + text("eeee"))
        wait_mark(client, "eeee")


def test_a_module_that_is_required_later_is_watched(server):
    one = server("return { on_message = function() return require('late') end }", watch=("--watch",))
    write(one.directory / "late.lua", "return 'aaaa'")
    with one.connect() as client:
        assert ask(client) == "aaaa"
        dawdle(0.3, "what follows from its start would remind it, too")
        write(one.directory / "late.lua", "return 'bbbb'")
        wait_mark(client, "bbbb")


def test_a_version_that_was_taken_back_is_tried_again_when_it_is_saved_again(server):
    one = server(text("aaaa"), watch=("--watch",))
    script = one.directory / "script.lua"
    write(script, "x x")
    one.wait_log(REFUSED)
    write(script, text("aaaa"))
    dawdle(0.3, "until it has been seen that this is what serves")
    write(script, "x x")
    one.wait_log(REFUSED, 2)
    with one.connect() as client:
        assert ask(client) == "aaaa"


def test_a_module_that_comes_after_it_was_looked_for_is_noticed(server):
    """Though the version in force goes on asking for it."""
    one = server("""local first = pcall(require, "plugin")
      return { on_message = function() pcall(require, "plugin") return first and "here" or "none" end }""", watch=("--watch",))
    with one.connect() as client:
        assert ask(client) == "none"
        dawdle(0.3, "what follows from its start would remind it, too")
        write(one.directory / "plugin.lua", "return 1")
        wait_mark(client, "here")


def test_names_of_modules_that_peers_choose_are_remembered_up_to_a_bound(server):
    asks = """return { on_message = function(conn, data)
      for i = 1, 6000 do pcall(require, "no" .. i) end
      return "aaaa" end }"""
    one = server(asks, "--workers", "1", watch=("--watch",))
    with one.connect() as client:
        assert ask(client) == "aaaa"
        write(one.directory / "script.lua", text("bbbb"))
        wait_mark(client, "bbbb")
    one.wait_log(r"warn .*no\d+\.lua is not there, like 1000 other files of modules: it will not be noticed when it comes")
    assert len(one.log("warn")) < 20, one.text()
    assert not one.log("saved modules will not all be noticed")


def test_a_stop_after_a_reload_refuses_none(server):
    """What the watch looks at once more by itself is nothing to warn of."""
    one = server(text("aaaa"), watch=("--watch",))
    with one.connect() as client:
        rename_over(one.directory / "script.lua", text("bbbb"))
        wait_mark(client, "bbbb")
        one.stop()
    assert one.log(REFUSED) == []


def test_a_release_is_swapped_by_its_link(server, tmp_path):
    for release in "12":
        (tmp_path / "releases" / release).mkdir(parents=True)
        write(tmp_path / "releases" / release / "part.lua", f"return 'v00{release}'")
        write(tmp_path / "releases" / release / "main.lua",
              "local part = require('part') return { on_message = function() return part end }")
    os.symlink("releases/1", tmp_path / "current")
    one = server(tmp_path / "current" / "main.lua", watch=("--watch",))
    with one.connect() as client:
        assert ask(client) == "v001"
        for release in "212":
            os.symlink(f"releases/{release}", tmp_path / "next")
            os.replace(tmp_path / "next", tmp_path / "current")
            wait_mark(client, f"v00{release}")


def test_a_directory_that_goes_and_comes_back_is_watched_again(server, tmp_path):
    home = tmp_path / "app"
    home.mkdir()
    write(home / "main.lua", text("aaaa"))
    one = server(home / "main.lua", watch=("--watch",))
    with one.connect() as client:
        assert ask(client) == "aaaa"
        if Settings.wine:
            shutil.rmtree(home)
        else:
            os.rename(home, tmp_path / "away")
        one.wait_log(REFUSED, seconds=20)
        home.mkdir()
        write(home / "main.lua", text("bbbb"))
        wait_mark(client, "bbbb", 20)
        write(home / "main.lua", text("cccc"))
        wait_mark(client, "cccc")


def test_watching_can_be_left_out(server):
    one = server(text("aaaa"), watch=("--no-watch",))
    with one.connect() as client:
        write(one.directory / "script.lua", text("bbbb"))
        # What is not to come has had ten times the time that it would need.
        assert client.silent(0.5)
        assert ask(client) == "aaaa"
    assert not one.log(TAKEN)


def test_files_are_watched_where_nothing_is_said(server):
    one = server(text("aaaa"), watch=())
    with one.connect() as client:
        write(one.directory / "script.lua", text("bbbb"))
        wait_mark(client, "bbbb")
