-- needs: claim_take, parked
-- Park a prediction until its requests are answered.
-- ARGV: task, base of the broker's claims, tag of its claim, deadline in ms (0: none), time in ms, then id, profile
--   and JSON of each request.
-- Returns 1 if it is parked, now or by an earlier run or copy of its message; 0 if another worker holds its message.

local task = ARGV[1]
local list, message = claim_take(ARGV[2], ARGV[3])
if redis.call('HEXISTS', key('parked'), task) == 0 then
  if not list then
    return 0
  end
  redis.call('HSET', key('parked'), task, list .. '\n' .. message)
end
if ARGV[4] ~= '0' then
  redis.call('ZADD', key('deadlines'), ARGV[4], task)
end
for at = 6, #ARGV, 3 do
  redis.call('SADD', key('open:' .. task), ARGV[at])
  -- One that is in a batch already, since an earlier run of the prediction asked for it, stays there.
  if redis.call('HSETNX', key('requests'), ARGV[at], ARGV[at + 2]) == 1 then
    redis.call('ZADD', key('waiting:' .. ARGV[at + 1]), ARGV[5], ARGV[at])
    redis.call('SADD', key('profiles'), ARGV[at + 1])
  end
end
return 1
