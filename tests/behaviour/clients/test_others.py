"""The other scripts of scripts/, judged by clients that others wrote: dig, swaks, curl, nc, socat, redis-cli."""

import contextlib
import json
import pathlib
import shutil
import socket
import struct
import subprocess

import pytest

import reloads
import rig

SCRIPTS = sorted((pathlib.Path(__file__).resolve().parents[3] / "scripts").glob("*.lua"))
ARGUMENTS = {"proxy": ["127.0.0.1:1"], "balancer": ["127.0.0.1:1"], "socks5": [], "stress": ["127.0.0.1", "1"]}


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed (./dev setup test)")


def run(*words, stdin=b"", seconds=30):
    done = subprocess.run(list(map(str, words)), input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=seconds * rig.Settings.patience)
    return done.stdout.decode("utf-8", "replace")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_loads(path):
    done = rig.run("--check", path, *ARGUMENTS.get(path.stem, []), backend=False)
    assert done.returncode == 0, done.stderr


@needs("ncat")
def test_echo(server, scripts):
    one = server(scripts / "echo.lua")
    text = bytes(range(256)) * 1000
    done = subprocess.run(["ncat", "127.0.0.1", str(one.port)], input=text, stdout=subprocess.PIPE, timeout=30)
    assert done.stdout == text


@needs("ncat")
def test_calc(server, scripts):
    one = server(scripts / "calc.lua")
    cases = {
        "1 + 2 * 3": "7", "(1 + 2) * 3": "9", "2 ^ 3 ^ 2": "512", "-2 ^ 2": "-4", "10 - 2 - 3": "5", "7 % 4": "3", "1/0": "inf",
        "sqrt(2) ^ 2": "2", ".5 + 1.5e1": "15.5", "pi": "3.1415926535898", "2 * -3": "-6",
        "ln(2)": "0.69314718055995", "ln(2": "error: ')' expected at column 5", "10000000000 * 10000000000": "1e+20", "floor(5e9) * floor(5e9)": "2.5e+19",
        "": "error: a number expected at column 1", "1 +": "error: a number expected at column 4", "1 2": "error: an operator expected at column 3",
        "(1": "error: ')' expected at column 3", "os": "error: there is no 'os'", "sin 1": "error: sin( … ) expected", "1 % 0": "-nan|nan",
        "(" * 500: "error: too deep",
    }
    answers = run("ncat", "127.0.0.1", one.port, stdin="".join(f"{case}\n" for case in cases).encode()).splitlines()
    assert len(answers) == len(cases)
    for answer, (case, want) in zip(answers, cases.items()):
        assert answer in want.split("|"), case


def test_rpc(server, scripts):
    text = (scripts / "rpc.lua").read_text(encoding="utf-8")
    text = text.replace("return {", """function methods.count(...) return select("#", ...) end

function methods.nothing(value) return value end

return {""", 1)
    one = server(text, "--workers", "1")

    def call(client, **request):
        text = json.dumps(request).encode()
        client.send(struct.pack(">I", len(text)) + text)

    def answer(client):
        return json.loads(client.take(struct.unpack(">I", client.take(4))[0]))

    with one.connect() as client:
        call(client, id=1, method="sleep", params=[0.1])
        call(client, id=2, method="add", params=[1, 2])
        call(client, id=3, method="upper", params=["ö" * 10 + "x"])
        call(client, id=4, method="none")
        call(client, id=5, method="add", params=["x", {}])
        answers = {reply["id"]: reply for reply in (answer(client) for _ in range(5))}
        assert answers[1]["result"] == "slept" and answers[2]["result"] == 3 and answers[3]["result"].endswith("X")
        assert answers[4]["error"] == "there is no method 'none'" and answers[5]["error"] == "the method failed"
        one.wait_log("method add failed: .*attempt to add")
        client.send(struct.pack(">I", 3) + b"[1,")
        assert "unexpected end" in answer(client)["error"]
        client.send(struct.pack(">I", 1 << 30))
        assert client.rest() == b""
    with one.connect() as client:  # a null is an argument, too
        for request in ({"id": None, "params": [1, 2, None]}, {"id": 2, "params": [None, None]}, {"id": 3, "params": None}, {"id": 4},
                        {"id": 5, "params": "x"}, {"id": 6, "params": {"a": 1}}):
            call(client, method="count", **request)
        replies = [answer(client) for _ in range(6)]
        assert replies[0] == {"id": None, "result": 3} and [reply["result"] for reply in replies] == [3, 2, 0, 0, 0, 0]
        call(client, id=7, method="nothing", params=[None])
        assert answer(client) == {"id": 7, "result": None}
        for name in (None, {}, 1):
            call(client, method=name)
            assert answer(client) == {"error": "the name of a method expected"}
        for text in (b"null", b"1"):
            client.send(struct.pack(">I", len(text)) + text)
            assert answer(client) == {"error": "an object expected"}
    with one.connect() as client:  # what was asked before the end is answered
        call(client, id=6, method="sleep", params=[0.1])
        assert json.loads(client.finish().rest()[4:]) == {"id": 6, "result": "slept"}
    with one.connect() as client:  # nothing was asked
        assert client.finish().rest() == b""


