-- http_files.lua - serves the files of a directory: listings, types, ranges, conditional requests.
--
--   portico --listen tcp://127.0.0.1:8080 scripts/http_files.lua DIRECTORY
--   curl http://127.0.0.1:8080/
--
-- What begins with a dot is hidden, and nothing above the directory can be reached; links in it are followed.

local http1 = require "portico.http1"

local root <const> = arg[1] or "."
local TYPES <const> = {
  html = "text/html; charset=utf-8", txt = "text/plain; charset=utf-8", md = "text/plain; charset=utf-8",
  lua = "text/plain; charset=utf-8", css = "text/css", js = "text/javascript", json = "application/json", svg = "image/svg+xml",
  png = "image/png", jpg = "image/jpeg", gif = "image/gif", webp = "image/webp", pdf = "application/pdf", wasm = "application/wasm",
}

-- Whether a name may be asked for: it is not hidden, and leads nowhere else, in the ways of any system.
local function is_served(name)
  return utf8.len(name) and not name:find("[%c\\:*?\"<>|]") and not name:find("^%.") and not name:find("[. ]$")
end

-- The file's path for that of a request, or nil; and that of the request in plain text.
local function file_path(path)
  local text = http1.unescape(path)
  for name in (text or "."):gmatch("[^/]+") do
    if not is_served(name) then
      return nil
    end
  end
  return root .. text:gsub("/+$", ""), text
end

local function html(text)
  return (text:gsub('[<>&"]', { ["<"] = "&lt;", [">"] = "&gt;", ["&"] = "&amp;", ['"'] = "&quot;" }))
end

local function listing(path, name)
  local rows, names = {}, portico.files.list(path) or {}
  table.sort(names)
  for _, entry in ipairs(names) do
    local info = is_served(entry) and portico.files.stat(path .. "/" .. entry)
    if info and info.type ~= "other" then
      local shown = entry .. (info.type == "directory" and "/" or "")
      rows[#rows + 1] = ('<tr><td><a href="%s">%s</a><td align="right">%s<td>%s\n'):format(http1.escape(shown, "/"), html(shown),
        info.type == "file" and info.size or "", os.date("!%Y-%m-%d %H:%M:%S", math.tointeger(info.modified // 1)))
    end
  end
  return ('<!DOCTYPE html><meta charset="utf-8"><title>%s</title>\n<h1>%s</h1>\n<table cellpadding="4">\n%s%s</table>\n'):format(
    html(name), html(name), name ~= "/" and '<tr><td><a href="../">../</a>\n' or "", table.concat(rows))
end

-- The first and last byte of a "bytes=…" range, 0 for the file's first. Nil: there is none, or several, or its end is before
-- its beginning, and all is sent; false: it lies outside.
local function range(header, size)
  local first, last = (header or ""):match("^bytes=(%d*)%-(%d*)$")
  first, last = tonumber(first), tonumber(last)
  if not first and not last or first and last and first > last then
    return nil
  elseif not first then -- the last bytes
    first, last = math.max(size - last, 0), size - 1
  else
    last = math.min(last or size, size - 1)
  end
  if first > last or first >= size then
    return false
  end
  return math.tointeger(first), math.tointeger(last)
end

local function send_file(req, res, path, info)
  local headers = {
    ["Content-Type"] = TYPES[path:lower():match("%.(%w+)$")] or "application/octet-stream",
    ["Last-Modified"] = http1.date(info.modified),
    ETag = ('"%x-%x"'):format(info.size, math.tointeger(info.modified * 1000 // 1)),
    ["Accept-Ranges"] = "bytes",
  }
  local known = req.headers["if-none-match"]
  if known and (known == "*" or known:find(headers.ETag, 1, true)) or not known and req.headers["if-modified-since"] == headers["Last-Modified"] then
    return res:send(304, "", headers)
  end
  -- A range is for GET, and of the file as the client knows it, if it says so.
  local only_of = req.headers["if-range"]
  local is_ranged = req.method == "GET" and (not only_of or only_of == headers.ETag or only_of == headers["Last-Modified"])
  local first, last = range(is_ranged and req.headers.range, info.size)
  if first == false then
    headers["Content-Range"] = "bytes */" .. info.size
    return res:send(416, "", headers)
  end
  local file = io.open(path, "rb")
  if not file then
    return res:send(403, "This file cannot be read.\n")
  end
  if first then
    file:seek("set", first)
    headers["Content-Range"] = ("bytes %d-%d/%d"):format(first, last, info.size)
  end
  headers["Content-Length"] = first and last - first + 1 or info.size
  return res:send(first and 206 or 200, file, headers)
end

return http1.server {
  on_request = function(req, res)
    if req.method ~= "GET" and req.method ~= "HEAD" then
      return 405, "Only GET and HEAD are possible here.\n", { Allow = "GET, HEAD" }
    end
    local path, name = file_path(req.path)
    local info = path and portico.files.stat(path)
    if not info or info.type == "other" or info.type == "file" and name:sub(-1) == "/" then
      return 404, "There is nothing at this address.\n"
    elseif info.type == "file" then
      return send_file(req, res, path, info)
    elseif name:sub(-1) ~= "/" then -- relative links need it
      local query = req.target:match("%?.*") or ""
      return 301, "", { Location = req.path:gsub("^/+", "/") .. "/" .. query } -- "//name" would be another host
    end
    local index = portico.files.stat(path .. "/index.html")
    if index and index.type == "file" then
      return send_file(req, res, path .. "/index.html", index)
    end
    return 200, listing(path, name), { ["Content-Type"] = "text/html; charset=utf-8" }
  end,
}
