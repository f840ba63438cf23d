-- needs: lanes
-- Return parked tasks to their broker queues without a reservation: those in ARGV, or else those whose deadline has
-- passed, so that a worker fails them with the named error. A task that was already released loses its reservation.
-- ARGV: tasks. Returns their number.

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
