-- buffer.lua - bytes that came and are not read yet. The decoders of the other batteries are built on it.
--
-- A buffer is a table of strings and numbers only, so that it can be kept in conn.state and survive a reload:
--
--   data   what can be looked at; unread from index pos on
--   pos    1 to #data + 1
--   parts  what came later and is not joined to data yet, and how many bytes that is: held
--   wanted so many unread bytes have to be there before looking again is worth it
--   mark   … or, if there is one, this byte among those that come
--   limit  … or, with a mark, more than so many bytes altogether: then the reader will want to complain
--
-- Joining is put off until a reader can get further, so that a message of n bytes costs O(n), however small the pieces
-- are in which it comes.

local find, sub, concat = string.find, string.sub, table.concat

local JOIN_MAX <const> = 4096 -- bytes; longer pieces are not worth copying

local buffer = {}

function buffer.new()
  return { data = "", pos = 1, parts = {}, held = 0, wanted = 0 }
end

-- Adds bytes. True when a reader can get further with what is there now, so that it is to be asked.
function buffer.feed(b, bytes)
  local data, held = b.data, b.held
  local left = #data - b.pos + 1
  if left == 0 and held == 0 and b.wanted <= #bytes and not b.mark then
    b.data, b.pos, b.wanted = bytes, 1, 0
    return true
  end
  local parts = b.parts
  parts[#parts + 1] = bytes
  held = held + #bytes
  b.held = held
  if b.mark then
    if left + held <= b.limit and not find(bytes, b.mark, 1, true) then
      return false
    end
  elseif left + held < b.wanted then
    return false
  end
  b.data = sub(data, b.pos) .. concat(parts)
  b.pos, b.parts, b.held, b.wanted, b.mark = 1, {}, 0, 0, nil
  return true
end

-- What is read need not be kept while the peer is silent.
local function release(b)
  if b.pos > #b.data then
    b.data, b.pos = "", 1
  end
end

-- A reader needs count unread bytes. Returns false, so that it can say `return buffer.want(b, count)`.
function buffer.want(b, count)
  release(b)
  b.wanted, b.mark = count, nil
  return false
end

-- A reader needs a byte that is not among the unread ones, within limit bytes.
function buffer.want_mark(b, mark, limit)
  release(b)
  b.wanted, b.mark, b.limit = 0, mark, limit
  return false
end

-- Adds a piece to a list of pieces. Small ones are joined as they come: a place in a list and a string of its own cost 40 bytes,
-- and a peer may send its bytes one by one.
function buffer.gather(list, piece)
  local n = #list
  while n > 0 and #piece < JOIN_MAX and #list[n] <= #piece do
    list[n], piece, n = nil, list[n] .. piece, n - 1
  end
  list[n + 1] = piece
end

-- How many bytes are unread, joined or not.
function buffer.unread(b)
  return #b.data - b.pos + 1 + b.held
end

-- Takes all unread bytes.
function buffer.take(b)
  local data = sub(b.data, b.pos) .. concat(b.parts)
  b.data, b.pos, b.parts, b.held, b.wanted, b.mark = "", 1, {}, 0, 0, nil
  return data
end

return buffer
