return { on_message = function(_, data) return data end }
