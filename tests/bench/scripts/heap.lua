-- A script that keeps much: heap.lua MODE ROWS REPLACED. ROWS tables that lie scattered and refer to each other; each message replaces some of
-- them. MODE: "host", or one for collectgarbage(), which needs --sandbox off.
local mode, rows, replaced = ...
if mode ~= "host" then collectgarbage(mode) end
replaced = tonumber(replaced)

local PART = 1000 -- in parts, so that no table is huge
local parts = {}
for p = 1, rows // PART do
  parts[p] = {}
  for i = 1, PART do parts[p][i] = {i} end
end

local function any() return parts[math.random(#parts)], math.random(PART) end

for _ = 1, rows do
  local part, i = any()
  local other, j = any()
  part[i][2] = other[j]
end

return {
  on_message = function(_, data)
    for _ = 1, replaced do
      local part, i = any()
      part[i] = {i, data}
    end
    return data
  end,
}
