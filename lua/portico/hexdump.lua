-- hexdump.lua - bytes for people to read, as `hexdump -C` shows them.
--
--   portico.log.info("received:\n" .. require "portico.hexdump"(data))

local format, rep, sub = string.format, string.rep, string.sub

-- Lines of offset, bytes in hexadecimal, and characters. options: width, bytes a line (16); offset, the
-- number of the first byte (0); prefix, in front of each line (""); max, bytes to show (all), followed by how
-- many there are.
return function(data, options)
  if type(data) ~= "string" then
    error("hexdump: data: string expected, got " .. type(data), 2)
  end
  options = options or {}
  local width, offset, prefix = options.width or 16, options.offset or 0, options.prefix or ""
  local shown = math.min(#data, options.max or #data)
  local lines = {}
  for at = 1, shown, width do
    local piece = sub(data, at, math.min(at + width - 1, shown))
    local digits, count = piece:gsub(".", function(c) return format("%02x ", c:byte()) end)
    local half = width // 2 * 3
    digits = sub(digits, 1, half) .. " " .. sub(digits, half + 1)
    lines[#lines + 1] = format("%s%08x  %s%s |%s|", prefix, offset + at - 1, digits, rep("   ", width - count),
      (piece:gsub("[^\32-\126]", ".")))
  end
  if shown < #data then
    lines[#lines + 1] = format("%s… %d bytes in all", prefix, #data)
  end
  return table.concat(lines, "\n")
end
