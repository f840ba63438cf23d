-- needs: settling
-- Ends claims of a silent worker, unless it has been heard of since, and forgets the worker once it holds nothing.
-- KEYS: workers, held of the silent worker, delayed, dead, entries of the dead.
-- ARGV: the worker, the tick of its last beat as the asker knows it, then for each claim verb, tag, place, bytes.
-- Answers how many were held; -1 if the worker is back. Run twice it does nothing more.

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
