-- Forgets a dead message.
-- KEYS: a key that tells for a while that this was done, the dead, their entries. ARGV: the id.
-- Answers 1 if it was there. Run twice it answers alike.

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 1
end
if redis.call('HDEL', KEYS[3], ARGV[1]) == 0 then
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('SET', KEYS[1], '1', 'EX', 60)
return 1
