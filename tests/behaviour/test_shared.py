"""portico.shared: dictionaries that all workers see, and that outlive the script's generations."""

import pytest

from rig import SAY, scaled

# Each line that comes is Lua that gets the dictionary as d; its results go back as one line.
ASK = """
local d = assert(portico.shared("test"))
return {
  frame = { type = "line", max = 1 << 20 },
  on_message = function(conn, line)
    if line == "reload" then portico.reload() return "asked" end
    local results = table.pack(pcall(assert(load("local d, conn = ... return " .. line)), d, conn))
    for i = 1, results.n do results[i] = math.type(results[i]) == "float" and ("%.1f"):format(results[i]) or tostring(results[i]) end
    return table.concat(results, " ", results[1] == "true" and 2 or 1)
  end,
}
"""


class Asker:
    def __init__(self, one):
        self.client = one.connect()

    def __call__(self, line):
        return self.client.send(line + "\n").line().decode().rstrip("\n")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.client.close()


@pytest.fixture(name="ask")
def ask_fixture(server):
    with Asker(server(ASK, "--workers", "1")) as ask:
        yield ask


DIALOGUE = [
    ('d:get("a")', "nil"), ('d:set("a", 1)', "true"), ('d:get("a")', "1"), ('d:set("a", "x\\0y")', "true"), ('#d:get("a")', "3"),
    ('d:set("a", 1.0)', "true"), ('d:get("a")', "1.0"), ('d:set("a", false)', "true"), ('d:get("a")', "false"),
    ('d:add("a", 2)', "false"), ('d:delete("a")', "true"), ('d:delete("a")', "false"), ('d:add("a", 2)', "true"),
    ('d:incr("a")', "3"), ('d:incr("a", -10)', "-7"), ('d:incr("a", 0.5)', "-6.5"), ('d:incr("new", 1, 10)', "11"),
    ('d:set("s", "1")', "true"), ('d:incr("s")', "nil the value is not a number type"),
    ('d:set("s", math.maxinteger)', "true"), ('d:incr("s")', "nil the sum does not fit an integer range"),
    ('d:cas("c", nil, 1)', "true"), ('d:cas("c", nil, 1)', "false"), ('d:cas("c", 1.0, "x")', "true"), ('d:cas("c", "x", nil)', "true"),
    ('d:get("c")', "nil"),
    ('d:push("l", 1)', "1"), ('d:push("l", "two")', "2"), ('d:push("l", 0, "left")', "3"), ('d:len("l")', "3"), ('d:len("none")', "0"),
    ('d:get("l")', "nil the value is a list: range and pop read it type"), ('d:pop("l")', "0"), ('d:pop("l", "right")', "two"),
    ('d:pop("l")', "1"), ('d:pop("l")', "nil"), ('d:push("a", 1)', "nil the value is not a list type"),
    ('d:pop("a")', "nil the value is not a list type"), ('d:len("a")', "nil the value is not a list type"),
    ('d:push("r", 1), d:push("r", "two"), d:push("r", 3.5), d:push("r", ""), d:push("r", false)', "1 2 3 4 5"),
    ('table.unpack(d:range("r"))', "1 two 3.5  false"), ('table.unpack(d:range("r", 2, 3))', "two 3.5"),
    ('table.unpack(d:range("r", -2))', " false"), ('table.unpack(d:range("r", -9, -4))', "1 two"), ('#d:range("r", 4, 9)', "2"),
    ('#d:range("r", 4, 3)', "0"), ('#d:range("r", 0, 0)', "0"), ('#d:range("r", 6)', "0"), ('#d:range("r", 1, -6)', "0"),
    ('#d:range("r", math.mininteger, math.maxinteger)', "5"), ('#d:range("r", math.maxinteger, math.mininteger)', "0"),
    ('#d:range("none")', "0"), ('d:range("a")', "nil the value is not a list type"), ('d:delete("r")', "true"),
    ('d:count()', "3"), ('#d:keys()', "3"), ('d:keys("ne")[1]', "new"), ('#d:keys("", 2)', "2"), ('#d:keys("none")', "0"),
    ('d:ttl("a")', "inf"), ('d:ttl("none")', "nil not found not_found"), ('d:expire("none", 1)', "false"),
    ('d:expire("a", 1000)', "true"), ('d:ttl("a") > 990', "true"), ('d:expire("a")', "true"), ('d:ttl("a")', "inf"),
    ('d:set("a", 1, 1000)', "true"), ('d:ttl("a") <= 1000', "true"), ('d:set("a", 1)', "true"), ('d:ttl("a")', "inf"),
    ('portico.shared("other"):get("a")', "nil"), ('portico.shared("test"):get("a")', "1"), ('d:flush()', "true"), ('d:count()', "0"),
    ('tostring(d):match("^shared dictionary")', "shared dictionary"), ('getmetatable(d)', "shared dictionary"),
]


