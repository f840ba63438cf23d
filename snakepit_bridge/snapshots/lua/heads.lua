-- Returns the heads of many sessions as stored, without opening new epochs. KEYS: their heads. Reply: this server's run
-- id and replication id, its time, and for each head the fields in ARGV.
-- It has keys of several hash tags, so it can't run on a cluster, where each head is read by itself. It takes a fifth
-- of the time, and a process with 10,000 sessions reads their heads twice a second.

local time = redis.call('TIME')
local info = redis.call('INFO', 'server', 'replication')
local answer = {string.match(info, 'run_id:(%w+)'), string.match(info, 'master_replid:(%w+)'), time[1], time[2]}
for i, key in ipairs(KEYS) do
  answer[i + 4] = redis.call('HMGET', key, unpack(ARGV))
end
return answer
