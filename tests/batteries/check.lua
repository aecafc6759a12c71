-- check.lua - what the tests of lua/portico/ are made of. A test is a script that portico runs:
--
--   portico --callback-budget 0 --load-budget 0 tests/batteries/resp.lua [SECONDS [SEED]]
--
-- SECONDS is how long to fuzz (1), SEED what to begin with (the time; it is printed). Exit status 1:
-- something was not as it should be, and was printed.

local check = { failed = 0, done = 0 }

local seconds, seed = tonumber(arg[1]) or 1, math.tointeger(tonumber(arg[2])) or os.time()

local function show(value, depth)
  if type(value) == "string" then
    return #value > 200 and ("%q… (%d bytes)"):format(value:sub(1, 200), #value) or ("%q"):format(value)
  elseif type(value) ~= "table" or depth == 0 then
    return tostring(value)
  end
  local parts = {}
  for k, v in pairs(value) do
    parts[#parts + 1] = ("[%s] = %s"):format(show(k, 0), show(v, depth - 1))
  end
  table.sort(parts)
  return "{ " .. table.concat(parts, ", ") .. " }"
end

check.show = show

local function same(a, b)
  if a == b or a ~= a and b ~= b then
    return math.type(a) == math.type(b)
  elseif type(a) ~= "table" or type(b) ~= "table" then
    return false
  end
  for k, v in pairs(a) do
    if not same(v, b[k]) then
      return false
    end
  end
  for k in pairs(b) do
    if a[k] == nil then
      return false
    end
  end
  return true
end
check.same = same

function check.fail(what, ...)
  check.failed = check.failed + 1
  if check.failed <= 20 then
    print(("FAILED %s: %s"):format(what, table.concat({ ... }, " ")))
  end
end

-- got and want are the same, tables by what is in them.
function check.equal(got, want, what)
  check.done = check.done + 1
  if not same(got, want) then
    check.fail(what, "got", show(got, 6), "and not", show(want, 6))
  end
end

-- f(...) raises, and the text of the error has that pattern in it.
function check.raises(pattern, what, f, ...)
  check.done = check.done + 1
  local ok, message = pcall(f, ...)
  if ok or not tostring(message):find(pattern) then
    check.fail(what, "got", show(message, 1), "and not an error with", show(pattern, 0))
  end
end

-- decode(pieces) gives the same for the text in one piece, in two, split anywhere, and byte by byte; returns what.
function check.splits(text, decode, what)
  local whole = decode { text }
  local bytes = {}
  for i = 1, #text do
    bytes[i] = text:sub(i, i)
  end
  check.equal(decode(bytes), whole, what .. ", byte by byte")
  for i = 1, #text - 1 do
    check.equal(decode { text:sub(1, i), text:sub(i + 1) }, whole, what .. ", split at " .. i)
  end
  return whole
end

local random = math.random

local function mutate(text, samples)
  local kind, at = random(7), random(0, #text)
  local head, tail = text:sub(1, at), text:sub(at + 1)
  if kind == 1 then
    return head .. string.char(random(0, 255)) .. tail:sub(2) -- change a byte
  elseif kind == 2 then
    return head .. string.char(random(0, 255)) .. tail -- insert one
  elseif kind == 3 then
    return head .. tail:sub(1 + random(4)) -- remove some
  elseif kind == 4 then
    return head -- cut
  elseif kind == 5 then
    return head .. samples[random(#samples)] .. tail
  elseif kind == 6 then
    return head .. tail:sub(1, random(8)):rep(random(20)) .. tail
  end
  return head .. ({ "0", "9999999999999999999", "-1", "\r", "\n", "\0", "\255", " ", ":", "" })[random(10)] .. tail
end

-- For as long as the test is to fuzz: makes texts from the samples, and hands each to decode(pieces) in one
-- piece and in random pieces; both must give the same, and neither may raise.
function check.fuzz(samples, decode, what)
  math.randomseed(seed)
  local stop, rounds = portico.monotonic() + seconds, 0 -- of the wall: on a crowded machine fewer rounds, not a time-out
  repeat
    local text = samples[random(#samples)]
    for _ = 1, random(0, 4) do
      text = mutate(text, samples)
    end
    local pieces, pos = {}, 1
    while pos <= #text do
      local size = random(3) == 1 and 1 or random(40)
      pieces[#pieces + 1] = text:sub(pos, pos + size - 1)
      pos = pos + size
    end
    local ok, whole = xpcall(decode, debug.traceback, { text })
    local ok_too, split = xpcall(decode, debug.traceback, pieces)
    if not ok or not ok_too then
      check.fail(what .. ", fuzzing", "seed", seed, "round", rounds, show(text, 0), ok and split or whole)
    elseif not same(whole, split) then
      check.fail(what .. ", fuzzing", "seed", seed, "round", rounds, show(text, 0), "in pieces", show(split, 6), "whole", show(whole, 6))
    end
    rounds = rounds + 1
  until portico.monotonic() > stop or check.failed > 0
  check.done = check.done + rounds
  print(("%s: %d rounds of fuzzing, seed %d"):format(what, rounds, seed))
end

-- f(n) must cost about as much per unit for a large n as for a small one: not its square. Who waits for a processor takes
-- longer, too, on Windows also by os.clock(), so that only the shortest times count, of more tries where those say no.
function check.linear(f, small, large, what)
  local best = { [small] = math.huge, [large] = math.huge }
  local ratio
  for try = 1, 15 do
    for n in pairs(best) do
      collectgarbage()
      local start = os.clock()
      f(n)
      best[n] = math.min(best[n], math.max(os.clock() - start, 0.0005))
    end
    ratio = best[large] / best[small]
    if try >= 3 and ratio <= 3 * large / small then break end
  end
  check.done = check.done + 1
  if ratio > 3 * large / small then
    check.fail(what, ("%d times as much takes %.1f times as long"):format(large // small, ratio))
  end
end

-- Runs the test, and ends the program with its result. Returns what the script has to return.
function check.run(test)
  portico.after(0, function()
    local ok, message = xpcall(test, debug.traceback)
    if not ok then
      check.fail("the test itself", message)
    end
    print(("%d checks, %d failed"):format(check.done, check.failed))
    portico.shutdown((check.failed > 0 or check.done == 0) and 1 or 0)
  end)
  return { listen = {} }
end

return check