def test_a_dictionary_keeps_values(ask):
    for line, expected in DIALOGUE:
        assert ask(line) == expected, line


@pytest.mark.parametrize("line,problem", [
    ("portico.shared()", "bad argument #1 to 'shared' (string expected, got no value)"),
    ("portico.shared(1)", "bad argument #1 to 'shared' (string expected, got number)"),
    ("d.get()", "bad argument #1 to 'get' (shared dictionary expected, got no value)"),
    ("d.get(io.stdout, 'a')", "bad argument #1 to 'get' (shared dictionary expected, got FILE*)"),
    ("d:get(1)", "bad argument #1 to 'get' (string expected, got number)"),
    ("d:get(('x'):rep(65536))", "bad argument #1 to 'get' (a string of at most 65535 bytes expected)"),
    ("d:set('a')", "bad argument #2 to 'set' (string, number or boolean expected, got no value)"),
    ("d:set('a', {})", "bad argument #2 to 'set' (string, number or boolean expected, got table)"),
    ("d:set('a', print)", "bad argument #2 to 'set' (string, number or boolean expected, got function)"),
    ("d:set('a', 1, 0)", "bad argument #3 to 'set' (seconds above 0, or nil for ever, expected)"),
    ("d:set('a', 1, -1)", "bad argument #3 to 'set' (seconds from 0 to"),
    ("d:set('a', 1, 'x')", "bad argument #3 to 'set' (number expected, got string)"),
    ("d:incr('a', 'x')", "bad argument #2 to 'incr' (number expected, got string)"),
    ("d:cas('a', {}, 1)", "bad argument #2 to 'cas' (string, number or boolean expected, got table)"),
    ("d:push('a', nil)", "bad argument #2 to 'push' (string, number or boolean expected, got nil)"),
    ("d:push('a', 1, 'top')", "bad argument #3 to 'push' (invalid option 'top')"),
    ("d:range('l', 'x')", "bad argument #2 to 'range' (number expected, got string)"),
    ("d:range('l', 1, 1.5)", "bad argument #3 to 'range' (number has no integer representation)"),
    ("d:keys({})", "bad argument #1 to 'keys' (string expected, got table)"),
    ("d:keys('', 0)", "bad argument #2 to 'keys' (a number of keys from 1 on expected)"),
])
def test_wrong_use_raises(ask, line, problem):
    answer = ask(line)
    assert answer.startswith("false ") and problem in answer
    assert ask("d:count()") == "0"


def test_values_expire(ask):
    assert ask('d:set("a", 1, 0.2)') == "true"
    assert ask('d:incr("n", 1, 0, 0.2)') == "1"
    assert ask('d:incr("n", 1, 0, 1000)') == "2"
    assert ask('portico.sleep(0.25)') == ""
    assert ask('d:get("a"), d:get("n"), d:count()') == "nil nil 0"


def test_the_cap_is_refused_in_words(server):
    one = server(ASK, "--workers", "1", "--shared-memory", "1M")
    with Asker(one) as ask:
        full = "nil full: all dictionaries together may have 1048576 bytes (--shared-memory) limit"
        assert ask('d:set("a", ("x"):rep(2 << 20))') == full
        assert ask('d:set("a", ("x"):rep(500000))') == "true"
        assert ask('d:set("b", ("x"):rep(600000))') == full
        assert ask('d:push("l", ("x"):rep(600000))') == full
        assert ask('#d:get("a"), d:count()') == "500000 1"  # what is there stays, and nothing else has come
        assert ask('d:delete("a"), d:set("b", ("x"):rep(600000)), d:pop("l")') == "true true nil"
    one.stop()


