-- Library: predictions that wait for their LM requests to be answered by a batch.
-- KEYS[1] of every script is the prefix of the keys; it contains their hash tag. Nothing here expires, because these
-- are messages: `parked` has each prediction's list and message, `open:TASK` the requests that it waits for, `requests`
-- what was asked, `waiting:PROFILE` the requests that are in no batch yet, `members:BATCH` those of a batch.

local function key(name)
  return KEYS[1] .. name
end

-- Returns a prediction's message to the head of its list, and forgets that it waited.
local function unpark(task)
  local record = redis.call('HGET', key('parked'), task)
  if not record then
    return 0
  end
  local cut = string.find(record, '\n', 1, true)
  redis.call('RPUSH', string.sub(record, 1, cut - 1), string.sub(record, cut + 1))
  redis.call('HDEL', key('parked'), task)
  redis.call('ZREM', key('deadlines'), task)
  redis.call('DEL', key('open:' .. task))
  return 1
end
