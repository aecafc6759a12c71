-- websocket_frames.lua - WebSocket's frames (RFC 6455, section 5) as bytes, and what is wrong with them. websocket.lua has it for
-- scripts; what has a name to be told in errors is for websocket_client.lua and websocket_server.lua.
--
-- A decoder is a table of plain data, to be kept in conn.state.

local buffer = require "portico.buffer"
local codec = require "portico.codec"

local byte, sub, pack, unpack = string.byte, string.sub, string.pack, string.unpack
local concat = table.concat
local want = buffer.want
local mask = codec.mask

local frames = {}

local MESSAGE_MAX <const> = 1 << 20
local CONTROL_MAX <const> = 125
local REASON_MAX <const> = CONTROL_MAX - 2 -- the code is before it
local PARTS_MAX <const> = 4096 -- pieces of a message that are kept apart

local OPCODES <const> = { continuation = 0, text = 1, binary = 2, close = 8, ping = 9, pong = 10 }
local CONTROLS <const> = { [8] = "close", [9] = "ping", [10] = "pong" }

-- ---- Decoding -----------------------------------------------------------------------------------

-- options: role "server" (what a server reads: masked frames; the default) or "client"; max_message bytes (1 MiB).
function frames.decoder(options)
  local d = buffer.new()
  d.masked = (options and options.role or "server") == "server"
  d.max_message = options and options.max_message or MESSAGE_MAX
  return d
end

-- Adds bytes that came. True when it is worth calling frames.next.
frames.feed = buffer.feed

local function fail(d, code, text)
  d.code, d.why = code, text
  return nil, code, text
end

-- A code that may stand in a close frame: RFC 6455, section 7.4, and the registry of IANA.
local function is_code(code)
  return code >= 1000 and code <= 1003 or code >= 1007 and code <= 1014 or code >= 3000 and code <= 4999
end

local function take_close(d, payload)
  if payload == "" then
    return "close", 1005, ""
  elseif #payload == 1 then
    return fail(d, 1002, "half a close code")
  end
  local code, reason = unpack(">I2", payload), sub(payload, 3)
  if not is_code(code) then
    return fail(d, 1002, "wrong close code")
  elseif not utf8.len(reason) then
    return fail(d, 1007, "close reason is not UTF-8")
  end
  return "close", code, reason
end

local function take_message(d, kind, data)
  if kind == 1 then
    if not utf8.len(data) then
      return fail(d, 1007, "text is not UTF-8")
    end
    return "text", data
  end
  return "binary", data
end

