-- What stress.lua counts, and how it is shown.

local STEPS <const> = 32 -- of the latency histogram, for each doubling: 2 %

local Results = {}
Results.__index = Results

local function new()
  return setmetatable({
    opened = 0, -- connections
    sent = 0, right = 0, wrong = 0, late = 0, -- messages, and replies to them; what is late is right, too
    bytes_sent = 0, bytes_received = 0,
    errors = {}, -- by kind
    histogram = {}, latency_sum = 0, latency_max = 0, -- of the right ones, in seconds
  }, Results)
end

function Results:count_error(kind)
  self.errors[kind] = (self.errors[kind] or 0) + 1
end

function Results:count_right(seconds)
  local step = seconds > 1e-6 and math.log(seconds * 1e6, 2) * STEPS // 1 | 0 or 0
  self.right = self.right + 1
  self.histogram[step] = (self.histogram[step] or 0) + 1
  self.latency_sum = self.latency_sum + seconds
  if seconds > self.latency_max then
    self.latency_max = seconds
  end
end

-- Latencies that so many parts in 1 of the replies did not exceed; one answer for each part.
local function percentiles(results, parts)
  local steps = {}
  for step in pairs(results.histogram) do
    steps[#steps + 1] = step
  end
  table.sort(steps)
  local answers = {}
  local i, seen = 0, 0
  for n, part in ipairs(parts) do
    while i < #steps and (i == 0 or seen < part * results.right) do
      i = i + 1
      seen = seen + results.histogram[steps[i]]
    end
    answers[n] = i > 0 and math.min(2 ^ ((steps[i] + 0.5) / STEPS) / 1e6, results.latency_max) or 0
  end
  return table.unpack(answers)
end

-- ---- As JSON ------------------------------------------------------------------------------------

local function json(value)
  if type(value) == "table" then
    local names, members = {}, {}
    for name in pairs(value) do
      names[#names + 1] = name
    end
    table.sort(names)
    for _, name in ipairs(names) do
      members[#members + 1] = json(name) .. ": " .. json(value[name])
    end
    return "{" .. table.concat(members, ", ") .. "}"
  elseif type(value) == "string" then
    return '"' .. value:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
  elseif math.type(value) == "float" then
    return ("%.9g"):format(value)
  end
  return tostring(value)
end

-- run: what is known besides: uri, mode ("echo", "ack" or nil), wanted connections, missing replies, seconds (0: none was sent).
function Results:json(run)
  local function per_second(count)
    return run.seconds > 0 and count / run.seconds or 0.0
  end
  local p50, p90, p99, p999 = percentiles(self, { 0.5, 0.9, 0.99, 0.999 })
  return json {
    address = run.uri,
    mode = run.mode or "unknown",
    connections = { wanted = run.wanted, opened = self.opened },
    messages = { sent = self.sent, right = self.right, wrong = self.wrong, missing = run.missing, late = self.late },
    seconds = run.seconds,
    messages_per_second = per_second(self.right),
    bytes = { sent = self.bytes_sent, received = self.bytes_received },
    bytes_per_second = { sent = per_second(self.bytes_sent), received = per_second(self.bytes_received) },
    latency = {
      mean = self.right > 0 and self.latency_sum / self.right or 0.0,
      p50 = p50, p90 = p90, p99 = p99, p99_9 = p999, max = self.latency_max,
    },
    errors = self.errors,
  } .. "\n"
end

-- ---- For people ---------------------------------------------------------------------------------

local function seconds_text(seconds)
  if seconds >= 1 then
    return ("%.2f s"):format(seconds)
  elseif seconds >= 0.001 then
    return ("%.2f ms"):format(seconds * 1e3)
  end
  return ("%.0f us"):format(seconds * 1e6)
end

local function bytes_text(bytes)
  if bytes >= 1e6 then
    return ("%.1f MB"):format(bytes / 1e6)
  elseif bytes >= 1e3 then
    return ("%.1f kB"):format(bytes / 1e3)
  end
  return ("%.0f B"):format(bytes)
end

function Results:errors_text()
  local kinds = {}
  for kind, count in pairs(self.errors) do
    kinds[#kinds + 1] = ("%s %d"):format(kind, count)
  end
  table.sort(kinds)
  return #kinds > 0 and table.concat(kinds, ", ") or "none"
end

-- What came and what did not.
function Results:counts_text(run)
  return ("connections  %d of %d to %s\n"):format(self.opened, run.wanted, run.uri)
    .. ("replies      %d right%s, %d wrong, %d missing, %d late; %d messages sent\n"):format(
      self.right, run.mode and " (" .. run.mode .. ")" or "", self.wrong, run.missing, self.late, self.sent)
    .. ("errors       %s\n"):format(self:errors_text())
end

-- How fast.
function Results:speed_text(run)
  local seconds = math.max(run.seconds, 1e-9)
  local p50, p90, p99, p999 = percentiles(self, { 0.5, 0.9, 0.99, 0.999 })
  return ("time         %.3f s\n"):format(run.seconds)
    .. ("throughput   %.0f messages/s, %s/s sent, %s/s received\n"):format(
      self.right / seconds, bytes_text(self.bytes_sent / seconds), bytes_text(self.bytes_received / seconds))
    .. ("latency      p50 %s, p90 %s, p99 %s, p99.9 %s, max %s\n"):format(
      seconds_text(p50), seconds_text(p90), seconds_text(p99), seconds_text(p999), seconds_text(self.latency_max))
end

return { new = new }
