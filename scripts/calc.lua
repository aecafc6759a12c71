-- calc.lua - a calculator: one expression a line, one answer a line.
--
--   portico scripts/calc.lua
--   printf '1 + 2 * 3\nsqrt(2) ^ 2\n' | nc -q1 127.0.0.1 7777

local DEPTH_MAX <const> = 100

local CONSTANTS <const> = { pi = math.pi, e = math.exp(1) }
local FUNCTIONS <const> = { sqrt = math.sqrt, sin = math.sin, cos = math.cos, tan = math.tan, exp = math.exp,
  ln = math.log, abs = math.abs, floor = math.floor, ceil = math.ceil }

-- By operator: how tightly it binds, what it does, and whether it binds to the right.
local OPERATORS <const> = {
  ["+"] = { 1, function(a, b) return a + b end },
  ["-"] = { 1, function(a, b) return a - b end },
  ["*"] = { 2, function(a, b) return a * b end },
  ["/"] = { 2, function(a, b) return a / b end },
  ["%"] = { 2, function(a, b) return math.fmod(a, b + 0.0) end },
  ["^"] = { 4, function(a, b) return a ^ b end, true },
}

-- What is wrong with an expression is raised as a table, so that it is not taken for a fault of ours.
local function refuse(...)
  error({ text = string.format(...) })
end

local function evaluate(text)
  local pos, depth = 1, 0
  local expression

  -- Takes what the pattern matches at the next place that is no blank.
  local function take(pattern)
    local first, last, capture = text:find("^%s*(" .. pattern .. ")", pos)
    if first then
      pos = last + 1
    end
    return capture
  end

  local function operand()
    local number = take("%d+%.?%d*[eE][+-]?%d+") or take("%d+%.?%d*") or take("%.%d+")
    if number then
      return tonumber(number) + 0.0 -- integers would wrap, here and below
    elseif take("%-") then
      return -expression(3)
    elseif take("%(") then
      local value = expression(1)
      return take("%)") and value or refuse("')' expected at column %d", pos)
    end
    local name = take("%a+") or refuse("a number expected at column %d", pos)
    if CONSTANTS[name] then
      return CONSTANTS[name]
    end
    local f = FUNCTIONS[name] or refuse("there is no '%s'", name)
    if not take("%(") then
      refuse("%s( … ) expected", name)
    end
    local value = expression(1)
    return take("%)") and f(value) + 0.0 or refuse("')' expected at column %d", pos)
  end

  -- An expression of operators that bind at least as tightly as that.
  function expression(least)
    depth = depth + 1
    if depth > DEPTH_MAX then
      refuse("too deep")
    end
    local value = operand()
    while true do
      local before = pos
      local operator = OPERATORS[take("[-+*/%%^]")]
      if not operator or operator[1] < least then
        pos, depth = before, depth - 1
        return value
      end
      value = operator[2](value, expression(operator[3] and operator[1] or operator[1] + 1))
    end
  end

  local value = expression(1)
  return take("%S") and refuse("an operator expected at column %d", pos - 1) or value
end

return {
  frame = { type = "line", max = 1000 },
  on_message = function(_, line)
    local ok, value = pcall(evaluate, line)
    if not ok and type(value) == "table" then
      return "error: " .. value.text
    elseif not ok then
      error(value, 0)
    end
    return ("%.14g"):format(value)
  end,
}
