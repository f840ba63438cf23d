-- needs: parked
-- Release predictions whatever they wait for: those in ARGV from the second on, or else those whose deadline has passed
--   by the time in ms in ARGV[1]. Their requests that are in no batch yet are dropped.
-- Returns how many were released. Idempotent.

local tasks = {}
for at = 2, #ARGV do
  tasks[#tasks + 1] = ARGV[at]
end
if #tasks == 0 then
  tasks = redis.call('ZRANGE', key('deadlines'), '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, 200)
end
local profiles, released = redis.call('SMEMBERS', key('profiles')), 0
for _, task in ipairs(tasks) do
  for _, id in ipairs(redis.call('SMEMBERS', key('open:' .. task))) do
    for _, profile in ipairs(profiles) do
      if redis.call('ZREM', key('waiting:' .. profile), id) == 1 then
        redis.call('HDEL', key('requests'), id)
      end
    end
  end
  released = released + unpark(task)
  redis.call('ZREM', key('deadlines'), task)
end
return released
