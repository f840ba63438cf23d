-- Takes or keeps a session's lease, or gives it back. Only its holder can keep it or give it back.
-- KEYS: the lease. ARGV: who asks, milliseconds to hold it for (0 gives it back).
-- Answers 1 if the asker holds it now, 0 if somebody else does or it was given back. Run twice it answers alike.

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
