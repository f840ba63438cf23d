-- Adds an approval to a request that waits. KEYS: the request. ARGV: who approves, when.
-- Returns 1, or 0 if the request is gone. Running it twice adds it once.

if redis.call('HEXISTS', KEYS[1], 'request') == 0 then
  return 0
end
redis.call('HSETNX', KEYS[1], 'approver:' .. ARGV[1], ARGV[2])
return 1
