"""scripts/kv.lua, judged by Redis's own clients: redis-cli and redis-benchmark."""

import contextlib
import re
import shutil
import subprocess

import pytest

import reloads
import rig

pytestmark = pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-tools is not installed (./dev setup test)")


@pytest.fixture
def kv(server, scripts):
    return server(scripts / "kv.lua")


def cli(kv, *words, stdin=None):
    """What redis-cli prints, line by line."""
    done = subprocess.run(["redis-cli", "-p", str(kv.port), *words], input=stdin, stdin=None if stdin else subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", timeout=20 * rig.Settings.patience)
    return done.stdout.splitlines()


def script(kv, text):
    """Several commands over one connection."""
    return cli(kv, stdin=text)


def test_strings(kv):
    assert script(kv, 'SET a 1\nGET a\nGET b\nAPPEND a "2 3"\nSTRLEN a\nMSET x 1 y "two words"\nMGET x nope y\n') == [
        "OK", "1", "", "4", "4", "OK", "1", "", "two words"]
    assert script(kv, "SET a 2 NX\nSET new 2 NX\nSET none 1 XX\nGET a\nDEL a new nope\nEXISTS a\n") == [
        "", "OK", "", "12 3", "2", "0"]
    assert script(kv, "SET a 1 BOGUS\n") == ["ERR syntax error", ""]


def test_bytes_of_all_kinds(kv):
    every = bytes(range(256)) * 40
    with kv.connect() as client:
        client.send(b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$%d\r\n%s\r\n" % (len(every), every))
        assert client.line() == b"+OK\r\n"
        assert client.ask(b"*2\r\n$3\r\nGET\r\n$1\r\nb\r\n")[:1] == b"$"
    done = subprocess.run(["redis-cli", "-p", str(kv.port), "--raw", "GET", "b"], stdout=subprocess.PIPE, timeout=20, check=True)
    assert done.stdout == every + b"\n"


def test_counters(kv):
    assert script(kv, "INCR n\nINCR n\nDECR n\nINCRBY n 40\nSET s x\nINCR s\nSET m 9223372036854775807\nINCR m\n") == [
        "1", "2", "1", "41", "OK", "ERR value is not an integer or out of range", "", "OK",
        "ERR increment or decrement would overflow", ""]


def test_a_counter_that_was_written_in_parts(kv):
    assert script(kv, "SET n 1\nAPPEND n 0\nINCR n\nGET n\nAPPEND new 4\nINCR new\nAPPEND n x\nGET n\n") == [
        "OK", "2", "11", "11", "1", "5", "3", "11x"]


def test_a_key_that_is_too_long(kv):
    key = "k" * 65536
    with kv.connect() as client:
        def send(*texts):
            client.send("*%d\r\n" % len(texts) + "".join("$%d\r\n%s\r\n" % (len(text), text) for text in texts))
            return client.line()

        refused = b"-ERR the key is longer than 65535 bytes\r\n"
        for words in (["SET", key, "x"], ["GET", key], ["INCR", key], ["RPUSH", key, "x"], ["HSET", key, "f", "v"], ["LRANGE", key, "0", "1"],
                      ["HGETALL", key], ["EXPIRE", key, "9"], ["MSET", "a", "1", key, "2"]):
            assert send(*words) == refused, words[0]
        assert send("EXISTS", key) == send("DEL", key) == b":0\r\n" and send("TTL", key) == b":-2\r\n"
        assert send("SET", key[1:], "x") == b"+OK\r\n"


def test_keys(kv):
    for key in ("one", "two", "three", "a.b", "a*b", "", "aXbXc"):
        cli(kv, "SET", key, "x")

    def keys(glob):
        return sorted(cli(kv, "KEYS", glob))

    assert keys("*") == ["", "a*b", "a.b", "aXbXc", "one", "three", "two"]
    assert keys("t*") == ["three", "two"] and keys("*e") == ["one", "three"] and keys("t*e*e") == ["three"] and keys("t*e*e*e") == [""]
    assert keys("a?b") == ["a*b", "a.b"] and keys("a.b") == ["a.b"] and keys("???") == ["a*b", "a.b", "one", "two"]
    assert keys("*X*X*") == ["aXbXc"] and keys("on*ne") == [""] and keys("one*") == ["one"] and keys("*one") == ["one"]
    cli(kv, "SET", "a" * 5000, "x")
    assert keys("*a" * 50 + "*b") == [""]


def test_lists(kv):
    assert script(kv, "RPUSH l a b c\nLPUSH l z\nLRANGE l 0 -1\nLRANGE l -2 9\nLPOP l\nRPOP l\nLLEN l\nGET l\n") == [
        "3", "4", "z", "a", "b", "c", "b", "c", "z", "c", "2",
        "WRONGTYPE Operation against a key holding the wrong kind of value", ""]


def test_hashes(kv):
    assert script(kv, "HSET h f v g w\nHGET h f\nHDEL h f\nHGETALL h\nHLEN h\nHDEL h g\nEXISTS h\nTYPE h\n") == [
        "2", "v", "1", "g", "w", "1", "1", "0", "none"]


def test_expiry(kv):
    assert script(kv, "SET a 1 EX 100\nTTL a\nPERSIST a\nTTL a\nEXPIRE a 100\nTTL a\nTTL nope\n") == [
        "OK", "100", "1", "-1", "1", "100", "-2"]
    assert script(kv, "SET short 1 PX 20\nSET short2 1\n")[0] == "OK"
    rig.until(lambda: cli(kv, "GET", "short") == [""], what="the end of a key that expires")
    rig.until(lambda: cli(kv, "DBSIZE") == ["2"], what="the key's end in the count")


def test_multi(kv):
    assert script(kv, "MULTI\nSET x 1\nINCR x\nGET x\nEXEC\nMULTI\nSET x 9\nDISCARD\nGET x\nEXEC\n") == [
        "OK", "QUEUED", "QUEUED", "QUEUED", "OK", "2", "2", "OK", "QUEUED", "OK", "2", "ERR EXEC without MULTI", ""]


def test_what_is_wrong_spoils_a_transaction(kv):
    aborted = "EXECABORT Transaction discarded because of previous errors."
    assert script(kv, "MULTI\nGET\nSET x 1\nEXEC\nGET x\n") == [
        "OK", "ERR wrong number of arguments for 'get' command", "", "QUEUED", aborted, "", ""]
    assert script(kv, "MULTI\nBOGUS\nEXEC\n")[-2:] == [aborted, ""]
    assert script(kv, "MULTI\nSUBSCRIBE a\nEXEC\n")[1:] == ["ERR Command not allowed inside a transaction", "", aborted, ""]
    assert script(kv, "MULTI\nMULTI\nSET s x\nINCR s\nGET s\nEXEC\n") == [
        "OK", "ERR MULTI calls can not be nested", "", "QUEUED", "QUEUED", "QUEUED",
        "OK", "ERR value is not an integer or out of range", "", "x"]
    with kv.connect() as client:  # a transaction that has no end keeps nothing
        big = b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$%d\r\n%s\r\n" % (6 << 20, b"x" * (6 << 20))
        client.send("MULTI\r\n" + "PING\r\n")
        client.send(big * 3 + b"EXEC\r\nGET b\r\n")
        said = client.finish().rest().decode().splitlines()
    assert said == ["+OK", "+QUEUED", "+QUEUED", "+QUEUED", "-ERR the transaction is too large", "-" + aborted, "$-1"]


def test_what_is_stored_survives_a_reload(server, scripts):
    """A person edits the script while it runs: values, subscriptions and open transactions stay."""
    text = (scripts / "kv.lua").read_text(encoding="utf-8")
    kv = server(text, watch=("--watch",))
    script(kv, "SET a 1\nRPUSH l x y\nHSET h f v\nEXPIRE h 1000\n")
    with kv.connect() as client, kv.connect() as other:
        client.send("SUBSCRIBE news\r\n")
        client.take(len(b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"))
        assert other.send("MULTI\r\nINCR a\r\n").line() == b"+OK\r\n" and other.line() == b"+QUEUED\r\n"
        for command in ("GET a", "APPEND a 1", "STRLEN a"):
            assert other.send(command + "\r\n").line() == b"+QUEUED\r\n"
        assert '["APPEND key value"]' in text and '["STRLEN key"]' in text
        other_names = text.replace('["INCR key"]', '["MORE key"]').replace('["DECR key"]', '["INCR key"]')
        other_names = other_names.replace('["APPEND key value"]', '["APPEND key value more"]').replace('["STRLEN key"]', '["LEN key"]')
        reloads.save(kv, other_names)
        kv.wait_log(reloads.TAKEN, 1, 20)
        assert script(kv, "GET a\nMORE a\nLRANGE l 0 -1\nHGET h f\nTTL h\n")[:5] == ["1", "2", "x", "y", "v"]
        assert cli(kv, "PUBLISH", "news", "hi") == ["1"]
        assert client.take(len(b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n")).endswith(b"hi\r\n")
        other.send("EXEC\r\n")
        assert [other.line() for _ in range(6)] == [
            b"*4\r\n", b":1\r\n", b"$1\r\n", b"1\r\n", b"-ERR wrong number of arguments for 'append' command\r\n",
            b"-ERR unknown command 'STRLEN'\r\n"]
    rig.until(lambda: cli(kv, "PUBLISH", "news", "hi") == ["0"], what="the end of the subscription")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_subscribers_are_found_whichever_version_they_spoke_to(server, workers):
    """One whose handler waits in the version before, one of a version that is undone."""
    text = """return require("portico.resp").server { commands = {
      ["WAIT"] = function(conn) conn:send("+waits\\r\\n") conn:peek(1) return { ok = "%s" } end,
      ["FAIL"] = function() error("bad") end,
      ["RELOAD"] = function() portico.reload() return { ok = "OK" } end } }"""
    one = server(text % "a", "--workers", workers, "--reload-probation", "600", "--reload-error-limit", "0", "--reload-deadline", "100")
    subscribed = b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"
    message = b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n"

    def reaches(*subscribers):
        with one.connect() as client:
            client.send("PUBLISH news hi\r\n")
            return client.line() == b":%d\r\n" % len(subscribers) and all(s.take(len(message)) == message for s in subscribers)

    with one.connect() as client, one.connect() as waits, one.connect() as first:
        assert waits.send("WAIT\r\nSUBSCRIBE news\r\n").line() == b"+waits\r\n"
        assert first.send("SUBSCRIBE news\r\n").take(len(subscribed)) == subscribed
        assert reaches(first)
        reloads.save(one, text % "b")
        assert client.send("RELOAD\r\n").line() == b"+OK\r\n"
        one.wait_log(reloads.TAKEN, 1, 20)
        assert reaches(first)
        assert waits.send("PING\r\n").line() == b"+a\r\n"
        pong = b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"
        assert waits.take(len(subscribed + pong)) == subscribed + pong
        assert reaches(first, waits)
        with one.connect() as late:
            assert late.send("SUBSCRIBE news\r\n").take(len(subscribed)) == subscribed
            assert reaches(first, waits, late)
            client.send("FAIL\r\n")
            one.wait_log(reloads.UNDONE, 1, 20)
            assert reaches(first, waits, late)


def test_a_command_that_a_reload_ends(server):
    text = """return require("portico.resp").server { commands = {
      ["WAIT"] = function(conn) conn:send("+waits\\r\\n") portico.sleep(1000) end,
      ["RELOAD"] = function() portico.reload() return { ok = "OK" } end } }"""
    one = server(text, "--workers", "1", "--reload-probation", "0", "--reload-deadline", "0.3")
    with one.connect() as client, one.connect() as waits:
        assert waits.send("WAIT\r\nPING\r\n").line() == b"+waits\r\n"
        assert client.send("RELOAD\r\n").line() == b"+OK\r\n"
        assert waits.rest() == b"-ERR internal error\r\n"


def test_kinds_of_values(kv):
    wrong = ["WRONGTYPE Operation against a key holding the wrong kind of value", ""]
    script(kv, "SET s x\nRPUSH l a b\nHSET h f v\n")
    for line in ("GET l", "GET h", "STRLEN h", "APPEND l x", "APPEND h x", "INCR l", "INCR h", "LPUSH s x", "LPUSH h x", "LPOP s", "LPOP h",
                 "LLEN s", "LLEN h", "LRANGE s 0 1", "LRANGE h 0 1", "HSET s f v", "HSET l f v", "HGET s f", "HLEN l", "HDEL l f", "HGETALL s"):
        assert script(kv, line + "\n") == wrong, line
    assert script(kv, "TYPE s\nTYPE l\nTYPE h\nMGET s l h\nSET h x\nTYPE h\nSET l 007\nINCR l\nGET l\n") == [
        "string", "list", "hash", "x", "", "", "OK", "string", "OK", "ERR value is not an integer or out of range", "", "007"]
    assert script(kv, "RPUSH n a b c\nLRANGE n 1 9223372036854775807\nLRANGE n 9223372036854775807 9\nEXPIRE n 99999999999\nSET n x EX 0\n") == [
        "3", "b", "c", "", "ERR invalid expire time", "", "ERR invalid expire time", ""]


def test_options_of_set(kv):
    script(kv, "SET s x\n")
    for options in ("NX FOO", "EX", "NX XX", "NX EX", "EX 5 PX 5", "FOO"):  # also where NX alone would have nothing to do
        assert script(kv, f"SET s y {options}\n") == ["ERR syntax error", ""], options
    for options in ("EX abc", "NX PX 1.5"):
        assert script(kv, f"SET s y {options}\n") == ["ERR value is not an integer or out of range", ""], options
    assert script(kv, "GET s\nSET s y NX EX 5\nSET s y xx px 5000\nTTL s\nSET n y XX\n") == ["x", "", "OK", "5", ""]


def test_room_has_an_end(server, scripts):
    kv = server(scripts / "kv.lua", "--shared-memory", "1M")
    with kv.connect() as client:
        client.send(b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$%d\r\n%s\r\n" % (2 << 20, b"x" * (2 << 20)))
        assert client.line() == b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
        assert client.send("SET b 1\r\n").line() == b"+OK\r\n"


def test_a_push_without_room_for_all_leaves_nothing(server, scripts):
    kv = server(scripts / "kv.lua", "--shared-memory", "1M")
    big = "x" * 700000
    with kv.connect() as client:
        assert client.send("RPUSH l a\r\n").line() == b":1\r\n"
        for command in ("RPUSH", "LPUSH"):
            client.send("*6\r\n$5\r\n%s\r\n$1\r\nl\r\n$1\r\nb\r\n$700000\r\n%s\r\n$700000\r\n%s\r\n$1\r\nd\r\n" % (command, big, big))
            assert client.line() == b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
            assert client.send("LRANGE l 0 -1\r\n").take(11) == b"*1\r\n$1\r\na\r\n"


def test_many_words(kv):
    words = [str(i) for i in range(40000)]

    def send(*texts):
        client.send("*%d\r\n" % len(texts) + "".join("$%d\r\n%s\r\n" % (len(text), text) for text in texts))
        return client.line()

    with kv.connect() as client:
        assert send("RPUSH", "l", *words) == b":40000\r\n"
        assert send("LPUSH", "l", *words) == b":80000\r\n"
        assert client.send("LRANGE l 39999 40000\r\n").take(18) == b"*2\r\n$1\r\n0\r\n$1\r\n0\r\n"
        assert send("HSET", "h", *words) == b":20000\r\n"
        assert send("HDEL", "h", *words) == b":20000\r\n"


def test_what_clients_ask_for(kv):
    assert script(kv, "CLIENT SETNAME me\nCLIENT GETNAME\nCLIENT SETINFO lib-name x\nSELECT 0\nECHO hi\nPING\nPING x\n") == [
        "OK", "me", "OK", "OK", "hi", "PONG", "x"]
    assert script(kv, "SELECT 1\n")[0] == "ERR DB index is out of range"
    assert script(kv, "CLIENT LIST\n")[0].startswith("ERR unknown subcommand")
    assert int(cli(kv, "CLIENT", "ID")[0]) > 0 and int(cli(kv, "COMMAND", "COUNT")[0]) > 40
    assert "get" in cli(kv, "COMMAND") and cli(kv, "HELLO", "4")[0].startswith("NOPROTO")
    with kv.connect() as client:  # in RESP2, who listens to channels may say little else
        client.send("SUBSCRIBE a\r\n")
        client.take(len(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"))
        assert client.send("GET a\r\n").line().startswith(b"-ERR Can't execute 'get': only SUBSCRIBE")
        assert client.send("PING\r\n").take(len(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")) == b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"
        assert client.send("RESET\r\nPING\r\n").line() == b"+RESET\r\n" and client.line() == b"+PONG\r\n"
        client.send("UNSUBSCRIBE\r\n")
        assert client.take(len(b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n")) == b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"
        assert client.send("SUBSCRIBE" + " x" * 1001 + "\r\n").line().startswith(b"-ERR too many subscriptions")
    assert cli(kv, "PUBLISH", "a", "x") == ["0"]


def test_messages_reach_subscribers_of_all_workers(server):
    """RESP without the keys: subscribers on two workers, and how many they are."""
    one = server('return require("portico.resp").server {}', "--workers", "2")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(one.connect()) for _ in range(8)]
        for client in clients:
            client.send("SUBSCRIBE news\r\n").take(len(b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"))
        assert cli(one, "PUBLISH", "news", "hi") == ["8"]
        for client in clients:
            assert client.take(len(b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n")).endswith(b"hi\r\n")


def test_a_message_that_is_too_large_for_the_other_workers(server):
    one = server('return require("portico.resp").server {}', "--workers", "2")
    with one.connect() as client:
        client.send(b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$%d\r\n%s\r\nPING\r\n" % (8 << 20, b"x" * (8 << 20)))
        assert client.line().startswith((b":0", b"-ERR ")) and client.line() == b"+PONG\r\n"
    one.stop()
    assert not one.log("error"), one.text()


def test_resp3(kv):
    done = subprocess.run(["redis-cli", "-3", "-p", str(kv.port)], input="HSET h f v\nHGETALL h\n", stdout=subprocess.PIPE,
                          encoding="utf-8", timeout=20)
    assert done.stdout.splitlines() == ["1", "f v"]


def test_publish_reaches_subscribers(kv):
    with kv.connect() as first, kv.connect() as second:
        first.send("SUBSCRIBE news\r\n")
        assert first.take(len(b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")).endswith(b":1\r\n")
        second.send("HELLO 3\r\n")
        second.send("SUBSCRIBE news other\r\n")
        rig.until(lambda: cli(kv, "PUBLISH", "other", "x") == ["1"], what="the second subscription")
        assert cli(kv, "PUBLISH", "news", "hi") == ["2"]
        assert first.take(len(b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n")) == b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n"
        assert b">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n" in second.finish().rest()
    rig.until(lambda: cli(kv, "PUBLISH", "news", "hi") == ["0"], what="the end of the subscriptions")


def test_mistakes_of_the_client(kv):
    assert cli(kv, "HELLO", "abc") == ["ERR Protocol version is not an integer or out of range", ""]
    assert cli(kv, "BOGUS", "x") == ["ERR unknown command 'BOGUS'", ""]
    assert cli(kv, "GET") == ["ERR wrong number of arguments for 'get' command", ""]
    with kv.connect() as client:
        assert client.send("*1\r\n:x\r\n").rest() == b"-ERR Protocol error: expected '$', got ':'\r\n"
    with kv.connect() as client:  # what was asked before the end of the stream is answered
        assert client.send("PING\r\nPING\r\n").finish().rest() == b"+PONG\r\n+PONG\r\n"
    with kv.connect() as client:
        assert client.send("PING\r\nQUIT\r\nSET quit 1\r\n").rest() == b"+PONG\r\n+OK\r\n"
    assert cli(kv, "EXISTS", "quit") == ["0"]


def test_replies_wait_for_a_slow_client(kv):
    """More replies than the send queue may hold, none of which is lost."""
    size, count = 1 << 20, 40
    cli(kv, "SET", "big", "x")
    with kv.connect() as client:
        client.send(b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$%d\r\n" % size + b"x" * size + b"\r\n")
        assert client.line() == b"+OK\r\n"
    with kv.connect(receive_buffer=4096) as client:
        client.send("GET big\r\n" * count).finish()
        assert len(client.rest()) == count * (size + len("$1048576\r\n\r\n"))


@pytest.mark.parametrize("pipeline", [1, 16])
def test_benchmark(kv, pipeline):
    tests = "PING_INLINE PING_MBULK SET GET INCR LPUSH".split()
    count = rig.scaled(20000 if pipeline > 1 else 5000)
    done = subprocess.run(
        ["redis-benchmark", "-p", str(kv.port), "-n", str(count), "-P", str(pipeline), "-c", "20", "--csv",
         "-t", "ping,set,get,incr,lpush"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", timeout=60 * rig.Settings.patience, check=True)
    print(done.stdout)
    rates = dict(re.findall(r'^"(\w+)","([\d.]+)"', done.stdout, re.MULTILINE))
    assert sorted(rates) == sorted(tests)
    assert all(float(rate) > 0 for rate in rates.values())
    # A whole number of pipelines may be a little more.
    assert count <= int(cli(kv, "GET", "counter:__rand_int__")[0]) < count + pipeline
    assert count <= int(cli(kv, "LLEN", "mylist")[0]) < count + pipeline
