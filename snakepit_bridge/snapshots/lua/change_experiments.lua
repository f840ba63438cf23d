-- needs: session, request, life, state, redis/audit
-- Changes the session's experiments, unless they aren't as expected. ARGV: the channel to notify, the text that is expected
-- ('' for none), the new one, and of the event: kind, experiment, author, reason, name; then those of redis/audit.

local CHANNEL, EXPECTED, CHANGED = ARGV[1], ARGV[2], ARGV[3]
local KIND, EXPERIMENT, AUTHOR, REASON, NAME = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local EVENTS_KEPT = 1000
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
if head.experiments ~= EXPECTED then
  return {'restaged', head.experiments}
end
local rollout = rollout_of(head)
if KIND == 'started' and rollout and (rollout.state == 'new' or rollout.state == 'running' or rollout.state == 'paused') then
  return {'overlap', 'rollout ' .. rollout.id}
end
local unreadable
each_arm(CHANGED, function(at)
  if not keep_state(head, at) then
    unreadable = at
  end
end)
if unreadable then
  return {'lost', unreadable}
end
-- Where one is decided, a rollback before it has given everybody the winner's values.
refused = KIND == 'started' and protected('session', token(head), TARGET_NAME)
if refused then
  return refused
end
head.experiments = CHANGED
save_head(head)
forget_unlabelled(head)
redis.call('XADD', EXPERIMENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'kind', KIND, 'experiment', EXPERIMENT, 'author', AUTHOR,
  'reason', REASON, 'at', text(now_us()))
live_as_before()
record_change('experiment.' .. KIND, AUTHOR, REASON, '', token(head), {NAME})
redis.call('PUBLISH', CHANNEL, token(head))
return done(CHANGED)
