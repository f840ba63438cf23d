-- needs: claim_take
-- Puts a held message aside until it is due.
-- KEYS: a key that tells for a while that this was done, the delayed set. ARGV: base, tag, the millisecond.
-- Answers 1 if it was put aside, 0 if the claim isn't held. Run twice it answers alike.

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
