-- options.lua - what batteries are given, looked at once and in one way, so that a wrong limit is an error and not silence.

local function refuse(text, ...)
  error(text:format(...), 0) -- where, says the traceback, or the host for `return http1.server { … }`
end

-- What the servers of batteries do themselves.
local TAKEN <const> = { on_message = true, on_stream = true, on_readable = true, frame = true }

-- … and what the host reads of a script's table: what else a server may be given.
local SCRIPT <const> = { on_connect = true, on_eof = true, on_drain = true, on_close = true, on_datagram = true, on_error = true,
  on_load = true, on_check = true, on_unload = true, migrate = true, listen = true, limits = true, version = true, workers = true,
  lasting = true }

local NAME_MAX <const> = 64 -- a longer one is no slip

-- How many letters must be added, dropped, changed, or swapped with their neighbour, to make one word of the other: as
-- core/guess.c has it for the names of the host.
local function distance(a, b)
  local before, last = nil, { [0] = 0 }
  for j = 1, #b do
    last[j] = j
  end
  for i = 1, #a do
    local row = { [0] = i }
    for j = 1, #b do
      row[j] = math.min(last[j - 1] + (a:byte(i) == b:byte(j) and 0 or 1), last[j] + 1, row[j - 1] + 1)
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last = last, row
  end
  return last[#b]
end

-- The nearest of the names to a misspelt one, the first of those that are as near; nil when none is near.
local function nearest(name, names)
  local best, least = nil, 1 + #name // 3
  for _, known in ipairs(#name <= NAME_MAX and names or {}) do
    local far = distance(name, known)
    if far < least then
      best, least = known, far
    end
  end
  return best
end

-- Adds the keys of a set to a list, in order.
local function add_sorted(names, set)
  local first = #names + 1
  for name in pairs(set) do
    names[#names + 1] = name
  end
  local sorted = table.move(names, first, #names, 1, {})
  table.sort(sorted)
  return table.move(sorted, 1, #sorted, first, names)
end

local options = {}

-- The options of http1.server, which websocket.server takes, too.
options.HTTP_SERVER = { on_request = "function", on_head = "function", on_body = "function", upgrade = "table",
  decoder = "table", patience = "number" }

-- Raises for an option that is not of its kind, the name of a type, by its name in kinds; numbers are above 0.
function options.check(where, given, kinds)
  if type(given) ~= "table" then
    refuse("%s: table of options expected, got %s", where, type(given))
  end
  for name, kind in pairs(kinds) do
    local value = given[name]
    if value ~= nil and type(value) ~= kind then
      refuse("%s: %s: %s expected, got %s", where, name, kind, type(value))
    elseif kind == "number" and value and not (value > 0) then
      refuse("%s: %s: a number above 0 expected, got %s", where, name, value)
    end
  end
end

-- … and for one that is not in kinds.
function options.check_all(where, given, kinds)
  options.check(where, given, kinds)
  for name in pairs(given) do
    if not kinds[name] then
      refuse("%s: unknown option '%s': there are %s", where, name, table.concat(add_sorted({}, kinds), ", "))
    end
  end
end

-- … and, for a server whose other options go into the script's table, for one that it has itself, and for one that neither it nor
-- the host knows. The server's own names come first: they are what is likely to be meant.
function options.check_server(where, given, kinds)
  options.check(where, given, kinds)
  for name in pairs(given) do
    if TAKEN[name] and not kinds[name] then
      refuse("%s: %s is the server's own", where, name)
    elseif not kinds[name] and not SCRIPT[name] then
      local names = add_sorted(add_sorted({}, kinds), SCRIPT)
      local meant = nearest(tostring(name), names)
      refuse("%s: unknown option '%s': %s", where, name, meant and "did you mean '" .. meant .. "'?"
        or "there are " .. table.concat(names, ", "))
    end
  end
end

return options
