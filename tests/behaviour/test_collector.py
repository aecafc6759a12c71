"""Big heaps: they are collected in increments, and what the collector does is not counted as the handlers'."""

import pytest

from reloads import ASK, reload

# Tables that lie scattered and refer to each other, doubled until to collect everything takes FULL seconds of processor time.
FULL = 0.1
GROW = """
local count, row = 0, nil
repeat
  local added = math.max(count, 20000)
  for i = count + 1, count + added do put(i, {i}) end
  count = count + added
  for _ = 1, count do row = get(math.random(count)) row[2] = get(math.random(count)) end
  local began = os.clock()
  collectgarbage()
until os.clock() - began >= %g
portico.log.info("said: " .. count)
return { on_message = function(conn, data)
  for _ = 1, 250 do put(math.random(count), {1, data}) end
  return data
end }
""" % FULL
MANY_TABLES = """
local parts = {}
local function get(i) return parts[i // 1000][i %% 1000] end
local function put(i, row)
  local part = parts[i // 1000]
  if not part then part = {} parts[i // 1000] = part end
  part[i %% 1000] = row
end
""".replace("%%", "%") + GROW
ONE_TABLE = """
local rows = {}
local function get(i) return rows[i] end
local function put(i, row) rows[i] = row end
""" + GROW


def replace_everything(server, script, budget):
    """Sends messages until each table has been replaced three times, on average: the collector has work then."""
    one = server(script, "--workers", "1", "--lua-memory", "2G", "--callback-budget", str(budget), "--load-budget", "120")
    count = int(one.wait_said(1, seconds=60)[0])
    with one.connect(seconds=60) as client:
        for _ in range(3 * count // 250):
            assert client.ask("x") == b"x", one.text()
    assert not one.log("budget of"), one.text()
    one.stop()


def test_handlers_beside_a_big_heap_keep_their_budget(server):
    replace_everything(server, MANY_TABLES, FULL * 0.4)


def test_a_look_at_a_huge_table_is_not_counted_as_the_handlers(server):
    replace_everything(server, ONE_TABLE, FULL * 0.2)


# --sandbox off lets a script ask: whoever sets the collector is told how it was set.
KEEPS = """
local kept = {}
for i = 1, %d do kept[i] = ("x"):rep(1000) .. i end
return { on_message = function() %s end }
"""
MIB = 1000  # of kept strings


@pytest.mark.parametrize("mib, collects", [(0, "generational"), (0.5, "generational"), (4, "incremental"), (40, "incremental")])
def test_the_size_of_the_heap_decides_how_it_is_collected(server, mib, collects):
    one = server(KEEPS % (mib * MIB, "return collectgarbage('generational')"), "--sandbox", "off")
    with one.connect() as client:
        assert client.send("?").take(len(collects)).decode() == collects
    one.stop()


def test_a_heap_that_shrinks_is_collected_by_generations_again(server):
    one = server(KEEPS % (4 * MIB, "kept = {} collectgarbage() portico.sleep(0) return collectgarbage('generational')"), "--sandbox", "off")
    with one.connect() as client:
        assert client.send("?").take(12) == b"generational"
    one.stop()


@pytest.mark.parametrize("cap, least, most", [("1G", 200, 200), ("16M", 101, 130)])
def test_near_the_cap_a_collection_begins_sooner(server, cap, least, most):
    one = server(KEEPS % (10 * MIB, "return ('%3d'):format(collectgarbage('setpause', 200))"), "--sandbox", "off", "--lua-memory", cap)
    with one.connect() as client:
        assert least <= int(client.send("?").take(3)) <= most
    one.stop()


def test_what_a_script_has_set_stays(server):
    script = "collectgarbage('generational')" + KEEPS % (4 * MIB, "return collectgarbage('generational')")
    one = server(script, "--sandbox", "off")
    with one.connect() as client:
        for _ in range(2):
            assert client.send("?").take(12) == b"generational"
    one.stop()


# Fills its heap while it loads, goes on for a while, and says how that has been collected.
FILLS = """
local kept = {}
for i = 1, %d do kept[i] = ("x"):rep(1000) .. i end
local turns = 0
for i = 1, 100000 do turns = turns + i end
portico.log.info("said: " .. collectgarbage("generational"))
return { on_message = function(conn, data) %s return data end }
"""


def test_a_version_that_fills_its_heap_beside_the_one_in_force_is_collected_in_increments(server):
    one = server(FILLS % (4 * MIB, ASK), "--workers", "1", "--sandbox", "off")
    with one.connect() as client:
        reload(one, client)
    assert one.wait_said(2) == ["generational", "incremental"]
    one.stop()
