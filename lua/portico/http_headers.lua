-- http_headers.lua - what the headers that a script gives say of the message's body and connection, so that encoders do not
-- contradict it: two lengths in one message are how requests and answers are smuggled.

local find, lower = string.find, string.lower

local NOTED <const> = { ["content-length"] = true, ["content-type"] = true, ["transfer-encoding"] = true, connection = true,
  date = true }

-- The values of these headers, by name in lower case, the Content-Length as an integer; or nil, what is wrong.
return function(headers)
  local noted = {}
  for name, value in pairs(headers) do
    local known = type(name) == "string" and lower(name)
    if NOTED[known] then
      if noted[known] then
        return nil, "more than one " .. name
      end
      noted[known] = type(value) == "table" and table.concat(value, ",") or tostring(value)
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
  return noted
end
