#!/usr/bin/env python3
"""soak.py - Portico under everything at once for a long time, and what it leaves behind. ./dev soak runs it.

  soak.py PORTICO [--minutes N] [--seed S] [--backend NAME] [--clients N] [--csv FILE]

Processes of clients of all tempers (clients.py) talk to one server with two workers, while its script is saved (good versions, broken
ones, ones that fail in their first handlers), reloads are asked for and rolled back, the server is stopped and continued
(SIGSTOP), and clients are killed. Once a second memory, descriptors, connections and generations are looked at.

At the end all clients go, and then these must hold: no byte came back wrong, no talker lost its connection, as many on_close
as on_connect and no handler out of order, no connection and no descriptor left, memory without a slope, exit code 0.
"""
import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from pace import dawdle, until  # noqa: E402

PATIENCE = 30
SLOPE_MAX = 1024 * 1024 # bytes a minute, of the last two thirds of a run of at least five minutes


class Failed(Exception):
    pass


def read(path):
    with open(path) as f:
        return f.read()


class Soak:
    def __init__(self, o, folder):
        self.o, self.folder = o, folder
        self.rng = random.Random(o.seed)
        self.script = os.path.join(folder, "soak.lua")
        self.text = read(os.path.join(HERE, "soak.lua"))
        self.version = 0
        self.saves = self.broken = self.stalls = self.kills = self.rollbacks = 0
        self.samples = []
        self.groups = []
        self.totals = {}

    # ---- The server ----

    def start(self):
        self.save()
        address = os.path.join(self.folder, "address")
        self.control = os.path.join(self.folder, "control")
        command = [self.o.portico, "--workers", "2", "--listen", "tcp://127.0.0.1:0", "--address-file", address, "--control", self.control,
                   "--reload-probation", "1", "--reload-deadline", "5"]
        if self.o.backend:
            command += ["--backend", self.o.backend]
        self.log = open(os.path.join(self.folder, "log"), "w")
        self.server = subprocess.Popen(command + [self.script], stderr=self.log)

        def ready():
            if self.server.poll() is not None:
                raise Failed("the server did not start: " + read(self.log.name)[-500:])
            return os.path.exists(address) and read(address).endswith("\n")

        until(ready, PATIENCE, "the server's address", Failed)
        self.port = int(read(address).split()[0].rpartition(":")[2])

    def ctl(self, *words):
        return subprocess.run([self.o.portico, "ctl", *words, "--control", self.control], capture_output=True, text=True, timeout=PATIENCE)

    def memory(self):
        return next(int(line.split()[1]) * 1024 for line in read(f"/proc/{self.server.pid}/smaps_rollup").splitlines()
                    if line.startswith("Private_Dirty:"))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.server.pid}/fd"))

    # ---- What happens to it ----

    def save(self, extra=""):
        self.version += 1
        self.saves += 1
        text = self.text.replace("VERSION, PACE = 0, 0", f"VERSION, PACE = {self.version}, {self.rng.choice((0, 0.001, 0.05))}") + extra
        new = self.script + ".new"
        with open(new, "w") as f:
            f.write(text)
        os.replace(new, self.script)

    def save_broken(self):
        self.broken += 1
        extra = self.rng.choice(("\nthis is no Lua", "\nerror('at the top')", "\nreturn 7"))
        self.save(extra if not extra.startswith("\nerror") else "")
        if extra.startswith("\nerror"): # before the table that is returned
            with open(self.script, "w") as f:
                f.write("error('at the top')\n" + self.text)

    def stall(self):
        self.stalls += 1
        self.server.send_signal(signal.SIGSTOP)
        dawdle(self.rng.uniform(0.05, 0.4), "this is the stall")
        self.server.send_signal(signal.SIGCONT)

    def add_clients(self):
        seed = self.rng.randrange(1 << 30)
        process = subprocess.Popen([sys.executable, "-B", os.path.join(HERE, "clients.py"), str(self.port), str(seed), str(self.o.clients)],
                                   stdout=subprocess.PIPE, stderr=self.client_log, text=True)
        os.set_blocking(process.stdout.fileno(), False)
        self.groups.append({"process": process, "counters": {}})

    def kill_clients(self):
        self.kills += 1
        group = self.groups.pop(self.rng.randrange(len(self.groups)))
        self.listen_to(group)
        self.end_group(group, signal.SIGKILL)
        self.add_clients()

    def rollback(self):
        self.rollbacks += 1
        self.ctl("rollback")

    def listen_to(self, group):
        try:
            lines = (group["process"].stdout.read() or "").splitlines()
        except (TypeError, ValueError):
            lines = []
        for line in lines:
            if line.endswith("}"):
                group["counters"] = json.loads(line)

    def end_group(self, group, how):
        group["process"].send_signal(how)
        group["process"].wait(PATIENCE)
        for name, value in group["counters"].items():
            self.totals[name] = self.totals.get(name, 0) + value

    # ---- The run ----

    def run(self):
        started = time.monotonic()
        end = started + self.o.minutes * 60
        self.start()
        self.idle_descriptors = self.descriptors()
        self.client_log = open(os.path.join(self.folder, "clients.log"), "w")
        for _ in range(3):
            self.add_clients()
        events = [(self.save, 12), (self.save_broken, 4), (self.stall, 3), (self.kill_clients, 2), (self.rollback, 1)]
        try:
            while time.monotonic() < end:
                dawdle(self.rng.uniform(0.3, 1.7), "clients talk")
                self.rng.choices([e for e, _ in events], [w for _, w in events])[0]()
                for group in self.groups:
                    self.listen_to(group)
                if self.server.poll() is not None:
                    raise Failed(f"the server ended with {self.server.returncode}: " + read(self.log.name)[-2000:])
                self.samples.append((time.monotonic() - started, self.memory(), self.descriptors()))
        finally:
            for group in self.groups:
                self.listen_to(group)
                self.end_group(group, signal.SIGKILL)

    def ledger(self):
        """What the script's handlers have counted, once all connections are gone."""
        text = self.text.replace("VERSION, PACE = 0, 0", "VERSION, PACE = 0, 0").split("local ticks")[0] + """
return {
    version = 1, migrate = function(s) return s end,
    on_message = function()
        local parts = {}
        for _, name in ipairs{ "connects", "closes", "messages", "violations" } do parts[#parts + 1] = tostring(ledger:get(name) or 0) end
        return table.concat(parts, " ") .. "\\n"
    end,
}
"""
        with open(self.script + ".new", "w") as f:
            f.write(text)
        os.replace(self.script + ".new", self.script)
        answer = self.ctl("reload")
        if answer.returncode != 0:
            raise Failed("the last reload was refused: " + answer.stdout + answer.stderr)
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as s:
            s.sendall(b"?")
            s.settimeout(PATIENCE)
            line = s.makefile().readline()
        return dict(zip(("connects", "closes", "messages", "violations"), map(int, line.split())))

    def connections(self):
        """By the server's own report: the column of that name, over all generations."""
        head, *lines = self.ctl("generations").stdout.splitlines()
        end = head.index("connections") + len("connections")
        return sum(int(line[:end].split()[-1]) for line in lines)

    def wait_until_idle(self):
        """The connections of clients that were killed take their time, and handlers that wait hold theirs."""
        left = ()

        def idle():
            nonlocal left
            left = self.connections(), self.descriptors()
            return left[0] == 0 and left[1] <= self.idle_descriptors

        try:
            until(idle, 60, "rest", Failed)
        except Failed as failed:
            raise Failed(f"{failed}: with no client left there are {left[0]} connections and {left[1]} descriptors; "
                         f"{self.idle_descriptors} when it began") from None

    def slope(self):
        """Bytes a minute, by least squares over the last two thirds."""
        points = self.samples[len(self.samples) // 3:]
        mean_t = sum(t for t, _, _ in points) / len(points)
        mean_m = sum(m for _, m, _ in points) / len(points)
        spread = sum((t - mean_t) ** 2 for t, _, _ in points)
        return sum((t - mean_t) * (m - mean_m) for t, m, _ in points) / spread * 60 if spread else 0.0

    def judge(self):
        self.wait_until_idle()
        ledger = self.ledger()
        self.server.send_signal(signal.SIGTERM)
        code = self.server.wait(PATIENCE)
        third = self.samples[len(self.samples) // 3:]
        reloads = len(re.findall(r"generation \d+", read(self.log.name)))
        print(f"clients: {self.totals}")
        print(f"server: {self.saves} saves, {self.broken} of them broken, {self.stalls} stalls, {self.rollbacks} rollbacks, "
              f"{self.kills} groups of clients killed, {reloads} lines about generations")
        print(f"memory: {third[0][1] / 1048576:.1f} MiB after a third, {third[-1][1] / 1048576:.1f} at the end, at most "
              f"{max(m for _, m, _ in self.samples) / 1048576:.1f}; slope {self.slope() / 1024:.1f} KiB a minute")
        print(f"descriptors: {self.idle_descriptors} idle before, at most {max(d for _, _, d in self.samples)}, none left over after")
        print(f"callbacks: {ledger['connects']} on_connect, {ledger['closes']} on_close, {ledger['messages']} on_message, "
              f"{ledger['violations']} out of order")
        wrong = []
        if self.totals.get("wrong"):
            wrong.append(f"{self.totals['wrong']} wrong answers")
        if self.totals.get("broken"):
            wrong.append(f"{self.totals['broken']} well-behaved clients lost their connection")
        if ledger["connects"] != ledger["closes"]:
            wrong.append("on_connect and on_close were not called equally often")
        if ledger["violations"]:
            wrong.append("handlers were called out of order")
        if self.o.minutes >= 5 and self.slope() > SLOPE_MAX:
            wrong.append("memory grows")
        if code != 0:
            wrong.append(f"the server's exit code is {code}")
        if not self.totals.get("messages"):
            wrong.append("no client was ever answered")
        return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portico")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--backend")
    parser.add_argument("--clients", type=int, default=40, help="connections of each of the three processes; default: 40")
    parser.add_argument("--csv", help="write the samples there: seconds, bytes, descriptors")
    o = parser.parse_args()
    o.portico = os.path.abspath(o.portico)
    if o.seed is None:
        o.seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {o.seed}, {o.minutes:g} minutes, backend {o.backend or 'auto'}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(o, folder)
        try:
            soak.run()
            wrong = soak.judge()
        except Failed as failed:
            wrong = [str(failed)]
        finally:
            if soak.server.poll() is None:
                soak.server.kill()
        if o.csv:
            with open(o.csv, "w") as f:
                f.writelines(f"{t:.1f},{m},{d}\n" for t, m, d in soak.samples)
        if wrong:
            print(read(os.path.join(folder, "clients.log"))[-3000:])
            print(read(os.path.join(folder, "log"))[-3000:])
    for text in wrong:
        print("FAILED: " + text)
    print("failed" if wrong else "passed")
    sys.exit(1 if wrong else 0)


main()
