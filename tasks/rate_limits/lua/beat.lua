-- needs: lanes, lease_functions
-- The beat of one process: it renews what it holds, leads the movers if nobody else does, and learns of pauses.
-- ARGV: process, lease of the lead in ms, lease of a permit in ms, count of its permits, those,
-- its tasks that wait.
-- Answers {leads, time, then profile and end of each pause}.

local now = clock()
local permits = tonumber(ARGV[4])
for i = 5, 4 + permits do
  -- What has lapsed was given back already, and doesn't return.
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
