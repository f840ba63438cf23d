-- needs: session, request, life, state, redis/audit, stage
-- Changes the session's rollout, unless it isn't as expected. ARGV: the channel to notify, the record that is expected
-- ('' for none), the new one, and of the event: kind, author, reason, detail; then those of redis/audit.

local CHANNEL, EXPECTED, RECORD = ARGV[1], ARGV[2], ARGV[3]
local KIND, AUTHOR, REASON, DETAIL = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local earlier = answered()
if earlier then
  return earlier
end
local head = load_head()
if not published(head) then
  return {'none'}
end
if head.rollout ~= EXPECTED then
  return {'restaged', head.rollout}
end
head.rollout = RECORD
save_head(head)
forget_unlabelled(head)
record_event(KIND, RECORD, AUTHOR, REASON, DETAIL)
live_as_before()
redis.call('PUBLISH', CHANNEL, token(head))
return done(RECORD)
