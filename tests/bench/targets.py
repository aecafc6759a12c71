"""targets.py - what Portico is to reach beside the others, and whether it has."""

BARE_C = ("raw_uring", "raw_epoll")
BARE = {"portico io_uring": "raw_uring", "portico epoll": "raw_epoll"}
C_SERVERS = ("libuv try_write", "libuv write", "asio")
SCRIPTED = ("haproxy lua", "luv", "cqueues", "copas", "node", "python asyncio", "erlang", "tarantool")

# Scenario, server, what, at most or at least, against whom: the best of them counts.
TARGETS = [(s, "portico io_uring", "cpu_ratio", "<=", 1.05, ("raw_uring",)) for s in ("64", "512", "4000")]
TARGETS += [(s, "portico io_uring", "cpu_ratio", "<=", 0.90, C_SERVERS) for s in ("64", "512", "4000")]
TARGETS += [(s, "portico io_uring", "rate_ratio", ">=", 1.5, SCRIPTED) for s in ("64full", "512full", "4000full")]
TARGETS += [(s, "portico epoll", "cpu_ratio", "<=", 1.07, ("raw_epoll",)) for s in ("64", "512", "4000")]
TARGETS += [("1", "portico io_uring", "p50_ratio", "<=", 1.1, ("raw_uring", "raw_epoll", "libuv try_write", "asio")),
            ("16deep", "portico io_uring", "cpu_ratio", "<=", 1.1, ("raw_uring",)),
            ("16k", "portico io_uring", "cpu_ratio", "<=", 1.1, ("raw_uring",)),
            ("connect", "portico io_uring", "rate_ratio", ">=", 1.0, ("libuv try_write",)),
            # The rate is the client's, which has more to do there than any server here.
            ("connect", "portico io_uring", "cpu_ratio", "<=", 1.0, ("libuv try_write",)),
            ("connect", "portico epoll", "rate_ratio", ">=", 1.0, ("libuv try_write",)),
            ("2workers", "portico io_uring", "cpu_ratio", "<=", 1.1, ("portico io_uring, one worker",)),
            ("2workers", "portico epoll", "cpu_ratio", "<=", 1.1, ("portico epoll, one worker",))]
SIGNS = {"<=": "≤", ">=": "≥"}
WORDS = {"cpu_ratio": "processor time", "rate_ratio": "rate", "p50_ratio": "p50"}


def middle(ratio):
    """The median, of three quartiles; None of None."""
    return None if ratio is None else ratio[1]


def baseline(scenario):
    """The server that all others are compared with."""
    return "libuv try_write" if scenario == "line" else BARE_C[0]


def compared(scenario):
    """The servers that a target of this scenario names, or puts in Portico's place."""
    names = set()
    for where, server, _, _, _, against in TARGETS:
        if where == scenario:
            names |= {server, BARE[server], *against}
    return names


def targets(result):
    """(what, wanted, ratio, what bare C in place of Portico comes to, reached) for each target whose figures are there; ratios are quartiles,
    None where bare C is what Portico is compared with. Against several: the best of them counts."""
    by_scenario = {s["scenario"]: {r["server"]: r for r in s["rows"] if "failed" not in r} for s in result["scenarios"]}
    titles = {s["scenario"]: s["title"] for s in result["scenarios"]}
    found = []
    for scenario, server, what, sign, bound, against in TARGETS:
        row = by_scenario.get(scenario, {}).get(server)
        ratios = {name: row[what][name] for name in against if row[what].get(name)} if row else {}
        if not ratios:
            continue
        # The best of the others is the one beside which we look worst.
        other = (max if sign == "<=" else min)(ratios, key=lambda name: middle(ratios[name]))
        worst = middle(ratios[other])
        reached = worst <= bound if sign == "<=" else worst >= bound
        bare = None if other == BARE[server] or other.startswith(server) else by_scenario[scenario].get(BARE[server], {}).get(what, {}).get(other)
        found.append((f"{titles[scenario]}: {WORDS[what]}, {server} / {other}", f"{SIGNS[sign]} {bound:g}", ratios[other], bare, reached))
    return found
