-- needs: claim_take
-- Move a held message to the end of another queue's list.
-- KEYS: a key that records for a while that this was done. ARGV: base, tag, separator, the queue's list without a
-- priority step, the priority step ('' keeps the message's own, '0' is the list itself).
-- Returns 1 if it was moved, 0 if the claim isn't held. Idempotent.

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 1
end
local from, message = claim_take(ARGV[1], ARGV[2])
if not from then
  return 0
end
local to = ARGV[4]
if ARGV[5] == '' then
  local at = string.find(from, ARGV[3], 1, true)
  to = to .. (at and string.sub(from, at) or '')
elseif ARGV[5] ~= '0' then
  to = to .. ARGV[3] .. ARGV[5]
end
redis.call('LPUSH', to, message)
redis.call('SET', KEYS[1], '1', 'EX', 60)
return 1
