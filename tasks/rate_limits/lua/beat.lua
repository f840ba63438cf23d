-- needs: lanes, lease_functions
-- Heartbeat of a process: renew its permits, become the leader of the schedulers if there is none, and read the pauses.
-- ARGV: process, lease of the leadership in ms, lease of a permit in ms, number of its permits, these permits,
-- its waiting tasks.
-- Returns {leads, time, then profile and end of each pause}.

local now = clock()
local permits = tonumber(ARGV[4])
for i = 5, 4 + permits do
  -- Expired permits have already been released and aren't renewed.
  redis.call('ZADD', key('leases'), 'XX', number(now + tonumber(ARGV[3])), ARGV[i])
end
if permits > 0 then
  remember()
end
for i = 5 + permits, #ARGV do
  redis.call('ZADD', key('attending'), 'XX', number(now + ATTENDING_MS), ARGV[i])
end
local leads = hold_lease(key('mover'), ARGV[1], ARGV[2])
local answer = {leads and 1 or 0, number(now)}
for _, word in ipairs(redis.call('HGETALL', key('pauses'))) do
  answer[#answer + 1] = word
end
return answer
