-- resp.lua - commands and replies, well-formed and not; see check.lua.
local check = require "check"
local resp = require "portico.resp"

local LIMITS <const> = { max_bulk = 1000, max_args = 100, max_command = 2000, max_depth = 4 }

-- All commands in the pieces, then what was wrong, if anything was.
local function commands(pieces)
  local d, found = resp.decoder(LIMITS), {}
  for _, piece in ipairs(pieces) do
    resp.feed(d, piece)
    while true do
      local args, message = resp.next_command(d)
      if not args then
        found.wrong = message
        break
      end
      found[#found + 1] = args
    end
  end
  found.has_more = not found.wrong and (d.args ~= nil or #d.data - d.pos + 1 + d.held > 0) or nil
  return found
end

-- The same with keys of maps that are tables as text: they cannot be compared by what is in them.
local function comparable(value)
  if type(value) ~= "table" then
    return value
  end
  local result = {}
  for k, v in pairs(value) do
    result[type(k) == "table" and check.show(k, 6) or k] = comparable(v)
  end
  return result
end

local function replies(pieces)
  local d, found = resp.decoder(LIMITS), { n = 0 }
  for _, piece in ipairs(pieces) do
    resp.feed(d, piece)
    while true do
      local got, value = resp.next_reply(d)
      if not got then
        found.wrong = value
        break
      end
      found.n = found.n + 1
      found[found.n] = comparable(value)
    end
  end
  return found
end

local COMMANDS <const> = {
  { "*1\r\n$4\r\nPING\r\n", { { "PING" } } },
  { "*2\r\n$3\r\nGET\r\n$0\r\n\r\n*1\r\n$4\r\nPING\r\n", { { "GET", "" }, { "PING" } } },
  { "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$7\r\na\r\nb\0c\n\r\n", { { "SET", "k", "a\r\nb\0c\n" } } },
  { "*0\r\n*-1\r\n\r\n*1\r\n$4\r\nPING\r\n", { { "PING" } } },
  { "PING\r\nSET  a 'b c'\n", { { "PING" }, { "SET", "a", "b c" } } },
  { 'SET "a\\x41\\n\\"\\\\x" \'it\\\'s\'\r\n', { { "SET", 'aA\n"\\x', "it's" } } },
  { "SET a \"b\r\n", { wrong = "Protocol error: unbalanced quotes in request" } },
  { "SET a 'b'c\r\n", { wrong = "Protocol error: unbalanced quotes in request" } },
  { "*1\r\n$4\r\nPI", { has_more = true } },
  { "*2\r\n$4\r\nPING\r\n", { has_more = true } },
  { "*1\r\n$4\r\nPINGxx*1\r\n", { wrong = "Protocol error: CRLF expected at the end of a bulk string" } },
  { "*1\r\n:4\r\n", { wrong = "Protocol error: expected '$', got ':'" } },
  { "*1\r\n$-1\r\n", { wrong = "Protocol error: invalid bulk length" } },
  { "*1\r\n$x\r\n", { wrong = "Protocol error: invalid bulk length" } },
  { "*1\r\n$1001\r\n", { wrong = "Protocol error: invalid bulk length" } },
  { "*1\r\n$99999999999999999999\r\n", { wrong = "Protocol error: invalid bulk length" } },
  { "*-2\r\n", { wrong = "Protocol error: invalid multibulk length" } },
  { "*x\r\n", { wrong = "Protocol error: invalid multibulk length" } },
  { "*1 \r\n", { wrong = "Protocol error: invalid multibulk length" } },
  { "*101\r\n", { wrong = "Protocol error: invalid multibulk length" } },
  { "*99999999999999999999\r\n", { wrong = "Protocol error: invalid multibulk length" } },
  { "*" .. ("1"):rep(40), { wrong = "Protocol error: invalid multibulk length" } },
  { "*1\r\n$" .. ("1"):rep(40), { wrong = "Protocol error: invalid bulk length" } },
  { "*3\r\n" .. ("$900\r\n" .. ("x"):rep(900) .. "\r\n"):rep(3), { wrong = "Protocol error: too big command" } },
  { ("a "):rep(101) .. "\r\n", { wrong = "Protocol error: too many words in an inline request" } },
  { ("a"):rep(2001) .. "\r\n", { wrong = "Protocol error: too big command" } },
  { "*1\r\n$4\r\nPING\r\n*1\r\nx", { { "PING" }, wrong = "Protocol error: expected '$', got 'x'" } },
}

local REPLIES <const> = {
  { "+OK\r\n", { n = 1, { ok = "OK" } } },
  { "-ERR no\r\n", { n = 1, { err = "ERR no" } } },
  { ":-12\r\n:0\r\n", { n = 2, -12, 0 } },
  { "$5\r\nab\r\nc\r\n$0\r\n\r\n", { n = 2, "ab\r\nc", "" } },
  { "$-1\r\n*-1\r\n_\r\n", { n = 3 } },
  { "*3\r\n:1\r\n$-1\r\n*1\r\n+x\r\n", { n = 1, { n = 3, 1, nil, { n = 1, { ok = "x" } } } } },
  { "*0\r\n*1\r\n*0\r\n", { n = 2, { n = 0 }, { n = 1, { n = 0 } } } },
  { "#t\r\n#f\r\n,1.5\r\n,-inf\r\n,10\r\n", { n = 5, true, false, 1.5, -math.huge, 10.0 } },
  { "(123456789012345678901234\r\n", { n = 1, { big_number = "123456789012345678901234" } } },
  { "!5\r\nERR x\r\n=7\r\ntxt:abc\r\n", { n = 2, { err = "ERR x" }, { verbatim_string = { format = "txt", string = "abc" } } } },
  { "%2\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n*0\r\n", { n = 1, { map = { a = 1, b = { n = 0 } } } } },
  { "~2\r\n:1\r\n:2\r\n", { n = 1, { set = { n = 2, 1, 2 } } } },
  { ">1\r\n$1\r\na\r\n", { n = 1, { push = { n = 1, "a" } } } },
  { "|1\r\n+k\r\n+v\r\n:7\r\n*2\r\n|1\r\n+k\r\n+v\r\n:1\r\n:2\r\n", { n = 2, 7, { n = 2, 1, 2 } } },
  { "$3\r\nab", { n = 0 } },
  { ":1x\r\n", { n = 0, wrong = "Protocol error: ':1x' means nothing" } },
  { "#x\r\n", { n = 0, wrong = "Protocol error: '#x' means nothing" } },
  { "hello\r\n", { n = 0, wrong = "Protocol error: unknown type 'h'" } },
  { "\r\n", { n = 0, wrong = "Protocol error: CRLF expected at the end of line" } },
  { "+a\rb\r\n", { n = 0, wrong = "Protocol error: CRLF expected at the end of line" } }, -- could not be passed on
  { "+a\n", { n = 0, wrong = "Protocol error: CRLF expected at the end of line" } },
  { "$-2\r\n", { n = 0, wrong = "Protocol error: invalid bulk length" } },
  { "*1000000\r\n", { n = 0, wrong = "Protocol error: invalid multibulk length" } },
  { "=2\r\nab\r\n", { n = 0, wrong = "Protocol error: a verbatim string without a format" } },
  { ("*1\r\n"):rep(5), { n = 0, wrong = "Protocol error: too deep" } },
  { "*3\r\n" .. ("$900\r\n" .. ("x"):rep(900) .. "\r\n"):rep(3), { n = 0, wrong = "Protocol error: too big reply" } },
  { "*100\r\n" .. ("*10\r\n" .. (":1\r\n"):rep(10)):rep(9), { n = 0, wrong = "Protocol error: too big reply" } },
}

local ENCODED <const> = { -- value, RESP2, RESP3
  { "a\r\n", "$3\r\na\r\n\r\n", "$3\r\na\r\n\r\n" },
  { 12, ":12\r\n", ":12\r\n" },
  { 0.1, "$3\r\n0.1\r\n", ",0.1\r\n" },
  { 1 / 3, "$19\r\n0.33333333333333331\r\n", ",0.33333333333333331\r\n" },
  { math.huge, "$3\r\ninf\r\n", ",inf\r\n" },
  { nil, "$-1\r\n", "_\r\n" },
  { true, ":1\r\n", "#t\r\n" },
  { { 1, nil, "x", n = 3 }, "*3\r\n:1\r\n$-1\r\n$1\r\nx\r\n", "*3\r\n:1\r\n_\r\n$1\r\nx\r\n" },
  { { ok = "OK" }, "+OK\r\n", "+OK\r\n" },
  { { err = "ERR x" }, "-ERR x\r\n", "-ERR x\r\n" },
  { { map = { a = 1 } }, "*2\r\n$1\r\na\r\n:1\r\n", "%1\r\n$1\r\na\r\n:1\r\n" },
  { { set = { "a" } }, "*1\r\n$1\r\na\r\n", "~1\r\n$1\r\na\r\n" },
  { { push = { "a" } }, "*1\r\n$1\r\na\r\n", ">1\r\n$1\r\na\r\n" },
  { { big_number = "12" }, "$2\r\n12\r\n", "(12\r\n" },
  { { verbatim_string = { format = "txt", string = "ab" } }, "$2\r\nab\r\n", "=6\r\ntxt:ab\r\n" },
}

local GLOBS <const> = { -- glob, what it matches, what not
  { "", { "" }, { "a" } },
  { "*", { "", "a", "a\0b" }, {} },
  { "a*c", { "ac", "abc", "acc" }, { "a", "abcd", "bac" } },
  { "*ab*ba*", { "abba", "xabxbax" }, { "aba", "bab" } },
  { "a?c", { "abc", "a?c" }, { "ac", "abbc" } },
  { "[a-c][^a-c]", { "ad", "c-" }, { "ab", "da", "a" } },
  { "[c-a]", { "b" }, { "d" } },
  { "[]a", {}, { "a", "]a" } },
  { "x[^]", { "xa" }, { "x" } },
  { "[a\\]]", { "a", "]" }, { "\\" } },
  { "[a-]", { "a", "-" }, { "b" } },
  { "[abc", { "a" }, { "[abc" } },
  { "\\*\\?", { "*?" }, { "ab", "\\*" } },
  { "\\", { "\\" }, { "" } },
  { "a.%w$^(", { "a.%w$^(" }, { "ab%w$^(" } },
  { "\0*\0", { "\0\0", "\0a\0" }, { "\0" } },
}

return check.run(function()
  for _, case in ipairs(GLOBS) do
    local matches = resp.glob(case[1])
    for _, text in ipairs(case[2]) do
      check.equal(matches(text), true, ("glob %q and %q"):format(case[1], text))
    end
    for _, text in ipairs(case[3]) do
      check.equal(matches(text), false, ("glob %q and not %q"):format(case[1], text))
    end
  end
  check.linear(function(n)
    check.equal(resp.glob(("*a"):rep(20) .. "*b")(("a"):rep(n)), false, "a hostile glob")
  end, 20000, 200000, "a hostile glob")
  for i, case in ipairs(COMMANDS) do
    check.equal(check.splits(case[1], commands, "command " .. i), case[2], "command " .. i)
  end
  for i, case in ipairs(REPLIES) do
    check.equal(check.splits(case[1], replies, "reply " .. i), case[2], "reply " .. i)
  end
  for i, case in ipairs(ENCODED) do
    check.equal(resp.encode(case[1]), case[2], "RESP2 " .. i)
    check.equal(resp.encode(case[1], 3), case[3], "RESP3 " .. i)
  end
  check.equal(resp.request("SET", "k", 12, 1.5), "*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n12\r\n$3\r\n1.5\r\n", "request")
  check.raises("string or number expected, got nil", "request(nil)", resp.request, "GET", nil)
  check.raises("no place in RESP", "encode(function)", resp.encode, print)
  check.raises("one line", "encode({ok = two lines})", resp.encode, { ok = "a\r\nb" })

  -- An inline command without an end, and bytes of all kinds.
  check.equal(commands { ("x"):rep(70000) }.wrong, "Protocol error: too big inline request", "no end of line")
  check.equal(commands { ("x"):rep(70000) .. "\n" }.wrong, "Protocol error: too big inline request", "a late end of line")
  check.linear(function(n)
    local d, text = resp.decoder { max_bulk = 1 << 20 }, "*1\r\n$" .. n .. "\r\n" .. ("x"):rep(n) .. "\r\n"
    local args
    for i = 1, #text do
      if resp.feed(d, text:sub(i, i)) then
        args = resp.next_command(d)
      end
    end
    check.equal(#args[1], n, "a long command byte by byte")
  end, 20000, 200000, "a bulk string byte by byte")
  check.linear(function(n)
    local d, text = resp.decoder(), "*" .. n .. "\r\n" .. ("$1\r\nx\r\n"):rep(n)
    local args
    for i = 1, #text do
      if resp.feed(d, text:sub(i, i)) then
        args = resp.next_command(d)
      end
    end
    check.equal(#args, n, "a command of many words byte by byte")
  end, 2000, 20000, "many words byte by byte")

  local samples = {}
  for _, case in ipairs(COMMANDS) do
    samples[#samples + 1] = case[1]
  end
  check.fuzz(samples, commands, "commands")
  for _, case in ipairs(REPLIES) do
    samples[#samples + 1] = case[1]
  end
  check.fuzz(samples, replies, "replies")
end)
