"""What portico.keyspace promises to scripts; what clients of scripts/kv.lua see is in clients/test_redis.py."""

import pytest

from rig import SAY

SCRIPT = SAY + """
local keys = assert(require("portico.keyspace").open("test"))
%s
return { on_message = function() end }"""


@pytest.mark.parametrize("calls, said", [
    # Numbers are the texts that they are stored as, also as names of fields.
    ("say(keys:hash_set('h', '7', 8), keys:hash_set('h', 7, 1.5), (keys:hash_len('h')))", "1 0 1"),
    ("keys:hash_set('h', 7, 'x') say((keys:hash_get('h', 7)), (keys:hash_get('h', '7')))", "x x"),
    ("keys:hash_set('h', 7, 'x') say(keys:hash_delete('h', 7), keys:type('h'))", "1 nil"),
    ("keys:push('l', 'left', 5) say(math.type(keys:pop('l', 'left')))", "nil"),
    ("keys:set('s', 1.5) say(keys:get('s'), select(3, keys:incr('s', 1)))", "1.5 invalid"),
    ("keys:set('s', 5) say(keys:incr('s', 1), keys:incr('s', 2.0), keys:incr('s', '3'), (keys:incr('s')))", "6 8 11 12"),
    ("say(select(3, keys:incr('s', 1.5)), keys:type('s'))", "invalid nil"),
    # Where it is wrong is the script's line.
    ("say(pcall(function() keys:hash_set('h', 'a', 'b', 'c') end))", "hash_set: a field without a value"),
])
def test_numbers_and_fields(server, calls, said):
    one = server(SCRIPT % calls, "--workers", "1")
    assert one.wait_said(1)[-1].endswith(said)