-- A piece of a fragmented message.
local function take_part(d, data, is_last)
  local parts = d.fragments
  d.fragments_size = d.fragments_size + #data
  if data ~= "" then
    parts[#parts + 1] = data
    if #parts >= PARTS_MAX then
      d.fragments = { concat(parts) }
    end
  end
  if not is_last then
    return true
  end
  local kind, whole = d.fragmented, concat(parts)
  d.fragmented, d.fragments, d.fragments_size = nil, nil, nil
  return take_message(d, kind, whole)
end

-- Reads one frame. Like frames.next; or true: on to the next.
local function read_frame(d)
  local data, pos = d.data, d.pos
  local first, second = byte(data, pos, pos + 1)
  if not second then
    return want(d, 2)
  end
  local opcode, is_last, size = first & 15, first >= 128, second & 127
  local is_masked = second >= 128
  if first & 0x70 ~= 0 then
    return fail(d, 1002, "reserved bits are set")
  elseif is_masked ~= d.masked then
    return fail(d, 1002, is_masked and "frame of a server is masked" or "frame of a client is not masked")
  elseif opcode > 10 or opcode > 2 and opcode < 8 then
    return fail(d, 1002, "unknown opcode")
  elseif opcode >= 8 and (not is_last or size > CONTROL_MAX) then
    return fail(d, 1002, "control frame is fragmented or too long")
  elseif opcode == 0 and not d.fragmented then
    return fail(d, 1002, "nothing to continue")
  elseif (opcode == 1 or opcode == 2) and d.fragmented then
    return fail(d, 1002, "the message before is not complete")
  end
  local head = 2 + (size == 126 and 2 or size == 127 and 8 or 0) + (is_masked and 4 or 0)
  local there = #data - pos + 1
  if there < head then
    return want(d, head)
  end
  if size == 126 then
    size = unpack(">I2", data, pos + 2)
    if size < 126 then
      return fail(d, 1002, "length is not as short as it could be")
    end
  elseif size == 127 then
    size = unpack(">i8", data, pos + 2)
    if size < 65536 then
      return fail(d, 1002, "length is not as short as it could be")
    end
  end
  if opcode < 8 and size + (d.fragments_size or 0) > d.max_message then
    return fail(d, 1009, "message too large")
  elseif there < head + size then
    return want(d, head + size)
  end
  local start = pos + head
  local payload = sub(data, start, start + size - 1)
  if is_masked then
    payload = mask(payload, sub(data, start - 4, start - 1))
  end
  d.pos = start + size
  if opcode >= 8 then
    if opcode == 8 then
      return take_close(d, payload)
    end
    return CONTROLS[opcode], payload
  elseif is_last and opcode ~= 0 then
    return take_message(d, opcode, payload)
  elseif opcode ~= 0 then
    d.fragmented, d.fragments, d.fragments_size = opcode, {}, 0
  end
  return take_part(d, payload, is_last)
end

-- The next message or control frame: "text", string; "binary", string; "ping", string; "pong", string;
-- "close", code, reason (1005 when there was no code); false: more bytes are needed; nil, code, text: it is
-- wrong, close with that code.
function frames.next(d)
  if d.code then
    return nil, d.code, d.why
  end
  local what, value, text
  repeat
    what, value, text = read_frame(d)
  until what ~= true
  return what, value, text
end

-- ---- Encoding -----------------------------------------------------------------------------------

-- Raises, for the caller of the function that calls this, when that is nothing to send. where: the name of that function; is_part: more
-- of the message is to follow.
function frames.check(where, kind, payload, is_part)
  local opcode = OPCODES[kind]
  if not opcode then
    error(where .. ": kind: text, binary, ping, pong, close or continuation expected, got " .. tostring(kind), 3)
  elseif type(payload) ~= "string" then
    error(where .. ": payload: string expected, got " .. type(payload), 3)
  elseif opcode >= 8 and (is_part or #payload > CONTROL_MAX) then
    error(where .. ": at most 125 bytes expected in a control frame, in one part", 3)
  elseif opcode == 1 and not is_part and not utf8.len(payload) then
    error(where .. ": a text is UTF-8; other bytes are sent as binary", 3)
  elseif opcode == 8 and not take_close({}, payload) then
    error(where .. ": payload: one as of websocket.close_payload expected", 3)
  end
end

-- A frame that has been checked, as bytes.
function frames.encode(kind, payload, is_masked, is_part)
  local size, first, bit = #payload, OPCODES[kind] + (is_part and 0 or 128), is_masked and 128 or 0
  local head
  if size < 126 then
    head = pack("BB", first, bit + size)
  elseif size < 65536 then
    head = pack(">BBI2", first, bit + 126, size)
  else
    head = pack(">BBI8", first, bit + 127, size)
  end
  if not is_masked then
    return head .. payload
  end
  local key = codec.random(4)
  return head .. key .. mask(payload, key)
end

-- The payload of a close frame. Raises as frames.check does for a code or a reason that may not be sent.
function frames.close_payload(where, code, reason)
  if code == nil then
    return ""
  elseif math.type(code) ~= "integer" or not is_code(code) then
    error(where .. ": code: one that may be sent expected (1000, 1001, 3000 to 4999, …), got " .. tostring(code), 3)
  elseif reason ~= nil and (type(reason) ~= "string" or #reason > REASON_MAX or not utf8.len(reason)) then
    error(where .. ": reason: at most 123 bytes of UTF-8 expected", 3)
  end
  return pack(">I2", code) .. (reason or "")
end

return frames
