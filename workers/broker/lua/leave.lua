-- Unregister a worker that holds no message.
-- KEYS: workers, messages held by the worker. ARGV: worker. Returns 1 if it is unregistered. Idempotent.

if redis.call('HLEN', KEYS[2]) > 0 then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
