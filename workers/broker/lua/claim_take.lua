-- Library: remove a message from its claim, for scripts that store it elsewhere in the same step.
-- claim_take(base, tag) returns the message's list and the message, as opaque bytes; or nil if the claim is no longer
-- held. The caller must then do nothing, because the message belongs to another worker.

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
  -- On a full server this fails before anything is removed; HDEL would succeed, and the caller's write fail after it.
  redis.call('HSET', held, tag, record)
  redis.call('HDEL', held, tag)
  local cut = string.find(record, '\n', 1, true)
  return string.sub(record, 1, cut - 1), string.sub(record, cut + 1)
end