def test_rpc_answers_who_takes_them_late(server, scripts):
    """All answers are ready at once, and are far more than may be queued for a connection."""
    text = (scripts / "rpc.lua").read_text(encoding="utf-8").replace("  frame = {", "  limits = { send_max = 1 << 20 },\n  frame = {", 1)
    text = text.replace("return {", """local asked = 0
function methods.large()
  asked = asked + 1
  repeat portico.sleep(0.01) until asked == 100
  portico.log.info("is ready")
  return ("x"):rep(100000)
end

return {""", 1)
    one = server(text, "--workers", "1")
    with one.connect() as client:
        client.send((struct.pack(">I", 18) + b'{"method":"large"}') * 100)
        one.wait_log("is ready", 100)
        assert client.finish().rest().count(b"x" * 100000) == 100


def test_rpc_answers_over_a_reload(server, scripts):
    """The request was for one version, and the client's end of the stream is for the next."""
    text = (scripts / "rpc.lua").read_text(encoding="utf-8")
    text = text.replace("portico.sleep(math.min(seconds, 10))",
                        'repeat portico.sleep(0.01) until portico.shared("test"):get("go")')
    text = text.replace("return {", """function methods.go() portico.shared("test"):set("go", true) return portico.generation end

return {""", 1)
    one = server(text, watch=("--watch",))

    def call(client, method):
        request = json.dumps({"method": method}).encode()
        client.send(struct.pack(">I", len(request)) + request)

    with one.connect() as client, one.connect() as other:
        call(client, "sleep")
        call(client, "upper")  # fails, which is logged: the request before is under way
        one.wait_log("method upper failed")
        reloads.save(one, text + "-- changed\n")
        one.wait_log(reloads.TAKEN, 1, 20)
        client.finish()
        call(other, "go")
        assert json.loads(other.finish().rest()[4:]) == {"result": 2}
        said = client.rest()
        assert said.count(b"the method failed") == 1 and said.count(b"slept") == 1, said


def test_chat(server, scripts):
    one = server(scripts / "chat.lua", "--workers", "2")

    def lines(client, count):
        return [client.line().decode().rstrip("\n") for _ in range(count)]

    def enter(name):
        client = one.connect()
        client.send(name + "\n")
        assert lines(client, 2) == ["Who are you?", f"* {name} is here"]
        return client

    ann = enter("ann")
    bob = enter("bob")
    eve = enter("eve")
    assert lines(ann, 2) == ["* bob is here", "* eve is here"] and lines(bob, 1) == ["* eve is here"]
    bob.send("hello ö\x1b[31m\n/who\n")
    said = sorted(lines(bob, 2))
    assert said == ["* here: ann, bob, eve", "bob: hello ö?[31m"]
    assert lines(ann, 1) == lines(eve, 1) == ["bob: hello ö?[31m"]
    with one.connect() as other:
        other.send("ann\n\n" + "x" * 21 + "\n")
        assert lines(other, 4)[1:] == ["Somebody has this name. Another one?"] + ["That is no name. Another one?"] * 2
    eve.send("/quit\n")
    assert lines(ann, 1) == lines(bob, 1) == ["* eve is gone"]
    ann.reset()
    assert lines(bob, 1) == ["* ann is gone"]
    bob.send("x" * 2000 + "\n")
    assert bob.rest() == b""
    for client in (eve, bob):
        client.close()

    def is_free(name):
        with one.connect() as client:
            return lines(client.send(name + "\n"), 2)[1] == f"* {name} is here"

    rig.until(lambda: is_free("bob"), what="the end of who was called bob")


def hello(client):
    """As a browser begins; up to the end of the answer."""
    client.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    while client.line() != b"\r\n":
        pass


@pytest.mark.parametrize("name, begin, message", [("chat", lambda client: client.send("ann\n"), b"hi\n"),
                                                  ("websocket_chat", hello, b"\x81\x82\0\0\0\0hi")], ids=["chat", "websocket_chat"])
