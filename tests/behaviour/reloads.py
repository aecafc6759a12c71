"""What the tests of hot reload have in common."""

import os
import re

from rig import until

# Lines of the log.
TAKEN = r"reload: generation \d+ \(\w{12}\) takes over from generation \d+"
REFUSED = r"reload refused, generation \d+ \(\w{12}\) serves on: "
UNDONE = r"reload undone: generation \d+ \(\w{12}\) serves again"
STILL = r"generation \d+ is still alive"

# Goes first in on_message: the word "reload" reloads, on every system alike.
ASK = "if data == 'reload' then portico.reload() return 'asked' end "

# A version is told apart by its mark: answers "mark:data".
TELLER = "return { on_message = function(conn, data) " + ASK + "return '%s:' .. data end }\n"


def say(client, word):
    """Sends a word, and returns what comes back, which is short."""
    client.send(word)
    return client.socket.recv(1 << 16).decode()


def save(one, text, name="script.lua"):
    path = one.directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(path.name + ".new")  # a reload that comes meanwhile finds one or the other
    whole.write_bytes(text if isinstance(text, bytes) else text.encode())
    until(lambda: replaced(path, whole), 5, "the renaming")


def replaced(path, whole):
    try:
        os.replace(whole, path)
    except PermissionError:  # Windows: somebody reads it
        return False
    return True


def reload(one, client, expect=TAKEN, seconds=20):
    """Has the server reload, and waits for what comes of it. Returns the line of the log."""
    count = len(one.log(expect))
    assert say(client, "reload") == "asked"
    return one.wait_log(expect, count + 1, seconds)[-1]


def generation(line):
    return int(re.search(r"generation (\d+)", line)[1])
