-- dns.lua - answers questions for the names in its table: a DNS server for tests and small networks, over UDP and TCP.
--
--   portico --listen udp://127.0.0.1:5353 --listen tcp://127.0.0.1:5353 scripts/dns.lua
--   dig @127.0.0.1 -p 5353 www.example.test

local TTL <const> = 60
local DATAGRAM_MAX <const> = 512 -- bytes of an answer over UDP

-- By name, in lower case: what there is, by type. A name that begins with "*." is for all below it. What has a SOA is where a
-- zone begins: without one, clients do not remember what is not there.
local ZONE <const> = {
  ["example.test"] = {
    SOA = { { "ns.example.test", "hostmaster.example.test" } },
    A = { "192.0.2.1" }, MX = { { 10, "mail.example.test" } }, TXT = { "v=spf1 -all" },
  },
  ["www.example.test"] = { A = { "192.0.2.2", "192.0.2.3" }, AAAA = { "2001:db8::2" } },
  ["mail.example.test"] = { A = { "192.0.2.4" } },
  ["alias.example.test"] = { CNAME = { "www.example.test" } },
  ["*.wild.example.test"] = { A = { "192.0.2.5" } },
}

local TYPES <const> = { A = 1, CNAME = 5, SOA = 6, MX = 15, TXT = 16, AAAA = 28 }
local ANY <const>, INTERNET <const> = 255, 1
local NO_ERROR <const>, FORMAT_ERROR <const>, NO_NAME <const>, NOT_IMPLEMENTED <const>, REFUSED <const> = 0, 1, 3, 4, 5
local AUTHORITATIVE <const>, TRUNCATED <const> = 0x0400, 0x0200
local NAME_ASKED <const> = "\xc0\x0c" -- as in the question, at byte 12, whichever way it is written there

local function encode_name(name)
  return (name:gsub("([^.]+)%.?", function(label) return string.pack("s1", label) end)) .. "\0"
end

