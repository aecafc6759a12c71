-- smtp_sink.lua - takes mail and delivers it nowhere: for testing what sends mail.
--
--   portico --listen tcp://127.0.0.1:2525 scripts/smtp_sink.lua [DIRECTORY]
--   swaks --server 127.0.0.1:2525 --to ann@example.org
--
-- Each mail is logged, and with a DIRECTORY written there, to a file of its own. How far a client has come is in its conn.state:
-- when this file is saved, the old version serves it for a while, and then the new one goes on there.

local directory <const> = arg[1]
local LINE_MAX <const>, MAIL_MAX <const>, RECIPIENTS_MAX <const> = 2000, 8 << 20, 100
local LINES_MAX <const> = 1000 -- that are kept one by one: each costs memory of its own
local IDLE <const> = 300 -- seconds

local counts = assert(portico.shared("smtp_sink")) -- of all workers and versions, so that no two files have one name

-- Writes a mail down. Nil and why when that is not possible.
local function deliver(from, to, text)
  local count, problem = counts:incr("mails")
  if not count then return nil, problem end
  portico.log.info(("mail %d from <%s> to <%s>, %d bytes"):format(count, from, table.concat(to, ">, <"), #text))
  if not directory then return true end
  local name = ("%s/%d-%d.eml"):format(directory, portico.now() * 1000 // 1, count)
  local file, message = io.open(name, "wb")
  if not file then return nil, message end
  local written, closed, why
  written, message = file:write(text)
  closed, why = file:close() -- where the disk is full, it may be only now that it shows
  if written and closed then return true end
  os.remove(name)
  return nil, message or why
end

local commands = {}

local function forget(mail)
  mail.from, mail.to = nil, nil
end

function commands.EHLO(mail, name)
  if name == "" then
    return "501 EHLO and who you are"
  end
  forget(mail)
  local greeting = "250-portico greets " .. name:gsub("%c", "?")
  return greeting .. "\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE " .. MAIL_MAX
end

function commands.HELO(mail)
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

function commands.MAIL(mail, rest)
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

function commands.RCPT(mail, rest)
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

function commands.DATA(mail)
  if not mail.from or #mail.to == 0 then
    return "503 RCPT comes first"
  end
  mail.text = { parts = {}, lines = {}, size = 0, tail = mail.line_end }
  return "354 end with a line that has only a dot"
end

function commands.RSET(mail)
  forget(mail)
  return "250 OK"
end

-- Reads on in a mail's text, up to the line with a single dot. True; false when it is too much, nil when the client does not go on.
-- Lines end as that of DATA did: where this was CRLF, a dot behind a mere LF belongs to the text, else a mail could pass off its
-- rest as commands, and so as another mail.
local function read_text(client, text, line_end)
  while true do
    local line, _, code = client:read("L")
    if code == "limit" then
      line = client:read(LINE_MAX) -- a piece of a longer line
    end
    local is_start = text.tail == line_end
    if not line then
      return nil
    elseif is_start and (line == ".\r\n" or line == "." .. line_end) then
      return text.size <= MAIL_MAX
    end
    text.size = text.size + #line
    if text.size <= MAIL_MAX then
      local lines = text.lines
      lines[#lines + 1] = is_start and line:gsub("^%.", "", 1) or line
      if #lines == LINES_MAX then
        text.parts[#text.parts + 1], text.lines = table.concat(lines), {}
      end
    end
    text.tail = (text.tail .. line):sub(-#line_end)
  end
end

-- The reply to a mail's text.
local function take_text(client, mail)
  local text, from, to = mail.text, mail.from, mail.to
  local is_whole = read_text(client, text, mail.line_end)
  mail.text = nil
  forget(mail)
  if not is_whole then
    return is_whole == false and "552 too large" or "500 that was no mail"
  end
  text.parts[#text.parts + 1] = table.concat(text.lines)
  local done, message = deliver(from, to, table.concat(text.parts))
  return done and "250 taken" or "451 " .. message:gsub("%c", "?")
end

-- The reply to the next command, and whether it is the last; nothing when the client does not go on.
local function take_command(client, mail)
  local line, _, code = client:read("L")
  if not line then
    return code == "limit" and "500 line too long" or nil, true
  end
  mail.line_end = line:find("\r\n$") and "\r\n" or "\n"
  local verb, rest = line:match("^(%a+)%s*(.-)%s*$")
  verb = (verb or ""):upper()
  local command = commands[verb]
  return command and command(mail, rest) or "500 what is that?", verb == "QUIT"
end

return {
  limits = { idle = IDLE, message = LINE_MAX },

  on_stream = function(client)
    local mail = client.state.mail
    if not mail then
      mail = {}
      client.state.mail = mail
      client:send("220 portico ESMTP\r\n")
    end
    local reply, is_last
    repeat
      if mail.text then
        reply = take_text(client, mail)
      else
        reply, is_last = take_command(client, mail)
      end
      if reply then client:send(reply, "\r\n") end
    until is_last
  end,
}