def test_who_pastes_much_is_heard_to_the_end(server, scripts, name, begin, message):
    """More lines at a time than the workers' queues of messages have room for."""
    one = server(scripts / f"{name}.lua", "--workers", "2")
    count = rig.scaled(100000)
    with one.connect() as client:
        begin(client)
        sending = rig.in_background(client.send, message * count)
        heard, end = 0, b""
        while heard < count:
            piece = client.socket.recv(1 << 16)
            assert piece, f"the end, after {heard} of {count}"
            heard, end = heard + (end + piece).count(b": hi"), piece[-3:]
        assert heard == count
        sending.result()


def test_a_name_of_a_version_that_is_undone_is_free_again(server, scripts):
    text = (scripts / "chat.lua").read_text(encoding="utf-8")
    bad = text.replace('elseif line == "/who" then', 'elseif line == "/fail" then error("bad")\n    elseif line == "/who" then')
    assert bad != text
    one = server(text, "--workers", "1", "--reload-probation", "600", "--reload-error-limit", "0", watch=("--watch",))
    with one.connect() as eve:
        with one.connect() as ann:
            assert ann.line() == b"Who are you?\n"
            reloads.save(one, bad)
            one.wait_log(reloads.TAKEN, 1, 20)
            ann.send("ann\n")
            assert ann.line() == b"* ann is here\n"
            eve.send("eve\n/fail\n")
            one.wait_log(reloads.UNDONE, 1, 20)
            ann.send("/quit\n")
            ann.rest()

        def is_free():
            with one.connect() as client:
                client.send("ann\n")
                return client.line() and client.line() == b"* ann is here\n"

        rig.until(is_free, what="the end of who was called ann")


@needs("dig")
def test_dns(server, scripts):
    # Both on the same port, as dig falls back from one to the other.
    port = rig.free_port()
    one = server(scripts / "dns.lua", listen=(f"udp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port}"), ready=False)
    one.wait_log("listening on")

    def dig(*words):
        return sorted(run("dig", "@127.0.0.1", "-p", port, "+short", "+tries=2", "+time=3", *words).split("\n"))[1:]

    for way in ("+notcp", "+tcp"):
        assert dig(way, "www.example.test") == ["192.0.2.2", "192.0.2.3"]
        assert dig(way, "WWW.Example.Test", "AAAA") == ["2001:db8::2"]
        assert dig(way, "example.test", "MX") == ["10 mail.example.test."]
        assert dig(way, "example.test", "TXT") == ['"v=spf1 -all"']
        assert dig(way, "alias.example.test") == ["192.0.2.2", "192.0.2.3", "www.example.test."]
        assert dig(way, "any.thing.wild.example.test") == ["192.0.2.5"]
        assert dig(way, "mail.example.test", "AAAA") == []
    # What exists without such a record, or only above others, is no NXDOMAIN, and no wildcard stands for it (RFC 4592).
    for name, status in {"mail.example.test": "NOERROR", "wild.example.test": "NOERROR", "test": "NOERROR", ".": "NOERROR",
                         "x.wild.example.test": "NOERROR", "x.www.example.test": "NXDOMAIN"}.items():
        said = run("dig", "@127.0.0.1", "-p", port, name, "AAAA")
        assert f"status: {status}" in said and "ANSWER: 0" in said, said
    said = run("dig", "@127.0.0.1", "-p", port, "nothing.example.org")
    assert "NXDOMAIN" in said and "flags: qr aa rd" in said
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect(("127.0.0.1", port))
        client.send(b"ab\1\0\0\1\0\0\0\0\0\0\x3fxx")
        assert client.recv(512)[:4] == b"ab\x81\1"  # a malformed name
        client.send(b"ab\x29\0\0\1\0\0\0\0\0\0")
        assert client.recv(512)[2:4] == b"\xa9\4"  # another operation
        # A dot within a label parts none, and a name is answered for as it was written.
        for name, count in {b"\x0bwww.example\4test\0": 0, b"\3a.b\4wild\7eXample\4test\0": 1}.items():
            client.send(b"ab\1\0\0\1\0\0\0\0\0\0" + name + b"\0\1\0\1")
            said = client.recv(512)
            assert said[7] == count and said[12:].startswith(name + b"\0\1\0\1" + b"\xc0\x0c" * count), said
        client.send(b"ab\1\0\0\1\0\0\0\0\0\0\3www\7example\4test\0\0\1\0\3")
        assert client.recv(512)[2:4] == b"\x81\5"  # of another class nothing is known, not even that it is not there
        client.send(b"x")
        client.send(b"ab\x81\0\0\1\0\0\0\0\0\0")  # an answer is not answered, and neither is a fragment
        client.send(b"cd\1\0\0\1\0\0\0\0\0\0\4mail\7example\4test\0\0\1\0\1")
        assert client.recv(512).startswith(b"cd\x85\0\0\1\0\1")


