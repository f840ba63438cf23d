-- needs: buckets
-- Pause a profile, unless a longer pause is in effect.
-- ARGV: profile, ms, channel of all processes.

local profile, now = ARGV[1], clock()
local before = tonumber(redis.call('HGET', key('pauses'), profile) or nil) or 0
local till = math.max(before, now + tonumber(ARGV[2]))
redis.call('HSET', key('pauses'), profile, number(till))
local kept = math.max(till - now, redis.call('PTTL', key('pauses'))) + 1000
redis.call('PEXPIRE', key('pauses'), string.format('%.0f', kept))
redis.call('PUBLISH', ARGV[3], ARGV[2] .. ' ' .. profile)
return 1
