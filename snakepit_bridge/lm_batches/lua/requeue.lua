-- needs: parked
-- Take requests out of a batch, for another one, unless their prediction waits no longer.
-- ARGV: batch, profile, time in ms, then id, task and JSON of each request.
-- Returns how many wait again. Idempotent.

local again = 0
for at = 4, #ARGV, 3 do
  local id, task = ARGV[at], ARGV[at + 1]
  if redis.call('SREM', key('members:' .. ARGV[1]), id) == 1 then
    if redis.call('SISMEMBER', key('open:' .. task), id) == 1 then
      redis.call('HSET', key('requests'), id, ARGV[at + 2])
      redis.call('ZADD', key('waiting:' .. ARGV[2]), ARGV[3], id)
      redis.call('SADD', key('profiles'), ARGV[2])
      again = again + 1
    else
      redis.call('HDEL', key('requests'), id)
    end
  end
end
return again
