-- smtp_sink.lua - takes mail and delivers it nowhere: for testing what sends mail.
--
--   portico --listen tcp://127.0.0.1:2525 scripts/smtp_sink.lua [DIRECTORY]
--   swaks --server 127.0.0.1:2525 --to ann@example.org
--
-- Each mail is logged, and with a DIRECTORY written there, to a file of its own.

local directory <const> = arg[1]
local LINE_MAX <const>, MAIL_MAX <const>, RECIPIENTS_MAX <const> = 2000, 8 << 20, 100
local LINES_MAX <const> = 1000 -- that are kept one by one: each costs memory of its own
local IDLE <const> = 300 -- seconds

local count = 0

-- Writes a mail down. Nil and why when that is not possible.
local function deliver(from, to, text)
  count = count + 1
  portico.log.info(("mail %d from <%s> to <%s>, %d bytes"):format(count, from, table.concat(to, ">, <"), #text))
  if not directory then return true end
  local name = ("%s/%d-%d-%d.eml"):format(directory, portico.now() * 1000 // 1, portico.worker.id, count)
  local file, message = io.open(name, "wb")
  if not file then return nil, message end
  local written, closed, why
  written, message = file:write(text)
  closed, why = file:close() -- where the disk is full, it may be only now that it shows
  if written and closed then return true end
  os.remove(name)
  return nil, message or why
end

-- The lines up to the one with a single dot; false when they are too much, nil when the client does not go on. Lines end as
-- that of DATA did: where this was CRLF, a dot behind a mere LF belongs to the text, else a mail could pass off its rest as
-- commands, and so as another mail.
local function read_text(client, line_end)
  local parts, lines, size, tail = {}, {}, 0, line_end
  while true do
    local line, _, code = client:read("L")
    if code == "limit" then
      line = client:read(LINE_MAX) -- a piece of a longer line
    end
    local is_start = tail == line_end
    if not line then
      return nil
    elseif is_start and (line == ".\r\n" or line == "." .. line_end) then
      parts[#parts + 1] = table.concat(lines)
      return size <= MAIL_MAX and table.concat(parts)
    end
    size = size + #line
    if size <= MAIL_MAX then
      lines[#lines + 1] = is_start and line:gsub("^%.", "", 1) or line
      if #lines == LINES_MAX then
        parts[#parts + 1], lines = table.concat(lines), {}
      end
    end
    tail = (tail .. line):sub(-#line_end)
  end
end

local commands = {}

local function forget(mail)
  mail.from, mail.to = nil, nil
end

function commands.EHLO(client, mail, name)
  if name == "" then
    return "501 EHLO and who you are"
  end
  forget(mail)
  client:send("250-portico greets ", name:gsub("%c", "?"), "\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n")
  return "250 SIZE " .. MAIL_MAX
end

function commands.HELO(_, mail)
  forget(mail)
  return "250 portico"
end

function commands.NOOP() return "250 OK" end
function commands.VRFY() return "252 who knows" end
function commands.QUIT() return "221 bye" end

-- The address in "FROM:<address> parameters", and the parameters. In quotes it may have brackets, too.
local function read_path(word, rest)
  local plain = rest:gsub("\\.", "__"):gsub('"[^"]*"', function(quoted) return ("_"):rep(#quoted) end)
  local name, first, last = plain:match("^(%a+):%s*<()[^<>]*()>%f[%s\0]")
  local path = name and name:upper() == word and rest:sub(first, last - 1)
  if path and not path:find("%c") then
    return path, rest:sub(last + 1)
  end
end

function commands.MAIL(_, mail, rest)
  local from, parameters = read_path("FROM", rest)
  if not from then
    return "501 MAIL FROM:<address>"
  elseif mail.from then
    return "503 one sender is enough"
  elseif tonumber(parameters:upper():match("%sSIZE=(%d+)") or 0) > MAIL_MAX then
    return "552 too large"
  end
  mail.from, mail.to = from, {}
  return "250 OK"
end

function commands.RCPT(_, mail, rest)
  local to = read_path("TO", rest)
  if not mail.from then
    return "503 MAIL comes first"
  elseif not to or to == "" then
    return "501 RCPT TO:<address>"
  elseif #mail.to >= RECIPIENTS_MAX then
    return "452 too many recipients"
  end
  mail.to[#mail.to + 1] = to
  return "250 OK"
end

function commands.DATA(client, mail)
  if not mail.from or #mail.to == 0 then
    return "503 RCPT comes first"
  end
  client:send("354 end with a line that has only a dot\r\n")
  local text = read_text(client, mail.line_end)
  local from, to = mail.from, mail.to
  forget(mail)
  if not text then
    return text == false and "552 too large" or "500 that was no mail"
  end
  local done, message = deliver(from, to, text)
  return done and "250 taken" or "451 " .. message:gsub("%c", "?")
end

function commands.RSET(_, mail)
  forget(mail)
  return "250 OK"
end

return {
  limits = { idle = IDLE, message = LINE_MAX },

  on_stream = function(client)
    local mail = {}
    client:send("220 portico ESMTP\r\n")
    repeat
      local line, _, code = client:read("L")
      if code == "limit" then client:send("500 line too long\r\n") end
      if not line then return end
      mail.line_end = line:find("\r\n$") and "\r\n" or "\n"
      local verb, rest = line:match("^(%a+)%s*(.-)%s*$")
      verb = (verb or ""):upper()
      local command = commands[verb]
      client:send(command and command(client, mail, rest) or "500 what is that?", "\r\n")
    until verb == "QUIT"
  end,
}
