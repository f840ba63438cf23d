-- needs: session, redis/audit
-- Deletes a session. ARGV: the channel to notify, author, reason; then those of redis/audit.

local CHANNEL, AUTHOR, REASON = ARGV[1], ARGV[2], ARGV[3]
local found = redis.call('HMGET', HEAD, 'epoch', 'revision', 'authority')
local epoch, at = found[1], found[1] and found[1] .. '.' .. found[2]
local refused = unapproved()
if not refused and epoch and found[2] ~= '0' and found[3] == 'store' then
  refused = protected('session', at, TARGET_NAME)
end
if refused then
  return refused
end
if epoch then
  redis.call('SET', FLOOR, epoch, 'PX', FLOOR_MS)
  redis.call('PUBLISH', CHANNEL, '')
  record_change('drop_session', AUTHOR, REASON, at, '')
end
redis.call('DEL', HEAD, VARIABLES, HISTORY, LABELS, LABELLED, CHECKS, ROLLOUTS, EXPERIMENTS)
return {'dropped'}