@needs("dig")
def test_dns_says_for_how_long_something_is_not_there(server, scripts):
    """What is not there comes with the zone's SOA (RFC 2308), and of aliases the last name counts (RFC 6604)."""
    text = (scripts / "dns.lua").read_text(encoding="utf-8")
    aliases = {"gone": "Nothing.example.test", "bare": "mail.example.test", "out": "www.example.org", "ring": "ring.example.test"}
    text = text.replace("ZONE <const> = {", "ZONE <const> = {" + "".join(
        f'["{name}.example.test"] = {{ CNAME = {{ "{target}" }} }},' for name, target in aliases.items()), 1)
    port = rig.free_port()
    one = server(text, listen=(f"udp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port}"), ready=False)
    one.wait_log("listening on")
    for name, (status, answers, authority) in {
        "nothing.example.test": ("NXDOMAIN", 0, 1), "mail.example.test": ("NOERROR", 0, 1), "www.example.test": ("NOERROR", 1, 0),
        "nothing.example.org": ("NXDOMAIN", 0, 0), "gone.example.test": ("NXDOMAIN", 1, 1), "bare.example.test": ("NOERROR", 1, 1),
        "out.example.test": ("NOERROR", 1, 0), "ring.example.test": ("NOERROR", 10, 0), "alias.example.test": ("NOERROR", 2, 0),
    }.items():
        said = run("dig", "@127.0.0.1", "-p", port, name, "AAAA", "+tries=2", "+time=3")
        assert f"status: {status}" in said and f"ANSWER: {answers}, AUTHORITY: {authority}," in said, said
        soa = "ns.example.test. hostmaster.example.test. 1 3600 600 86400 60"
        assert not authority or said.split("AUTHORITY SECTION:\n")[1].split(None, 4)[:4] == ["example.test.", "60", "IN", "SOA"], said
        assert not authority or soa in said, said
    said = run("dig", "@127.0.0.1", "-p", port, "example.test", "SOA", "+short", "+tries=2", "+time=3")
    assert said.strip() == soa


@needs("dig")
def test_dns_answers_that_are_long(server, scripts):
    text = (scripts / "dns.lua").read_text(encoding="utf-8")
    lists = {"many": range(60), "some": range(25)}  # in 512 bytes there is room for 29
    for name, numbers in lists.items():
        addresses = ", ".join(f'"192.0.2.{number}"' for number in numbers)
        text = text.replace("ZONE <const> = {", f'ZONE <const> = {{ ["{name}.test"] = {{ A = {{ {addresses} }} }},', 1)
    port = rig.free_port()
    one = server(text, listen=(f"udp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port}"), ready=False)
    one.wait_log("listening on")
    for name, numbers in lists.items():
        said = run("dig", "@127.0.0.1", "-p", port, f"{name}.test", "+notcp", "+ignore", "+tries=2", "+time=3")
        is_long = len(numbers) > 29
        assert (" tc " in said.replace(";", " ")) == is_long and f"ANSWER: {0 if is_long else len(numbers)}" in said, said
        said = run("dig", "@127.0.0.1", "-p", port, f"{name}.test", "+tries=2", "+time=3")  # again over TCP by itself
        assert f"ANSWER: {len(numbers)}" in said, said


@needs("dig")
def test_dns_texts_of_any_length(server, scripts):
    text = (scripts / "dns.lua").read_text(encoding="utf-8")
    for size in (0, 255, 256, 600):  # a string of them has at most 255 bytes
        text = text.replace("ZONE <const> = {", f'ZONE <const> = {{ ["t{size}.test"] = {{ TXT = {{ ("x"):rep({size}) }} }},', 1)
    port = rig.free_port()
    one = server(text, listen=(f"udp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port}"), ready=False)
    one.wait_log("listening on")
    for size, strings in {0: [0], 255: [255], 256: [255, 1], 600: [255, 255, 90]}.items():
        said = run("dig", "@127.0.0.1", "-p", port, f"t{size}.test", "TXT", "+short", "+tries=2", "+time=3")
        assert said.splitlines()[-1] == " ".join('"' + "x" * count + '"' for count in strings), said


