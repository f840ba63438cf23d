-- needs: settling
-- End claims of a silent worker unless it has sent a heartbeat since, and unregister it once it holds no message.
-- KEYS: workers, messages held by the silent worker, delayed, dead-letter list, dead-letter entries.
-- ARGV: the worker, the tick of its last heartbeat as the caller knows it, then for each claim verb, tag, place, bytes.
-- Returns how many were held; -1 if the worker is back. Idempotent.

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return -1
end
local settled = 0
for at = 3, #ARGV, 4 do
  settled = settled + settle(KEYS[2], KEYS[3], KEYS[4], KEYS[5], ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
end
if redis.call('HLEN', KEYS[2]) == 0 then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return settled
