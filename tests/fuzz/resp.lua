-- resp.lua - an input is what a client of Redis sends, and what a server does. What is found is written and read again.
local check = require "check"
local pieces = require "pieces"
local resp = require "portico.resp"

local LIMITS <const> = { max_bulk = 1000, max_args = 100, max_command = 2000, max_depth = 4 }

local function commands(list)
  local d, found = resp.decoder(LIMITS), {}
  for _, piece in ipairs(list) do
    resp.feed(d, piece)
    while not found.wrong do
      local args, message = resp.next_command(d)
      if not args then
        found.wrong = message
        break
      end
      found[#found + 1] = args
    end
  end
  if #list == 1 then
    for _, args in ipairs(found) do
      local again = resp.decoder()
      resp.feed(again, resp.request(table.unpack(args)))
      local got = resp.next_command(again)
      assert(check.same(got, args), "a command that is written is read as another")
    end
  end
  return found
end

-- The same as lists: keys of maps may be tables, or not a number.
local function comparable(value)
  if type(value) ~= "table" then
    return type(value) == "number" and ("%s %q"):format(math.type(value), value) or value
  end
  local result = {}
  for k, v in pairs(value) do
    result[check.show(k, 6):gsub("0x%x+", "")] = comparable(v)
  end
  return result
end

-- Only an error that came as a bulk string can have lines, for which RESP2 has no place.
local function encode(value, version)
  local ok, message = pcall(resp.encode, value, version)
  assert(ok or message:find("one line of text"), message)
end

local function replies(list)
  local d, found = resp.decoder(LIMITS), {}
  for _, piece in ipairs(list) do
    resp.feed(d, piece)
    while not found.wrong do
      local got, value = resp.next_reply(d)
      if not got then
        found.wrong = value
        break
      end
      found[#found + 1] = { comparable(value) }
      encode(value)
      encode(value, 3)
    end
  end
  return found
end

return pieces(commands, replies)
