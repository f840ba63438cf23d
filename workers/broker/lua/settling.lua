-- Library: end a claim, unless it is no longer held.
-- settle(held, delayed, dead, entries, verb, tag, place, bytes) returns 1 if it was held, else 0. The verbs:
--   ack    acknowledge the message
--   back   requeue it at the end of the list `place`; as `bytes`, or unchanged if these are empty
--   front  requeue it at the front of that list, where it is served next
--   delay  delay it until the millisecond `place`
--   dead   dead-letter it at the millisecond `place`, with the reason in `bytes`
-- The write that a full server rejects comes first, so that a message is never removed without being stored.

local function settle(held, delayed, dead, entries, verb, tag, place, bytes)
  local record = redis.call('HGET', held, tag)
  if not record then
    return 0
  end
  if verb ~= 'ack' then
    local message = string.sub(record, string.find(record, '\n', 1, true) + 1)
    if verb == 'delay' then
      redis.call('ZADD', delayed, place, record)
    elseif verb == 'dead' then
      redis.call('HSET', entries, tag, bytes .. '\n' .. message)
      redis.call('ZADD', dead, place, tag)
    else
      redis.call(verb == 'front' and 'RPUSH' or 'LPUSH', place, bytes == '' and message or bytes)
    end
  end
  redis.call('HDEL', held, tag)
  return 1
end
