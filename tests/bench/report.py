"""report.py - what the matrix found: tables, the targets beside the figures, a plot."""
import statistics

from matrix import SATURATED
from targets import BARE_C, baseline, middle, targets

COLOURS = {"portico": "#2471a3", "reference": "#555555", "peer": "#b9770e", "pair": "#85c1e9"}


def number(value, digits=2):
    return "–" if value is None else f"{value:,.{digits}f}"


def with_quartiles(ratio):
    """"1.04 (1.02–1.06)", of three quartiles."""
    return "–" if ratio is None else f"{middle(ratio):.2f} ({ratio[0]:.2f}–{ratio[2]:.2f})"


def print_table(head, rows, out):
    widths = [max(len(str(row[i])) for row in [head] + rows) for i in range(len(head))]
    for row in [head, ["-" * width for width in widths]] + rows:
        print("| " + " | ".join(str(cell).ljust(width) for cell, width in zip(row, widths)) + " |", file=out)
    print(file=out)


def print_scenario(scenario, out):
    print(f"### {scenario['title']}\n", file=out)
    good = [row for row in scenario["rows"] if "failed" not in row]
    table = []
    for row in sorted(good, key=lambda r: r["cpu_us"]):
        busy = " (client saturated)" if row["client_processor"] > SATURATED > row["server_processor"] else ""
        table.append([row["server"], row["rounds"], number(row["cpu_us"]), number(row["user_us"])] +
                     [number(middle(row["cpu_ratio"].get(name))) for name in BARE_C] +
                     [number(row["rate"], 0) + busy] + [number(middle(row["rate_ratio"].get(name))) for name in BARE_C] +
                     [number(row["server_processor"]), number(row["client_processor"])] + [number(row[key], 0) for key in ("p50_us", "p99_us", "p999_us")])
    unit = scenario["unit"]
    print_table(["server", "rounds", f"µs cpu/{unit}", "of it user"] + ["× " + name for name in BARE_C] + [f"{unit}s/s"] +
                ["× " + name for name in BARE_C] +
                ["server busy", "client busy", "p50 µs", "p99 µs", "p99.9 µs"], table, out)
    for row in scenario["rows"]:
        if "failed" in row:
            print(f"- {row['server']} failed: {row['failed']}", file=out)


def print_summary(result, out):
    """All of it on one page: processor time as a ratio to bare C, a row for each server."""
    rows = {}
    for scenario in result["scenarios"]:
        base = baseline(scenario["scenario"])
        for row in scenario["rows"]:
            cell = "failed" if "failed" in row else number(middle(row["cpu_ratio"].get(base)))
            rows.setdefault(row["server"], {})[scenario["scenario"]] = cell
    names = [scenario["scenario"] for scenario in result["scenarios"]]

    def usual(name):
        return statistics.median([float(cell) for cell in rows[name].values() if cell not in ("–", "failed")] or [float("inf")])
    order = sorted(rows, key=usual)
    print("### Processor time / raw_uring's; of lines / libuv try_write's\n", file=out)
    print_table(["server"] + names, [[name] + [rows[name].get(scenario, "–") for scenario in names] for name in order], out)


def print_footprints(found, out):
    """A server without one of the figures has a dash there, and a line with the reason."""
    def cells(row, kind, digits):
        ratios = [row[kind] / found[name][kind] if row[kind] is not None and found.get(name, {}).get(kind) else None for name in BARE_C]
        return [number(row[kind], 0)] + [number(ratio, digits) for ratio in ratios]
    print("### Memory of an idle connection, user-space instructions of a 64-byte message\n", file=out)
    print_table(["server", "bytes/connection"] + ["× " + name for name in BARE_C] + ["instructions/message"] + ["× " + name for name in BARE_C],
                [[name, *cells(row, "bytes", 1), *cells(row, "instructions", 1)] for name, row in found.items()], out)
    for name, row in found.items():
        for kind, reason in row["why_not"].items():
            print(f"- {name}, {kind}: {reason}", file=out)
    print(file=out)


def print_report(result, out):
    m = result["machine"]
    print(f"{m['system']}, Linux {m['kernel']}, {m['processors']} × {m['processor']}; {result['date']}; Portico {result['version']}; "
          f"medians of {result['rounds']} rounds of {result['seconds']:g} s{', before all other work' if result['first'] else ''}; load {m['load']}\n",
          file=out)
    for scenario in result["scenarios"]:
        print_scenario(scenario, out)
    for name, reason in result["missing"].items():
        print(f"- {name} was left out: {reason}", file=out)
    print(file=out)
    print_summary(result, out)
    if result["footprints"]:
        print_footprints(result["footprints"], out)
    rows = [[what, bound, with_quartiles(ratio), with_quartiles(bare), "yes" if reached else "no"] for what, bound, ratio, bare, reached in targets(result)]
    if rows:
        print("### Targets\n", file=out)
        print_table(["target", "wanted", "found", "bare C in its place", "reached"], rows, out)


# ---- The plot: processor time per message, a row of bars per scenario ----

def svg(result):
    bar, gap, left, width = 14, 4, 190, 860
    parts, y = [], 30
    for scenario in result["scenarios"]:
        rows = sorted((r for r in scenario["rows"] if "failed" not in r), key=lambda r: r["cpu_us"])
        if not rows:
            continue
        most = rows[-1]["cpu_us"]
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{scenario["title"]} – µs of processor per {scenario["unit"]}</text>')
        y += 10
        for row in rows:
            length = (width - left - 70) * row["cpu_us"] / most
            parts.append(f'<text x="{left - 8}" y="{y + bar - 3}" text-anchor="end">{row["server"]}</text>'
                         f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar}" fill="{COLOURS[row["group"]]}"/>'
                         f'<text x="{left + length + 6:.1f}" y="{y + bar - 3}">{row["cpu_us"]:.2f}</text>')
            y += bar + gap
        y += 30
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" font-family="sans-serif" font-size="12">'
            f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n')
