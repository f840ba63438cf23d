-- Takes or keeps a session's lease, or gives it back. Only its holder can keep it or give it back.
-- KEYS: the lease. ARGV: who asks, milliseconds to hold it for (0 gives it back), and then whose lease is taken over.
-- Answers 1 if the asker holds it now, 0 if somebody else does or it was given back. Run twice it answers alike.

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
