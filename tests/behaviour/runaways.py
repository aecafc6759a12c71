"""Lets runaways loose on one worker while another of its connections asks for an answer."""

import re
import time

from rig import Settings, dawdle

LATE = 0.03  # behind the budget, in processor time of the worker's

SCRIPT = """
local loader = coroutine.create(function() while true do end end)
local run = {
%s
}
return { on_message = function(conn, data)
  local name = data:match("^run (.*)")
  if not name then return data end
  assert(run[name], "no such row")(conn)
  error("it came to its end")
end }
"""


def told(one, ending):
    overflow = "stack overflow|error in error handling"  # the latter where a collection has just taken the room for errors (luaD_checkminstack in ldo.c)
    budget, memory = r"script\.lua:\d+: callback budget of .* exceeded", r"not enough memory \(cap 64 MiB\), for the second time"
    known = {"budget": budget, "memory": memory, "either": f"{budget}|{memory}", "overflow": overflow}
    return len(one.log(known.get(ending, re.escape(ending))))


def run(one, canary, name, ending):
    """Returns whether it ended so, how long the canary waited, and the processor time of all that."""
    assert canary.ask("x") == b"x"
    before, errors = told(one, ending), len(one.log("in on_message of conn"))
    with one.connect(seconds=60) as client:
        spent = 0 if Settings.wine else one.thread_seconds("worker 0")
        client.send("run " + name)
        dawdle(0.005, "it is the runaway that the canary is to find")
        begin = time.monotonic()
        assert canary.ask("x") == b"x"
        waited = time.monotonic() - begin
        assert client.is_over()
        spent = 0 if Settings.wine else one.thread_seconds("worker 0") - spent
    one.wait_log("in on_message of conn", errors + 1)
    return told(one, ending) == before + 1, waited, spent


def let_loose(server, rows, budget=0.1):
    """rows: name -> (Lua, how it ends: see test_runaway.py). Each ends so, and within 30 ms of processor time behind the budget."""
    script = SCRIPT % "\n".join(f'["{name}"] = function(conn) {code} end,' for name, (code, _) in rows.items())
    one = server(script, "--workers", "1", "--callback-budget", str(budget))
    wrong = []
    with one.connect(seconds=60) as canary:
        for name, (_, ending) in rows.items():
            # What takes too long may have had a bad moment: a machine whose processors are shared counts what others took.
            for last in (False, True):
                ended, waited, spent = run(one, canary, name, ending)
                is_late = spent > budget + LATE * Settings.patience or Settings.wine and waited > 2 * Settings.patience
                print(f"{name:40} {ending:30} canary {waited * 1000:6.0f} ms, processor {spent * 1000:6.0f} ms"
                      f"{' late' if is_late else ''}{'' if ended else ' NO'}")
                if not ended or is_late and last:
                    wrong.append((name, waited, spent, one.log()[-1]))
                if not is_late:
                    break
    one.stop()
    assert not wrong, "\n".join(map(str, wrong)) + "\n" + one.text()
