-- Claim waiting messages: each is removed from its list and recorded as held, atomically. Also acknowledges messages.
-- KEYS: workers, ticks, messages held by the worker, delayed, then the lists in the order in which they are served.
-- ARGV: worker, number of the first claim, maximum number of claims, for each list 1 or 0 (0: messages that need no
--   acknowledgement, so nothing is recorded), then the tags to acknowledge.
-- Returns the number of messages that still wait; milliseconds until the next delayed message is due, -1 for none; then
--   for each claim the index of its list and the message. Claims are numbered in that order.
-- Not idempotent: a second run claims further messages. The worker finds claims whose reply was lost.

local worker, number, room, recorded = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local lists = #KEYS - 4

for at = 5, #ARGV, 1000 do
  redis.call('HDEL', KEYS[3], unpack(ARGV, at, math.min(at + 999, #ARGV)))
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, record in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, 100)) do
  local cut = string.find(record, '\n', 1, true)
  redis.call('RPUSH', string.sub(record, 1, cut - 1), string.sub(record, cut + 1))
  redis.call('ZREM', KEYS[4], record)
end

-- A worker that claimed up to its concurrency would leave other workers idle.
local waiting = 0
for i = 1, lists do
  waiting = waiting + redis.call('LLEN', KEYS[4 + i])
end
room = math.min(room, math.max(1, math.ceil(waiting / math.max(1, redis.call('HLEN', KEYS[1])))))

local answer = {0, -1}
for i = 1, lists do
  local found = room > 0 and redis.call('LRANGE', KEYS[4 + i], -room, -1) or {}
  if #found > 0 then
    local records = {}
    for n = #found, 1, -1 do
      answer[#answer + 1] = i - 1
      answer[#answer + 1] = found[n]
      records[#records + 1] = worker .. '.' .. number
      records[#records + 1] = KEYS[4 + i] .. '\n' .. found[n]
      number = number + 1
    end
    -- Recorded before it is removed: on a full server the record fails, and the message must remain.
    if string.sub(recorded, i, i) == '1' then
      redis.call('HSET', KEYS[3], unpack(records))
      redis.call('HSETNX', KEYS[1], worker, redis.call('HGET', KEYS[2], 'tick') or 0)
    end
    redis.call('LTRIM', KEYS[4 + i], 0, -#found - 1)
    room = room - #found
  end
end

-- Read last: client-side tracking notifies the connection of the next change of a key that it has read.
for i = 1, lists do
  answer[1] = answer[1] + redis.call('LLEN', KEYS[4 + i])
end
local due = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')[2]
if due then
  answer[2] = math.max(0, due - now)
end
return answer
