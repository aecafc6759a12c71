-- A connection piped to itself.
return { on_stream = function(c) c:pipe(c) end }
