-- needs: session, request, life, state
-- Changes the session's experiments, unless they aren't as expected. ARGV: the channel to notify, the text that is expected
-- ('' for none), the new one, and of the event: kind, experiment, author, reason.

local CHANNEL, EXPECTED, CHANGED = ARGV[1], ARGV[2], ARGV[3]
local KIND, EXPERIMENT, AUTHOR, REASON = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local EVENTS_KEPT = 1000
local earlier = answered()
if earlier then
  return earlier
end
local head = load_head()
if not published(head) then
  return {'none'}
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
head.experiments = CHANGED
save_head(head)
forget_unlabelled(head)
redis.call('XADD', EXPERIMENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'kind', KIND, 'experiment', EXPERIMENT, 'author', AUTHOR,
  'reason', REASON, 'at', text(now_us()))
live_as_before()
redis.call('PUBLISH', CHANNEL, token(head))
return done(CHANGED)
