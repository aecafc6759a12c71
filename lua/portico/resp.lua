-- resp.lua - RESP, the protocol of Redis, versions 2 and 3: decoding and encoding, for servers and clients.
-- resp_server.lua builds a server on it, which resp.server returns, and resp_client.lua a client,
-- resp.connect.
--
--   local resp = require "portico.resp"
--   return resp.server { commands = { PING = function() return { ok = "PONG" } end } }
--
-- Values are written as in Redis's own scripts:
--
--   Lua                           RESP2             RESP3
--   "text"                        $ bulk string     $
--   12                            : integer         :
--   1.5                           $                 , double
--   nil                           $-1 null          _
--   true, false                   :1, :0            # boolean
--   { "a", nil, "c", n = 3 }      * array           *        (without n: #t elements)
--   { ok = "OK" }                 + simple string   +
--   { err = "ERR no" }            - error           -
--   { map = { k = v } }           * k, v, …         % map
--   { set = { "a", "b" } }        *                 ~ set
--   { push = { "message", … } }   *                 > push
--   { big_number = "123" }        $                 ( big number
--   { verbatim_string = { format = "txt", string = "…" } }   $   =
--
-- A decoder is a table of plain data, to be kept in conn.state.

local buffer = require "portico.buffer"
local check_all = require("portico.options").check_all

local byte, find, format, sub = string.byte, string.find, string.format, string.sub
local concat, tointeger, mathtype = table.concat, math.tointeger, math.type
local feed, want, want_mark = buffer.feed, buffer.want, buffer.want_mark

local resp = {}

local LINE_MAX <const> = 65536 -- bytes of an inline command, or of a line of a reply
local ELEMENT_SIZE <const> = 16 -- bytes that an element of a reply counts, and an array, whatever is in it
local DIGITS_MAX <const> = 32 -- … of the number in a line that says how many follow
local LIMITS <const> = { max_bulk = 8 << 20, max_args = 65536, max_command = 16 << 20, max_depth = 32 }
local OPTIONS <const> = { max_bulk = "number", max_args = "number", max_command = "number", max_depth = "number" }

-- ---- Decoding -----------------------------------------------------------------------------------

-- options: max_bulk bytes of one string (8 MiB), max_args elements of a command or an array (65536),
-- max_command bytes of a whole command or reply (16 MiB), max_depth of arrays in arrays (32).
function resp.decoder(options)
  local d = buffer.new()
  if options then
    check_all("resp.decoder", options, OPTIONS)
  end
  for name, default in pairs(LIMITS) do
    d[name] = options and options[name] or default
  end
  d.size = 0 -- bytes of strings in the command or reply that is not complete yet
  return d
end

-- Adds bytes that came. True when it is worth asking for the next message.
resp.feed = feed

local function fail(d, text)
  d.failed = "Protocol error: " .. text
  return nil, d.failed
end

-- Reads the line at pos. Returns the text behind its first byte, and where the next begins; or false, and why; or nil.
local function line(d, pos, what)
  local data = d.data
  local stop = find(data, "\n", pos, true)
  if not stop then
    if #data - pos >= LINE_MAX then
      return fail(d, "too big " .. what)
    end
    d.pos = pos
    return want_mark(d, "\n", LINE_MAX)
  elseif stop - pos > LINE_MAX then
    return fail(d, "too big " .. what)
  elseif find(data, "\r", pos, true) ~= stop - 1 or stop == pos + 1 then
    return fail(d, "CRLF expected at the end of " .. what)
  end
  return sub(data, pos + 1, stop - 2), stop + 1
end

local ESCAPES <const> = { n = "\n", r = "\r", t = "\t", b = "\b", a = "\a" }

local function unescape(c, hex)
  if c == "x" and #hex == 2 then
    return string.char(tonumber(hex, 16))
  end
  return (ESCAPES[c] or c) .. hex
end

-- Splits an inline command as redis-cli does: blanks, "…" with escapes, '…'. Nil when quotes are not balanced.
local function split(text)
  local args, count, pos = {}, 0, find(text, "%S")
  while pos do
    local word, stop = {}, nil
    while not stop do
      local c = sub(text, pos, pos)
      if c == '"' then
        local last = pos
        repeat -- the next quote that no backslash stands before
          last = find(text, '["\\]', last + 1)
          local is_escape = last and sub(text, last, last) == "\\"
          if is_escape then
            last = last + 1
          end
        until not last or not is_escape
        if not last then
          return nil
        end
        word[#word + 1] = sub(text, pos + 1, last - 1):gsub("\\(.)(%x?%x?)", unescape)
        pos = last + 1
        if find(text, "^%S", pos) then
          return nil
        end
      elseif c == "'" then
        local last = find(text, "'", pos + 1, true)
        while last and sub(text, last - 1, last - 1) == "\\" do
          last = find(text, "'", last + 1, true)
        end
        if not last or find(text, "^%S", last + 1) then
          return nil
        end
        word[#word + 1] = sub(text, pos + 1, last - 1):gsub("\\'", "'")
        pos = last + 1
      else
        local _, last = find(text, "^[^%s\"']+", pos)
        if last then
          word[#word + 1] = sub(text, pos, last)
          pos = last + 1
        else
          stop = true
        end
      end
    end
    count = count + 1
    args[count] = concat(word)
    pos = find(text, "%S", pos)
  end
  return args
end

local function inline(d, pos)
  local stop = find(d.data, "\n", pos, true)
  if not stop or stop - pos > LINE_MAX then
    if stop or #d.data - pos >= LINE_MAX then
      return fail(d, "too big inline request")
    end
    d.pos = pos
    return want_mark(d, "\n", LINE_MAX)
  end
  if stop - pos > d.max_command then
    return fail(d, "too big command")
  end
  d.pos = stop + 1
  local args = split(sub(d.data, pos, stop - 1))
  if not args then
    return fail(d, "unbalanced quotes in request")
  elseif #args > d.max_args then
    return fail(d, "too many words in an inline request")
  end
  return args
end

-- A length that is not there as it should be: an incomplete line, or a wrong one.
local function length(d, pos, first, what)
  local c = sub(d.data, pos, pos)
  if c == "" then
    d.pos = pos
    return want(d, 1)
  elseif c ~= first then
    return fail(d, format("expected '%s', got '%s'", first, find(c, "%g") and c or "?"))
  elseif not find(d.data, "\n", pos, true) and #d.data - pos <= DIGITS_MAX + 1 then
    d.pos = pos
    return want_mark(d, "\n", DIGITS_MAX + 1)
  end
  return fail(d, "invalid " .. what .. " length")
end

-- Begins a command at d.pos. Returns how many words it has, and where the first begins; or, of an inline command, the words; or false;
-- or nil, message.
local function begin(d)
  local data, pos = d.data, d.pos
  while true do
    local _, stop, digits = find(data, "^%*(%d+)\r\n", pos)
    if stop then
      local count = #digits <= DIGITS_MAX and tointeger(digits)
      if not count or count > d.max_args then
        return fail(d, "invalid multibulk length")
      elseif count > 0 then
        return count, stop + 1
      end
      pos = stop + 1
    else
      local c = byte(data, pos)
      if c == 42 then -- *
        local _, none = find(data, "^%*%-1\r\n", pos)
        if not none then
          return length(d, pos, "*", "multibulk")
        end
        pos = none + 1
      elseif not c then
        d.pos = pos
        return want(d, 1)
      else
        local words, message = inline(d, pos)
        if not words or #words > 0 then
          return words, message
        end
        pos = d.pos
      end
    end
  end
end

-- The next command that a client has sent: its words as a list of strings. False: more bytes are needed. Nil,
-- message: the client does not speak RESP; send "-ERR message" and close.
function resp.next_command(d)
  if d.failed then
    return nil, d.failed
  end
  local data, pos = d.data, d.pos
  local args, count, have = d.args, d.count, d.have
  local first, a, b, c, e = byte(data, pos, pos + 4) -- most lengths are read from these: a pattern takes twice as long
  if not args then
    if first == 42 and c == 10 and b == 13 and a > 48 and a <= 57 and a - 48 <= d.max_args then -- "*3\r\n"
      count, pos = a - 48, pos + 4
    else
      count, pos = begin(d)
      if type(count) ~= "number" then
        return count, pos
      end
    end
    args, have = {}, 0
    first, a, b, c, e = byte(data, pos, pos + 4)
  end
  local most, sizes = d.max_bulk, d.size
  while have < count do
    local size, start
    if first == 36 and c == 10 and b == 13 and a >= 48 and a <= 57 then -- "$5\r\n"
      size, start = a - 48, pos + 4
    elseif first == 36 and e == 10 and c == 13 and a >= 48 and a <= 57 and b >= 48 and b <= 57 then -- "$16\r\n"
      size, start = (a - 48) * 10 + b - 48, pos + 5
    else
      local _, stop, digits = find(data, "^%$(%d+)\r\n", pos)
      if not stop then
        d.args, d.count, d.have, d.size = args, count, have, sizes
        return length(d, pos, "$", "bulk")
      end
      size, start = #digits <= DIGITS_MAX and tointeger(digits), stop + 1
    end
    if not size or size > most then
      return fail(d, "invalid bulk length")
    end
    local after = start + size
    if sizes + size > d.max_command then
      return fail(d, "too big command")
    elseif #data < after + 1 then
      d.args, d.count, d.have, d.size, d.pos = args, count, have, sizes, pos
      return want(d, after + 2 - pos)
    end
    local cr, lf
    cr, lf, first, a, b, c, e = byte(data, after, after + 6)
    if cr ~= 13 or lf ~= 10 then
      return fail(d, "CRLF expected at the end of a bulk string")
    end
    have, sizes, pos = have + 1, sizes + size, after + 2
    args[have] = sub(data, start, after - 1)
  end
  d.args, d.size, d.pos = nil, 0, pos
  return args
end

local AGGREGATES <const> = { ["*"] = "array", ["%"] = "map", ["~"] = "set", [">"] = "push", ["|"] = "attribute" }

-- What a line of a simple type means. The second result: true when it does not.
local SIMPLE <const> = {
  ["+"] = function(text) return { ok = text } end,
  ["-"] = function(text) return { err = text } end,
  [":"] = function(text)
    local number = find(text, "^[+-]?%d+$") and tointeger(tonumber(text))
    return number, not number
  end,
  ["#"] = function(text)
    return text == "t", text ~= "t" and text ~= "f"
  end,
  ["_"] = function(text)
    return nil, text ~= ""
  end,
  [","] = function(text)
    if text == "inf" or text == "-inf" then
      return text == "inf" and math.huge or -math.huge
    elseif text == "nan" then
      return 0.0 / 0.0
    end
    local number = find(text, "^[+-]?[%d.]+[eE]?[+-]?%d*$") and tonumber(text)
    return number and number + 0.0, not number
  end,
  ["("] = function(text)
    return { big_number = text }, not find(text, "^[+-]?%d+$")
  end,
}

local BULK <const> = {
  ["$"] = function(text) return text end,
  ["!"] = function(text) return { err = text } end,
  ["="] = function(text)
    return { verbatim_string = { format = sub(text, 1, 3), string = sub(text, 5) } }, not find(text, "^...:")
  end,
}

-- An aggregate is complete: its elements, as the value that they stand for.
local function close(frame)
  local list = frame.list
  if frame.kind == "array" then
    list.n = frame.size
    return list
  elseif frame.kind ~= "map" then
    list.n = frame.size
    return { [frame.kind] = list }
  end
  local map = {}
  for i = 1, frame.size, 2 do
    if list[i] ~= nil and list[i] == list[i] then -- nil and NaN are no keys in Lua
      map[list[i]] = list[i + 1]
    end
  end
  return { map = map }
end

-- Reads the one value at d.pos that is no aggregate, or opens an aggregate. Returns "value", the value;
-- "open"; false; or nil, message.
local function read(d, stack)
  local pos = d.pos
  if pos > #d.data then
    return want(d, 1)
  end
  local text, after = line(d, pos, "line")
  if not text then
    return text, after
  end
  local kind = sub(d.data, pos, pos)
  local simple, bulk, aggregate = SIMPLE[kind], BULK[kind], AGGREGATES[kind]
  if simple then
    local value, is_wrong = simple(text)
    if is_wrong then
      return fail(d, format("'%s%s' means nothing", kind, sub(text, 1, 32):gsub("[^%g ]", "?")))
    end
    d.size = d.size + #text
    if d.size > d.max_command then
      return fail(d, "too big reply")
    end
    d.pos = after
    return "value", value
  elseif not bulk and not aggregate then
    return fail(d, format("unknown type '%s'", find(kind, "%g") and kind or "?"))
  end
  local count = find(text, "^%d+$") and tointeger(tonumber(text))
  if text == "-1" and (kind == "$" or kind == "*") then
    d.pos = after
    return "value", nil
  elseif not count or bulk and count > d.max_bulk or aggregate and count > d.max_args then
    return fail(d, bulk and "invalid bulk length" or "invalid multibulk length")
  elseif bulk then
    if d.size + count > d.max_command then
      return fail(d, "too big reply")
    elseif #d.data < after + count + 1 then
      return want(d, after + count + 2 - pos)
    elseif sub(d.data, after + count, after + count + 1) ~= "\r\n" then
      return fail(d, "CRLF expected at the end of a bulk string")
    end
    local value, is_wrong = bulk(sub(d.data, after, after + count - 1))
    if is_wrong then
      return fail(d, "a verbatim string without a format")
    end
    d.size, d.pos = d.size + count, after + count + 2
    return "value", value
  end
  if #stack >= d.max_depth then
    return fail(d, "too deep")
  end
  if aggregate == "map" or aggregate == "attribute" then
    count = count * 2
  end
  d.size = d.size + ELEMENT_SIZE * (count + 1)
  if d.size > d.max_command then
    return fail(d, "too big reply")
  end
  stack[#stack + 1] = { kind = aggregate, size = count, have = 0, list = {} }
  d.pos = after
  return "open"
end

-- The next reply that a server has sent: true, and its value. False: more bytes are needed. Nil, message: the
-- server does not speak RESP.
function resp.next_reply(d)
  if d.failed then
    return nil, d.failed
  end
  local stack = d.stack or {}
  d.stack = stack
  while true do
    local what, value = read(d, stack)
    if not what then
      return what, value
    end
    local is_value = what == "value"
    while true do
      local frame = stack[#stack]
      if is_value and not frame then
        d.size = 0
        return true, value
      elseif is_value then
        frame.have = frame.have + 1
        frame.list[frame.have] = value
      end
      if frame.have < frame.size then
        break
      end
      stack[#stack] = nil
      is_value = frame.kind ~= "attribute" -- it stands before the value that it is about, which goes on
      value = is_value and close(frame) or nil
      if not is_value and #stack == 0 then
        break
      end
    end
  end
end

-- ---- Encoding -----------------------------------------------------------------------------------

local function refuse_line(text)
  if type(text) ~= "string" or find(text, "[\r\n]") then
    error("resp.encode: one line of text expected in ok, err or big_number", 3)
  end
  return text
end

local encode

local function encode_list(first, list, protocol)
  local count = list.n or #list
  local parts = { first .. count .. "\r\n" }
  for i = 1, count do
    parts[i + 1] = encode(list[i], protocol)
  end
  return concat(parts)
end

local function encode_map(map, protocol)
  local parts, count = {}, 0
  for key, value in pairs(map) do
    count = count + 1
    parts[count] = encode(key, protocol) .. encode(value, protocol)
  end
  return (protocol == 3 and "%" .. count or "*" .. count * 2) .. "\r\n" .. concat(parts)
end

local function encode_table(v, protocol)
  if v.ok == "OK" then -- what most commands say that have nothing to say
    return "+OK\r\n"
  elseif v.ok then
    return "+" .. refuse_line(v.ok) .. "\r\n"
  elseif v.err then
    return "-" .. refuse_line(v.err) .. "\r\n"
  elseif v.map then
    return encode_map(v.map, protocol)
  elseif v.set then
    return encode_list(protocol == 3 and "~" or "*", v.set, protocol)
  elseif v.push then
    return encode_list(protocol == 3 and ">" or "*", v.push, protocol)
  elseif v.big_number then
    local text = refuse_line(v.big_number)
    return protocol == 3 and "(" .. text .. "\r\n" or encode(text)
  elseif v.verbatim_string then
    local text = v.verbatim_string
    return protocol == 3 and format("=%d\r\n%3.3s:%s\r\n", #text.string + 4, text.format or "txt", text.string)
      or encode(text.string)
  end
  return encode_list("*", v, protocol)
end

local function encode_double(v)
  if v ~= v then
    return "nan"
  elseif v == math.huge or v == -math.huge then
    return v > 0 and "inf" or "-inf"
  end
  local short = format("%.15g", v)
  return tonumber(short) == v and short or format("%.17g", v)
end

-- A value as bytes. protocol: 2 (what is meant without it) or 3.
function encode(v, protocol)
  local kind = type(v)
  if kind == "string" then
    return "$" .. #v .. "\r\n" .. v .. "\r\n"
  elseif kind == "table" then
    return encode_table(v, protocol)
  elseif kind == "number" then
    if mathtype(v) == "integer" then
      return ":" .. v .. "\r\n"
    end
    local text = encode_double(v)
    return protocol == 3 and "," .. text .. "\r\n" or "$" .. #text .. "\r\n" .. text .. "\r\n"
  elseif kind == "nil" then
    return protocol == 3 and "_\r\n" or "$-1\r\n"
  elseif kind == "boolean" then
    return protocol == 3 and (v and "#t\r\n" or "#f\r\n") or (v and ":1\r\n" or ":0\r\n")
  end
  error("resp.encode: a " .. kind .. " has no place in RESP", 2)
end
resp.encode = encode

-- A command as bytes: resp.request("SET", "key", 12).
function resp.request(...)
  local parts, count = { "*" .. select("#", ...) .. "\r\n" }, select("#", ...)
  for i = 1, count do
    local word = select(i, ...)
    if type(word) == "number" then
      word = mathtype(word) == "float" and encode_double(word) or tostring(word)
    elseif type(word) ~= "string" then
      error(format("resp.request: argument #%d: string or number expected, got %s", i, type(word)), 2)
    end
    parts[i + 1] = "$" .. #word .. "\r\n" .. word .. "\r\n"
  end
  return concat(parts)
end

-- What a handler of resp.server returns that has sent its replies itself, or has none.
resp.NO_REPLY = {}

-- Returns a function of a text that says whether a glob of Redis's matches all of it. See resp_glob.lua.
function resp.glob(glob)
  return require("portico.resp_glob")(glob)
end

-- Sends a message to who has subscribed to a channel of resp.server, on all workers. Returns how many these are. It waits
-- when there are several workers.
function resp.publish(channel, message)
  return require("portico.resp_channels").publish(channel, message)
end

-- See resp_server.lua.
function resp.server(options)
  return require("portico.resp_server")(options)
end

-- See resp_client.lua.
function resp.connect(uri, options)
  return require("portico.resp_client")(uri, options)
end

return resp
