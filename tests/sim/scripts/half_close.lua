-- Reads to the end of the stream, and closes its own side only then: what was asked before the end is answered.
return {
  on_message = function(conn, data)
    if #data % 2 == 0 and not conn.state.kept then return data end
    local list = conn.state.kept or {}
    conn.state.kept = list
    list[#list + 1] = data
    if #list > 3 then
      conn.state.kept = nil
      return table.concat(list)
    end
  end,
  on_eof = function(conn)
    local list = conn.state.kept
    if list then conn:send(table.concat(list)) end
    conn:shutdown("w")
  end,
}
