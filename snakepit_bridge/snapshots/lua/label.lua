-- needs: session, request, life, state, redis/audit
-- Points a label at a token. ARGV: the label, epoch and revision, the token that it must be at ('' for any, '0.0' for a
-- label that isn't set), author, reason; then those of redis/audit.

local NAME, EPOCH, REVISION, EXPECTED = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local AUTHOR, REASON = ARGV[5], ARGV[6]
local earlier = answered()
if earlier then
  return earlier
end
local head = load_head()
if not published(head) then
  return {'none'}
end
local refused = unapproved()
if refused then
  return refused
end
local at = EPOCH .. '.' .. REVISION
local label = redis.call('HGET', LABELS, NAME)
local found = label and cmsgpack.unpack(label)[1] or '0.0'
if EXPECTED ~= '' and EXPECTED ~= found then
  return {'relabelled', found}
end
local state, unreachable = state_at(head, tonumber(EPOCH), tonumber(REVISION))
if not state then
  return unreachable
end
refused = protected('label', found, NAME, TARGET_NAME)
if refused then
  return refused
end
redis.call('HSET', LABELLED, at, cmsgpack.pack(flattened(state)))
redis.call('HSET', LABELS, NAME, cmsgpack.pack({at, text(now_us()), AUTHOR, REASON}))
forget_unlabelled(head)
live_as_before()
record_change('label', AUTHOR, REASON, found ~= '0.0' and found or '', at)
return done(at)
