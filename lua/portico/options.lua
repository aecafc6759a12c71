-- options.lua - what batteries are given, looked at once and in one way, so that a wrong limit is an error and not silence.

local function refuse(text, ...)
  error(text:format(...), 0) -- where, says the traceback, or the host for `return http1.server { … }`
end

-- What the servers of batteries do themselves.
local TAKEN <const> = { on_message = true, on_stream = true, on_readable = true, frame = true }

local options = {}

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
      local names = {}
      for known in pairs(kinds) do
        names[#names + 1] = known
      end
      table.sort(names)
      refuse("%s: unknown option '%s': there are %s", where, name, table.concat(names, ", "))
    end
  end
end

-- … and, for a server whose other options go into the script's table, for one that it has itself.
function options.check_server(where, given, kinds)
  options.check(where, given, kinds)
  for name in pairs(given) do
    if TAKEN[name] and not kinds[name] then
      refuse("%s: %s is the server's own", where, name)
    end
  end
end

return options
