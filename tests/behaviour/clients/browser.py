"""Chromium without a window, driven over its DevTools protocol."""

import asyncio
import contextlib
import itertools
import json
import shutil
import subprocess
import urllib.request

import rig

MISSING = shutil.which("chromium") is None
REASON = "chromium is not installed (./dev setup test)"


class Page:
    def __init__(self, socket):
        self.socket = socket
        self.numbers = itertools.count(1)

    async def evaluate(self, expression):
        """The value of a JavaScript expression in the page."""
        number = next(self.numbers)
        await self.socket.send(json.dumps({"id": number, "method": "Runtime.evaluate",
                                           "params": {"expression": expression, "awaitPromise": True, "returnByValue": True}}))
        while True:
            answer = json.loads(await self.socket.recv())
            if answer.get("id") == number:
                return answer["result"]["result"].get("value")

    async def until(self, expression, seconds=20):
        """Asks again and again until it is true."""
        end = rig.deadline(seconds)
        while not await self.evaluate(expression):
            assert rig.deadline(0) < end, f"in the page {expression} does not become true"
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def browse(url, directory):
    """Opens the page in a browser of its own: async with browse(url, tmp_path) as page."""
    import websockets

    profile = directory / "profile"
    process = subprocess.Popen(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0",
         f"--user-data-dir={profile}", url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = profile / "DevToolsActivePort"
        port = rig.until(lambda: port_file.exists() and port_file.read_text().split("\n")[0], 60, "Chromium's DevTools port")

        def find():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            return pages and pages[0]["webSocketDebuggerUrl"]

        async with websockets.connect(rig.until(find, 30, "a page in Chromium"), max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
