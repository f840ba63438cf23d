-- needs: ended
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
if there ~= ARGV[1] and ended(there) then
  return there
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