@needs("swaks")
def test_smtp(server, scripts, tmp_path):
    mails = tmp_path / "mails"
    mails.mkdir()
    one = server(scripts / "smtp_sink.lua", args=[mails])
    said = run("swaks", "--server", f"127.0.0.1:{one.port}", "--from", "bob@example.org", "--to", "ann@example.org,eve@example.org",
               "--body", "first line\n.\n..dots\nlast line ö", "--header", "Subject: test")
    assert "250 taken" in said and "221 bye" in said, said
    one.wait_log(r"mail 1 from <bob@example.org> to <ann@example.org>, <eve@example.org>")
    text = next(mails.glob("*.eml")).read_bytes()
    assert b"Subject: test\r\n" in text and b"\r\nfirst line\r\n.\r\n..dots\r\nlast line \xc3\xb6\r\n" in text
    with one.connect() as client:  # all at once, and out of order
        client.send("HELO x\r\nDATA\r\nRCPT TO:<a@b>\r\nMAIL FROM:nobody\r\nMAIL FROM:<> SIZE=99999999\r\nWHAT\r\n" + "x" * 3000 + "\r\n")
        codes = [line[:3] for line in client.rest().decode().splitlines()]
        assert codes == ["220", "250", "503", "503", "501", "552", "500", "500"]


MAIL = "HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"


@pytest.mark.no_wine("which says nothing of a device that is full")
@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="there is no /dev/full")
def test_mail_that_cannot_be_written_is_not_taken(server, scripts, tmp_path):
    text = (scripts / "smtp_sink.lua").read_text(encoding="utf-8")
    full = text.replace('io.open(name, "wb")', 'io.open(name, "wb"):close() and io.open("/dev/full", "wb")')
    assert full != text
    one = server(full, args=[tmp_path])
    for size in (1, 10000):  # the first shows when the file is closed
        with one.connect() as client:
            client.send(MAIL + "text\r\n" * size + ".\r\nQUIT\r\n")
            assert [line[:3] for line in client.rest().decode().splitlines()][-3:] == ["354", "451", "221"]
    assert not list(tmp_path.glob("*.eml"))


def test_large_mail(server, scripts, tmp_path):
    one = server(scripts / "smtp_sink.lua", "--workers", "1", args=[tmp_path])
    lines = {"\r\n": 4 << 20, "x" * 1022 + "\r\n": 8 << 10}
    for line, count in lines.items():
        for more, code in ((0, "250"), (1, "552")):
            with one.connect() as client:
                client.send(MAIL + line * (count + more) + ".\r\nQUIT\r\n")
                assert [said[:3] for said in client.rest().decode().splitlines()][-3:] == ["354", code, "221"], line
    assert [path.stat().st_size for path in tmp_path.glob("*.eml")] == [8 << 20] * 2
    with one.connect() as client:
        client.send("EHLO x\r\nMAIL FROM:<> SIZE=8388609\r\nMAIL FROM:<> SIZE=8388608\r\nQUIT\r\n")
        said = client.rest().decode().splitlines()
        assert "250 SIZE 8388608" in said and [line[:3] for line in said[-3:]] == ["552", "250", "221"]


def test_a_mail_cannot_pass_off_its_rest_as_another(server, scripts, tmp_path):
    one = server(scripts / "smtp_sink.lua", "--workers", "1", args=[tmp_path])
    rest = "MAIL FROM:<eve@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nforged\r\n"
    for count, end in enumerate(("\n.\n", "\n.\r\n", "\r\n.\n"), 1):
        with one.connect() as client:
            client.send(MAIL + "..a\r\nb" + end + rest + ".\r\nQUIT\r\n")
            assert [said[:3] for said in client.rest().decode().splitlines()][-3:] == ["354", "250", "221"]
        one.wait_log(f"mail {count} from <a@b> to <c@d>")
    kept = sorted(path.read_bytes() for path in tmp_path.glob("*.eml"))
    assert kept == sorted(b".a\r\nb" + end + rest.encode() for end in (b"\n.\n", b"\n.\r\n", b"\r\n\n"))
    with one.connect() as client:  # who types LF only
        client.send(MAIL.replace("\r", "") + "..a\nb\n.\nQUIT\n")
        assert [said[:3] for said in client.rest().decode().splitlines()][-3:] == ["354", "250", "221"]


def test_who_says_hello_again_begins_anew(server, scripts):
    one = server(scripts / "smtp_sink.lua")
    with one.connect() as client:
        client.send("EHLO x\r\nMAIL FROM:<a@b>\r\nEHLO x\r\nMAIL FROM:<c@d>\r\nHELO x\r\nRCPT TO:<a@b>\r\nQUIT\r\n")
        codes = [line[:4] for line in client.rest().decode().splitlines() if line[3] == " "]
        assert codes == ["220 ", "250 ", "250 ", "250 ", "250 ", "250 ", "503 ", "221 "]


