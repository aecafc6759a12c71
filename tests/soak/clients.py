"""clients.py - a process full of clients of the soak, of all tempers; soak.py starts several and kills some.

  clients.py PORT SEED CONNECTIONS

Each connection is drawn: talkers check every byte of their echo; half-closers, droppers (RST), stallers (never read), drippers, silent
ones and those that come and go at once do their worst. One line of JSON on standard output for each second: counters so far.
"""
import asyncio
import json
import random
import socket
import struct
import sys

counters = {"connections": 0, "messages": 0, "wrong": 0, "refused": 0, "broken": 0}


def pattern(key, position, length):
    return bytes((key * 31 + p * 7 + (p >> 8)) & 255 for p in range(position, position + length))


async def talk(rng, reader, writer):
    """Echoes come back right, whatever happens to the script meanwhile."""
    key, position = rng.randrange(256), 0
    for _ in range(rng.randrange(1, 60)):
        length = rng.choice((1, 10, 64, 700, 5000))
        sent = pattern(key, position, length)
        writer.write(sent)
        await writer.drain()
        got = await asyncio.wait_for(reader.readexactly(length), 30)
        counters["messages"] += 1
        if got != sent:
            counters["wrong"] += 1
            print(f"wrong bytes at {position} of stream {key}", file=sys.stderr)
        position += length
        await asyncio.sleep(rng.random() * 0.2)


async def half_close(rng, reader, writer):
    sent = pattern(3, 0, rng.randrange(1, 3000))
    writer.write(sent)
    writer.write_eof()
    got = await asyncio.wait_for(reader.read(-1), 30)
    counters["messages"] += 1
    if got != sent:
        counters["wrong"] += 1
        print(f"a half-closer got {len(got)} of {len(sent)} bytes", file=sys.stderr)


async def drop(rng, reader, writer):
    writer.write(pattern(5, 0, rng.randrange(1, 20000)))
    await asyncio.sleep(rng.random() * 0.05)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def stall(rng, reader, writer):
    """Sends and never reads: the server has to stop reading, and in the end to give up."""
    reader._transport.pause_reading()
    try:
        await asyncio.wait_for(pour(writer), rng.uniform(1, 12))
    except asyncio.TimeoutError:
        pass
    writer.transport.abort()


async def pour(writer):
    block = bytes(65536)
    while True:
        writer.write(block)
        await writer.drain()


async def drip(rng, reader, writer):
    for byte in pattern(9, 0, rng.randrange(3, 25)):
        writer.write(bytes([byte]))
        await asyncio.wait_for(reader.readexactly(1), 30)
        await asyncio.sleep(0.1)


async def silent(rng, reader, writer):
    await asyncio.sleep(rng.uniform(0, 14))


async def come_and_go(rng, reader, writer):
    return


TRADES = [(talk, 10), (half_close, 3), (drop, 3), (stall, 1), (drip, 1), (silent, 1), (come_and_go, 3)]


async def one(port, rng):
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            counters["refused"] += 1
            await asyncio.sleep(0.5)
            continue
        counters["connections"] += 1
        trade = rng.choices([t for t, _ in TRADES], [w for _, w in TRADES])[0]
        try:
            await trade(rng, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            if trade in (talk, half_close, drip):
                counters["broken"] += 1
                print(f"{trade.__name__}: {error!r}", file=sys.stderr)
        finally:
            writer.close()
        await asyncio.sleep(rng.random() * 0.1)


async def report():
    while True:
        await asyncio.sleep(1)
        print(json.dumps(counters), flush=True)


async def main():
    port, seed, connections = map(int, sys.argv[1:])
    await asyncio.gather(report(), *(one(port, random.Random(seed * 1000 + i)) for i in range(connections)))


asyncio.run(main())
