-- Puts a dead message to the end of its list again, and strikes it from the dead.
-- KEYS: a key that tells for a while that this was done, the dead, their entries, the list. ARGV: the id, the message.
-- Answers 1 if it was there. Run twice it answers alike.

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 1
end
if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 0 then
  return 0
end
-- What a full server refuses comes first, so that the message is never out of one place and not in the other.
redis.call('LPUSH', KEYS[4], ARGV[2])
redis.call('SET', KEYS[1], '1', 'EX', 60)
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
