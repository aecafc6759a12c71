-- json.lua - an input is a text. What is JSON is the same when it is written and read again; what is not is refused.
local check = require "check"
local json = require "portico.json"

return function(text)
  local value, message, code = json.decode(text, { null = json.null })
  if value == nil then
    assert(type(message) == "string" and code == "json", "refused without a word")
    return
  end
  assert(utf8.len(text), "JSON that is not UTF-8")
  local written = json.encode(value)
  local again, wrong = json.decode(written, { null = json.null })
  -- A number n makes a list of so many, as table.pack does: {"n":0} is written as [].
  assert(wrong == nil and (check.same(again, value) or text:find('"[n\\]')), "written as " .. written .. ", which is another")
end
