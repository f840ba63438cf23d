-- The heads of many sessions as they stand, nothing judged. KEYS: their heads. Answer: this server's run, its time, and
-- for each head the fields that ARGV names.
-- The one script over keys of several hash tags, for servers that have them all; on a cluster each head is asked for by
-- itself. It takes a fifth of the time, and a process that holds 10,000 sessions asks for them twice a second.

local time = redis.call('TIME')
local answer = {string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'), time[1], time[2]}
for i, key in ipairs(KEYS) do
  answer[i + 3] = redis.call('HMGET', key, unpack(ARGV))
end
return answer
