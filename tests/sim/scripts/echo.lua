-- Sends back what it gets, through the simplest of handlers.
return { on_message = function(_, data) return data end }
