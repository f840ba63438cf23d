-- needs: session
-- Forgets a session. Its last epoch stays for a while, so that a session of the same name begins in a larger one even
-- if the server's clock is set back in between. ARGV: the channel that is told.

local FLOOR_SECONDS = 30 * 24 * 3600

local epoch = redis.call('HGET', HEAD, 'epoch')
if epoch then
  redis.call('SET', FLOOR, epoch, 'EX', FLOOR_SECONDS)
  redis.call('PUBLISH', ARGV[1], '')
end
redis.call('DEL', HEAD, VARIABLES, HISTORY)
return {'dropped'}
