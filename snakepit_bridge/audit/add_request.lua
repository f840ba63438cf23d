-- Stores a request that waits for approval, unless it waits already. KEYS: the request. ARGV: it, how many approvals it
-- needs, milliseconds that it waits.

if redis.call('HSETNX', KEYS[1], 'request', ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], 'needed', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
