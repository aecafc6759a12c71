-- hello_http.lua - the smallest web server.
--
--   portico --listen tcp://127.0.0.1:8080 scripts/hello_http.lua
--   curl http://127.0.0.1:8080/

local http1 = require "portico.http1"

return http1.server {
  on_request = function(req)
    if req.path ~= "/" then
      return 404, "There is nothing at " .. req.path .. "\n"
    end
    return "Hello, world!\n"
  end,
}
