-- needs: lease_functions
-- Decide how to get an answer: from the cache, by waiting for another process that is asking, or by asking.
-- KEYS: answer, lease. ARGV: owner, lease in ms.
-- Returns {'hit', answer}, {'wait', ''} or {'lead', ''}. A second run by the same owner renews its lease.

local answer = redis.call('GET', KEYS[1])
if answer then
  return {'hit', answer}
end
return {hold_lease(KEYS[2], ARGV[1], ARGV[2]) and 'lead' or 'wait', ''}
