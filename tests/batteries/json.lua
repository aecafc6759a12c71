-- json.lua - JSON and what looks like it; hexdump; see check.lua.
local check = require "check"
local hexdump = require "portico.hexdump"
local json = require "portico.json"

local GOOD <const> = {
  { "1", 1 }, { " -12 ", -12 }, { "9223372036854775807", math.maxinteger }, { "1.5e3", 1500.0 }, { "0.1", 0.1 }, { "-0", 0 }, { "1e308", 1e308 }, { ("9"):rep(305), 1e305 },
  { '"a"', "a" }, { '""', "" }, { '"\\"\\\\\\/\\b\\f\\n\\r\\t"', '"\\/\b\f\n\r\t' }, { '"\\u00e9\\ud83d\\ude00\\u0000"', "é😀\0" },
  { '"é\127"', "é\127" }, { "true", true }, { "false", false }, { "null", nil }, { "[]", {} }, { "{}", {} }, { "[1,[2],{}]", { 1, { 2 }, {} } },
  { ' { "a" : 1 , "b" : [ true , "x" ] } ', { a = 1, b = { true, "x" } } }, { "\n[\t1\r]", { 1 } }, { '{"":0}', { [""] = 0 } },
}

local BAD <const> = {
  { "", "unexpected end at byte 1" }, { "  ", "unexpected end at byte 3" }, { "[1,]", "value expected at byte 4" }, { "[1 2]", "',' or ']' expected at byte 4" },
  { "[1}", "',' or ']' expected" }, { '{"a":1]', "',' or '}' expected" }, { '{"a" 1}', "':' expected" }, { '{"a":1,}', "name expected" }, { "{1:2}", "name expected" },
  { "{,}", "name expected" }, { "[", "unexpected end" }, { '{"a"', "':' expected" }, { "1 2", "the end expected" }, { "[]]", "the end expected" }, { "01", "wrong number" },
  { "1.", "wrong number" }, { ".5", "value expected" }, { "+1", "value expected" }, { "-", "wrong number" }, { "1e", "wrong number" }, { "[1e999]", "number too large at byte 2" },
  { "-1e309", "number too large" }, { ("9"):rep(400), "number too large" }, { "0x10", "wrong number" },
  { "NaN", "value expected" }, { "Infinity", "value expected" }, { "nul", "value expected" }, { "nullx", "value expected" }, { "True", "value expected" }, { "'a'", "value expected" },
  { '"a', "unterminated string" }, { '"\\x41"', "unknown escape" }, { '"\\u12"', "unknown escape" }, { '"\\ud800"', "half a surrogate" }, { '"\\ude00\\ud83d"', "half a surrogate" },
  { '"\\ud800\\u0041"', "half a surrogate" }, { '"a\nb"', "control character in a string at byte 3, line 1" }, { "[1] // x", "the end expected" }, { "/* x */ 1", "value expected" },
  { "\239\187\1911", "value expected" }, { '"\255"', "not UTF%-8 at byte 2" }, { "[\n\n x]", "line 3" }, { ("["):rep(101), "too deep at byte 101" },
  { ('{"a":'):rep(101), "too deep" }, { "\0", "value expected" }, { "[1\0]", "expected" },
}

