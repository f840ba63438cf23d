-- Settles a prediction of a judge that has ended: it is open no more, and the hour has paid for it.
--
-- KEYS[1]  the zset of the judge's predictions that wait or run
-- KEYS[2]  the hash of what the judge did in this hour
-- ARGV[1]  the prediction's task
-- ARGV[2]  what it cost, in picodollars
-- ARGV[3]  1 if it failed, and 0 if it gave a score
-- ARGV[4]  the time to live of the hour's hash in seconds
-- ARGV[5]  why it gave no score; empty to leave what the hour has
--
-- Running it again changes nothing.
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then
  redis.call('HINCRBY', KEYS[2], 'judged', 1)
  redis.call('HINCRBY', KEYS[2], 'failed', ARGV[3])
  redis.call('HINCRBY', KEYS[2], 'pico', ARGV[2])
  if ARGV[5] ~= '' then
    redis.call('HSET', KEYS[2], 'problem', ARGV[5])
  end
  redis.call('EXPIRE', KEYS[2], ARGV[4])
end
return 1
