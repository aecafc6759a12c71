"""What the bench makes of its slices: rounds, quartiles, targets and their tables. Nothing is measured here."""
import io
import os
import sys
from types import SimpleNamespace

import pytest

sys.path.insert(1, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # pace

import footprint
import matrix
import perf
from matrix import SCENARIOS, Row, every, run_scenario
from report import print_report
from servers import NotHere, catalogue
from targets import BARE, BARE_C, TARGETS, compared, targets

# Of perf 6.1, with stacks cut short: epoll's wait, a send, a receive, another send, an accept, a close, a program with and without a symbol for where it is.
STACKS = """
	ffffffff8172f2aa ep_item_poll.isra.0
	ffffffff8172f96a ep_send_events
	ffffffff81000130 entry_SYSCALL_64_after_hwframe
	          108ef3 epoll_wait


	ffffffff81e570f6 skb_defer_free_flush
	ffffffff8200ec5b tcp_sendmsg
	ffffffff81e2f2e2 __sys_sendto
	          10ab59 __send


	ffffffff8200c001 tcp_recvmsg
	ffffffff81e2f330 __x64_sys_recvfrom


	ffffffff8200e18f tcp_sendmsg_locked
	ffffffff8200ec5b tcp_sendmsg


	ffffffff82005d00 sock_alloc_file
	ffffffff81e2c9f4 do_accept
	ffffffff81e2cb2c __x64_sys_accept4


	ffffffff82009a10 tcp_close
	ffffffff81423b01 __fput


	            29f1 main

	    7f12deadbeef [unknown]

"""
SPECS = {spec["name"]: spec for spec in catalogue()}


def counted(us, rate=1000):
    return {"server_us_per_msg": us, "client_us_per_msg": 2 * us, "server_user_share": 0.25, "msgs_per_s": rate, "client_cpu": 0.5, "server_cpu": 0.9,
            "lat_us": {"p50": 10, "p99": 20, "p999": 30}}


def row(slices):
    made = Row("any", "reference")
    made.slices = slices
    return made


class FakeServer:
    """Stands for a server that runs; its client counts its microseconds, more in each round."""

    def __init__(self, name, us, starts=True):
        self.name, self.us, self.spec, self.starts = name, us, SPECS[name], starts
        self.running = False

    def start(self, cores, workers, lines=False):
        if not self.starts:
            raise NotHere("not on this machine")
        self.running = True

    def stop(self):
        self.running = False


class FakeClient:
    def __init__(self, wrong=()):
        self.visits, self.wrong = {}, wrong

    def run(self, server, arguments, seconds, warm, server_core, client_cores):
        assert server.running
        visit = self.visits[server.name] = self.visits.get(server.name, 0) + 1
        return {"failed": "wrong answers"} if server.name in self.wrong else counted(server.us * visit)


def visit(scenario, servers, rounds, client=None, chosen=()):
    result = run_scenario(scenario, servers, client or FakeClient(), SimpleNamespace(rounds=rounds, seconds=0.15, servers=chosen))
    return {made["server"]: made for made in result["rows"]}


def test_a_ratio_is_taken_within_the_rounds_that_both_were_in():
    ours = row({0: counted(2), 1: counted(9), 2: counted(4), 3: counted(6), 4: counted(10)})
    theirs = row({0: counted(1), 2: counted(1), 3: counted(1), 4: counted(1), 5: counted(100)})
    assert ours.ratio(theirs, matrix.cpu_us) == [3.5, 5, 7]


def test_a_ratio_of_one_round_is_its_own_quartiles_and_of_none_there_is_none():
    assert row({3: counted(4)}).ratio(row({3: counted(2)}), matrix.cpu_us) == [2, 2, 2]
    assert row({3: counted(4)}).ratio(row({4: counted(2)}), matrix.cpu_us) is None


def test_who_is_compared_takes_part_in_every_round_and_the_others_now_and_then():
    rounds = {name: every(SPECS[name], "64", ()) for name in SPECS}
    assert [name for name in rounds if rounds[name] == 1] == ["portico io_uring", "portico epoll", "raw_uring", "raw_epoll", "libuv write",
                                                             "libuv try_write", "asio"]
    assert set(rounds.values()) == {1, 6}
    assert every(SPECS["libuv try_write"], "line", ()) == 1  # the others' baseline there
    assert every(SPECS["haproxy lua"], "64full", ()) == 2
    assert every(SPECS["haproxy lua"], "64", ["haproxy lua"]) == 1
    assert every(SPECS["haproxy lua"], "64", ["peer"]) == 6


def test_each_target_is_about_scenarios_and_servers_that_there_are():
    for scenario, server, _, sign, _, against in TARGETS:
        assert scenario in SCENARIOS and sign in ("<=", ">=")
        names = {name.removesuffix(matrix.ONE_WORKER) for name in (server, BARE[server], *against)}
        assert names <= set(SPECS)
        assert all(every(SPECS[name], scenario, ()) <= 2 for name in names)
        assert {server, BARE[server], *against} <= compared(scenario)


def test_a_scenario_visits_each_server_in_its_rounds():
    client = FakeClient()
    servers = [FakeServer("portico io_uring", 1), FakeServer("raw_uring", 2), FakeServer("go", 3), FakeServer("luv", 4, starts=False)]
    rows = visit("64", servers, 13, client)
    assert client.visits == {"portico io_uring": 13, "raw_uring": 13, "go": 3}
    assert rows["go"]["rounds"] == 3 and rows["luv"]["failed"] == "not on this machine"
    assert rows["portico io_uring"]["cpu_ratio"]["raw_uring"] == [0.5, 0.5, 0.5]
    assert rows["raw_uring"]["cpu_us"] == 14 and rows["raw_uring"]["user_us"] == 3.5
    assert not any(server.running for server in servers)


def test_a_server_that_answers_wrongly_fails_its_row():
    rows = visit("64", [FakeServer("raw_uring", 2), FakeServer("asio", 3)], 2, FakeClient(wrong=["asio"]))
    assert rows["asio"]["failed"] == "wrong answers"
    assert "asio" not in rows["raw_uring"]["cpu_ratio"]


def result_of(rows, scenario="64"):
    return {"scenarios": [{"scenario": scenario, "title": SCENARIOS[scenario][0], "unit": "message", "rows": list(rows.values())}],
            "machine": {"system": "a system", "kernel": "6", "processors": 2, "processor": "one", "load": "0 before"}, "date": "today",
            "version": "1", "rounds": 5, "seconds": 0.15, "first": False, "missing": {"erlang": "no erl"}, "footprints": {}}


@pytest.mark.parametrize("us, reached", [(9, True), (11, False)])
def test_a_target_is_reached_beside_the_best_of_the_others(us, reached):
    servers = [FakeServer("portico io_uring", us), FakeServer("raw_uring", 8), FakeServer("libuv try_write", 12.5), FakeServer("asio", 10)]
    found = {what.rpartition(" / ")[2]: rest for what, *rest in targets(result_of(visit("64", servers, 5)))}
    assert set(found) == {"raw_uring", "asio"}
    wanted, ratio, bare, is_reached = found["asio"]
    assert wanted == "≤ 0.9" and ratio == pytest.approx([us / 10] * 3) and bare == pytest.approx([0.8] * 3) and is_reached is reached


def test_a_report_has_the_quartiles_of_a_target_beside_its_median():
    rows = visit("64", [FakeServer("portico io_uring", 1), FakeServer("raw_uring", 1)], 5)
    rows["portico io_uring"]["cpu_ratio"]["raw_uring"] = [1.02, 1.04, 1.061]
    out = io.StringIO()
    print_report(result_of(rows), out)
    line = next(line for line in out.getvalue().splitlines() if "portico io_uring / raw_uring" in line)
    assert [cell.strip() for cell in line.split("|")[2:6]] == ["≤ 1.05", "1.04 (1.02–1.06)", "–", "yes"]
    assert "erlang was left out: no erl" in out.getvalue()
    assert all(f"× {name}" in out.getvalue() for name in BARE_C)


def test_a_footprint_that_cannot_be_taken_is_named_with_the_reason(monkeypatch):
    asked = []

    def held(servers, parts, client):
        asked.append((servers[0].name, parts))
        return {"failed": "reset"} if servers[0].name == "copas" else {"bytes": 100 if servers[0].name == "raw_epoll" else 450}

    def per_message(spec, portico, build, client, load):
        if spec["name"] == "go":
            raise NotHere("callgrind has counted nothing")
        return 64 if spec["name"] == "raw_epoll" else 1600
    monkeypatch.setattr(footprint, "hold", held)
    monkeypatch.setattr(footprint, "per_message", per_message)
    servers = [SimpleNamespace(name=name, spec=SPECS[name], values={"portico": "p", "build": "b"}) for name in ("raw_epoll", "go", "copas")]
    result = result_of({}) | {"footprints": footprint.footprints(servers, None)}
    assert asked == [("raw_epoll", [4000]), ("go", [4000]), ("copas", [900])]
    out = io.StringIO()
    print_report(result, out)
    said = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "| raw_epoll | 100 | – | 1.0 | 64 | – | 1.0 |" in said
    assert "| go | 450 | – | 4.5 | – | – | – |" in said and "- go, instructions: callgrind has counted nothing" in said
    assert "| copas | – | – | – | 1,600 | – | 25.0 |" in said and "- copas, bytes: reset" in said


def profile(name, us, samples, rate=0):
    made = perf.Profile(name, SPECS[name]["group"])
    made.slices = {turn: counted(us * (turn + 1), rate / (turn + 1)) for turn in range(3)}  # a machine that becomes slower
    made.samples.update(dict(zip(perf.KINDS, samples)))
    return made


def test_a_sample_is_what_its_stack_says():
    assert perf.count_samples(STACKS) == ({"rest of kernel": 1, "tcp send": 2, "tcp receive": 1, "user space": 2}, {"main": 1, "[unknown]": 1})
    assert perf.count_samples("") == ({}, {})


def test_a_target_is_bounded_by_the_least_that_any_server_spends():
    rows = [profile("raw_epoll", 4, [60, 20, 10, 10]), profile("asio", 5, [60, 20, 0, 20]), profile("libuv try_write", 6, [60, 20, 0, 20]),
            profile("haproxy lua", 8, [60, 20, 10, 10], rate=100_000), profile("luv", 9, [60, 20, 19, 1], rate=90_000)]
    assert perf.bounds("64", rows[1:]) == [["processor time / asio", "≤ 0.9", "0.80 (8.00 µs, asio)", "0.80 (8.00 µs, asio)", "–"]]
    assert perf.bounds("64full", rows) == [["rate / haproxy lua", "≥ 1.5", "3.12 (6.40 µs, raw_epoll)", "2.78 (7.20 µs, raw_epoll)",
                                         "1.25 (16.00 µs, raw_epoll)"]]
    assert perf.bounds("64", rows[:1]) == [["processor time / raw_epoll", "≤ 1.07", "0.80 (6.40 µs, raw_epoll)", "0.90 (7.20 µs, raw_epoll)", "–"]]
    assert perf.bounds("1", rows) == []


def test_a_profile_says_who_failed_and_what_the_others_spent(capsys):
    rows = [profile("raw_epoll", 2, [60, 20, 15, 5]), profile("asio", 1, [1, 1, 1, 1]), profile("portico epoll", 3, [60, 20, 15, 5])]
    rows[1].failed = "it has ended"
    rows[2].functions.update({"luaV_execute": 1, "memmove": 4})
    tables = []
    perf.print_load("64", rows, lambda head, lines: tables.append(lines))
    said = capsys.readouterr().out
    assert "- asio failed: it has ended" in said and "portico epoll, user space: memmove 4.0%, luaV_execute 1.0%" in said
    assert tables[0][0] == ["raw_epoll", "4.00", "2.40 (60%)", "0.80 (20%)", "0.60 (15%)", "0.20 (5%)", 100]
    assert tables[1] == [["processor time / raw_epoll", "≤ 1.07", "0.80 (3.20 µs, raw_epoll)", "0.95 (3.80 µs, raw_epoll)", "–"]]


def test_without_perf_or_symbols_there_is_a_reason(monkeypatch):
    monkeypatch.setattr(perf.shutil, "which", lambda name: None)
    assert "linux-perf" in perf.why_not()
    monkeypatch.setattr(perf.shutil, "which", lambda name: "/usr/bin/perf")
    monkeypatch.setattr(perf, "read", lambda path: "0000000000000000 T _stext\n" * 3)
    assert "kptr_restrict" in perf.why_not()
    monkeypatch.setattr(perf, "read", lambda path: "4\n" if "paranoid" in path else "ffffffff81000000 T _stext\n")
    monkeypatch.setattr(perf.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=255, stderr="\nAccess to performance monitoring\n"))
    assert perf.why_not() == "perf may not (kernel.perf_event_paranoid is 4): Access to performance monitoring"
