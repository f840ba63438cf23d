-- needs: lanes
-- Takes a task that waits in its process out of everybody's way: its place in the lane, or what was reserved for it.
-- ARGV: task. Answers 1.

local task = ARGV[1]
local profile, session = parked(task)
if profile and waits_in_process(redis.call('HGET', key('messages'), task)) then
  take_out(task, profile, session)
end
local reserved = permit('r:' .. task)
if reserved then
  no_longer_reserved(reserved[2])
  finish('r:' .. task, reserved, NOTHING)
end
return 1
