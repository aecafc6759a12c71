-- One callback per line, however many come in one segment.
return {
    frame = "line",
    on_message = function(conn, line) return line end,
}
