-- Notes that sessions are in use. KEYS: the sorted set of sessions by the server's seconds.
-- ARGV: seconds after which a session counts as idle, how many sessions are kept, then the sessions.

local now = redis.call('TIME')[1]
for i = 3, #ARGV do
  redis.call('ZADD', KEYS[1], now, ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[1])
return now
