-- Library: takes a message out of its claim, for whoever puts it somewhere else in the same script.
-- claim_take(base, tag) answers the list that the message came from and the message, which is opaque bytes; or nil if
-- nobody holds that claim any more, and then the caller must do nothing: the message is somebody else's.

local function claim_take(base, tag)
  local worker = string.match(tag, '^(.+)%.%d+$')
  if not worker then
    return nil
  end
  local held = base .. ':held:' .. worker
  local record = redis.call('HGET', held, tag)
  if not record then
    return nil
  end
  -- On a server that is full this fails, before anything is taken; HDEL would work, and the caller's write fail after it.
  redis.call('HSET', held, tag, record)
  redis.call('HDEL', held, tag)
  local cut = string.find(record, '\n', 1, true)
  return string.sub(record, 1, cut - 1), string.sub(record, cut + 1)
end
