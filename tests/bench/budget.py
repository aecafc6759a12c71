"""budget.py - what the limits on scripts cost where they are not reached.

One loop in Lua, the same text each time, timed by the processor's clock inside of it: under plain lua, built from the same sources with
the same options but without the steps of lua/lua_steps.h, and under portico with budget and memory cap on and off. They take turns, and the
best of each counts: what else the machine does only ever adds.
"""
import os
import subprocess
import tempfile

# Bound by the virtual machine; by the collector and the allocator; by the pattern matcher; by table.sort.
LOOPS = {
    "arithmetic": "local x, y = 1, 0 for i = 1, 6000000 do x = (x * 1103515245 + 12345) & 0x7fffffff if x % 3 == 0 then y = y + x end end",
    "calls and tables": """local function add(t, i) t[i & 1023] = (t[i & 1023] or 0) + i return t end
        local t = {} for i = 1, 1500000 do add(t, i) end""",
    "allocation": "for i = 1, 600000 do local t = {i, x = i} end",
    "strings": "for i = 1, 300000 do local s = 'key' .. i end",
    "patterns": "local s = ('GET /index.html HTTP/1.1 '):rep(20) for i = 1, 3000 do for w in s:gmatch('%a+') do end end",
    "sort": "for n = 1, 6 do local t = {} for i = 1, 30000 do t[i] = i * 7919 % 30011 end table.sort(t) end",
}
TIMED = """
local from = os.clock()
do %s end
local seconds = os.clock() - from
"""
# At load time, where no connection is needed. Without a budget there is no watchdog.
UNDER_PORTICO = TIMED + 'io.stdout:write("seconds ", seconds, "\\n") return { listen = {} }'
UNDER_LUA = TIMED + 'io.stdout:write("seconds ", seconds, "\\n")'
WAYS = {
    "limits off": ("--callback-budget", "0", "--load-budget", "0", "--lua-memory", "1024G"),
    "limits on": ("--callback-budget", "0.1", "--load-budget", "5", "--lua-memory", "64M"),
}


def seconds_of(command):
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return float(output.split()[1])


def build_lua(sources, folder):
    """The interpreter, from the sources that portico was built from."""
    files = [os.path.join(sources, name) for name in sorted(os.listdir(sources)) if name.endswith(".c") and name != "luac.c"]
    exe = os.path.join(folder, "lua")
    subprocess.run(["cc", "-O2", "-w", "-DNDEBUG", "-DLUA_USE_POSIX", "-o", exe, *files, "-lm"], check=True)
    return exe


def bench_budget(portico, sources, rounds, table):
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        lua = build_lua(sources, folder)
        for name, loop in LOOPS.items():
            scripts = {}
            for kind, text in (("portico", UNDER_PORTICO), ("lua", UNDER_LUA)):
                scripts[kind] = os.path.join(folder, f"{kind}.lua")
                with open(scripts[kind], "w", encoding="utf-8") as f:
                    f.write(text % loop)
            commands = {way: [portico, "--check", *options, scripts["portico"]] for way, options in WAYS.items()}
            commands["lua"] = [lua, scripts["lua"]]
            times = {way: [] for way in commands}
            for number in range(rounds):
                order = list(commands)[number % 3:] + list(commands)[:number % 3]
                for way in order:
                    times[way].append(seconds_of(commands[way]))
            best = {way: min(found) for way, found in times.items()}
            rows.append([name, f"{best['lua'] * 1000:.1f} ms", f"{best['limits off'] / best['lua']:.3f}",
                         f"{best['limits on'] / best['lua']:.3f}", f"{best['limits on'] / best['limits off']:.3f}"])
    table(["loop", "lua", "limits off : lua", "limits on : lua", "on : off"], rows)