return check.run(function()
  for _, case in ipairs(GOOD) do
    local value, message = json.decode(case[1])
    check.equal(message, nil, "decode " .. case[1])
    check.equal(value, case[2], "decode " .. case[1])
    if type(case[2]) ~= "table" then
      check.equal(json.decode(json.encode(case[2])), case[2], "there and back: " .. case[1])
    end
  end
  for _, case in ipairs(BAD) do
    local value, message, code = json.decode(case[1])
    check.equal(value, nil, "decode " .. case[1]:sub(1, 20))
    check.equal(code, "json", "the code for " .. case[1]:sub(1, 20))
    if not tostring(message):find(case[2]) then
      check.fail("decode " .. case[1]:sub(1, 20), "says", tostring(message), "and not", case[2])
    end
  end
  check.equal(json.decode("[1,null,3]"), { 1, nil, 3 }, "null is nil")
  check.equal(json.decode("[null]", { null = json.null })[1] == json.null, true, "null as json.null")
  check.equal(getmetatable(json.decode("{}")), nil, "no metatable")
  check.equal(json.decode(("["):rep(100) .. ("]"):rep(100)) ~= nil, true, "deep, but not too deep")
  check.equal(select(2, json.decode("[[1]]", { depth = 1 })), "too deep at byte 2, line 1", "a depth of one's own")
  check.raises("text: string expected, got nil", "decode nil", json.decode, nil)

  check.equal(json.encode { 1, 2.5, "a\n\"", true, json.null }, '[1,2.5,"a\\n\\"",true,null]', "encode a list")
  check.equal(json.encode { a = { 1 } }, '{"a":[1]}', "encode an object")
  check.equal(json.encode {} .. json.encode(json.object()), "[]{}", "encode nothing")
  check.equal(json.encode { 1 / 3, 0.1, 1e300, 1700000000.123456, 2.0 }, "[0.33333333333333331,0.1,1e+300,1700000000.123456,2.0]", "encode floats")
  check.equal(json.encode({ b = 1, a = 2 }, { order = { "b", "a" } }), '{"b":1,"a":2}', "an order")
  local circle = {}
  circle[1] = circle
  check.raises("reference cycle", "encode a circle", json.encode, circle)
  local own = setmetatable({ 1 / 0 }, { __tojson = function() return "null" end })
  check.equal(json.encode { own, json.null, "null", n = 4 }, '[null,null,"null",null]', "encode null")
  local nils = table.pack(nil, 1, nil, nil)
  check.equal(json.encode { nils, { n = 2 }, { n = 0 } }, "[[null,1,null,null],[null,null],[]]", "encode table.pack")
  for _, text in ipairs { '{"n":7.5}', '{"n":-1}', '{"n":1000000000}', '{"n":5.0}', '[[{"n":11}]]' } do
    check.equal(json.encode(json.decode(text)), text, "a name n that is no length")
    check.equal(json.encode(json.decode(text), { order = { "n" } }), text, "a name n that is no length, in order")
  end
  check.equal(json.encode({ n = -1 }, { indent = true }), '{\n  "n":-1\n}', "a name n, for people")
  check.equal(json.encode(json.object { n = 2 }) .. json.encode(json.object { n = 0 }), '{"n":2}{"n":0}', "an object with n")
  check.raises("json.encode: value.n: a number that is infinite", "an infinite n", json.encode, { n = 1 / 0 })
  for _, case in ipairs {
    { print, "value: type 'function' is not supported" }, { { print }, "value%[1%]: type 'function' is not supported" },
    { { a = { 1, { ["b c"] = io.stderr } } }, "value%.a%[2%]%.b c: type 'userdata' is not supported" },
    { { [{}] = 1 }, "value: type 'table' is not supported as a key" }, { circle, "value: reference cycle" },
    { { 1 / 0 }, "value%[1%]: a number that is infinite" }, { -1 / 0, "value: a number that is infinite" }, { { a = 0 / 0 }, "value%.a: a number" },
    { "\255", "value: not UTF%-8" }, { { "a", { b = "\237\160\128" } }, "value%[2%]%.b: not UTF%-8" }, { { { ["\192\128"] = 1 } }, "a name in value%[1%]: not UTF%-8" },
  } do
    check.raises("^[^ ]*batteries/json.lua:%d+: json.encode: " .. case[2], "encode " .. case[2], function()
      local text = json.encode(case[1])
      return text
    end)
    check.raises("json.encode: .*", "encode in order", json.encode, case[1], { order = { "a", "b" }, indent = true })
  end
  check.raises("^mine$", "an error of the script's own", json.encode, setmetatable({}, { __tojson = function() error("mine", 0) end }))

  check.equal(hexdump("Hello, world!\n\0\255abc"), "00000000  48 65 6c 6c 6f 2c 20 77  6f 72 6c 64 21 0a 00 ff  |Hello, world!...|\n"
    .. "00000010  61 62 63                                          |abc|", "hexdump")
  check.equal(hexdump("abcdefghij", { width = 8, prefix = "> ", offset = 256, max = 4 }), "> 00000100  61 62 63 64               |abcd|\n> … 10 bytes in all", "hexdump, otherwise")
  check.equal(hexdump(""), "", "hexdump of nothing")

  local samples = {}
  for _, list in ipairs { GOOD, BAD } do
    for _, case in ipairs(list) do
      samples[#samples + 1] = case[1]
    end
  end
  check.fuzz(samples, function(pieces)
    local value = json.decode(table.concat(pieces))
    if value ~= nil then
      local text = json.encode(value)
      local again, message = json.decode(text)
      -- A number n makes a list of so many, as table.pack does: {"n":0} is written as [].
      if not check.same(again, value) and not table.concat(pieces):find('"[n\\]') then
        error("not the same again: " .. text .. " " .. tostring(message))
      end
    end
    return value
  end, "texts")
end)