def test_what_has_expired_makes_room_for_other_dictionaries(server):
    one = server(ASK, "--workers", "1", "--shared-memory", "8M")
    with Asker(one) as ask:
        assert ask('portico.shared("other"):count()') == "0"
        kept = int(ask('(function() local n, x = 0, ("x"):rep(400) while d:set("k" .. n, x) do n = n + 1 end return n end)()'))
        assert kept > 5000
        assert ask('portico.shared("other"):set("big", ("x"):rep(7000000)) == nil') == "true"
        assert ask(f'(function() for i = 0, {kept - 1} do d:expire("k" .. i, 0.01) end end)()') == ""
        assert ask('portico.sleep(0.05)') == ""
        assert ask('portico.shared("other"):set("big", ("x"):rep(7000000))') == "true"
        assert ask('#portico.shared("other"):get("big"), d:set("b", ("x"):rep(1200000)), d:count()') == "7000000 true 1"
    one.stop()


def test_a_full_store_takes_a_smaller_value_for_a_larger_one(server):
    one = server(ASK, "--workers", "1", "--shared-memory", "1M")
    with Asker(one) as ask:
        assert ask('(function() local n = 0 while d:set("n" .. n, ("x"):rep(100000)) do n = n + 1 end return n end)()') == "10"
        assert ask('(function() while d:push("l", 1) do end return d:len("l") > 100 end)()') == "true"
        assert ask('d:set("n1", ("x"):rep(90000)), #d:get("n1")') == "true 90000"
        assert ask('d:set("l", "small"), d:get("l")') == "true small"
        assert ask('d:cas("l", "small", ("x"):rep(20000)), d:len("l")') == "true nil the value is not a list type"
    one.stop()


def test_large_values_come_back_whole(ask):
    """Also those that do not fit the buffer in which small ones are copied."""
    for size in (0, 65535, 65536, 65537, 3_000_000):
        assert ask(f'd:set("a", ("abc"):rep({size}):sub(1, {size}))') == "true"
        assert ask(f'd:get("a") == ("abc"):rep({size}):sub(1, {size})') == "true"
        assert ask(f'd:push("l", d:get("a")), #d:pop("l"), d:count()') == f"1 {size} 1"


def test_a_popped_value_that_does_not_fit_goes_back(server):
    one = server(ASK, "--workers", "1", "--lua-memory", "8M", "--shared-memory", "64M")
    with Asker(one) as ask:
        assert ask('(function() for i = 1, 5 do d:push("l", ("x"):rep(1000000)) collectgarbage() end return d:len("l") end)()') == "5"
        answer = ask('(function() local kept = {} while true do kept[#kept + 1] = d:pop("l") or error("none left") end end)()')
        assert "not enough memory" in answer or "none left" in answer
    one.stop()


def test_workers_see_one_dictionary(server):
    count = scaled(2000)
    one = server(SAY + f"""
      local d = portico.shared("numbers")
      local function run()
        for i = 1, {count} do
          d:incr("sum")
          d:push("queue", portico.worker.id)
          local old
          repeat old = d:get("cas") or 0 until d:cas("cas", d:get("cas") and old, old + 1)
          if i % 100 == 0 then portico.sleep(0) end
        end
        if d:incr("done") < portico.worker.count then return end
        local taken = {{}}
        for id in function() return d:pop("queue") end do taken[id] = (taken[id] or 0) + 1 end
        say(d:get("sum"), d:get("cas"), taken[0], taken[1], taken[2], taken[3])
      end
      return {{ on_load = function() portico.after(0, run) end, on_message = print }}""", "--workers", "4")
    assert one.wait_said(1, seconds=60) == [f"{4 * count} {4 * count}" + f" {count}" * 4]
    one.stop()


def test_a_dictionary_outlives_generations(server):
    one = server(ASK, "--workers", "2")
    with Asker(one) as ask:
        assert ask('d:set("a", "kept"), d:push("l", 1), d:set("mortal", 1, 0.3)') == "true 1 true"
        for number in range(2, 5):
            (one.directory / "script.lua").write_text(ASK + f"-- {number}\n", encoding="utf-8")
            assert ask("reload") == "asked"
            one.wait_log(f"reload: generation {number} ")
            assert ask('conn.generation, d:get("a"), d:len("l")') == f"{number} kept 1"
        assert ask('portico.sleep(0.3)') == ""
        assert ask('d:get("mortal")') == "nil"
    one.stop()


def test_a_thousand_dictionaries_and_no_more(ask):
    assert ask('(function() for i = 1, 1023 do assert(portico.shared("d" .. i)) end end)()') == ""
    assert ask('portico.shared("one more")') == "nil full: there is no room for another dictionary limit"
    assert ask('portico.shared("d7"):set("a", 1)') == "true"
