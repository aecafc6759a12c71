-- echo.lua - sends back what it receives. default.lua does the same by the zero-byte-read trick, and explains it.
--
--   portico scripts/echo.lua
--   nc 127.0.0.1 7777

return {
  on_message = function(_, data)
    return data
  end,
}
