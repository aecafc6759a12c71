"""Options and fixtures of the behaviour tests, which drive the real portico over loopback.

    python3 -m pytest tests/behaviour --portico build/release/portico --backend epoll
"""

import os
import pathlib
import re
import socket

import pytest

import rig


def pytest_addoption(parser):
    group = parser.getgroup("portico")
    group.addoption("--portico", metavar="EXE", help="the program under test")
    group.addoption("--backend", metavar="NAME", help="io_uring, epoll or iocp; without it the best that works")
    group.addoption("--wine", action="store_true", help="run the program through wine")
    group.addoption("--scale", type=float, default=None, metavar="F",
                    help="factor on volumes of work; default PORTICO_TEST_SCALE, else 1; Wine and sanitizers: 0.05")
    group.addoption("--patience", type=float, default=None, metavar="F",
                    help="factor on deadlines; default PORTICO_TEST_PATIENCE, else 1; Wine and sanitizers: 3")


def factor(value, name, otherwise):
    return value if value is not None else float(os.environ.get(name, otherwise))


def pytest_configure(config):
    settings = rig.Settings
    settings.portico = config.getoption("--portico")
    settings.backend = config.getoption("--backend")
    settings.wine = config.getoption("--wine")
    config.addinivalue_line("markers", "no_wine(reason): cannot be tried under Wine")
    config.addinivalue_line("markers", "packets(direction): takes what one packet brings for a message, the script "
                            "(received) or the client too (both): not to be split by portico_stingy")
    config.addinivalue_line("markers", "budget: ends a handler that runs for too long")
    if settings.portico is None:
        raise pytest.UsageError("--portico is needed: the program under test")
    if not os.path.exists(settings.portico):
        raise pytest.UsageError(f"--portico: there is no {settings.portico}")
    settings.portico = os.path.abspath(settings.portico)
    if settings.wine:
        os.environ.setdefault("WINEDEBUG", "-all,err+virtual")  # it speaks on the same standard error
        os.environ.setdefault("LANG", "C.UTF-8")  # and what is not ASCII on a command line is lost
    settings.sanitizer = rig.sanitizer()
    slow = settings.wine or settings.sanitizer is not None
    settings.scale = factor(config.getoption("--scale"), "PORTICO_TEST_SCALE", 0.05 if slow else 1)
    settings.patience = factor(config.getoption("--patience"), "PORTICO_TEST_PATIENCE", 3 if slow else 1)


def pytest_collection_modifyitems(items):
    for item in items:
        mark = item.get_closest_marker("no_wine")
        if mark and rig.Settings.wine:
            item.add_marker(pytest.mark.skip(reason=mark.args[0]))
        if item.get_closest_marker("budget") and rig.Settings.sanitizer == "thread":
            item.add_marker(pytest.mark.skip(reason="the thread sanitizer holds back the signal that ends a handler"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """--reruns is for what takes too long on a busy machine. What the program says against itself, an end that is not clean, and a
    test that draws its steps and has printed the seed fail for good."""
    report = (yield).get_result()
    drawn = re.search("seed", report.capstdout, re.IGNORECASE)
    if report.failed and (call.when == "teardown" or drawn or rig.UNCLEAN.search(report.longreprtext)):
        item.add_marker(pytest.mark.flaky(reruns=1, condition=False))


def pytest_terminal_summary(terminalreporter):
    """What failed before it was tried again, in lines that ./dev test looks for."""
    for report in terminalreporter.stats.get("rerun", []):
        text = f"{report.nodeid}, {rig.Settings.backend}, {rig.Settings.portico}\n{report.longreprtext}"
        for line in text.splitlines():
            terminalreporter.write_line("again| " + line)


@pytest.fixture(autouse=True)
def packets(request, monkeypatch):
    """Has a meaning for portico_stingy only: tests/stingy/stingy.c."""
    mark = request.node.get_closest_marker("packets")
    if mark:
        monkeypatch.setenv("PORTICO_STINGY", {"received": "sends", "both": "nothing"}[mark.args[0]])


@pytest.fixture
def server(tmp_path):
    """Starts portico: server(script, *options, args=…, listen=…). The script is a text, a path, or None for the
    embedded one. What the test has not stopped itself is stopped at its end, and must then end clean."""
    started = []

    def start(script=None, *options, ready=True, **more):
        one = rig.Server(tmp_path / f"server{len(started)}", script, options, **more)
        started.append(one)
        return one.wait_ready() if ready else one

    try:
        yield start
        failures = []
        for one in started:
            if not one.checked:
                try:
                    one.stop()
                except AssertionError as failure:
                    failures.append(str(failure))
        assert not failures, failures[0]
    finally:
        for one in started:
            one.kill()


@pytest.fixture(scope="session")
def scripts():
    """The directory of the scripts that come with portico."""
    return pathlib.Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="session")
def ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
