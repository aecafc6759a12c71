-- Reads to the end of the stream, and closes its own side only then: what was asked before the end is answered.
local kept = {}
return {
  on_message = function(conn, data)
    if #data % 2 == 0 and not kept[conn.id] then return data end
    local list = kept[conn.id] or {}
    kept[conn.id] = list
    list[#list + 1] = data
    if #list > 3 then
      kept[conn.id] = nil
      return table.concat(list)
    end
  end,
  on_eof = function(conn)
    local list = kept[conn.id]
    if list then conn:send(table.concat(list)) end
    conn:shutdown("w")
  end,
  on_close = function(conn) kept[conn.id] = nil end,
}