def test_lines_of_a_mail_may_be_long(server, scripts, tmp_path):
    """They come in pieces, of which none may begin with a dot that counts, or hide the end of a line."""
    one = server(scripts / "smtp_sink.lua", "--workers", "1", args=[tmp_path])
    texts = ["x" * size + end + "..x\r\n" for size in range(1996, 2004) for end in ("\r\n", ".\r\n", "\r\r\n", "\n.\r\n")]
    texts.append("y" * (2 << 20) + "\r\n")
    for text in texts:
        with one.connect() as client:
            client.send(MAIL + text + ".\r\nQUIT\r\n")
            assert [said[:3] for said in client.rest().decode().splitlines()][-3:] == ["354", "250", "221"], text[-10:]
    kept = sorted(path.read_bytes() for path in tmp_path.glob("*.eml"))
    assert kept == sorted(text.replace("..x", ".x").encode() for text in texts)
    with one.connect() as client:  # too much, and in one line
        client.send(MAIL + "x" * (9 << 20) + "\r\n.\r\nQUIT\r\n")
        assert [said[:3] for said in client.rest().decode().splitlines()][-3:] == ["354", "552", "221"]


def test_addresses_of_mail(server, scripts):
    one = server(scripts / "smtp_sink.lua")
    for path, answer in {
        "<a@b>": 250, "  <a@b>": 250, '<"a>b"@c.d>': 250, '<"a\\">b"@c.d>': 250, "<size=99999999@b>": 250, "<a@b> X-SIZE=99999999": 250,
        "<a@b> BODY=8BITMIME size=99999999": 552, '<" SIZE=99999999"@b>': 250, "<a@b>x": 501, "<a@b": 501, '<"a>b@c': 501, "a@b": 501,
        "<a\1@b>": 501, '<"\1"@b>': 501, "<a@<b>": 501, "<a@b> SIZE=" + "9" * 400: 552,
    }.items():
        with one.connect() as client:
            client.send(f"HELO x\r\nMAIL FROM:{path}\r\nQUIT\r\n")
            assert [int(line[:3]) for line in client.rest().decode().splitlines()] == [220, 250, answer, 221], path
    with one.connect() as client:
        client.send('HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<>\r\nrcpt to:<"a>b"@c.d> X=y\r\nDATA\r\n.\r\nQUIT\r\n')
        assert [line[:3] for line in client.rest().decode().splitlines()][2:] == ["250", "501", "250", "354", "250", "221"]
    one.wait_log('from <> to <"a>b"@c.d>, 0 bytes')


def test_a_mail_goes_on_after_a_reload(server, scripts, tmp_path):
    """In the middle of the text, between two commands, and of a command, when the old version's time is over."""
    text = (scripts / "smtp_sink.lua").read_text(encoding="utf-8")
    one = server(text, "--workers", "1", "--reload-probation", "0", "--reload-deadline", "0.3", args=[tmp_path], watch=("--watch",))
    with one.connect() as first, one.connect() as second, one.connect() as third:
        first.send("HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nNOOP\r\n")
        second.send(MAIL + "one\r\n.\r\n" + MAIL + "MAIL FROM:<eve@b>\r\n..tw")
        third.send("HELO x\r\nMAIL FR")
        for client, count in ((first, 5), (second, 10), (third, 2)):
            for _ in range(count):
                client.line()
        one.wait_log("mail 1 from <a@b> to <c@d>, 5 bytes")
        reloads.save(one, text.replace("250 taken", "250 taken anew"))
        one.wait_log(reloads.TAKEN, 1, 20)
        one.wait_log("a handler that still waits is ended, in on_stream", 3)
        first.send("DATA\r\nthree\r\n.\r\nQUIT\r\n")
        assert first.rest() == b"354 end with a line that has only a dot\r\n250 taken anew\r\n221 bye\r\n"
        second.send("o\r\n.\r\nQUIT\r\n")
        assert second.rest() == b"250 taken anew\r\n221 bye\r\n"
        third.send("OM:<a@b>\r\nQUIT\r\n")
        assert third.rest() == b"250 OK\r\n221 bye\r\n"
    one.wait_log("mail 3 from")  # numbers go on, too
    assert sorted(path.read_bytes() for path in tmp_path.glob("*.eml")) == [b"MAIL FROM:<eve@b>\r\n.two\r\n", b"one\r\n", b"three\r\n"]


