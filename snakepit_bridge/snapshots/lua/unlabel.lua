-- needs: session, request, life, state, redis/audit
-- Removes a label. ARGV: the label, author, reason; then those of redis/audit.

local NAME, AUTHOR, REASON = ARGV[1], ARGV[2], ARGV[3]
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
local label = redis.call('HGET', LABELS, NAME)
if not label then
  return {'unlabelled'}
end
local found = cmsgpack.unpack(label)[1]
refused = protected('label', found, NAME, TARGET_NAME)
if refused then
  return refused
end
redis.call('HDEL', LABELS, NAME)
forget_unlabelled(head)
record_change('unlabel', AUTHOR, REASON, found, '')
return done('unlabelled')
