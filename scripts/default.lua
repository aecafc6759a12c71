-- default.lua - what `portico` runs when no script is named.
--
--   portico                            sends back what it receives
--   portico scripts/default.lua ack    answers each message with an acknowledgement
--   nc 127.0.0.1 7777                  talks to either
--
-- It is built on the zero-byte-read trick. A server that waits for data with a buffer in hand pins
-- that memory for as long as the client is silent, and most clients are silent most of the time. So
-- Portico asks the system to say only *that* something has come:
--
--   Windows          a WSARecv with a buffer of zero bytes. Its completion packet arrives when there
--                    are bytes to be read, or the client has closed, and moves nothing.
--   Linux, io_uring  a poll for readability, which completes in the same way.
--   Linux, epoll     "this socket is readable" is all that epoll ever says.
--
-- A script that has on_readable gets that completion as it is, and draws the bytes itself, with
-- conn:recv(max). One that has on_message instead leaves the drawing to Portico, and is handed the
-- bytes. This is the whole of an echo server:
--
--   return { on_message = function(conn, data) return data end }

local RECEIVE_MAX <const> = 16384 -- bytes to draw at once
local DRAWS_MAX <const> = 16 -- draws in a row, before other connections get their turn
local ACKNOWLEDGEMENT <const> = "Message received successfully"

local log = portico.log
local mode = portico.args[1] or "echo"

if #portico.args > 1 or (mode ~= "echo" and mode ~= "ack") then
  error("usage: portico default.lua [echo|ack], not '" .. table.concat(portico.args, " ") .. "'", 0)
end

local function on_connect(conn)
  log.info("connection from", conn.peer)
end

-- Something is there to be read: bytes, or the end of the stream.
local function on_readable(conn)
  for _ = 1, DRAWS_MAX do
    -- Never waits. No data: nothing more for now ("again"), or the client has closed ("eof").
    -- Either way Portico goes on by itself: with the next zero-byte read, or by sending what is
    -- queued and closing.
    local data = conn:recv(RECEIVE_MAX)
    if not data then
      return
    end
    log.debug(conn, "sent", #data, "bytes:", data)

    -- send() copies and queues. It says false when the client takes less than we have for it: then
    -- we stop drawing, its bytes stay with the system, and TCP slows it down. It says nil when the
    -- connection is over.
    if not conn:send(mode == "ack" and ACKNOWLEDGEMENT or data) then
      return
    end

    -- Fewer bytes than asked for: that was all. Asking once more would cost a system call to be told so.
    if #data < RECEIVE_MAX then
      return
    end
  end
  -- There may be more. The next zero-byte read completes at once then, and we are called again.
end

return {
  on_connect = on_connect,
  on_readable = on_readable,
  on_drain = on_readable, -- the client has caught up: go on where we stopped
}
