-- needs: parked
-- Note that requests of a batch have their replies, and release the predictions that wait for nothing else.
-- ARGV: batch, then id and task of each request.
-- Returns how many predictions were released. Idempotent.

local released = 0
for at = 2, #ARGV, 2 do
  local id, task = ARGV[at], ARGV[at + 1]
  redis.call('SREM', key('members:' .. ARGV[1]), id)
  redis.call('HDEL', key('requests'), id)
  local open = key('open:' .. task)
  if redis.call('SREM', open, id) == 1 and redis.call('EXISTS', open) == 0 then
    released = released + unpark(task)
  end
end
return released
