-- Admits a prediction of a judge, if its budget allows one more.
--
-- KEYS[1]  the zset of the judge's predictions that wait or run, by the time of their admission
-- KEYS[2]  the hash of what the judge did in this hour
-- ARGV[1]  the prediction's task
-- ARGV[2]  the time in Unix seconds
-- ARGV[3]  the time before which a prediction was admitted that counts as lost
-- ARGV[4]  how many may wait or run
-- ARGV[5]  what the hour may cost, in picodollars
-- ARGV[6]  the time to live of the hour's hash in seconds
--
-- Each that waits or runs counts as the hour's mean. Returns 'admitted', 'money' or 'busy'. Running it again admits the
-- same prediction again.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 'admitted'
end
local open = redis.call('ZCARD', KEYS[1])
local hour = redis.call('HMGET', KEYS[2], 'judged', 'pico')
local judged, pico = tonumber(hour[1] or 0), tonumber(hour[2] or 0)
local mean = judged > 0 and pico / judged or 0
local refused = open >= tonumber(ARGV[4]) and 'busy' or nil
if pico + mean * (open + 1) > tonumber(ARGV[5]) then
  refused = 'money'
end
if refused then
  redis.call('HINCRBY', KEYS[2], refused, 1)
  redis.call('EXPIRE', KEYS[2], ARGV[6])
  return refused
end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[6])
return 'admitted'
