"""Every byte right and in order, with clients that read slowly, and memory bounded while they do not read at all."""

import random
import selectors
import socket
import time
from collections import deque

import pytest

from rig import ECHO, Settings, deadline, pattern, scaled

pytestmark = pytest.mark.packets("received")

BLOCK = 1 << 16
MODES = {
    "lent": ECHO,
    "ready": """return { on_readable = function(conn)
      local data = conn:recv(65536)
      if data then conn:send(data) end
    end }""",
}


class Stream:
    """One client's side: sends blocks of its pattern and compares what comes back with what it has sent."""

    def __init__(self, number, address, total, slow):
        self.number = number
        self.left_to_send = total
        self.left_to_take = total
        self.slow = slow
        self.offset = 0
        self.expected = deque()  # blocks sent and not yet back, as memoryviews
        self.pending = memoryview(b"")
        self.blocked = False  # the server has stopped taking: reading begins
        self.socket = socket.create_connection(address, 10 * Settings.patience)
        self.socket.setblocking(False)
        self.random = random.Random(number)

    def send(self):
        while self.left_to_send or self.pending:
            if not self.pending:
                count = min(BLOCK, self.left_to_send)
                block = memoryview(pattern(self.number, self.offset, count))
                self.offset += count
                self.left_to_send -= count
                self.pending = block
                self.expected.append(block)
            try:
                sent = self.socket.send(self.pending)
            except BlockingIOError:
                self.blocked = True
                return
            self.pending = self.pending[sent:]
        self.blocked = True

    def take(self):
        size = self.random.choice((1, 100, 4096)) if self.slow else BLOCK
        try:
            data = memoryview(self.socket.recv(size))
        except BlockingIOError:
            return
        assert data, f"client {self.number}: end of stream with {self.left_to_take} bytes missing"
        self.left_to_take -= len(data)
        while data:
            assert self.expected, f"client {self.number}: more came back than was sent"
            block = self.expected[0]
            count = min(len(block), len(data))
            place = self.offset - self.left_to_send - self.left_to_take
            assert data[:count] == block[:count], f"client {self.number}: wrong bytes before byte {place}"
            data = data[count:]
            if count == len(block):
                self.expected.popleft()
            else:
                self.expected[0] = block[count:]
        # A slow reader is slow until its last eighth, so that the test ends.
        if self.slow and self.left_to_take < self.slow:
            self.slow = 0


@pytest.mark.parametrize("mode", MODES)
def test_8_clients_times_64_mebibytes_come_back_right_and_in_order(server, mode):
    one = server(MODES[mode])
    total = 64 << 20 if Settings.sanitizer is None and Settings.scale >= 0.05 else scaled(64 << 20, 1 << 20) // 8 * 8
    if mode != "lent":
        total = total // 4 // 8 * 8
    streams = [Stream(n, one.addresses[0], total, total - scaled(1 << 20) if n == 0 else 0) for n in range(8)]
    selector = selectors.DefaultSelector()
    for stream in streams:
        selector.register(stream.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, stream)
    most = 0
    end = deadline(60)
    while selector.get_map():
        assert time.monotonic() < end, [(s.left_to_send, s.left_to_take) for s in streams]
        for key, events in selector.select(5):
            stream = key.data
            if events & selectors.EVENT_WRITE:
                stream.send()
                if not (stream.left_to_send or stream.pending):
                    selector.modify(stream.socket, selectors.EVENT_READ, stream)
            # Reading begins when the server's queue, and with it the kernel's, has filled up.
            if stream.blocked and events & selectors.EVENT_READ:
                stream.take()
                if stream.left_to_take == 0:
                    selector.unregister(stream.socket)
        if not Settings.wine:
            most = max(most, one.memory())
    for stream in streams:
        stream.socket.close()
    if Settings.patience == 1 and not Settings.wine:
        assert most < 128 << 20, f"{most >> 20} MiB were resident"
    one.stop()
