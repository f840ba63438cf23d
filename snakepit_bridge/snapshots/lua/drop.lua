-- needs: session
-- Deletes a session. ARGV: the channel to notify.

local epoch = redis.call('HGET', HEAD, 'epoch')
if epoch then
  redis.call('SET', FLOOR, epoch, 'PX', FLOOR_MS)
  redis.call('PUBLISH', ARGV[1], '')
end
redis.call('DEL', HEAD, VARIABLES, HISTORY, LABELS, LABELLED, CHECKS, ROLLOUTS, EXPERIMENTS)
return {'dropped'}
