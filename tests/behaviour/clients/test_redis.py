"""scripts/kv.lua, judged by Redis's own clients: redis-cli and redis-benchmark."""

import re
import shutil
import subprocess

import pytest

import rig

pytestmark = pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-tools is not installed (./dev setup test)")


@pytest.fixture
def kv(server, scripts):
    return server(scripts / "kv.lua", "--workers", "1")


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
