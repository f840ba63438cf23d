-- Commits a task's state: the first end counts, and no state comes after it.
--
-- KEYS[1]  the task's result, which is also the channel on which Celery's own clients hear of it
-- ARGV[1]  the result, opaque
-- ARGV[2]  seconds that it is kept; 0 for ever
-- ARGV[3]  the channel of the client that waits, or nothing
-- ARGV[4]  what it is told: the task's id
--
-- Answers false if this result is stored, now or by the same call before, and otherwise the end that is there already.
local there = redis.call('GET', KEYS[1])
if there and there ~= ARGV[1] then
  -- Celery writes a result's status first; one that somebody else wrote is decoded to find it.
  local status = string.match(there, '^{"status": "(%u+)"')
  if not status then
    local read, result = pcall(cjson.decode, there)
    status = read and type(result) == 'table' and result.status
  end
  if status == 'SUCCESS' or status == 'FAILURE' or status == 'REVOKED' then
    return there
  end
end
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
if ARGV[3] ~= '' then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return false
