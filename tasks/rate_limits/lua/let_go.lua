-- needs: lanes
-- Puts parked tasks back into their queues without a reservation: those that ARGV names, or else those whose deadline
-- has passed, so that a worker ends them under their named error. One that was released already loses its reservation.
-- ARGV: tasks. Answers how many.

local tasks = ARGV
if #tasks == 0 then
  tasks = redis.call('ZRANGE', key('deadlines'), '-inf', number(clock()), 'BYSCORE', 'LIMIT', 0, 200)
end
local gone = 0
for _, task in ipairs(tasks) do
  local profile, session = parked(task)
  if profile then
    unpark(task, profile, session)
    gone = gone + 1
  else
    redis.call('ZREM', key('deadlines'), task)
    give_reservation_back(task)
  end
end
return gone
