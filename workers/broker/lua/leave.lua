-- Forgets a worker that holds nothing.
-- KEYS: workers, held of the worker. ARGV: worker. Answers 1 if it is forgotten. Run twice it answers alike.

if redis.call('HLEN', KEYS[2]) > 0 then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
