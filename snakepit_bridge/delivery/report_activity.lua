-- Report a worker process, and count what has ended in it since its last report.
-- KEYS: the sorted set of live processes, the hash of their reports, the hash of the minute's counts.
-- ARGV: the process, its report, seconds after which a process counts as gone, seconds for which minutes are kept, then
--   each field of the minute and its count.
-- A repeated call counts twice; that only happens when a reply was lost.

local now = redis.call('TIME')
local seconds = now[1] + now[2] / 1e6
for _, gone in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', seconds - ARGV[3], 'BYSCORE')) do
  redis.call('HDEL', KEYS[2], gone)
  redis.call('ZREM', KEYS[1], gone)
end
redis.call('ZADD', KEYS[1], seconds, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
for i = 5, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[3], ARGV[i], ARGV[i + 1])
end
if #ARGV > 4 then
  redis.call('EXPIRE', KEYS[3], ARGV[4])
end
return 1
