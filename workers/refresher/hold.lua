-- Acquire, renew or release the lease of a session. Only its holder can renew or release it.
-- KEYS: the lease.
-- ARGV: the owner, the duration in milliseconds (0 releases it), then further owners whose lease may be taken over.
-- Returns 1 if the owner holds the lease now, 0 if another does or it was released. Idempotent.

local holder = redis.call('GET', KEYS[1])
local free = not holder or holder == ARGV[1]
for i = 3, #ARGV do
  free = free or holder == ARGV[i]
end
if not free then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
