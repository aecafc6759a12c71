-- http_headers.lua - headers that a script gives: their lines, and what they say of the message's body and connection, so that
-- encoders do not contradict it. Two lengths in one message are how requests and answers are smuggled.

local find, lower = string.find, string.lower
local concat = table.concat

local NOTED <const> = { ["content-length"] = true, ["content-type"] = true, ["transfer-encoding"] = true, connection = true,
  date = true }

local NAMES_MAX <const> = 256 -- a script that passes on what it was sent may have any
local names, name_count = {}, 0 -- those that were found to be right, in lower case

-- A name in lower case; nil when it is no token: RFC 9110, section 5.6.2.
local function read_name(name)
  if type(name) ~= "string" or not find(name, "^[%w!#$%%&'*+%-.^_`|~]+$") then
    return nil
  elseif name_count == NAMES_MAX then
    names, name_count = {}, 0
  end
  names[name], name_count = lower(name), name_count + 1
  return names[name]
end

-- Values are strings, numbers, or lists of these for several lines of one name. Returns a table: lines; and the values of those
-- above, by name in lower case, the Content-Length as an integer. Or nil, what is wrong.
return function(headers)
  local noted, parts, count = {}, {}, 0
  for name, value in pairs(headers) do
    local known = names[name] or read_name(name)
    if not known then
      return nil, "'" .. tostring(name) .. "' is no name of a header"
    end
    local is_list = type(value) == "table"
    if NOTED[known] then
      if noted[known] then
        return nil, "more than one " .. name
      end
      noted[known] = is_list and concat(value, ",") or tostring(value)
    end
    for i = 1, is_list and #value or 1 do
      local text = tostring(is_list and value[i] or value)
      if find(text, "%c") and find(text, "[\0\r\n]") then -- the first is quicker, and mostly enough
        return nil, "the value of '" .. name .. "' has a line end in it"
      end
      count = count + 1
      parts[count] = name .. ": " .. text .. "\r\n"
    end
  end
  local length = noted["content-length"]
  if length then
    noted["content-length"] = #length <= 15 and find(length, "^%d+$") and math.tointeger(length)
    if not noted["content-length"] then
      return nil, "Content-Length: digits expected, got " .. length
    elseif noted["transfer-encoding"] then
      return nil, "both Content-Length and Transfer-Encoding"
    end
  end
  noted.lines = concat(parts)
  return noted
end
