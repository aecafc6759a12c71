"""scripts/mqtt_broker.lua, judged by mosquitto_pub and mosquitto_sub."""

import shutil
import subprocess

import pytest

import reloads
import rig

pytestmark = pytest.mark.skipif(shutil.which("mosquitto_pub") is None,
                                reason="mosquitto-clients is not installed (./dev setup test)")

CONNACK = b"\x20\x02\x00\x00"


def connect_packet(name=b"t", flags=2, keep_alive=60, rest=b""):
    body = b"\0\4MQTT\4" + bytes([flags]) + keep_alive.to_bytes(2, "big") + len(name).to_bytes(2, "big") + name + rest
    return b"\x10" + bytes([len(body)]) + body


@pytest.fixture
def broker(server, scripts):
    return server(scripts / "mqtt_broker.lua", "--workers", "1", "--log-level", "debug")


def publish(broker, topic, message, *words):
    done = subprocess.run(["mosquitto_pub", "-p", str(broker.port), "-t", topic, "-m", message, *words], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", timeout=20 * rig.Settings.patience)
    return done.returncode, done.stdout


class Subscriber:
    """A mosquitto_sub that has subscribed. It ends when it has got so many messages, or after twenty seconds."""

    def __init__(self, broker, count, *words):
        self.process = subprocess.Popen(
            ["stdbuf", "-oL", "mosquitto_sub", "-p", str(broker.port), "-v", "-d", "-C", str(count), "-W", "20", *words], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("Subscribed"):
                break

    def messages(self):
        lines = self.lines + list(self.process.stdout)
        self.process.wait()
        self.process.stdout.close()
        return [line for line in lines if not line.startswith(("Client ", "Subscribed"))]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_publish_and_subscribe(broker, qos):
    subscriber = Subscriber(broker, 3, "-q", "1", "-t", "rooms/+/temperature", "-t", "all/#")
    assert publish(broker, "rooms/kitchen/temperature", "21.5", "-q", str(qos)) == (0, "")
    assert publish(broker, "rooms/kitchen/light", "on", "-q", str(qos)) == (0, "")
    assert publish(broker, "all/a/b/c", "two words ö", "-q", str(qos)) == (0, "")
    assert publish(broker, "all", "x" * 100000, "-q", str(qos)) == (0, "")
    assert subscriber.messages() == ["rooms/kitchen/temperature 21.5\n", "all/a/b/c two words ö\n", "all " + "x" * 100000 + "\n"]


def test_retained_messages(broker):
    publish(broker, "r/a", "first", "-r")
    publish(broker, "r/a", "second", "-r", "-q", "1")
    publish(broker, "r/b", "gone", "-r")
    assert publish(broker, "r/b", "", "-r")[0] == 0
    publish(broker, "r/c", "not kept")
    assert Subscriber(broker, 1, "-t", "r/#").messages() == ["r/a second\n"]
    assert Subscriber(broker, 1, "-t", "r/a").messages() == ["r/a second\n"]


def test_messages_wait_for_a_client_that_is_away(broker):
    words = ("-i", "sleeper", "-c", "-q", "1", "-t", "news")
    first = Subscriber(broker, 1, *words)
    publish(broker, "news", "0", "-q", "1")
    assert first.messages() == ["news 0\n"]
    for i in range(1, 6):
        publish(broker, "news", str(i), "-q", "1")
    publish(broker, "news", "not promised", "-q", "0")
    assert Subscriber(broker, 5, *words).messages() == [f"news {i}\n" for i in range(1, 6)]


def test_a_will_is_published(broker):
    subscriber = Subscriber(broker, 1, "-t", "wills/#")
    with broker.connect() as client:
        client.send(connect_packet(flags=2 | 4, rest=b"\0\7wills/a\0\4gone"))
        assert client.take(4) == CONNACK
        client.reset()
    assert subscriber.messages() == ["wills/a gone\n"]
    subscriber = Subscriber(broker, 1, "-t", "wills/#")
    with broker.connect() as client:  # none for who says farewell
        client.send(connect_packet(flags=2 | 4, rest=b"\0\7wills/a\0\4gone") + b"\xe0\0")
        assert client.rest() == CONNACK
    publish(broker, "wills/b", "other")
    assert subscriber.messages() == ["wills/b other\n"]


def test_another_client_of_the_same_name(broker):
    with broker.connect() as first, broker.connect() as second:
        assert first.send(connect_packet()).take(4) == CONNACK
        assert second.send(connect_packet()).take(4) == CONNACK
        assert first.rest() == b""
        assert second.send(b"\xc0\0").take(2) == b"\xd0\0"


def test_silence_ends_a_connection(broker):
    with broker.connect() as client:
        assert client.send(connect_packet(keep_alive=1)).take(4) == CONNACK
        assert client.rest() == b""


def test_a_client_is_not_kept_alive_by_what_it_is_sent(broker):
    with broker.connect() as listener, broker.connect() as speaker:
        assert listener.send(connect_packet(b"listener", keep_alive=1) + b"\x82\x06\0\1\0\1t\0").take(4) == CONNACK
        assert listener.take(5) == b"\x90\x03\0\1\0"
        assert speaker.send(connect_packet(b"speaker")).take(4) == CONNACK

        def is_over():
            speaker.send(b"\x30\x04\0\1tx")
            try:
                return listener.socket.recv(1 << 16) == b""
            except ConnectionError:
                return True

        rig.until(is_over, what="the end of the listener's connection")


@pytest.mark.parametrize("data, answer", [
    (b"GET / HTTP/1.1\r\n\r\n", b""),
    (b"\xc0\0", b""),
    (b"\x10\x0d\0\4MQTT\5\2\0\x3c\0\0\0", b"\x20\2\0\1"),
    (connect_packet(name=b"", flags=0), b"\x20\2\0\2"),
    (connect_packet() + connect_packet(), CONNACK),
    (connect_packet() + b"\x30\3\0\1#", CONNACK),
    (connect_packet() + b"\x82\6\0\1\0\1a\0" + b"\x82\7\0\2\0\2a#\0" + b"\xe0\0", CONNACK + b"\x90\3\0\1\0" + b"\x90\3\0\2\x80"),
])
def test_mistakes_of_clients(broker, data, answer):
    with broker.connect() as client:
        assert client.send(data).rest() == answer
    assert publish(broker, "a", "b", "-q", "1") == (0, "")


def test_passwords(server, scripts):
    broker = server(scripts / "mqtt_broker.lua", "--workers", "1", args=["ann", "secret"])
    assert publish(broker, "a", "b", "-u", "ann", "-P", "secret")[0] == 0
    code, text = publish(broker, "a", "b", "-u", "ann", "-P", "wrong")
    assert code != 0 and "not authorised" in text


def test_many_messages_in_order(broker):
    count = rig.scaled(2000, 100)
    subscriber = Subscriber(broker, count, "-q", "1", "-t", "many")
    done = subprocess.run(["mosquitto_pub", "-p", str(broker.port), "-t", "many", "-q", "1", "-l"],
                          input="".join(f"{i}\n" for i in range(count)), encoding="utf-8", timeout=60 * rig.Settings.patience)
    assert done.returncode == 0
    assert subscriber.messages() == [f"many {i}\n" for i in range(count)]


def test_what_is_sent_again_keeps_its_order(server):
    # Identifiers begin again behind 65535.
    one = server(rig.SAY + """
local mqtt_store = require "portico.mqtt_store"
local store = mqtt_store.open(function() return 1 end)
local session = mqtt_store.new_session("ann")
for _, id in ipairs { 65534, 65535, 1, 2 } do
  session.unacknowledged[id], session.last_id = { id = id, topic = "t", payload = "" }, id
end
for _ = 1, 2 do -- as it is put away, and as it was
  store:put(session)
  session = store:take("ann")
end
local ids = {}
for i, message in ipairs(mqtt_store.in_order(session)) do ids[i] = message.id end
say(table.concat(ids, " "), session.last_id)
return { on_message = function() end }""", "--workers", "1")
    assert one.wait_said(1)[-1].endswith("65534 65535 1 2 2")


def test_clients_notice_nothing_of_a_reload(server, scripts):
    """Subscriptions, what has not been acknowledged, what waits for who is away, retained messages; twice, and when a version is undone."""
    text = (scripts / "mqtt_broker.lua").read_text(encoding="utf-8")
    text = text.replace('local user <const>', 'local fails = false\nlocal user <const>')
    text = text.replace("on_publish = function(client, packet)", """on_publish = function(client, packet)
    if packet.topic == "reload" then portico.reload() end
    if packet.topic == "fail" and fails then error("bad") end""")
    broker = server(text, "--workers", "1", "--reload-probation", "600", "--reload-error-limit", "0")

    def reload(version, expect):
        reloads.save(broker, version)
        count = len(broker.log(expect))
        publish(broker, "reload", "now", "-q", "1")
        broker.wait_log(expect, count + 1, 20)

    away = ("-i", "sleeper", "-c", "-q", "1", "-t", "news/#")
    first = Subscriber(broker, 1, *away)
    publish(broker, "news/a", "0", "-q", "1")
    assert first.messages() == ["news/a 0\n"]
    publish(broker, "news/a", "1", "-q", "1")
    publish(broker, "r/a", "kept", "-r")
    subscriber = Subscriber(broker, 5, "-q", "1", "-t", "rooms/+", "-i", "listener")
    with broker.connect() as slow:
        slow.send(connect_packet(name=b"slow", flags=0) + b"\x82\6\0\1\0\1q\1")
        assert slow.take(9) == CONNACK + b"\x90\3\0\1\1"
        publish(broker, "q", "a", "-q", "1")
        assert slow.take(8) == b"\x32\6\0\1q\0\1a"
        for n, version in enumerate((text + "-- 2", text + "-- 3", text.replace("fails = false", "fails = true")), 2):
            reload(version, reloads.TAKEN)
            publish(broker, "news/b", str(n), "-q", "1")
            assert publish(broker, "rooms/a", str(n), "-q", "1") == (0, "")
        publish(broker, "fail", "now")
        broker.wait_log(reloads.UNDONE, 1, 20)
        assert slow.send(b"\x40\2\0\1\xc0\0").take(2) == b"\xd0\0"
    publish(broker, "news/b", "5", "-q", "1")
    assert publish(broker, "rooms/a", "5", "-q", "1") == (0, "")
    assert publish(broker, "rooms/b", "6") == (0, "")
    assert subscriber.messages() == [f"rooms/a {n}\n" for n in (2, 3, 4, 5)] + ["rooms/b 6\n"]
    assert Subscriber(broker, 5, *away).messages() == ["news/a 1\n"] + [f"news/b {n}\n" for n in (2, 3, 4, 5)]
    assert Subscriber(broker, 1, "-t", "r/#").messages() == ["r/a kept\n"]
    with broker.connect() as slow:  # its message was acknowledged in a version after the one that sent it
        assert slow.send(connect_packet(name=b"slow", flags=0) + b"\xc0\0").take(6) == b"\x20\2\1\0\xd0\0"


def test_what_finds_no_room_is_dropped_and_said(server, scripts):
    broker = server(scripts / "mqtt_broker.lua", "--workers", "1", "--shared-memory", "1M")
    words = ("-i", "sleeper", "-c", "-q", "1", "-t", "news")
    first = Subscriber(broker, 1, *words)
    publish(broker, "news", "0", "-q", "1")
    assert first.messages() == ["news 0\n"]
    for i in range(1, 16):
        assert publish(broker, "news", str(i) + "x" * 100000, "-q", "1") == (0, "")
    broker.wait_log("sleeper is away for too long: messages for it are dropped")
    assert publish(broker, "r", "x" * 100000, "-r", "-q", "1") == (0, "")
    broker.wait_log("no room to retain the message to r")
    kept = Subscriber(broker, 8, *words).messages()
    assert kept == [f"news {i}" + "x" * 100000 + "\n" for i in range(1, 9)]
    assert publish(broker, "r", "short", "-r", "-q", "1") == (0, "")
    assert Subscriber(broker, 1, "-t", "r").messages() == ["r short\n"]
