-- Library: ends a claim in one of the ways that there are. Nothing happens if the claim isn't held any more.
-- settle(held, delayed, dead, entries, verb, tag, place, bytes) answers 1 if it was held, else 0. The verbs:
--   ack    the message is done with
--   back   it goes to the end of the list `place`; as `bytes`, or as it was if those are empty
--   front  it goes to the front of that list, where it is served next
--   delay  it is put aside until the millisecond `place`
--   dead   it is given up at the millisecond `place`; `bytes` tell why
-- The write that a full server refuses comes first, so that a message is never out of one place and not in the other.

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
