-- needs: claim_take
-- Delay a held message until it is due.
-- KEYS: a key that records for a while that this was done, the delayed set. ARGV: base, tag, due time in ms.
-- Returns 1 if it was delayed, 0 if the claim isn't held. Idempotent.

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 1
end
local from, message = claim_take(ARGV[1], ARGV[2])
if not from then
  return 0
end
redis.call('ZADD', KEYS[2], ARGV[3], from .. '\n' .. message)
redis.call('SET', KEYS[1], '1', 'EX', 60)
return 1
