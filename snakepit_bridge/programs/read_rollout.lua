-- Returns the record of a label's rollout, its policy, and the server's time in microseconds; a missing text is ''.
--
-- KEYS[1]  hash of the program
-- ARGV     label
local found = redis.call('HMGET', KEYS[1], 'rollout:' .. ARGV[1], 'rollout_policy:' .. ARGV[1])
local time = redis.call('TIME')
return {found[1] or '', found[2] or '', string.format('%.0f', time[1] * 1000000 + time[2])}
