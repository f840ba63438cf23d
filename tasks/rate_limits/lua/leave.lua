-- needs: lanes
-- Release the reservation of a task that makes no further call, and remove it from its session's queue if it waits in
-- its process.
-- ARGV: task. Returns 1.

local task = ARGV[1]
local profile, session = parked(task)
if profile and waits_in_process(redis.call('HGET', key('messages'), task)) then
  take_out(task, profile, session)
end
give_reservation_back(task)
return 1
