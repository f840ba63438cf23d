-- needs: final_state, redis/audit
-- Ends a task as cancelled unless it has ended already, and tells whoever waits for it or runs it.
--
-- KEYS[1]  the task's result, which is also the name of its own channel
-- ARGV     the cancelled result as the client encoded it, seconds to keep it (0: for ever),
--          the fleet's channel of cancellations, the task's id, who cancels it, what the audit calls that; then those of
--          redis/audit
--
-- Returns 1 if the task is cancelled now, by this call or an earlier one, and 0 if it ended otherwise. Running it twice,
-- as a client does that lost the first answer, tells nobody twice.
local status = final_state(redis.call('GET', KEYS[1]))
if status then
  return status == 'REVOKED' and 1 or 0
end
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[3], ARGV[4])
record_change(ARGV[6], ARGV[5], '', '', '')
return 1
