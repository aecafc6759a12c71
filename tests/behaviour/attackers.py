"""Hostile clients, in a process of their own, so that they do not hold up who measures.

    attackers.py KIND HOST PORT COUNT [SOURCE]

Prints "ready" when they are in place (those that go on and on: when the first has been through), ends when its standard input does,
and then prints how many there were. With SOURCE they come from that address. tests/behaviour/hostile.py runs it.
"""

import errno
import resource
import select
import socket
import struct
import sys
import threading

from rig import dawdle

stopped = threading.Event()
TCP_REPAIR = 19  # linux/tcp.h


def reset(one):
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


class Attack:
    def __init__(self, address, count, source):
        self.address, self.count, self.source = address, count, source
        self.done = 0

    def connect(self, receive_buffer=None, seconds=10):
        one = socket.socket()
        one.settimeout(seconds)
        if self.source:
            one.bind((self.source, 0))
        if receive_buffer:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        one.connect(self.address)
        self.done += 1
        return one

    def crowd(self, **options):
        """All that are not sent away before they have noticed that they are connected."""
        crowd = []
        for _ in range(self.count):
            try:
                crowd.append(self.connect(**options))
            except ConnectionResetError:
                pass
        return crowd

    def hold(self):
        print("ready", flush=True)
        stopped.wait()

    def again(self, once):
        """Does it until it is enough."""
        while not stopped.is_set():
            try:
                once()
            except OSError as error:  # that the server wants none of it, or the ports are used up, is no reason to stop
                if error.errno == errno.EADDRNOTAVAIL:
                    dawdle(0.01, "ports come back")
            if self.done == 1:
                print("ready", flush=True)

    # ---- Those that are there ----

    def never_read(self):
        """Each sends whatever the server takes, up to 1 MiB, and reads nothing of the answers."""
        crowd = self.crowd(receive_buffer=4096)
        left = {one: 1 << 20 for one in crowd}
        poll = select.epoll()
        by_number = {one.fileno(): one for one in crowd}
        for one in crowd:
            one.setblocking(False)
            poll.register(one, select.EPOLLOUT)
        block = bytes(1 << 16)
        quiet = 0
        while quiet < 5 and any(left.values()):
            ready = poll.poll(0.1)
            quiet = quiet + 1 if not ready else 0
            for number, _ in ready:
                one = by_number[number]
                try:
                    left[one] -= one.send(block[:left[one]])
                except BlockingIOError:
                    pass
                except OSError:
                    left[one] = 0
                if left[one] == 0:
                    poll.unregister(number)
        self.hold()

    def silent(self):
        crowd = self.crowd()
        self.hold()
        del crowd

    def half(self):
        """The beginning of a message, and nothing more."""
        crowd = self.crowd()
        for one in crowd:
            one.sendall(b"half a mess")
        self.hold()

    def vanish(self):
        """Gone without FIN or RST, as when a cable is pulled: what is closed in repair mode says nothing."""
        for one in self.crowd():
            one.sendall(b"x")
            one.recv(1)
            one.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            one.close()
        self.hold()

    def burst(self):
        """All connect at once and wait for what comes; whether they are accepted or not."""
        crowd = []
        for _ in range(self.count):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(self.address)
            crowd.append(one)
            self.done += 1
        self.hold()

    def drip(self):
        """A byte of a message now and then, for ever."""
        self.drip_bytes([b"x"])

    def slowloris(self):
        """A request whose head has no end."""
        self.drip_bytes([b"GET / HTTP/1.1\r\nHost: a\r\n"] + [b"X-a: b\r\n"] * 1000)

    def drip_bytes(self, pieces):
        crowd = self.crowd()
        print("ready", flush=True)
        turn = 0
        while not stopped.wait(0.05):
            for one in crowd:
                try:
                    one.send(pieces[turn % len(pieces)])
                except OSError:
                    pass
            turn += 1

    # ---- Those that come again and again ----

    def rst(self):
        def once():
            one = self.connect()
            one.send(b"hello")
            reset(one)
        self.again(once)

    def fin(self):
        def once():
            one = self.connect()
            one.shutdown(socket.SHUT_WR)
            one.close()
        self.again(once)

    def come_and_go(self):
        self.again(lambda: reset(self.connect()))

    def oversize(self):
        def once():
            one = self.connect()
            one.send(b"\x7f\xff\xff\xff" + bytes(1000))
            while one.recv(1 << 16):
                pass
            one.close()
        self.again(once)

    def error(self):
        def once():
            one = self.connect()
            one.send(b"boom\n")
            try:
                while one.recv(1 << 16):
                    pass
            except ConnectionError:
                pass
            one.close()
        self.again(once)


def main():
    kind, host, port, count = sys.argv[1:5]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
    attack = Attack((host, int(port)), int(count), sys.argv[5] if len(sys.argv) > 5 else None)
    getattr(attack, kind)()
    print(attack.done, flush=True)


if __name__ == "__main__":
    main()