@needs("curl")
def test_curl_sends_mail(server, scripts, tmp_path):
    one = server(scripts / "smtp_sink.lua")
    (tmp_path / "mail").write_text("Subject: x\n\n" + "line\n" * 1000)
    run("curl", "-sS", f"smtp://127.0.0.1:{one.port}", "--mail-from", "a@b.c", "--mail-rcpt", "d@e.f", "-T", tmp_path / "mail")
    one.wait_log(r"mail \d+ from <a@b.c> to <d@e.f>, 5014 bytes")


@needs("curl")
def test_socks5(server, scripts):
    web = server(scripts / "hello_http.lua")
    open_proxy = server(scripts / "socks5.lua")
    closed_proxy = server(scripts / "socks5.lua", args=["ann", "secret"])
    address = f"http://127.0.0.1:{web.port}/"
    hello = "Hello, world!\n"
    assert run("curl", "-sS", "--socks5", f"127.0.0.1:{open_proxy.port}", address) == hello
    assert run("curl", "-sS", "--socks5-hostname", f"127.0.0.1:{open_proxy.port}", f"http://localhost:{web.port}/") == hello
    assert run("curl", "-sS", "--socks5", f"127.0.0.1:{closed_proxy.port}", "--proxy-user", "ann:secret", address) == hello
    assert "curl: (97)" in run("curl", "-sS", "--socks5", f"127.0.0.1:{closed_proxy.port}", "--proxy-user", "ann:wrong", address)
    assert "curl: (97)" in run("curl", "-sS", "--socks5", f"127.0.0.1:{closed_proxy.port}", address)
    assert "curl: (97)" in run("curl", "-sS", "--socks5", f"127.0.0.1:{open_proxy.port}", f"http://127.0.0.1:{rig.free_port()}/")
    with open_proxy.connect() as client:
        assert client.send("GET / HTTP/1.1\r\n\r\n").rest() == b""


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")
def test_socks5_leads_to_no_unix_socket(server, scripts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("1234")
        listener.listen()
        one = server(scripts / "socks5.lua")
        with one.connect() as client:
            client.send(b"\5\1\0\5\1\0\3\4unix" + struct.pack(">H", 1234))
            assert client.take(2) == b"\5\0"
            assert client.take(2)[1] != 0


@needs("redis-cli")
def test_proxy(server, scripts):
    kv = server(scripts / "kv.lua", "--workers", "1")
    proxy = server(scripts / "proxy.lua", args=[f"127.0.0.1:{kv.port}", "64"])
    assert run("redis-cli", "-p", proxy.port, "SET", "greeting", "hello, you").strip() == "OK"
    assert run("redis-cli", "-p", proxy.port, "GET", "greeting").strip() == "hello, you"
    proxy.wait_log(r"-> 127\.0\.0\.1:\d+, \d+ bytes:")
    proxy.wait_log(r"\|\*3\.\.\$3\.\.SET\.\.\$8\.\|")
    with proxy.connect(receive_buffer=4096) as client:  # back-pressure reaches through
        client.send(b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$%d\r\n" % (4 << 20) + b"x" * (4 << 20) + b"\r\n")
        assert client.line() == b"+OK\r\n"
        client.send("GET b\r\n" * 10).finish()
        assert len(client.rest()) == 10 * (len("$4194304\r\n\r\n") + (4 << 20))
    kv.stop()
    with proxy.connect() as client:
        assert client.rest() == b""
    proxy.wait_log("cannot reach")


@needs("curl")
def test_balancer(server, scripts):
    script = 'local http1 = require "portico.http1"\nreturn http1.server { on_request = function() return "%s", { Connection = "close" } end }'
    first, second = server(script % "first"), server(script % "second")
    one = server(scripts / "balancer.lua", "--workers", "1", args=[f"127.0.0.1:{first.port}", f"127.0.0.1:{second.port}"])
    with one.connect(), one.connect():  # who is open counts
        said = [run("curl", "-sS", f"http://127.0.0.1:{one.port}/") for _ in range(4)]
    assert set(said) <= {"first", "second"}, said
    first.stop()
    for _ in range(4):
        assert run("curl", "-sS", f"http://127.0.0.1:{one.port}/") == "second"
    one.wait_log(rf"127\.0\.0\.1:{first.port} is out")
    second.stop()
    with one.connect() as client:
        assert client.rest() == b""


@pytest.mark.no_wine("a listen queue that is full refuses")
def test_a_server_that_does_not_answer_keeps_no_other_from_being_checked(server, scripts):
    text = (scripts / "balancer.lua").read_text(encoding="utf-8").replace("CONNECT_TIMEOUT <const> = 2", "CONNECT_TIMEOUT <const> = 600")
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(10 * rig.Settings.patience)
        server(text, "--workers", "1", args=[f"127.0.0.1:{to.getsockname()[1]}" for to in (full, listener)])
        for _ in range(2):
            listener.accept()[0].close()


def test_a_reload_leaves_it_to_the_balancer_who_has_most(server, scripts):
    """Connections of the version before count, until they are over."""
    first, second = (server(f"return {{ on_stream = function(conn) conn:send('{mark}') conn:read('a') end }}") for mark in "ab")
    text = (scripts / "balancer.lua").read_text(encoding="utf-8")
    one = server(text, "--workers", "1", args=[f"127.0.0.1:{first.port}", f"127.0.0.1:{second.port}"], watch=("--watch",))
    with contextlib.ExitStack() as stack:
        clients = []

        def goes_to():
            clients.append(stack.enter_context(one.connect()))
            return clients[-1].take(1)

        assert [goes_to() for _ in range(3)] == [b"a", b"b", b"a"]
        reloads.save(one, text + "-- changed\n")
        one.wait_log(reloads.TAKEN, 1, 20)
        assert [goes_to() for _ in range(3)] == [b"b", b"a", b"b"]
        for i in (0, 2, 4):
            assert clients[i].finish().rest() == b""

        def is_free():
            with one.connect() as client:
                return client.take(1) == b"a"

        rig.until(is_free, what="the end of who was connected to the first")


@pytest.mark.parametrize("name", ["proxy", "balancer", "socks5"])
def test_who_is_connected_through_is_given_no_other_server(server, scripts, name):
    """When the time of the old version is over, and its connections to servers with it."""
    text = (scripts / f"{name}.lua").read_text(encoding="utf-8").replace("CHECK_EVERY <const> = 1", "CHECK_EVERY <const> = 600")
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        listener.settimeout(10 * rig.Settings.patience)
        port = listener.getsockname()[1]
        one = server(text, "--workers", "1", "--reload-probation", "0", "--reload-deadline", "0.3",
                     args=[] if name == "socks5" else [f"127.0.0.1:{port}"], watch=("--watch",))

        def begin(client):
            if name == "socks5":
                assert client.send(b"\5\1\0").take(2) == b"\5\0"
                assert client.send(b"\5\1\0\1\x7f\0\0\1" + struct.pack(">H", port)).take(10)[1] == 0
            client.send("hello")
            while True:
                far = stack.enter_context(listener.accept()[0])
                far.settimeout(10 * rig.Settings.patience)
                if far.recv(100) == b"hello":  # and no look of the balancer's
                    return far

        client, silent = stack.enter_context(one.connect()), stack.enter_context(one.connect())
        far = begin(client)
        reloads.save(one, text + "-- changed\n")
        one.wait_log(reloads.TAKEN, 1, 20)
        assert client.is_reset()
        assert far.recv(100) == b""
        with one.connect() as other:
            begin(other)
        if name == "socks5":
            begin(silent)  # has said nothing before


def test_the_proxy_is_no_server_of_its_own(server, scripts):
    """Without --listen it listens elsewhere than at the address that it connects to, which is the default of both."""
    port = rig.free_port()
    text = (scripts / "proxy.lua").read_text(encoding="utf-8").replace('tcp://127.0.0.1:8000"', f'tcp://127.0.0.1:{port}"')
    one = server(text, listen=(), ready=False)
    one.wait_log(f"listening on tcp://127.0.0.1:{port}")
    for words, code in {("127.0.0.1:1", "1.5"): 3, ("127.0.0.1:1", "many"): 3, ("127.0.0.1:1", "16"): 0}.items():
        assert rig.run("--check", scripts / "proxy.lua", *words, backend=False).returncode == code


@needs("socat")
@pytest.mark.no_wine("Unix sockets are this system's")
def test_unix_and_udp_with_socat(server, scripts, tmp_path):
    script = "return { on_message = function(conn, data) conn:send(data:upper()) end }"
    port = rig.free_port()
    one = server(script, listen=(f"unix:{tmp_path}/sock", f"udp://127.0.0.1:{port}"), ready=False)
    one.wait_log("listening on")
    assert run("socat", "-t2", "-", f"UNIX-CONNECT:{tmp_path}/sock", stdin=b"hello") == "HELLO"
    assert run("socat", "-t0.3", "-", f"UDP:127.0.0.1:{port}", stdin=b"datagram") == "DATAGRAM"