local function encode_ipv6(text)
  local function groups(part)
    return (part:gsub("(%x+):?", function(group) return string.pack(">I2", tonumber(group, 16)) end))
  end
  local head, tail = text:match("^(.-)::(.*)$")
  head, tail = groups(head or text), groups(tail or "")
  return head .. ("\0"):rep(16 - #head - #tail) .. tail
end

-- What stands behind a record's length, by type.
local ENCODE <const> = {
  A = function(text) return string.char(text:match("(%d+)%.(%d+)%.(%d+)%.(%d+)")) end,
  AAAA = encode_ipv6,
  CNAME = encode_name,
  MX = function(entry) return string.pack(">I2", entry[1]) .. encode_name(entry[2]) end,
  SOA = function(entry) -- serial, refresh, retry, expire, and how long it is remembered that something is not there
    return encode_name(entry[1]) .. encode_name(entry[2]) .. string.pack(">I4I4I4I4I4", 1, 3600, 600, 86400, TTL)
  end,
  TXT = function(text)
    local strings = {}
    for from = 1, math.max(#text, 1), 255 do
      strings[#strings + 1] = string.pack("s1", text:sub(from, from + 254))
    end
    return table.concat(strings)
  end,
}

-- All names that exist: those of the zone, and those above them, which may have nothing of their own.
local NAMES <const> = { [""] = true }

local function parent(name) return (name:gsub("^[^.]*%.?", "")) end

for name in pairs(ZONE) do
  while name ~= "" do
    NAMES[name] = true
    name = parent(name)
  end
end

-- What there is for a name; nil when it does not exist. A wildcard is only for names that do not (RFC 4592).
local function find(name)
  if NAMES[name] then
    return ZONE[name] or {}
  end
  repeat
    name = parent(name)
  until NAMES[name]
  return ZONE["*." .. name]
end

-- The name of the zone that a name belongs to; nil when it is none of ours.
local function find_zone(name)
  while name ~= "" and not (ZONE[name] and ZONE[name].SOA) do
    name = parent(name)
  end
  return ZONE[name] and name
end

-- The question at byte 13: name, type, class, where it ends. Nil when it is malformed. A dot within a label is written as in zone
-- files, so that it is not taken for one between two.
local function read_question(data)
  local labels, pos = {}, 13
  while true do
    local size = data:byte(pos)
    if not size or size > 63 or #data < pos + size then
      return nil
    end
    pos = pos + 1 + size
    if size == 0 then
      break
    end
    labels[#labels + 1] = data:sub(pos - size, pos - 1):gsub("%.", "\\046")
  end
  if #data < pos + 3 or pos > 12 + 256 then
    return nil
  end
  local kind, class = (">I2I2"):unpack(data, pos)
  return table.concat(labels, "."):lower(), kind, class, pos + 3
end

-- Adds the records of a name to the answers, and those of the name that it is an alias for; owner is how the name is written
-- there. Returns a code, which is about the last name (RFC 6604), and this name when nothing is there for it.
local function records(name, owner, kind, answers)
  local entry, count = find(name), #answers
  for type_name, values in pairs(entry or {}) do
    if kind == TYPES[type_name] or kind == ANY or type_name == "CNAME" then
      for _, value in ipairs(values) do
        answers[#answers + 1] = owner .. string.pack(">I2I2I4s2", TYPES[type_name], INTERNET, TTL, ENCODE[type_name](value))
      end
    end
  end
  local alias = entry and kind ~= TYPES.CNAME and entry.CNAME and entry.CNAME[1]
  if alias and #answers < 10 then
    return records(alias:lower(), encode_name(alias), kind, answers)
  end
  local is_elsewhere = count > 0 and not find_zone(name) -- of what an alias leads to out there nothing is known
  return (entry or is_elsewhere) and NO_ERROR or NO_NAME, #answers == count and name or nil
end

local function reply(data, code, question, answers, authority)
  local flags = (">I2"):unpack(data, 3)
  flags = flags & 0x7900 | 0x8000 | code -- the operation and "recursion desired" as asked; an answer
  local questions = question == "" and 0 or 1
  local head = string.pack(">c2I2I2I2I2I2", data:sub(1, 2), flags, questions, #answers, #authority, 0)
  return head .. question .. table.concat(answers) .. table.concat(authority)
end

-- What is answered to a message, with at most so many bytes; nil: nothing.
local function answer(data, bytes_max)
  if #data < 12 or data:byte(3) >= 128 then
    return nil -- not a question: an answer to it might be answered in turn, for ever
  elseif data:byte(3) & 0x78 ~= 0 then
    return reply(data, NOT_IMPLEMENTED, "", {}, {})
  end
  local name, kind, class, stop = read_question(data)
  if not name or (">I2"):unpack(data, 5) ~= 1 then
    return reply(data, FORMAT_ERROR, "", {}, {})
  end
  local question, answers, authority = data:sub(13, stop), {}, {}
  if class ~= INTERNET and class ~= ANY then
    return reply(data, REFUSED, question, {}, {}) -- whether the name exists there is not known
  end
  local code, missing = records(name, NAME_ASKED, kind, answers)
  local zone = missing and find_zone(missing)
  if zone then
    records(zone, encode_name(zone), TYPES.SOA, authority) -- which says for how long it is not there (RFC 2308)
  end
  code = code | AUTHORITATIVE
  local text = reply(data, code, question, answers, authority)
  return #text <= bytes_max and text or reply(data, code | TRUNCATED, question, {}, {}) -- the client will ask again over TCP
end

return {
  listen = { "udp://127.0.0.1:5353", "tcp://127.0.0.1:5353" },
  frame = { type = "length", size = 2, max = 4096 }, -- over TCP
  on_message = function(_, data) return answer(data, 65535) end,
  on_datagram = function(_, data) return answer(data, DATAGRAM_MAX) end,
}
