-- needs: lanes
-- Takes a task that makes no call any more out of everybody's way: what was reserved for it, and its place in the lane
-- if it waits in its process.
-- ARGV: task. Answers 1.

local task = ARGV[1]
local profile, session = parked(task)
if profile and waits_in_process(redis.call('HGET', key('messages'), task)) then
  take_out(task, profile, session)
end
give_reservation_back(task)
return 1
