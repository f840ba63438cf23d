-- needs: lease_functions
-- Tells what to do about a call: its answer is there, somebody else is asking, or it is the caller's turn to ask.
-- KEYS: answer, lease. ARGV: owner, lease in ms.
-- Answers {'hit', answer}, {'wait', ''} or {'lead', ''}. Run twice by one owner it renews its lease.

local answer = redis.call('GET', KEYS[1])
if answer then
  return {'hit', answer}
end
return {hold_lease(KEYS[2], ARGV[1], ARGV[2]) and 'lead' or 'wait', ''}
