-- Tells what to do about a call: its answer is there, somebody else is asking, or it is the caller's turn to ask.
-- KEYS: answer, lease. ARGV: owner, lease in ms.
-- Answers {'hit', answer}, {'wait', ''} or {'lead', ''}. Run twice by one owner it renews its lease.

local answer = redis.call('GET', KEYS[1])
if answer then
  return {'hit', answer}
end
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[1] then
  return {'wait', ''}
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {'lead', ''}
